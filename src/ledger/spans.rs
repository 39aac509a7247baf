//! Spans of use and prices: what is known of them, and what of them is billed. When a span begins and ends is decided in `domain`.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::contracts::{all_known, all_open, contracts_by_id};
use super::entry::{check_account, check_amount, check_currency, check_text};
use super::statement::{Statement, Value, places};
use super::work::{VALUES_PER_SELECT, Work, read};
use super::{At, ChargeIn, Done, Error, Ledger, usage};

/// The columns of a span, in the order of `span`.
pub(super) const COLUMNS: &str =
    "id, contract, account, currency, sku, units, from_ms, until_ms, confirmed_ms, billed_ms";
/// How many spans one INSERT writes.
const ROWS_PER_INSERT: usize = 100;

/// A span that begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanIn {
    /// Made of what it measures; counts once.
    pub id: String,
    /// The contract that it belongs to.
    pub contract: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// What is used: a key of the prices.
    pub sku: String,
    /// How many units, above zero.
    pub units: i64,
    /// When it begins.
    pub from_ms: i64,
}

/// A span as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRow {
    /// What was said when it began.
    pub begun: SpanIn,
    /// When it ended.
    pub until_ms: Option<i64>,
    /// Until when it is known to have lasted.
    pub confirmed_ms: i64,
    /// What is before this is charged.
    pub billed_ms: i64,
}

/// What something costs from a moment on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRow {
    /// What it is the price of.
    pub sku: String,
    /// From when.
    pub from_ms: i64,
    /// A plain decimal number.
    pub price: String,
}

/// What was measured, in one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// Prices that begin. One that is there already stays.
    pub prices: Vec<PriceRow>,
    /// Spans that begin. One that is there already stays.
    pub begun: Vec<SpanIn>,
    /// Spans that end, by id, and when. One that has ended stays; none ends before what is billed of it.
    pub ended: Vec<(String, i64)>,
    /// Until when spans are known to have lasted, and which.
    pub confirmed: Option<(i64, Vec<String>)>,
}

impl Measured {
    /// Is there nothing to write?
    pub fn is_empty(&self) -> bool {
        let Measured { prices, begun, ended, confirmed } = self;
        prices.is_empty() && begun.is_empty() && ended.is_empty() && confirmed.is_none()
    }

    fn check(&self) -> Result<(), Error> {
        for it in &self.prices {
            check_text("sku", &it.sku)?;
            check_text("price", &it.price)?;
        }
        for it in &self.begun {
            check_text("span", &it.id)?;
            check_text("contract", &it.contract)?;
            check_account(&it.account)?;
            check_currency(&it.currency)?;
            check_text("sku", &it.sku)?;
            check_amount("units", it.units, 1)?;
        }
        Ok(())
    }
}

/// Usage that is charged, and with it, in one transaction, how far its spans are billed and which contracts close.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageIn {
    /// The lines.
    pub charges: Vec<ChargeIn>,
    /// Spans by id, and until when they are billed.
    pub billed: Vec<(String, i64)>,
    /// Contracts of which this is the last.
    pub closed: Vec<String>,
}

impl Ledger {
    /// Writes what was measured, of contracts that are open. Who repeats it changes nothing.
    pub async fn measure(&self, at: At, measured: &Measured) -> Result<(), Error> {
        measured.check()?;
        let contracts = measured.begun.iter().map(|it| it.contract.as_str()).collect();
        let (mut work, [known]) = Work::begin(self, at, [contracts_by_id(&contracts)]).await?;
        all_open(&contracts, &known)?;
        let mut statements: Vec<Statement<'_>> =
            measured.prices.chunks(ROWS_PER_INSERT).map(insert_prices).collect();
        statements.extend(measured.begun.chunks(ROWS_PER_INSERT).map(insert_spans));
        let text = "UPDATE spans SET until_ms = CASE \
                    WHEN billed_ms > ? THEN billed_ms WHEN from_ms > ? THEN from_ms ELSE ? END \
                    WHERE id = ? AND until_ms IS NULL";
        for (id, until_ms) in &measured.ended {
            let until = Value::Number(*until_ms);
            statements.push(Statement::new(text, [until, until, until, Value::Text(id)]));
        }
        if let Some((confirmed_ms, ids)) = &measured.confirmed {
            statements.extend(move_spans("confirmed_ms", "AND until_ms IS NULL", *confirmed_ms, ids));
        }
        work.write("spans", statements).await?;
        work.commit().await
    }

    /// Charges usage, says of its spans that they are billed, and closes contracts: all or nothing. Lines as in `charge`.
    pub async fn charge_usage(&self, at: At, usage: &UsageIn) -> Result<Vec<Done>, Error> {
        for charge in &usage.charges {
            charge.check()?;
        }
        let closed = usage.closed.iter().map(String::as_str).collect();
        let (mut work, [known]) = Work::begin(self, at, [contracts_by_id(&closed)]).await?;
        let done = usage::enter_all(&mut work, &usage.charges).await?;
        let mut by_time: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (id, until_ms) in &usage.billed {
            by_time.entry(*until_ms).or_default().push(id.clone());
        }
        let moved = by_time.iter().flat_map(|(until_ms, ids)| move_spans("billed_ms", "", *until_ms, ids));
        work.write("spans", moved.collect()).await?;
        all_known(&closed, &known)?;
        for contract in &usage.closed {
            work.close_contract(contract).await?;
        }
        work.commit().await?;
        Ok(done)
    }

    /// Spans that have not ended, or are not billed to their end, by id.
    pub async fn unbilled_spans(&self) -> Result<Vec<SpanRow>, Error> {
        let text = format!("SELECT {COLUMNS} FROM spans WHERE until_ms IS NULL OR billed_ms < until_ms");
        self.spans_where(text).await
    }

    /// All spans of a contract, by id.
    pub async fn spans(&self, contract: &str) -> Result<Vec<SpanRow>, Error> {
        let text = format!("SELECT {COLUMNS} FROM spans WHERE contract = $1");
        let query = sqlx::query(AssertSqlSafe(text)).bind(contract);
        let rows = query.fetch_all(&self.readers).await.map_err(read("spans"))?;
        sorted(&rows)
    }

    async fn spans_where(&self, text: String) -> Result<Vec<SpanRow>, Error> {
        let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(&self.readers).await.map_err(read("spans"))?;
        sorted(&rows)
    }

    /// Until when open contracts are billed, by contract: those of which anything is.
    pub async fn billed_until(&self) -> Result<BTreeMap<String, i64>, Error> {
        let fault = read("spans");
        let text = "SELECT spans.contract, max(spans.billed_ms) FROM spans JOIN contracts ON contracts.id = spans.contract \
                    WHERE contracts.closed_at_ms IS NULL AND spans.billed_ms > spans.from_ms GROUP BY spans.contract";
        let rows = sqlx::query(text).fetch_all(&self.readers).await.map_err(&fault)?;
        rows.iter().map(|it| Ok((it.try_get(0).map_err(&fault)?, it.try_get(1).map_err(&fault)?))).collect()
    }

    /// All prices, in the order of what they are for and time.
    pub async fn prices(&self) -> Result<Vec<PriceRow>, Error> {
        let fault = read("prices");
        let rows = sqlx::query("SELECT sku, from_ms, price FROM prices").fetch_all(&self.readers).await;
        let mut prices = Vec::new();
        for it in rows.map_err(&fault)? {
            let sku: String = it.try_get(0).map_err(&fault)?;
            let from_ms = it.try_get(1).map_err(&fault)?;
            prices.push(PriceRow { sku, from_ms, price: it.try_get(2).map_err(&fault)? });
        }
        // Databases sort texts differently.
        prices.sort_by(|a, b| (&a.sku, a.from_ms).cmp(&(&b.sku, b.from_ms)));
        Ok(prices)
    }
}

fn insert_prices(prices: &[PriceRow]) -> Statement<'_> {
    let places = places(prices.len(), 3);
    let text = format!(
        "INSERT INTO prices (sku, from_ms, price) VALUES {places} ON CONFLICT (sku, from_ms) DO NOTHING"
    );
    let values = prices.iter().flat_map(|it| -> [Value<'_>; 3] {
        [it.sku.as_str().into(), it.from_ms.into(), it.price.as_str().into()]
    });
    Statement::new(text, values)
}

fn insert_spans(spans: &[SpanIn]) -> Statement<'_> {
    let places = places(spans.len(), 9);
    let text = format!(
        "INSERT INTO spans (id, contract, account, currency, sku, units, from_ms, confirmed_ms, billed_ms) \
         VALUES {places} ON CONFLICT (id) DO NOTHING"
    );
    let values = spans.iter().flat_map(|it| -> [Value<'_>; 9] {
        let from = Value::Number(it.from_ms);
        let [id, contract, account] = [&it.id, &it.contract, &it.account].map(|it| Value::Text(it));
        [
            id,
            contract,
            account,
            it.currency.as_str().into(),
            it.sku.as_str().into(),
            it.units.into(),
            from,
            from,
            from,
        ]
    });
    Statement::new(text, values)
}

/// Moves a time of spans forward; what is there already stays.
fn move_spans<'a>(column: &str, only: &str, to_ms: i64, ids: &'a [String]) -> Vec<Statement<'a>> {
    let ids: Vec<&String> = ids.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let statement = |some: &[&'a String]| {
        let places = places(1, some.len());
        let text = format!("UPDATE spans SET {column} = ? WHERE {column} < ? {only} AND id IN {places}");
        let times = [Value::Number(to_ms), Value::Number(to_ms)];
        Statement::new(text, times.into_iter().chain(some.iter().map(|it| Value::Text(it.as_str()))))
    };
    ids.chunks(VALUES_PER_SELECT).map(statement).collect()
}

fn sorted(rows: &[AnyRow]) -> Result<Vec<SpanRow>, Error> {
    let mut spans: Vec<SpanRow> = rows.iter().map(span).collect::<Result<_, _>>().map_err(read("spans"))?;
    spans.sort_by(|a, b| a.begun.id.cmp(&b.begun.id));
    Ok(spans)
}

/// A span, from `COLUMNS`.
pub(super) fn span(from: &AnyRow) -> Result<SpanRow, sqlx::Error> {
    let begun = SpanIn {
        id: from.try_get(0)?,
        contract: from.try_get(1)?,
        account: from.try_get(2)?,
        currency: from.try_get(3)?,
        sku: from.try_get(4)?,
        units: from.try_get(5)?,
        from_ms: from.try_get(6)?,
    };
    Ok(SpanRow {
        begun,
        until_ms: from.try_get(7)?,
        confirmed_ms: from.try_get(8)?,
        billed_ms: from.try_get(9)?,
    })
}
