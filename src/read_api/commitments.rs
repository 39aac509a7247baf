//! What one contract has paid in advance, as rows: what was bought and came back, and what each day bears of it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::answer::{Broken, Out};
use super::bill::known;
use super::export::Span;
use super::focus::{self, Of, Paid, Term};
use super::item::{self, Item};
use crate::domain::money::calendar::{Period, after_seconds, utc_day};
use crate::domain::money::commitment::{Commitment, Left, Portion, portions};
use crate::domain::money::metering::LATE_SECONDS;
use crate::domain::money::{Currency, Money, Purpose, usage};
use crate::ledger::{Contract, OrderRow, OrderState, RefundRow, Snapshot, SpanRow};

/// An order of a contract that is paid.
struct Ordered {
    row: OrderRow,
    item: Item,
    at: Timestamp,
    /// Units that it adds.
    units: u64,
    /// Its refund, if there was one.
    refund: Option<RefundRow>,
}

/// All of a contract that one customer has paid for in one currency.
struct Group<'a> {
    account: &'a str,
    currency: Currency,
    orders: Vec<&'a Ordered>,
}

/// A contract as it stands in the ledger.
pub(super) struct Commitments {
    contract: Contract,
    orders: Vec<Ordered>,
    /// Lines that are paid as they come, such as the hours of a machine.
    hours: Vec<Ordered>,
    /// `None`: what is bought is itself what is used.
    used: Option<Vec<usage::Span>>,
    unit: &'static str,
    /// What is before this is known for good.
    told_until: Timestamp,
}

impl Commitments {
    /// Reads a contract.
    pub(super) async fn read(
        snapshot: &mut Snapshot,
        contract: Contract,
        now: Timestamp,
    ) -> Result<Commitments, Broken> {
        let refunds = snapshot.refunds(&contract.id).await?;
        let posted = snapshot.orders(&contract.id).await?.into_iter();
        let (mut orders, mut hours, mut cards) = (Vec::new(), Vec::new(), 0);
        for row in posted.filter(|it| it.state == OrderState::Posted) {
            let at_ms = row.posted_at_ms.unwrap_or(row.held_at_ms);
            let item = item::read(&row.id, at_ms, Some(&contract.id), &row.detail);
            let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
            let refund = refunds.iter().find(|it| refunded(it).as_deref() == Some(row.id.as_str())).cloned();
            let is_hour = item.purpose.contains("/hour/");
            let units = units(&item, &mut cards);
            let ordered = Ordered { row, item, at, units, refund };
            if is_hour { hours.push(ordered) } else { orders.push(ordered) }
        }
        let all = orders.iter().chain(&hours);
        let known: Vec<&str> = all.filter_map(|it| it.refund.as_ref()).map(|it| it.id.as_str()).collect();
        if let Some(it) = refunds.iter().find(|it| it.amount != 0 && !known.contains(&it.id.as_str())) {
            return Err(Broken::Wrong(format!("{} refunds an order that the ledger does not know", it.id)));
        }
        let is_pool = contract.object.starts_with("ResidentPool/");
        let unit = if is_pool { "Card-Hours" } else { "Machine-Hours" };
        let day = utc_day(after_seconds(now, -LATE_SECONDS)).start;
        let (used, told_until) = if is_pool {
            let spans = snapshot.spans_of(&crate::controllers::money::resident_sku(&contract.uid)).await?;
            (Some(spans.iter().filter_map(final_use).collect()), final_until(&spans, day))
        } else {
            (None, day)
        };
        Ok(Commitments { contract, orders, hours, used, unit, told_until })
    }

    fn groups<'a>(&'a self, account: Option<&str>) -> Result<Vec<Group<'a>>, Broken> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        for it in self.orders.iter().filter(|it| account.is_none_or(|account| account == it.row.account)) {
            let same = |group: &&mut Group<'_>| {
                group.account == it.row.account && group.currency.code() == it.row.currency
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.orders.push(it),
                None => groups.push(Group {
                    account: &it.row.account,
                    currency: known(&it.row.currency)?,
                    orders: vec![it],
                }),
            }
        }
        Ok(groups)
    }

    fn of<'a>(&'a self, account: &'a str, currency: &'a Currency) -> Of<'a> {
        Of { account, currency, contract: &self.contract.id, object: &self.contract.object }
    }

    /// Tells the rows of Cost and Usage that lie in this time; what was billed with them, by currency.
    pub(super) async fn tell_costs(
        &self,
        account: Option<&str>,
        span: Span,
        billed: &mut BTreeMap<String, i64>,
        out: &mut Out,
    ) -> Result<u64, Broken> {
        let mut rows = 0;
        for group in self.groups(account)? {
            let of = self.of(group.account, &group.currency);
            for it in &group.orders {
                for (row, amount) in self.billed_rows(&of, it, span) {
                    add(billed, &it.row.currency, amount);
                    out.tell_row(&row).await?;
                    rows += 1;
                }
            }
            let Some(first) = group.orders.first() else { continue };
            for portion in self.proven(&group)? {
                if portion.period.start < self.told_until && span.contains(portion.period.start) {
                    out.tell_row(&focus::portion(&of, &first.item, &portion, self.unit)).await?;
                    rows += 1;
                }
            }
        }
        for it in self.hours.iter().filter(|it| account.is_none_or(|account| account == it.row.account)) {
            let currency = known(&it.row.currency)?;
            let of = self.of(&it.row.account, &currency);
            if span.contains(it.at) {
                let paid = Paid { at: it.at, cash: it.row.cash, voucher: it.row.voucher };
                add(billed, &it.row.currency, it.row.price);
                out.tell_row(&focus::usage(&of, &it.row.id, &it.item, paid)).await?;
                rows += 1;
            }
        }
        Ok(rows)
    }

    /// The rows of an order that are billed: its price, and its refund.
    fn billed_rows(
        &self,
        of: &Of<'_>,
        it: &Ordered,
        span: Span,
    ) -> Vec<(focus::Row<focus::CostAndUsage>, i64)> {
        let mut rows = Vec::new();
        if span.contains(it.at) {
            let paid = Paid { at: it.at, cash: it.row.cash, voucher: it.row.voucher };
            let row = focus::purchase(of, &it.row.id, &it.item, paid, it.units, self.unit);
            rows.push((row, it.row.price));
        }
        if let Some((refund, left)) = it.refund.as_ref().zip(it.left())
            && span.contains(left.at)
        {
            let paid = Paid { at: left.at, cash: -refund.amount, voucher: 0 };
            let row = focus::refund(of, &refund.id, &it.item, it.at, paid, self.unit);
            rows.push((row, -refund.amount));
        }
        rows
    }

    /// What the days bear, and proof that it is what was paid and did not come back.
    fn proven(&self, group: &Group<'_>) -> Result<Vec<Portion>, Broken> {
        let commitments: Vec<Commitment> = group.orders.iter().map(|it| it.commitment()).collect();
        let portions = portions(&commitments, self.used.as_deref());
        let borne = portions.iter().fold(0_i128, |sum, it| sum + i128::from(it.amount.0));
        let paid = group.orders.iter().fold(0_i128, |sum, it| {
            sum + i128::from(it.row.cash) + i128::from(it.row.voucher)
                - it.refund.as_ref().map_or(0, |it| i128::from(it.amount))
        });
        if borne == paid {
            return Ok(portions);
        }
        Err(Broken::Wrong(format!(
            "the days of {} bear {borne} and {paid} was paid and did not come back: that is a defect, please report it",
            self.contract.id
        )))
    }

    /// Tells the rows of Contract Commitment whose time meets this one.
    pub(super) async fn tell_commitments(
        &self,
        account: Option<&str>,
        span: Span,
        now: Timestamp,
        out: &mut Out,
    ) -> Result<u64, Broken> {
        let mut rows = 0;
        let starts = self.orders.iter().map(|it| it.item.from).min().unwrap_or_default();
        let ends = self.orders.iter().map(|it| it.item.to).max().unwrap_or_default();
        for group in self.groups(account)? {
            let of = self.of(group.account, &group.currency);
            for it in group.orders.iter().filter(|it| span.meets(it.item.from, it.item.to)) {
                let term = Term {
                    id: &it.row.id,
                    item: &it.item,
                    price: it.row.price,
                    units: it.units,
                    unit: self.unit,
                    ordered_at: it.at,
                    left_at: it.left().map(|it| it.at),
                    whole: Period { start: starts, end: ends },
                };
                out.tell_row(&focus::commitment(&of, &term, now)).await?;
                rows += 1;
            }
        }
        Ok(rows)
    }
}

impl Ordered {
    fn left(&self) -> Option<Left> {
        let refund = self.refund.as_ref()?;
        let at = Timestamp::from_millisecond(refund.at_ms).unwrap_or_default();
        Some(Left { at, refund: Money(refund.amount) })
    }

    fn commitment(&self) -> Commitment {
        let period = Period { start: self.item.from, end: self.item.to };
        Commitment { period, price: Money(self.row.price), units: self.units, left: self.left() }
    }
}

/// How many units an order adds: one machine, or cards of a pool. `cards`: how many the pool has so far.
fn units(item: &Item, cards: &mut u64) -> u64 {
    let (thing, purpose) = split(&item.purpose);
    let Some(after) = item.cards.filter(|_| thing.is_empty()) else { return 1 };
    let before = std::mem::replace(cards, after);
    match Purpose::parse(purpose) {
        Some(Purpose::Expansion { .. }) => after.saturating_sub(before),
        Some(Purpose::Initial | Purpose::Manual { .. } | Purpose::Auto { .. } | Purpose::Conversion)
        | None => after,
    }
}

/// `machine/base-0/initial` is of one machine, all else of the contract as a whole.
fn split(purpose: &str) -> (&str, &str) {
    let machine = || {
        let (machine, rest) = purpose.strip_prefix("machine/")?.split_once('/')?;
        Some((machine, rest))
    };
    machine().unwrap_or(("", purpose))
}

/// Which order a refund is of.
fn refunded(refund: &RefundRow) -> Option<String> {
    item::read(&refund.id, refund.at_ms, None, &refund.detail).of
}

/// What of a span is known for good: what is billed of it.
fn final_use(span: &SpanRow) -> Option<usage::Span> {
    let start = Timestamp::from_millisecond(span.begun.from_ms).ok()?;
    let end = Timestamp::from_millisecond(span.billed_ms).ok()?;
    let units = u64::try_from(span.begun.units).ok()?;
    (start < end).then_some(usage::Span { period: Period { start, end }, units })
}

/// Until when nothing can come out otherwise: the beginning of the first day of which something is not billed.
fn final_until(spans: &[SpanRow], day: Timestamp) -> Timestamp {
    let open = spans.iter().filter(|it| it.until_ms.is_none_or(|until| it.billed_ms < until));
    let starts = open.filter_map(|it| Timestamp::from_millisecond(it.billed_ms).ok());
    starts.map(|it| utc_day(it).start).fold(day, Timestamp::min)
}

fn add(sums: &mut BTreeMap<String, i64>, currency: &str, amount: i64) {
    let sum = sums.entry(currency.to_owned()).or_default();
    *sum = sum.saturating_add(amount);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_one_unit_however_many_cards_it_has() {
        let mut cards = 0;
        for (purpose, of, expected) in [
            ("initial", 4, 4),
            ("expand/6 cards/40 GB", 6, 2),
            ("renewal/manual/0", 6, 6),
            ("machine/base-0/initial", 8, 1),
            ("machine/base-0/renewal/manual/0", 8, 1),
            ("machine/base-1/conversion", 8, 1),
        ] {
            let detail = format!(r#"{{"cards": {of}}}"#);
            let item = item::read(&format!("c/{purpose}"), 0, Some("c"), &detail);
            assert_eq!(units(&item, &mut cards), expected, "{purpose}");
        }
    }
}
