//! Metering: spans of use × prices → lines of a bill, one per object, UTC day and price.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound::{Excluded, Unbounded};

use jiff::Timestamp;

use super::calendar::{Period, calendar_month, utc_day};
use super::{Currency, Exact, Money, TooMuch};

/// A time in which an object used so many units: cards, GB of disk, addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// When. A worker's begins when it is first ready; one whose end nobody saw ends at its last confirmed second.
    pub period: Period,
    /// How many units.
    pub units: u64,
}

/// What a price is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// A unit for a second.
    Second,
    /// A unit for an hour, charged by the second.
    Hour,
    /// A unit for a UTC calendar month, charged by the second: a second of February costs more than one of March.
    CalendarMonth,
}

/// The prices of a unit, each from its moment until the next one's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    /// What each price is for.
    pub per: Per,
    /// A price, by when its epoch began.
    pub epochs: BTreeMap<Timestamp, Exact>,
}

/// Which line use belongs to. In the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    /// When the UTC day begins.
    pub day: Timestamp,
    /// When the epoch of the price began.
    pub epoch: Timestamp,
}

/// What was used within a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    /// Units × seconds.
    pub unit_seconds: u64,
    /// What it costs, exact.
    pub exact: Exact,
}

/// A line of the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Its day and price.
    pub key: LineKey,
    /// Units × seconds.
    pub unit_seconds: u64,
    /// What is posted.
    pub amount: Money,
}

/// Why use has no line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLine {
    /// There was no price at this moment yet.
    Unpriced(Timestamp),
    /// The line is larger than can be posted.
    TooMuch,
}

impl fmt::Display for NoLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoLine::Unpriced(at) => write!(f, "there was no price at {at}"),
            NoLine::TooMuch => TooMuch.fmt(f),
        }
    }
}

impl std::error::Error for NoLine {}

/// Meters the spans of one object, cut at midnights and where the price changes. Spans may overlap: they add up. Metered in
/// parts it is the same as metered whole, line by line, as long as nothing is rounded.
pub fn meter(spans: &[Span], prices: &Prices) -> Result<BTreeMap<LineKey, Metered>, NoLine> {
    let mut lines: BTreeMap<LineKey, Metered> = BTreeMap::new();
    for span in spans {
        let mut from = span.period.start;
        while from < span.period.end {
            let day = utc_day(from);
            let (epoch, price) = prices.epochs.range(..=from).next_back().ok_or(NoLine::Unpriced(from))?;
            let next_epoch = prices.epochs.range((Excluded(from), Unbounded)).next().map(|(at, _)| *at);
            let end = next_epoch.into_iter().chain([day.end, span.period.end]).min().unwrap_or(day.end);
            let unit_seconds = Period { start: from, end }.seconds().saturating_mul(span.units);
            let line = lines
                .entry(LineKey { day: day.start, epoch: *epoch })
                .or_insert_with(|| Metered { unit_seconds: 0, exact: Exact::zero() });
            line.unit_seconds = line.unit_seconds.saturating_add(unit_seconds);
            line.exact = line.exact.plus(&price.share(unit_seconds, seconds_of(prices.per, day.start)));
            from = end;
        }
    }
    lines.retain(|_, it| it.unit_seconds > 0);
    Ok(lines)
}

/// The lines of one object, each rounded once. All of a day's spans belong into one call, since a line is rounded whole.
pub fn bill(spans: &[Span], prices: &Prices, currency: &Currency) -> Result<Vec<Line>, NoLine> {
    let line = |(key, it): (LineKey, Metered)| {
        let amount = Money::round_line(&it.exact, currency).map_err(|TooMuch| NoLine::TooMuch)?;
        Ok(Line { key, unit_seconds: it.unit_seconds, amount })
    };
    meter(spans, prices)?.into_iter().map(line).collect()
}

/// How many seconds a price of this day is for.
fn seconds_of(per: Per, day: Timestamp) -> u64 {
    match per {
        Per::Second => 1,
        Per::Hour => 3_600,
        Per::CalendarMonth => calendar_month(day).seconds().max(1),
    }
}
