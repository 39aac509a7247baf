//! The ledger on a real PostgreSQL: the cases that every engine must pass, and connections that break. `e2e/test` starts the
//! server and says where it is.

#[macro_use]
#[path = "../../src/ledger/tests/cases.rs"]
mod cases;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::any::AnyConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions};
use tenure::ledger::{
    At, ChargeIn, Contract, Delivery, DeliveryState, Done, Error, Interval, Ledger, LineKind, LineOrder,
    Measured, NoticeIn, OrderIn, OrderState, PaymentIn, PriceRow, RefundIn, SpanIn, SpanRow, UsageIn,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The address of an empty database of this name.
async fn fresh(name: &str) -> String {
    let server = std::env::var("TENURE_TEST_POSTGRES").expect(
        "this test needs a PostgreSQL: run `make test`, or set TENURE_TEST_POSTGRES to what `e2e/postgres start DIR` prints",
    );
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnectOptions::from_str(&server).unwrap().connect().await.unwrap();
    for text in [
        format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
        // Not template1: who else makes a database may be looking at it.
        format!("CREATE DATABASE {name} TEMPLATE template0"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    }
    server.replace("/postgres?", &format!("/{name}?"))
}

macro_rules! on_postgres {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            cases::$name(&fresh(concat!("ledger_", stringify!($name))).await).await;
        }
    )*};
}
for_each_case!(on_postgres);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_open_an_empty_database_at_once() {
    let url = fresh("ledger_opened_at_once").await;
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { Ledger::open(&url).await.unwrap().close().await })
        })
        .collect();
    for it in opening {
        it.await.unwrap();
    }
}

/// Whatever happens to the connection, in mid-statement or between a commit and its answer: who repeats charges once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_anywhere_charges_once() {
    let url = fresh("ledger_broken").await;
    let direct = Ledger::open(&url).await.unwrap();
    let (address, socket) = url.split_once("?host=").unwrap();
    let breaker = Breaker::new(&Path::new(socket).join(".s.PGSQL.5432"));
    let ledger = Ledger::open(&format!("{address}?host={}", breaker.folder.display())).await.unwrap();
    let expected = live(&ledger, &direct, "undisturbed", None).await;
    for chunks in 0.. {
        let name = format!("broken {chunks}");
        let found = live(&ledger, &direct, &name, Some((&breaker, chunks))).await;
        assert_eq!(found, expected.replace("undisturbed", &name));
        if breaker.left.swap(i64::MAX, Ordering::SeqCst) > 0 {
            assert!(chunks > 60, "{chunks}");
            break;
        }
    }
    direct.verify().await.unwrap();
}

/// The life of a contract, each call repeated until it has an answer; what the ledger says of it then.
async fn live(ledger: &Ledger, direct: &Ledger, name: &str, breaks: Option<(&Breaker, i64)>) -> String {
    let (contract, account) = (name.to_owned(), name.to_owned());
    let payment = PaymentIn { account: account.clone(), ..cases::cash(name, 1_000) };
    let gift = PaymentIn { account: account.clone(), ..cases::voucher(&format!("{name} gift"), 100) };
    let order = OrderIn {
        contract: contract.clone(),
        account: account.clone(),
        ..cases::order(&format!("{name}/o"), 400)
    };
    let charges = [0, 1, 2].map(|it| ChargeIn {
        contract: contract.clone(),
        account: account.clone(),
        ..cases::charge(&format!("{name}/{it}"), 10)
    });
    let refund = RefundIn {
        contract: contract.clone(),
        account: account.clone(),
        ..cases::refund(&format!("{name}/r"), 25, true)
    };
    if let Some((breaker, chunks)) = breaks {
        breaker.left.store(chunks, Ordering::SeqCst);
    }
    for step in 0..9 {
        let now = cases::at(10 + step);
        // One connection breaks, so the second call has its answer.
        for call in 1.. {
            let answer = match step {
                0 => ledger.open_contract(now, &contract, "SpotServer/a/b", name).await.map(|_| ()),
                1 => ledger.pay(now, &payment).await.map(|_| ()),
                2 => ledger.pay(now, &gift).await.map(|_| ()),
                3 | 5 => ledger.hold(now, &order).await.map(|_| ()),
                4 => ledger.void(now, &order.id).await,
                6 => ledger.post(now, &order.id).await.map(|_| ()),
                7 => ledger.charge(now, &charges).await.map(|_| ()),
                _ => ledger.refund(now, &refund).await.map(|_| ()),
            };
            match answer {
                Ok(()) => break,
                Err(
                    Error::Begin(_)
                    | Error::Read { .. }
                    | Error::Write { .. }
                    | Error::Commit(_)
                    | Error::Connect(_),
                ) if breaks.is_some() && call < 3 => {}
                Err(other) => panic!("step {step}: {other:?}"),
            }
        }
    }
    format!(
        "{:?} {:?} {:?}",
        direct.balance(&account, "CNY").await.unwrap(),
        direct.orders(&contract).await.unwrap(),
        direct.lines(&account, 0, 100).await.unwrap(),
    )
}

/// Stands between ledger and server, and breaks a connection after so many chunks of bytes, in whichever direction.
struct Breaker {
    folder: PathBuf,
    left: Arc<AtomicI64>,
}

impl Breaker {
    fn new(server: &Path) -> Breaker {
        let folder = std::env::temp_dir().join(format!("tenure-breaker-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join(".s.PGSQL.5432");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).unwrap();
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let (server, count) = (server.to_owned(), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, count) = (UnixStream::connect(&server).await.unwrap(), Arc::clone(&count));
                tokio::spawn(async move {
                    let (client, server) = (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(client.0, server.1, &count) => {}
                        () = pass(server.0, client.1, &count) => {}
                    }
                });
            }
        });
        Breaker { folder, left }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Passes chunks on until one is the last.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, left: &AtomicI64) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        if left.fetch_sub(1, Ordering::SeqCst) == 0 || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
