//! One write transaction: it begins by moving the fence, collects rows and balances in memory, and writes them at the end.

use std::borrow::Cow;
use std::collections::BTreeSet;

use sqlx::any::{Any, AnyRow};
use sqlx::{Row as _, Transaction};

use super::book::{Book, Kind, Row};
use super::statement::{Statement, Value, messages, places};
use super::{At, Error, Ledger};

/// The columns of a row, in the order of `row`. The chain comes last.
pub(super) const COLUMNS: &str =
    "seq, id, kind, of, order_id, contract, debit, credit, amount, currency, at_ms, epoch, detail, chain";
/// How many there are.
const COLUMN_COUNT: usize = 14;
/// How many rows one INSERT writes: larger ones gain nothing, and PostgreSQL takes 65,535 values.
const ROWS_PER_INSERT: usize = 100;
/// How many ids or names one SELECT asks for.
pub(super) const VALUES_PER_SELECT: usize = 300;

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
    entries: Vec<(Row<'static>, String)>,
    /// The balances that were read, changed by what is not written yet.
    book: Book,
    changed: BTreeSet<(String, String)>,
}

impl<'l> Work<'l> {
    /// Begins, moves the fence, and asks the first questions: as far as they are known now, all of them, because SQLite gets them
    /// at once. From there on PostgreSQL lets nobody else write, as SQLite does anyway.
    pub(super) async fn begin<const N: usize>(
        ledger: &'l Ledger,
        at: At,
        questions: [Vec<Statement<'_>>; N],
    ) -> Result<(Work<'l>, [Vec<AnyRow>; N]), Error> {
        ledger.step().map_err(Error::Begin)?;
        let transaction = ledger.writer.begin().await.map_err(Error::Begin)?;
        let (entries, book, changed) = (Vec::new(), Book::default(), BTreeSet::new());
        let mut work = Work { ledger, transaction, at, seq: 0, chain: String::new(), entries, book, changed };
        let text = "UPDATE fence SET epoch = ? WHERE only_one = 1 AND epoch <= ? RETURNING seq, chain";
        let fence = Statement::new(text, [at.epoch, at.epoch]);
        let counts = questions.each_ref().map(Vec::len);
        let statements = std::iter::once(fence).chain(questions.into_iter().flatten()).collect();
        let fault = |source| Error::Write { what: "fence", source };
        let mut answers = work.run(statements).await.map_err(fault)?.into_iter();
        let fence = answers.next().unwrap_or_default();
        let fence = fence.first().ok_or(Error::Fenced { epoch: at.epoch })?;
        work.seq = fence.try_get(0).map_err(fault)?;
        work.chain = fence.try_get(1).map_err(fault)?;
        Ok((work, counts.map(|count| answers.by_ref().take(count).flatten().collect())))
    }

    /// Runs statements; the rows that each of them gives.
    async fn run(&mut self, statements: Vec<Statement<'_>>) -> Result<Vec<Vec<AnyRow>>, sqlx::Error> {
        let mut answers = Vec::with_capacity(statements.len());
        for message in messages(self.ledger.engine, self.ledger.together(), statements) {
            self.ledger.step()?;
            message.send(&mut self.transaction, &mut answers).await?;
        }
        Ok(answers)
    }

    /// Runs statements that ask; all their rows.
    pub(super) async fn ask(
        &mut self,
        what: &'static str,
        statements: Vec<Statement<'_>>,
    ) -> Result<Vec<AnyRow>, Error> {
        let answers = self.run(statements).await.map_err(read(what))?;
        Ok(answers.into_iter().flatten().collect())
    }

    /// Runs statements that write.
    pub(super) async fn write(
        &mut self,
        what: &'static str,
        statements: Vec<Statement<'_>>,
    ) -> Result<(), Error> {
        self.run(statements).await.map(|_| ()).map_err(|source| Error::Write { what, source })
    }

    /// Reads what these accounts have, before anything is moved there.
    pub(super) async fn read_balances(&mut self, accounts: &BTreeSet<String>) -> Result<(), Error> {
        let rows = self.ask("balances", balances_of(accounts)).await?;
        self.know(&rows)
    }

    /// What accounts have, as `balances_of` found it.
    pub(super) fn know(&mut self, balances: &[AnyRow]) -> Result<(), Error> {
        for it in balances {
            let (account, currency, funds) = super::read::funds(it).map_err(read("balances"))?;
            self.book.set(&account, &currency, funds);
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
            id: entry.id.into(),
            kind: entry.kind,
            of: entry.of.map(Cow::Owned),
            order_id: entry.order_id.to_owned().into(),
            contract: entry.contract.map(|it| it.to_owned().into()),
            debit: entry.debit.into(),
            credit: entry.credit.into(),
            amount: entry.amount,
            currency: entry.currency.to_owned().into(),
            at_ms: self.at.ms,
            epoch: self.at.epoch,
            detail: entry.detail.to_owned().into(),
        };
        self.book.apply(&row)?;
        for account in [&row.debit, &row.credit] {
            self.changed.insert((account.to_string(), row.currency.to_string()));
        }
        self.seq = row.seq;
        self.chain = row.chain(&self.chain);
        self.entries.push((row, self.chain.clone()));
        Ok(())
    }

    /// Writes all entries, the balances and the end of the chain, and commits.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        let entries = std::mem::take(&mut self.entries);
        let changed: Vec<(String, String)> = std::mem::take(&mut self.changed).into_iter().collect();
        let (book, chain) = (std::mem::take(&mut self.book), std::mem::take(&mut self.chain));
        if !entries.is_empty() {
            let mut statements: Vec<Statement<'_>> = entries.chunks(ROWS_PER_INSERT).map(insert).collect();
            statements.extend(changed.chunks(ROWS_PER_INSERT).map(|some| update_balances(some, &book)));
            let text = "UPDATE fence SET seq = ?, chain = ? WHERE only_one = 1";
            statements.push(Statement::new(text, [Value::Number(self.seq), Value::Text(&chain)]));
            self.write("transfers", statements).await?;
        }
        self.ledger.step().map_err(Error::Commit)?;
        self.transaction.commit().await.map_err(Error::Commit)?;
        self.ledger.step().map_err(Error::Commit)
    }
}

fn insert<'a>(entries: &'a [(Row<'_>, String)]) -> Statement<'a> {
    let text = format!("INSERT INTO transfers ({COLUMNS}) VALUES {}", places(entries.len(), COLUMN_COUNT));
    let values = entries.iter().flat_map(|(row, chain)| -> [Value<'_>; COLUMN_COUNT] {
        [
            row.seq.into(),
            row.id.as_ref().into(),
            row.kind.word().into(),
            row.of.as_deref().into(),
            row.order_id.as_ref().into(),
            row.contract.as_deref().into(),
            row.debit.as_ref().into(),
            row.credit.as_ref().into(),
            row.amount.into(),
            row.currency.as_ref().into(),
            row.at_ms.into(),
            row.epoch.into(),
            row.detail.as_ref().into(),
            chain.as_str().into(),
        ]
    });
    Statement::new(text, values)
}

fn update_balances<'a>(accounts: &'a [(String, String)], book: &Book) -> Statement<'a> {
    let text = format!(
        "INSERT INTO balances (account, currency, posted, held) VALUES {} \
         ON CONFLICT (account, currency) DO UPDATE SET posted = excluded.posted, held = excluded.held",
        places(accounts.len(), 4)
    );
    let values = accounts.iter().flat_map(|(account, currency)| -> [Value<'_>; 4] {
        let funds = book.funds(account, currency);
        [account.as_str().into(), currency.as_str().into(), funds.posted.into(), funds.held.into()]
    });
    Statement::new(text, values)
}

/// Asks for the rows with these ids.
pub(super) fn rows_by_id(ids: &[String]) -> Vec<Statement<'_>> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    asks(&ids, |places| format!("SELECT {COLUMNS} FROM transfers WHERE id IN {places} ORDER BY seq"))
}

/// Asks for the holds of these orders, and how they ended, oldest first.
pub(super) fn holds<'a>(orders: &[&'a str]) -> Vec<Statement<'a>> {
    asks(orders, |places| {
        format!(
            "SELECT {COLUMNS} FROM transfers WHERE order_id IN {places} AND kind <> 'transfer' ORDER BY seq"
        )
    })
}

/// Asks what these accounts have.
pub(super) fn balances_of(accounts: &BTreeSet<String>) -> Vec<Statement<'_>> {
    let accounts: Vec<&str> = accounts.iter().map(String::as_str).collect();
    asks(&accounts, |places| {
        format!("SELECT account, currency, posted, held FROM balances WHERE account IN {places}")
    })
}

/// Asks for these values, so many in one statement.
pub(super) fn asks<'a>(values: &[&'a str], text: impl Fn(&str) -> String) -> Vec<Statement<'a>> {
    let statement = |some: &[&'a str]| Statement::new(text(&places(1, some.len())), some.iter().copied());
    values.chunks(VALUES_PER_SELECT).map(statement).collect()
}

/// A fault while reading this.
pub(super) fn read(what: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| Error::Read { what, source }
}

/// A row of the book, from `COLUMNS`.
pub(super) fn row(from: &AnyRow) -> Result<Row<'static>, Error> {
    let fault = read("transfers");
    let seq = from.try_get(0).map_err(&fault)?;
    let text = |place: usize| from.try_get::<String, _>(place).map(Cow::Owned).map_err(&fault);
    let optional = |place: usize| from.try_get::<Option<String>, _>(place).map_err(&fault);
    let word = text(2)?;
    let kind = Kind::ALL.into_iter().find(|it| it.word() == word);
    Ok(Row {
        seq,
        id: text(1)?,
        kind: kind.ok_or_else(|| Error::Kind { seq, kind: word.into_owned() })?,
        of: optional(3)?.map(Cow::Owned),
        order_id: text(4)?,
        contract: optional(5)?.map(Cow::Owned),
        debit: text(6)?,
        credit: text(7)?,
        amount: from.try_get(8).map_err(&fault)?,
        currency: text(9)?,
        at_ms: from.try_get(10).map_err(&fault)?,
        epoch: from.try_get(11).map_err(&fault)?,
        detail: text(12)?,
    })
}

/// Rows of the book, from `COLUMNS`.
pub(super) fn rows(from: &[AnyRow]) -> Result<Vec<Row<'static>>, Error> {
    from.iter().map(row).collect()
}
