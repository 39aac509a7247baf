//! What must hold of spans and prices on every engine.

use super::super::{At, ChargeIn, Contract, Error, Ledger, Measured, PriceRow, SpanIn, SpanRow, UsageIn};
use super::{at, charge, open, sql, voucher};

/// A span of contract `c1` of two cards.
pub fn span(id: &str, from_ms: i64) -> SpanIn {
    SpanIn {
        id: id.to_owned(),
        contract: "c1".to_owned(),
        account: "acme".to_owned(),
        currency: "CNY".to_owned(),
        sku: "cn/ada".to_owned(),
        units: 2,
        from_ms,
    }
}

pub fn price(from_ms: i64, price: &str) -> PriceRow {
    PriceRow { sku: "cn/ada".to_owned(), from_ms, price: price.to_owned() }
}

/// Two workers begin, one of them ends, both are confirmed.
pub fn measured() -> Measured {
    Measured {
        prices: vec![price(0, "0.01"), price(500, "0.02")],
        begun: vec![span("pod-1/1", 1_000), span("pod-2/1", 1_000)],
        ended: vec![("pod-2/1".to_owned(), 5_000)],
        confirmed: Some((9_000, vec!["pod-1/1".to_owned(), "pod-2/1".to_owned()])),
    }
}

/// Both are billed to a midnight.
pub fn usage() -> UsageIn {
    UsageIn {
        charges: vec![charge("c1/usage/a", 30), charge("c1/usage/b", 12)],
        billed: vec![("pod-1/1".to_owned(), 8_000), ("pod-2/1".to_owned(), 5_000)],
        closed: Vec::new(),
    }
}

fn row(begun: SpanIn, until_ms: Option<i64>, confirmed_ms: i64, billed_ms: i64) -> SpanRow {
    SpanRow { begun, until_ms, confirmed_ms, billed_ms }
}

pub async fn spans_begin_end_and_are_billed(url: &str) {
    let ledger = open(url).await;
    ledger.pay(at(2), &voucher("gift", 40)).await.unwrap();
    ledger.measure(at(3), &measured()).await.unwrap();
    let one = row(span("pod-1/1", 1_000), None, 9_000, 1_000);
    let two = row(span("pod-2/1", 1_000), Some(5_000), 1_000, 1_000);
    assert_eq!(ledger.unbilled_spans().await.unwrap(), [one.clone(), two]);
    assert_eq!(ledger.prices().await.unwrap(), [price(0, "0.01"), price(500, "0.02")]);
    assert_eq!(ledger.billed_until().await.unwrap(), [].into());
    ledger.charge_usage(at(4), &usage()).await.unwrap();
    assert_eq!(ledger.balance("acme", "CNY").await.unwrap().cash.posted, -2);
    assert_eq!(ledger.unbilled_spans().await.unwrap(), [SpanRow { billed_ms: 8_000, ..one }]);
    assert_eq!(ledger.billed_until().await.unwrap(), [("c1".to_owned(), 8_000)].into());
    // Whoever says so again, or something else, changes nothing.
    let dump = ledger.dump().await.unwrap();
    let others = Measured {
        prices: vec![price(0, "9")],
        begun: vec![SpanIn { units: 9, ..span("pod-1/1", 7) }],
        ended: vec![("pod-2/1".to_owned(), 9_999)],
        confirmed: Some((8_999, vec!["pod-1/1".to_owned()])),
    };
    ledger.measure(at(5), &measured()).await.unwrap();
    ledger.measure(at(5), &others).await.unwrap();
    ledger.charge_usage(at(5), &usage()).await.unwrap();
    assert_eq!(ledger.dump().await.unwrap(), dump);
    // While it runs the contract stays open.
    let last = UsageIn { closed: vec!["c1".to_owned()], ..UsageIn::default() };
    let refused = ledger.charge_usage(at(6), &last).await;
    assert!(matches!(refused, Err(Error::Unbilled(it)) if it == "c1"));
    assert!(matches!(ledger.close_contract(at(6), "c1").await, Err(Error::Unbilled(_))));
    // It turns out to have ended before what is billed of it: that stays billed.
    let ended = Measured { ended: vec![("pod-1/1".to_owned(), 7_000)], ..Measured::default() };
    ledger.measure(at(6), &ended).await.unwrap();
    assert_eq!(ledger.unbilled_spans().await.unwrap(), []);
    assert_eq!(ledger.spans("c1").await.unwrap()[0].until_ms, Some(8_000));
    // The last bill closes the contract.
    ledger.charge_usage(at(7), &last).await.unwrap();
    ledger.charge_usage(at(8), &last).await.unwrap();
    assert_eq!(ledger.contracts().await.unwrap(), Vec::<Contract>::new());
    let late = Measured { begun: vec![span("pod-3/1", 9_000)], ..Measured::default() };
    assert!(matches!(ledger.measure(at(9), &late).await, Err(Error::Closed(_))));
    assert_eq!(ledger.verify().await.unwrap().spans, 2);
}

/// Charges, spans and contracts of one bill: all or none.
pub async fn usage_is_billed_whole(url: &str) {
    let ledger = open(url).await;
    ledger.measure(at(3), &measured()).await.unwrap();
    let dump = ledger.dump().await.unwrap();
    let beyond = UsageIn { billed: vec![("pod-1/1".to_owned(), 9_001)], ..usage() };
    let unknown = ChargeIn { contract: "c7".to_owned(), ..charge("c7/usage", 1) };
    let wrong = [
        ledger.charge_usage(at(4), &beyond).await.map(|_| ()),
        ledger
            .charge_usage(at(4), &UsageIn { charges: vec![charge("x", 1), unknown], ..usage() })
            .await
            .map(|_| ()),
        ledger.charge_usage(at(4), &UsageIn { closed: vec!["c7".to_owned()], ..usage() }).await.map(|_| ()),
        ledger
            .measure(
                at(4),
                &Measured { begun: vec![SpanIn { contract: "c7".to_owned(), ..span("x", 1) }], ..measured() },
            )
            .await,
        ledger
            .measure(at(4), &Measured { begun: vec![SpanIn { units: 0, ..span("x", 1) }], ..measured() })
            .await,
        ledger
            .measure(
                at(4),
                &Measured {
                    begun: vec![SpanIn { account: "a:cash".to_owned(), ..span("x", 1) }],
                    ..measured()
                },
            )
            .await,
    ];
    for (place, result) in wrong.into_iter().enumerate() {
        result.expect_err(&place.to_string());
    }
    assert_eq!(ledger.dump().await.unwrap(), dump);
    // Who is fenced off writes no span either.
    ledger.charge_usage(At { ms: 5, epoch: 9 }, &usage()).await.unwrap();
    let fenced = [
        ledger.measure(at(6), &Measured::default()).await,
        ledger.charge_usage(at(6), &UsageIn::default()).await.map(|_| ()),
    ];
    for result in fenced {
        assert!(matches!(result, Err(Error::Fenced { epoch: 1 })), "{result:?}");
    }
}

pub async fn spans_only_move_forward(url: &str) {
    let ledger = open(url).await;
    ledger.measure(at(3), &measured()).await.unwrap();
    ledger.charge_usage(at(4), &usage()).await.unwrap();
    let dump = ledger.dump().await.unwrap();
    for text in [
        "UPDATE spans SET until_ms = 6000 WHERE id = 'pod-2/1'",
        "UPDATE spans SET until_ms = NULL WHERE id = 'pod-2/1'",
        "UPDATE spans SET from_ms = 999",
        "UPDATE spans SET units = 1",
        "UPDATE spans SET sku = 'cn/other'",
        "UPDATE spans SET account = 'other'",
        "UPDATE spans SET contract = 'c2'",
        "UPDATE spans SET billed_ms = billed_ms - 1",
        "UPDATE spans SET billed_ms = 9001 WHERE id = 'pod-1/1'",
        "UPDATE spans SET confirmed_ms = confirmed_ms - 1",
        "DELETE FROM spans",
        "UPDATE prices SET price = '0'",
        "DELETE FROM prices",
    ] {
        sql(url, text).await.expect_err(text);
    }
    assert_eq!(ledger.dump().await.unwrap(), dump);
}

pub async fn spans_that_do_not_add_up_are_found(url: &str) {
    let ledger = open(url).await;
    ledger.open_contract(at(2), "c2", "ServerlessEndpoint/team-a/gone", "uid-2").await.unwrap();
    ledger.measure(at(3), &measured()).await.unwrap();
    ledger.close().await;
    let on = if url.starts_with("sqlite:") { "" } else { " ON spans" };
    sql(url, &format!("DROP TRIGGER spans_keep{on}")).await.unwrap();
    let priced = if url.starts_with("sqlite:") { "" } else { " ON prices" };
    sql(url, &format!("DROP TRIGGER prices_keep{priced}")).await.unwrap();
    Ledger::open(url).await.unwrap().close().await;
    for (tamper, repair, complaint) in [
        (
            "UPDATE prices SET from_ms = 1001 WHERE from_ms = 500; UPDATE prices SET from_ms = 1002 WHERE from_ms = 0",
            "UPDATE prices SET from_ms = 0 WHERE from_ms = 1002; UPDATE prices SET from_ms = 500 WHERE from_ms = 1001",
            "span pod-1/1 begins before it has a price",
        ),
        (
            "UPDATE spans SET contract = 'c2' WHERE id = 'pod-2/1'; UPDATE contracts SET closed_at_ms = 9 WHERE id = 'c2'",
            "UPDATE spans SET contract = 'c1' WHERE id = 'pod-2/1'",
            "span pod-2/1 is of a closed contract and not billed to its end",
        ),
    ] {
        sql(url, tamper).await.unwrap_or_else(|it| panic!("{tamper}: {it}"));
        let refused = Ledger::open(url).await.expect_err(tamper);
        assert!(refused.to_string().contains(complaint), "{tamper}: {refused}");
        sql(url, repair).await.unwrap_or_else(|it| panic!("{repair}: {it}"));
        Ledger::open(url).await.unwrap_or_else(|it| panic!("{repair}: {it}")).close().await;
    }
}

/// A ledger that the first version wrote is brought up to date, with all that is in it.
pub async fn a_ledger_of_version_1_is_taken_over(url: &str) {
    let tables = if url.starts_with("sqlite:") {
        include_str!("../migrations/1.sqlite.sql")
    } else {
        include_str!("../migrations/1.postgres.sql")
    };
    if let Some(path) = url.strip_prefix("sqlite:") {
        std::fs::write(path, "").unwrap();
    }
    let migrations = "CREATE TABLE migrations (version BIGINT NOT NULL PRIMARY KEY); INSERT INTO migrations (version) VALUES (1)";
    let contract = "INSERT INTO contracts (id, object, uid, opened_at_ms) VALUES ('c1', 'ResidentPool/team-a/chat', 'uid-1', 1)";
    for text in [tables, migrations, contract] {
        sql(url, text).await.unwrap();
    }
    let ledger = Ledger::open(url).await.unwrap();
    assert_eq!(ledger.contracts().await.unwrap().len(), 1);
    ledger.measure(at(3), &measured()).await.unwrap();
    ledger.charge_usage(at(4), &usage()).await.unwrap();
    ledger.close().await;
    let ledger = Ledger::open(url).await.unwrap();
    assert_eq!(ledger.verify().await.unwrap().spans, 2);
}
