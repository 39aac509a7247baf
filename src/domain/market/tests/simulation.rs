//! A market of 1,000 servers: prices, purchases, arrears, losses of nodes and crashes in random order, minute by minute, decided by the
//! planner and carried out as the controllers do. Whatever happens: a server on a healthy node that is paid for is not touched in
//! its first hour, nor before its notice has ended; no more go than purchases need; and when it is quiet, everything comes to its end.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use crate::domain::allocate::{Outcome, Plan, Shortage, plan};
use crate::domain::book::{InUse, Key, Share, Shares};
use crate::domain::fleet::{Claim, Demand, Hold, Node, Snapshot};
use crate::domain::market::notice::{Now, Pod, Step, step};
use crate::domain::market::{Cause, Notice};
use crate::domain::units::Size;

const CARD: Size = Size { cpu_milli: 8_000, memory_bytes: 64 << 30, disk_bytes: 60 << 30 };
const SERVERS: u32 = 1_000;
const NODES: u32 = 200;
const PROTECTED: SignedDuration = SignedDuration::from_mins(60);
const NOTICE_MINUTES: u32 = 30;
const GRACE: SignedDuration = SignedDuration::from_mins(5);

/// splitmix64: the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((it ^ (it >> 31)) % u64::from(most.max(1))).expect("below a u32")
    }
}

struct Server {
    cards: u32,
    bid: Decimal,
    created: Timestamp,
    notice: Option<Notice>,
    pod: Option<Running>,
    /// Since when its account is in arrears.
    owes: Option<Timestamp>,
}

/// A pod, and when it has ended if it was told to.
struct Running {
    node: String,
    leaves: Option<Timestamp>,
}

struct Purchase {
    cards: u32,
    created: i64,
    bought: bool,
    paid: bool,
    funded: bool,
    /// Since when spot servers give it cards.
    waits: Option<Timestamp>,
}

struct World {
    random: Random,
    now: Timestamp,
    price: Decimal,
    nodes: BTreeMap<String, Node>,
    made: u32,
    servers: BTreeMap<Key, Server>,
    purchases: BTreeMap<Key, Purchase>,
    /// What has happened.
    seen: BTreeMap<&'static str, u32>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            random: Random(seed),
            now: Timestamp::from_second(1_795_000_000).expect("a time"),
            price: Decimal::ONE,
            nodes: BTreeMap::new(),
            made: 0,
            servers: BTreeMap::new(),
            purchases: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        for _ in 0..NODES {
            world.add_node();
        }
        for _ in 0..SERVERS {
            world.add_server();
        }
        world
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn add_node(&mut self) {
        self.made += 1;
        let shared: Shares = [(Share::Shared, 8)].into_iter().collect();
        let name = format!("n{:05}", self.made);
        let node = Node {
            name: name.clone(),
            card_type: "ada".to_owned(),
            cards: 8,
            healthy: 8,
            size: CARD.times(8),
            shares: shared.clone(),
            book: Some(shared),
            ready: true,
            open: true,
            ..Node::default()
        };
        self.nodes.insert(name, node);
    }

    fn add_server(&mut self) {
        self.made += 1;
        let cards = [1, 1, 1, 2, 2, 4][self.random.below(6) as usize];
        let bid = Decimal::new(i64::from(50 + self.random.below(400)), 2);
        // As if they had come over the last two hours.
        let created = self.now - SignedDuration::from_mins(i64::from(self.random.below(120)));
        let server = Server { cards, bid, created, notice: None, pod: None, owes: None };
        self.servers.insert(Key::parse(&format!("s{:05}", self.made)), server);
    }

    /// Something happens.
    fn disturb(&mut self) {
        match self.random.below(16) {
            0..=3 => self.price = Decimal::new(i64::from(20 + self.random.below(400)), 2),
            4..=6 => {
                self.made += 1;
                let purchase = Purchase {
                    cards: 1 + self.random.below(120),
                    created: self.now.as_second(),
                    bought: false,
                    paid: false,
                    funded: self.random.below(4) > 0,
                    waits: None,
                };
                self.purchases.insert(Key::parse(&format!("p{:05}", self.made)), purchase);
            }
            7..=9 => {
                if let Some(key) = self.any(|world| world.purchases.keys().cloned().collect()) {
                    self.purchases.remove(&key);
                }
            }
            10 | 11 => {
                if let Some(name) = self.any(|world| world.nodes.keys().cloned().collect()) {
                    self.nodes.remove(&name);
                    for server in self.servers.values_mut() {
                        if server.pod.as_ref().is_some_and(|it| it.node == name) {
                            server.pod = None;
                        }
                    }
                    self.add_node();
                    self.count("a node lost");
                }
            }
            12 => {
                if let Some(key) = self.any(|world| world.servers.keys().cloned().collect())
                    && let Some(server) = self.servers.get_mut(&key)
                {
                    server.owes = server.owes.xor(Some(self.now));
                }
            }
            13 => {
                if let Some(key) = self.any(|world| world.servers.keys().cloned().collect()) {
                    self.servers.remove(&key);
                    self.add_server();
                }
            }
            14 => {
                if let Some(key) = self.any(|world| world.servers.keys().cloned().collect())
                    && let Some(server) = self.servers.get_mut(&key)
                {
                    // It crashed, and is started again.
                    server.pod = None;
                    self.count("a crash");
                }
            }
            _ => {
                if let Some(key) = self.any(|world| world.nodes.keys().cloned().collect())
                    && let Some(node) = self.nodes.get_mut(&key)
                {
                    node.open = !node.open;
                }
            }
        }
    }

    fn any<T: Clone>(&mut self, of: impl Fn(&World) -> Vec<T>) -> Option<T> {
        let all = of(self);
        let at = self.random.below(u32::try_from(all.len()).expect("few"));
        all.get(at as usize).cloned()
    }

    fn is_protected(&self, server: &Server) -> bool {
        self.now < server.created + PROTECTED
    }

    fn snapshot(&self) -> Snapshot {
        let claim = |key: &Key, created_seconds, demand| Claim {
            key: key.clone(),
            card_type: "ada".to_owned(),
            account: key.to_string(),
            created_seconds,
            version: String::new(),
            demand,
        };
        let mut claims: Vec<Claim> = Vec::new();
        for (key, it) in &self.servers {
            let notice = it.notice.filter(|it| !it.is_over());
            let stays = it.pod.as_ref().is_some_and(|it| it.leaves.is_none());
            let goes = notice.is_some_and(|it| it.is_due(self.now)) && !stays;
            let demand = Demand::Spot {
                cards: if goes { 0 } else { it.cards },
                bid: it.bid,
                may_start: it.bid >= self.price && it.owes.is_none() && !goes,
                hold: Hold {
                    is_protected: self.is_protected(it),
                    is_outbid: self.price > it.bid,
                    in_arrears: it.owes.is_some(),
                    is_noticed: notice.is_some(),
                },
            };
            claims.push(claim(key, it.created.as_second(), demand));
        }
        for (key, it) in &self.purchases {
            let bought = if it.bought { it.cards } else { 0 };
            let funded = it.funded || it.paid;
            let demand = Demand::Resident { cards: it.cards, bought, paid: it.paid, funded };
            claims.push(claim(key, it.created, demand));
        }
        let mut nodes: Vec<Node> = self.nodes.values().cloned().collect();
        let mut used: HashMap<&str, Shares> = HashMap::new();
        for (key, it) in &self.servers {
            if let Some(pod) = &it.pod {
                used.entry(&pod.node).or_default().add(&Share::Spot(key.clone()), it.cards);
            }
        }
        for node in &mut nodes {
            node.in_use = InUse { by_share: used.remove(node.name.as_str()).unwrap_or_default(), foreign: 0 };
        }
        Snapshot { card_types: [("ada".to_owned(), CARD)].into(), nodes, claims, ..Snapshot::default() }
    }

    /// Plans and carries out, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..20 {
            let snapshot = self.snapshot();
            let planned = plan(&snapshot);
            self.check_victims(&snapshot, &planned);
            let mut changed = !planned.moves.is_empty();
            for it in &planned.moves {
                let node = self.nodes.get_mut(&it.node).expect("a move names a node");
                node.shares = it.target.clone();
                node.book = Some(it.target.clone());
            }
            changed |= self.purchase(&planned);
            changed |= self.reclaim(&planned);
            if !changed {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    fn purchase(&mut self, planned: &Plan) -> bool {
        let mut changed = false;
        for (key, it) in &mut self.purchases {
            let outcome = &planned.outcomes[key];
            let locked = outcome.cards_in_place();
            let before = (it.paid, it.bought);
            match &outcome.shortage {
                _ if it.bought => (),
                None if !it.paid => it.paid = it.funded,
                None => it.bought = locked >= it.cards,
                Some(_) => it.paid = false,
            }
            it.waits = match &outcome.shortage {
                Some(Shortage::Reclaiming { .. }) if it.funded && !it.bought => it.waits.or(Some(self.now)),
                Some(_) | None => None,
            };
            changed |= before != (it.paid, it.bought);
        }
        changed
    }

    fn reclaim(&mut self, planned: &Plan) -> bool {
        let mut changed = false;
        let keys: Vec<Key> = self.servers.keys().cloned().collect();
        for key in keys {
            let outcome = &planned.outcomes[&key];
            let server = &self.servers[&key];
            let now = Now {
                at: self.now,
                cause: outcome.cause,
                is_outdated: false,
                has_cards: !outcome.holdings.is_empty(),
                pod: match &server.pod {
                    None => Pod::None,
                    Some(Running { leaves: None, .. }) => Pod::There,
                    Some(Running { leaves: Some(_), .. }) => Pod::Leaving,
                },
                notice_minutes: NOTICE_MINUTES,
                grace_ends: server.owes.map(|it| (it + GRACE).max(self.now)),
            };
            let done = step(server.notice.as_ref(), &now);
            self.check_step(&key, &now, done);
            let now = self.now;
            let server = self.servers.get_mut(&key).expect("it is there");
            match done {
                Step::Stay | Step::Ask => (),
                Step::Give(notice) | Step::Record(notice) => server.notice = Some(notice),
                Step::Withdraw | Step::Forget => server.notice = None,
                Step::Reclaim => {
                    if let Some(pod) = &mut server.pod {
                        pod.leaves = Some(now + SignedDuration::from_mins(2));
                    }
                }
            }
            changed |= done != Step::Stay;
            changed |= self.start(&key, outcome);
        }
        changed
    }

    /// Starts its pod where it has its cards.
    fn start(&mut self, key: &Key, outcome: &Outcome) -> bool {
        let server = self.servers.get_mut(key).expect("it is there");
        // What has just been given back is no place for it.
        let share = Share::Spot(key.clone());
        let has = |it: &str| self.nodes.get(it).map_or(0, |it| it.shares.get(&share));
        let held = outcome.holdings.first().filter(|it| it.in_place && has(&it.node) >= server.cards);
        let may = server.notice.is_none_or(|it| !it.is_over() && !it.is_due(self.now));
        let Some(held) = held.filter(|_| server.pod.is_none() && may) else { return false };
        server.pod = Some(Running { node: held.node.clone(), leaves: None });
        true
    }

    fn check_step(&mut self, key: &Key, now: &Now, done: Step) {
        let server = &self.servers[key];
        let protected = self.is_protected(server);
        match done {
            Step::Stay | Step::Ask | Step::Record(_) | Step::Forget => (),
            Step::Withdraw => self.count("withdrawn"),
            Step::Give(notice) => {
                let least = match notice.cause {
                    Cause::Arrears => {
                        assert!(server.owes.is_some(), "it is paid");
                        SignedDuration::ZERO
                    }
                    Cause::PriceAboveBid | Cause::Shortage => {
                        assert!(!protected, "{key} was told in its first hour");
                        SignedDuration::from_mins(i64::from(NOTICE_MINUTES))
                    }
                };
                assert!(notice.reclaim_at >= notice.noticed_at + least);
                match notice.cause {
                    Cause::Arrears => self.count("told: arrears"),
                    Cause::PriceAboveBid => self.count("told: price"),
                    Cause::Shortage => self.count("told: shortage"),
                }
            }
            Step::Reclaim => {
                let notice = server.notice.expect("nobody goes without a notice");
                assert!(now.at >= notice.reclaim_at);
                match now.cause.expect("nobody goes without a cause") {
                    Cause::Arrears => {
                        let since = server.owes.expect("it is paid");
                        assert!(now.at >= since + GRACE, "{key} was on the recovery list");
                    }
                    Cause::PriceAboveBid => assert!(!protected && self.price > server.bid),
                    Cause::Shortage => assert!(!protected),
                }
                if notice.cause != Cause::Arrears {
                    let minutes = SignedDuration::from_mins(i64::from(NOTICE_MINUTES));
                    assert!(now.at >= notice.noticed_at + minutes);
                }
                self.count("reclaimed");
            }
        }
    }

    /// Nobody goes for a shortage without whom the others would do.
    fn check_victims(&self, snapshot: &Snapshot, planned: &Plan) {
        let held = |key: &Key| planned.outcomes[key].holdings.first().map(|it| (it.node.clone(), it.cards));
        let mut coming = 0;
        let mut victims: Vec<(&Key, u32)> = Vec::new();
        for claim in &snapshot.claims {
            let Demand::Spot { cards, .. } = claim.demand else { continue };
            let Some((_, has)) = held(&claim.key).filter(|(node, _)| self.nodes[node].open) else { continue };
            match planned.outcomes[&claim.key].cause {
                Some(Cause::Shortage) => victims.push((&claim.key, has)),
                Some(Cause::Arrears | Cause::PriceAboveBid) => coming += has,
                // Without a pod its cards are free already.
                None if cards == 0 && self.servers[&claim.key].pod.is_some() => coming += has,
                None => (),
            }
        }
        let mut lack = 0;
        for claim in &snapshot.claims {
            let Demand::Resident { funded: true, .. } = claim.demand else { continue };
            if let Some(Shortage::Reclaiming { needed, free }) = planned.outcomes[&claim.key].shortage {
                lack += needed - free;
            }
        }
        let all: u32 = coming + victims.iter().map(|(_, cards)| cards).sum::<u32>();
        assert!(all >= lack, "{all} cards come for {lack}");
        for (key, cards) in victims {
            assert!(
                all - cards < lack,
                "{key} goes, and {all} cards would do without its {cards} for {lack}"
            );
        }
    }

    fn pass(&mut self, minutes: u32) {
        self.now += SignedDuration::from_mins(i64::from(minutes));
        for server in self.servers.values_mut() {
            if server.pod.as_ref().is_some_and(|it| it.leaves.is_some_and(|it| it <= self.now)) {
                server.pod = None;
            }
        }
        self.settle();
    }
}

fn live_through(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut world = World::new(seed);
    world.settle();
    for _ in 0..30 {
        let events = 1 + world.random.below(3);
        for _ in 0..events {
            world.disturb();
        }
        let minutes = 1 + world.random.below(15);
        world.pass(minutes);
    }
    // One more who needs more cards than are free, and then it gets quiet: whoever waits for cards that come has them after a notice and what ends then.
    world.price = Decimal::new(20, 2);
    world.pass(1);
    let free: u32 = world.nodes.values().filter(|it| it.open).map(|it| it.shares.get(&Share::Shared)).sum();
    let created = world.now.as_second();
    let last = Purchase { cards: free + 9, created, bought: false, paid: false, funded: true, waits: None };
    world.purchases.insert(Key::parse("p99999"), last);
    world.pass(1);
    let waits: Vec<Key> =
        world.purchases.iter().filter(|(_, it)| it.waits.is_some()).map(|(key, _)| key.clone()).collect();
    for _ in 0..8 {
        world.pass(10);
    }
    for key in waits {
        assert!(world.purchases[&key].bought, "seed {seed}: {key} waits for ever");
        world.count("waited for cards, and got them");
    }
    // Nobody wants anything any more: no notice is left, and all who may run do.
    world.purchases.clear();
    world.price = Decimal::new(1, 2);
    for server in world.servers.values_mut() {
        server.owes = None;
    }
    for node in world.nodes.values_mut() {
        node.open = true;
    }
    for _ in 0..8 {
        world.pass(10);
    }
    for (key, server) in &world.servers {
        assert!(server.notice.is_none_or(|it| it.is_over()), "seed {seed}: {key} is noticed for ever");
        assert!(
            server.pod.as_ref().is_none_or(|it| it.leaves.is_none()),
            "seed {seed}: {key} leaves for ever"
        );
    }
    let free: u32 = world.nodes.values().map(|it| it.shares.get(&Share::Shared)).max().unwrap_or(0);
    let idle = world.servers.values().filter(|it| it.pod.is_none()).map(|it| it.cards).min();
    assert!(
        idle.is_none_or(|it| it > free),
        "seed {seed}: {free} cards are free, and one who needs {idle:?} waits"
    );
    world.seen
}

#[test]
fn nobody_is_touched_too_early_and_everything_ends() {
    let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..3 {
        for (what, count) in live_through(seed) {
            *seen.entry(what).or_default() += count;
        }
    }
    // What never happened was not tested.
    for what in [
        "withdrawn",
        "told: price",
        "told: shortage",
        "told: arrears",
        "reclaimed",
        "a node lost",
        "a crash",
        "waited for cards, and got them",
    ] {
        assert!(seen.get(what).is_some_and(|it| *it > 0), "{what} did not happen: {seen:?}");
    }
}
