//! Orders: what is bought, for which period, at which price. A contract keeps the price of its order.

use jiff::Timestamp;

use super::calendar::{DAY_SECONDS, Period, months_between};
use super::{Currency, Exact, Money, PoolSize, TooMuch};

/// What an order is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The first term.
    Initial,
    /// More cards or disk until expiry.
    Expansion {
        /// The size afterwards.
        to: PoolSize,
    },
    /// A renewal that its owner asked for.
    Manual {
        /// Its place in the list of renewals, from 0.
        position: u32,
    },
    /// A renewal that was bought by itself.
    Auto {
        /// The expiry that it moved.
        old_expiry: Timestamp,
    },
    /// The first term of what was paid by the hour before.
    Conversion,
}

impl Purpose {
    /// The text that names it in ids of transfers. It is the same for the same purchase, so that who observes twice pays once:
    /// `initial`, `expand/8 cards/40 GB`, `renewal/manual/3`, `renewal/auto/2026-12-23T10:00:00Z`, `conversion`.
    pub fn id(&self) -> String {
        match self {
            Purpose::Initial => "initial".to_owned(),
            Purpose::Expansion { to } => format!("expand/{} cards/{} GB", to.cards, to.disk_gb_per_card),
            Purpose::Manual { position } => format!("renewal/manual/{position}"),
            Purpose::Auto { old_expiry } => format!("renewal/auto/{old_expiry}"),
            Purpose::Conversion => "conversion".to_owned(),
        }
    }

    /// The purpose of an id; `None` for every text that [`Purpose::id`] does not write.
    pub fn parse(id: &str) -> Option<Purpose> {
        let purpose = read(id)?;
        (purpose.id() == id).then_some(purpose)
    }
}

fn read(id: &str) -> Option<Purpose> {
    if let Some(size) = id.strip_prefix("expand/") {
        let (cards, disk) = size.split_once(" cards/")?;
        let disk_gb_per_card = disk.strip_suffix(" GB")?.parse().ok()?;
        return Some(Purpose::Expansion { to: PoolSize { cards: cards.parse().ok()?, disk_gb_per_card } });
    }
    if let Some(position) = id.strip_prefix("renewal/manual/") {
        return Some(Purpose::Manual { position: position.parse().ok()? });
    }
    if let Some(expiry) = id.strip_prefix("renewal/auto/") {
        return Some(Purpose::Auto { old_expiry: expiry.parse().ok()? });
    }
    match id {
        "initial" => Some(Purpose::Initial),
        "conversion" => Some(Purpose::Conversion),
        _ => None,
    }
}

/// A purchase: a line of the bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What it is for.
    pub purpose: Purpose,
    /// What it pays for, on whole seconds.
    pub period: Period,
    /// Its calendar months; 0 for an expansion.
    pub months: u32,
    /// The size after it; of one machine the default.
    pub size: PoolSize,
    /// What it costs.
    pub price: Money,
    /// The part of the price that was paid in money.
    pub cash: Money,
    /// The part of the price that was paid with vouchers and coupons.
    pub voucher: Money,
}

impl Order {
    /// The price of a day of 24 h: price ÷ days of the period. An empty period has no days and costs nothing.
    pub fn day_price(&self, currency: &Currency) -> Exact {
        match self.period.seconds() {
            0 => Exact::zero(),
            seconds => self.price.exact(currency).share(DAY_SECONDS.unsigned_abs(), seconds),
        }
    }
}

/// The price of a term: the first one, a renewal, or a conversion. Month price × charged months.
pub fn quote_term(month: &Exact, charged_months: u32, currency: &Currency) -> Result<Money, TooMuch> {
    Money::round_line(&month.times(u64::from(charged_months)), currency)
}

/// The price of an expansion for the seconds left until expiry. `old` and `new` are month prices of the sizes, both as the
/// tariff has them now. Of each month, cut at the anchor's steps: their difference × seconds left in it ÷ seconds of it.
/// It is never negative: an expansion pays nothing back.
pub fn quote_expansion(
    old: &Exact,
    new: &Exact,
    anchor: Timestamp,
    now: Timestamp,
    until: Timestamp,
    currency: &Currency,
) -> Result<Money, TooMuch> {
    let more = new.minus(old).at_least_zero();
    let line = months_between(anchor, now, until).iter().fold(Exact::zero(), |sum, (month, part)| {
        sum.plus(&more.share(part.seconds(), month.seconds().max(1)))
    });
    Money::round_line(&line, currency)
}

/// The price of an hour of a postpaid machine, of which so many seconds are charged: 3,600, or up to the second in which the
/// machine is converted, whose first term begins then: no second is paid for twice.
pub fn quote_hour(hour: &Exact, seconds: u64, currency: &Currency) -> Result<Money, TooMuch> {
    Money::round_line(&hour.share(seconds.min(3_600), 3_600), currency)
}
