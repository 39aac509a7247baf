//! What is paid in advance, told by the day: how much of its price each UTC day bears, and how much of that was used.
//!
//! Nothing here is posted: the price of an order is one line of the bill. For who asks what a day cost, the price is spread over the
//! seconds of its period, so that the days add up to it, to the smallest unit. What leaving it did not return, and no day has
//! borne, is borne by the moment of leaving.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::calendar::{Period, utc_day};
use super::{Money, usage};

/// An order that is paid in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment {
    /// What it pays for.
    pub period: Period,
    /// What it cost.
    pub price: Money,
    /// How many units it adds: cards, or machines.
    pub units: u64,
    /// When it was left, and what came back.
    pub left: Option<Left>,
}

/// How an order was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// When that was written down: days before it have been told already.
    pub at: Timestamp,
    /// What came back.
    pub refund: Money,
}

/// How what was paid for was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spent {
    /// Something ran on it.
    Used,
    /// Nothing ran on it, or it was left before its end.
    Unused,
}

/// A part of what commitments cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Portion {
    /// Within one UTC day.
    pub period: Period,
    /// Used or not.
    pub spent: Spent,
    /// What it bears of the prices.
    pub amount: Money,
    /// Units × seconds.
    pub unit_seconds: u64,
}

/// What one day bears.
#[derive(Debug, Clone, Copy)]
struct Day {
    period: Period,
    amount: i64,
    /// The part of the amount that is of what was left before its end.
    lost: i64,
    unit_seconds: u64,
}

/// What commitments that belong together cost on each day, used and unused apart. `used`: when how many units were used, in any
/// order; `None` when what is bought is itself what is used, such as a machine of one's own. All portions together are all prices less
/// what came back.
pub fn portions(commitments: &[Commitment], used: Option<&[usage::Span]>) -> Vec<Portion> {
    let mut days: BTreeMap<Timestamp, Day> = BTreeMap::new();
    for it in commitments {
        spread(it, &mut days);
    }
    let used = used.map(by_day);
    let mut portions = Vec::new();
    for (start, day) in days {
        let in_use = match &used {
            Some(used) => used.get(&start).copied().unwrap_or_default().min(day.unit_seconds),
            None => day.unit_seconds,
        };
        let kept = day.amount.saturating_sub(day.lost);
        let amount = share(kept, in_use, day.unit_seconds);
        let rest = day.unit_seconds - in_use;
        let unused = day.amount.saturating_sub(amount);
        let portion = |spent, amount, unit_seconds| Portion {
            period: day.period,
            spent,
            amount: Money(amount),
            unit_seconds,
        };
        if in_use > 0 || amount != 0 {
            portions.push(portion(Spent::Used, amount, in_use));
        }
        if rest > 0 || unused != 0 {
            portions.push(portion(Spent::Unused, unused, rest));
        }
    }
    portions
}

/// Spreads a price over the days of its period, and what was lost by leaving over the moment of leaving.
fn spread(it: &Commitment, days: &mut BTreeMap<Timestamp, Day>) {
    let whole = it.period.seconds();
    let end = it.left.map_or(it.period.end, |left| it.period.end.min(left.at));
    let (mut from, mut told) = (it.period.start, 0);
    while from < end {
        let until = utc_day(from).end.min(end);
        let sum = share(it.price.0, Period { start: it.period.start, end: until }.seconds(), whole);
        let period = Period { start: from, end: until };
        add(days, period, sum - told, 0, period.seconds().saturating_mul(it.units));
        (told, from) = (sum, until);
    }
    let refund = it.left.map_or(0, |left| left.refund.0);
    let lost = it.price.0 - refund - told;
    if lost != 0 {
        let at = it.left.map_or(it.period.start, |left| left.at);
        add(days, Period { start: at, end: utc_day(at).end }, lost, lost, 0);
    }
}

fn add(days: &mut BTreeMap<Timestamp, Day>, period: Period, amount: i64, lost: i64, unit_seconds: u64) {
    let day = days.entry(utc_day(period.start).start).or_insert(Day {
        period,
        amount: 0,
        lost: 0,
        unit_seconds: 0,
    });
    day.period.start = day.period.start.min(period.start);
    day.period.end = day.period.end.max(period.end);
    day.amount = day.amount.saturating_add(amount);
    day.lost = day.lost.saturating_add(lost);
    day.unit_seconds = day.unit_seconds.saturating_add(unit_seconds);
}

/// Units × seconds of each UTC day, by its beginning.
fn by_day(spans: &[usage::Span]) -> BTreeMap<Timestamp, u64> {
    let mut days: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for span in spans {
        let mut from = span.period.start;
        while from < span.period.end {
            let day = utc_day(from);
            let until = day.end.min(span.period.end);
            let seconds = Period { start: from, end: until }.seconds();
            let sum = days.entry(day.start).or_default();
            *sum = sum.saturating_add(seconds.saturating_mul(span.units));
            from = until;
        }
    }
    days
}

/// `part` ÷ `of` of an amount, rounded down. All of it when `part` is `of`; nothing of nothing.
fn share(amount: i64, part: u64, of: u64) -> i64 {
    if of == 0 {
        return 0;
    }
    let share = i128::from(amount) * i128::from(part.min(of));
    i64::try_from(share.div_euclid(i128::from(of))).unwrap_or(amount)
}
