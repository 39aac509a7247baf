//! Prices: from inventory, and as texts that somebody else wrote.

use rust_decimal::{Decimal, RoundingStrategy};

/// Digits after the point of a price that is computed.
const DIGITS: u32 = 4;
/// The longest price that is read.
const LONGEST: usize = 24;

/// The price when so many of all cards are free: floor + (ceiling − floor) × (1 − free ÷ total), rounded half to even to 4 digits
/// after the point, never outside of floor and ceiling. So it is the floor with all cards free, the ceiling with none, and never
/// falls when a card is taken. Without any card it is the ceiling.
pub fn by_inventory(floor: Decimal, ceiling: Decimal, free: u32, total: u32) -> Decimal {
    if total == 0 || floor >= ceiling {
        return ceiling;
    }
    let used = Decimal::from(total - free.min(total));
    let rise = ceiling - floor;
    // The product has all digits; where it has too many for that, the quotient is as good.
    let part = rise
        .checked_mul(used)
        .map_or_else(|| rise / Decimal::from(total) * used, |it| it / Decimal::from(total));
    (floor + part)
        .round_dp_with_strategy(DIGITS, RoundingStrategy::MidpointNearestEven)
        .clamp(floor, ceiling)
        .normalize()
}

/// Reads a price: a plain decimal number above zero, such as `2.40`, of at most 24 characters. What can't be read is no price.
pub fn read(text: &str) -> Option<Decimal> {
    let digits = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = text.len() <= LONGEST && digits(whole) && digits(fraction);
    plain.then(|| text.parse::<Decimal>().ok()).flatten().filter(|it| it.is_sign_positive() && !it.is_zero())
}
