//! Metrics of notices, and of when contracts expire. Labels are few: no object has a series of its own.

use jiff::Timestamp;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::api::pool::PoolPhase;
use crate::cluster::read::Caches;

/// Contracts are counted that expire within so many days: those in which owners are reminded.
const WITHIN_DAYS: [i64; 3] = [1, 3, 7];

pub(super) struct Measures {
    notices: IntGaugeVec,
    tries: IntCounterVec,
    next_expiry: IntGaugeVec,
    expiring: IntGaugeVec,
}

impl Measures {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Measures> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let it = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(it.clone()))?;
            Ok::<_, prometheus::Error>(it)
        };
        let tries = IntCounterVec::new(
            Opts::new("tenure_notice_tries_total", "Tries to deliver a notice, by how they ended"),
            &["channel", "outcome"],
        )?;
        registry.register(Box::new(tries.clone()))?;
        Ok(Measures {
            notices: gauge(
                "tenure_notices",
                "Notices that wait to be delivered to somebody, and that were given up",
                &["state"],
            )?,
            tries,
            next_expiry: gauge(
                "tenure_next_expiry_timestamp_seconds",
                "When the next contract expires, seconds since 1970",
                &["kind"],
            )?,
            expiring: gauge(
                "tenure_contracts_expiring",
                "Contracts that expire within so many days",
                &["kind", "days"],
            )?,
        })
    }

    pub(super) fn waiting(&self, count: usize) {
        self.notices.with_label_values(&["waiting"]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn failed(&self, count: usize) {
        self.notices.with_label_values(&["failed"]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn one_failed(&self) {
        self.notices.with_label_values(&["failed"]).inc();
    }

    pub(super) fn tried(&self, channel: &str, outcome: &str) {
        self.tries.with_label_values(&[channel, outcome]).inc();
    }

    /// Counts what expires, as the contracts' status says it.
    pub(super) fn expiries(&self, caches: &Caches, now: Timestamp) {
        let pools = caches.pools.all();
        let active = pools.iter().filter_map(|it| {
            let status = it.status.as_ref().filter(|it| it.phase == Some(PoolPhase::Active))?;
            Some(status.expires_at.as_ref()?.0)
        });
        self.expire("ResidentPool", &active.collect::<Vec<_>>(), now);
    }

    fn expire(&self, kind: &str, expiries: &[Timestamp], now: Timestamp) {
        match expiries.iter().min() {
            Some(next) => self.next_expiry.with_label_values(&[kind]).set(next.as_second()),
            // None is no time.
            None => drop(self.next_expiry.remove_label_values(&[kind])),
        }
        for days in WITHIN_DAYS {
            let within = |it: &&Timestamp| it.as_second() - now.as_second() <= days * 86_400;
            let count = i64::try_from(expiries.iter().filter(within).count()).unwrap_or(i64::MAX);
            self.expiring.with_label_values(&[kind, &days.to_string()]).set(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expires_is_counted_and_the_next_one_named() {
        let measures = Measures::new(&Registry::new()).unwrap();
        let at = |days: i64| Timestamp::from_second(days * 86_400).unwrap();
        measures.expire("ResidentPool", &[at(101), at(103), at(104), at(200)], at(100));
        let within = |days: &str| measures.expiring.with_label_values(&["ResidentPool", days]).get();
        assert_eq!(["1", "3", "7"].map(within), [1, 2, 3]);
        assert_eq!(measures.next_expiry.with_label_values(&["ResidentPool"]).get(), 101 * 86_400);
        measures.expire("ResidentPool", &[], at(100));
        assert_eq!(["1", "3", "7"].map(within), [0, 0, 0]);
    }
}
