//! Metering against a real ledger: what passes see, in any order, with leaders that die at any point.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use jiff::Timestamp;
use proptest::prelude::*;

use super::Money;
use super::machines::Arrears;
use super::meter::{Listed, Name, Offer, Seen, Terms};
use super::sku::Sku;
use crate::cluster::read::Kind;
use crate::domain::money::calendar::{Period, after_seconds, whole_second};
use crate::domain::money::metering::Life;
use crate::domain::money::usage::{Per, Prices, Span, bill};
use crate::domain::money::{Currency, Exact};
use crate::ledger::{Ledger, LineKind};

/// A worker of the test.
#[derive(Debug, Clone)]
struct Pod {
    uid: String,
    ready_since: Timestamp,
    ended_at: Option<Timestamp>,
    /// Somebody took its finalizer away.
    vanished: bool,
    /// Let go, or vanished.
    gone: bool,
    known: KnownTo,
}

/// Who knows that a worker was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KnownTo {
    Nobody,
    /// Lost with the leader.
    Leader,
    Ledger,
}

/// An endpoint, its workers, and who leads.
struct World {
    folder: PathBuf,
    money: Money,
    now: Timestamp,
    pods: Vec<Pod>,
    account: &'static str,
    price: String,
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn euro() -> Currency {
    Currency::find("EUR").unwrap()
}

fn endpoint() -> Name {
    Name { kind: Kind::Endpoint, namespace: "team-a".to_owned(), name: "llm".to_owned() }
}

const CONTRACT: &str = "contract/endpoint-uid";

impl World {
    async fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tenure-meter-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let now = "2026-11-10T10:00:00Z".parse().unwrap();
        let (account, price) = ("acme", "0.0041".to_owned());
        let mut world = World { folder, money: Money::default(), now, pods: Vec::new(), account, price };
        world.lead().await;
        world
    }

    /// Another process leads; what the one before had not written is lost.
    async fn lead(&mut self) {
        self.money = Money::default();
        let url = format!("sqlite:{}", self.folder.join("ledger.db").display());
        self.money.lead(&url, self.now).await.unwrap();
        for pod in &mut self.pods {
            if pod.known == KnownTo::Leader {
                pod.known = KnownTo::Nobody;
            }
        }
    }

    fn start(&mut self) {
        let uid = format!("pod-{:03}", self.pods.len());
        let ready_since = whole_second(self.now);
        let known = KnownTo::Nobody;
        self.pods.push(Pod { uid, ready_since, ended_at: None, vanished: false, gone: false, known });
    }

    /// A pass.
    fn look(&mut self) {
        let offer = Offer {
            terms: Terms { account: self.account.to_owned(), currency: euro(), sku: "eu/ada".to_owned() },
            price: Some(Listed {
                price: Exact::parse(&self.price).unwrap(),
                text: self.price.clone(),
                since: "2026-11-01T00:00:00Z".parse().unwrap(),
            }),
        };
        let mut all = Vec::new();
        for pod in self.pods.iter_mut().filter(|it| !it.gone) {
            if pod.ended_at.is_none() {
                pod.known = pod.known.max(KnownTo::Leader);
            }
            let life = match pod.ended_at {
                None => Life::Up { ready_since: Some(pod.ready_since) },
                ended_at => Life::Down { ended_at },
            };
            let (uid, owner) = (pod.uid.clone(), "endpoint-uid".to_owned());
            all.push(Seen { pod: uid, owner, units: 2, life, offer: Some(offer.clone()) });
        }
        self.money.meter.observe(&endpoint(), || all, self.now);
        for pod in self.pods.iter_mut().filter(|it| !it.gone && it.ended_at.is_some()) {
            pod.gone = self.money.meter.may_go(&endpoint(), &pod.uid, pod.ended_at, self.now);
        }
    }

    async fn write(&mut self, confirms: bool) {
        let lives = |pod: &str| self.pods.iter().any(|it| it.uid == pod && !it.gone && it.ended_at.is_none());
        let running = self.money.meter.running().into_iter().flat_map(|(_, spans)| spans);
        let alive = running.filter(|(_, pod)| confirms && lives(pod)).map(|(id, _)| id).collect();
        self.money.write_usage(alive, self.now).await.unwrap();
        for pod in &mut self.pods {
            if pod.known == KnownTo::Leader {
                pod.known = KnownTo::Ledger;
            }
        }
    }

    /// One round of the leader.
    async fn round(&mut self, is_gone: bool) {
        self.look();
        self.write(true).await;
        self.money.bill_usage(self.now, |_, _| is_gone).await.unwrap();
    }

    /// All ends, and is billed.
    async fn end(&mut self) {
        for pod in self.pods.iter_mut().filter(|it| it.ended_at.is_none()) {
            pod.ended_at = Some(whole_second(self.now));
        }
        for _ in 0..3 {
            self.now = after_seconds(self.now, 1);
            self.round(self.pods.iter().all(|it| it.gone)).await;
        }
    }

    /// Usage lines by id: minor units.
    async fn lines(&self, account: &str) -> BTreeMap<String, i64> {
        let lines = self.ledger().lines(account, 0, i64::MAX).await.unwrap();
        let usage = lines.into_iter().filter(|it| it.kind == LineKind::Usage);
        usage.map(|it| (it.id, -it.cash)).collect()
    }

    fn ledger(&self) -> &Ledger {
        self.money.ledger.get().unwrap()
    }
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

#[tokio::test]
async fn a_pod_goes_when_its_end_is_in_the_ledger() {
    let mut world = World::new().await;
    world.start();
    world.look();
    world.write(false).await;
    world.now = after_seconds(world.now, 100);
    world.pods[0].ended_at = Some(world.now);
    world.look();
    assert!(!world.pods[0].gone, "its end is not");
    let names = world.money.write_usage(Vec::new(), world.now).await.unwrap();
    assert_eq!(names, [endpoint()], "it is looked at again");
    world.look();
    assert!(world.pods[0].gone);
    // One that was never ready holds nothing.
    assert!(world.money.meter.may_go(&endpoint(), "another", None, world.now));
}

#[tokio::test]
async fn who_pays_may_change_on_a_day() {
    let mut world = World::new().await;
    world.start();
    world.round(false).await;
    world.now = after_seconds(world.now, 1_000);
    world.account = "other";
    world.round(false).await;
    world.now = after_seconds(world.now, 500);
    world.end().await;
    let line = format!("{CONTRACT}/usage/2026-11-10/gpu/2026-11-01T00:00:00Z");
    // 2 cards × 1,000 s × 0.0041, and × 500 s.
    assert_eq!(world.lines("acme").await, [(line.clone(), 820)].into());
    assert_eq!(world.lines("other").await, [(format!("{line}/1"), 410)].into());
    assert_eq!(world.ledger().contracts().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_not_billed_yet_is_accrued() {
    let mut world = World::new().await;
    world.start();
    world.round(false).await;
    world.now = after_seconds(world.now, 1_000);
    world.round(false).await;
    world.money.meter.sum_up();
    assert_eq!(world.money.accrued("acme", "EUR").0, 820);
    assert_eq!((world.money.accrued("acme", "CNY").0, world.money.accrued("other", "EUR").0), (0, 0));
    // The next leader knows it from the ledger.
    world.lead().await;
    assert_eq!(world.money.accrued("acme", "EUR").0, 820);
    world.end().await;
    assert_eq!(world.money.accrued("acme", "EUR").0, 0);
}

#[tokio::test]
async fn arrears_that_have_ended_stay_so_when_old_notices_are_forgotten() {
    let mut world = World::new().await;
    let account: crate::api::Account = serde_json::from_value(serde_json::json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "Account",
        "metadata": {"name": "acme", "uid": "acme-uid"},
        "spec": {"currency": "EUR"},
    }))
    .unwrap();
    for is_in in [true, false] {
        world.now = after_seconds(world.now, 60);
        let balance = (crate::domain::money::Money(0), &euro());
        world.money.tell_of_arrears(&account, is_in, balance, world.now);
        world.money.write_notices(world.now).await.unwrap();
    }
    let told = world.ledger().notice_ids().await.unwrap().len();
    world.now = after_seconds(world.now, 500 * 86_400);
    world.money.forget_notices(world.now).await.unwrap();
    world.lead().await;
    world.money.tell_of_arrears(&account, false, (crate::domain::money::Money(0), &euro()), world.now);
    world.money.write_notices(world.now).await.unwrap();
    assert_eq!((told, world.ledger().notice_ids().await.unwrap().len()), (2, 2));
    let now = world.now.as_millisecond();
    let rows = world.ledger().unaddressed().await.unwrap();
    assert!(rows.iter().all(|it| it.at_ms < now), "nothing is told again");
}

#[tokio::test]
async fn nobody_is_in_arrears_or_refused_while_use_may_count_twice() {
    let mut world = World::new().await;
    let account: crate::api::Account = serde_json::from_value(serde_json::json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": "Account",
        "metadata": {"name": "acme", "uid": "acme-uid"},
        "spec": {"currency": "EUR", "mode": "Prepaid"},
    }))
    .unwrap();
    let paid = crate::ledger::PaymentIn {
        name: "wire".to_owned(),
        account: "acme".to_owned(),
        currency: "EUR".to_owned(),
        amount: 1_000,
        voucher: false,
        reference: String::new(),
    };
    world.ledger().pay(world.money.at(world.now), &paid).await.unwrap();
    world.start();
    world.round(false).await;
    world.now = after_seconds(world.now, 1_000);
    world.pods[0].ended_at = Some(whole_second(world.now));
    world.look();
    world.write(false).await;
    world.money.meter.sum_up();
    let look = async |world: &World| {
        let summary = world.money.summary(&account, world.now).await.unwrap();
        let arrears = world.money.arrears(&account, &euro(), world.now).await.unwrap();
        (summary.balance.0, summary.is_sure, arrears)
    };
    assert_eq!(look(&world).await, (180, true, Arrears::Clear));

    // It is charged, and the answer is lost.
    let bills = world.money.meter.due(world.now, |_, _| true);
    let usage = crate::ledger::UsageIn {
        charges: bills.iter().flat_map(|it| it.charges.clone()).collect(),
        billed: bills
            .iter()
            .flat_map(|it| &it.billed)
            .map(|it| (it.0.clone(), it.1.as_millisecond()))
            .collect(),
        closed: Vec::new(),
    };
    world.ledger().charge_usage(world.money.at(world.now), &usage).await.unwrap();
    world.money.unsure.store(true, Ordering::SeqCst);
    world.money.touched();
    assert_eq!(look(&world).await, (180 - 820, false, Arrears::Clear));
    let contract = world.ledger().contract_of("endpoint-uid").await.unwrap().unwrap();
    let order = crate::ledger::OrderIn {
        id: format!("{CONTRACT}/initial"),
        contract: CONTRACT.to_owned(),
        account: "acme".to_owned(),
        currency: "EUR".to_owned(),
        price: 100,
        accrued: world.money.accrued("acme", "EUR").0,
        least: Some(0),
        detail: "{}".to_owned(),
    };
    let standing = super::Standing::new(contract);
    let refused = world.money.hold(&standing, &[order], world.now).await.unwrap_err();
    assert!(matches!(refused, crate::ledger::Error::Unsure), "{refused:?}");

    world.money.bill_usage(world.now, |_, _| true).await.unwrap();
    assert_eq!(look(&world).await, (180, true, Arrears::Clear));
}

#[tokio::test]
async fn a_crash_is_not_billed() {
    let mut world = World::new().await;
    world.start();
    world.round(false).await;
    let start = world.now;
    world.now = after_seconds(start, 300);
    // It ended after 100 s, and is ready again 200 s later.
    let crashed = Life::Restarted { ended_at: after_seconds(start, 100) };
    let seen = |life| Seen {
        pod: "pod-000".to_owned(),
        owner: "endpoint-uid".to_owned(),
        units: 2,
        life,
        offer: None,
    };
    world.money.meter.observe(&endpoint(), || vec![seen(crashed)], world.now);
    world.pods[0].ready_since = after_seconds(start, 300);
    world.now = after_seconds(start, 350);
    world.round(false).await;
    world.now = after_seconds(start, 400);
    world.end().await;
    let spans = world.ledger().spans(CONTRACT).await.unwrap();
    let seconds: Vec<(i64, i64)> = spans
        .iter()
        .map(|it| {
            let from = it.begun.from_ms / 1_000 - start.as_second();
            (from, it.until_ms.unwrap() / 1_000 - start.as_second())
        })
        .collect();
    assert_eq!(seconds, [(0, 100), (300, 400)]);
}

#[tokio::test]
async fn use_of_a_pool_is_metered_and_is_no_line() {
    let world = World::new().await;
    let start = whole_second(world.now);
    let offer = Offer {
        terms: Terms {
            account: "acme".to_owned(),
            currency: euro(),
            sku: Sku::Resident { pool: "pool-uid".to_owned() }.text(),
        },
        price: Some(Listed {
            price: Exact::zero(),
            text: "0".to_owned(),
            since: "2026-11-01T00:00:00Z".parse().unwrap(),
        }),
    };
    let seen = |ready_since| Seen {
        pod: "pod-000".to_owned(),
        owner: "endpoint-uid".to_owned(),
        units: 2,
        life: Life::Up { ready_since: Some(ready_since) },
        offer: Some(offer.clone()),
    };
    let meter = &world.money.meter;
    meter.observe(&endpoint(), || vec![seen(start)], start);
    // The ledger does not know it yet; its cards are not kept from their owner for that.
    let end = after_seconds(start, 100);
    assert!(meter.may_go(&endpoint(), "pod-000", Some(end), end));
    world.money.write_usage(Vec::new(), end).await.unwrap();
    let tomorrow = after_seconds(start, 86_400);
    world.money.bill_usage(tomorrow, |_, _| false).await.unwrap();

    let spans = world.ledger().spans(CONTRACT).await.unwrap();
    let times = |it: &crate::ledger::SpanRow| (it.begun.units, it.begun.from_ms, it.until_ms, it.billed_ms);
    let (from, until) = (start.as_millisecond(), end.as_millisecond());
    assert_eq!(spans.iter().map(times).collect::<Vec<_>>(), [(2, from, Some(until), until)]);
    assert_eq!(world.ledger().lines("acme", 0, i64::MAX).await.unwrap(), []);
    assert_eq!(world.money.accrued("acme", "EUR").0, 0);
}

#[derive(Debug, Clone)]
enum Event {
    Pass(i64),
    Start,
    End(usize),
    Vanish(usize),
    Price(u8),
    Look,
    Write,
    Round,
    Lead,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1..50_000_i64).prop_map(Event::Pass),
        3 => Just(Event::Start),
        2 => (0..6_usize).prop_map(Event::End),
        1 => (0..6_usize).prop_map(Event::Vanish),
        1 => (1..4_u8).prop_map(Event::Price),
        2 => Just(Event::Look),
        2 => Just(Event::Write),
        4 => Just(Event::Round),
        2 => Just(Event::Lead),
    ];
    prop::collection::vec(event, 1..40)
}

async fn live(events: &[Event]) {
    let mut world = World::new().await;
    for event in events {
        match *event {
            Event::Pass(seconds) => {
                // Somebody leads all the time: looks come with every change, rounds every minute.
                world.round(false).await;
                world.now = after_seconds(world.now, seconds);
                world.round(false).await;
            }
            Event::Start => world.start(),
            Event::End(at) => {
                let now = whole_second(world.now);
                if let Some(pod) = world.pods.get_mut(at).filter(|it| it.ended_at.is_none()) {
                    pod.ended_at = Some(now);
                }
            }
            Event::Vanish(at) => {
                let now = whole_second(world.now);
                if let Some(pod) = world.pods.get_mut(at).filter(|it| it.ended_at.is_none()) {
                    (pod.ended_at, pod.vanished, pod.gone) = (Some(now), true, true);
                }
            }
            Event::Price(it) => world.price = format!("0.00{it}1"),
            Event::Look => world.look(),
            Event::Write => {
                world.look();
                world.write(false).await;
            }
            Event::Round => world.round(false).await,
            Event::Lead => world.lead().await,
        }
    }
    world.round(false).await;
    world.now = after_seconds(world.now, 10);
    world.end().await;

    // Each worker has what it used, and whose end was seen to the second.
    let spans = world.ledger().spans(CONTRACT).await.unwrap();
    for pod in &world.pods {
        let of: Vec<_> =
            spans.iter().filter(|it| it.begun.id.starts_with(&format!("{}/", pod.uid))).collect();
        if pod.known == KnownTo::Nobody && of.is_empty() {
            continue;
        }
        assert_eq!(of.len(), 1, "{pod:?}: {of:?}");
        let (from, until) = (time(of[0].begun.from_ms), time(of[0].until_ms.unwrap()));
        let ended_at = pod.ended_at.unwrap();
        assert_eq!(from, pod.ready_since, "{pod:?}");
        assert!(until == ended_at || (pod.vanished && until < ended_at), "{pod:?}: {until}");
    }
    // The bill is what the spans cost, each line rounded once; and the contract is closed.
    let prices = world.ledger().prices().await.unwrap();
    let epochs = prices.iter().map(|it| (time(it.from_ms), Exact::parse(&it.price).unwrap())).collect();
    let used: Vec<Span> = spans
        .iter()
        .map(|it| Span {
            period: Period { start: time(it.begun.from_ms), end: time(it.until_ms.unwrap()) },
            units: 2,
        })
        .collect();
    let expected = bill(&used, &Prices { per: Per::Second, epochs }, &euro()).unwrap();
    let expected: BTreeMap<String, i64> = expected
        .iter()
        .map(|it| {
            let day = it.key.day.strftime("%Y-%m-%d");
            (format!("{CONTRACT}/usage/{day}/gpu/{}", it.key.epoch), it.amount.0)
        })
        .collect();
    assert_eq!(world.lines("acme").await, expected);
    assert_eq!(world.ledger().contracts().await.unwrap(), []);
    world.ledger().verify().await.unwrap();
}

/// A spot server with its disk: what of both the meter sees.
fn server(ended_at: Option<Timestamp>, began: Timestamp) -> Vec<Seen> {
    let life = ended_at.map_or(Life::Up { ready_since: Some(began) }, |it| Life::Down { ended_at: Some(it) });
    let seen = |pod: &str, units: u32, sku: &str, price: Option<Listed>| Seen {
        pod: pod.to_owned(),
        owner: "server-uid".to_owned(),
        units,
        life,
        offer: Some(Offer {
            terms: Terms { account: "acme".to_owned(), currency: euro(), sku: sku.to_owned() },
            price,
        }),
    };
    vec![seen("pod-1", 3, CARD, None), seen("disk/claim-1", 20, DISK, Some(listed("1.2")))]
}

const CARD: &str = "spot/gpu/eu/ada";
const DISK: &str = "spot/disk/eu";

fn listed(text: &str) -> Listed {
    let since = "2026-11-01T00:00:00Z".parse().unwrap();
    Listed { price: Exact::parse(text).unwrap(), text: text.to_owned(), since }
}

/// A card of a server under this price list, and its disk.
fn server_under(card: &str, began: Timestamp) -> Vec<Seen> {
    let mut seen = server(None, began);
    let offer = seen[0].offer.as_mut().unwrap();
    offer.terms.sku = card.to_owned();
    seen
}

#[tokio::test]
async fn a_server_keeps_its_terms_until_the_new_ones_have_a_price() {
    const ALL: &str = "spot/gpu//ada";
    let world = World::new().await;
    let name = Name { kind: Kind::Spot, namespace: "team-a".to_owned(), name: "render".to_owned() };
    let meter = &world.money.meter;
    let skus = || -> Vec<(String, i64, Option<i64>)> {
        let known = meter.known();
        let spans = known.contracts[&name]["server-uid"].of_pod("pod-1");
        let second = |it: Timestamp| it.as_second() - whole_second(world.now).as_second();
        spans
            .map(|(_, it)| (it.terms.sku.clone(), second(it.times.from), it.times.until.map(second)))
            .collect()
    };
    let began = whole_second(world.now);
    meter.set_market_price(ALL, &listed("2.40"), began);
    meter.observe(&name, || server_under(ALL, began), began);
    // The region gets a market of its own, which has no price yet.
    meter.observe(&name, || server_under(CARD, began), after_seconds(began, 100));
    assert_eq!(skus(), [(ALL.to_owned(), 0, None)]);
    // Its first price begins when the API server says that it was made, which may be ahead of our clock.
    let first = Listed { since: after_seconds(began, 500), ..listed("3") };
    meter.set_market_price(CARD, &first, after_seconds(began, 500));
    meter.observe(&name, || server_under(CARD, began), after_seconds(began, 200));
    assert_eq!(skus(), [(ALL.to_owned(), 0, Some(500)), (CARD.to_owned(), 500, None)]);
}

#[tokio::test]
async fn what_has_no_price_waits_and_the_rest_is_billed() {
    let mut world = World::new().await;
    let name = Name { kind: Kind::Spot, namespace: "team-a".to_owned(), name: "render".to_owned() };
    let began = whole_second(world.now);
    let meter = &world.money.meter;
    meter.set_market_price(CARD, &listed("2.40"), began);
    meter.observe(&name, || server(None, began), began);
    world.now = after_seconds(began, 3_600);
    meter.observe(&name, || server(Some(world.now), began), world.now);
    world.money.write_usage(Vec::new(), world.now).await.unwrap();
    let prices = meter.known().prices.remove(CARD).unwrap();
    world.money.bill_usage(world.now, |_, _| true).await.unwrap();
    let billed = world.lines("acme").await;
    assert_eq!(billed.keys().map(|it| it.contains("/disk/")).collect::<Vec<_>>(), [true]);
    assert_eq!(world.ledger().contracts().await.unwrap().len(), 1, "it waits for the rest");

    meter.known().prices.insert(CARD.to_owned(), prices);
    for _ in 0..2 {
        world.money.bill_usage(world.now, |_, _| true).await.unwrap();
    }
    let billed = world.lines("acme").await;
    // 3 cards for an hour.
    assert_eq!(billed.iter().filter(|it| it.0.contains("/gpu/")).map(|it| *it.1).sum::<i64>(), 720);
    assert_eq!(billed.len(), 2);
    assert_eq!(world.ledger().contracts().await.unwrap(), []);
}

/// A server lives through price changes, nights and leaders that die; it is billed day by day.
async fn serve(events: &[Event]) {
    let mut world = World::new().await;
    let name = Name { kind: Kind::Spot, namespace: "team-a".to_owned(), name: "render".to_owned() };
    let began = whole_second(world.now);
    let mut price = "2.40".to_owned();
    for event in events {
        match event {
            Event::Pass(seconds) => world.now = after_seconds(world.now, *seconds),
            Event::Price(it) => price = format!("2.{it}7"),
            Event::Lead => world.lead().await,
            Event::Start | Event::End(_) | Event::Vanish(_) | Event::Look | Event::Write | Event::Round => (),
        }
        world.money.meter.set_market_price(CARD, &listed(&price), world.now);
        world.money.meter.observe(&name, || server(None, began), world.now);
        let alive = world.money.meter.running().into_iter().flat_map(|(_, spans)| spans);
        world.money.write_usage(alive.map(|(id, _)| id).collect(), world.now).await.unwrap();
        world.money.bill_usage(world.now, |_, _| false).await.unwrap();
    }
    world.now = after_seconds(world.now, 77);
    let ended = whole_second(world.now);
    world.money.meter.set_market_price(CARD, &listed(&price), world.now);
    world.money.meter.observe(&name, || server(None, began), world.now);
    assert!(!world.money.meter.has_ended(&name, "server-uid"));
    world.money.meter.observe(&name, || server(Some(ended), began), world.now);
    assert!(!world.money.meter.has_ended(&name, "server-uid"), "the ledger does not know it yet");
    world.money.write_usage(Vec::new(), world.now).await.unwrap();
    assert!(world.money.meter.has_ended(&name, "server-uid"));
    world.money.bill_usage(world.now, |_, _| true).await.unwrap();

    let prices = world.ledger().prices().await.unwrap();
    let mut expected = BTreeMap::new();
    for (sku, what, per, units) in [(CARD, "gpu", Per::Hour, 3), (DISK, "disk", Per::CalendarMonth, 20)] {
        let of = prices.iter().filter(|it| it.sku == sku);
        let epochs = of.map(|it| (time(it.from_ms), Exact::parse(&it.price).unwrap())).collect();
        let whole = Span { period: Period { start: began, end: ended }, units };
        for line in bill(&[whole], &Prices { per, epochs }, &euro()).unwrap() {
            let day = line.key.day.strftime("%Y-%m-%d");
            let id = format!("contract/server-uid/usage/{day}/{what}/{}", line.key.epoch);
            expected.insert(id, line.amount.0);
        }
    }
    assert_eq!(world.lines("acme").await, expected);
    assert_eq!(world.ledger().contracts().await.unwrap(), [], "its contract is closed");
    world.ledger().verify().await.unwrap();
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 16, ..Default::default() })]
    /// In parts, over prices and leaders, a server costs what its whole life does.
    #[test]
    fn a_server_costs_in_parts_what_it_costs_whole(events in events()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve(&events));
    }
}

proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 32, ..Default::default() })]
    /// Whatever happens in whichever order, and whoever dies: what was used is billed once.
    #[test]
    fn what_is_used_is_billed_once(events in events()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live(&events));
    }
}
