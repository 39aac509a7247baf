//! Terms on the calendar, in UTC: steps of months from an anchor, so that 31 January + 1 month is the last of February and
//! the next step returns to the 31st.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use super::Exact;

/// Seconds of a day; UTC has no other days.
pub const DAY_SECONDS: i64 = 86_400;

/// From `start` until just before `end`. A fraction of a second counts to the second that it lies in, so that lengths add up
/// when a period is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// When it begins.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl Period {
    /// Its length, seconds; 0 when it ends before it begins.
    pub fn seconds(&self) -> u64 {
        u64::try_from(self.end.as_second() - self.start.as_second()).unwrap_or(0)
    }

    /// Its length in days of 24 h, exact: what a price is divided by for the price of a day.
    pub fn days(&self) -> Exact {
        Exact::whole(1).share(self.seconds(), DAY_SECONDS.unsigned_abs())
    }

    /// Is this moment in it?
    pub fn contains(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }

    /// What two periods have in common, if that is not empty.
    pub fn overlap(&self, other: Period) -> Option<Period> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Period { start, end })
    }
}

/// The moment without its fraction of a second: orders begin and end on whole seconds, as Kubernetes writes time.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// So many calendar months after the anchor, at its time of day; in a shorter month its last day. The calendar ends with the
/// year 9999: what lies beyond is its last moment.
pub fn after_months(anchor: Timestamp, months: u32) -> Timestamp {
    step(anchor, i64::from(months))
}

/// The months of [`from`, `until`) cut at the anchor's monthly steps, in order: the whole month, and the part of it that lies
/// in the range.
pub fn months_between(anchor: Timestamp, from: Timestamp, until: Timestamp) -> Vec<(Period, Period)> {
    let range = Period { start: from, end: until };
    let (first, begin) = (in_utc(anchor), in_utc(from));
    // One month too early at most: the day and time within the month decide.
    let mut number = 12 * (i64::from(begin.year()) - i64::from(first.year()))
        + (i64::from(begin.month()) - i64::from(first.month()))
        - 1;
    let mut months = Vec::new();
    loop {
        let month = Period { start: step(anchor, number), end: step(anchor, number + 1) };
        if month.start >= until {
            return months;
        }
        if let Some(part) = month.overlap(range) {
            months.push((month, part));
        }
        number += 1;
    }
}

/// The UTC calendar month that this moment lies in.
pub fn calendar_month(at: Timestamp) -> Period {
    let first = from_utc(in_utc(at).first_of_month().start_of_day());
    Period { start: first, end: after_months(first, 1) }
}

/// The UTC day that this moment lies in.
pub fn utc_day(at: Timestamp) -> Period {
    let first = in_utc(at).start_of_day();
    let end = first.checked_add(Span::new().days(1)).map_or(Timestamp::MAX, from_utc);
    Period { start: from_utc(first), end }
}

/// So many days of 24 h later, or earlier.
pub fn after_days(at: Timestamp, days: i64) -> Timestamp {
    after_seconds(at, days.saturating_mul(DAY_SECONDS))
}

/// So many seconds later, or earlier. It stays within the calendar.
pub fn after_seconds(at: Timestamp, seconds: i64) -> Timestamp {
    let edge = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(edge)
}

/// So many calendar months after the anchor, or before it.
fn step(anchor: Timestamp, months: i64) -> Timestamp {
    let edge = if months < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Span::new().try_months(months).and_then(|it| in_utc(anchor).checked_add(it)).map_or(edge, from_utc)
}

fn in_utc(at: Timestamp) -> DateTime {
    TimeZone::UTC.to_datetime(at)
}

fn from_utc(it: DateTime) -> Timestamp {
    // The civil calendar reaches a day further than timestamps do.
    let edge = if it.year() > 0 { Timestamp::MAX } else { Timestamp::MIN };
    TimeZone::UTC.to_timestamp(it).unwrap_or(edge)
}
