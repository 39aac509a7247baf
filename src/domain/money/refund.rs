//! What leaving a purchase returns.

use jiff::Timestamp;

use super::calendar::{DAY_SECONDS, Period};
use super::{Currency, Exact, Money, Order, TooMuch};

/// How early leaving is charged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundRule {
    /// With fewer days used than these, leaving is early.
    pub early_days: u32,
    /// What the days used are multiplied with then.
    pub early_factor: Exact,
}

impl Default for RefundRule {
    /// 1.2 below 30 days.
    fn default() -> Self {
        RefundRule { early_days: 30, early_factor: Exact::whole(12).share(1, 10) }
    }
}

/// Days used: started days of 24 h from the order's start. In its first second it is 1, and 2 just when 24 h are over; before
/// the start 0.
pub fn days_used(period: Period, now: Timestamp) -> u64 {
    if now < period.start {
        return 0;
    }
    Period { start: period.start, end: now }.seconds() / DAY_SECONDS.unsigned_abs() + 1
}

/// What an order returns when it is left now. Cash only: vouchers are consumed first, never refunded, and void afterwards.
///
/// An order that has not begun returns its cash whole. One that has begun returns max(0, cash − max(0, consumed − voucher)),
/// where consumed = day price × days used × the early factor when fewer days than `early_days` were used (else × 1). It is
/// never more than cash.
pub fn refund(
    order: &Order,
    now: Timestamp,
    rule: &RefundRule,
    currency: &Currency,
) -> Result<Money, TooMuch> {
    // Whatever the tariff's factor: what is used up returns nothing.
    if now >= order.period.end {
        return Ok(Money(0));
    }
    let days = days_used(order.period, now);
    let full = order.day_price(currency).times(days);
    let consumed =
        if days < u64::from(rule.early_days) { full.times_exact(&rule.early_factor) } else { full };
    let consumed_cash = consumed.minus(&order.voucher.exact(currency)).at_least_zero();
    Money::round_line(&order.cash.exact(currency).minus(&consumed_cash).at_least_zero(), currency)
}
