//! Who writes the ledger: each leader takes a term of its own, above all that were before, and is fenced off by the next.

use sqlx::Row as _;

use super::{Error, Ledger};

impl Ledger {
    /// Begins a term of leadership, and fences off all before it. It comes from the ledger itself: whatever becomes of the lease,
    /// whoever led the ledger last is known here.
    pub async fn lead(&self) -> Result<i64, Error> {
        let fault = |source| Error::Write { what: "fence", source };
        let text = "UPDATE fence SET epoch = epoch + 1 WHERE only_one = 1 RETURNING epoch";
        let row = sqlx::query(text).fetch_one(&self.writer).await.map_err(fault)?;
        row.try_get(0).map_err(fault)
    }
}
