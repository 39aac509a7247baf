//! The spot market, lived through on the real cluster with the time machine: prices, notices, purchases that need cards, arrears, and
//! what servers cost.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tenure::ledger::{PriceRow, SpanRow};

use crate::metering::read;
use crate::money::{Market, move_to, verify};
use crate::stories::{ELASTIC, POOL, SPOT};
use crate::support::{field, k, kubectl, until, until_field};
use crate::world::{READY, World};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const SECOND: SignedDuration = SignedDuration::from_secs(1);

fn price(world: &World, price: &str) {
    let patch = format!(r#"{{"spec": {{"price": {{"fixed": "{price}"}}}}}}"#);
    world.patch(&format!("spotmarket/{}", world.name), &patch);
    until_field(&format!("spotmarket/{}", world.name), ".status.price", price);
}

/// What is told to its owner, as `kubectl describe` shows it.
fn until_told(world: &World, server: &str, reason: &str) {
    until(&format!("{server} to be told {reason}"), || {
        let template = "jsonpath={range .items[*]}{.involvedObject.name}:{.reason},{end}";
        let told = kubectl(&["-n", world.name, "get", "events", "-o", template])?;
        if told.contains(&format!("{server}:{reason},")) { Ok(()) } else { Err(told) }
    });
}

/// An exact fraction as whole ones: to the nearest, from the middle to the even one.
fn half_even(parts: i128, of: i128) -> i64 {
    let (whole, twice) = (parts / of, parts % of * 2);
    let up = twice > of || (twice == of && whole % 2 == 1);
    i64::try_from(whole).expect("it is small") + i64::from(up)
}

/// What the lines must be, by id: cents, from the spans' seconds alone. `cents`: of a unit, by the text of the price.
fn expected(
    contract: &str,
    spans: &[SpanRow],
    prices: &[PriceRow],
    cents: impl Fn(&str) -> i128,
) -> BTreeMap<String, i64> {
    let mut parts: BTreeMap<(String, i128), i128> = BTreeMap::new();
    for span in spans {
        let until = span.until_ms.expect("it has ended") / 1_000;
        for second in span.begun.from_ms / 1_000..until {
            let now = Timestamp::from_second(second).expect("a time");
            let mut of_sku = prices.iter().filter(|it| it.sku == span.begun.sku);
            let price = of_sku.rfind(|it| it.from_ms <= second * 1_000).expect("it has a price");
            let since = Timestamp::from_millisecond(price.from_ms).expect("a time");
            let day = now.to_zoned(TimeZone::UTC).date();
            let (what, per) = if span.begun.sku.starts_with("spot/disk/") {
                ("disk", i128::from(day.days_in_month()) * 86_400)
            } else {
                ("gpu", 3_600)
            };
            let id = format!("{contract}/usage/{day}/{what}/{since}");
            *parts.entry((id, per)).or_default() += cents(&price.price) * i128::from(span.begun.units);
        }
    }
    parts.into_iter().map(|((id, per), it)| (id, half_even(it, per))).collect()
}

#[test]
fn a_server_is_reclaimed_by_price_after_its_notice_and_billed_to_the_second() {
    let market = Market::new("spotprice", 1);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "1000", "Cash");
    world.patch(&format!("tariff/{}", world.name), r#"{"spec": {"spot": {"diskPerGBMonth": "1.2"}}}"#);
    world.apply(SPOT);
    world.ready("spot/render");
    world.until("spot/render", ".status.phase", "Protected");
    until_field("spotmarket/spotprice", ".status.running", "1");
    let contract = format!("contract/{}", world.field("spot/render", ".metadata.uid"));
    let disk = world.field("pvc/render-data", ".metadata.uid");

    // In its first hour the price does not touch it.
    price(world, "3");
    world.until("spot/render", ".status.price", "3");
    assert_eq!(world.field("spot/render", ".status.phase"), "Protected");
    assert_eq!(world.field("spot/render", ".status.reclaim"), "");

    // After it, its owner is told, and its processes.
    move_to(&operator, market.time("spot/render", ".status.protectedUntil"));
    world.until("spot/render", ".status.phase", "Reclaiming");
    world.until("spot/render", NOTICE, "True PriceAboveBid");
    assert_eq!(world.field("spot/render", ".status.reclaim.reason"), "PriceAboveBid");
    until_told(world, "render", "ReclaimNotice");
    let shown = r".metadata.annotations.tenure\.dev/reclaim";
    until("the pod to show it", || match world.field("pod/render", shown) {
        text if text.contains("PriceAboveBid") => Ok(()),
        text => Err(text),
    });
    until_field("spotmarket/spotprice", ".status.reclaiming", "1");
    let told = |path: &str| market.time("spot/render", &format!(".status.reclaim.{path}"));
    assert_eq!(told("reclaimAt").duration_since(told("noticedAt")), MINUTE * 30);

    // The price falls again: the notice is withdrawn.
    price(world, "2.5");
    world.until("spot/render", ".status.phase", "Running");
    world.until("spot/render", NOTICE, "False NoNotice");
    until_told(world, "render", "NoticeWithdrawn");
    world.until("pod/render", shown, "");

    // It rises again. Who leads next goes on with the same notice.
    world.patch(&format!("tariff/{}", world.name), r#"{"spec": {"spot": {"protectionMinutes": 0}}}"#);
    price(world, "2.51");
    world.until("spot/render", ".status.phase", "Reclaiming");
    let notice = world.field("spot/render", r".metadata.annotations.tenure\.dev/reclaim");
    let reclaim_at = told("reclaimAt");
    drop(operator);
    let operator = market.operator();
    move_to(&operator, reclaim_at - MINUTE);
    until_field(&format!("account/{}", market.account), READY, "True");
    assert_eq!(world.field("spot/render", r".metadata.annotations.tenure\.dev/reclaim"), notice);
    world.until_running(&["render"]);
    move_to(&operator, reclaim_at + SECOND);
    world.until("spot/render", ".status.phase", "Reclaimed");
    world.until_running(&[]);
    world.until_shares(1, "spot", 0);
    assert!(world.not_ready("spot/render", "PriceAboveBid").contains("the price is 2.51 and the bid 2.50"));
    until_told(world, "render", "Reclaimed");

    // When its bid suffices again, it starts anew, with the same disk.
    price(world, "2");
    world.ready("spot/render");
    world.until("spot/render", ".status.phase", "Running");
    assert_eq!(world.field("spot/render", ".status.reclaim"), "");
    assert_eq!(world.field("pvc/render-data", ".metadata.uid"), disk);

    world.k("delete spot render --timeout=60s");
    let last = until("the last bill", || {
        let book = read(&market.ledger, &market.account, &contract);
        if book.contracts.iter().any(|it| it.id == contract) { Err("open".to_owned()) } else { Ok(book) }
    });
    let cents = |text: &str| match text {
        "1.2" => 120,
        "2" => 200,
        "2.5" => 250,
        "2.51" => 251,
        "3" => 300,
        other => panic!("nobody set the price {other}"),
    };
    let expected = expected(&contract, &last.spans, &last.prices, cents);
    let billed: BTreeMap<String, i64> = last.usage.iter().map(|it| (it.id.clone(), -it.cash)).collect();
    assert_eq!(billed, expected);
    let of = |what: &str| last.spans.iter().filter(|it| it.begun.sku.starts_with(what)).collect::<Vec<_>>();
    let (cards, disks) = (of("spot/gpu/"), of("spot/disk/"));
    assert_eq!((cards.len(), disks.len()), (2, 1), "{:?}", last.spans);
    let first = cards.iter().min_by_key(|it| it.begun.from_ms).expect("it ran");
    let until_ms = first.until_ms.expect("it has ended");
    assert!(until_ms >= reclaim_at.as_millisecond(), "its processes had their whole notice");
    assert_eq!(disks[0].begun.units, 20);
    assert!(disks[0].begun.from_ms <= first.begun.from_ms, "{disks:?} {first:?}");
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn a_pool_purchase_reclaims_exactly_the_two_lowest_bids() {
    let market = Market::new("spotpool", 1);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "250", "Cash");
    world.patch(&format!("tariff/{}", world.name), r#"{"spec": {"spot": {"protectionMinutes": 0}}}"#);
    let servers: Vec<String> = (1..=8).map(|it| format!("s{it}")).collect();
    for (at, server) in servers.iter().enumerate() {
        // s4 bids least, then s7: 2.3, 2.4, 2.5, 2.1, 2.6, 2.7, 2.2, 2.8.
        let bid = [3, 4, 5, 1, 6, 7, 2, 8][at];
        let spot = SPOT.replace("name: render", &format!("name: {server}"));
        world.apply(&spot.replace("2.50", &format!("2.{bid}")));
    }
    let refs: Vec<String> = servers.iter().map(|it| format!("spot/{it}")).collect();
    world.all_ready(&refs.iter().map(String::as_str).collect::<Vec<_>>());
    let template = "jsonpath={range .items[*]}{.metadata.name}:{.status.phase},{end}";
    let phases = || kubectl(&["-n", world.name, "get", "spot", "-o", template]).expect("they are there");
    let with = |gone: &str| {
        let all = servers.iter().map(|it| {
            let gone = ["s4", "s7"].contains(&it.as_str()).then_some(gone);
            format!("{it}:{},", gone.unwrap_or("Running"))
        });
        all.collect::<String>()
    };

    // 2 × 100 + 80 GB × 1 = 280, and there is no money for it: nobody is told to go for who can't pay.
    let pool = POOL.replace("cards: 6", "cards: 2");
    world.apply(&pool);
    let message = world.not_ready("rp/chat", "InsufficientFunds");
    assert!(message.contains("the order costs 280.00 EUR"), "{message}");
    assert_eq!(phases(), with("Running"));

    market.pay("more", "250", "Cash");
    let message = world.not_ready("rp/chat", "Reclaiming");
    assert!(message.contains("2 more are needed and 0 are free"), "{message}");
    until("the two lowest bids to be told", || match phases() {
        found if found == with("Reclaiming") => Ok(()),
        found => Err(found),
    });
    world.until("spot/s4", NOTICE, "True Shortage");
    assert_eq!(world.field("rp/chat", ".status.orders"), "", "nothing is bought yet");

    // It does not want them any more: both notices are withdrawn.
    until("the pool to be free", || k("-n spotpool delete rp/chat --timeout=60s"));
    until("both to run on", || match phases() {
        found if found == with("Running") => Ok(()),
        found => Err(found),
    });
    until_told(world, "s4", "NoticeWithdrawn");

    // And again, to its end.
    world.apply(&pool);
    until("the two lowest bids to be told again", || match phases() {
        found if found == with("Reclaiming") => Ok(()),
        found => Err(found),
    });
    let noticed = |server: &str| market.time(&format!("spot/{server}"), ".status.reclaim.reclaimAt");
    move_to(&operator, noticed("s4").max(noticed("s7")) + SECOND);
    world.ready("rp/chat");
    world.until_shares(1, "resident", 2);
    until("the others to run on", || match phases() {
        found if found == with("Reclaimed") => Ok(()),
        found => Err(found),
    });
    assert!(world.not_ready("spot/s4", "Shortage").contains("0 are free"));
    // Left with the ledger in which it is bought: no other operator can settle it.
    until("the pool to be free", || k("-n spotpool delete rp/chat --timeout=60s"));
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn arrears_stop_workers_and_a_server_and_a_payment_resumes_them() {
    let market = Market::new("indebted", 1);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "2", "Cash");
    world.apply(SPOT);
    world.apply(ELASTIC);
    world.ready("spot/render");
    world.ready("sep/llm");
    until("all three to be metered", || {
        let contract = |object: &str| format!("contract/{}", world.field(object, ".metadata.uid"));
        let count = |object: &str| read(&market.ledger, &market.account, &contract(object)).spans.len();
        match (count("spot/render"), count("sep/llm")) {
            (2, 2) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    // Two workers at 0.01 a second: 2 are gone after 100 seconds. One minute later that is confirmed.
    let account = format!("account/{}", market.account);
    let begun = market.time("spot/render", ".metadata.creationTimestamp");
    move_to(&operator, begun + MINUTE * 4);
    until_field(&account, ".status.arrears", "true");
    let since = market.time("spot/render", ".status.reclaim.noticedAt");
    world.until("spot/render", NOTICE, "True Arrears");
    world.until("sep/llm", FUNDED, "False Arrears");
    // On the recovery list: both run on for 5 minutes, also in the server's first hour; nothing new begins.
    let reclaim_at = market.time("spot/render", ".status.reclaim.reclaimAt");
    let grace = reclaim_at.duration_since(since);
    assert!(grace <= MINUTE * 5 && grace > MINUTE * 4, "{grace}");
    world.until_running(&["llm-1", "llm-2", "render"]);
    world.apply(&SPOT.replace("name: render", "name: late"));
    let message = world.not_ready("spot/late", "Arrears");
    assert!(message.contains(&format!("Account {} is in arrears", market.account)), "{message}");

    // Who leads next knows since when.
    let known = field(&account, ".status.arrearsSince");
    drop(operator);
    let operator = market.operator();
    move_to(&operator, reclaim_at + SECOND * 2);
    world.until_running(&[]);
    assert_eq!(field(&account, ".status.arrearsSince"), known);
    world.until("spot/render", ".status.phase", "Reclaimed");
    let message = world.not_ready("sep/llm", "Arrears");
    assert!(message.contains("its workers are stopped; add a Payment"), "{message}");
    world.until("sep/llm", ".status.phase", "Unavailable");

    market.pay("late", "1000", "Cash");
    until_field(&account, ".status.arrears", "false");
    world.ready("sep/llm");
    world.ready("spot/render");
    world.ready("spot/late");
    world.until("sep/llm", FUNDED, "True NoArrears");
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn prices_follow_the_inventory_or_a_feed() {
    let market = Market::new("priced", 1);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "1000", "Cash");
    let set = |price: &str| {
        world.patch(&format!("spotmarket/{}", world.name), &format!(r#"{{"spec": {{"price": {price}}}}}"#));
    };
    let shows = |path: &str, value: &str| until_field("spotmarket/priced", path, value);
    set(r#"{"fixed": null, "inventory": {"floor": "1", "ceiling": "9", "everySeconds": 3600}}"#);
    // All cards are free: the floor.
    shows(".status.price", "1");
    shows(".status.freeCards", "8");
    let first = field("spotmarket/priced", ".status.since");
    world.apply(SPOT);
    world.ready("spot/render");
    shows(".status.freeCards", "7");
    assert_eq!(field("spotmarket/priced", ".status.price"), "1", "it is set once in an hour");
    let since: Timestamp = first.parse().expect("a time");
    move_to(&operator, since + MINUTE * 60 + SECOND * 2);
    // One of eight is taken: 1 + 8 × 1/8.
    shows(".status.price", "2");
    let since = field("spotmarket/priced", ".status.since");

    // Who leads next goes on with the price that holds, and since when. It may read from this machine.
    drop(operator);
    let operator = market.operator_with(&["--notify-allow".to_owned(), "127.0.0.0/8".to_owned()]);
    until_field(&format!("account/{}", market.account), READY, "True");
    assert_eq!(field("spotmarket/priced", ".status.since"), since);
    assert_eq!(field("spotmarket/priced", ".status.price"), "2");

    let (address, says) = feed("2.10");
    set(&format!(r#"{{"inventory": null, "feed": {{"url": "http://{address}/ada", "everySeconds": 10}}}}"#));
    shows(".status.price", "2.1");
    shows(CURRENT, "True Valid");
    "soon".clone_into(&mut says.lock().expect("nobody panics with it"));
    shows(CURRENT, "False FeedFailed");
    let message = field("spotmarket/priced", ".status.conditions[?(@.type==\"PriceCurrent\")].message");
    assert!(message.contains("its answer is no price"), "{message}");
    assert!(message.contains("the last price, 2.1, holds"), "{message}");
    assert_eq!(field("spotmarket/priced", ".status.price"), "2.1");
    shows(READY, "True");
    "2.20".clone_into(&mut says.lock().expect("nobody panics with it"));
    shows(".status.price", "2.2");
    shows(CURRENT, "True Valid");
    drop(operator);
    verify(&market.ledger);
}

/// A feed, and what it says.
fn feed(first: &str) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has an address").to_string();
    let says = Arc::new(Mutex::new(first.to_owned()));
    let shared = says.clone();
    std::thread::spawn(move || {
        for mut caller in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 1_024];
            if caller.read(&mut head).is_err() {
                continue;
            }
            let body = shared.lock().expect("nobody panics with it").clone();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            caller.write_all(answer.as_bytes()).ok();
        }
    });
    (address, says)
}

const NOTICE: &str = "range .status.conditions[?(@.type==\"ReclaimNotice\")]}{.status} {.reason}{end";
const FUNDED: &str = "range .status.conditions[?(@.type==\"Funded\")]}{.status} {.reason}{end";
const CURRENT: &str = "range .status.conditions[?(@.type==\"PriceCurrent\")]}{.status} {.reason}{end";
