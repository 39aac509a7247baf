//! What a contract has bought, made of its orders in the ledger.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::money::{
    Exact, Lease, Money, Order, Period, PoolSize, Purpose, RefundRule, Rejected, Rules, lease,
};
use crate::ledger::{Contract, Error, Ledger, OrderRow, OrderState};

/// What the ledger keeps of an order beside its price: what a bill shows, and all that the lease is made of.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::controllers) struct Detail {
    /// `initial`, `expand/8 cards/40 GB`, `renewal/manual/3`, `renewal/auto/<old expiry>`.
    pub(in crate::controllers) purpose: String,
    /// Calendar months; 0 for an expansion.
    pub(in crate::controllers) months: u32,
    /// What is bought with it.
    pub(in crate::controllers) card_type: String,
    pub(in crate::controllers) cards: u32,
    #[serde(rename = "diskPerCardGB")]
    pub(in crate::controllers) disk_per_card_gb: u32,
    /// The prices that it was made with.
    pub(in crate::controllers) card_per_month: String,
    #[serde(rename = "diskPerGBMonth")]
    pub(in crate::controllers) disk_per_gb_month: String,
    /// The region of the tariff.
    pub(in crate::controllers) region: String,
    /// What the tariff said then of the time after expiry, and of leaving early.
    pub(in crate::controllers) retention_days: u32,
    pub(in crate::controllers) early_days: u32,
    pub(in crate::controllers) early_factor: String,
    /// Are the cards of the expired pool kept for it?
    pub(in crate::controllers) keeps_cards: bool,
    /// What it pays for, where that does not depend on when cards are locked: a renewal in time, an expansion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) from: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) to: Option<Timestamp>,
}

/// A contract in the ledger.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Standing {
    pub(in crate::controllers) contract: Contract,
    /// Its orders that are held or posted, in that order.
    rows: Vec<(OrderRow, Detail, Purpose)>,
}

/// An order whose price is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct Held {
    pub(in crate::controllers) id: String,
    pub(in crate::controllers) purpose: Purpose,
    pub(in crate::controllers) months: u32,
    pub(in crate::controllers) size: PoolSize,
    /// Who pays, and in which currency.
    pub(in crate::controllers) account: String,
    pub(in crate::controllers) currency: String,
}

impl Standing {
    pub(in crate::controllers) async fn read(ledger: &Ledger, contract: Contract) -> Result<Standing, Error> {
        let mut standing = Standing::new(contract);
        for row in ledger.orders(&standing.contract.id).await? {
            if row.state != OrderState::Voided {
                standing = standing.with(row)?;
            }
        }
        Ok(standing)
    }

    /// A contract under which nothing was ordered.
    pub(super) fn new(contract: Contract) -> Standing {
        Standing { contract, rows: Vec::new() }
    }

    /// With an order as it stands now: the last of all.
    pub(super) fn with(&self, row: OrderRow) -> Result<Standing, Error> {
        let detail: Detail = serde_json::from_str(&row.detail).map_err(|_| unreadable(&row))?;
        let purpose = Purpose::parse(&detail.purpose).ok_or_else(|| unreadable(&row))?;
        let mut standing = self.without(&row.id);
        standing.rows.push((row, detail, purpose));
        Ok(standing)
    }

    /// Without an order that was voided.
    pub(super) fn without(&self, order: &str) -> Standing {
        let mut standing = self.clone();
        standing.rows.retain(|(it, ..)| it.id != order);
        standing
    }

    /// The order whose price is held.
    pub(in crate::controllers) fn held(&self) -> Option<Held> {
        let (row, detail, purpose) = self.rows.iter().find(|(it, ..)| it.state == OrderState::Held)?;
        Some(Held {
            id: row.id.clone(),
            purpose: purpose.clone(),
            months: detail.months,
            size: size(detail),
            account: row.account.clone(),
            currency: row.currency.clone(),
        })
    }

    /// Who paid an order, and in which currency.
    pub(in crate::controllers) fn paid_by(&self, order: &Purpose) -> Option<(&str, &str)> {
        self.rows
            .iter()
            .find(|(.., it)| it == order)
            .map(|(it, ..)| (it.account.as_str(), it.currency.as_str()))
    }

    /// The currency of its orders.
    pub(in crate::controllers) fn currency(&self) -> Option<&str> {
        self.rows.first().map(|(it, ..)| it.currency.as_str())
    }

    /// Are its cards kept for it when it has expired, as the tariff said at its last order? `None` before there is one.
    pub(in crate::controllers) fn keeps_cards(&self) -> Option<bool> {
        let posted = self.rows.iter().rev().find(|(it, ..)| it.state == OrderState::Posted);
        posted.map(|(_, it, _)| it.keeps_cards)
    }

    /// What leaving the order early returns: as the tariff said when it was made.
    pub(in crate::controllers) fn refund_rule(&self, order: &Purpose) -> RefundRule {
        let detail = self.rows.iter().find(|(.., it)| it == order).map(|(_, detail, _)| detail);
        let rule = detail.and_then(|it| {
            Some(RefundRule { early_days: it.early_days, early_factor: Exact::parse(&it.early_factor).ok()? })
        });
        rule.unwrap_or_default()
    }

    /// How the contract stands now, and its orders that are paid. At each moment what its last paid order was made with holds: a
    /// tariff that changes touches later ones only.
    pub(in crate::controllers) fn lease(&self, now: Timestamp) -> Result<(Lease, Vec<Order>), Rejected> {
        let mut rules = Rules { retention_days: 0 };
        let mut lease = Lease::default();
        let mut orders = Vec::new();
        for (row, detail, purpose) in &self.rows {
            let Some(posted_at) = row.posted_at_ms.and_then(|it| Timestamp::from_millisecond(it).ok()) else {
                continue;
            };
            lease = lease.step(lease::Event::Tick, posted_at, &rules)?.0;
            let period = match (detail.from, detail.to) {
                (Some(start), Some(end)) => Period { start, end },
                (None, _) | (_, None) => {
                    lease.term(detail.months, posted_at).ok_or(Rejected::Released)?.period
                }
            };
            let order = Order {
                purpose: purpose.clone(),
                period,
                months: detail.months,
                size: size(detail),
                price: Money(row.price),
                cash: Money(row.cash),
                voucher: Money(row.voucher),
            };
            lease = lease.step(lease::Event::Paid(order.clone()), posted_at, &rules)?.0;
            rules.retention_days = detail.retention_days;
            orders.push(order);
        }
        Ok((lease.step(lease::Event::Tick, now, &rules)?.0, orders))
    }
}

fn size(detail: &Detail) -> PoolSize {
    PoolSize { cards: detail.cards, disk_gb_per_card: detail.disk_per_card_gb }
}

fn unreadable(row: &OrderRow) -> Error {
    Error::Invalid {
        field: "detail",
        value: row.id.clone(),
        reason: "is of no order that this version knows",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::State;

    fn at(text: &str) -> Timestamp {
        format!("{text}T00:00:00Z").parse().unwrap()
    }

    /// An order of a month, posted then or only held, made with so many days of retention.
    fn row(purpose: &str, state: OrderState, posted: &str, retention_days: u32) -> OrderRow {
        let detail = Detail {
            purpose: purpose.to_owned(),
            months: 1,
            card_type: "ada".to_owned(),
            cards: 6,
            disk_per_card_gb: 40,
            card_per_month: "7090".to_owned(),
            disk_per_gb_month: "1.2".to_owned(),
            region: "a".to_owned(),
            retention_days,
            early_days: 30,
            early_factor: "1.2".to_owned(),
            keeps_cards: false,
            from: None,
            to: None,
        };
        OrderRow {
            id: purpose.to_owned(),
            attempt: 0,
            state,
            contract: "c".to_owned(),
            account: "acme".to_owned(),
            currency: "CNY".to_owned(),
            price: 1,
            cash: 1,
            voucher: 0,
            held_at_ms: at(posted).as_millisecond(),
            posted_at_ms: (state == OrderState::Posted).then(|| at(posted).as_millisecond()),
            detail: serde_json::to_string(&detail).unwrap(),
        }
    }

    fn standing(rows: Vec<OrderRow>) -> Standing {
        let contract = Contract {
            id: "c".to_owned(),
            object: "ResidentPool/a/chat".to_owned(),
            uid: "u".to_owned(),
            opened_at_ms: 0,
            closed_at_ms: None,
        };
        rows.into_iter().fold(Standing::new(contract), |it, row| it.with(row).unwrap())
    }

    #[test]
    fn an_order_changes_nothing_of_what_was_before_it() {
        // Expired on 1 February, and renewed 59 days later, as 90 days of retention allowed.
        let initial = row("initial", OrderState::Posted, "2026-01-01", 90);
        let renewal = row("renewal/manual/0", OrderState::Posted, "2026-04-01", 90);
        let active = standing(vec![initial.clone(), renewal.clone()]);
        let (lease, orders) = active.lease(at("2026-04-10")).unwrap();
        assert_eq!(lease.state, State::Active { expires_at: at("2026-05-01") });
        assert_eq!(orders[1].period.start, at("2026-04-01"), "it begins when it is posted");

        // The next one is made with 10 days. Held it says nothing, posted it holds from then on.
        for state in [OrderState::Held, OrderState::Posted] {
            let mut next = row("renewal/manual/1", state, "2026-04-20", 10);
            let time = |it: &str| format!("\"{it}T00:00:00Z\"");
            let dates = format!(",\"from\":{},\"to\":{}}}", time("2026-05-01"), time("2026-06-01"));
            next.detail = next.detail.replace('}', &dates);
            let with_next = active.with(next).unwrap();
            assert!(with_next.lease(at("2026-04-25")).is_ok(), "{state:?}");
            let (lease, _) = with_next.lease(at("2026-06-15")).unwrap();
            let expected = match state {
                OrderState::Posted => State::Released { since: at("2026-06-11") },
                OrderState::Held | OrderState::Voided => {
                    State::Expired { since: at("2026-05-01"), releases_at: at("2026-07-30") }
                }
            };
            assert_eq!(lease.state, expected, "{state:?}");
        }

        // A held renewal of an expired pool with a shorter retention does not release it.
        let held = standing(vec![initial, row("renewal/manual/0", OrderState::Held, "2026-03-01", 10)]);
        let (lease, _) = held.lease(at("2026-03-01")).unwrap();
        assert_eq!(lease.state, State::Expired { since: at("2026-02-01"), releases_at: at("2026-05-02") });
    }
}
