//! Since when accounts are in arrears: written by who sees it first, so that who leads next goes on from there.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::entry::check_account;
use super::statement::{Statement, Value};
use super::work::{Work, read};
use super::{At, Error, Ledger};

impl Ledger {
    /// An account is in arrears from now on. One that is already stays so since then.
    pub async fn begin_arrears(&self, at: At, account: &str) -> Result<(), Error> {
        check_account(account)?;
        let text = "INSERT INTO arrears (account, since_ms) VALUES (?, ?) ON CONFLICT DO NOTHING";
        self.write_arrears(at, Statement::new(text, [Value::Text(account), Value::Number(at.ms)])).await
    }

    /// An account is not in arrears any more.
    pub async fn end_arrears(&self, at: At, account: &str) -> Result<(), Error> {
        check_account(account)?;
        let text = "UPDATE arrears SET until_ms = CASE WHEN since_ms > ? THEN since_ms ELSE ? END \
                    WHERE account = ? AND until_ms IS NULL";
        let now = Value::Number(at.ms);
        self.write_arrears(at, Statement::new(text, [now, now, Value::Text(account)])).await
    }

    async fn write_arrears(&self, at: At, statement: Statement<'_>) -> Result<(), Error> {
        let (mut work, []) = Work::begin(self, at, []).await?;
        work.write("arrears", vec![statement]).await?;
        work.commit().await
    }

    /// Accounts in arrears, and since when.
    pub async fn arrears(&self) -> Result<BTreeMap<String, i64>, Error> {
        let fault = read("arrears");
        let text = "SELECT account, since_ms FROM arrears WHERE until_ms IS NULL";
        let rows = sqlx::query(text).fetch_all(&self.readers).await.map_err(&fault)?;
        rows.iter().map(|it| Ok((it.try_get(0).map_err(&fault)?, it.try_get(1).map_err(&fault)?))).collect()
    }
}
