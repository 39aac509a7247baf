//! The slots of one endpoint, at the gateway that owns it: which request goes to which worker, and who waits.
//!
//! Two properties, in this order: no worker gets more than `concurrency` requests; no request waits while an open worker has
//! a free slot. Requests are held by *holders* (gateways), so that those of a gateway that is gone can be given back at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A worker's id.
pub type WorkerId = Arc<str>;
/// A gateway's name.
pub type Holder = Arc<str>;

/// Which requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// At most so many wait.
    Queue(u32),
    /// At most so many are there at once, those in workers included.
    AtOnce(u32),
}

/// A request that wants a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whose it is.
    pub holder: Holder,
    /// Its number, unique per holder.
    pub ticket: u64,
    /// When it arrived, milliseconds on the owner's clock. The queue is in this order.
    pub since_ms: u64,
    /// It was let in before, by an owner that is no more: it need not find room.
    pub again: bool,
}

/// What becomes of a request that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// It goes to this worker.
    Granted(WorkerId),
    /// It waits.
    Waits,
    /// There is no room for it to wait.
    Full,
}

/// A request that waited goes to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose it is.
    pub holder: Holder,
    /// The request.
    pub ticket: u64,
    /// The worker.
    pub worker: WorkerId,
}

#[derive(Debug, Clone)]
struct Worker {
    id: WorkerId,
    /// Takes new requests: its probe has answered, and it is not closing.
    open: bool,
    /// Is it still in the route table? One that is not is forgotten with its last request.
    known: bool,
    busy: u32,
    holds: BTreeMap<Holder, u32>,
}

/// The slots of an endpoint.
#[derive(Debug, Clone)]
pub struct Slots {
    concurrency: u32,
    limit: Limit,
    /// The oldest first.
    workers: Vec<Worker>,
    queue: VecDeque<Request>,
    /// Gateways that have not said yet what they hold. While there are any, nothing is granted.
    expected: BTreeSet<Holder>,
    /// Requests that ended.
    served: u64,
}

impl Slots {
    /// No workers yet. Nothing is granted before all of `expected` have said what they hold, or are gone.
    pub fn new(concurrency: u32, limit: Limit, expected: BTreeSet<Holder>) -> Slots {
        Slots { concurrency, limit, workers: Vec::new(), queue: VecDeque::new(), expected, served: 0 }
    }

    /// A request arrives.
    pub fn arrive(&mut self, request: Request) -> Arrival {
        // Who waits already goes first.
        if self.queue.is_empty()
            && let Some(at) = self.free()
        {
            return Arrival::Granted(self.take(at, &request.holder));
        }
        let waiting = count(self.queue.len());
        let full = match self.limit {
            Limit::Queue(depth) => waiting >= depth,
            Limit::AtOnce(most) => waiting.saturating_add(self.in_flight()) >= most,
        };
        if full && !request.again {
            return Arrival::Full;
        }
        let after = |it: &Request| {
            (it.since_ms, &it.holder, it.ticket) <= (request.since_ms, &request.holder, request.ticket)
        };
        let place = self.queue.iter().rposition(after).map_or(0, |it| it + 1);
        self.queue.insert(place, request);
        Arrival::Waits
    }

    /// A request no longer wants a slot. Did it still wait?
    pub fn leave(&mut self, holder: &str, ticket: u64) -> bool {
        let before = self.queue.len();
        self.queue.retain(|it| it.ticket != ticket || *it.holder != *holder);
        self.queue.len() < before
    }

    /// A request has left its worker. Who may go now.
    pub fn release(&mut self, holder: &str, worker: &str) -> Vec<Grant> {
        if let Some(at) = self.workers.iter().position(|it| *it.id == *worker) {
            let it = &mut self.workers[at];
            if let Some(held) = it.holds.get_mut(holder) {
                *held -= 1;
                it.busy -= 1;
                self.served += 1;
                if *held == 0 {
                    it.holds.remove(holder);
                }
            }
            self.forget();
        }
        self.grant()
    }

    /// The workers as the route table has them, the oldest first, each open or not; and the limits. Who may go now.
    pub fn update(&mut self, concurrency: u32, limit: Limit, workers: &[(WorkerId, bool)]) -> Vec<Grant> {
        self.concurrency = concurrency;
        self.limit = limit;
        let mut before = std::mem::take(&mut self.workers);
        for (id, open) in workers {
            let known = before.iter().position(|it| it.id == *id).map(|at| before.remove(at));
            let worker = known.unwrap_or(Worker {
                id: id.clone(),
                open: false,
                known: true,
                busy: 0,
                holds: BTreeMap::new(),
            });
            self.workers.push(Worker { open: *open, known: true, ..worker });
        }
        self.workers.extend(before.into_iter().map(|it| Worker { open: false, known: false, ..it }));
        self.forget();
        self.grant()
    }

    /// A worker takes new requests from now on, or takes none. Who may go now.
    pub fn open(&mut self, worker: &str, open: bool) -> Vec<Grant> {
        if let Some(it) = self.workers.iter_mut().find(|it| it.known && *it.id == *worker) {
            it.open = open;
        }
        self.grant()
    }

    /// All that a gateway has in workers, in its own words: this replaces what was known of it. Who may go now.
    pub fn holds(&mut self, holder: &Holder, holds: &BTreeMap<WorkerId, u32>) -> Vec<Grant> {
        self.expected.remove(holder);
        for worker in &mut self.workers {
            worker.busy -= worker.holds.remove(holder).unwrap_or(0);
        }
        for (id, held) in holds.iter().filter(|(_, held)| **held > 0) {
            if !self.workers.iter().any(|it| it.id == *id) {
                self.workers.push(Worker {
                    id: id.clone(),
                    open: false,
                    known: false,
                    busy: 0,
                    holds: BTreeMap::new(),
                });
            }
            for worker in self.workers.iter_mut().filter(|it| it.id == *id) {
                worker.busy += held;
                worker.holds.insert(holder.clone(), *held);
            }
        }
        self.forget();
        self.grant()
    }

    /// A gateway is gone: its connections to workers are closed, and its requests wait no more. Who may go now.
    pub fn gone(&mut self, holder: &Holder) -> Vec<Grant> {
        self.queue.retain(|it| it.holder != *holder);
        self.holds(holder, &BTreeMap::new())
    }

    /// The line to a gateway is down: what it asked for is void, what it holds stays.
    pub fn lost(&mut self, holder: &str) {
        self.queue.retain(|it| *it.holder != *holder);
    }

    /// Requests in workers.
    pub fn in_flight(&self) -> u32 {
        self.workers.iter().map(|it| it.busy).sum()
    }

    /// Requests that wait.
    pub fn queued(&self) -> u32 {
        count(self.queue.len())
    }

    /// Requests that ended.
    pub fn served(&self) -> u64 {
        self.served
    }

    /// Gateways that have not said yet what they hold.
    pub fn expected(&self) -> impl Iterator<Item = &Holder> {
        self.expected.iter()
    }

    /// Each worker, whether it is open, and its requests.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, bool, u32)> {
        self.workers.iter().map(|it| (&it.id, it.open, it.busy))
    }

    /// Everybody who waits, in order; nobody does any more.
    pub fn turn_away(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.queue).into()
    }

    /// The open worker with a free slot that has the fewest requests; of several the oldest.
    fn free(&self) -> Option<usize> {
        if !self.expected.is_empty() {
            return None;
        }
        let free = self.workers.iter().enumerate().filter(|(_, it)| it.open && it.busy < self.concurrency);
        free.min_by_key(|(at, it)| (it.busy, *at)).map(|(at, _)| at)
    }

    fn take(&mut self, at: usize, holder: &Holder) -> WorkerId {
        let worker = &mut self.workers[at];
        assert!(worker.open, "only open workers take requests");
        assert!(worker.busy < self.concurrency, "no worker gets more than its concurrency");
        worker.busy += 1;
        *worker.holds.entry(holder.clone()).or_default() += 1;
        worker.id.clone()
    }

    fn grant(&mut self) -> Vec<Grant> {
        let mut grants = Vec::new();
        while !self.queue.is_empty()
            && let Some(at) = self.free()
            && let Some(request) = self.queue.pop_front()
        {
            let worker = self.take(at, &request.holder);
            grants.push(Grant { holder: request.holder, ticket: request.ticket, worker });
        }
        grants
    }

    fn forget(&mut self) {
        self.workers.retain(|it| it.known || it.busy > 0);
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    fn request(holder: &str, ticket: u64, since_ms: u64) -> Request {
        Request { holder: id(holder), ticket, since_ms, again: false }
    }

    /// One gateway `g`, workers `a`, `b` and so on, all open.
    fn slots(concurrency: u32, limit: Limit, workers: &str) -> Slots {
        let mut slots = Slots::new(concurrency, limit, BTreeSet::new());
        let workers: Vec<_> = workers.chars().map(|it| (id(&it.to_string()), true)).collect();
        slots.update(concurrency, limit, &workers);
        slots
    }

    /// Lets requests 0, 1, ... arrive; a letter is the worker each goes to, `w` waits, `F` is full.
    #[track_caller]
    fn check(slots: &mut Slots, expected: &str) {
        let first = slots.in_flight() + slots.queued();
        let found: String = (0..expected.len() as u64)
            .map(|at| match slots.arrive(request("g", u64::from(first) + at, at)) {
                Arrival::Granted(worker) => worker.to_string(),
                Arrival::Waits => "w".to_owned(),
                Arrival::Full => "F".to_owned(),
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_least_loaded_worker_is_first_and_of_equals_the_oldest() {
        check(&mut slots(2, Limit::Queue(2), "ab"), "ababwwFF");
        check(&mut slots(1, Limit::Queue(0), "ab"), "abF");
        check(&mut slots(1, Limit::Queue(1), ""), "wF");
    }

    #[test]
    fn who_was_let_in_by_the_owner_before_is_not_turned_away() {
        let mut slots = slots(1, Limit::Queue(0), "a");
        check(&mut slots, "aF");
        assert_eq!(slots.arrive(Request { again: true, ..request("g", 9, 9) }), Arrival::Waits);
    }

    #[test]
    fn what_is_bought_is_a_limit_of_all_that_are_there() {
        check(&mut slots(2, Limit::AtOnce(4), "ab"), "ababF");
        // One of two workers is away: the request waits, because it is within what is bought.
        check(&mut slots(2, Limit::AtOnce(4), "a"), "aawwF");
    }

    #[test]
    fn who_waited_longest_goes_first() {
        let mut slots = slots(1, Limit::Queue(9), "a");
        check(&mut slots, "a");
        for (holder, ticket, since) in [("g", 1, 50), ("h", 1, 10), ("g", 2, 50), ("h", 2, 30)] {
            assert_eq!(slots.arrive(request(holder, ticket, since)), Arrival::Waits);
        }
        let mut order = Vec::new();
        let mut last = id("g");
        while let [grant] = &slots.release(&last, "a")[..] {
            order.push(format!("{}{}", grant.holder, grant.ticket));
            last = grant.holder.clone();
        }
        assert_eq!(order, ["h1", "h2", "g1", "g2"]);
    }

    #[test]
    fn a_worker_that_opens_serves_who_waits_and_one_that_closes_finishes() {
        let mut slots = slots(1, Limit::Queue(9), "a");
        check(&mut slots, "aww");
        assert_eq!(slots.update(1, Limit::Queue(9), &[(id("a"), false), (id("b"), true)]).len(), 1);
        assert_eq!(slots.release("g", "a"), [], "a takes no more");
        assert_eq!((slots.in_flight(), slots.queued(), slots.served()), (1, 1, 1));
        // Gone from the table, but its request is not: it counts until the end.
        assert_eq!(slots.update(1, Limit::Queue(9), &[]), []);
        assert_eq!(slots.in_flight(), 1);
        assert_eq!(slots.release("g", "b"), []);
        assert_eq!(slots.workers().count(), 0);
        assert_eq!(slots.open("b", true), [], "who is gone does not open");
    }

    #[test]
    fn a_new_owner_grants_nothing_before_it_knows_what_others_hold() {
        let mut slots = Slots::new(2, Limit::Queue(9), [id("h")].into());
        slots.update(2, Limit::Queue(9), &[(id("a"), true)]);
        check(&mut slots, "www");
        assert_eq!(slots.holds(&id("h"), &[(id("a"), 1)].into()).len(), 1, "one slot was taken before");
        assert_eq!((slots.in_flight(), slots.queued()), (2, 2));
        assert_eq!(slots.gone(&id("h")).len(), 1, "its connections are closed");
    }

    #[test]
    fn less_concurrency_cuts_nobody_off() {
        let mut slots = slots(2, Limit::Queue(9), "a");
        check(&mut slots, "aaw");
        assert_eq!(slots.update(1, Limit::Queue(9), &[(id("a"), true)]), []);
        assert_eq!(slots.release("g", "a"), [], "still one too many");
        assert_eq!(slots.release("g", "a").len(), 1);
    }

    #[test]
    fn who_leaves_is_not_served_and_what_was_never_taken_is_not_given_back() {
        let mut slots = slots(1, Limit::Queue(9), "a");
        check(&mut slots, "aw");
        assert!(slots.leave("g", 1));
        assert!(!slots.leave("g", 0), "it has its slot already");
        assert_eq!(slots.release("h", "a"), [], "h has none");
        assert_eq!(slots.in_flight(), 1);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Arrive(u8),
        Release(u8),
        Leave(u8),
        Workers(Vec<bool>, u8),
        Open(u8, bool),
        Gone(u8),
        Lost(u8),
        Holds(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3_u8).prop_map(Step::Arrive),
            6 => any::<u8>().prop_map(Step::Release),
            2 => any::<u8>().prop_map(Step::Leave),
            2 => (prop::collection::vec(any::<bool>(), 0..5), 1..4_u8).prop_map(|(open, most)| Step::Workers(open, most)),
            2 => (0..5_u8, any::<bool>()).prop_map(|(at, open)| Step::Open(at, open)),
            1 => (0..3_u8).prop_map(Step::Gone),
            1 => (0..3_u8).prop_map(Step::Lost),
            1 => (0..3_u8).prop_map(Step::Holds),
        ]
    }

    proptest! {
        /// Against a model that only counts: the cap holds at each grant, nobody waits beside a free slot, first come first served,
        /// and every request is granted, refused or taken away exactly once.
        #[test]
        fn exact_whatever_happens(steps in prop::collection::vec(step(), 1..120), depth in 0..6_u32) {
            let holders = ["f", "g", "h"].map(id);
            let names = ["a", "b", "c", "d", "e"].map(id);
            let mut most = 2;
            let mut slots = Slots::new(most, Limit::Queue(depth), holders[1..].iter().cloned().collect());
            let mut expected: BTreeSet<Holder> = holders[1..].iter().cloned().collect();
            // (holder, ticket) → worker, for those that are in one; and those that wait.
            let mut running: BTreeMap<(Holder, u64), WorkerId> = BTreeMap::new();
            let mut waiting: Vec<(Holder, u64)> = Vec::new();
            let mut next = 0;
            for step in steps {
                let mut grants = Vec::new();
                match step {
                    Step::Arrive(holder) => {
                        next += 1;
                        let holder = &holders[usize::from(holder)];
                        match slots.arrive(Request { holder: holder.clone(), ticket: next, since_ms: next, again: false }) {
                            Arrival::Granted(worker) => {
                                prop_assert!(waiting.is_empty(), "it jumped the queue");
                                waiting.push((holder.clone(), next));
                                grants.push(Grant { holder: holder.clone(), ticket: next, worker });
                            }
                            Arrival::Waits => waiting.push((holder.clone(), next)),
                            Arrival::Full => prop_assert!(waiting.len() >= depth as usize),
                        }
                    }
                    Step::Release(which) => if let Some((holder, ticket)) = running.keys().nth(usize::from(which) % running.len().max(1)).cloned() {
                        let worker = running.remove(&(holder.clone(), ticket)).unwrap();
                        grants = slots.release(&holder, &worker);
                    },
                    Step::Leave(which) => if !waiting.is_empty() {
                        let (holder, ticket) = waiting.remove(usize::from(which) % waiting.len());
                        prop_assert!(slots.leave(&holder, ticket));
                    },
                    Step::Workers(open, concurrency) => {
                        most = u32::from(concurrency);
                        let workers: Vec<_> = names.iter().cloned().zip(open).collect();
                        grants = slots.update(most, Limit::Queue(depth), &workers);
                    }
                    Step::Open(at, open) => grants = slots.open(&names[usize::from(at)], open),
                    Step::Gone(holder) => {
                        let holder = &holders[usize::from(holder)];
                        running.retain(|(it, _), _| it != holder);
                        waiting.retain(|(it, _)| it != holder);
                        expected.remove(holder);
                        grants = slots.gone(holder);
                    }
                    Step::Lost(holder) => {
                        let holder = &holders[usize::from(holder)];
                        waiting.retain(|(it, _)| it != holder);
                        slots.lost(holder);
                    }
                    Step::Holds(holder) => {
                        let holder = &holders[usize::from(holder)];
                        expected.remove(holder);
                        let mut holds = BTreeMap::new();
                        for ((_, _), worker) in running.iter().filter(|((it, _), _)| it == holder) {
                            *holds.entry(worker.clone()).or_default() += 1;
                        }
                        grants = slots.holds(holder, &holds);
                    }
                }
                for grant in grants {
                    prop_assert!(expected.is_empty(), "granted before all had said what they hold");
                    let place = waiting.iter().position(|it| *it == (grant.holder.clone(), grant.ticket));
                    prop_assert_eq!(place, Some(0), "first come, first served");
                    waiting.remove(0);
                    running.insert((grant.holder, grant.ticket), grant.worker.clone());
                    let busy = running.values().filter(|it| **it == grant.worker).count();
                    prop_assert!(busy <= most as usize, "more than its concurrency");
                }
                prop_assert_eq!(slots.in_flight() as usize, running.len());
                prop_assert_eq!(slots.queued() as usize, waiting.len());
                if expected.is_empty() && !waiting.is_empty() {
                    let free = slots.workers().find(|(_, open, busy)| *open && *busy < most);
                    prop_assert!(free.is_none(), "somebody waits beside a free slot: {free:?}");
                }
                for (worker, _, busy) in slots.workers() {
                    prop_assert_eq!(busy as usize, running.values().filter(|it| *it == worker).count());
                }
            }
        }
    }
}
