//! Money: what something costs, what leaving it returns, and the life of what is prepaid.
//!
//! Amounts are rationals within a line of a bill and whole minor units once the line is rounded ([`amount`]). Time is an
//! argument and UTC ([`calendar`]). Nothing here posts, holds or remembers anything: that is the ledger's.

pub mod amount;
pub mod arrears;
pub mod calendar;
pub mod commitment;
pub mod credit;
pub mod lease;
pub mod machine;
pub mod metering;
pub mod order;
pub mod price;
pub mod refund;
pub mod usage;
pub mod want;

pub use amount::{Currency, Exact, Money, NotAnAmount, TooMuch};
pub use calendar::Period;
pub use lease::{Effect, Event, Lease, Rejected, Reminder, Rules, State};
pub use order::{Order, Purpose};
pub use price::{LongTerm, MachinePrices, PoolPrices, PoolSize};
pub use refund::RefundRule;
pub use want::{Next, Wanted};

#[cfg(test)]
mod tests;
