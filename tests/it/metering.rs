//! What workers cost, lived through on the real cluster with the time machine: by the second, from ready to the end of their
//! containers, by UTC day and price. What the bill must be is computed here from the times in the ledger.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tenure::ledger::{Contract, Ledger, Line, LineKind, PriceRow, SpanRow};

use crate::money::{Market, move_to, verify};
use crate::stories::{BOUND, ELASTIC, POOL};
use crate::support::until;

/// What a ledger says, read beside the operator that writes it.
pub struct Book {
    pub contracts: Vec<Contract>,
    pub spans: Vec<SpanRow>,
    pub prices: Vec<PriceRow>,
    pub usage: Vec<Line>,
}

pub fn read(ledger: &Path, account: &str, contract: &str) -> Book {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    runtime.block_on(async {
        let ledger = Ledger::open(&format!("sqlite:{}", ledger.display())).await.expect("it opens");
        let lines = ledger.lines(account, 0, i64::MAX).await.expect("it has lines");
        let book = Book {
            contracts: ledger.contracts().await.expect("it has contracts"),
            spans: ledger.spans(contract).await.expect("it has spans"),
            // What is on a pool has a price too: none.
            prices: elastic(ledger.prices().await.expect("it has prices")),
            usage: lines.into_iter().filter(|it| it.kind == LineKind::Usage).collect(),
        };
        ledger.close().await;
        book
    })
}

fn elastic(prices: Vec<PriceRow>) -> Vec<PriceRow> {
    prices.into_iter().filter(|it| !it.sku.starts_with("resident:")).collect()
}

/// The midnight after a moment, UTC, and a little more than so many minutes.
fn after_midnight(at: Timestamp, minutes: i64) -> Timestamp {
    let tomorrow = at.to_zoned(TimeZone::UTC).date().tomorrow().expect("there is a tomorrow");
    let midnight = tomorrow.to_zoned(TimeZone::UTC).expect("it has a midnight").timestamp();
    midnight + jiff::SignedDuration::from_secs(60 * minutes + 30)
}

/// What the lines must be, by id: cents, from the spans' seconds alone. `prices`: since when, in hundredths of a cent.
fn expected(contract: &str, spans: &[SpanRow], prices: &[(Timestamp, i64)]) -> BTreeMap<String, i64> {
    let mut hundredths: BTreeMap<String, i64> = BTreeMap::new();
    for span in spans {
        let until = span.until_ms.expect("it has ended") / 1_000;
        for second in span.begun.from_ms / 1_000..until {
            let at = Timestamp::from_second(second).expect("a time");
            let (since, price) = prices.iter().rfind(|(since, _)| *since <= at).expect("it has a price");
            let day = at.to_zoned(TimeZone::UTC).date();
            *hundredths.entry(format!("{contract}/usage/{day}/gpu/{since}")).or_default() +=
                price * span.begun.units;
        }
    }
    hundredths.into_iter().map(|(id, it)| (id, half_even(it))).collect()
}

/// Hundredths as whole ones: to the nearest, from the middle to the even one.
fn half_even(hundredths: i64) -> i64 {
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    if rest > 50 || (rest == 50 && whole % 2 == 1) { whole + 1 } else { whole }
}

#[test]
fn workers_are_billed_by_the_second_once() {
    let market = Market::new("metered", 2);
    let world = &market.world;
    let operator = market.operator();
    let price = |it: &str| {
        let patch = format!(
            r#"{{"spec": {{"serverless": {{"cards": [{{"cardType": "@", "perSecond": "{it}"}}]}}}}}}"#
        );
        world.patch("tariff/metered", &patch);
    };
    price("0.0041");
    market.pay("wire", "5000", "Cash");
    world.apply(POOL);
    world.ready("rp/chat");
    world.apply(BOUND);
    world.ready("sep/bound");
    // One whose worker is never ready costs nothing.
    let never = "template: {metadata: {annotations: {tenure.dev/test: never-ready}}, spec:";
    world.apply(
        &ELASTIC
            .replace("name: llm", "name: never")
            .replace("active: 2", "active: 1")
            .replace("template: {spec:", never),
    );
    world.until_running(&["bound-1", "bound-2", "bound-3", "bound-4", "never-1"]);
    world.apply(ELASTIC);
    world.ready("sep/llm");
    let contract = format!("contract/{}", world.field("sep/llm", ".metadata.uid"));
    let book = || {
        let mut book = read(&market.ledger, &market.account, &contract);
        // The spot market of this world has a price of its own.
        book.prices.retain(|it| !it.sku.starts_with("spot/"));
        book
    };
    let begun = until("both workers to be metered", || match book().spans {
        spans if spans.len() == 2 => Ok(spans),
        spans => Err(format!("{spans:?}")),
    });
    let start = Timestamp::from_millisecond(begun[0].begun.from_ms).expect("a time");
    let ready = r#".status.conditions[?(@.type=="Ready")].lastTransitionTime"#;
    let uid = world.field("pod/llm-1", ".metadata.uid");
    let one = begun.iter().find(|it| it.begun.id.starts_with(&uid)).expect("the first one is metered");
    let since: Timestamp = world.field("pod/llm-1", ready).parse().expect("it is ready since a time");
    assert_eq!(one.begun.from_ms, since.as_millisecond(), "since it is ready");

    // The day is over: it is billed once it can't come out otherwise.
    let first = after_midnight(start, 10);
    move_to(&operator, first);
    until("the first day to be billed", || match book().usage.len() {
        0 => Err("no line".to_owned()),
        _ => Ok(()),
    });
    price("0.0052");
    until("the new price to be seen", || match book().prices {
        prices if prices.len() == 2 => Ok(()),
        prices => Err(format!("{prices:?}")),
    });

    // Killed, and started again; its clock is the cluster's until it is moved.
    drop(operator);
    let operator = market.operator();
    let second = after_midnight(first, 10);
    move_to(&operator, second);
    let lines = until("the second day to be billed", || match book().usage {
        usage if usage.len() >= 3 => Ok(usage.len()),
        usage => Err(format!("{usage:?}")),
    });
    world.k("scale sep/llm --replicas 1");
    until("one worker to be gone", || {
        match world.pods().iter().filter(|it| it.starts_with("llm-")).count() {
            1 => Ok(()),
            count => Err(count.to_string()),
        }
    });
    until("its end to be known", || match book().spans.iter().filter(|it| it.until_ms.is_some()).count() {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    assert_eq!(book().usage.len(), lines, "a day that goes on is not billed");
    move_to(&operator, second + jiff::SignedDuration::from_hours(1));

    // The rest is billed when the endpoint and its pods are gone.
    world.k("delete sep llm never bound");
    // That of the pool stays open.
    until("the last bill", || match book().contracts.len() {
        1 => Ok(()),
        count => Err(count.to_string()),
    });
    let last = book();
    assert_eq!(last.prices.len(), 2);
    let since = |at: usize| Timestamp::from_millisecond(last.prices[at].from_ms).expect("a time");
    let prices = [(since(0), 41), (since(1), 52)];
    let expected = expected(&contract, &last.spans, &prices);
    let billed: BTreeMap<String, i64> = last.usage.iter().map(|it| (it.id.clone(), -it.cash)).collect();
    assert_eq!(billed, expected);
    assert_eq!(last.usage.len(), expected.len(), "each line once");
    assert!(expected.len() >= 4, "{expected:?}");
    assert_eq!(last.spans.len(), 2, "{:?}", last.spans);
    assert!(last.spans.iter().all(|it| it.until_ms == Some(it.billed_ms)), "{:?}", last.spans);
    // 840 are the pool's; what is bound to it is metered and has no line, and what was never ready has no contract.
    let cents = 500_000 - 84_000 - expected.values().sum::<i64>();
    market.until_balance(&format!("{}.{:02}", cents / 100, cents % 100));
    assert_eq!(last.contracts.len(), 1, "{:?}", last.contracts);

    // Who leads next bills nothing of it again.
    drop(operator);
    let operator = market.operator();
    move_to(&operator, after_midnight(second, 10));
    market.until_balance(&format!("{}.{:02}", cents / 100, cents % 100));
    // Only this ledger knows what the pool has bought.
    world.k("delete rp chat --timeout=60s");
    drop(operator);
    assert_eq!(book().usage.len(), expected.len());
    // Two of elastic workers, and four of those on the pool.
    assert!(verify(&market.ledger).contains("6 spans of use"));
}
