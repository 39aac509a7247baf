//! What a customer was billed, as one sum: a month of usage has too many lines to read for it.

use sqlx::{AssertSqlSafe, Row as _};

use super::book::{cash, voucher};
use super::work::read;
use super::{Error, Ledger, entry};

impl Ledger {
    /// What a customer was billed from `from_ms` on: orders and usage, less refunds, in money and vouchers. Payments don't count.
    pub async fn billed(&self, account: &str, currency: &str, from_ms: i64) -> Result<i64, Error> {
        entry::check_account(account)?;
        // Two halves, each with its index. Refunds are the transfers that come from sales.
        let text = "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM ( \
             SELECT amount FROM transfers WHERE debit IN ($1, $2) AND at_ms >= $3 AND currency = $4 \
             AND kind IN ('transfer', 'post') \
             UNION ALL \
             SELECT -amount FROM transfers WHERE credit IN ($1, $2) AND at_ms >= $3 AND currency = $4 \
             AND kind = 'transfer' AND substr(credit, 1, 6) <> 'sales:' AND substr(debit, 1, 6) = 'sales:') AS billed";
        let query = sqlx::query(AssertSqlSafe(text.to_owned()));
        let query = query.bind(cash(account)).bind(voucher(account)).bind(from_ms).bind(currency);
        let row = query.fetch_one(&self.readers).await.map_err(read("billed"))?;
        row.try_get(0).map_err(read("billed"))
    }
}
