//! Prices of what is bought for a term or by the hour, and how many months of a term are charged.

use jiff::Timestamp;

use super::Exact;
use super::calendar::calendar_month;

/// What a pool consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolSize {
    /// Locked cards.
    pub cards: u32,
    /// Disk that goes with each card, GB.
    pub disk_gb_per_card: u32,
}

impl PoolSize {
    /// Is it larger: nowhere smaller, and somewhere more? What is bought grows so, and in no other way.
    pub fn is_larger_than(self, other: PoolSize) -> bool {
        self != other && self.cards >= other.cards && self.disk_gb_per_card >= other.disk_gb_per_card
    }
}

/// Prices of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolPrices {
    /// A card for a month, with its GPU memory, CPU and memory.
    pub card_month: Exact,
    /// A GB of disk for a month, charged from the first GB.
    pub disk_gb_month: Exact,
}

impl PoolPrices {
    /// A month of so much: cards × card price + cards × disk per card × disk price. Six cards with 40 GB at 7,090 and 1.2 cost
    /// 42,828.
    pub fn month(&self, size: PoolSize) -> Exact {
        let disk_gb = u64::from(size.cards) * u64::from(size.disk_gb_per_card);
        self.card_month.times(u64::from(size.cards)).plus(&self.disk_gb_month.times(disk_gb))
    }
}

/// Prices of a machine of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachinePrices {
    /// The machine for a month; `None` when it is not sold for a term.
    pub per_month: Option<Exact>,
    /// The machine for an hour; `None` when it is not sold by the hour.
    pub per_hour: Option<Exact>,
    /// A GB of its disk for a month, beyond what is included.
    pub disk_gb_month: Exact,
    /// Disk that the machine's price includes, GB.
    pub included_disk_gb: u32,
}

impl MachinePrices {
    /// A month of one machine with so much disk; `None` when it is not sold for a term.
    pub fn month(&self, disk_gb: u32) -> Option<Exact> {
        Some(self.per_month.as_ref()?.plus(&self.disk_month(disk_gb)))
    }

    /// An hour of one machine with so much disk; `None` when it is not sold by the hour.
    ///
    /// Disk has a price per month only. Its hour is that price ÷ the hours of the UTC calendar month in which the hour begins,
    /// so that the hours of a month cost what the month does, before each is rounded as a line of its own.
    pub fn hour(&self, disk_gb: u32, begins: Timestamp) -> Option<Exact> {
        let hours = calendar_month(begins).seconds() / 3_600;
        Some(self.per_hour.as_ref()?.plus(&self.disk_month(disk_gb).share(1, hours.max(1))))
    }

    fn disk_month(&self, disk_gb: u32) -> Exact {
        self.disk_gb_month.times(u64::from(disk_gb.saturating_sub(self.included_disk_gb)))
    }
}

/// A long term of which fewer months are charged: 12 months of a machine for training cost 10.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongTerm {
    /// The term, calendar months.
    pub months: u32,
    /// What it costs, months.
    pub charged_months: u32,
}

/// How many months of a term are charged: those of the long term of just this length, else all of them.
pub fn charged_months(months: u32, long_terms: &[LongTerm]) -> u32 {
    long_terms.iter().find(|it| it.months == months).map_or(months, |it| it.charged_months)
}
