//! What the ledger says to bills, lists and arrears. Nothing here writes.

use std::borrow::Cow;
use std::fmt::Write;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::book::{Funds, Row, cash, voucher};
use super::orders::attempts;
use super::work::{COLUMNS, read, row, rows};
use super::{Balance, Error, Ledger, Line, LineKind, OrderRow, entry};

impl Ledger {
    /// Every attempt at every order of a contract, in the order in which they were posted, or held if they weren't.
    pub async fn orders(&self, contract: &str) -> Result<Vec<OrderRow>, Error> {
        let text = format!(
            "SELECT {COLUMNS} FROM transfers WHERE contract = $1 AND kind <> 'transfer' ORDER BY seq"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(contract);
        let rows = query.fetch_all(&self.readers).await.map_err(read("orders"))?;
        Ok(attempts(&self::rows(&rows)?))
    }

    /// What a customer has in a currency.
    pub async fn balance(&self, account: &str, currency: &str) -> Result<Balance, Error> {
        entry::check_account(account)?;
        let query = sqlx::query(
            "SELECT account, currency, posted, held FROM balances WHERE account IN ($1, $2) AND currency = $3",
        );
        let query = query.bind(cash(account)).bind(voucher(account)).bind(currency);
        let mut balance = Balance::default();
        for it in query.fetch_all(&self.readers).await.map_err(read("balance"))? {
            let (name, _, found) = funds(&it).map_err(read("balance"))?;
            if name == cash(account) { balance.cash = found } else { balance.voucher = found }
        }
        Ok(balance)
    }

    /// What a bill shows of a customer: what was paid, charged and refunded from `from_ms` until before `until_ms`, in the order
    /// in which it was written. Over all time the lines add up to what is posted.
    pub async fn lines(&self, account: &str, from_ms: i64, until_ms: i64) -> Result<Vec<Line>, Error> {
        entry::check_account(account)?;
        // Two halves, each with its index.
        let text = format!(
            "SELECT {COLUMNS} FROM transfers WHERE debit IN ($1, $2) AND at_ms >= $3 AND at_ms < $4 \
             AND kind IN ('transfer', 'post') \
             UNION ALL \
             SELECT {COLUMNS} FROM transfers WHERE credit IN ($1, $2) AND at_ms >= $3 AND at_ms < $4 \
             AND kind IN ('transfer', 'post') AND substr(credit, 1, 6) <> 'sales:' \
             ORDER BY seq"
        );
        let query = sqlx::query(AssertSqlSafe(text));
        let query = query.bind(cash(account)).bind(voucher(account)).bind(from_ms).bind(until_ms);
        let mut lines: Vec<Line> = Vec::new();
        for it in query.fetch_all(&self.readers).await.map_err(read("lines"))? {
            add(&mut lines, row(&it)?);
        }
        Ok(lines)
    }

    /// All rows of all tables as text, in a fixed order: two ledgers with the same content have the same dump.
    pub async fn dump(&self) -> Result<String, Error> {
        let mut text = String::new();
        let fault = read("dump");
        let mut work = self.begin_read().await?;
        for (table, columns, order) in [
            ("transfers", COLUMNS, "seq"),
            ("balances", "account, currency, posted, held", ""),
            ("contracts", "id, object, uid, opened_at_ms, closed_at_ms", ""),
            ("spans", super::spans::COLUMNS, ""),
            ("prices", "sku, from_ms, price", ""),
            ("arrears", "account, since_ms, until_ms", ""),
            ("fence", "epoch, seq, chain", ""),
        ] {
            let order = if order.is_empty() { String::new() } else { format!("ORDER BY {order}") };
            let query = sqlx::query(AssertSqlSafe(format!("SELECT {columns} FROM {table} {order}")));
            let rows = query.fetch_all(&mut *work).await.map_err(&fault)?;
            let mut rows: Vec<String> = rows.iter().map(line).collect::<Result<_, _>>().map_err(&fault)?;
            // Databases sort texts differently.
            if order.is_empty() {
                rows.sort();
            }
            for row in rows {
                writeln!(text, "{table} {row}").expect("a String takes all that is written to it");
            }
        }
        Ok(text)
    }
}

/// A row as text: numbers, texts in quotes, `-` for nothing.
fn line(row: &AnyRow) -> Result<String, sqlx::Error> {
    let mut cells = Vec::with_capacity(row.len());
    for place in 0..row.len() {
        let cell = match row.try_get::<Option<i64>, _>(place) {
            Ok(Some(number)) => number.to_string(),
            Ok(None) => "-".to_owned(),
            Err(_) => format!("{:?}", row.try_get::<String, _>(place)?),
        };
        cells.push(cell);
    }
    Ok(cells.join(" "))
}

/// Adds a row to the line that it belongs to: the legs of one order or charge stand together.
fn add(lines: &mut Vec<Line>, row: Row<'_>) {
    let kind = row.purpose();
    let amount = match kind {
        LineKind::Payment | LineKind::Refund => row.amount,
        LineKind::Order | LineKind::Usage => -row.amount,
    };
    let (_, in_vouchers) = row.customer();
    let (cash, voucher) = if in_vouchers { (0, amount) } else { (amount, 0) };
    match lines.last_mut() {
        Some(last) if last.id == row.order_id && last.kind == kind => {
            last.cash = last.cash.saturating_add(cash);
            last.voucher = last.voucher.saturating_add(voucher);
        }
        Some(_) | None => lines.push(Line {
            id: row.order_id.into_owned(),
            kind,
            at_ms: row.at_ms,
            contract: row.contract.map(Cow::into_owned),
            currency: row.currency.into_owned(),
            cash,
            voucher,
            detail: row.detail.into_owned(),
        }),
    }
}

/// An account, a currency, and what is there.
pub(super) fn funds(from: &AnyRow) -> Result<(String, String, Funds), sqlx::Error> {
    Ok((from.try_get(0)?, from.try_get(1)?, Funds { posted: from.try_get(2)?, held: from.try_get(3)? }))
}
