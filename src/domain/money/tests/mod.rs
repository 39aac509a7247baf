//! Worked examples as tables, computed by hand from the rules; and properties over random lives.

mod amounts;
mod commitments;
mod leases;
mod machines;
mod metering;
mod orders;
mod others;

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

fn size(cards: u32, disk_gb_per_card: u32) -> PoolSize {
    PoolSize { cards, disk_gb_per_card }
}

/// The prices of `ada` cards in cn-hangzhou.
fn ada() -> PoolPrices {
    PoolPrices { card_month: exact("7090"), disk_gb_month: exact("1.2") }
}

/// An order that is paid in money.
fn order(purpose: Purpose, months: u32, period: Period, price: &str) -> Order {
    Order {
        purpose,
        period,
        months,
        size: size(6, 40),
        price: yuan(price),
        cash: yuan(price),
        voucher: Money(0),
    }
}

const RULES: Rules = Rules { retention_days: 90 };
