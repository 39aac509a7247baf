//! What owners are told: kept once, delivered once, forgotten when it is old.

use std::collections::BTreeSet;

use super::super::{Delivery, DeliveryState, Error, Ledger, NoticeIn};
use super::{at, sql};

fn notice(id: &str, kind: &str) -> NoticeIn {
    let text = |it: &str| it.to_owned();
    NoticeIn { id: text(id), account: text("acme"), kind: text(kind), detail: format!("{{\"of\":\"{id}\"}}") }
}

fn targets(targets: &[&str]) -> BTreeSet<String> {
    targets.iter().map(|it| (*it).to_owned()).collect()
}

async fn ids(ledger: &Ledger) -> BTreeSet<String> {
    ledger.notice_ids().await.unwrap().into_iter().map(|(id, _)| id).collect()
}

/// A fact that is seen again says nothing new; a delivery that has ended stays so; who leads no more writes nothing.
pub async fn a_notice_is_kept_once_and_delivered_once(url: &str) {
    let ledger = Ledger::open(url).await.unwrap();
    ledger.note(at(10), &[notice("a", "expiring"), notice("b", "expired")]).await.unwrap();
    ledger.note(at(20), &[NoticeIn { detail: "other".to_owned(), ..notice("a", "expiring") }]).await.unwrap();
    let kept = ledger.unaddressed().await.unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!((kept[0].at_ms, &kept[0].notice), (10, &notice("a", "expiring")));
    assert_eq!(ledger.notice("b").await.unwrap().unwrap().notice, notice("b", "expired"));
    assert_eq!(ledger.notice("c").await.unwrap(), None);

    let all = [("a".to_owned(), targets(&["email:x@y", "webhook:z"])), ("b".to_owned(), targets(&[]))];
    ledger.address(at(30), &all).await.unwrap();
    assert_eq!(ledger.unaddressed().await.unwrap(), []);
    let first = Delivery {
        notice: "a".to_owned(),
        account: "acme".to_owned(),
        target: "email:x@y".to_owned(),
        state: DeliveryState::Waiting,
        attempts: 0,
        error: None,
        at_ms: 30,
    };
    let second = Delivery { target: "webhook:z".to_owned(), ..first.clone() };
    assert_eq!(ledger.deliveries().await.unwrap(), [first.clone(), second.clone()]);

    let failed = Delivery { attempts: 1, error: Some("503".to_owned()), at_ms: 40, ..second.clone() };
    ledger.mark(at(40), &failed).await.unwrap();
    let sent = Delivery { state: DeliveryState::Sent, attempts: 2, at_ms: 50, ..second };
    ledger.mark(at(50), &sent).await.unwrap();
    // Addressed again, and a late answer of an earlier try: nothing changes.
    ledger.address(at(60), &all).await.unwrap();
    ledger.mark(at(60), &failed).await.unwrap();
    assert_eq!(ledger.deliveries().await.unwrap(), [first.clone(), sent.clone()]);
    assert!(sql(url, "UPDATE deliveries SET state = 'waiting' WHERE state = 'sent'").await.is_err());
    assert!(sql(url, "UPDATE notices SET detail = 'other'").await.is_err());

    ledger.lead().await.unwrap();
    let next = ledger.lead().await.unwrap();
    let late = ledger.note(at(70), &[notice("c", "expired")]).await.unwrap_err();
    assert!(matches!(late, Error::Fenced { epoch: 1 }), "{late:?} {next}");
    assert_eq!(ids(&ledger).await, targets(&["a", "b"]));
    ledger.verify().await.unwrap();
    ledger.close().await;
}

/// With all their deliveries.
pub async fn old_notices_are_forgotten_but_not_those_that_are_looked_for(url: &str) {
    let ledger = Ledger::open(url).await.unwrap();
    let debt = [notice("debt", "arrears-began"), notice("paid", "arrears-ended")];
    ledger.note(at(10), &[notice("old", "expired")]).await.unwrap();
    ledger.note(at(10), &debt).await.unwrap();
    ledger.note(at(20), &[notice("new", "expired")]).await.unwrap();
    let all = ["old", "debt", "paid", "new"].map(|it| (it.to_owned(), targets(&["email:x@y"])));
    ledger.address(at(20), &all).await.unwrap();
    ledger.forget_notices(at(30), 20, ["arrears-began", "arrears-ended"]).await.unwrap();
    assert_eq!(ids(&ledger).await, targets(&["debt", "new", "paid"]));
    let left = ledger.deliveries().await.unwrap();
    assert_eq!(left.iter().map(|it| it.notice.as_str()).collect::<Vec<_>>(), ["debt", "new", "paid"]);
    ledger.verify().await.unwrap();
    ledger.close().await;
}
