//! The process dies, or the disk fills up, at any statement of any write: repeated, the ledger is the same to the byte.

use super::cases::{at, cash, charge, measured, open, order, refund, usage, voucher};
use super::{At, Error, Folder, Ledger, Measured, UsageIn, copy};

/// The life of a contract, one call each.
#[derive(Debug, Clone, Copy)]
enum Step {
    Gift,
    Wire,
    Hold(&'static str),
    Void(&'static str),
    Post(&'static str),
    Usage,
    Measure,
    Bill,
    End,
    Close,
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
    Step::Measure,
    Step::Bill,
    Step::End,
    Step::Mint,
    Step::Close,
    Step::Leave,
];

async fn take(ledger: &Ledger, step: Step, now: At) -> Result<(), Error> {
    match step {
        Step::Gift => ledger.pay(now, &voucher("gift", 300)).await.map(|_| ()),
        Step::Wire => ledger.pay(now, &cash("wire", 1_000)).await.map(|_| ()),
        Step::Hold(id) => ledger.hold(now, &order(id, 400)).await.map(|_| ()),
        Step::Void(id) => ledger.void(now, id).await,
        Step::Post(id) => ledger.post(now, id).await.map(|_| ()),
        Step::Usage => {
            let lines: Vec<_> = (0..150).map(|it| charge(&format!("usage/{it}"), 1)).collect();
            ledger.charge(now, &lines).await.map(|_| ())
        }
        Step::Measure => ledger.measure(now, &measured()).await,
        Step::Bill => ledger.charge_usage(now, &usage()).await.map(|_| ()),
        Step::End => {
            let ended = vec![("pod-1/1".to_owned(), 8_000)];
            ledger.measure(now, &Measured { ended, ..Measured::default() }).await
        }
        Step::Close => {
            let closed = vec!["c2".to_owned()];
            let last = UsageIn { charges: vec![charge("last", 3)], closed, ..UsageIn::default() };
            ledger.charge_usage(now, &last).await.map(|_| ())
        }
        Step::Adopt => {
            ledger.adopt_contract(now, "c1", "ResidentPool/team-a/chat", "uid-2").await.map(|_| ())
        }
        Step::Mint => ledger.open_contract(now, "c2", "SpotServer/team-a/x", "uid-3").await.map(|_| ()),
        Step::Leave => ledger.refund(now, &refund("refund", 25, true)).await.map(|_| ()),
    }
}

#[tokio::test]
async fn killed_or_failed_at_any_statement() {
    let folder = Folder::new();
    let undisturbed = open(&folder.url()).await;
    let mut statements = 0;
    for (place, &step) in LIFE.iter().enumerate() {
        let now = at(10 + i64::try_from(place).unwrap());
        let before = Folder::new();
        copy(&folder.0, &before.0);
        take(&undisturbed, step, now).await.unwrap();
        let expected = undisturbed.dump().await.unwrap();
        for fails in 1.. {
            let disturbed = Folder::new();
            copy(&before.0, &disturbed.0);
            let ledger = Ledger::open(&disturbed.url()).await.unwrap();
            let left = Folder::new();
            ledger.failpoint.arm(fails, Some((disturbed.0.clone(), left.0.clone())));
            if take(&ledger, step, now).await.is_ok() {
                break;
            }
            statements += 1;
            // What a killed process leaves, opened by the next one, which repeats what got no answer. And a process that lives
            // on: what failed is no end.
            let next = Ledger::open(&left.url()).await.unwrap();
            for (ledger, who) in [(&next, "killed"), (&ledger, "failed")] {
                take(ledger, step, now).await.unwrap();
                let dump = ledger.dump().await.unwrap();
                assert_eq!(dump, expected, "{who} at statement {fails} of {step:?}");
            }
        }
    }
    assert!(statements > 80, "{statements}");
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
    let folder = Folder::new();
    let ledger = open(&folder.url()).await;
    // The caller goes away at any point: the future is dropped after so many polls.
    for polls in 0..40 {
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
