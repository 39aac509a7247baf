//! Several gateways, one endpoint and everything that can happen to them, in random order from a seed: requests come, end and
//! give up; messages between gateways arrive late or are lost with their line; gateways die and come back; the leader names
//! other owners, and each gateway hears of it at another time; workers come, open, close and go.
//!
//! What is checked after every step is what the workers themselves would see: none ever has more open requests than its
//! concurrency. When all has calmed down, nobody waits beside a free slot, and every request has had one answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::admit::Slot;
use super::endpoint::{Admission, Endpoint, Shared, Waiting};
use super::refuse::Reason;
use crate::domain::slots::Holder;
use crate::link::message::{EndpointKey, FromOwner, Limit, Probe, Route, Serving, ToOwner, Worker};

const GATEWAYS: usize = 3;
const WORKERS: usize = 4;

/// xorshift64*: a simulation needs no better one, and its seeds mean the same for ever.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end
    }
}

struct Line {
    to_owner: UnboundedReceiver<ToOwner>,
    out: u64,
    from_owner: UnboundedReceiver<FromOwner>,
    back: u64,
}

struct Gateway {
    shared: Arc<Shared>,
    endpoint: Arc<Endpoint>,
    waiting: Vec<Waiting>,
    running: Vec<Slot>,
    /// Routes that the leader has sent and that have not arrived.
    news: Vec<Route>,
}

struct World {
    random: Random,
    gateways: Vec<Gateway>,
    /// The line from one gateway to another, while it is up.
    lines: BTreeMap<(usize, usize), Line>,
    route: Route,
    now_ms: u64,
    arrived: usize,
    answered: usize,
    given_up: usize,
}

fn name(at: usize) -> String {
    format!("gateway-{at}")
}

fn gateway(at: usize, route: &Route) -> Gateway {
    let shared = Shared::new(&name(at));
    let endpoint = Endpoint::new(shared.clone(), route);
    Gateway { shared, endpoint, waiting: Vec::new(), running: Vec::new(), news: vec![route.clone()] }
}

impl World {
    fn new(seed: u64) -> World {
        let route = Route {
            endpoint: EndpointKey { namespace: "a".to_owned(), name: "b".to_owned() },
            owner: name(0),
            epoch: 1,
            serving: Serving::Yes,
            concurrency: 2,
            limit: Limit::Queue { depth: 6 },
            queue_timeout_ms: 0,
            first_byte_timeout_ms: 0,
            idle_timeout_ms: 0,
            total_timeout_ms: 0,
            drain_ms: 0,
            keys: None,
            probe: Probe::Connect,
            workers: (0..2).map(worker).collect(),
        };
        let gateways = (0..GATEWAYS).map(|it| gateway(it, &route)).collect();
        World {
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            gateways,
            lines: BTreeMap::new(),
            route,
            now_ms: 1,
            arrived: 0,
            answered: 0,
            given_up: 0,
        }
    }

    fn step(&mut self) {
        self.now_ms += 1;
        let at = self.random.below(GATEWAYS);
        let other = self.random.below(GATEWAYS);
        match self.random.below(100) {
            0..25 => self.arrive(at),
            25..40 => self.end(at),
            40..44 => self.give_up(at),
            44..80 => _ = self.deliver(at, other),
            80..84 => _ = self.line(at, other),
            84..86 => self.cut(at, other),
            86..92 => _ = self.hear(at),
            92..95 => self.probe(at),
            95..97 => self.change(),
            97..99 => self.move_owner(),
            _ => self.kill(at),
        }
        self.look();
        self.check();
    }

    fn arrive(&mut self, at: usize) {
        self.arrived += 1;
        let it = &mut self.gateways[at];
        match it.endpoint.acquire(self.now_ms) {
            Admission::Slot(slot) => it.running.push(slot),
            Admission::Waiting(waiting) => it.waiting.push(waiting),
            Admission::Refused(_) => self.answered += 1,
        }
    }

    fn end(&mut self, at: usize) {
        let running = &mut self.gateways[at].running;
        if !running.is_empty() {
            let which = self.random.below(running.len());
            let slot = running.swap_remove(which);
            if self.random.below(10) == 0 {
                slot.unreachable();
            } else {
                drop(slot);
            }
            self.answered += 1;
        }
    }

    fn give_up(&mut self, at: usize) {
        let waiting = &mut self.gateways[at].waiting;
        if !waiting.is_empty() {
            waiting.swap_remove(self.random.below(waiting.len()));
            self.given_up += 1;
        }
    }

    /// One message arrives.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let Some(line) = self.lines.get_mut(&(from, to)) else { return false };
        if let Ok(message) = line.to_owner.try_recv() {
            let endpoint = &self.gateways[to].endpoint;
            match &message {
                ToOwner::Owns { epoch, .. } => endpoint.owned_by(&name(from), *epoch, self.now_ms),
                _ => endpoint.asked(&Holder::from(name(from)), &message, self.now_ms),
            }
            return true;
        }
        if let Ok(message) = line.from_owner.try_recv() {
            self.gateways[from].endpoint.answered(&name(to), &message, self.now_ms);
            return true;
        }
        false
    }

    fn line(&mut self, from: usize, to: usize) -> bool {
        if from == to || self.lines.contains_key(&(from, to)) {
            return false;
        }
        let (send, to_owner) = unbounded_channel();
        let out = self.gateways[from].shared.lines.opened_out(&name(to), send);
        let (send, from_owner) = unbounded_channel();
        let back = self.gateways[to].shared.lines.opened_back(&name(from), send);
        self.lines.insert((from, to), Line { to_owner, out, from_owner, back });
        self.gateways[from].endpoint.line_up(&name(to), self.now_ms);
        true
    }

    /// A line breaks, and all that was on its way is lost.
    fn cut(&mut self, from: usize, to: usize) {
        if let Some(line) = self.lines.remove(&(from, to)) {
            self.gateways[from].shared.lines.closed_out(&name(to), line.out);
            if self.gateways[to].shared.lines.closed_back(&name(from), line.back) {
                self.gateways[to].endpoint.lost(&Holder::from(name(from)));
            }
        }
    }

    fn hear(&mut self, at: usize) -> bool {
        if self.gateways[at].news.is_empty() {
            return false;
        }
        let route = self.gateways[at].news.remove(0);
        let others: BTreeSet<Holder> =
            (0..GATEWAYS).filter(|it| *it != at).map(|it| Holder::from(name(it))).collect();
        self.gateways[at].endpoint.apply(&route, &others, self.now_ms);
        true
    }

    fn probe(&mut self, at: usize) {
        let worker = self.random.below(WORKERS);
        let ready = self.random.below(4) > 0;
        self.gateways[at].endpoint.probed(&format!("worker-{worker}"), ready);
    }

    fn change(&mut self) {
        self.route.workers = (0..WORKERS).filter(|_| self.random.below(3) > 0).map(worker).collect();
        for worker in &mut self.route.workers {
            worker.closing = self.random.below(5) == 0;
        }
        self.tell();
    }

    fn move_owner(&mut self) {
        let owner = self.random.below(GATEWAYS);
        self.move_to(owner);
    }

    fn move_to(&mut self, owner: usize) {
        self.route.epoch += 1;
        self.route.owner = name(owner);
        self.tell();
    }

    fn tell(&mut self) {
        for gateway in &mut self.gateways {
            gateway.news.push(self.route.clone());
        }
    }

    /// A gateway dies, and a new process of its name knows nothing. The others notice: its lines are down.
    fn kill(&mut self, at: usize) {
        for other in 0..GATEWAYS {
            self.cut(at, other);
            self.cut(other, at);
        }
        let new = gateway(at, &self.route);
        let old = std::mem::replace(&mut self.gateways[at], new);
        self.given_up += old.waiting.len() + old.running.len();
        // Its connections are closed, and nobody tells anybody.
        std::mem::forget(old.running);
        std::mem::forget(old.waiting);
        for other in (0..GATEWAYS).filter(|it| *it != at) {
            self.gateways[other].endpoint.gone(&Holder::from(name(at)));
        }
    }

    /// Who waited looks whether there is an answer.
    fn look(&mut self) {
        for gateway in &mut self.gateways {
            let mut still = Vec::new();
            for mut waiting in std::mem::take(&mut gateway.waiting) {
                let answer = waiting.slot().now_or_never();
                match answer {
                    None => still.push(waiting),
                    Some(Ok(slot)) => gateway.running.push(slot),
                    Some(Err(reason)) => {
                        assert_eq!(reason, Reason::QueueFull);
                        self.answered += 1;
                    }
                }
            }
            gateway.waiting = still;
        }
    }

    fn check(&self) {
        let mut busy: BTreeMap<&str, u32> = BTreeMap::new();
        for slot in self.gateways.iter().flat_map(|it| &it.running) {
            *busy.entry(&slot.worker.id).or_default() += 1;
        }
        assert!(
            busy.values().all(|it| *it <= self.route.concurrency),
            "a worker has too many requests: {busy:?}"
        );
        for gateway in &self.gateways {
            let (held, waiting) = gateway.endpoint.local();
            assert_eq!(held as usize, gateway.running.len());
            assert_eq!(waiting, gateway.waiting.len());
        }
    }

    /// All lines come up and all news arrives.
    fn calm(&mut self) {
        for rounds in 0.. {
            assert!(rounds < 1_000, "they never come to rest");
            let mut moved = false;
            for at in 0..GATEWAYS {
                while self.hear(at) {
                    moved = true;
                }
                for other in 0..GATEWAYS {
                    moved |= self.line(at, other);
                    for messages in 0.. {
                        assert!(messages < 10_000, "two gateways ask and refuse each other for ever");
                        if !self.deliver(at, other) {
                            break;
                        }
                        moved = true;
                    }
                }
            }
            self.look();
            self.check();
            if !moved {
                return;
            }
        }
    }
}

fn worker(at: usize) -> Worker {
    Worker {
        id: format!("worker-{at}"),
        name: format!("b-{at}"),
        address: ([10, 0, 0, u8::try_from(at).unwrap()], 8080).into(),
        closing: false,
    }
}

fn live(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..600 {
        world.step();
    }
    // In the end all workers are there and open: who waits is served, and everybody is answered.
    world.route.workers = (0..WORKERS).map(worker).collect();
    world.tell();
    world.calm();
    for at in 0..WORKERS {
        for gateway in &world.gateways {
            gateway.endpoint.probed(&format!("worker-{at}"), true);
        }
    }
    world.calm();
    let owner = world.gateways.iter().position(|it| it.endpoint.is_mine()).expect("somebody owns it");
    while world.gateways.iter().any(|it| !it.running.is_empty()) {
        let waiting: usize = world.gateways.iter().map(|it| it.waiting.len()).sum();
        let running: usize = world.gateways.iter().map(|it| it.running.len()).sum();
        let demand = world.gateways[owner].endpoint.demand().expect("it is the owner");
        assert_eq!((demand.in_flight as usize, demand.queued as usize), (running, waiting));
        assert!(waiting == 0 || running == WORKERS * 2, "{waiting} wait and {running} of 8 slots are used");
        let at = (0..GATEWAYS).find(|it| !world.gateways[*it].running.is_empty()).expect("one has some");
        drop(world.gateways[at].running.pop());
        world.answered += 1;
        world.calm();
    }
    assert_eq!(world.arrived, world.answered + world.given_up, "each request has one answer");
    assert!(world.gateways.iter().all(|it| it.waiting.is_empty()), "somebody was forgotten");
}

#[test]
fn a_grant_of_a_former_epoch_takes_nobody_elses_slot() {
    let mut world = World::new(1);
    world.route.workers.truncate(1);
    world.tell();
    world.calm();
    world.gateways[0].endpoint.probed("worker-0", true);
    world.arrive(1);
    world.calm();
    // A second request is granted, and the grant is still on its way when the same owner is named anew.
    world.arrive(1);
    world.deliver(1, 0);
    world.move_to(0);
    world.hear(0);
    world.hear(1);
    world.gateways[0].endpoint.probed("worker-0", true);
    world.calm();
    let running = |world: &World| world.gateways[1].running.len();
    assert_eq!(running(&world), 2, "it was asked for again");
    world.arrive(1);
    world.calm();
    assert_eq!((running(&world), world.gateways[1].waiting.len()), (2, 1));
}

#[test]
fn slots_are_exact_whatever_happens_to_gateways_and_lines() {
    for seed in 1..400 {
        let lived = std::panic::catch_unwind(|| live(seed));
        assert!(lived.is_ok(), "seed {seed}");
    }
}
