//! What endpoints have to do, as their owners say, and how many workers they want therefore.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::time::{Duration, Instant};

use crate::domain::autoscale::{Decision, FRESH_MS, Load, Reason, Rules, Window};
use crate::link::message::{Demand, EndpointKey, WorkerDemand};

/// Changes that are remembered of each endpoint: as many as its status shows.
const CHANGES: usize = 10;

/// Demand by endpoint.
pub struct Scale {
    now: fn() -> Timestamp,
    began: Instant,
    endpoints: Mutex<HashMap<EndpointKey, Known>>,
}

/// A change of what an endpoint wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// Workers before.
    pub from: u32,
    /// Workers from then on.
    pub wanted: u32,
    /// Why.
    pub reason: Reason,
    /// Requests in workers.
    pub in_flight: u32,
    /// Requests that waited.
    pub queued: u32,
    /// Workers that took requests.
    pub ready: u32,
}

/// Who must look at an endpoint because of what was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nobody.
    Nobody,
    /// Its own pass: fewer workers are wanted, or one that was closed is empty.
    Contract,
    /// The allocator, and then its own pass: more workers are wanted.
    Cards,
}

#[derive(Default)]
struct Known {
    heard: Option<(Instant, Demand)>,
    window: Window,
    rules: Option<Rules>,
    /// The newest first.
    changes: VecDeque<Change>,
    untold: VecDeque<Change>,
}

impl Known {
    fn fresh(&self) -> Option<&Demand> {
        let (at, demand) = self.heard.as_ref()?;
        (at.elapsed() <= Duration::from_millis(FRESH_MS)).then_some(demand)
    }

    fn decide(&mut self, now_ms: u64, now: fn() -> Timestamp, rules: Rules, have: u32) -> Decision {
        let from = self.window.wanted().unwrap_or(have);
        let decision = self.window.decide(now_ms, &rules, have);
        self.rules = Some(rules);
        if decision.wanted != from {
            let load = self.window.load(now_ms).unwrap_or_default();
            let takes = |it: &&WorkerDemand| it.ready && !it.closing;
            let ready = self.fresh().map_or(0, |it| it.workers.iter().filter(takes).count());
            let change = Change {
                time: now(),
                from,
                wanted: decision.wanted,
                reason: decision.reason,
                in_flight: load.in_flight,
                queued: load.queued,
                ready: u32::try_from(ready).unwrap_or(u32::MAX),
            };
            for list in [&mut self.changes, &mut self.untold] {
                list.push_front(change.clone());
                list.truncate(CHANGES);
            }
        }
        decision
    }
}

impl Scale {
    /// Nothing heard yet.
    pub fn new(now: fn() -> Timestamp) -> Scale {
        Scale { now, began: Instant::now(), endpoints: Mutex::default() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn with<T>(&self, endpoint: &EndpointKey, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        act(endpoints.entry(endpoint.clone()).or_default())
    }

    /// What an endpoint's owner says.
    pub fn hear(&self, demand: Demand) -> Look {
        let now_ms = self.now_ms();
        let endpoint = demand.endpoint.clone();
        self.with(&endpoint, |known| {
            let empty = |it: &&WorkerDemand| it.closing && it.busy == 0;
            let was = known.heard.as_ref().map(|(_, it)| it.workers.as_slice()).unwrap_or_default();
            let is_news = |it: &WorkerDemand| !was.iter().filter(empty).any(|before| before.id == it.id);
            let emptied = demand.workers.iter().filter(empty).any(is_news);
            let load = Load { in_flight: demand.in_flight, queued: demand.queued, served: demand.served };
            known.heard = Some((Instant::now(), demand));
            known.window.hear(now_ms, load, known.rules.map_or(60_000, |it| it.delay_ms));
            let (before, rules) = match (known.window.wanted(), known.rules) {
                (Some(before), Some(rules)) => (before, rules),
                // Nobody has asked yet: a bound endpoint, or one that nobody has looked at.
                _ if emptied => return Look::Contract,
                _ => return Look::Nobody,
            };
            let wanted = known.decide(now_ms, self.now, rules, before).wanted;
            match () {
                () if wanted > before => Look::Cards,
                () if wanted < before || emptied => Look::Contract,
                () => Look::Nobody,
            }
        })
    }

    /// How many workers an elastic endpoint wants. `have`: those that it has and that are not closed.
    pub fn decide(&self, endpoint: &EndpointKey, rules: Rules, have: u32) -> Decision {
        let now_ms = self.now_ms();
        self.with(endpoint, |known| known.decide(now_ms, self.now, rules, have))
    }

    /// The endpoint is stopped, by its state.
    pub fn stopped(&self, endpoint: &EndpointKey) {
        self.with(endpoint, |known| {
            known.window.reset();
            known.rules = None;
        });
    }

    /// What its owner said lately of a worker.
    pub fn worker(&self, endpoint: &EndpointKey, id: &str) -> Option<WorkerDemand> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.get(endpoint)?.fresh()?.workers.iter().find(|it| it.id == id).cloned()
    }

    /// The last changes, the newest first.
    pub fn changes(&self, endpoint: &EndpointKey) -> Vec<Change> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.get(endpoint).map(|it| it.changes.iter().cloned().collect()).unwrap_or_default()
    }

    /// Changes that nobody has been told of yet, the oldest first; from now on they count as told.
    pub fn untold(&self, endpoint: &EndpointKey) -> Vec<Change> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.get_mut(endpoint).map(|it| it.untold.drain(..).rev().collect()).unwrap_or_default()
    }

    /// The endpoint is gone.
    pub fn forget(&self, endpoint: &EndpointKey) {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).remove(endpoint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EndpointKey {
        EndpointKey { namespace: "a".to_owned(), name: "llm".to_owned() }
    }

    fn demand(in_flight: u32, queued: u32, workers: &[(&str, u32, bool)]) -> Demand {
        let workers = workers.iter().map(|(id, busy, closing)| WorkerDemand {
            id: (*id).to_owned(),
            busy: *busy,
            ready: true,
            closing: *closing,
        });
        Demand { endpoint: key(), epoch: 1, in_flight, queued, served: 0, workers: workers.collect() }
    }

    fn rules() -> Rules {
        Rules { active: 0, max: 4, spare: 0, concurrency: 1, idle_ms: 1_000, delay_ms: 1_000 }
    }

    fn scale() -> Scale {
        Scale::new(|| Timestamp::UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_is_for_the_allocator_and_less_demand_for_the_endpoint() {
        let scale = scale();
        assert_eq!(scale.decide(&key(), rules(), 0).wanted, 0);
        assert_eq!(scale.hear(demand(0, 1, &[])), Look::Cards);
        assert_eq!(scale.hear(demand(0, 1, &[])), Look::Nobody, "once");
        assert_eq!(scale.hear(demand(1, 1, &[])), Look::Cards);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(scale.hear(demand(0, 0, &[])), Look::Nobody);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(scale.hear(demand(0, 0, &[])), Look::Contract);
        let wanted: Vec<(u32, u32)> = scale.changes(&key()).iter().map(|it| (it.from, it.wanted)).collect();
        assert_eq!(wanted, [(2, 0), (1, 2), (0, 1)]);
        assert_eq!(scale.untold(&key()).len(), 3);
        assert_eq!(scale.untold(&key()).len(), 0, "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_worker_that_is_empty_is_news_once() {
        let scale = scale();
        assert_eq!(scale.hear(demand(1, 0, &[("w1", 1, true)])), Look::Nobody);
        assert_eq!(scale.hear(demand(0, 0, &[("w1", 0, true)])), Look::Contract);
        assert_eq!(scale.hear(demand(0, 0, &[("w1", 0, true)])), Look::Nobody);
        assert_eq!(scale.hear(demand(0, 0, &[("w1", 0, true), ("w2", 0, false)])), Look::Nobody);
        assert_eq!(scale.worker(&key(), "w1").map(|it| it.busy), Some(0));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(scale.worker(&key(), "w1"), None, "what is old says nothing about now");
    }
}
