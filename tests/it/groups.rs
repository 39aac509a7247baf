//! What machines of groups cost, lived through on the real cluster with the time machine: terms and hours side by side, single
//! renewals, expiry, conversion, arrears, leaving. What the bill must be is computed here from what the ledger says of times.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tenure::ledger::{Ledger, Line, LineKind};

use crate::money::{DAY, EXPIRING, Market, a_month_after, move_to, verify};
use crate::stories::GROUP_POD;
use crate::support::{k, until, until_field};
use crate::world::World;

const MINUTE: SignedDuration = SignedDuration::from_mins(1);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// A group of these sets.
fn group(sets: &str) -> String {
    format!(
        "apiVersion: tenure.dev/v1alpha1\nkind: DedicatedGroup\nmetadata: {{namespace: \"@\", name: train}}\nspec:\n  region: \"@\"\n  network: Open\n  machineSets: [{sets}]\n"
    )
}

/// A set of machines for a term: 1000 a month, and 100 for 100 GB of disk beyond what is included.
fn base(count: u32, more: &str) -> String {
    format!(
        "{{name: base, machineType: m8, count: {count}, systemDiskGB: 300, billing: Prepaid, term: {{months: 1}}{more}}}"
    )
}

/// A set of machines by the hour: 2 an hour.
fn burst(count: u32, more: &str) -> String {
    format!("{{name: burst, machineType: m8, count: {count}, billing: Postpaid{more}}}")
}

/// The lines of the bill, in cents: what each of these adds to what was spent.
fn lines(market: &Market) -> Vec<Line> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("it starts");
    runtime.block_on(async {
        let ledger = Ledger::open(&format!("sqlite:{}", market.ledger.display())).await.expect("it opens");
        let lines = ledger.lines(&market.account, 0, i64::MAX).await.expect("it has lines");
        ledger.close().await;
        lines
    })
}

/// The hours that were charged, by machine: since when, and how much.
fn hours(market: &Market) -> BTreeMap<String, Vec<(Timestamp, i64)>> {
    let mut hours: BTreeMap<String, Vec<(Timestamp, i64)>> = BTreeMap::new();
    for line in lines(market).iter().filter(|it| it.kind == LineKind::Usage) {
        let (machine, start) =
            line.id.split_once("/machine/").and_then(|it| it.1.split_once("/hour/")).expect("an hour");
        hours
            .entry(machine.to_owned())
            .or_default()
            .push((start.parse().expect("a time"), -line.cash - line.voucher));
    }
    for list in hours.values() {
        let mut starts: Vec<Timestamp> = list.iter().map(|it| it.0).collect();
        starts.dedup();
        assert_eq!(starts.len(), list.len(), "each hour once");
    }
    hours
}

/// Waits until the ledger has so many hours of a machine.
fn until_hours(market: &Market, machine: &str, count: usize) -> Vec<(Timestamp, i64)> {
    until(&format!("{count} hours of {machine}"), || {
        let found = hours(market).remove(machine).unwrap_or_default();
        if found.len() == count { Ok(found) } else { Err(format!("{found:?}")) }
    })
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// What an order returns that is left in so many days from its beginning, in cents.
fn returned(line: &Line, days_used: i64) -> i64 {
    let detail: serde_json::Value = serde_json::from_str(&line.detail).expect("it has a detail");
    let time = |it: &str| detail[it].as_str().map(|it| it.parse::<Timestamp>().expect("a time"));
    let posted = Timestamp::from_second(line.at_ms / 1_000).expect("a time");
    let (from, to) = time("from").zip(time("to")).unwrap_or((posted, a_month_after(posted)));
    let days = to.duration_since(from).as_hours() / 24;
    let price = -line.cash;
    price - (price * days_used * 12 * 2 + 10 * days) / (2 * 10 * days)
}

/// The line of an order.
fn order(market: &Market, id: &str) -> Line {
    let line = lines(market).into_iter().find(|it| it.kind == LineKind::Order && it.id.ends_with(id));
    line.unwrap_or_else(|| panic!("no order {id}"))
}

/// When the group was made; its machines were there a little later.
fn made(market: &Market) -> Timestamp {
    market.time("dg/train", ".metadata.creationTimestamp")
}

fn phases(world: &World) -> String {
    world.field("dg/train", ".status.machines[*].phase")
}

fn until_phases(world: &World, phases: &str) {
    world.until("dg/train", ".status.machines[*].phase", phases);
}

#[test]
fn a_mixed_group_is_paid_renewed_expires_comes_back_and_is_refunded() {
    let market = Market::new("mixed", 3);
    let world = &market.world;
    let operator = market.operator();
    // There is no money: no machine is given, none of either kind.
    world.apply(&group(&[base(2, ""), burst(1, "")].join(", ")));
    let message = world.not_ready("dg/train", "InsufficientFunds");
    let says = format!(
        "initial of machines base-0, base-1 costs 2200.00 EUR and Account {} has 0.00 EUR",
        market.account
    );
    assert!(message.contains(&says), "{message}");
    assert_eq!(world.shares(3, "dedicated"), 0, "nothing is given unpaid");

    market.pay("wire", "3000", "Cash");
    world.ready("dg/train");
    assert_eq!(world.shares(3, "dedicated"), 24);
    assert_eq!(world.field("dg/train", ".status.machines[*].billing"), "Prepaid Prepaid Postpaid");
    // What has begun is owed, and charged when it is over.
    market.until_balance("798.00");
    assert!(hours(&market).is_empty());
    let expires = market.time("dg/train", ".status.machines[1].expiresAt");
    move_to(&operator, made(&market) + HOUR + MINUTE * 20);
    let charged = until_hours(&market, "burst-0", 1);
    assert_eq!(charged[0].1, 200);
    let began = charged[0].0;
    market.until_balance("796.00");

    // One machine is renewed, and a reminder comes for the other.
    market.pay("renewal", "2000", "Cash");
    let renewed = ", machineRenewals: [{machine: base-0, months: 1}]";
    world.apply(&group(&[base(2, renewed), burst(1, "")].join(", ")));
    market.until_balance("1696.00");
    assert!(market.time("dg/train", ".status.machines[0].expiresAt") > expires + DAY * 27);
    move_to(&operator, expires - DAY * 3);
    world.until("dg/train", EXPIRING, "True Expiring");

    // It expires: it is emptied and goes back. The others stay.
    let second = GROUP_POD.replace("spec: {", "spec: {nodeSelector: {tenure.dev/machine: base-1}, ");
    world.apply(&second);
    world.until_running(&["job"]);
    move_to(&operator, expires + MINUTE);
    until_phases(world, "Running Expired Running");
    world.until_running(&[]);
    world.until_shares(3, "dedicated", 16);
    world.until("dg/train", EXPIRING, "True Expired");
    assert!(world.not_ready("dg/train", "Expired").contains("base-1 has expired: append to renewals"));

    // The whole set is renewed: one from the end of its term, the other one from its payment, when its machine is there.
    market.pay("again", "2200", "Cash");
    let renewed = format!("{renewed}, renewals: [{{months: 1}}]");
    world.apply(&group(&[base(2, &renewed), burst(1, "")].join(", ")));
    world.ready("dg/train");
    assert_eq!(world.shares(3, "dedicated"), 24);
    let orders: Vec<String> = lines(&market)
        .iter()
        .filter(|it| it.kind == LineKind::Order)
        .filter_map(|it| Some(it.id.split_once("/machine/")?.1.to_owned()))
        .collect();
    let mut sorted = orders.clone();
    sorted.sort();
    assert_eq!(
        sorted,
        [
            "base-0/initial",
            "base-0/renewal/manual/0",
            "base-0/renewal/manual/1",
            "base-1/initial",
            "base-1/renewal/manual/0"
        ]
    );
    let back = market.time("dg/train", ".status.machines[1].expiresAt");
    assert!(back > a_month_after(expires), "{back}");

    // Left: each order returns what is left of it, the hours that have begun are charged, and nothing is kept.
    let owed = usize::try_from((expires + MINUTE).duration_since(began).as_secs() / 3_600 + 1).expect("few");
    until("the group to be gone", || k("-n mixed delete dg/train --timeout=60s"));
    let charged = until_hours(&market, "burst-0", owed);
    let spent = i64::try_from(owed).expect("few") * 200;
    assert_eq!(charged.iter().map(|it| it.1).sum::<i64>(), spent);
    let back = |id: &str| returned(&order(&market, id), 1);
    let back = back("base-0/renewal/manual/0") + 110_000 + back("base-1/renewal/manual/0");
    let left = 720_000 - 5 * 110_000 - spent + back;
    market.until_balance(&money(left));
    world.until_empty(3);
    drop(operator);
    let report = verify(&market.ledger);
    assert!(report.contains("adds up"), "{report}");
    let operator = market.operator();
    market.until_balance(&money(left));
    drop(operator);
}

#[test]
fn a_group_that_does_not_fit_keeps_nothing() {
    let market = Market::new("unfit", 2);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "5000", "Cash");
    world.apply(&group(&[base(2, ""), burst(1, "")].join(", ")));
    assert!(
        world
            .not_ready("dg/train", "Refused")
            .contains("sold out: 3 more whole machines are needed and 2 are free")
    );
    world.until("dg/train", ".status.phase", "Failed");
    market.until_balance("5000.00");
    assert_eq!(world.shares(2, "dedicated"), 0);
    // Fewer fit. A machine more does not, and what is bought stays.
    world.apply(&group(&base(2, "")));
    world.ready("dg/train");
    market.until_balance("2800.00");
    world.apply(&group(&[base(2, ""), burst(1, "")].join(", ")));
    world.not_ready("dg/train", "Refused");
    market.until_balance("2800.00");
    assert_eq!(world.shares(2, "dedicated"), 16);
    // One goes back before its term ends: it returns what is left of it, once, and the group goes on.
    world.apply(&group(&base(1, "")).replace("machineSets", "release: [base-1]\n  machineSets"));
    world.until("dg/train", ".status.machines[*].name", "base-0");
    let back = |id: &str| returned(&order(&market, id), 1);
    let left = 280_000 + back("base-1/initial");
    market.until_balance(&money(left));
    world.until_shares(2, "dedicated", 8);
    until("the group to be gone", || k("-n unfit delete dg/train --timeout=60s"));
    market.until_balance(&money(left + back("base-0/initial")));
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn a_machine_whose_node_is_gone_gets_another_one_and_pays_no_second_twice() {
    let market = Market::new("gone", 3);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "1500", "Cash");
    world.apply(&group(&[base(1, ""), burst(1, "")].join(", ")));
    world.ready("dg/train");
    market.until_balance("398.00");
    let node = |at: usize| world.field("dg/train", &format!(".status.machines[{at}].node"));
    // The prepaid one: another node, and nothing is paid for it.
    let first = node(0);
    k(&format!("delete node {first}")).expect("it is deleted");
    until("another node", || if [&first, ""].contains(&node(0).as_str()) { Err(node(0)) } else { Ok(()) });
    world.ready("dg/train");
    market.until_balance("398.00");
    // The one by the hour: its hours go on, or end and begin anew where the last one that is charged ends.
    world.add_node(first.rsplit('-').next().and_then(|it| it.parse().ok()).expect("its number"));
    world.until_shares(3, "dedicated", 16);
    let second = node(1);
    k(&format!("delete node {second}")).expect("it is deleted");
    until("another node", || if [&second, ""].contains(&node(1).as_str()) { Err(node(1)) } else { Ok(()) });
    world.ready("dg/train");
    market.until_balance("398.00");
    move_to(&operator, made(&market) + HOUR * 2 + MINUTE * 20);
    let charged = until_hours(&market, "burst-0", 2);
    assert_eq!(charged[1].0, charged[0].0 + HOUR, "no second twice");
    market.until_balance("394.00");
    until("the group to be gone", || k("-n gone delete dg/train --timeout=60s"));
    until_hours(&market, "burst-0", 3);
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn hours_are_charged_once_also_those_that_nobody_saw() {
    let market = Market::new("hourly", 2);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "5000", "Cash");
    world.apply(&group(&burst(2, "")));
    world.ready("dg/train");
    market.until_balance("4996.00");
    // Away for hours: all of them, each once.
    drop(operator);
    let operator = market.operator();
    let away = made(&market) + HOUR * 5 + MINUTE * 30;
    move_to(&operator, away);
    for machine in ["burst-0", "burst-1"] {
        let charged = until_hours(&market, machine, 5);
        assert!(charged.iter().all(|it| it.1 == 200), "{charged:?}");
        assert!(charged.windows(2).all(|it| it[1].0.duration_since(it[0].0) == HOUR), "{charged:?}");
    }
    market.until_balance("4976.00");

    // Another price holds for the hours that begin from then on.
    world.patch(
        "tariff/hourly",
        r#"{"spec": {"dedicated": {"machineTypes": [{"name": "m8", "cardType": "@", "cards": 8, "perMonth": "1000", "perHour": "3"}]}}}"#,
    );
    until_field("tariff/hourly", ".status.observedGeneration", "2");
    // One goes back: the hour that it has begun is charged whole, and no other.
    world.apply(&group(&burst(1, "")).replace("machineSets", "release: [burst-0]\n  machineSets"));
    world.until("dg/train", ".status.machines[*].name", "burst-1");
    world.until_shares(2, "dedicated", 8);
    assert_eq!(until_hours(&market, "burst-0", 6)[5].1, 200, "the price of the hour's start");
    move_to(&operator, away + HOUR * 2);
    let charged = until_hours(&market, "burst-1", 7);
    assert_eq!((charged[5].1, charged[6].1), (200, 300), "{charged:?}");
    assert_eq!(hours(&market)["burst-0"].len(), 6, "it is given back");

    // Converted: at that second the hours end and the term begins.
    let prepaid = "{name: burst, machineType: m8, count: 1, billing: Prepaid, term: {months: 1}}";
    world.apply(&group(prepaid).replace("machineSets", "release: [burst-0]\n  machineSets"));
    world.until("dg/train", ".status.machines[0].billing", "Prepaid");
    let charged = until_hours(&market, "burst-1", 8);
    let conversion = order(&market, "burst-1/conversion");
    assert_eq!(conversion.cash, -100_000);
    let detail: serde_json::Value = serde_json::from_str(&conversion.detail).expect("it has a detail");
    let converted: Timestamp =
        detail["from"].as_str().and_then(|it| it.parse().ok()).expect("it has a beginning");
    let seconds = converted.duration_since(charged[7].0).as_secs();
    let exact = seconds * 300;
    assert!((charged[7].1 * 3_600 - exact).abs() <= 1_800, "{seconds} s of an hour cost {}", charged[7].1);
    let spent = hours(&market).values().flatten().map(|it| it.1).sum::<i64>();
    market.until_balance(&money(500_000 - spent - 100_000));

    // A machine that was just begun is not converted: an hour of it has to be on record.
    let more = format!("{prepaid}, {{name: more, machineType: m8, count: 1, billing: Postpaid}}");
    world.apply(&group(&more).replace("machineSets", "release: [burst-0]\n  machineSets"));
    world.until("dg/train", ".status.ready", "2/2");
    let at_once =
        more.replace("count: 1, billing: Postpaid", "count: 1, billing: Prepaid, term: {months: 1}");
    world.apply(&group(&at_once).replace("machineSets", "release: [burst-0]\n  machineSets"));
    until_field("-n hourly dg/train", PAID, "False NoHourCharged");
    assert_eq!(world.field("dg/train", ".status.machines[1].billing"), "Postpaid");

    // Marked Postpaid it stays when its term ends, and goes on by the hour from that second on.
    let postpaid = "{name: burst, machineType: m8, count: 1, billing: Postpaid}";
    world.apply(&group(postpaid).replace("machineSets", "release: [burst-0, more-0]\n  machineSets"));
    world.until("dg/train", ".status.ready", "1/1");
    let expires = market.time("dg/train", ".status.machines[0].expiresAt");
    move_to(&operator, expires + HOUR + MINUTE * 30);
    world.until("dg/train", ".status.machines[0].billing", "Postpaid");
    let charged = until_hours(&market, "burst-1", 9);
    assert_eq!(charged[8], (expires, 300), "no second is free");
    world.until_shares(2, "dedicated", 8);
    until("the group to be gone", || k("-n hourly delete dg/train --timeout=60s"));
    until_hours(&market, "burst-1", 10);
    drop(operator);
    verify(&market.ledger);
}

const PAID: &str = "range .status.conditions[?(@.type==\"Paid\")]}{.status} {.reason}{end";

#[test]
fn machines_by_the_hour_are_given_back_in_arrears_and_come_back_when_it_is_paid() {
    let market = Market::new("owing", 2);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "1002", "Cash");
    world.apply(&group(&[base(1, "").replace(", systemDiskGB: 300", ""), burst(1, "")].join(", ")));
    world.ready("dg/train");
    market.until_balance("0.00");
    // Its first hour began less than ten minutes before that.
    let start = made(&market) + MINUTE * 10;
    // The second hour is not paid for: it is owed from its end on. Nothing new is begun.
    move_to(&operator, start + HOUR * 2 + MINUTE);
    until_hours(&market, "burst-0", 2);
    until_field("-n owing dg/train", PAID, "False Arrears");
    world.apply(&group(&burst(1, "")).replace("name: train", "name: more"));
    assert!(world.not_ready("dg/more", "Arrears").contains("no machine by the hour is begun"));
    world.k("delete dg more --timeout=60s");
    assert_eq!(phases(world), "Running Running");
    world.ready("dg/train");
    // 24 hours later it is emptied and goes back. What is prepaid stays.
    move_to(&operator, start + HOUR * 25);
    until_hours(&market, "burst-0", 25);
    assert_eq!(phases(world), "Running Running");
    move_to(&operator, start + HOUR * 26 + MINUTE * 10);
    until_phases(world, "Running Suspended");
    world.until_shares(2, "dedicated", 8);
    world.not_ready("dg/train", "Arrears");
    let charged = until_hours(&market, "burst-0", 27).len();
    move_to(&operator, start + HOUR * 100);
    assert_eq!(hours(&market)["burst-0"].len(), charged, "it costs nothing while it is away");

    // Paid again, it comes back by itself.
    market.pay("late", "500", "Cash");
    until_phases(world, "Running Running");
    world.ready("dg/train");
    move_to(&operator, start + HOUR * 101 + MINUTE * 30);
    until_hours(&market, "burst-0", charged + 1);
    until("the group to be gone", || k("-n owing delete dg/train --timeout=60s"));
    let spent: i64 = hours(&market).values().flatten().map(|it| it.1).sum();
    // The prepaid one was left on its fifth day.
    let back = returned(&order(&market, "base-0/initial"), 5);
    market.until_balance(&money(150_200 - 100_000 - spent + back));
    drop(operator);
    verify(&market.ledger);
}

#[test]
fn a_group_that_is_bound_by_its_term_stays() {
    let market = Market::new("bound", 2);
    let world = &market.world;
    let operator = market.operator();
    market.pay("wire", "5000", "Cash");
    world.patch("tariff/bound", r#"{"spec": {"dedicated": {"earlyRelease": "Refuse"}}}"#);
    until_field("tariff/bound", ".status.observedGeneration", "2");
    world.apply(&group(&base(1, "")));
    world.ready("dg/train");
    market.until_balance("3900.00");
    // The tariff's change touches new orders only.
    world.patch("tariff/bound", r#"{"spec": {"dedicated": {"earlyRelease": "Refund"}}}"#);
    let refused = k("-n bound delete dg/train --timeout=60s").expect_err("it is bound");
    assert!(refused.contains("earlyRelease: Refuse: its prepaid machines are bound until"), "{refused}");
    world.apply(&group(&burst(1, "")).replace("machineSets", "release: [base-0]\n  machineSets"));
    world.not_ready("dg/train", "BoundByTerm");

    // Not renewed within 7 days it is released for good, and then it may go.
    world.apply(&group(&base(1, "")).replace("machineSets", "release: [burst-0]\n  machineSets"));
    world.ready("dg/train");
    market.until_balance("3898.00");
    let expires = market.time("dg/train", ".status.machines[0].expiresAt");
    move_to(&operator, expires + MINUTE);
    until_phases(world, "Expired");
    world.until("dg/train", ".status.phase", "Expired");
    world.until_shares(2, "dedicated", 0);
    move_to(&operator, expires + DAY * 7);
    until_phases(world, "Released");
    world.until("dg/train", ".status.boundUntil", "");
    world.apply(&group(&base(1, ", renewals: [{months: 1}]")));
    world.k("delete dg train --timeout=60s");
    market.until_balance("3898.00");
    drop(operator);
    verify(&market.ledger);
}
