//! Tables and properties; `simulation` lives through days of a market.

mod simulation;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::clear::{Clearing, Server};
use super::notice::{Now, Pod, Step, step};
use super::{Cause, Notice, price};
use crate::domain::book::Key;

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000).unwrap() + SignedDuration::from_mins(minutes)
}

// Prices.

#[test]
fn a_price_rises_as_free_cards_run_out() {
    for (free, total, expected) in [
        (10, 10, "1.20"),
        (5, 10, "5.525"),
        (0, 10, "9.85"),
        (7, 12, "4.8042"),
        (1, 3, "6.9667"),
        // More free ones than there are: somebody counts two moments.
        (9, 3, "1.2"),
        (0, 0, "9.85"),
    ] {
        let price = price::by_inventory(decimal("1.20"), decimal("9.85"), free, total);
        assert_eq!(price, decimal(expected), "{free} of {total}");
    }
    let huge = decimal("99999999999999999999999");
    assert!(price::by_inventory(decimal("1"), huge, 0, u32::MAX) <= huge);
    assert_eq!(price::by_inventory(decimal("0.00001"), decimal("0.00002"), 1, 2), decimal("0.00001"));
}

#[test]
fn what_cannot_be_read_is_no_price() {
    for text in ["2.40", "3", "0.0001", "007.5"] {
        assert!(price::read(text).is_some(), "{text}");
    }
    let long = "1".repeat(25);
    for text in ["", " 2", "2 ", "-1", "+1", "0", "0.00", "1e3", "2.", ".5", "2,5", "1_0", "NaN", &long] {
        assert_eq!(price::read(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn fewer_free_cards_never_make_it_cheaper(floor in 1..100_000_i64, more in 0..100_000_i64, total in 0..500_u32, free in 0..500_u32) {
        let (floor, ceiling) = (Decimal::new(floor, 4), Decimal::new(floor + more, 4));
        let price = |free| price::by_inventory(floor, ceiling, free, total);
        prop_assert!(price(free) >= price(free + 1));
        prop_assert!((floor..=ceiling).contains(&price(free)));
    }
}

// Clearing.

/// Name, cards, bid, created.
type Row = (&'static str, u32, i64, i64);

fn keys(rows: &[Row]) -> Vec<Key> {
    rows.iter().map(|(name, ..)| Key::parse(name)).collect()
}

fn server(key: &Key, (_, frees, bid, created_seconds): Row) -> Server<'_> {
    Server {
        key,
        card_type: "ada",
        node: 0,
        frees,
        bid: Decimal::new(bid, 2),
        created_seconds,
        is_protected: false,
        is_outbid: false,
        in_arrears: false,
        is_noticed: false,
        is_leaving: false,
    }
}

/// Who goes for a purchase that lacks so many cards; `None` when they don't suffice.
fn cleared(rows: &[Row], lack: u32, change: impl Fn(&str, &mut Server)) -> Option<Vec<(String, Cause)>> {
    let keys = keys(rows);
    let mut servers: Vec<Server> = keys.iter().zip(rows).map(|(key, row)| server(key, *row)).collect();
    for it in &mut servers {
        change(it.key.as_str(), it);
    }
    let mut clearing = Clearing::new(&servers);
    if lack > 0 && !clearing.ask("ada", lack) {
        return None;
    }
    Some(clearing.finish().into_iter().map(|(key, cause)| (key.to_string(), cause)).collect())
}

#[allow(clippy::unnecessary_wraps, reason = "it is compared with what may be none")]
fn short(names: &[&str]) -> Option<Vec<(String, Cause)>> {
    Some(names.iter().map(|it| ((*it).to_owned(), Cause::Shortage)).collect())
}

const FOUR: [Row; 4] = [("a", 1, 300, 0), ("b", 1, 100, 0), ("c", 2, 200, 0), ("d", 4, 400, 0)];

#[test]
fn the_fewest_servers_go_and_among_these_the_lowest_bids() {
    for (lack, goes) in [
        (0, short(&[])),
        (1, short(&["b"])),
        (2, short(&["c"])),
        (3, short(&["d"])),
        (4, short(&["d"])),
        (5, short(&["b", "d"])),
        (6, short(&["c", "d"])),
        (7, short(&["b", "c", "d"])),
        (8, short(&["a", "b", "c", "d"])),
        (9, None),
    ] {
        assert_eq!(cleared(&FOUR, lack, |_, _| ()), goes, "{lack} lack");
    }
}

#[test]
fn ties_go_to_who_is_told_already_and_then_to_the_younger() {
    let equal: [Row; 3] = [("old", 1, 100, 1), ("mid", 1, 100, 2), ("new", 1, 100, 3)];
    assert_eq!(cleared(&equal, 1, |_, _| ()), short(&["new"]));
    let told = |name: &str, it: &mut Server| it.is_noticed = name == "old";
    assert_eq!(cleared(&equal, 1, told), short(&["old"]));
    assert_eq!(cleared(&equal, 2, told), short(&["new", "old"]));
    // But it does not make more of them go.
    let told = |name: &str, it: &mut Server| it.is_noticed = name == "a" || name == "b";
    assert_eq!(cleared(&FOUR, 2, told), short(&["c"]));
}

#[test]
fn who_goes_anyway_counts_first_and_the_protected_never_do() {
    let all = |cause: Option<Cause>, more: &[&str]| {
        let mut all: BTreeMap<String, Cause> = cause.map(|it| ("d".to_owned(), it)).into_iter().collect();
        all.extend(more.iter().map(|it| ((*it).to_owned(), Cause::Shortage)));
        Some(all.into_iter().collect::<Vec<_>>())
    };
    let change = |which: fn(&mut Server)| {
        move |name: &str, it: &mut Server| {
            if name == "d" {
                which(it);
            }
        }
    };
    for (lack, which, goes) in [
        (0, (|it| it.is_outbid = true) as fn(&mut Server), all(Some(Cause::PriceAboveBid), &[])),
        (4, |it| it.is_outbid = true, all(Some(Cause::PriceAboveBid), &[])),
        (5, |it| it.is_outbid = true, all(Some(Cause::PriceAboveBid), &["b"])),
        (5, |it| it.in_arrears = true, all(Some(Cause::Arrears), &["b"])),
        (5, |it| it.is_leaving = true, all(None, &["b"])),
        // Neither price nor shortage touches it in its first hour; who does not pay goes all the same.
        (4, |it| it.is_protected = true, all(None, &["a", "b", "c"])),
        (5, |it| it.is_protected = true, None),
        (
            0,
            |it| {
                it.is_protected = true;
                it.is_outbid = true;
            },
            all(None, &[]),
        ),
        (
            0,
            |it| {
                it.is_protected = true;
                it.in_arrears = true;
            },
            all(Some(Cause::Arrears), &[]),
        ),
        // A node that nothing may be placed on frees nothing for anybody.
        (4, |it| it.frees = 0, all(None, &["a", "b", "c"])),
    ] {
        assert_eq!(cleared(&FOUR, lack, change(which)), goes, "{lack} lack");
    }
}

#[test]
fn purchases_share_what_comes_and_the_later_one_is_refused_first() {
    let keys = keys(&FOUR);
    let servers: Vec<Server> = keys.iter().zip(FOUR).map(|(key, row)| server(key, row)).collect();
    let mut clearing = Clearing::new(&servers);
    // Each by itself would take one of 1 and the one of 4: together the one of 4 will do.
    assert!(clearing.ask("ada", 1) && clearing.ask("ada", 3));
    assert!(!clearing.ask("ada", 5) && !clearing.ask("hopper", 1));
    let goes: Vec<&str> = clearing.finish().keys().map(|it| it.as_str()).collect();
    assert_eq!(goes, ["d"]);
}

#[test]
fn a_machine_takes_the_node_that_costs_fewest_servers() {
    let rows: [Row; 5] =
        [("a", 1, 100, 0), ("b", 1, 100, 0), ("c", 8, 900, 0), ("d", 8, 800, 0), ("e", 8, 100, 0)];
    let keys = keys(&rows);
    let nodes = [0, 0, 1, 2, 3];
    let mut servers: Vec<Server> = keys
        .iter()
        .zip(rows.iter().zip(nodes))
        .map(|(key, (row, node))| Server { node, ..server(key, *row) })
        .collect();
    servers[4].is_protected = true;
    let mut clearing = Clearing::new(&servers);
    assert_eq!(clearing.find_machine([0, 1, 2, 3]), Some(2), "one server, and its bid is lower");
    assert_eq!(clearing.find_machine([3]), None, "it is protected");
    // A pool counts on 17 of 18 cards: no node can be emptied for anybody else.
    assert!(clearing.ask("ada", 17));
    assert_eq!(clearing.find_machine([0, 1, 2]), None);
    let mut clearing = Clearing::new(&servers);
    assert!(clearing.ask("ada", 9));
    clearing.ask_machine(2);
    assert!(!clearing.could("ada", 2) && clearing.could("ada", 1));
    let goes: Vec<&str> = clearing.finish().keys().map(|it| it.as_str()).collect();
    assert_eq!(goes, ["b", "c", "d"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Against all sets there are: the fewest, and none could be left out.
    #[test]
    fn never_more_go_than_needed(rows in proptest::collection::vec((1..5_u32, 1..6_i64, 0..9_i64, any::<bool>()), 1..9), lack in 1..20_u32) {
        let keys: Vec<Key> = (0..rows.len()).map(|it| Key::parse(&format!("s{it}"))).collect();
        let servers: Vec<Server> = keys.iter().zip(&rows).map(|(key, (frees, bid, created, is_noticed))| Server {
            is_noticed: *is_noticed,
            ..server(key, ("", *frees, *bid, *created))
        }).collect();
        let mut clearing = Clearing::new(&servers);
        let enough = clearing.ask("ada", lack);
        let goes = clearing.finish();
        let cards = |of: &dyn Fn(&Server) -> bool| servers.iter().filter(|it| of(it)).map(|it| it.frees).sum::<u32>();
        prop_assert_eq!(enough, cards(&|_| true) >= lack);
        if !enough {
            prop_assert!(goes.is_empty());
            return Ok(());
        }
        prop_assert!(cards(&|it| goes.contains_key(it.key)) >= lack);
        let rank = |set: &[&Server]| {
            let mut list: Vec<_> = set.iter().map(|it| (!it.is_noticed, it.bid, std::cmp::Reverse((it.created_seconds, it.key.clone())))).collect();
            list.sort();
            (list.len(), list)
        };
        let all = (1..1_usize << servers.len()).map(|mask| servers.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, it)| it).collect::<Vec<_>>());
        let best = all.filter(|set| set.iter().map(|it| it.frees).sum::<u32>() >= lack).min_by_key(|set| rank(set)).unwrap();
        let found: Vec<&Server> = servers.iter().filter(|it| goes.contains_key(it.key)).collect();
        prop_assert_eq!(rank(&found), rank(&best));
        // In whatever order they come.
        let turned: Vec<Server> = servers.iter().rev().cloned().collect();
        let mut clearing = Clearing::new(&turned);
        clearing.ask("ada", lack);
        prop_assert_eq!(clearing.finish(), goes);
    }
}

// Notices.

fn now(minutes: i64, cause: Option<Cause>) -> Now {
    Now {
        at: at(minutes),
        cause,
        is_outdated: false,
        has_cards: true,
        pod: Pod::There,
        notice_minutes: 30,
        grace_ends: Some(at(5)),
    }
}

fn notice(cause: Cause, noticed: i64, reclaim: i64) -> Notice {
    Notice { cause, noticed_at: at(noticed), reclaim_at: at(reclaim), reclaimed_at: None }
}

#[test]
fn a_notice_is_given_withdrawn_or_carried_out() {
    let price = Cause::PriceAboveBid;
    let (given, arrears) = (notice(price, 0, 30), notice(Cause::Arrears, 0, 5));
    let over = Notice { reclaimed_at: Some(at(31)), ..given };
    for (what, notice, now, expected) in [
        ("nothing is wrong", None, now(0, None), Step::Stay),
        ("it is told 30 minutes before", None, now(0, Some(price)), Step::Give(given)),
        (
            "without cards there is nothing to tell",
            None,
            Now { has_cards: false, ..now(0, Some(price)) },
            Step::Stay,
        ),
        ("it runs on", Some(given), now(29, Some(price)), Step::Stay),
        ("its cause is gone", Some(given), now(29, None), Step::Withdraw),
        (
            "another one keeps it",
            Some(given),
            now(29, Some(Cause::Shortage)),
            Step::Give(Notice { cause: Cause::Shortage, ..given }),
        ),
        ("it is time", Some(given), now(30, Some(price)), Step::Reclaim),
        ("late, and nothing has begun", Some(given), now(90, None), Step::Withdraw),
        ("what has begun goes on", Some(given), Now { pod: Pod::Leaving, ..now(31, None) }, Step::Stay),
        ("its cards are still there", Some(given), Now { pod: Pod::None, ..now(31, None) }, Step::Stay),
        (
            "they are back",
            Some(given),
            Now { pod: Pod::None, has_cards: false, ..now(31, None) },
            Step::Record(over),
        ),
        ("it waits", Some(over), Now { pod: Pod::None, has_cards: false, ..now(40, None) }, Step::Stay),
        ("it has cards again", Some(over), Now { pod: Pod::None, ..now(40, None) }, Step::Forget),
        (
            "its node died before",
            Some(given),
            Now { pod: Pod::None, has_cards: false, ..now(9, None) },
            Step::Withdraw,
        ),
        (
            "it crashed, and is started again",
            Some(given),
            Now { pod: Pod::Leaving, ..now(9, Some(price)) },
            Step::Stay,
        ),
        ("arrears: on the recovery list", None, now(0, Some(Cause::Arrears)), Step::Give(arrears)),
        ("arrears are sooner", Some(given), now(0, Some(Cause::Arrears)), Step::Give(arrears)),
        (
            "arrears prolong nothing",
            Some(notice(price, -28, 2)),
            now(0, Some(Cause::Arrears)),
            Step::Give(Notice { reclaim_at: at(2), ..arrears }),
        ),
        (
            "arrears that are long over",
            None,
            now(60, Some(Cause::Arrears)),
            Step::Give(notice(Cause::Arrears, 60, 60)),
        ),
        (
            "paid, and outbid: all of its notice",
            Some(arrears),
            now(4, Some(price)),
            Step::Give(notice(price, 4, 34)),
        ),
        ("paid", Some(arrears), now(4, None), Step::Withdraw),
    ] {
        assert_eq!(step(notice.as_ref(), &now), expected, "{what}");
    }
}
