//! One state of the ledger, read piece by piece: what bills and exports are made of, of which there is too much for memory.

use futures::TryStreamExt;
use futures::stream::BoxStream;
use sqlx::any::{Any, AnyRow};
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::book::{cash, voucher};
use super::orders::attempts;
use super::read::Lines;
use super::spans::{self, span};
use super::work::{COLUMNS, read, row, rows};
use super::{Contract, Error, Ledger, Line, OrderRow, SpanRow, entry};

/// How many columns of a transfer there are before those that only a snapshot asks for.
const OBJECT: usize = 14;

/// A state between two transactions: whoever writes meanwhile, all that is read of it fits together.
pub struct Snapshot {
    work: Transaction<'static, Any>,
}

/// From a moment until before another one, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The first.
    pub from_ms: i64,
    /// The first after it.
    pub until_ms: i64,
}

/// In which order lines come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they were written.
    Written,
    /// By contract, and then as they were written.
    Contract,
}

/// A line, whose it is, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementLine {
    /// The customer.
    pub account: String,
    /// The object of its contract, such as `ResidentPool/team-a/chat`.
    pub object: Option<String>,
    /// The line.
    pub line: Line,
}

/// Money that came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundRow {
    /// What it refunds; its own id.
    pub id: String,
    /// When it was written.
    pub at_ms: i64,
    /// How much.
    pub amount: i64,
    /// JSON: what the bill shows.
    pub detail: String,
}

impl Ledger {
    /// The state as it is now. It holds a connection until it is dropped.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot { work: self.begin_read().await? })
    }
}

/// Lines, one after the other: as many in memory as the driver reads ahead.
pub struct StatementLines<'s> {
    found: BoxStream<'s, Result<AnyRow, sqlx::Error>>,
    lines: Lines,
}

impl StatementLines<'_> {
    /// The next line; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<StatementLine>, Error> {
        let fault = read("lines");
        while let Some(it) = self.found.try_next().await.map_err(&fault)? {
            let object = it.try_get(OBJECT).map_err(&fault)?;
            if let Some(line) = self.lines.add(row(&it)?, object) {
                return Ok(Some(line));
            }
        }
        Ok(std::mem::take(&mut self.lines).last())
    }
}

impl Snapshot {
    /// The lines of a customer, or of all, that were written in this time. Payments too.
    pub fn lines(
        &mut self,
        account: Option<&str>,
        interval: Interval,
        order: Order,
    ) -> Result<StatementLines<'_>, Error> {
        let columns = format!("transfers.{}", COLUMNS.replace(", ", ", transfers."));
        let select = format!(
            "SELECT {columns}, contracts.object FROM transfers LEFT JOIN contracts ON contracts.id = transfers.contract \
             WHERE transfers.at_ms >= $1 AND transfers.at_ms < $2 AND transfers.kind IN ('transfer', 'post')"
        );
        let order = match order {
            Order::Written => "ORDER BY seq",
            Order::Contract => "ORDER BY contract, seq",
        };
        let text = match account {
            None => format!("{select} {order}"),
            Some(account) => {
                entry::check_account(account)?;
                // Two halves, each with its index.
                format!(
                    "{select} AND transfers.debit IN ($3, $4) UNION ALL {select} AND transfers.credit IN ($3, $4) \
                     AND substr(transfers.credit, 1, 6) <> 'sales:' {order}"
                )
            }
        };
        let mut query = sqlx::query(AssertSqlSafe(text)).bind(interval.from_ms).bind(interval.until_ms);
        if let Some(account) = account {
            query = query.bind(cash(account)).bind(voucher(account));
        }
        Ok(StatementLines { found: query.fetch(&mut *self.work), lines: Lines::default() })
    }

    /// What a customer, or all, were billed in this time in a currency, as one sum of the book.
    pub async fn billed(
        &mut self,
        account: Option<&str>,
        currency: &str,
        interval: Interval,
    ) -> Result<i64, Error> {
        let select = |sign: &str, of: &str| {
            let account = if account.is_some() { format!("AND {of} IN ($4, $5)") } else { String::new() };
            format!(
                "SELECT {sign} amount AS amount FROM transfers WHERE at_ms >= $1 AND at_ms < $2 AND currency = $3 {account} AND "
            )
        };
        let text = format!(
            "SELECT CAST(coalesce(sum(amount), 0) AS BIGINT) FROM ({} kind IN ('transfer', 'post') AND substr(credit, 1, 6) = 'sales:' \
             UNION ALL {} kind = 'transfer' AND substr(credit, 1, 6) <> 'sales:' AND substr(debit, 1, 6) = 'sales:') AS billed",
            select("", "debit"),
            select("-", "credit"),
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(interval.from_ms).bind(interval.until_ms);
        let mut query = query.bind(currency);
        if let Some(account) = account {
            query = query.bind(cash(account)).bind(voucher(account));
        }
        let row = query.fetch_one(&mut *self.work).await.map_err(read("billed"))?;
        row.try_get(0).map_err(read("billed"))
    }

    /// The contracts under which something was ordered and paid, by id.
    pub async fn ordered_contracts(&mut self) -> Result<Vec<Contract>, Error> {
        let text = "SELECT id, object, uid, opened_at_ms, closed_at_ms FROM contracts WHERE id IN \
                    (SELECT contract FROM transfers WHERE kind <> 'transfer' AND kind = 'post')";
        let rows = sqlx::query(text).fetch_all(&mut *self.work).await.map_err(read("contracts"))?;
        let mut all: Vec<Contract> = rows.iter().map(super::contracts::contract).collect::<Result<_, _>>()?;
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Every attempt at every order of a contract, as [`Ledger::orders`].
    pub async fn orders(&mut self, contract: &str) -> Result<Vec<OrderRow>, Error> {
        let text = format!(
            "SELECT {COLUMNS} FROM transfers WHERE contract = $1 AND kind <> 'transfer' ORDER BY seq"
        );
        let found = self.all(text, contract, "orders").await?;
        Ok(attempts(&rows(&found)?))
    }

    /// The refunds of a contract, in the order in which they were written.
    pub async fn refunds(&mut self, contract: &str) -> Result<Vec<RefundRow>, Error> {
        let text = format!(
            "SELECT {COLUMNS} FROM transfers WHERE contract = $1 AND substr(debit, 1, 6) = 'sales:' ORDER BY seq"
        );
        let found = self.all(text, contract, "refunds").await?;
        let refund = |it: super::book::Row<'_>| RefundRow {
            id: it.order_id.into_owned(),
            at_ms: it.at_ms,
            amount: it.amount,
            detail: it.detail.into_owned(),
        };
        Ok(rows(&found)?.into_iter().map(refund).collect())
    }

    /// All spans of something that is used. `resident:...`: what is prepaid.
    pub async fn spans_of(&mut self, sku: &str) -> Result<Vec<SpanRow>, Error> {
        let text = format!(
            "SELECT {} FROM spans WHERE sku = $1 AND substr(sku, 1, 9) = 'resident:' ORDER BY from_ms, id",
            spans::COLUMNS
        );
        let found = self.all(text, sku, "spans").await?;
        found.iter().map(span).collect::<Result<_, _>>().map_err(read("spans"))
    }

    async fn all(&mut self, text: String, value: &str, what: &'static str) -> Result<Vec<AnyRow>, Error> {
        let query = sqlx::query(AssertSqlSafe(text)).bind(value.to_owned());
        query.fetch_all(&mut *self.work).await.map_err(read(what))
    }
}
