//! Spans of use and prices: what is known of them, and what of them is billed. When a span begins and ends is decided in `domain`.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::entry::{check_account, check_amount, check_currency, check_text};
use super::work::{IDS_PER_SELECT, Work, places, read};
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
        let mut work = Work::begin(self, at).await?;
        work.open_contracts(measured.begun.iter().map(|it| it.contract.as_str())).await?;
        for some in measured.prices.chunks(ROWS_PER_INSERT) {
            work.insert_prices(some).await?;
        }
        for some in measured.begun.chunks(ROWS_PER_INSERT) {
            work.insert_spans(some).await?;
        }
        let text = "UPDATE spans SET until_ms = CASE \
                    WHEN billed_ms > $1 THEN billed_ms WHEN from_ms > $1 THEN from_ms ELSE $1 END \
                    WHERE id = $2 AND until_ms IS NULL";
        for (id, until_ms) in &measured.ended {
            work.write("spans", sqlx::query(text).bind(*until_ms).bind(id.as_str())).await?;
        }
        if let Some((confirmed_ms, ids)) = &measured.confirmed {
            work.move_spans("confirmed_ms", "AND until_ms IS NULL", *confirmed_ms, ids).await?;
        }
        work.commit().await
    }

    /// Charges usage, says of its spans that they are billed, and closes contracts: all or nothing. Lines as in `charge`.
    pub async fn charge_usage(&self, at: At, usage: &UsageIn) -> Result<Vec<Done>, Error> {
        for charge in &usage.charges {
            charge.check()?;
        }
        let mut work = Work::begin(self, at).await?;
        let done = usage::enter_all(&mut work, &usage.charges).await?;
        let mut by_time: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for (id, until_ms) in &usage.billed {
            by_time.entry(*until_ms).or_default().push(id.clone());
        }
        for (until_ms, ids) in &by_time {
            work.move_spans("billed_ms", "", *until_ms, ids).await?;
        }
        work.known_contracts(usage.closed.iter().map(String::as_str)).await?;
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

impl Work<'_> {
    async fn insert_prices(&mut self, prices: &[PriceRow]) -> Result<(), Error> {
        let places = places(prices.len(), 3);
        let text = format!(
            "INSERT INTO prices (sku, from_ms, price) VALUES {places} ON CONFLICT (sku, from_ms) DO NOTHING"
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for it in prices {
            query = query.bind(it.sku.as_str()).bind(it.from_ms).bind(it.price.as_str());
        }
        self.write("prices", query).await
    }

    async fn insert_spans(&mut self, spans: &[SpanIn]) -> Result<(), Error> {
        let places = places(spans.len(), 9);
        let text = format!(
            "INSERT INTO spans (id, contract, account, currency, sku, units, from_ms, confirmed_ms, billed_ms) \
             VALUES {places} ON CONFLICT (id) DO NOTHING"
        );
        let mut query = sqlx::query(AssertSqlSafe(text));
        for it in spans {
            query = query
                .bind(it.id.as_str())
                .bind(it.contract.as_str())
                .bind(it.account.as_str())
                .bind(it.currency.as_str())
                .bind(it.sku.as_str())
                .bind(it.units)
                .bind(it.from_ms)
                .bind(it.from_ms)
                .bind(it.from_ms);
        }
        self.write("spans", query).await
    }

    /// Moves a time of spans forward; what is there already stays.
    async fn move_spans(
        &mut self,
        column: &'static str,
        only: &'static str,
        to_ms: i64,
        ids: &[String],
    ) -> Result<(), Error> {
        let ids: Vec<&String> = ids.iter().collect::<BTreeSet<_>>().into_iter().collect();
        for some in ids.chunks(IDS_PER_SELECT) {
            // The first place is the time.
            let listed: Vec<String> = (2..some.len() + 2).map(|it| format!("${it}")).collect();
            let listed = listed.join(", ");
            let text =
                format!("UPDATE spans SET {column} = $1 WHERE {column} < $1 {only} AND id IN ({listed})");
            let mut query = sqlx::query(AssertSqlSafe(text)).bind(to_ms);
            for id in some {
                query = query.bind(id.as_str());
            }
            self.write("spans", query).await?;
        }
        Ok(())
    }
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
