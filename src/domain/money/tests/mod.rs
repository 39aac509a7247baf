//! Worked examples as tables, computed by hand from the rules; and properties over random lives.

mod amounts;

use jiff::Timestamp;

use super::*;

/// A moment, such as `2026-11-01` or `2026-11-01T10:00`.
fn at(text: &str) -> Timestamp {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => format!("{text}Z"),
    };
    whole.parse().unwrap()
}

fn period(start: &str, end: &str) -> Period {
    Period { start: at(start), end: at(end) }
}

fn exact(text: &str) -> Exact {
    Exact::parse(text).unwrap()
}

fn cny() -> Currency {
    Currency::find("CNY").unwrap()
}

fn yuan(text: &str) -> Money {
    Money::parse(text, &cny()).unwrap()
}
