//! The ledger on a SQLite file, durable as in production: payments and orders one by one, usage in batches, and the replay.
//!
//! Prints a line per figure: its name and the figure. `make bench` takes the median of several runs and puts them beside their
//! goals. A number as argument says how many transfers are replayed, instead of a million.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tenure::ledger::{At, ChargeIn, Ledger, OrderIn, PaymentIn};

/// How many payments, and orders.
const SINGLES: usize = 2_000;
/// How many lines of usage in one transaction.
const BATCH: usize = 5_000;
/// How many of these transactions are measured.
const BATCHES: usize = 20;
/// How many customers, each with one contract.
const ACCOUNTS: usize = 50;
/// What a line of usage says.
const DETAIL: &str = r#"{"cards":4,"cardType":"ada","from":"2026-11-24T10:00:00Z","until":"2026-11-24T11:00:00Z","price":"12.60"}"#;

#[tokio::main]
async fn main() {
    let replayed = std::env::args().find_map(|it| it.parse().ok()).unwrap_or(1_000_000);
    let folder = Folder::new();
    let ledger = Ledger::open(&folder.url()).await.expect("a new ledger");
    for account in 0..ACCOUNTS {
        let (id, object) = (contract(account), format!("ResidentPool/team-{account}/chat"));
        ledger.open_contract(at(1), &id, &object, &id).await.expect("a contract");
    }

    let took_seconds = time(singles(&ledger)).await;
    println!("single {:.0}", count(SINGLES) / took_seconds);
    let took_seconds = time(orders(&ledger)).await;
    println!("order {:.0}", count(SINGLES) / took_seconds);
    let took_seconds = time(usage(&ledger, 0, BATCHES)).await;
    println!("batched {:.0}", count(BATCH * BATCHES) / took_seconds);

    usage(&ledger, BATCHES, replayed / BATCH).await;
    let began = Instant::now();
    let report = ledger.verify().await.expect("the ledger adds up");
    let transfers = count(usize::try_from(report.transfers).expect("there are some"));
    println!("verify {:.0}", transfers / began.elapsed().as_secs_f64());

    let began = Instant::now();
    let lines = ledger.lines(&account(1), 0, i64::MAX).await.expect("a bill").len();
    println!("lines {:.0}", count(lines) / began.elapsed().as_secs_f64());
    let took_seconds = time(balances(&ledger)).await;
    println!("balance {:.0}", count(SINGLES) / took_seconds);
    ledger.close().await;
}

/// Seconds until it is done.
async fn time(work: impl Future<Output = ()>) -> f64 {
    let began = Instant::now();
    work.await;
    began.elapsed().as_secs_f64()
}

/// Payments, one transaction with one transfer each.
async fn singles(ledger: &Ledger) {
    for number in 0..SINGLES {
        let payment = PaymentIn {
            name: format!("wire-{number}"),
            account: account(number),
            currency: "CNY".to_owned(),
            amount: 1_000_000,
            voucher: false,
            reference: format!("bank transfer {number}"),
        };
        ledger.pay(at(2), &payment).await.expect("a payment");
    }
}

/// Orders, each held and then posted: two transactions with one transfer each.
async fn orders(ledger: &Ledger) {
    for number in 0..SINGLES {
        let order = OrderIn {
            id: format!("{}/renewal/{number}", contract(number)),
            contract: contract(number),
            account: account(number),
            currency: "CNY".to_owned(),
            price: 1_000,
            least: Some(0),
            accrued: 0,
            detail: DETAIL.to_owned(),
        };
        ledger.hold(at(3), &order).await.expect("there is enough");
        ledger.post(at(3), &order.id).await.expect("it is held");
    }
}

/// Transactions `from` until before `until` of lines of usage.
async fn usage(ledger: &Ledger, from: usize, until: usize) {
    for batch in from..until {
        let charges: Vec<ChargeIn> = (0..BATCH)
            .map(|number| ChargeIn {
                id: format!("{}/usage/{batch}-{number}", contract(number)),
                contract: contract(number),
                account: account(number),
                currency: "CNY".to_owned(),
                amount: 1_260,
                detail: DETAIL.to_owned(),
            })
            .collect();
        ledger.charge(at(4 + i64::try_from(batch).expect("few")), &charges).await.expect("a charge");
    }
}

async fn balances(ledger: &Ledger) {
    for number in 0..SINGLES {
        ledger.balance(&account(number), "CNY").await.expect("a balance");
    }
}

fn account(number: usize) -> String {
    format!("account-{}", number % ACCOUNTS)
}

fn contract(number: usize) -> String {
    format!("contract-{}", number % ACCOUNTS)
}

fn at(ms: i64) -> At {
    At { ms: 1_764_000_000_000 + ms, epoch: 1 }
}

fn count(it: usize) -> f64 {
    f64::from(u32::try_from(it).expect("no more than billions"))
}

/// A folder for the file, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ledger-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the folder for temporary files is writable");
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
