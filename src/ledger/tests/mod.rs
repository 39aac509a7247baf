//! Tests of the ledger on SQLite files. What must hold on every engine is in `cases`, which `tests/it/ledger.rs` runs on
//! PostgreSQL.

#[macro_use]
mod cases;
mod crash;
mod properties;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::{
    At, ChargeIn, Contract, Delivery, DeliveryState, Done, Error, Interval, Ledger, LineKind, LineOrder,
    Measured, NoticeIn, OrderIn, OrderState, PaymentIn, PriceRow, RefundIn, SpanIn, SpanRow, UsageIn,
};

/// Lets the nth statement fail, as often as it is armed.
#[derive(Debug, Clone, Default)]
pub(super) struct Failpoint(Arc<Mutex<Armed>>);

#[derive(Debug, Default)]
struct Armed {
    /// Statements so far.
    seen: u64,
    /// Which one fails.
    fails: Option<u64>,
    /// What is on the disk at that moment is copied from here to there.
    copy: Option<(PathBuf, PathBuf)>,
}

impl Failpoint {
    fn arm(&self, fails: u64, copy: Option<(PathBuf, PathBuf)>) {
        *self.0.lock().unwrap() = Armed { seen: 0, fails: Some(fails), copy };
    }

    /// Between statements that go together nothing can fail: those of an armed ledger go one by one.
    pub(super) fn together(&self) -> bool {
        self.0.lock().unwrap().fails.is_none()
    }

    pub(super) fn step(&self) -> Result<(), sqlx::Error> {
        let mut armed = self.0.lock().unwrap();
        armed.seen += 1;
        if armed.fails != Some(armed.seen) {
            return Ok(());
        }
        if let Some((from, to)) = &armed.copy {
            copy(from, to);
        }
        Err(sqlx::Error::WorkerCrashed)
    }
}

/// All files of a folder.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A folder of the test's own, gone when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tenure-ledger-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn url(&self) -> String {
        format!("sqlite:{}", self.0.join("ledger.db").display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

macro_rules! on_sqlite {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let folder = Folder::new();
            cases::$name(&folder.url()).await;
        }
    )*};
}
for_each_case!(on_sqlite);

#[tokio::test]
async fn an_address_of_another_kind_is_refused_without_its_password() {
    let error = Ledger::open("mysql://root:secret@localhost/ledger").await.unwrap_err();
    assert_eq!(error.to_string(), "`mysql` is no ledger: say sqlite:PATH or postgres://...");
}

#[tokio::test]
async fn any_file_name_will_do() {
    let folder = Folder::new();
    let path = folder.0.join("all of 100%? #1.db");
    let ledger = Ledger::open(&format!("sqlite:{}", path.display())).await.unwrap();
    ledger.close().await;
    assert!(path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = Folder::new();
    std::fs::write(folder.0.join("ledger.db"), "a diary, and a long one. ".repeat(400)).unwrap();
    assert!(matches!(Ledger::open(&folder.url()).await, Err(Error::Connect(_))));
}

/// A check reads many rows as one text. No row can pass for two, nor two for one.
#[tokio::test]
async fn a_row_that_hides_another_is_found() {
    let folder = Folder::new();
    let ledger = cases::open(&folder.url()).await;
    for name in ["one", "two"] {
        ledger.pay(cases::at(2), &cases::cash(name, 1_000)).await.unwrap();
    }
    let second = "concat_ws(char(31), seq, id, kind, '-', order_id, '-', debit, credit, amount, currency, at_ms, epoch, \
                  detail, chain)";
    let read_alike = format!(
        "DROP TRIGGER transfers_keep; DROP TRIGGER transfers_stay; \
         UPDATE transfers SET chain = chain || char(30) || (SELECT {second} FROM transfers WHERE seq = 2) WHERE seq = 1; \
         DELETE FROM transfers WHERE seq = 2"
    );
    for (tamper, place) in [
        (read_alike, "transfers 1 to 1"),
        ("UPDATE transfers SET detail = detail || char(31) WHERE seq = 1".to_owned(), "transfers 1 to 1"),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(tamper)).execute(&ledger.writer).await.unwrap();
        let found = ledger.verify().await.unwrap_err().to_string();
        assert!(found.contains(&format!("{place}: a text has control characters")), "{found}");
    }
}

#[tokio::test]
async fn what_is_committed_is_on_the_disk() {
    let folder = Folder::new();
    let ledger = Ledger::open(&folder.url()).await.unwrap();
    for (pragma, expected) in
        [("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1"), ("busy_timeout", "5000")]
    {
        let text = sqlx::AssertSqlSafe(format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"));
        let text = if pragma == "busy_timeout" {
            sqlx::AssertSqlSafe("SELECT CAST(timeout AS TEXT) FROM pragma_busy_timeout".to_owned())
        } else {
            text
        };
        let row = sqlx::query(text).fetch_one(&ledger.writer).await.unwrap();
        assert_eq!(sqlx::Row::get::<String, _>(&row, 0), expected, "{pragma}");
    }
}
