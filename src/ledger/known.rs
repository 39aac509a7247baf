//! What a leader asks once, when it begins or finds something strange: which payments are counted, whose contract an object has.

use sqlx::Row as _;

use super::work::read;
use super::{Contract, Error, Ledger};

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

    /// The contract of the object with this uid, also a closed one.
    pub async fn contract_of(&self, uid: &str) -> Result<Option<Contract>, Error> {
        let fault = read("contract");
        let text = "SELECT id, object, uid, opened_at_ms, closed_at_ms FROM contracts WHERE uid = $1";
        let row = sqlx::query(text).bind(uid).fetch_optional(&self.readers).await.map_err(&fault)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Contract {
            id: row.try_get(0).map_err(&fault)?,
            object: row.try_get(1).map_err(&fault)?,
            uid: row.try_get(2).map_err(&fault)?,
            opened_at_ms: row.try_get(3).map_err(&fault)?,
            closed_at_ms: row.try_get(4).map_err(&fault)?,
        }))
    }
}
