//! Credits: what the minutes are worth in which a sold card was faulty.

use super::{Currency, Money, Order, TooMuch};

/// Minutes of a day.
const DAY_MINUTES: u64 = 1_440;

/// What cards of an order had on one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faulty {
    /// Cards that the order bought: of an expansion those it added. With 0 (disk only) nothing is credited.
    pub cards: u32,
    /// How many of them were faulty.
    pub faulty_cards: u32,
    /// For how long, minutes of this day.
    pub minutes: u32,
}

/// The credit for one order and one UTC day, a line: day price ÷ cards of the order ÷ 1440 × faulty minutes × faulty cards.
/// It is never more than the day's price.
pub fn credit(order: &Order, faulty: Faulty, currency: &Currency) -> Result<Money, TooMuch> {
    if faulty.cards == 0 {
        return Ok(Money(0));
    }
    let lost = u64::from(faulty.minutes).min(DAY_MINUTES) * u64::from(faulty.faulty_cards.min(faulty.cards));
    let bought = DAY_MINUTES * u64::from(faulty.cards);
    Money::round_line(&order.day_price(currency).share(lost, bought), currency)
}
