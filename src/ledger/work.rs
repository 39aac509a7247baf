//! One write transaction: it begins by moving the fence, collects rows and balances in memory, and writes them at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::book::{Book, Kind, Row};
use super::{At, Error, Ledger};

/// The columns of a row, in the order of `row`. The chain comes last.
pub(super) const COLUMNS: &str =
    "seq, id, kind, of, order_id, contract, debit, credit, amount, currency, at_ms, epoch, detail, chain";
/// How many there are.
const COLUMN_COUNT: usize = 14;
/// How many rows one INSERT writes: larger ones gain nothing, and PostgreSQL takes 65,535 values.
const ROWS_PER_INSERT: usize = 100;
/// How many ids one SELECT asks for.
pub(super) const IDS_PER_SELECT: usize = 300;

/// A row before it has its place in the book.
pub(super) struct Entry<'a> {
    pub id: String,
    pub kind: Kind,
    pub of: Option<String>,
    pub order_id: &'a str,
    pub contract: Option<&'a str>,
    pub debit: String,
    pub credit: String,
    pub amount: i64,
    pub currency: &'a str,
    pub detail: &'a str,
}

/// A write transaction. Dropped before `commit` it has done nothing.
pub(super) struct Work<'l> {
    ledger: &'l Ledger,
    transaction: Transaction<'static, Any>,
    at: At,
    /// Where the chain ends, with what is not written yet.
    seq: i64,
    chain: String,
    entries: Vec<(Row, String)>,
    /// The balances that were read, changed by what is not written yet.
    book: Book,
    changed: BTreeSet<(String, String)>,
}

impl<'l> Work<'l> {
    /// Begins, and moves the fence. From there on PostgreSQL lets nobody else write, as SQLite does anyway.
    pub(super) async fn begin(ledger: &'l Ledger, at: At) -> Result<Work<'l>, Error> {
        ledger.step().map_err(Error::Begin)?;
        let mut transaction = ledger.writer.begin().await.map_err(Error::Begin)?;
        let fault = |source| Error::Write { what: "fence", source };
        ledger.step().map_err(fault)?;
        let fence = sqlx::query(
            "UPDATE fence SET epoch = $1 WHERE only_one = 1 AND epoch <= $1 RETURNING seq, chain",
        )
        .bind(at.epoch)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(fault)?
        .ok_or(Error::Fenced { epoch: at.epoch })?;
        let seq = fence.try_get(0).map_err(fault)?;
        let chain = fence.try_get(1).map_err(fault)?;
        let (entries, book, changed) = (Vec::new(), Book::default(), BTreeSet::new());
        Ok(Work { ledger, transaction, at, seq, chain, entries, book, changed })
    }

    /// Runs a query that asks.
    pub(super) async fn ask(
        &mut self,
        what: &'static str,
        query: Query<'_, Any, AnyArguments>,
    ) -> Result<Vec<AnyRow>, Error> {
        let fault = |source| Error::Read { what, source };
        self.ledger.step().map_err(fault)?;
        query.fetch_all(&mut *self.transaction).await.map_err(fault)
    }

    /// Runs a query that writes.
    pub(super) async fn write(
        &mut self,
        what: &'static str,
        query: Query<'_, Any, AnyArguments>,
    ) -> Result<(), Error> {
        let fault = |source| Error::Write { what, source };
        self.ledger.step().map_err(fault)?;
        query.execute(&mut *self.transaction).await.map(|_| ()).map_err(fault)
    }

    /// The rows with these ids.
    pub(super) async fn rows_by_id(&mut self, ids: &[String]) -> Result<Vec<Row>, Error> {
        self.rows_where("id IN", "", ids).await
    }

    /// The holds of these orders, and how they ended, oldest first.
    pub(super) async fn holds(&mut self, orders: &[&str]) -> Result<Vec<Row>, Error> {
        let orders: Vec<String> = orders.iter().map(|&it| it.to_owned()).collect();
        self.rows_where("order_id IN", "AND kind <> 'transfer'", &orders).await
    }

    async fn rows_where(&mut self, before: &str, after: &str, values: &[String]) -> Result<Vec<Row>, Error> {
        let mut found = Vec::new();
        for some in values.chunks(IDS_PER_SELECT) {
            let places = places(1, some.len());
            let text =
                format!("SELECT {COLUMNS} FROM transfers WHERE {before} {places} {after} ORDER BY seq");
            let mut query = sqlx::query(AssertSqlSafe(text));
            for value in some {
                query = query.bind(value.as_str());
            }
            for it in self.ask("transfers", query).await? {
                found.push(row(&it)?.0);
            }
        }
        Ok(found)
    }

    /// Reads what these accounts have, before anything is moved there.
    pub(super) async fn read_balances(&mut self, accounts: &BTreeSet<String>) -> Result<(), Error> {
        let accounts: Vec<&String> = accounts.iter().collect();
        for some in accounts.chunks(IDS_PER_SELECT) {
            let text = format!(
                "SELECT account, currency, posted, held FROM balances WHERE account IN {}",
                places(1, some.len())
            );
            let mut query = sqlx::query(AssertSqlSafe(text));
            for account in some {
                query = query.bind(account.as_str());
            }
            for it in self.ask("balances", query).await? {
                let (account, currency, funds) = super::read::funds(&it).map_err(read("balances"))?;
                self.book.set(&account, &currency, funds);
            }
        }
        Ok(())
    }

    /// When, and in whose term.
    pub(super) fn at(&self) -> At {
        self.at
    }

    /// The balances as they are after all entries so far. Only those that were read.
    pub(super) fn book(&self) -> &Book {
        &self.book
    }

    /// Puts a row at the end of the book. The balances of both accounts have been read.
    pub(super) fn enter(&mut self, entry: Entry<'_>) -> Result<(), Error> {
        let row = Row {
            seq: self.seq + 1,
            id: entry.id,
            kind: entry.kind,
            of: entry.of,
            order_id: entry.order_id.to_owned(),
            contract: entry.contract.map(str::to_owned),
            debit: entry.debit,
            credit: entry.credit,
            amount: entry.amount,
            currency: entry.currency.to_owned(),
            at_ms: self.at.ms,
            epoch: self.at.epoch,
            detail: entry.detail.to_owned(),
        };
        self.book.apply(&row)?;
        for account in [&row.debit, &row.credit] {
            self.changed.insert((account.clone(), row.currency.clone()));
        }
        self.seq = row.seq;
        self.chain = row.chain(&self.chain);
        self.entries.push((row, self.chain.clone()));
        Ok(())
    }

    /// Writes all entries, the balances and the end of the chain, and commits.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let entries = std::mem::take(&mut self.entries);
        for some in entries.chunks(ROWS_PER_INSERT) {
            self.insert(some).await?;
        }
        let changed = std::mem::take(&mut self.changed);
        for some in changed.into_iter().collect::<Vec<_>>().chunks(ROWS_PER_INSERT) {
            self.update_balances(some).await?;
        }
        if !entries.is_empty() {
            let query = sqlx::query("UPDATE fence SET seq = $1, chain = $2 WHERE only_one = 1");
            let query = query.bind(self.seq).bind(self.chain.clone());
            self.write("end of the chain", query).await?;
        }
        self.ledger.step().map_err(Error::Commit)?;
        self.transaction.commit().await.map_err(Error::Commit)?;
        self.ledger.step().map_err(Error::Commit)
    }

    async fn insert(&mut self, entries: &[(Row, String)]) -> Result<(), Error> {
        let places = places(entries.len(), COLUMN_COUNT);
        let mut query =
            sqlx::query(AssertSqlSafe(format!("INSERT INTO transfers ({COLUMNS}) VALUES {places}")));
        for (row, chain) in entries {
            query = query
                .bind(row.seq)
                .bind(row.id.as_str())
                .bind(row.kind.word())
                .bind(row.of.as_deref())
                .bind(row.order_id.as_str())
                .bind(row.contract.as_deref())
                .bind(row.debit.as_str())
                .bind(row.credit.as_str())
                .bind(row.amount)
                .bind(row.currency.as_str())
                .bind(row.at_ms)
                .bind(row.epoch)
                .bind(row.detail.as_str())
                .bind(chain.as_str());
        }
        self.write("transfers", query).await
    }

    async fn update_balances(&mut self, accounts: &[(String, String)]) -> Result<(), Error> {
        let places = places(accounts.len(), 4);
        let mut query = sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO balances (account, currency, posted, held) VALUES {places} \
             ON CONFLICT (account, currency) DO UPDATE SET posted = excluded.posted, held = excluded.held"
        )));
        for (account, currency) in accounts {
            let funds = self.book.funds(account, currency);
            query = query.bind(account.as_str()).bind(currency.as_str()).bind(funds.posted).bind(funds.held);
        }
        self.write("balances", query).await
    }
}

/// `($1, $2), ($3, $4)` for two rows of two columns.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let mut text = String::new();
    for row in 0..rows {
        for column in 0..columns {
            let before = match (row, column) {
                (0, 0) => "(",
                (_, 0) => "), (",
                (_, _) => ", ",
            };
            let place = row * columns + column + 1;
            write!(text, "{before}${place}").expect("a String takes all that is written to it");
        }
    }
    text.push(')');
    text
}

/// A fault while reading this.
pub(super) fn read(what: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| Error::Read { what, source }
}

/// A row of the book and its chain, from `COLUMNS`.
pub(super) fn row(from: &AnyRow) -> Result<(Row, String), Error> {
    let fault = read("transfers");
    let seq = from.try_get(0).map_err(&fault)?;
    let word: String = from.try_get(2).map_err(&fault)?;
    let kind = Kind::ALL.into_iter().find(|it| it.word() == word).ok_or(Error::Kind { seq, kind: word })?;
    let row = Row {
        seq,
        id: from.try_get(1).map_err(&fault)?,
        kind,
        of: from.try_get(3).map_err(&fault)?,
        order_id: from.try_get(4).map_err(&fault)?,
        contract: from.try_get(5).map_err(&fault)?,
        debit: from.try_get(6).map_err(&fault)?,
        credit: from.try_get(7).map_err(&fault)?,
        amount: from.try_get(8).map_err(&fault)?,
        currency: from.try_get(9).map_err(&fault)?,
        at_ms: from.try_get(10).map_err(&fault)?,
        epoch: from.try_get(11).map_err(&fault)?,
        detail: from.try_get(12).map_err(&fault)?,
    };
    Ok((row, from.try_get(13).map_err(&fault)?))
}

/// Rows by their ids.
pub(super) fn by_id(rows: Vec<Row>) -> BTreeMap<String, Row> {
    rows.into_iter().map(|it| (it.id.clone(), it)).collect()
}
