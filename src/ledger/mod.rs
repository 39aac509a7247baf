//! The ledger: who paid what, who owes what, and proof of both.
//!
//! Double entry, append-only, integers in the currency's smallest unit. Accounts of the book are texts: `acme:cash` and
//! `acme:voucher` (what we owe the customer acme), `bank:CNY` and `vouchers:CNY` (where it came from), `sales:CNY` (what we
//! earned). A balance is credits − debits, so all of a currency together are zero. A price is held before we act and posted
//! after, or voided; a hold and its end are two rows. Ids come from what is paid for, so a repeat is a no-op, and every
//! transaction first moves the fence, so a leader whose term is over can't write. Use is kept as spans, never as a row per second;
//! what of a span is charged moves forward with the charge, in one transaction.
//!
//! Nothing here knows of Kubernetes or the time: an object is an opaque text, and `At` says when. What an order costs and
//! whether it should be made is decided in `domain`. SQL is the same for both engines, in writes with `?` for a value (see
//! `statement`), in reads with `$1`; only the migrations and how a connection is set up differ.

mod arrears;
mod billed;
mod book;
mod contracts;
mod entry;
mod known;
mod lead;
mod open;
mod orders;
mod outbox;
mod read;
mod replay;
mod snapshot;
mod spans;
mod statement;
mod usage;
mod verify;
mod work;

#[cfg(test)]
mod tests;

use sqlx::AnyPool;

pub use book::Funds;
pub use entry::{
    At, Balance, ChargeIn, Contract, Done, Held, Line, LineKind, OrderIn, OrderRow, OrderState, PaymentIn,
    RefundIn,
};
pub use known::Counted;
pub use outbox::{Delivery, DeliveryState, NoticeIn, NoticeRow};
pub use snapshot::{Interval, Order as LineOrder, RefundRow, Snapshot, StatementLine, StatementLines};
pub use spans::{Measured, PriceRow, SpanIn, SpanRow, UsageIn};
pub use verify::{Differences, Report};

/// A ledger in one database. Clones share its connections.
#[derive(Clone)]
pub struct Ledger {
    engine: Engine,
    /// One connection: there is one writer, and a second would only wait for the fence.
    writer: AnyPool,
    /// Reads don't wait for the writer.
    readers: AnyPool,
    #[cfg(test)]
    failpoint: tests::Failpoint,
}

/// Without the address, which has a password in it.
impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({:?})", self.engine)
    }
}

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// Why the ledger did not do it. Whatever it is, nothing of the call has been written.
///
/// With one exception: after `Commit` nobody knows. To repeat the call is right in both cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is of no database that we know.
    #[error("`{0}` is no ledger: say sqlite:PATH or postgres://...")]
    Address(String),
    /// There is no way to the database.
    #[error("open the database")]
    Connect(#[source] sqlx::Error),
    /// The tables can't be brought up to date.
    #[error("migrate to version {version}")]
    Migrate {
        /// Which version it was on the way to.
        version: i64,
        /// What the database says.
        source: sqlx::Error,
    },
    /// A newer Tenure has written it.
    #[error("the ledger has version {found}, this program knows {known}: use the newer program")]
    Newer {
        /// The version in the database.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// Nobody has brought it up to date: an operator that leads does.
    #[error(
        "the ledger has version {found}, this program knows {known}: an operator that leads brings it up to date"
    )]
    Older {
        /// The version in the database.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// It does not add up.
    #[error("the ledger does not add up: {0}")]
    Differs(Differences),
    /// No transaction could begin.
    #[error("begin")]
    Begin(#[source] sqlx::Error),
    /// Somebody with a later term of leadership writes now.
    #[error("the term {epoch} is over: somebody else leads")]
    Fenced {
        /// The term that is over.
        epoch: i64,
    },
    /// A read failed.
    #[error("read {what}")]
    Read {
        /// What was to be read.
        what: &'static str,
        /// What the database says.
        source: sqlx::Error,
    },
    /// A write failed.
    #[error("write {what}")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// What the database says.
        source: sqlx::Error,
    },
    /// The commit failed, or its answer was lost.
    #[error("commit")]
    Commit(#[source] sqlx::Error),
    /// The order costs more than there is.
    #[error("not enough: {needed} needed, {available} available")]
    NotEnough {
        /// Cash that is neither held nor used up: posted − held − accrued.
        available: i64,
        /// The part of the price that vouchers don't cover.
        needed: i64,
    },
    /// Whether there is enough is not known: use may or may not be charged already.
    #[error("whether the last use is charged already is not known yet: it is tried again in a moment")]
    Unsure,
    /// There is no hold to post.
    #[error("nothing is held for order `{0}`")]
    NoHold(String),
    /// What is posted can't be voided: refund it.
    #[error("order `{0}` is posted")]
    Posted(String),
    /// The id stands for something else already.
    #[error("`{0}` is taken by something else")]
    Taken(String),
    /// There is no such contract.
    #[error("there is no contract `{0}`")]
    NoContract(String),
    /// The contract is closed.
    #[error("contract `{0}` is closed")]
    Closed(String),
    /// What is used must be billed before the contract closes.
    #[error("contract `{0}` has use that is not billed")]
    Unbilled(String),
    /// The contract is another object's.
    #[error("contract `{contract}` is that of {object}")]
    OtherObject {
        /// The contract.
        contract: String,
        /// Whose it is.
        object: String,
    },
    /// More money than 64 bits hold.
    #[error("account `{0}` would overflow")]
    Overflow(String),
    /// The caller's value can't be.
    #[error("{field} `{value}`: {reason}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        reason: &'static str,
    },
    /// A row says something that no Tenure writes.
    #[error("transfer {seq} has the kind `{kind}`")]
    Kind {
        /// Which row.
        seq: i64,
        /// What it says.
        kind: String,
    },
}

impl Ledger {
    /// Stands before every statement of a write: tests end the process here.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests fail here")]
    fn step(&self) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// Stands before every statement of a write: tests end the process here.
    #[cfg(test)]
    fn step(&self) -> Result<(), sqlx::Error> {
        self.failpoint.step()
    }

    /// Whether statements may go to the engine together. Tests that end the process want to do so between any two.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests say no here")]
    fn together(&self) -> bool {
        true
    }

    /// Whether statements may go to the engine together.
    #[cfg(test)]
    fn together(&self) -> bool {
        self.failpoint.together()
    }

    /// Ends all connections; for an orderly shutdown.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
