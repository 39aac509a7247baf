//! What is known of what is paid for by the second: elastic workers, spot servers and their disks. Kept in memory, what of it is not written yet included.
//!
//! Passes say what they see and never wait for the ledger; `metering` writes it down. A span's id is the pod's UID and
//! the second in which it begins, so that who sees the same twice writes it once. A worker has several when it crashes and gets
//! ready again, when its namespace gets another payer or its endpoint another region.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::contract_id;
use super::known::{Contract, Known, Metered, PriceList, look_at, pod_of};
pub(in crate::controllers) use super::known::{Listed, Name, Offer, Seen, Terms};
use crate::cluster::read::Kind;
use crate::controllers::kind_label;
use crate::domain::money::metering::{Use, closed_until};
use crate::domain::money::{Currency, Exact};
use crate::ledger::{self, Measured, PriceRow, SpanIn, SpanRow};

/// All that is metered.
#[derive(Default)]
pub(in crate::controllers) struct Meter {
    known: Mutex<Known>,
    /// There is something to write.
    pub(super) news: Notify,
}

/// What is not in the ledger yet.
#[derive(Default)]
pub(super) struct Pending {
    /// Who needs a contract before anything of them is written, with their UIDs.
    pub(super) contracts: Vec<(Name, String)>,
    pub(super) measured: Measured,
    /// Whose spans are begun or ended with it, by id.
    spans: Vec<(Name, String, String)>,
}

impl Meter {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the ledger knows of endpoints and spot servers.
    pub(super) fn load(
        &self,
        contracts: &[ledger::Contract],
        spans: Vec<SpanRow>,
        billed: &BTreeMap<String, i64>,
        prices: Vec<PriceRow>,
    ) {
        let mut known = self.known();
        let mut by_id = HashMap::new();
        for it in contracts {
            let Some(name) = name_of(&it.object) else { continue };
            by_id.insert(it.id.clone(), (name.clone(), it.uid.clone()));
            let closed = billed.get(&it.id).map(|it| closed_until(time(*it)));
            let contract = Contract { is_open: true, closed_until: closed, ..Contract::default() };
            known.contracts.entry(name).or_default().insert(it.uid.clone(), contract);
        }
        for row in spans {
            let Some(currency) = Currency::find(&row.begun.currency) else {
                tracing::error!(span = row.begun.id, "a span has a currency that this version does not know");
                continue;
            };
            let Some((name, uid)) = by_id.get(&row.begun.contract) else { continue };
            let Some(contract) = known.contract(name, uid) else { continue };
            let times = Use {
                from: time(row.begun.from_ms),
                until: row.until_ms.map(time),
                confirmed: time(row.confirmed_ms),
                billed: time(row.billed_ms),
            };
            let terms = Terms { account: row.begun.account, currency, sku: row.begun.sku };
            let units = u32::try_from(row.begun.units).unwrap_or(u32::MAX);
            let is_ended = times.until.is_some();
            contract.spans.insert(row.begun.id, Metered { terms, units, times, is_begun: true, is_ended });
        }
        for row in prices {
            match Exact::parse(&row.price) {
                Ok(price) => {
                    let new = PriceList::new(&row.sku);
                    let list = known.prices.entry(row.sku).or_insert(new);
                    list.insert(time(row.from_ms), price, row.price);
                }
                Err(error) => tracing::error!(sku = row.sku, %error, "a price can't be read"),
            }
        }
    }

    /// Those of which something is metered.
    pub(super) fn names(&self) -> Vec<Name> {
        self.known().contracts.keys().cloned().collect()
    }

    /// A market's price, and since when.
    pub(in crate::controllers) fn market_price(&self, sku: &str) -> Option<(Timestamp, String)> {
        self.known().prices.get(sku)?.last().map(|(since, text)| (since, text.to_owned()))
    }

    /// A market has this price now. True when that is another one than before.
    pub(in crate::controllers) fn set_market_price(
        &self,
        sku: &str,
        listed: &Listed,
        now: Timestamp,
    ) -> bool {
        let news = self.known().see_price(sku, listed, now);
        if news {
            self.news.notify_one();
        }
        news
    }

    /// A pass sees the workers of an endpoint, or the pod and disk of a spot server, all of them. It looks while nobody else does, so that no old price is taken for a
    /// new one.
    pub(in crate::controllers) fn observe(
        &self,
        name: &Name,
        look: impl FnOnce() -> Vec<Seen>,
        now: Timestamp,
    ) {
        let mut known = self.known();
        let seen = look();
        let mut news = false;
        for offer in seen.iter().filter_map(|it| it.offer.as_ref()) {
            news |= offer.price.as_ref().is_some_and(|it| known.see_price(&offer.terms.sku, it, now));
        }
        let Known { contracts, prices, .. } = &mut *known;
        for contract in contracts.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
            contract.is_observed = true;
            news |= contract.end_others(&seen, now);
        }
        for worker in &seen {
            news |= look_at(contracts, prices, name, worker, now);
        }
        if news {
            known.unwritten.insert(name.clone());
            self.news.notify_one();
        }
    }

    /// A worker's pod is at its end and would be let go: may it be, or has the ledger to hear of that first? A pool's cards are not kept
    /// from their owner while the ledger is away: what is paid in advance has no bill that could be wrong.
    pub(in crate::controllers) fn may_go(
        &self,
        name: &Name,
        pod: &str,
        ended_at: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let mut known = self.known();
        let mut written = true;
        for contract in known.contracts.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
            contract.end(pod, ended_at, now);
            written &= contract.of_pod(pod).all(|(_, it)| it.is_written() || it.terms.is_prepaid());
        }
        if !written || known.contracts.get(name).is_some_and(|it| it.values().any(Contract::has_news)) {
            known.unwritten.insert(name.clone());
            self.news.notify_one();
        }
        written
    }

    /// Has all ended that was used, and does the ledger know it?
    pub(in crate::controllers) fn has_ended(&self, name: &Name, uid: &str) -> bool {
        let known = self.known();
        let contract = known.contracts.get(name).and_then(|it| it.get(uid));
        contract.is_none_or(|it| it.spans.values().all(|it| it.is_ended))
    }

    /// What is to be written.
    pub(super) fn pending(&self) -> Pending {
        let known = self.known();
        let mut pending = Pending::default();
        pending.measured.prices.clone_from(&known.new_prices);
        for name in &known.unwritten {
            for (uid, contract) in known.contracts.get(name).into_iter().flatten() {
                if !contract.is_open {
                    pending.contracts.push((name.clone(), uid.clone()));
                    continue;
                }
                for (id, it) in contract.spans.iter().filter(|(_, it)| !it.is_written()) {
                    pending.add(name, uid, id, it);
                }
            }
        }
        pending
    }

    /// It is written now. Endpoints whose workers have ended with it.
    pub(super) fn written(&self, pending: &Pending) -> Vec<Name> {
        let mut known = self.known();
        let prices = &pending.measured.prices;
        known.new_prices.retain(|it| !prices.contains(it));
        let ended: HashMap<&String, i64> =
            pending.measured.ended.iter().map(|(id, until)| (id, *until)).collect();
        let mut names = Vec::new();
        for (name, uid, id) in &pending.spans {
            let Some(span) = known.contract(name, uid).and_then(|it| it.spans.get_mut(id)) else { continue };
            span.is_begun = true;
            if ended.contains_key(id) {
                span.is_ended = true;
                names.push(name.clone());
            }
        }
        names.dedup();
        let Known { contracts, unwritten, .. } = &mut *known;
        unwritten.retain(|it| contracts.get(it).is_some_and(|it| it.values().any(Contract::has_news)));
        names
    }

    /// The ledger has a contract for it now. One that is closed takes nothing any more.
    pub(super) fn opened(&self, name: &Name, uid: &str, is_closed: bool) {
        let mut known = self.known();
        if is_closed {
            tracing::warn!(?name, uid, "workers of an endpoint whose last bill is written are not billed");
            known.forget(name, uid);
        } else if let Some(contract) = known.contract(name, uid) {
            contract.is_open = true;
        }
    }

    /// Spans that have not ended: by endpoint, their ids and pods.
    pub(super) fn running(&self) -> Vec<(Name, Vec<(String, String)>)> {
        let known = self.known();
        let open = |(id, it): (&String, &Metered)| {
            it.times.until.is_none().then(|| (id.clone(), pod_of(id).to_owned()))
        };
        let all = known.contracts.iter().map(|(name, contracts)| {
            let spans = contracts.values().flat_map(|it| &it.spans).filter_map(open).collect::<Vec<_>>();
            (name.clone(), spans)
        });
        all.filter(|(_, spans)| !spans.is_empty()).collect()
    }

    /// These lasted until then at least.
    pub(super) fn confirmed(&self, ids: &[String], until: Timestamp) {
        let ids: HashSet<&String> = ids.iter().collect();
        let mut known = self.known();
        let spans = known.contracts.values_mut().flat_map(BTreeMap::values_mut).flat_map(|it| &mut it.spans);
        for (_, it) in spans.filter(|(id, it)| ids.contains(id) && it.times.until.is_none()) {
            it.times.confirmed = it.times.confirmed.max(until);
        }
    }
}

impl Pending {
    fn add(&mut self, name: &Name, uid: &str, id: &str, it: &Metered) {
        if !it.is_begun {
            self.measured.begun.push(SpanIn {
                id: id.to_owned(),
                contract: contract_id(uid),
                account: it.terms.account.clone(),
                currency: it.terms.currency.code().to_owned(),
                sku: it.terms.sku.clone(),
                units: i64::from(it.units),
                from_ms: it.times.from.as_millisecond(),
            });
        }
        if let Some(until) = it.times.until {
            self.measured.ended.push((id.to_owned(), until.as_millisecond()));
        }
        self.spans.push((name.clone(), uid.to_owned(), id.to_owned()));
    }
}

/// How the ledger calls what is metered.
pub(super) fn object_of(name: &Name) -> String {
    format!("{}/{}/{}", kind_label(name.kind), name.namespace, name.name)
}

/// What is metered that the ledger calls so.
fn name_of(object: &str) -> Option<Name> {
    let (kind, name) = object.split_once('/')?;
    let kind = METERED.into_iter().find(|it| kind_label(*it) == kind)?;
    let (namespace, name) = name.split_once('/')?;
    Some(Name { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Is this how the ledger calls something that is metered, and orders nothing?
pub(super) fn is_metered(object: &str) -> bool {
    name_of(object).is_some()
}

/// The kinds that are metered.
const METERED: [Kind; 2] = [Kind::Endpoint, Kind::Spot];

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
