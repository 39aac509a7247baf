//! What the ledger says to bills, lists and arrears. Nothing here writes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::book::{Funds, Row, cash, voucher};
use super::orders::attempts;
use super::work::{COLUMNS, VALUES_PER_SELECT, read, row, rows};
use super::{Balance, Error, Ledger, Line, LineKind, OrderRow, StatementLine, entry};

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
        let (mut made, mut lines) = (Lines::default(), Vec::new());
        for it in query.fetch_all(&self.readers).await.map_err(read("lines"))? {
            lines.extend(made.add(row(&it)?, None).map(|it| it.line));
        }
        lines.extend(made.last().map(|it| it.line));
        Ok(lines)
    }

    /// When these were refunded, by the id of the refund: those that were.
    pub async fn refunded(&self, refunds: &[String]) -> Result<BTreeMap<String, i64>, Error> {
        let mut found = BTreeMap::new();
        for some in refunds.chunks(VALUES_PER_SELECT) {
            let places: Vec<String> = (1..=some.len()).map(|it| format!("${it}")).collect();
            let text = format!("SELECT order_id, at_ms FROM transfers WHERE id IN ({})", places.join(", "));
            let mut query = sqlx::query(AssertSqlSafe(text));
            for it in some {
                query = query.bind(format!("{it}/cash"));
            }
            for row in query.fetch_all(&self.readers).await.map_err(read("refunds"))? {
                let fault = read("refunds");
                found.insert(row.try_get(0).map_err(&fault)?, row.try_get(1).map_err(&fault)?);
            }
        }
        Ok(found)
    }

    /// Since when what is posted for a customer, money and vouchers together, has been below `least` without a break; `None` when
    /// it is not below it.
    pub async fn below_since(&self, account: &str, currency: &str, least: i64) -> Result<Option<i64>, Error> {
        let now = self.balance(account, currency).await?;
        let mut posted = now.cash.posted.saturating_add(now.voucher.posted);
        let (mut since, mut before) = (None, i64::MAX);
        // Two halves, each with its index; from the last row back, until before one there was enough.
        let text = "SELECT seq, at_ms, amount FROM ( \
             SELECT seq, at_ms, -amount AS amount FROM transfers WHERE debit IN ($1, $2) AND currency = $3 AND seq < $4 \
             AND kind IN ('transfer', 'post') \
             UNION ALL \
             SELECT seq, at_ms, amount FROM transfers WHERE credit IN ($1, $2) AND currency = $3 AND seq < $4 \
             AND kind IN ('transfer', 'post') AND substr(credit, 1, 6) <> 'sales:') AS moved \
             ORDER BY seq DESC LIMIT 500";
        let fault = read("arrears");
        while posted < least {
            let query = sqlx::query(text).bind(cash(account)).bind(voucher(account)).bind(currency);
            let rows = query.bind(before).fetch_all(&self.readers).await.map_err(&fault)?;
            if rows.is_empty() {
                return Ok(since);
            }
            for row in rows {
                let amount: i64 = row.try_get(2).map_err(&fault)?;
                before = row.try_get(0).map_err(&fault)?;
                if posted >= least {
                    return Ok(since);
                }
                since = Some(row.try_get(1).map_err(&fault)?);
                posted = posted.saturating_sub(amount);
            }
        }
        Ok(since)
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
            ("notices", "id, account, kind, detail, at_ms, addressed", ""),
            ("deliveries", "notice, target, state, attempts, error, at_ms", ""),
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

/// Makes lines of rows: the legs of one order or charge stand together.
#[derive(Default)]
pub(super) struct Lines(Option<StatementLine>);

impl Lines {
    /// Adds a row; the line before it, if that is complete.
    pub(super) fn add(&mut self, row: Row<'_>, object: Option<String>) -> Option<StatementLine> {
        let kind = row.purpose();
        let amount = match kind {
            LineKind::Payment | LineKind::Refund => row.amount,
            LineKind::Order | LineKind::Usage => -row.amount,
        };
        let (account, in_vouchers) = row.customer();
        let (cash, voucher) = if in_vouchers { (0, amount) } else { (amount, 0) };
        if let Some(StatementLine { line: last, .. }) = &mut self.0
            && last.id == row.order_id
            && last.kind == kind
        {
            last.cash = last.cash.saturating_add(cash);
            last.voucher = last.voucher.saturating_add(voucher);
            return None;
        }
        let account = account.to_owned();
        let line = Line {
            id: row.order_id.into_owned(),
            kind,
            at_ms: row.at_ms,
            contract: row.contract.map(Cow::into_owned),
            currency: row.currency.into_owned(),
            cash,
            voucher,
            detail: row.detail.into_owned(),
        };
        self.0.replace(StatementLine { account, object, line })
    }

    /// The last line.
    pub(super) fn last(self) -> Option<StatementLine> {
        self.0
    }
}

/// An account, a currency, and what is there.
pub(super) fn funds(from: &AnyRow) -> Result<(String, String, Funds), sqlx::Error> {
    Ok((from.try_get(0)?, from.try_get(1)?, Funds { posted: from.try_get(2)?, held: from.try_get(3)? }))
}
