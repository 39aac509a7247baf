//! One endpoint at this gateway: its route, the requests that are in workers or wait here, and, if this gateway owns it, its
//! slots.
//!
//! Everything here is synchronous, so a test can drive several gateways step by step. What waits is a `Waiting`; what has got
//! through is a `Slot`. Both give their place back when they are dropped, wherever that happens.
//!
//! Who owns the endpoint is what the highest epoch says that was heard of, from the leader or from the owner itself. With a
//! new epoch a gateway first tells the owner what it holds; what an earlier owner grants from then on goes back unused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::admit::{Slot, WorkerAt};
use super::lines::Lines;
use super::refuse::Reason;
use crate::domain::slots::{self, Arrival, Grant, Holder, Slots, WorkerId};
use crate::link::message::{
    Demand, EndpointKey, FromOwner, Limit, NotGranted, Route, Serving, ToOwner, WorkerDemand,
};

/// What all endpoints of a gateway share.
pub struct Shared {
    /// This replica's name.
    pub me: Holder,
    /// Lines to the others.
    pub lines: Lines,
    /// Endpoints whose demand has changed.
    pub dirty: Mutex<Vec<EndpointKey>>,
    /// Wakes who reports demand.
    pub demand_changed: Notify,
}

impl Shared {
    /// For a replica of this name.
    pub fn new(me: &str) -> Arc<Shared> {
        Arc::new(Shared {
            me: Arc::from(me),
            lines: Lines::default(),
            dirty: Mutex::default(),
            demand_changed: Notify::new(),
        })
    }
}

/// An endpoint.
pub struct Endpoint {
    key: EndpointKey,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// Is it in the list of those whose demand has changed?
    dirty: AtomicBool,
    /// Wakes those who ask workers whether they are ready: one could not be reached.
    suspected: Notify,
}

struct State {
    route: Arc<Route>,
    role: Role,
    /// Requests that this gateway has in workers.
    held: BTreeMap<WorkerId, u32>,
    /// Requests that wait here, by ticket.
    waiters: BTreeMap<u64, Waiter>,
    last_ticket: u64,
    /// Workers that are being asked whether they are ready.
    probing: BTreeSet<WorkerId>,
    /// Has the owner itself said that it is the owner?
    confirmed: bool,
}

enum Role {
    /// This gateway hands out the slots, since then (milliseconds on its clock).
    Owner {
        slots: Slots,
        since_ms: u64,
        /// Gateways that have said what they hold, on the line that they have now.
        introduced: BTreeSet<Holder>,
    },
    /// Another one does, or nobody.
    Remote,
}

struct Waiter {
    since_ms: u64,
    to: oneshot::Sender<Result<Slot, Reason>>,
    /// The number of the line on which the owner was asked; 0 = it was not.
    asked: u64,
}

/// A request that waits for its slot.
pub struct Waiting {
    endpoint: Arc<Endpoint>,
    ticket: u64,
    from: oneshot::Receiver<Result<Slot, Reason>>,
}

/// What becomes of a request at once.
pub enum Admission {
    /// It has its slot.
    Slot(Slot),
    /// It waits.
    Waiting(Waiting),
    /// It may not even wait.
    Refused(Reason),
}

/// What is done when the lock is free again: slots and refusals reach those who wait.
type Outbox = Vec<(oneshot::Sender<Result<Slot, Reason>>, Result<Slot, Reason>)>;

impl State {
    /// What was asked of an owner before is void.
    fn forget_asked(&mut self) {
        for waiter in self.waiters.values_mut() {
            waiter.asked = 0;
        }
    }
}

impl Waiting {
    /// The slot, or why there is none.
    ///
    /// # Errors
    /// The endpoint was stopped meanwhile, say.
    pub async fn slot(&mut self) -> Result<Slot, Reason> {
        // A waiter is answered before it is forgotten.
        (&mut self.from).await.unwrap_or(Err(Reason::Unavailable))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.endpoint.cancel(self.ticket);
    }
}

impl Endpoint {
    /// An endpoint that nobody owns yet: `apply` the same route next.
    pub fn new(shared: Arc<Shared>, route: &Route) -> Arc<Endpoint> {
        let nobody = Route { owner: String::new(), epoch: 0, ..route.clone() };
        let state = State {
            route: Arc::new(nobody),
            role: Role::Remote,
            held: BTreeMap::new(),
            waiters: BTreeMap::new(),
            last_ticket: 0,
            probing: BTreeSet::new(),
            confirmed: false,
        };
        Arc::new(Endpoint {
            key: route.endpoint.clone(),
            shared,
            state: Mutex::new(state),
            dirty: AtomicBool::new(false),
            suspected: Notify::new(),
        })
    }

    /// Its name.
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Its route.
    pub fn route(&self) -> Arc<Route> {
        self.state().route.clone()
    }

    // Requests of this gateway.

    /// A request wants a slot.
    pub fn acquire(self: &Arc<Self>, now_ms: u64) -> Admission {
        let mut state = self.state();
        if let Some(reason) = Reason::of_route(&state.route) {
            return Admission::Refused(reason);
        }
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        let State { route, role, held, .. } = &mut *state;
        if let Role::Owner { slots, .. } = role {
            let holder = self.shared.me.clone();
            let request = slots::Request { holder: holder.clone(), ticket, since_ms: now_ms, again: false };
            match slots.arrive(request) {
                Arrival::Granted(worker) => {
                    let Some(address) = address_of(route, &worker) else {
                        slots.release(&holder, &worker);
                        return Admission::Refused(Reason::Unavailable);
                    };
                    let slot = self.slot(held, worker, address);
                    drop(state);
                    self.mark();
                    return Admission::Slot(slot);
                }
                Arrival::Full => return Admission::Refused(full(route.limit)),
                Arrival::Waits => (),
            }
        }
        let (to, from) = oneshot::channel();
        state.waiters.insert(ticket, Waiter { since_ms: now_ms, to, asked: 0 });
        self.ask(&mut state, now_ms, false);
        drop(state);
        self.mark();
        Admission::Waiting(Waiting { endpoint: self.clone(), ticket, from })
    }

    fn cancel(self: &Arc<Self>, ticket: u64) {
        let mut state = self.state();
        if state.waiters.remove(&ticket).is_none() {
            return;
        }
        match &mut state.role {
            Role::Owner { slots, .. } => drop(slots.leave(&self.shared.me, ticket)),
            // Also when it seems that the owner was not asked: it may have been, and an older refusal came in between.
            Role::Remote => {
                let cancel = ToOwner::Cancel { endpoint: self.key.clone(), ticket };
                self.shared.lines.ask(&state.route.owner, cancel);
            }
        }
        drop(state);
        self.mark();
    }

    /// A request of this gateway has left its worker.
    fn give_back(self: &Arc<Self>, worker: &WorkerId, unreachable: bool) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        if let Some(held) = state.held.get_mut(worker) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(worker);
            }
        }
        match &mut state.role {
            Role::Owner { slots, .. } => {
                if unreachable {
                    slots.open(worker, false);
                }
                let grants = slots.release(&self.shared.me, worker);
                self.deliver(&mut state, grants, &mut outbox);
            }
            Role::Remote => {
                let release =
                    ToOwner::Release { endpoint: self.key.clone(), worker: worker.to_string(), unreachable };
                self.shared.lines.ask(&state.route.owner, release);
            }
        }
        drop(state);
        if unreachable {
            self.suspected.notify_waiters();
        }
        self.send(outbox);
    }

    /// Waits until a worker could not be reached.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    // News of the route.

    /// The route as somebody has it who may know better: the leader. `replicas` are the other gateways.
    pub fn apply(self: &Arc<Self>, route: &Route, replicas: &BTreeSet<Holder>, now_ms: u64) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        let before = state.route.clone();
        let mut new = route.clone();
        if new.epoch < before.epoch {
            // A higher epoch was heard of from its owner.
            new.owner.clone_from(&before.owner);
            new.epoch = before.epoch;
        }
        let moved = (new.epoch, &new.owner) != (before.epoch, &before.owner);
        state.route = Arc::new(new);
        if moved {
            self.take_role(&mut state, replicas, now_ms);
        }
        self.refresh(&mut state, &mut outbox);
        self.ask(&mut state, now_ms, true);
        if let Some(reason) = Reason::of_route(&state.route) {
            self.turn_away(&mut state, reason, &mut outbox);
        }
        drop(state);
        self.send(outbox);
    }

    /// The endpoint is gone: nobody waits for it any more. What is in workers comes to its end.
    pub fn remove(&self) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        let gone = Route { serving: Serving::Unavailable, workers: Vec::new(), ..(*state.route).clone() };
        state.route = Arc::new(gone);
        self.turn_away(&mut state, Reason::Unknown, &mut outbox);
        drop(state);
        self.send(outbox);
    }

    /// Workers that must be asked whether they are ready, from now on and until `probed` says that nobody wants to know.
    pub fn to_probe(&self) -> Vec<(WorkerId, SocketAddr)> {
        let mut state = self.state();
        if matches!(state.role, Role::Remote) {
            return Vec::new();
        }
        let State { route, probing, .. } = &mut *state;
        let workers = route.workers.iter().filter(|it| !it.closing);
        workers
            .map(|it| (WorkerId::from(it.id.as_str()), it.address))
            .filter(|(id, _)| probing.insert(id.clone()))
            .collect()
    }

    /// Another gateway says that it owns the endpoint.
    pub fn owned_by(self: &Arc<Self>, owner: &str, epoch: u64, now_ms: u64) {
        let mut state = self.state();
        if (epoch, owner) == (state.route.epoch, state.route.owner.as_str()) {
            // It has just become what we knew before: it may have turned us away.
            state.confirmed = true;
            self.introduce(&mut state, now_ms);
        } else if epoch > state.route.epoch {
            let mut route = (*state.route).clone();
            owner.clone_into(&mut route.owner);
            route.epoch = epoch;
            state.route = Arc::new(route);
            state.role = Role::Remote;
            state.confirmed = true;
            state.forget_asked();
            self.introduce(&mut state, now_ms);
        }
    }

    /// The owner is another one, or the same with another epoch. Of a new owner's workers none is open yet.
    fn take_role(&self, state: &mut State, replicas: &BTreeSet<Holder>, now_ms: u64) {
        state.confirmed = false;
        state.forget_asked();
        if *state.route.owner != *self.shared.me {
            state.role = Role::Remote;
            self.introduce(state, now_ms);
            return;
        }
        let mut slots =
            Slots::new(state.route.concurrency, limit(state.route.limit), replicas.iter().cloned().collect());
        slots.holds(&self.shared.me, &state.held);
        let mut waiting: Vec<(u64, u64)> =
            state.waiters.iter().map(|(ticket, it)| (it.since_ms, *ticket)).collect();
        waiting.sort_unstable();
        for (since_ms, ticket) in waiting {
            let holder = self.shared.me.clone();
            // Nothing is open yet, so all of them wait.
            slots.arrive(slots::Request { holder, ticket, since_ms, again: true });
        }
        state.role = Role::Owner { slots, since_ms: now_ms, introduced: BTreeSet::new() };
        // Which workers are open is not known any more: who asks them shall ask now.
        self.suspected.notify_waiters();
        let owns = ToOwner::Owns { endpoint: self.key.clone(), epoch: state.route.epoch };
        self.shared.lines.tell_all(&owns);
    }

    /// The owner's view of the workers follows the route.
    fn refresh(self: &Arc<Self>, state: &mut State, outbox: &mut Outbox) {
        let Role::Owner { slots, .. } = &mut state.role else { return };
        let open: BTreeSet<WorkerId> =
            slots.workers().filter(|(_, open, _)| *open).map(|it| it.0.clone()).collect();
        let workers: Vec<(WorkerId, bool)> = state
            .route
            .workers
            .iter()
            .map(|it| {
                let id = WorkerId::from(it.id.as_str());
                let open = open.contains(&id) && !it.closing;
                (id, open)
            })
            .collect();
        let grants = slots.update(state.route.concurrency, limit(state.route.limit), &workers);
        self.deliver(state, grants, outbox);
    }

    /// A probe of a worker has answered, or fails. Is there anybody left who wants to know?
    pub fn probed(self: &Arc<Self>, worker: &str, ready: bool) -> bool {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        let State { route, role, probing, .. } = &mut *state;
        let wanted = route.workers.iter().any(|it| it.id == worker && !it.closing);
        let Role::Owner { slots, .. } = role else {
            probing.remove(worker);
            return false;
        };
        if !wanted {
            probing.remove(worker);
            return false;
        }
        let grants = slots.open(worker, ready);
        self.deliver(&mut state, grants, &mut outbox);
        drop(state);
        self.send(outbox);
        true
    }

    /// Is this worker open, if this gateway owns the endpoint?
    pub fn is_open(&self, worker: &str) -> bool {
        match &self.state().role {
            Role::Owner { slots, .. } => slots.workers().any(|(id, open, _)| **id == *worker && open),
            Role::Remote => false,
        }
    }

    /// Is there anybody who hands out slots, and can be asked?
    pub fn has_owner(&self) -> bool {
        let state = self.state();
        match state.role {
            Role::Owner { .. } => true,
            Role::Remote => self.shared.lines.out(&state.route.owner).is_some(),
        }
    }

    /// Does this gateway own the endpoint?
    pub fn is_mine(&self) -> bool {
        matches!(self.state().role, Role::Owner { .. })
    }

    // Talking to the owner.

    /// A line to this replica is up.
    pub fn line_up(self: &Arc<Self>, replica: &str, now_ms: u64) {
        let mut state = self.state();
        match &state.role {
            Role::Owner { .. } => {
                let owns = ToOwner::Owns { endpoint: self.key.clone(), epoch: state.route.epoch };
                self.shared.lines.ask(replica, owns);
            }
            Role::Remote if state.route.owner == replica => {
                // It may have been started anew and know less than it did.
                state.confirmed = false;
                self.introduce(&mut state, now_ms);
            }
            Role::Remote => (),
        }
    }

    /// Tells the owner what this gateway holds, and asks for all that wait.
    fn introduce(&self, state: &mut State, now_ms: u64) {
        let holds = state.held.iter().map(|(id, held)| (id.to_string(), *held)).collect();
        let message = ToOwner::Holds { endpoint: self.key.clone(), epoch: state.route.epoch, holds };
        self.shared.lines.ask(&state.route.owner, message);
        self.ask(state, now_ms, true);
    }

    /// Asks the owner for those that it was not asked for.
    fn ask(&self, state: &mut State, now_ms: u64, again: bool) {
        let (Role::Remote, Some(line)) = (&state.role, self.shared.lines.out(&state.route.owner)) else {
            return;
        };
        for (ticket, waiter) in state.waiters.iter_mut().filter(|(_, it)| it.asked != line) {
            waiter.asked = line;
            let message = ToOwner::Acquire {
                endpoint: self.key.clone(),
                epoch: state.route.epoch,
                ticket: *ticket,
                waited_ms: now_ms.saturating_sub(waiter.since_ms),
                again,
            };
            self.shared.lines.ask(&state.route.owner, message);
        }
    }

    /// What an owner answers.
    pub fn answered(self: &Arc<Self>, owner: &str, answer: &FromOwner, now_ms: u64) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        let is_owner = matches!(state.role, Role::Remote) && state.route.owner == owner;
        let own_epoch = state.route.epoch;
        let current = |epoch: &u64| is_owner && *epoch == own_epoch;
        match answer {
            FromOwner::Granted { epoch, ticket, worker, address, .. } => {
                let waiter = if current(epoch) { state.waiters.remove(ticket) } else { None };
                match waiter {
                    Some(waiter) => {
                        let slot = self.slot(&mut state.held, WorkerId::from(worker.as_str()), *address);
                        outbox.push((waiter.to, Ok(slot)));
                    }
                    // It waits no more: nobody used it. A grant of a former epoch is void: who owns the endpoint now has never
                    // counted it, and would take another one's slot for it.
                    None if current(epoch) => self.return_grant(owner, worker),
                    None => (),
                }
            }
            FromOwner::Refused { epoch, ticket, why: NotGranted::Full, .. } if current(epoch) => {
                if let Some(waiter) = state.waiters.remove(ticket) {
                    outbox.push((waiter.to, Err(full(state.route.limit))));
                }
            }
            FromOwner::Refused { epoch, ticket, why: NotGranted::NotServing(serving), .. }
                if current(epoch) =>
            {
                if let Some(waiter) = state.waiters.remove(ticket) {
                    let reason = Reason::of_serving(*serving, false).unwrap_or(Reason::Unavailable);
                    outbox.push((waiter.to, Err(reason)));
                }
            }
            FromOwner::Refused { epoch, ticket, why: NotGranted::NotOwner { known }, .. }
                if current(epoch) =>
            {
                if let Some(waiter) = state.waiters.get_mut(ticket) {
                    waiter.asked = 0;
                }
                // It was not yet what it has said since; else it says so when it is.
                if state.confirmed && *known <= state.route.epoch {
                    self.ask(&mut state, now_ms, true);
                }
            }
            FromOwner::Refused { .. } | FromOwner::Pong => (),
        }
        drop(state);
        self.send(outbox);
    }

    fn return_grant(&self, owner: &str, worker: &str) {
        let release =
            ToOwner::Release { endpoint: self.key.clone(), worker: worker.to_owned(), unreachable: false };
        self.shared.lines.ask(owner, release);
    }

    // Being the owner.

    /// What another gateway asks of the owner.
    pub fn asked(self: &Arc<Self>, holder: &Holder, message: &ToOwner, now_ms: u64) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        let (own_epoch, serving, refuses) =
            (state.route.epoch, state.route.serving, Reason::of_route(&state.route).is_some());
        let not_owner = NotGranted::NotOwner { known: own_epoch };
        let Role::Owner { slots, introduced, .. } = &mut state.role else {
            if let ToOwner::Acquire { epoch, ticket, .. } = message {
                self.refuse(holder, *epoch, *ticket, not_owner);
            }
            return;
        };
        let grants = match message {
            ToOwner::Holds { epoch, holds, .. }
                if *epoch == own_epoch && introduced.insert(holder.clone()) =>
            {
                let holds = holds.iter().map(|(id, held)| (WorkerId::from(id.as_str()), *held)).collect();
                slots.holds(holder, &holds)
            }
            ToOwner::Acquire { epoch, ticket, .. } if *epoch != own_epoch || !introduced.contains(holder) => {
                self.refuse(holder, *epoch, *ticket, not_owner);
                Vec::new()
            }
            ToOwner::Acquire { ticket, .. } if refuses => {
                self.refuse(holder, own_epoch, *ticket, NotGranted::NotServing(serving));
                Vec::new()
            }
            ToOwner::Acquire { ticket, waited_ms, again, .. } => {
                let request = slots::Request {
                    holder: holder.clone(),
                    ticket: *ticket,
                    since_ms: now_ms.saturating_sub(*waited_ms),
                    again: *again,
                };
                match slots.arrive(request) {
                    Arrival::Granted(worker) => {
                        vec![Grant { holder: holder.clone(), ticket: *ticket, worker }]
                    }
                    Arrival::Waits => Vec::new(),
                    Arrival::Full => {
                        self.refuse(holder, own_epoch, *ticket, NotGranted::Full);
                        Vec::new()
                    }
                }
            }
            ToOwner::Cancel { ticket, .. } => {
                slots.leave(holder, *ticket);
                Vec::new()
            }
            ToOwner::Release { worker, unreachable, .. } => {
                if *unreachable {
                    slots.open(worker, false);
                    self.suspected.notify_waiters();
                }
                slots.release(holder, worker)
            }
            ToOwner::Holds { .. } | ToOwner::Owns { .. } | ToOwner::Ping => Vec::new(),
        };
        self.deliver(&mut state, grants, &mut outbox);
        drop(state);
        self.send(outbox);
    }

    /// The line over which this gateway asked is down, or a new one has taken its place.
    pub fn lost(&self, holder: &Holder) {
        if let Role::Owner { slots, introduced, .. } = &mut self.state().role {
            introduced.remove(holder);
            slots.lost(holder);
        }
        self.mark();
    }

    /// This gateway is gone, and its connections with it.
    pub fn gone(self: &Arc<Self>, holder: &Holder) {
        let mut outbox = Outbox::new();
        let mut state = self.state();
        if let Role::Owner { slots, .. } = &mut state.role {
            let grants = slots.gone(holder);
            self.deliver(&mut state, grants, &mut outbox);
        }
        drop(state);
        self.send(outbox);
    }

    /// Gateways that this owner has waited for since before `since_ms`, and that have no line to it.
    pub fn overdue(&self, until_ms: u64) -> Vec<Holder> {
        match &self.state().role {
            Role::Owner { slots, since_ms, .. } if *since_ms <= until_ms => {
                slots.expected().filter(|it| !self.shared.lines.has_back(it)).cloned().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the endpoint has to do, if this gateway owns it.
    pub fn demand(&self) -> Option<Demand> {
        self.dirty.store(false, Ordering::Release);
        let state = self.state();
        let Role::Owner { slots, .. } = &state.role else { return None };
        let open = |id: &str| state.route.workers.iter().any(|it| it.id == id && !it.closing);
        let workers = slots.workers().map(|(id, ready, busy)| WorkerDemand {
            id: id.to_string(),
            busy,
            ready,
            closing: !open(id),
        });
        Some(Demand {
            endpoint: self.key.clone(),
            epoch: state.route.epoch,
            in_flight: slots.in_flight(),
            queued: slots.queued(),
            served: slots.served(),
            workers: workers.collect(),
        })
    }

    /// Requests of this gateway: in workers, and waiting.
    pub fn local(&self) -> (u32, usize) {
        let state = self.state();
        (state.held.values().sum(), state.waiters.len())
    }

    fn refuse(&self, holder: &str, epoch: u64, ticket: u64, why: NotGranted) {
        let message = FromOwner::Refused { endpoint: self.key.clone(), epoch, ticket, why };
        self.shared.lines.answer(holder, message);
    }

    /// Brings grants to those they are for.
    fn deliver(self: &Arc<Self>, state: &mut State, grants: Vec<Grant>, outbox: &mut Outbox) {
        let mut grants = VecDeque::from(grants);
        while let Some(grant) = grants.pop_front() {
            let State { route, role, held, waiters, .. } = &mut *state;
            let address = address_of(route, &grant.worker);
            if grant.holder != self.shared.me {
                // Only workers of the route are open, so it has an address.
                let Some(address) = address else { continue };
                let message = FromOwner::Granted {
                    endpoint: self.key.clone(),
                    epoch: route.epoch,
                    ticket: grant.ticket,
                    worker: grant.worker.to_string(),
                    address,
                };
                self.shared.lines.answer(&grant.holder, message);
            } else if let (Some(address), Some(waiter)) = (address, waiters.remove(&grant.ticket)) {
                outbox.push((waiter.to, Ok(self.slot(held, grant.worker, address))));
            } else if let Role::Owner { slots, .. } = role {
                grants.extend(slots.release(&grant.holder, &grant.worker));
            }
        }
    }

    /// A place in a worker, noted as held.
    fn slot(
        self: &Arc<Self>,
        held: &mut BTreeMap<WorkerId, u32>,
        worker: WorkerId,
        address: SocketAddr,
    ) -> Slot {
        *held.entry(worker.clone()).or_default() += 1;
        let (endpoint, id) = (self.clone(), worker.clone());
        Slot::new(Arc::new(WorkerAt { id: worker, address }), move |unreachable| {
            endpoint.give_back(&id, unreachable);
        })
    }

    fn turn_away(&self, state: &mut State, reason: Reason, outbox: &mut Outbox) {
        if let Role::Owner { slots, .. } = &mut state.role {
            for request in slots.turn_away() {
                if request.holder != self.shared.me {
                    let why = NotGranted::NotServing(state.route.serving);
                    self.refuse(&request.holder, state.route.epoch, request.ticket, why);
                }
            }
        }
        for waiter in std::mem::take(&mut state.waiters).into_values() {
            outbox.push((waiter.to, Err(reason)));
        }
    }

    /// Those who wait hear of it. Who does not wait any more drops the slot, and that takes the lock: it must be free.
    fn send(&self, outbox: Outbox) {
        for (to, answer) in outbox {
            drop(to.send(answer));
        }
        self.mark();
    }

    /// Its demand has changed.
    fn mark(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            let mut dirty = self.shared.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            dirty.push(self.key.clone());
            self.shared.demand_changed.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address_of(route: &Route, worker: &str) -> Option<SocketAddr> {
    route.workers.iter().find(|it| it.id == worker).map(|it| it.address)
}

fn full(limit: Limit) -> Reason {
    match limit {
        Limit::Queue { .. } => Reason::QueueFull,
        Limit::AtOnce { .. } => Reason::AtCapacity,
    }
}

fn limit(limit: Limit) -> slots::Limit {
    match limit {
        Limit::Queue { depth } => slots::Limit::Queue(depth),
        Limit::AtOnce { requests } => slots::Limit::AtOnce(requests),
    }
}
