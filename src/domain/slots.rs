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
    awaited: BTreeSet<Holder>,
    /// Requests that ended.
    served: u64,
}

impl Slots {
    /// No workers yet. Nothing is granted before all of `awaited` have said what they hold, or are gone.
    pub fn new(concurrency: u32, limit: Limit, awaited: BTreeSet<Holder>) -> Slots {
        Slots { concurrency, limit, workers: Vec::new(), queue: VecDeque::new(), awaited, served: 0 }
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
        if full {
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
        self.awaited.remove(holder);
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
    pub fn awaited(&self) -> impl Iterator<Item = &Holder> {
        self.awaited.iter()
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
        if !self.awaited.is_empty() {
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
