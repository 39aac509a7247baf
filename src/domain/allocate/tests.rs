//! Tables for each decision, and properties over random fleets.

use std::collections::HashMap;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::domain::book::InUse;
use crate::domain::fleet::{Claim, Hold, Node};
use crate::domain::units::Size;

const CARD: Size = Size { cpu_milli: 8_000, memory_bytes: 64 << 30, disk_bytes: 60 << 30 };

fn key(name: &str) -> Key {
    Key::new(name, "00000000")
}

fn resident(name: &str) -> Share {
    Share::Resident(key(name))
}

fn shares(list: &[(Share, u32)]) -> Shares {
    list.iter().cloned().collect()
}

/// A node of 8 `ada` cards, all of them shared.
fn node(name: &str) -> Node {
    with_shares(name, &[(Share::Shared, 8)])
}

fn with_shares(name: &str, list: &[(Share, u32)]) -> Node {
    Node {
        name: name.to_owned(),
        card_type: "ada".to_owned(),
        zone: "zone-a".to_owned(),
        cards: 8,
        healthy: 8,
        size: CARD.times(8),
        shares: shares(list),
        book: Some(shares(list)),
        ready: true,
        open: true,
        ..Node::default()
    }
}

fn used(mut node: Node, list: &[(Share, u32)]) -> Node {
    node.in_use = InUse { by_share: shares(list), foreign: 0 };
    node
}

fn claim(name: &str, created_seconds: i64, demand: Demand) -> Claim {
    Claim {
        key: key(name),
        card_type: "ada".to_owned(),
        account: "acme".to_owned(),
        created_seconds,
        version: String::new(),
        demand,
    }
}

fn pool(name: &str, cards: u32) -> Claim {
    claim(name, 0, Demand::Resident { cards, bought: 0, paid: true, funded: true })
}

fn machines(names: &[&str]) -> Vec<Machine> {
    names
        .iter()
        .map(|it| Machine {
            name: (*it).to_owned(),
            card_type: "ada".to_owned(),
            cards: 8,
            zone: String::new(),
        })
        .collect()
}

fn group(name: &str, names: &[&str]) -> Claim {
    claim(
        name,
        0,
        Demand::Dedicated {
            machines: machines(names),
            bought: vec![],
            returning: BTreeMap::new(),
            paid: true,
            funded: true,
        },
    )
}

fn spot(name: &str, created_seconds: i64, bid: i64, cards: u32) -> Claim {
    claim(name, created_seconds, spot_demand(cards, bid))
}

fn spot_demand(cards: u32, bid: i64) -> Demand {
    Demand::Spot { cards, bid: Decimal::new(bid, 2), may_start: true, hold: Hold::default() }
}

fn workers(name: &str, active: u32, wanted: u32, exist: u32) -> Claim {
    claim(name, 0, Demand::Workers { cards: 1, active, wanted, exist, unbound: vec![] })
}

fn snapshot(nodes: Vec<Node>, claims: Vec<Claim>) -> Snapshot {
    Snapshot {
        card_types: [("ada".to_owned(), CARD)].into(),
        nodes,
        claims,
        quotas: BTreeMap::new(),
        frozen: std::collections::BTreeSet::new(),
    }
}

/// The snapshot after the moves are done and the admitted workers are created.
fn done(before: &Snapshot, plan: &Plan) -> Snapshot {
    let mut after = before.clone();
    for step in &plan.moves {
        let node = after.nodes.iter_mut().find(|it| it.name == step.node).expect("a move names a node");
        node.shares = step.target.clone();
        node.book = Some(step.target.clone());
        node.given.clone_from(&step.given);
    }
    for claim in &mut after.claims {
        let admitted = &plan.outcomes[&claim.key].worker_nodes;
        if let Demand::Workers { exist, unbound, .. } = &mut claim.demand {
            *exist += u32::try_from(admitted.len()).expect("few");
            unbound.extend_from_slice(admitted);
        }
    }
    after
}

/// Plans, and checks what must hold for every plan.
fn check(snapshot: &Snapshot) -> (Plan, Snapshot) {
    let plan = plan(snapshot);
    for step in &plan.moves {
        let node = snapshot.nodes.iter().find(|it| it.name == step.node).expect("a move names a node");
        assert_eq!(
            step.target.sum(),
            node.healthy,
            "{}: each healthy card is in exactly one share",
            node.name
        );
    }
    let after = done(snapshot, &plan);
    let again = super::plan(&after);
    if let Some(step) = again.moves.first() {
        let before = snapshot.nodes.iter().find(|it| it.name == step.node);
        let first = plan.moves.iter().find(|it| it.node == step.node);
        panic!(
            "the plan of a planned fleet is not empty:\n{before:?}\n{first:?}\n{step:?}\n{:?}",
            snapshot.claims
        );
    }
    let mut reversed = snapshot.clone();
    reversed.claims.reverse();
    reversed.nodes.reverse();
    assert_eq!(super::plan(&reversed), plan, "the result does not depend on the order of the input");
    (plan, after)
}

/// Cards of a share, by node, after the plan.
fn placed(after: &Snapshot, share: &Share) -> Vec<(String, u32)> {
    after
        .nodes
        .iter()
        .filter(|it| it.shares.get(share) > 0)
        .map(|it| (it.name.clone(), it.shares.get(share)))
        .collect()
}

fn at(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter().map(|(name, cards)| ((*name).to_owned(), *cards)).collect()
}

#[test]
fn what_is_sold_stays_while_no_card_is_healthy() {
    // A device plugin that restarts: the cards are there, and none is allocatable.
    let mut machine = with_shares("a", &[(Share::Dedicated(key("g")), 8)]);
    machine.given = Some(Given { group: key("g"), machine: "base-0".to_owned() });
    let mut pooled = with_shares("b", &[(resident("p"), 6), (Share::Shared, 2)]);
    (machine.healthy, pooled.healthy) = (0, 0);
    let (plan, _) = check(&snapshot(vec![machine, pooled], vec![group("g", &["base-0"]), pool("p", 6)]));
    assert!(plan.moves.is_empty(), "nothing is decided about them: {:?}", plan.moves);
    assert!(plan.outcomes.values().flat_map(|it| &it.holdings).all(|it| !it.in_place), "and they say so");
    assert_eq!(plan.outcomes[&key("p")].cards(), 6, "they count as sold");
}

#[test]
fn a_contract_that_nobody_can_read_keeps_what_it_has() {
    let mut machine = with_shares("a", &[(Share::Dedicated(key("g")), 8)]);
    machine.given = Some(Given { group: key("g"), machine: "base-0".to_owned() });
    let rest = with_shares("b", &[(resident("p"), 6), (Share::Spot(key("s")), 1), (Share::Shared, 1)]);
    let mut fleet = snapshot(vec![machine, rest], vec![]);
    fleet.frozen = [key("g"), key("p"), key("s")].into();
    assert!(check(&fleet).0.moves.is_empty());
    fleet.frozen.clear();
    assert_eq!(check(&fleet).0.moves.len(), 2, "what no contract claims goes back");
}

#[test]
fn a_pod_alone_makes_no_machine() {
    // A node made anew under a group: its pods are still there, its marks are not.
    let dedicated = Share::Dedicated(key("g"));
    let mut anew = used(with_shares("a", &[]), &[(dedicated.clone(), 2)]);
    anew.book = None;
    anew.shares = Shares::default();
    let (_, after) = check(&snapshot(vec![anew], vec![group("g", &[])]));
    assert_eq!(placed(&after, &dedicated), at(&[("a", 2)]), "the cards under its pods, no more");
    let mut empty = after.clone();
    empty.nodes[0].in_use = InUse::default();
    let (_, after) = check(&empty);
    assert_eq!(placed(&after, &dedicated), at(&[]), "they go back with the pods");
}

#[test]
fn a_new_node_is_shared_as_far_as_cpu_and_memory_go() {
    let mut bare = with_shares("a", &[]);
    bare.book = None;
    bare.size = CARD.times(7);
    let (plan, _) = check(&snapshot(vec![bare], vec![]));
    assert_eq!(plan.moves[0].target, shares(&[(Share::Shared, 7), (Share::Held, 1)]));
}

#[test]
fn pools_are_packed_and_whole_machines_stay_whole() {
    for (free, cards, expected) in [
        // The tightest broken node, not the whole ones.
        (&[8, 8, 6, 7][..], 6, &[("2", 6)][..]),
        // One whole node rather than two broken ones: few nodes first.
        (&[8, 4, 4], 6, &[("0", 6)]),
        // More than a node: whole nodes to the last card, then the tightest fit.
        (&[8, 8, 3, 2], 10, &[("0", 8), ("3", 2)]),
        (&[5, 5, 1], 11, &[("0", 5), ("1", 5), ("2", 1)]),
    ] {
        let nodes = free
            .iter()
            .enumerate()
            .map(|(at, free)| {
                with_shares(&at.to_string(), &[(resident("old"), 8 - free), (Share::Shared, *free)])
            })
            .collect();
        let old = claim(
            "old",
            -1,
            Demand::Resident {
                cards: free.iter().map(|it| 8 - it).sum(),
                bought: 0,
                paid: true,
                funded: true,
            },
        );
        let (_, after) = check(&snapshot(nodes, vec![old, pool("new", cards)]));
        assert_eq!(placed(&after, &resident("new")), at(expected), "{free:?} {cards}");
    }
}

#[test]
fn an_order_is_whole_or_nothing() {
    let (plan, after) = check(&snapshot(vec![node("a")], vec![pool("big", 9)]));
    assert_eq!(placed(&after, &resident("big")), vec![]);
    assert_eq!(plan.outcomes[&key("big")].shortage, Some(Shortage::NoCards { needed: 9, free: 8 }));
    // And a smaller, younger one is still served.
    let small = claim("small", 5, Demand::Resident { cards: 8, bought: 0, paid: true, funded: true });
    let (_, after) = check(&snapshot(vec![node("a")], vec![pool("big", 9), small]));
    assert_eq!(placed(&after, &resident("small")), at(&[("a", 8)]));
}

#[test]
fn older_contracts_come_first() {
    let claims = vec![
        claim("young", 2, Demand::Resident { cards: 6, bought: 0, paid: true, funded: true }),
        claim("old", 1, Demand::Resident { cards: 6, bought: 0, paid: true, funded: true }),
    ];
    let (plan, after) = check(&snapshot(vec![node("a")], claims));
    assert_eq!(placed(&after, &resident("old")), at(&[("a", 6)]));
    assert!(plan.outcomes[&key("young")].shortage.is_some());
}

#[test]
fn cards_under_a_pod_are_not_free() {
    let busy = used(node("a"), &[(Share::Shared, 3)]);
    let (plan, _) = check(&snapshot(vec![busy.clone()], vec![pool("p", 6)]));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::NoCards { needed: 6, free: 5 }));
    let (_, after) = check(&snapshot(vec![busy], vec![pool("p", 5)]));
    assert_eq!(after.nodes[0].shares, shares(&[(resident("p"), 5), (Share::Shared, 3)]));
}

#[test]
fn foreign_pods_hold_their_cards() {
    let mut taken = node("a");
    taken.in_use.foreign = 3;
    let (plan, after) = check(&snapshot(vec![taken], vec![pool("p", 6)]));
    assert_eq!(after.nodes[0].shares, shares(&[(Share::Shared, 5), (Share::Held, 3)]));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::NoCards { needed: 6, free: 5 }));
}

#[test]
fn a_shrunk_pool_gives_back_only_what_is_unused() {
    let a = used(with_shares("a", &[(resident("p"), 4), (Share::Shared, 4)]), &[(resident("p"), 3)]);
    let b = with_shares("b", &[(resident("p"), 4), (Share::Shared, 4)]);
    let (_, after) = check(&snapshot(vec![a, b], vec![pool("p", 2)]));
    assert_eq!(
        placed(&after, &resident("p")),
        at(&[("a", 3)]),
        "b is unused and goes, a keeps what its pods use"
    );
}

#[test]
fn what_nobody_claims_goes_back_when_its_pods_have_left() {
    let a = used(with_shares("a", &[(resident("gone"), 6), (Share::Shared, 2)]), &[(resident("gone"), 2)]);
    let (_, after) = check(&snapshot(vec![a], vec![]));
    assert_eq!(after.nodes[0].shares, shares(&[(resident("gone"), 2), (Share::Shared, 6)]));
}

#[test]
fn machines_are_whole_sound_and_in_their_zone() {
    let broken = with_shares("a", &[(resident("p"), 1), (Share::Shared, 7)]);
    let busy = used(node("b"), &[(Share::Shared, 1)]);
    let faulty = Node {
        healthy: 7,
        shares: shares(&[(Share::Shared, 7)]),
        book: Some(shares(&[(Share::Shared, 7)])),
        ..node("c")
    };
    let closed = Node { open: false, ..node("d") };
    let elsewhere = Node { zone: "zone-b".to_owned(), ..node("e") };
    let nodes = vec![broken, busy, faulty, closed, elsewhere, node("f")];
    let mut wants = machines(&["base-0", "base-1"]);
    wants[1].zone = "zone-b".to_owned();
    let both = claim(
        "g",
        0,
        Demand::Dedicated {
            machines: wants,
            bought: vec![],
            returning: BTreeMap::new(),
            paid: true,
            funded: true,
        },
    );
    let (_, after) = check(&snapshot(nodes.clone(), vec![pool("p", 1), both]));
    let given = |name: &str| {
        after.nodes.iter().find(|it| it.name == name).and_then(|it| it.given.clone()).map(|it| it.machine)
    };
    assert_eq!(given("e").as_deref(), Some("base-1"));
    assert_eq!(given("f").as_deref(), Some("base-0"));
    assert_eq!(after.nodes.iter().filter(|it| it.given.is_some()).count(), 2);
    // Three are sold out: none is given.
    let (plan, after) = check(&snapshot(nodes, vec![pool("p", 1), group("g", &["m-0", "m-1", "m-2"])]));
    assert!(after.nodes.iter().all(|it| it.given.is_none()));
    assert_eq!(plan.outcomes[&key("g")].shortage, Some(Shortage::SoldOut { needed: 3, free: 2 }));
}

#[test]
fn a_released_machine_goes_back_when_it_is_empty() {
    let given = Given { group: key("g"), machine: "m-0".to_owned() };
    let dedicated = Share::Dedicated(key("g"));
    let machine = Node { given: Some(given.clone()), ..with_shares("a", &[(dedicated.clone(), 8)]) };
    let busy = Node { group_pods: 1, ..machine.clone() };
    let (_, after) = check(&snapshot(vec![busy], vec![group("g", &[])]));
    assert_eq!(after.nodes[0].given, Some(given), "a pod without cards is enough to keep it");
    let (_, after) = check(&snapshot(vec![machine], vec![group("g", &[])]));
    assert_eq!(after.nodes[0].given, None);
    assert_eq!(after.nodes[0].shares, shares(&[(Share::Shared, 8)]));
}

#[test]
fn a_zeroed_book_is_restored_up_to_the_physical_cards() {
    let before = with_shares("a", &[(resident("p"), 6), (Share::Shared, 2)]);
    let claims = || vec![claim("p", 0, Demand::Resident { cards: 6, bought: 6, paid: true, funded: true })];
    // Zeroed by hand: the cards are there.
    let zeroed = Node { shares: Shares::default(), ..before.clone() };
    let (_, after) = check(&snapshot(vec![zeroed], claims()));
    assert_eq!(after.nodes[0].shares, before.shares);
    // The device plugin is not back yet: nothing is decided, nobody is replaced, the cards count as sold.
    let away = Node { shares: Shares::default(), cards: 0, healthy: 0, ..before.clone() };
    let (plan, after) = check(&snapshot(vec![away, node("b")], claims()));
    assert_eq!(placed(&after, &resident("p")), vec![]);
    assert_eq!(plan.outcomes[&key("p")].cards(), 6);
    assert_eq!(plan.outcomes[&key("p")].cards_in_place(), 0);
    // Fewer come back than were sold: the newest contract loses its unused ones, and gets others elsewhere.
    let young = Share::Spot(key("s"));
    let two = with_shares("a", &[(resident("p"), 6), (young.clone(), 2)]);
    let fewer = Node { shares: Shares::default(), cards: 8, healthy: 5, ..two };
    let (_, after) = check(&snapshot(vec![fewer, node("b")], vec![claims().remove(0), spot("s", 1, 250, 2)]));
    assert_eq!(placed(&after, &resident("p")), at(&[("a", 5), ("b", 1)]));
    assert_eq!(placed(&after, &young), at(&[("b", 2)]));
}

#[test]
fn a_node_made_anew_gets_its_book_from_its_pods_and_then_the_contracts() {
    let fresh = Node { book: None, ..used(with_shares("a", &[]), &[(resident("p"), 2)]) };
    let (_, after) = check(&snapshot(
        vec![fresh],
        vec![claim("p", 0, Demand::Resident { cards: 6, bought: 6, paid: true, funded: true })],
    ));
    assert_eq!(after.nodes[0].shares, shares(&[(resident("p"), 6), (Share::Shared, 2)]));
}

#[test]
fn lost_cards_are_replaced_before_anybody_buys() {
    let old = claim("old", 0, Demand::Resident { cards: 6, bought: 6, paid: true, funded: true });
    let newer = claim("aaa", -5, Demand::Resident { cards: 8, bought: 0, paid: true, funded: true });
    let (plan, after) = check(&snapshot(vec![node("a")], vec![old, newer]));
    assert_eq!(placed(&after, &resident("old")), at(&[("a", 6)]));
    assert!(plan.outcomes[&key("aaa")].shortage.is_some());
    // As many as there are.
    let old = claim("old", 0, Demand::Resident { cards: 20, bought: 20, paid: true, funded: true });
    let (plan, after) = check(&snapshot(vec![node("a")], vec![old]));
    assert_eq!(placed(&after, &resident("old")), at(&[("a", 8)]));
    assert_eq!(plan.outcomes[&key("old")].shortage, Some(Shortage::NoCards { needed: 12, free: 0 }));
}

#[test]
fn a_faulty_card_leaves_shared_first() {
    let mut sick = with_shares("a", &[(resident("p"), 6), (Share::Shared, 2)]);
    sick.healthy = 7;
    let bought = || vec![claim("p", 0, Demand::Resident { cards: 6, bought: 6, paid: true, funded: true })];
    let (_, after) = check(&snapshot(vec![sick.clone(), node("b")], bought()));
    assert_eq!(after.nodes[0].shares, shares(&[(resident("p"), 6), (Share::Shared, 1)]));
    sick.healthy = 5;
    let (_, after) = check(&snapshot(vec![sick, node("b")], bought()));
    assert_eq!(placed(&after, &resident("p")), at(&[("a", 5), ("b", 1)]));
}

#[test]
fn workers_are_admitted_active_first_and_as_far_as_there_is_room() {
    let a = used(with_shares("a", &[(resident("p"), 4), (Share::Shared, 4)]), &[(Share::Shared, 1)]);
    let claims = vec![
        pool("p", 4),
        workers("x", 0, 4, 1),
        claim("y", 9, Demand::Workers { cards: 1, active: 1, wanted: 1, exist: 0, unbound: vec![] }),
    ];
    let (plan, _) = check(&snapshot(vec![a], claims));
    assert_eq!(plan.outcomes[&key("y")].worker_nodes, vec!["a"], "active comes before what is above active");
    assert_eq!(plan.outcomes[&key("x")].worker_nodes, vec!["a", "a"]);
    assert_eq!(plan.outcomes[&key("x")].shortage, Some(Shortage::NoCards { needed: 1, free: 0 }));
}

#[test]
fn workers_that_wait_for_their_node_keep_their_place() {
    let waiting = claim(
        "x",
        0,
        Demand::Workers { cards: 2, active: 1, wanted: 1, exist: 1, unbound: vec!["gone".to_owned()] },
    );
    let (plan, _) = check(&snapshot(vec![node("a")], vec![waiting, pool("p", 7)]));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::NoCards { needed: 7, free: 6 }));
}

#[test]
fn the_highest_bid_is_served_and_ties_go_to_the_older() {
    let claims = vec![spot("low", 0, 100, 4), spot("young", 2, 250, 4), spot("old", 1, 250, 4)];
    let (plan, after) = check(&snapshot(vec![node("a")], claims));
    assert_eq!(placed(&after, &Share::Spot(key("old"))), at(&[("a", 4)]));
    assert_eq!(placed(&after, &Share::Spot(key("young"))), at(&[("a", 4)]));
    assert!(plan.outcomes[&key("low")].shortage.is_some());
}

#[test]
fn a_spot_server_that_may_not_start_keeps_what_it_has() {
    let share = Share::Spot(key("s"));
    let mut server = spot("s", 0, 100, 2);
    server.demand = Demand::Spot { cards: 2, bid: Decimal::ONE, may_start: false, hold: Hold::default() };
    let (_, after) = check(&snapshot(
        vec![with_shares("a", &[(share.clone(), 2), (Share::Shared, 6)])],
        vec![server.clone()],
    ));
    assert_eq!(placed(&after, &share), at(&[("a", 2)]));
    let (_, after) = check(&snapshot(vec![node("a")], vec![server]));
    assert_eq!(placed(&after, &share), vec![]);
}

#[test]
fn quotas_count_everything_that_the_account_holds() {
    let mut world = snapshot(
        vec![node("a"), node("b")],
        vec![
            pool("p", 6),
            workers("x", 2, 2, 2),
            claim("q", 3, Demand::Resident { cards: 3, bought: 0, paid: true, funded: true }),
        ],
    );
    world.quotas.insert(("acme".to_owned(), "ada".to_owned()), 10);
    let (plan, _) = check(&world);
    assert_eq!(plan.outcomes[&key("q")].shortage, Some(Shortage::Quota { limit: 10, held: 8, needed: 3 }));
}

#[test]
fn pods_beyond_their_share_are_named_once_the_node_is_in_order() {
    let late = used(with_shares("a", &[(resident("p"), 6), (Share::Shared, 2)]), &[(Share::Shared, 3)]);
    let (plan, _) = check(&snapshot(vec![late], vec![pool("p", 6)]));
    assert_eq!(plan.excess, vec![Excess { node: "a".to_owned(), share: Share::Shared, cards: 1 }]);
}

#[test]
fn workers_created_since_have_taken_their_nodes() {
    let (plan, _) = check(&snapshot(vec![node("a")], vec![workers("x", 9, 9, 3)]));
    let outcome = &plan.outcomes[&key("x")];
    // Nine are wanted, and three of them exist.
    for (exist, left) in [(2, 6), (3, 6), (5, 4), (9, 0), (20, 0)] {
        assert_eq!(outcome.nodes_left(exist).len(), left, "{exist} exist now");
    }
}

#[test]
fn an_order_that_was_carried_out_in_part_is_whole_or_given_back() {
    let half = |by_workers| {
        used(with_shares("a", &[(resident("p"), 4), (Share::Shared, 4)]), &[(Share::Shared, by_workers)])
    };
    let waits = |bought| claim("p", 0, Demand::Resident { cards: 5, bought, paid: true, funded: true });
    for (by_workers, bought, resident_cards) in [(3, 0, 5), (4, 0, 0), (4, 2, 2), (4, 4, 4)] {
        let (plan, after) = check(&snapshot(vec![half(by_workers)], vec![waits(bought)]));
        assert_eq!(
            after.nodes[0].shares.get(&resident("p")),
            resident_cards,
            "{by_workers} used, {bought} bought"
        );
        assert_eq!(plan.outcomes[&key("p")].shortage.is_some(), resident_cards < 5);
    }
}

#[test]
fn an_order_that_is_not_paid_takes_nothing_and_hears_whether_it_would_fit() {
    let asks = |cards, bought, paid| claim("p", 0, Demand::Resident { cards, bought, paid, funded: paid });
    for (cards, bought, fits, locked) in
        [(8, 0, true, 0), (9, 0, false, 0), (8, 3, true, 3), (12, 3, false, 3)]
    {
        let (plan, after) = check(&snapshot(vec![node("a")], vec![asks(cards, bought, false)]));
        assert_eq!(after.nodes[0].shares.get(&resident("p")), locked, "{cards} cards, {bought} bought");
        assert_eq!(plan.outcomes[&key("p")].shortage.is_none(), fits, "{cards} cards, {bought} bought");
    }
    // Its money was given back before it was posted: so are the cards.
    let (_, after) = check(&snapshot(vec![with_shares("a", &[(resident("p"), 6)])], vec![asks(6, 2, false)]));
    assert_eq!(after.nodes[0].shares.get(&resident("p")), 2);
}

#[test]
fn a_pool_that_shrinks_keeps_what_is_in_place_while_other_cards_are_away() {
    let away = Node { healthy: 0, ..with_shares("a", &[(resident("p"), 3), (Share::Shared, 5)]) };
    let world = snapshot(vec![away, with_shares("b", &[(resident("p"), 8)])], vec![pool("p", 2)]);
    let (_, after) = check(&world);
    assert_eq!(placed(&after, &resident("p")), at(&[("a", 3), ("b", 2)]));
}

/// A node of which there is a notice.
fn leaving(node: Node) -> Node {
    Node { open: false, leaving: true, ..node }
}

#[test]
fn cards_of_a_node_that_goes_away_are_replaced_while_it_is_there() {
    let p = resident("p");
    let asks =
        |cards, bought| vec![claim("p", 0, Demand::Resident { cards, bought, paid: true, funded: true })];
    let doomed = || leaving(with_shares("a", &[(p.clone(), 4), (Share::Shared, 4)]));
    let stays = || with_shares("b", &[(p.clone(), 2), (Share::Shared, 6)]);
    // Bought 6, of which 4 go away: 4 others are locked, and those stay with it until the node is gone.
    let (plan, after) = check(&snapshot(vec![doomed(), stays()], asks(6, 6)));
    assert_eq!(placed(&after, &p), at(&[("a", 4), ("b", 6)]));
    assert_eq!(plan.outcomes[&key("p")].shortage, None);
    // There are only 3: it gets them, and says what is missing.
    let full = used(stays(), &[(Share::Shared, 3)]);
    let (plan, after) = check(&snapshot(vec![doomed(), full], asks(6, 6)));
    assert_eq!(placed(&after, &p), at(&[("a", 4), ("b", 5)]));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::NoCards { needed: 1, free: 0 }));
    // The notice is withdrawn: what is too many goes back, and not from under a pod.
    let back = used(with_shares("a", &[(p.clone(), 4), (Share::Shared, 4)]), &[(p.clone(), 1)]);
    let replaced = || with_shares("b", &[(p.clone(), 6), (Share::Shared, 2)]);
    let (_, after) = check(&snapshot(vec![back, used(replaced(), &[(p.clone(), 5)])], asks(6, 6)));
    assert_eq!(placed(&after, &p), at(&[("a", 1), ("b", 5)]));
    // Replaced, and one more is bought: the order counts only what stays.
    let (_, after) = check(&snapshot(vec![doomed(), replaced()], asks(7, 6)));
    assert_eq!(placed(&after, &p), at(&[("a", 4), ("b", 7)]));
    // What it has twice counts once for its account: 6 of 8, and 2 more are bought.
    for (there, why) in [(stays(), "being replaced"), (replaced(), "replaced")] {
        let mut world = snapshot(vec![doomed(), there, node("c")], asks(6, 6));
        world.claims.push(claim("q", 1, Demand::Resident { cards: 2, bought: 0, paid: true, funded: true }));
        world.quotas.insert(("acme".to_owned(), "ada".to_owned()), 8);
        let (plan, _) = check(&world);
        assert_eq!(plan.outcomes[&key("q")].shortage, None, "{why}");
        world.quotas.insert(("acme".to_owned(), "ada".to_owned()), 7);
        let (plan, _) = check(&world);
        assert!(matches!(plan.outcomes[&key("q")].shortage, Some(Shortage::Quota { .. })), "{why}");
    }
    // Left: all of it goes back.
    let (_, after) = check(&snapshot(vec![doomed(), replaced()], asks(0, 0)));
    assert_eq!(placed(&after, &p), vec![]);
}

#[test]
fn machines_take_a_node_when_they_are_paid() {
    type Row<'a> = (&'a [&'a str], &'a [(&'a str, bool)], bool, &'a [&'a str], &'a [&'a str], bool);
    let asks = |names: &[&str], bought: &[&str], returning: &[(&str, bool)], paid| {
        let demand = Demand::Dedicated {
            machines: machines(names),
            bought: bought.iter().map(|it| (*it).to_owned()).collect(),
            returning: returning.iter().map(|(it, paid)| ((*it).to_owned(), *paid)).collect(),
            paid,
            funded: paid,
        };
        claim("g", 0, demand)
    };
    let rows: &[Row<'_>] = &[
        // An order: unpaid it only hears whether it fits.
        (&["m-0", "m-1"], &[], false, &[], &[], true),
        (&["m-0", "m-1", "m-2"], &[], false, &[], &[], false),
        (&["m-0", "m-1"], &[], true, &["m-0", "m-1"], &[], true),
        // Those that come back do so each by itself, before the order, and are no part of it.
        (&["m-0", "m-1"], &[("m-0", true)], false, &["m-0"], &[], true),
        (
            &["m-0", "m-1", "m-2"],
            &[("m-0", true), ("m-1", false), ("m-2", true)],
            true,
            &["m-0", "m-2"],
            &[],
            true,
        ),
        (
            &["m-0", "m-1", "m-2"],
            &[("m-0", true), ("m-1", true), ("m-2", true)],
            true,
            &["m-0", "m-1"],
            &["m-2"],
            true,
        ),
        (&["m-0", "m-1", "m-2"], &[("m-0", true)], true, &["m-0"], &[], false),
    ];
    for (names, returning, paid, given, no_node, fits) in rows {
        let world = snapshot(vec![node("a"), node("b")], vec![asks(names, &[], returning, *paid)]);
        let (plan, after) = check(&world);
        let mut got: Vec<String> =
            after.nodes.iter().filter_map(|it| it.given.as_ref()).map(|it| it.machine.clone()).collect();
        got.sort();
        assert_eq!(got, *given, "{names:?} {returning:?} {paid}");
        let outcome = &plan.outcomes[&key("g")];
        assert_eq!(outcome.no_node, *no_node, "{names:?} {returning:?} {paid}");
        assert_eq!(outcome.shortage.is_none(), *fits, "{names:?} {returning:?} {paid}");
        // Without its money a machine goes back, but for those that are bought.
        let mut later = after.clone();
        later.claims = vec![asks(names, &names[..1], &[], false)];
        let (_, after) = check(&later);
        let kept: Vec<String> =
            after.nodes.iter().filter_map(|it| it.given.as_ref()).map(|it| it.machine.clone()).collect();
        assert_eq!(kept, names[..1], "{names:?} {returning:?} {paid}");
    }
}

// Purchases for which spot servers go.

/// A node whose cards spot servers have, each so many; the rest is shared.
fn with_servers(name: &str, servers: &[(&str, u32)]) -> Node {
    let mut list: Vec<(Share, u32)> =
        servers.iter().map(|(server, cards)| (Share::Spot(key(server)), *cards)).collect();
    let used = shares(&list);
    list.push((Share::Shared, 8 - used.sum()));
    let mut node = with_shares(name, &list);
    node.in_use.by_share = used;
    node
}

fn causes(plan: &Plan) -> Vec<(String, Cause)> {
    let of = |(key, outcome): (&Key, &Outcome)| Some((key.to_string(), outcome.cause?));
    plan.outcomes.iter().filter_map(of).map(|(key, cause)| (key.replace("-00000000", ""), cause)).collect()
}

fn shortage(names: &[&str]) -> Vec<(String, Cause)> {
    names.iter().map(|it| ((*it).to_owned(), Cause::Shortage)).collect()
}

#[test]
fn a_purchase_has_the_lowest_bids_go_and_its_free_cards_wait_for_it() {
    let servers = [("a", 0, 300), ("b", 1, 100), ("c", 2, 200), ("d", 3, 400), ("e", 4, 500), ("f", 5, 600)];
    let all = servers.map(|(name, created, bid)| spot(name, created, bid, 1));
    let asks = |paid, funded| claim("p", 9, Demand::Resident { cards: 4, bought: 0, paid, funded });
    let on = || vec![with_servers("n", &servers.map(|(name, ..)| (name, 1)))];
    let with = |purchase: Claim| {
        let mut claims = all.to_vec();
        claims.extend([purchase, workers("w", 2, 2, 0), spot("later", 9, 900, 1)]);
        snapshot(on(), claims)
    };
    // 2 of 8 cards are free: 2 servers go. Nobody else gets the free ones meanwhile, and nothing is locked.
    let (plan, after) = check(&with(asks(false, true)));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::Reclaiming { needed: 4, free: 2 }));
    assert_eq!(causes(&plan), shortage(&["b", "c"]));
    assert!(plan.outcomes[&key("w")].worker_nodes.is_empty());
    assert!(plan.outcomes[&key("later")].shortage.is_some());
    assert_eq!(placed(&after, &resident("p")), vec![]);
    // Without money it hears that it could, and nobody goes for it.
    let (plan, _) = check(&with(asks(false, false)));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::Reclaiming { needed: 4, free: 2 }));
    assert_eq!(causes(&plan), []);
    assert_eq!(plan.outcomes[&key("w")].worker_nodes.len(), 2);
    // More than all of them have: nobody goes.
    let (plan, _) =
        check(&with(claim("p", 9, Demand::Resident { cards: 9, bought: 0, paid: false, funded: true })));
    assert_eq!(plan.outcomes[&key("p")].shortage, Some(Shortage::NoCards { needed: 9, free: 2 }));
    assert_eq!(causes(&plan), []);
}

#[test]
fn freed_cards_are_the_purchases_before_anybody_elses() {
    // One of both has left, and its card is free; then both have.
    let mut waits = vec![
        claim("p", 9, Demand::Resident { cards: 8, bought: 0, paid: false, funded: true }),
        spot("s", 0, 100, 1),
        workers("w", 3, 3, 0),
        spot("later", 9, 900, 1),
    ];
    let (plan, _) = check(&snapshot(vec![with_servers("n", &[("s", 1)])], waits.clone()));
    assert_eq!(causes(&plan), shortage(&["s"]));
    assert!(plan.outcomes[&key("w")].worker_nodes.is_empty());
    let (plan, _) = check(&snapshot(vec![node("n")], waits.clone()));
    assert_eq!(plan.outcomes[&key("p")].shortage, None);
    assert!(plan.outcomes[&key("w")].worker_nodes.is_empty());
    assert!(plan.outcomes[&key("later")].shortage.is_some());
    waits[0] = pool("p", 8);
    let (_, after) = check(&snapshot(vec![node("n")], waits));
    assert_eq!(placed(&after, &resident("p")), at(&[("n", 8)]));
}

#[test]
fn a_machine_has_the_node_with_the_fewest_servers_emptied() {
    let on = || {
        vec![
            with_servers("many", &[("a", 1), ("b", 1)]),
            with_servers("one", &[("c", 2)]),
            used(with_servers("busy", &[]), &[(Share::Shared, 1)]),
        ]
    };
    let servers = [spot("a", 0, 100, 1), spot("b", 0, 100, 1), spot("c", 0, 900, 2)];
    let with = |wanted: &[&str]| {
        let mut claims = servers.to_vec();
        claims.extend([group("g", wanted), workers("w", 9, 9, 0)]);
        snapshot(on(), claims)
    };
    let (plan, after) = check(&with(&["m-0"]));
    assert_eq!(plan.outcomes[&key("g")].shortage, Some(Shortage::Reclaiming { needed: 1, free: 0 }));
    assert_eq!(causes(&plan), shortage(&["c"]));
    // What is free of it is held: the scheduler must not bind a worker there.
    let one = after.nodes.iter().find(|it| it.name == "one").unwrap();
    assert_eq!(one.shares, shares(&[(Share::Spot(key("c")), 2), (Share::Held, 6)]));
    assert_eq!(plan.outcomes[&key("w")].worker_nodes.len(), 9);
    let (plan, _) = check(&with(&["m-0", "m-1"]));
    assert_eq!(causes(&plan), shortage(&["a", "b", "c"]));
    let (plan, _) = check(&with(&["m-0", "m-1", "m-2"]));
    assert_eq!(plan.outcomes[&key("g")].shortage, Some(Shortage::SoldOut { needed: 3, free: 0 }));
    assert_eq!(causes(&plan), []);
}

#[test]
fn a_node_that_a_machine_waits_for_is_no_other_ones() {
    let order =
        |name: &str, created, names: &[&str]| Claim { created_seconds: created, ..group(name, names) };
    let servers = [spot("a", 0, 100, 1), spot("b", 0, 200, 1)];
    let on = || vec![node("free"), with_servers("one", &[("a", 1)]), with_servers("two", &[("b", 1)])];
    // The older order needs two: the free node and an emptied one. The younger gets neither; another node is emptied for it.
    let mut claims = servers.to_vec();
    claims.extend([order("old", 1, &["m-0", "m-1"]), order("young", 2, &["m-0"])]);
    let (plan, after) = check(&snapshot(on(), claims));
    assert!(after.nodes.iter().all(|it| it.given.is_none()), "nobody is served before its time");
    assert_eq!(causes(&plan), shortage(&["a", "b"]));
    for name in ["old", "young"] {
        assert!(matches!(plan.outcomes[&key(name)].shortage, Some(Shortage::Reclaiming { .. })), "{name}");
    }
    // What waits is held, also where two wait.
    for node in &after.nodes {
        assert_eq!(node.shares.get(&Share::Shared), 0, "{}", node.name);
    }
}

#[test]
fn lost_cards_that_are_bought_have_servers_go_too() {
    let lost = claim("p", 0, Demand::Resident { cards: 4, bought: 4, paid: true, funded: true });
    let world = snapshot(
        vec![with_servers("n", &[("s", 6), ("t", 1)])],
        vec![lost, spot("s", 0, 1, 6), spot("t", 0, 9, 1)],
    );
    let (plan, after) = check(&world);
    assert_eq!(placed(&after, &resident("p")), at(&[("n", 1)]), "what there is comes at once");
    assert_eq!(causes(&plan), shortage(&["s"]));
}

// Random fleets and contracts.

fn any_claim(at: usize) -> impl Strategy<Value = Claim> {
    let demand = prop_oneof![
        (0..12_u32, 0..12_u32, any::<bool>(), any::<bool>()).prop_map(|(cards, bought, paid, funded)| {
            Demand::Resident { cards: cards.max(bought), bought, paid, funded: funded || paid }
        }),
        (0..3_usize, 0..2_u8, 0..3_usize, any::<bool>(), any::<bool>()).prop_map(
            |(count, zoned, returns, paid, funded)| {
                Demand::Dedicated {
                    machines: (0..count)
                        .map(|it| Machine {
                            name: format!("m-{it}"),
                            card_type: "ada".to_owned(),
                            cards: 8,
                            zone: if zoned == 1 { "zone-b".to_owned() } else { String::new() },
                        })
                        .collect(),
                    bought: vec![],
                    returning: (0..count.min(returns)).map(|it| (format!("m-{it}"), paid)).collect(),
                    paid,
                    funded: funded || paid,
                }
            }
        ),
        (1..4_u32, 1..500_i64, any::<bool>(), 0..16_u8).prop_map(|(cards, bid, may_start, hold)| {
            let hold = Hold {
                is_protected: hold & 1 > 0,
                is_outbid: hold & 2 > 0,
                in_arrears: hold & 0b1100 == 0b1100,
                is_noticed: hold & 4 > 0,
            };
            Demand::Spot { cards, bid: Decimal::new(bid, 2), may_start, hold }
        }),
        (1..3_u32, 0..3_u32, 0..5_u32, 0..4_u32).prop_map(|(cards, active, more, exist)| {
            Demand::Workers { cards, active, wanted: active + more, exist, unbound: vec![] }
        }),
    ];
    (0..20_i64, demand).prop_map(move |(created, demand)| claim(&format!("c{at}"), created, demand))
}

fn any_claims() -> impl Strategy<Value = Vec<Claim>> {
    (0..12_usize).prop_flat_map(|count| (0..count).map(any_claim).collect::<Vec<_>>())
}

fn any_fleet() -> impl Strategy<Value = Vec<Node>> {
    proptest::collection::vec((0..10_u8, 0..9_u32, 0..9_u32, any::<bool>(), 0..3_u32), 0..8).prop_map(
        |list| {
            list.into_iter()
                .enumerate()
                .map(|(at, (kind, few, fewer, zone_b, foreign))| {
                    let mut node = node(&format!("n{at}"));
                    if zone_b {
                        node.zone = "zone-b".to_owned();
                    }
                    match kind {
                        0 => node.open = false,
                        1 => node.healthy = few,
                        2 => {
                            node = Node {
                                cards: few,
                                healthy: few.min(fewer),
                                shares: Shares::default(),
                                book: None,
                                ..node
                            }
                        }
                        3 => node.size = CARD.times(few),
                        4 => node = used(node, &[(Share::Shared, few)]),
                        5 => node.in_use.foreign = foreign,
                        6 => node.shares = Shares::default(),
                        _ => (),
                    }
                    node
                })
                .collect()
        },
    )
}

/// Pods come and go within their shares, cards fail and heal, between two plans.
fn disturb(world: &mut Snapshot, seeds: &[(u8, u8)]) {
    for (at, (which, how)) in seeds.iter().enumerate() {
        let Some(node) = world.nodes.get_mut(at) else { return };
        match which % 4 {
            0 => {
                let pods: Vec<(Share, u32)> = node
                    .shares
                    .iter()
                    .filter(|(it, _)| **it != Share::Held)
                    .map(|(share, cards)| (share.clone(), u32::from(*how) % (cards + 1)))
                    .collect();
                node.in_use.by_share = pods.into_iter().collect();
            }
            1 => node.in_use = InUse::default(),
            2 => node.healthy = node.cards.min(u32::from(*how) % 9),
            _ => {
                node.open = how % 2 == 0;
                node.leaving = how % 4 == 1;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Thousands of random fleets and contracts: no card twice, stable, independent of order, whole orders only, quotas kept.
    #[test]
    fn no_card_is_sold_twice(fleet in any_fleet(), claims in any_claims(), seeds in proptest::collection::vec(any::<(u8, u8)>(), 8), later in any_claims(), quota in 0..40_u32) {
        let mut world = snapshot(fleet, claims);
        world.quotas.insert(("acme".to_owned(), "ada".to_owned()), quota);
        for round in 0..2 {
            let (plan, after) = check(&world);
            for node in &after.nodes {
                prop_assert!(node.shares.sum() <= node.healthy.max(world.nodes.iter().find(|it| it.name == node.name).map_or(0, |it| it.shares.sum())));
            }
            let mut cards: HashMap<&Share, u32> = HashMap::new();
            for node in &after.nodes {
                for (share, count) in node.shares.iter() {
                    *cards.entry(share).or_default() += count;
                }
            }
            for claim in &world.claims {
                let have = cards.get(&claim.share()).copied().unwrap_or(0);
                let outcome = &plan.outcomes[&claim.key];
                match &claim.demand {
                    // In the first round nothing was bought, so an order shows whether it was whole.
                    Demand::Resident { bought: 0, paid: false, .. } if round == 0 => {
                        prop_assert_eq!(have, 0, "not paid");
                    }
                    Demand::Resident { cards, bought: 0, paid: true, .. } if round == 0 => {
                        prop_assert!(have == 0 || have == *cards, "{have} of {cards}");
                        prop_assert!(have == *cards || outcome.shortage.is_some(), "no cards, and no reason");
                    }
                    Demand::Resident { .. } => (),
                    Demand::Dedicated { machines, returning, paid, bought: _, funded: _ } => {
                        let given: Vec<_> = after.nodes.iter().filter_map(|it| it.given.as_ref()).filter(|it| it.group == claim.key).map(|it| &it.machine).collect();
                        let has = |it: &&Machine| given.contains(&&it.name);
                        let (back, ordered): (Vec<_>, Vec<_>) = machines.iter().partition(|it| returning.contains_key(&it.name));
                        let (came, got) = (back.iter().copied().filter(has).count(), ordered.iter().copied().filter(has).count());
                        prop_assert!(round > 0 || *paid || given.is_empty(), "not paid");
                        prop_assert!(round > 0 || got == 0 || got == ordered.len(), "whole orders only");
                        prop_assert!(!paid || got == ordered.len() || outcome.shortage.is_some());
                        prop_assert!(round > 0 || !paid || came + outcome.no_node.len() == back.len(), "each comes back, or there is no node");
                    }
                    Demand::Spot { cards, may_start, .. } => {
                        prop_assert!(have == 0 || have <= *cards || round > 0);
                        prop_assert!(have > 0 || !may_start || outcome.shortage.is_some());
                    }
                    Demand::Workers { wanted, exist, .. } => {
                        let admitted = u32::try_from(outcome.worker_nodes.len()).expect("few");
                        prop_assert!(admitted <= wanted.saturating_sub(*exist));
                        prop_assert!(admitted == wanted.saturating_sub(*exist) || outcome.shortage.is_some());
                    }
                }
            }
            world = after;
            world.claims.clone_from(&later);
            disturb(&mut world, &seeds);
        }
    }
}
