//! The proof: every row is read again, the chain and the balances are computed anew, and all of a currency must be zero. What is
//! metered is in order, and nothing of it is billed that was not used.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sqlx::any::Any;
use sqlx::{AssertSqlSafe, Row as _, Transaction};

use super::book::{Book, Funds};
use super::read::funds;
use super::replay::Replay;
use super::work::read;
use super::{Engine, Error, Ledger};

/// What a check of a ledger found that adds up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many transfers there are.
    pub transfers: i64,
    /// How many of them are holds that have not ended.
    pub open_holds: usize,
    /// How many accounts of the book there are, by currency.
    pub accounts: BTreeMap<String, usize>,
    /// How many spans of use there are.
    pub spans: i64,
    /// The last leader's epoch.
    pub epoch: i64,
    /// Where the chain ends: it stands for all that is in the ledger.
    pub chain: String,
}

/// What does not add up, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences(pub Vec<String>);

/// How many differences are told; after a few more there is nothing to learn.
pub(super) const TOLD: usize = 20;

/// What no span may be, and how that is said.
const BROKEN_SPANS: [(&str, &str); 5] = [
    ("until_ms < from_ms OR confirmed_ms < from_ms OR billed_ms < from_ms", "ends before it begins"),
    ("billed_ms > coalesce(until_ms, confirmed_ms)", "is billed beyond what was used"),
    ("NOT EXISTS (SELECT 1 FROM contracts WHERE contracts.id = spans.contract)", "has no contract"),
    (
        "NOT EXISTS (SELECT 1 FROM prices WHERE prices.sku = spans.sku AND prices.from_ms <= spans.from_ms)",
        "begins before it has a price",
    ),
    (
        "(until_ms IS NULL OR billed_ms < until_ms) AND EXISTS (SELECT 1 FROM contracts \
         WHERE contracts.id = spans.contract AND contracts.closed_at_ms IS NOT NULL)",
        "is of a closed contract and not billed to its end",
    ),
];

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.join("; "))
    }
}

impl Differences {
    pub(super) fn say(&mut self, text: String) {
        if self.0.len() < TOLD {
            self.0.push(text);
        } else if self.0.len() == TOLD {
            self.0.push("and more".to_owned());
        }
    }
}

impl Ledger {
    /// Checks all of the ledger, as `open` does: the chain, the balances, the holds, the spans, and that each currency adds up to
    /// zero, on a state between two transactions; and, beside it, the database's own check.
    pub async fn verify(&self) -> Result<Report, Error> {
        let (mut differences, (mut replay, epoch, spans)) =
            futures::try_join!(self.check_file(), self.replay())?;
        replay.zero();
        for it in replay.differences.0 {
            differences.say(it);
        }
        if !differences.0.is_empty() {
            return Err(Error::Differs(differences));
        }
        let mut accounts = BTreeMap::new();
        for currency in replay.book.0.values().flat_map(BTreeMap::keys) {
            *accounts.entry(currency.clone()).or_default() += 1;
        }
        Ok(Report {
            transfers: replay.seq,
            open_holds: replay.holds.len(),
            accounts,
            spans,
            epoch,
            chain: replay.chain,
        })
    }

    /// What the database's own check finds.
    async fn check_file(&self) -> Result<Differences, Error> {
        let mut faults = Differences::default();
        if self.engine == Engine::Postgres {
            return Ok(faults);
        }
        let fault = read("integrity");
        for check in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
            for row in sqlx::query(check).fetch_all(&self.readers).await.map_err(&fault)? {
                let text: String = row.try_get(0).map_err(&fault)?;
                if text != "ok" {
                    faults.say(format!("the file: {text}"));
                }
            }
        }
        Ok(faults)
    }

    /// What is there, replayed and compared with what is stored of it; the last leader's epoch, and how many
    /// spans there are.
    async fn replay(&self) -> Result<(Replay, i64, i64), Error> {
        let mut work = self.begin_read().await?;
        let mut replay = Replay::of(&mut work).await?;
        replay.balances(&mut work).await?;
        let epoch = replay.fence(&mut work).await?;
        let spans = replay.spans(&mut work).await?;
        Ok((replay, epoch, spans))
    }

    /// A transaction that sees one state, whoever writes meanwhile.
    pub(super) async fn begin_read(&self) -> Result<Transaction<'static, Any>, Error> {
        let begin = match self.engine {
            Engine::Sqlite => "BEGIN",
            Engine::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        self.readers.begin_with(begin).await.map_err(Error::Begin)
    }
}

impl Replay {
    /// The stored balances are those of the transfers.
    async fn balances(&mut self, work: &mut Transaction<'static, Any>) -> Result<(), Error> {
        let fault = read("balances");
        let query = sqlx::query("SELECT account, currency, posted, held FROM balances");
        let mut stored = Book::default();
        for it in query.fetch_all(&mut **work).await.map_err(&fault)? {
            let (account, currency, funds) = funds(&it).map_err(&fault)?;
            stored.set(&account, &currency, funds);
        }
        let accounts: BTreeSet<(&String, &String)> = [&self.book, &stored]
            .into_iter()
            .flat_map(|book| &book.0)
            .flat_map(|(account, it)| it.keys().map(move |currency| (account, currency)))
            .collect();
        for (account, currency) in accounts {
            let (right, wrong) = (self.book.funds(account, currency), stored.funds(account, currency));
            if right != wrong {
                let (right, wrong) = (words(right), words(wrong));
                self.differences.say(format!("{account} has {wrong} {currency}, by its transfers {right}"));
            }
        }
        Ok(())
    }

    /// The fence knows where the chain ends.
    async fn fence(&mut self, work: &mut Transaction<'static, Any>) -> Result<i64, Error> {
        let fault = read("fence");
        let rows = sqlx::query("SELECT epoch, seq, chain FROM fence").fetch_all(&mut **work);
        let rows = rows.await.map_err(&fault)?;
        let [row] = rows.as_slice() else {
            self.differences.say(format!("there are {} fences", rows.len()));
            return Ok(0);
        };
        let seq: i64 = row.try_get(1).map_err(&fault)?;
        let chain: String = row.try_get(2).map_err(&fault)?;
        if seq > self.seq {
            self.differences
                .say(format!("{seq} transfers were written, the last that is there is {}", self.seq));
        } else if seq < self.seq || chain != self.chain {
            self.differences.say(format!("the chain ends at {}, but {seq} transfers were written", self.seq));
        }
        row.try_get(0).map_err(fault)
    }

    /// Spans are in order, have a contract and a price, and those of a contract that is closed are billed to their end.
    async fn spans(&mut self, work: &mut Transaction<'static, Any>) -> Result<i64, Error> {
        for (rule, words) in BROKEN_SPANS {
            let text = format!("SELECT id FROM spans WHERE {rule} ORDER BY id LIMIT {}", TOLD + 1);
            let rows = sqlx::query(AssertSqlSafe(text)).fetch_all(&mut **work).await;
            for row in rows.map_err(read("spans"))? {
                let id: String = row.try_get(0).map_err(read("spans"))?;
                self.differences.say(format!("span {id} {words}"));
            }
        }
        let query = sqlx::query("SELECT count(*) FROM spans").fetch_one(&mut **work);
        query.await.and_then(|it| it.try_get(0)).map_err(read("spans"))
    }

    /// What is credited is debited, per currency, and nothing is held but by an open hold.
    fn zero(&mut self) {
        let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
        let mut held: BTreeMap<(&str, &str), i128> = BTreeMap::new();
        for (account, currencies) in &self.book.0 {
            for (currency, funds) in currencies {
                *sums.entry(currency).or_default() += i128::from(funds.posted);
                *held.entry((account, currency)).or_default() += i128::from(funds.held);
            }
        }
        for (debit, _, currency, amount) in self.holds.values() {
            *held.entry((debit, currency)).or_default() -= i128::from(*amount);
        }
        for (currency, sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
            self.differences.say(format!("all accounts together have {sum} {currency} instead of 0"));
        }
        for ((account, currency), rest) in held.into_iter().filter(|(_, rest)| *rest != 0) {
            self.differences.say(format!("{account} has {rest} {currency} held without a hold"));
        }
    }
}

fn words(funds: Funds) -> String {
    format!("{} posted and {} held", funds.posted, funds.held)
}
