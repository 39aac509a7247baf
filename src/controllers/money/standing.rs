//! What a contract has bought, made of its orders in the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::money::machine::{End, Hourly};
use crate::domain::money::{
    Exact, Lease, Money, Order, Period, PoolSize, Purpose, RefundRule, Rejected, Rules, lease,
};
use crate::ledger::{Contract, Error, Ledger, OrderRow, OrderState, SpanRow};

/// What the ledger keeps of an order beside its price: what a bill shows, and all that the lease is made of.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::controllers) struct Detail {
    /// `initial`, `expand/8 cards/40 GB`, `renewal/manual/3`, `renewal/auto/<old expiry>`, `conversion`.
    pub(in crate::controllers) purpose: String,
    /// Calendar months; 0 for an expansion.
    pub(in crate::controllers) months: u32,
    /// What is bought with it, and the prices that it was made with.
    #[serde(flatten)]
    pub(in crate::controllers) what: What,
    /// The region of the tariff.
    pub(in crate::controllers) region: String,
    /// What the tariff said then of the time after expiry, and of leaving early.
    pub(in crate::controllers) retention_days: u32,
    pub(in crate::controllers) early_days: u32,
    pub(in crate::controllers) early_factor: String,
    /// What it pays for, where that does not depend on when cards are locked: a renewal in time, an expansion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) from: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) to: Option<Timestamp>,
}

/// What an order buys.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub(in crate::controllers) enum What {
    Machine(MachineBought),
    Pool(PoolBought),
}

/// Cards of a pool.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::controllers) struct PoolBought {
    pub(in crate::controllers) card_type: String,
    pub(in crate::controllers) cards: u32,
    #[serde(rename = "diskPerCardGB")]
    pub(in crate::controllers) disk_per_card_gb: u32,
    pub(in crate::controllers) card_per_month: String,
    #[serde(rename = "diskPerGBMonth")]
    pub(in crate::controllers) disk_per_gb_month: String,
    /// Are the cards of the expired pool kept for it?
    pub(in crate::controllers) keeps_cards: bool,
}

/// A machine of a group.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::controllers) struct MachineBought {
    pub(in crate::controllers) machine: String,
    pub(in crate::controllers) machine_type: String,
    pub(in crate::controllers) card_type: String,
    pub(in crate::controllers) cards: u32,
    #[serde(rename = "systemDiskGB")]
    pub(in crate::controllers) system_disk_gb: u32,
    pub(in crate::controllers) per_month: String,
    #[serde(rename = "diskPerGBMonth")]
    pub(in crate::controllers) disk_per_gb_month: String,
    #[serde(rename = "includedDiskGB")]
    pub(in crate::controllers) included_disk_gb: u32,
    /// Months of the term that are charged.
    pub(in crate::controllers) charged_months: u32,
    /// May it not be given back before its term ends (`earlyRelease: Refuse`)?
    pub(in crate::controllers) bound: bool,
    /// A renewal: is it an entry of the set's list, or of the list of single machines?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) list: Option<List>,
    /// A first order: entries of the set's list that are older than the machine, and not for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::controllers) older_renewals: Option<u32>,
}

/// Where a renewal of a machine stands.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(in crate::controllers) enum List {
    /// In `renewals`.
    Set,
    /// In `machineRenewals`.
    Machine,
}

/// A contract in the ledger.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Standing {
    pub(in crate::controllers) contract: Contract,
    /// By machine; all of a pool is under the empty name.
    parts: BTreeMap<String, Arc<Part>>,
}

/// What belongs together: a pool, or one machine of a group.
#[derive(Debug, Clone, Default)]
pub(in crate::controllers) struct Part {
    /// Its orders that are held or posted, in that order.
    rows: Vec<(OrderRow, Detail, Purpose)>,
    /// Its times by the hour, the first one first.
    spans: Vec<SpanRow>,
    /// Orders that were refunded, by their purpose in the order's id, and when.
    refunded: BTreeMap<String, Timestamp>,
}

/// An order whose price is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct Held {
    pub(in crate::controllers) id: String,
    pub(in crate::controllers) purpose: Purpose,
    pub(in crate::controllers) months: u32,
    pub(in crate::controllers) size: PoolSize,
    /// When its period begins, where that is fixed.
    pub(in crate::controllers) from: Option<Timestamp>,
    /// Who pays, and in which currency.
    pub(in crate::controllers) account: String,
    pub(in crate::controllers) currency: String,
}

impl Standing {
    pub(in crate::controllers) async fn read(ledger: &Ledger, contract: Contract) -> Result<Standing, Error> {
        let mut standing = Standing::new(contract);
        for row in ledger.orders(&standing.contract.id).await? {
            if row.state != OrderState::Voided {
                standing.add(row)?;
            }
        }
        if !is_group(&standing.contract.object) {
            return Ok(standing);
        }
        for span in ledger.spans(&standing.contract.id).await? {
            let machine = machine_of(&standing.contract.id, &span.begun.id).unwrap_or_default().to_owned();
            Arc::make_mut(standing.parts.entry(machine).or_default()).spans.push(span);
        }
        let mut refunds = BTreeMap::new();
        for (machine, part) in &mut standing.parts {
            let part = Arc::make_mut(part);
            part.spans.sort_by_key(|it| (it.begun.from_ms, it.until_ms.unwrap_or(i64::MAX)));
            for (row, ..) in part.rows.iter().filter(|(it, ..)| it.state == OrderState::Posted) {
                let id = refund_id(&standing.contract.id, &row.id);
                refunds.insert(id, (machine.clone(), row.id.clone()));
            }
        }
        let ids: Vec<String> = refunds.keys().cloned().collect();
        for (id, at_ms) in ledger.refunded(&ids).await? {
            let Some((machine, order)) = refunds.remove(&id) else { continue };
            let Some(part) = standing.parts.get_mut(&machine) else { continue };
            Arc::make_mut(part).refunded.insert(order, time(at_ms));
        }
        Ok(standing)
    }

    /// A contract under which nothing was ordered.
    pub(super) fn new(contract: Contract) -> Standing {
        Standing { contract, parts: BTreeMap::new() }
    }

    /// With orders as they stand now: the last of all.
    pub(super) fn with(&self, rows: impl IntoIterator<Item = OrderRow>) -> Result<Standing, Error> {
        let mut standing = self.clone();
        for row in rows {
            standing.add(row)?;
        }
        Ok(standing)
    }

    /// Without orders that were voided.
    pub(super) fn without(&self, orders: &[&str]) -> Standing {
        let mut standing = self.clone();
        for part in standing.parts.values_mut() {
            if part.rows.iter().any(|(it, ..)| orders.contains(&it.id.as_str())) {
                Arc::make_mut(part).rows.retain(|(it, ..)| !orders.contains(&it.id.as_str()));
            }
        }
        standing
    }

    fn add(&mut self, row: OrderRow) -> Result<(), Error> {
        let detail: Detail = serde_json::from_str(&row.detail).map_err(|_| unreadable(&row))?;
        let purpose = Purpose::parse(&detail.purpose).ok_or_else(|| unreadable(&row))?;
        let machine = match &detail.what {
            What::Machine(it) => it.machine.clone(),
            What::Pool(_) => String::new(),
        };
        let part = Arc::make_mut(self.parts.entry(machine).or_default());
        part.rows.retain(|(it, ..)| it.id != row.id);
        part.rows.push((row, detail, purpose));
        Ok(())
    }

    /// All of a pool.
    pub(in crate::controllers) fn pool(&self) -> &Part {
        self.machine("")
    }

    /// What belongs to a machine of a group.
    pub(in crate::controllers) fn machine(&self, name: &str) -> &Part {
        self.parts.get(name).map_or(&NOTHING, |it| it.as_ref())
    }

    /// Its machines that were ever ordered or used, by name.
    pub(in crate::controllers) fn machines(&self) -> impl Iterator<Item = (&str, &Part)> {
        self.parts.iter().map(|(name, part)| (name.as_str(), part.as_ref()))
    }
}

/// Of what nothing was ordered.
static NOTHING: Part = Part { rows: Vec::new(), spans: Vec::new(), refunded: BTreeMap::new() };

/// Is this the object of a group?
fn is_group(object: &str) -> bool {
    object.starts_with("DedicatedGroup/")
}

/// The machine that an order, use or hour of a group's contract is of: ids are `CONTRACT/machine/NAME/...`.
fn machine_of<'a>(contract: &str, id: &'a str) -> Option<&'a str> {
    id.strip_prefix(contract)?.strip_prefix("/machine/")?.split('/').next()
}

/// The id of an order's refund.
pub(in crate::controllers) fn refund_id(contract: &str, order: &str) -> String {
    let what = order.strip_prefix(contract).and_then(|it| it.strip_prefix('/')).unwrap_or(order);
    format!("{contract}/refund/{what}")
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

impl Part {
    /// The order whose price is held.
    pub(in crate::controllers) fn held(&self) -> Option<Held> {
        let (row, detail, purpose) = self.rows.iter().find(|(it, ..)| it.state == OrderState::Held)?;
        Some(Held {
            id: row.id.clone(),
            purpose: purpose.clone(),
            months: detail.months,
            size: size(detail),
            from: detail.from,
            account: row.account.clone(),
            currency: row.currency.clone(),
        })
    }

    /// Who paid for its last order.
    pub(in crate::controllers) fn last_payer(&self) -> Option<&str> {
        let posted = self.rows.iter().rev().find(|(it, ..)| it.state == OrderState::Posted);
        posted.map(|(it, ..)| it.account.as_str())
    }

    /// The currency of its orders.
    pub(in crate::controllers) fn currency(&self) -> Option<&str> {
        self.rows.first().map(|(it, ..)| it.currency.as_str())
    }

    /// Are a pool's cards kept for it when it has expired, as the tariff said at its last order? `None` before there is one.
    pub(in crate::controllers) fn keeps_cards(&self) -> Option<bool> {
        let posted = self.rows.iter().rev().find(|(it, ..)| it.state == OrderState::Posted);
        posted.map(|(_, it, _)| match &it.what {
            What::Pool(it) => it.keeps_cards,
            What::Machine(_) => false,
        })
    }

    /// How the contract stands now, and its orders that are paid. At each moment what its last paid order was made with holds: a
    /// tariff that changes touches later ones only.
    pub(in crate::controllers) fn lease(&self, now: Timestamp) -> Result<(Lease, Vec<Order>), Rejected> {
        let (lease, paid) = self.life(now)?;
        Ok((lease, paid.into_iter().map(|it| it.order).collect()))
    }

    /// The same, with all that is known of each order.
    pub(in crate::controllers) fn life(&self, now: Timestamp) -> Result<(Lease, Vec<Paid<'_>>), Rejected> {
        let mut rules = Rules { retention_days: 0 };
        let mut lease = Lease::default();
        let mut paid = Vec::new();
        for (row, detail, purpose) in &self.rows {
            let Some(posted_at) = row.posted_at_ms.and_then(|it| Timestamp::from_millisecond(it).ok()) else {
                continue;
            };
            if *purpose == Purpose::Conversion {
                lease = anew(&lease);
            }
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
            paid.push(Paid { order, row, detail, refunded: self.refunded.get(&row.id).copied() });
        }
        Ok((lease.step(lease::Event::Tick, now, &rules)?.0, paid))
    }

    /// Its times by the hour, the first one first. `orders`: those that are paid.
    pub(in crate::controllers) fn uses(&self, orders: &[Paid<'_>]) -> Vec<Hourly> {
        let begins = |at| {
            orders.iter().any(|it| it.order.purpose == Purpose::Conversion && it.order.period.start == at)
        };
        let mut uses: Vec<Hourly> = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            let (from, billed) = (time(span.begun.from_ms), time(span.billed_ms));
            let end = span
                .until_ms
                .map(time)
                .map(|at| if begins(at) { End::Converted(at) } else { End::GivenBack(at) });
            uses.push(Hourly { from, billed, end });
        }
        uses
    }

    /// The use by the hour that has not ended.
    pub(in crate::controllers) fn open_span(&self) -> Option<&SpanRow> {
        self.spans.iter().find(|it| it.until_ms.is_none())
    }

    /// Uses that have ended or not, and are not billed to now, with their spans.
    pub(in crate::controllers) fn spans(&self) -> &[SpanRow] {
        &self.spans
    }
}

/// A paid order.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Paid<'a> {
    pub(in crate::controllers) order: Order,
    pub(in crate::controllers) row: &'a OrderRow,
    pub(in crate::controllers) detail: &'a Detail,
    /// When it was refunded.
    pub(in crate::controllers) refunded: Option<Timestamp>,
}

impl Paid<'_> {
    /// Of a machine's order: what was bought.
    pub(in crate::controllers) fn machine(&self) -> Option<&MachineBought> {
        match &self.detail.what {
            What::Machine(it) => Some(it),
            What::Pool(_) => None,
        }
    }

    /// What leaving it early returns.
    pub(in crate::controllers) fn refund_rule(&self) -> RefundRule {
        rule_of(self.detail).unwrap_or_default()
    }
}

/// A lease that begins anew: by a conversion. Renewals of the list that are bought stay so.
pub(in crate::controllers) fn anew(lease: &Lease) -> Lease {
    Lease { renewals_bought: lease.renewals_bought, ..Lease::default() }
}

fn rule_of(detail: &Detail) -> Option<RefundRule> {
    Some(RefundRule { early_days: detail.early_days, early_factor: Exact::parse(&detail.early_factor).ok()? })
}

fn size(detail: &Detail) -> PoolSize {
    match &detail.what {
        What::Pool(it) => PoolSize { cards: it.cards, disk_gb_per_card: it.disk_per_card_gb },
        What::Machine(_) => PoolSize::default(),
    }
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
            what: What::Pool(PoolBought {
                card_type: "ada".to_owned(),
                cards: 6,
                disk_per_card_gb: 40,
                card_per_month: "7090".to_owned(),
                disk_per_gb_month: "1.2".to_owned(),
                keeps_cards: false,
            }),
            region: "a".to_owned(),
            retention_days,
            early_days: 30,
            early_factor: "1.2".to_owned(),
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
        Standing::new(contract).with(rows).unwrap()
    }

    #[test]
    fn an_order_changes_nothing_of_what_was_before_it() {
        // Expired on 1 February, and renewed 59 days later, as 90 days of retention allowed.
        let initial = row("initial", OrderState::Posted, "2026-01-01", 90);
        let renewal = row("renewal/manual/0", OrderState::Posted, "2026-04-01", 90);
        let active = standing(vec![initial.clone(), renewal.clone()]);
        let (lease, orders) = active.pool().lease(at("2026-04-10")).unwrap();
        assert_eq!(lease.state, State::Active { expires_at: at("2026-05-01") });
        assert_eq!(orders[1].period.start, at("2026-04-01"), "it begins when it is posted");

        // The next one is made with 10 days. Held it says nothing, posted it holds from then on.
        for state in [OrderState::Held, OrderState::Posted] {
            let mut next = row("renewal/manual/1", state, "2026-04-20", 10);
            let time = |it: &str| format!("\"{it}T00:00:00Z\"");
            let dates = format!(",\"from\":{},\"to\":{}}}", time("2026-05-01"), time("2026-06-01"));
            next.detail = next.detail.replace('}', &dates);
            let with_next = active.with([next]).unwrap();
            assert!(with_next.pool().lease(at("2026-04-25")).is_ok(), "{state:?}");
            let (lease, _) = with_next.pool().lease(at("2026-06-15")).unwrap();
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
        let (lease, _) = held.pool().lease(at("2026-03-01")).unwrap();
        assert_eq!(lease.state, State::Expired { since: at("2026-02-01"), releases_at: at("2026-05-02") });
    }

    /// An order of machine `base-0`.
    fn machine_row(id: &str, purpose: &str, posted: &str, from: Option<(&str, &str)>) -> OrderRow {
        let time = |it: &str| format!("{it}T00:00:00Z").parse().unwrap();
        let detail = Detail {
            purpose: purpose.to_owned(),
            months: 1,
            what: What::Machine(MachineBought {
                machine: "base-0".to_owned(),
                machine_type: "ada-8x".to_owned(),
                card_type: "ada".to_owned(),
                cards: 8,
                system_disk_gb: 200,
                per_month: "52000".to_owned(),
                disk_per_gb_month: "1.2".to_owned(),
                included_disk_gb: 200,
                charged_months: 1,
                bound: true,
                list: Some(List::Machine),
                older_renewals: Some(2),
            }),
            region: "a".to_owned(),
            retention_days: 7,
            early_days: 30,
            early_factor: "1.2".to_owned(),
            from: from.map(|it| time(it.0)),
            to: from.map(|it| time(it.1)),
        };
        let detail = serde_json::to_string(&detail).unwrap();
        OrderRow { id: id.to_owned(), detail, ..row(purpose, OrderState::Posted, posted, 7) }
    }

    #[test]
    fn a_machine_is_a_part_of_its_own_and_begins_anew_with_a_conversion() {
        // A term, hours from its end on, a conversion with a renewal, hours again, and one more conversion.
        let rows = [
            machine_row("c/machine/base-0/initial", "initial", "2026-01-01", None),
            machine_row(
                "c/machine/base-0/renewal/manual/0",
                "renewal/manual/0",
                "2026-01-10",
                Some(("2026-02-01", "2026-03-01")),
            ),
            machine_row(
                "c/machine/base-0/conversion",
                "conversion",
                "2026-03-05",
                Some(("2026-03-05", "2026-04-05")),
            ),
            machine_row(
                "c/machine/base-0/renewal/manual/1",
                "renewal/manual/1",
                "2026-04-01",
                Some(("2026-04-05", "2026-05-05")),
            ),
            machine_row(
                "c/machine/base-0/conversion/1",
                "conversion",
                "2026-07-01",
                Some(("2026-07-01", "2026-08-01")),
            ),
        ];
        let all = standing(rows.to_vec());
        assert!(all.pool().held().is_none() && all.pool().lease(at("2026-07-02")).unwrap().1.is_empty());
        let part = all.machine("base-0");
        let (lease, paid) = part.life(at("2026-07-02")).unwrap();
        assert_eq!(lease.state, State::Active { expires_at: at("2026-08-01") });
        assert_eq!((lease.renewals_bought, paid.len()), (2, 5), "renewals of the list stay bought");
        let first = paid[0].machine().unwrap();
        assert_eq!((first.older_renewals, first.list, first.bound), (Some(2), Some(List::Machine), true));

        // How a use ended follows from the order that began then.
        let span = |from: &str, until: &str| SpanRow {
            begun: crate::ledger::SpanIn {
                id: format!("c/machine/base-0/use/{from}"),
                contract: "c".to_owned(),
                account: "acme".to_owned(),
                currency: "CNY".to_owned(),
                sku: "dedicated/a/ada-8x".to_owned(),
                units: 200,
                from_ms: at(from).as_millisecond(),
            },
            until_ms: Some(at(until).as_millisecond()),
            confirmed_ms: at(until).as_millisecond(),
            billed_ms: at(from).as_millisecond(),
        };
        let spans = vec![span("2026-03-01", "2026-03-05"), span("2026-05-05", "2026-06-30")];
        let part = Part { spans, ..part.clone() };
        let ends: Vec<_> = part.uses(&paid).iter().map(|it| it.end).collect();
        assert_eq!(ends, [Some(End::Converted(at("2026-03-05"))), Some(End::GivenBack(at("2026-06-30")))]);
        assert_eq!(machine_of("c", "c/machine/base-0/use/x"), Some("base-0"));
        assert_eq!(refund_id("c", "c/machine/base-0/initial"), "c/refund/machine/base-0/initial");
        assert_eq!(refund_id("c", "c/initial"), "c/refund/initial");
    }
}
