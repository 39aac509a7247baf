//! The process dies, or the disk fills up, at any statement of any write: repeated, the ledger is the same to the byte.

use super::cases::{at, cash, charge, open, order, refund, voucher};
use super::{Error, Folder, Ledger, url};

/// The life of a contract, one call each.
#[derive(Debug, Clone, Copy)]
enum Step {
    Gift,
    Wire,
    Hold(&'static str),
    Void(&'static str),
    Post(&'static str),
    Usage,
    Adopt,
    Mint,
    Leave,
}

const LIFE: &[Step] = &[
    Step::Gift,
    Step::Wire,
    Step::Hold("initial"),
    Step::Void("initial"),
    Step::Hold("initial"),
    Step::Post("initial"),
    Step::Usage,
    Step::Adopt,
    Step::Hold("renewal"),
    Step::Post("renewal"),
    Step::Mint,
    Step::Leave,
];

async fn take(ledger: &Ledger, place: usize) -> Result<(), Error> {
    let now = at(10 + i64::try_from(place).unwrap());
    match LIFE[place] {
        Step::Gift => ledger.pay(now, &voucher("gift", 300)).await.map(|_| ()),
        Step::Wire => ledger.pay(now, &cash("wire", 1_000)).await.map(|_| ()),
        Step::Hold(id) => ledger.hold(now, &order(id, 400)).await.map(|_| ()),
        Step::Void(id) => ledger.void(now, id).await,
        Step::Post(id) => ledger.post(now, id).await.map(|_| ()),
        Step::Usage => {
            let lines: Vec<_> = (0..150).map(|it| charge(&format!("usage/{it}"), 1)).collect();
            ledger.charge(now, &lines).await.map(|_| ())
        }
        Step::Adopt => {
            ledger.adopt_contract(now, "c1", "ResidentPool/team-a/chat", "uid-2").await.map(|_| ())
        }
        Step::Mint => ledger.open_contract(now, "c2", "SpotServer/team-a/x", "uid-3").await.map(|_| ()),
        Step::Leave => ledger.refund(now, &refund("refund", 25, true)).await.map(|_| ()),
    }
}

/// Lives from here on, however often the failpoint strikes; where it struck.
async fn live(ledger: &Ledger, from: usize) -> Option<usize> {
    for place in from..LIFE.len() {
        if take(ledger, place).await.is_err() {
            return Some(place);
        }
    }
    None
}

/// The undisturbed life: its dump and how many statements it takes.
async fn undisturbed() -> (String, u64) {
    let folder = Folder::new();
    let ledger = open(&folder.url()).await;
    ledger.failpoint.arm(u64::MAX, None);
    assert_eq!(live(&ledger, 0).await, None);
    (ledger.dump().await.unwrap(), ledger.failpoint.seen())
}

#[tokio::test]
async fn killed_at_any_statement() {
    let (expected, statements) = undisturbed().await;
    assert!(statements > 80, "{statements}");
    for fails in 1..=statements {
        let folder = Folder::new();
        let ledger = open(&folder.url()).await;
        let left = folder.0.join("left");
        ledger.failpoint.arm(fails, Some((folder.0.clone(), left.clone())));
        let place = live(&ledger, 0).await.expect("the failpoint is within the life");
        drop(ledger);
        // What a killed process leaves, opened by the next one, which repeats what got no answer.
        let next = Ledger::open(&url(&left)).await.unwrap();
        assert_eq!(live(&next, place).await, None, "statement {fails}");
        assert_eq!(next.dump().await.unwrap(), expected, "statement {fails} of {:?}", LIFE[place]);
        next.close().await;
    }
}

#[tokio::test]
async fn a_failed_statement_is_no_end() {
    let (expected, statements) = undisturbed().await;
    for fails in 1..=statements {
        let folder = Folder::new();
        let ledger = open(&folder.url()).await;
        ledger.failpoint.arm(fails, None);
        let place = live(&ledger, 0).await.expect("the failpoint is within the life");
        assert_eq!(live(&ledger, place).await, None, "statement {fails}");
        assert_eq!(ledger.dump().await.unwrap(), expected, "statement {fails} of {:?}", LIFE[place]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_forgets_nothing() {
    let folder = Folder::new();
    let ledger = open(&folder.url()).await;
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    sqlx::raw_sql("PRAGMA max_page_count = 1").execute(&ledger.writer).await.unwrap();
    let before = ledger.dump().await.unwrap();
    let lines: Vec<_> = (0..2_000).map(|it| charge(&format!("usage/{it}"), 1)).collect();
    let refused = ledger.charge(at(3), &lines).await.unwrap_err();
    assert!(matches!(refused, Error::Write { what: "transfers", .. }), "{refused:?}");
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("full"));
    assert_eq!(ledger.dump().await.unwrap(), before);
    // There is room again.
    sqlx::raw_sql("PRAGMA max_page_count = 100000").execute(&ledger.writer).await.unwrap();
    ledger.charge(at(3), &lines).await.unwrap();
    ledger.verify().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_given_up_leaves_nothing() {
    let (_, statements) = undisturbed().await;
    let folder = Folder::new();
    let ledger = open(&folder.url()).await;
    // The caller goes away at any point: the future is dropped after so many polls.
    for polls in 0..statements {
        let payment = cash("wire", 1_000);
        let mut call = Box::pin(ledger.pay(at(2), &payment));
        for _ in 0..polls {
            if futures::poll!(call.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    ledger.pay(at(2), &cash("wire", 1_000)).await.unwrap();
    assert_eq!(ledger.balance("acme", "CNY").await.unwrap().cash.posted, 1_000);
    ledger.verify().await.unwrap();
}
