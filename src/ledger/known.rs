//! What a leader asks once, when it begins: which payments are counted.

use sqlx::Row as _;

use super::work::read;
use super::{Error, Ledger};

/// A payment that is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// Its name.
    pub name: String,
    /// The customer.
    pub account: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// A voucher instead of money.
    pub voucher: bool,
}

impl Ledger {
    /// All payments that are counted.
    pub async fn payments(&self) -> Result<Vec<Counted>, Error> {
        let text = "SELECT id, credit, amount FROM transfers WHERE id LIKE 'payment/%' AND kind = 'transfer'";
        let fault = read("payments");
        let rows = sqlx::query(text).fetch_all(&self.readers).await.map_err(&fault)?;
        let mut counted = Vec::with_capacity(rows.len());
        for row in rows {
            let id: String = row.try_get(0).map_err(&fault)?;
            let credit: String = row.try_get(1).map_err(&fault)?;
            let amount = row.try_get(2).map_err(&fault)?;
            if let (Some(name), Some((account, kind))) = (id.strip_prefix("payment/"), credit.split_once(':'))
            {
                let (name, account) = (name.to_owned(), account.to_owned());
                counted.push(Counted { name, account, amount, voucher: kind == "voucher" });
            }
        }
        Ok(counted)
    }
}
