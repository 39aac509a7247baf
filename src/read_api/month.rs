//! A calendar month in UTC, as it is written: `2026-11`.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::domain::money::Period;
use crate::domain::money::calendar::calendar_month;
use crate::ledger::Interval;

/// A month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Month(Period);

impl Month {
    /// The month of a moment.
    pub(super) fn of(at: Timestamp) -> Month {
        Month(calendar_month(at))
    }

    /// Reads `2026-11`.
    pub(super) fn parse(text: &str) -> Result<Month, String> {
        let bad = || format!("`{text}` is no month: write it such as 2026-11");
        let date: Date = format!("{text}-01").parse().map_err(|_| bad())?;
        let is_month = text.len() == 7 && text.as_bytes().get(4) == Some(&b'-');
        let first = date.to_zoned(TimeZone::UTC).map_err(|_| bad())?.timestamp();
        if is_month { Ok(Month::of(first)) } else { Err(bad()) }
    }

    pub(super) fn period(self) -> Period {
        self.0
    }

    pub(super) fn interval(self) -> Interval {
        Interval { from_ms: self.0.start.as_millisecond(), until_ms: self.0.end.as_millisecond() }
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.start.to_string()[..7])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_written_in_one_way() {
        for (text, expected) in [
            ("2026-11", Some("2026-11-01T00:00:00Z 2026-12-01T00:00:00Z")),
            ("2028-02", Some("2028-02-01T00:00:00Z 2028-03-01T00:00:00Z")),
            ("2026-13", None),
            ("2026-1", None),
            ("202611", None),
            ("2026-11-01", None),
            ("", None),
        ] {
            let found = Month::parse(text).ok().map(|it| format!("{} {}", it.0.start, it.0.end));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert_eq!(Month::parse("2026-11").unwrap().to_string(), "2026-11");
    }
}
