//! How many seconds workers have spent in which state, for who wants to know what warm capacity costs and whether it is used.
//! Pods say who starts, is ready or closes, gateways which of those that are ready have nothing to do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, Opts, Registry};
use tokio::time::Instant;

use crate::api::names;
use crate::cluster::read::ContractRef;
use crate::cluster::slim::SlimPod;

/// Endpoints with series of their own; the others are counted together.
const MOST_ENDPOINTS: usize = 10_000;

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its pod is there, and is not ready.
    Starting,
    /// It is ready; it has requests, or no gateway says that it has none.
    Ready,
    /// It is ready and has no request.
    Idle,
    /// It takes no new requests, and has not ended.
    Closing,
}

impl State {
    const ALL: [State; 4] = [State::Starting, State::Ready, State::Idle, State::Closing];

    fn label(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Idle => "idle",
            State::Closing => "closing",
        }
    }

    /// `None`: it has ended, and uses nothing.
    fn of(pod: &SlimPod) -> Option<State> {
        let leaves = pod.metadata.deletion_timestamp.is_some();
        match () {
            () if pod.is_over() || (leaves && pod.has_ended()) => None,
            () if leaves || pod.annotations().contains_key(names::CLOSING_SINCE) => Some(State::Closing),
            () if pod.is_ready() => Some(State::Ready),
            () => Some(State::Starting),
        }
    }
}

/// The seconds of all endpoints' workers.
#[derive(Clone)]
pub(in crate::controllers) struct WorkerSeconds(Arc<Inner>);

struct Inner {
    seconds: CounterVec,
    endpoints: Mutex<HashMap<ContractRef, Endpoint>>,
}

struct Endpoint {
    /// By UID. Of these, `idle` has those that are ready and have nothing to do.
    workers: HashMap<String, State>,
    idle: BTreeSet<String>,
    /// What came before is counted.
    counted: Instant,
    has_series: bool,
}

impl WorkerSeconds {
    /// Registers its metric.
    pub(in crate::controllers) fn new(registry: &Registry) -> prometheus::Result<WorkerSeconds> {
        let options = Opts::new(
            "tenure_worker_seconds_total",
            "Seconds that workers spent in a state: starting, ready, idle, closing",
        );
        let seconds = CounterVec::new(options, &["namespace", "endpoint", "state"])?;
        let this = WorkerSeconds(Arc::new(Inner { seconds, endpoints: Mutex::default() }));
        registry.register(Box::new(this.clone()))?;
        Ok(this)
    }

    /// The endpoint's pods as they are now. One that is deleted has pods for a while.
    pub(super) fn see(&self, contract: &ContractRef, pods: &[Arc<SlimPod>]) {
        let mut endpoints = self.0.endpoints();
        let workers: HashMap<String, State> =
            pods.iter().filter_map(|it| Some((it.metadata.uid.clone()?, State::of(it)?))).collect();
        let has_series = endpoints.len() < MOST_ENDPOINTS;
        let endpoint = match endpoints.get_mut(contract) {
            Some(known) => known,
            None if workers.is_empty() => return,
            None => endpoints.entry(contract.clone()).or_insert(Endpoint {
                workers: HashMap::new(),
                idle: BTreeSet::new(),
                counted: Instant::now(),
                has_series,
            }),
        };
        if endpoint.workers != workers {
            self.0.count(contract, endpoint);
            endpoint.idle.retain(|it| workers.contains_key(it));
            endpoint.workers = workers;
        }
    }

    /// What its gateway says of its workers: which of them have how many requests?
    pub(super) fn heard(&self, contract: &ContractRef, requests: impl Fn(&str) -> Option<u32>) {
        let mut endpoints = self.0.endpoints();
        let Some(endpoint) = endpoints.get_mut(contract) else { return };
        let is_idle = |it: &&String| requests(it) == Some(0);
        if endpoint.workers.keys().any(|it| is_idle(&it) != endpoint.idle.contains(it)) {
            self.0.count(contract, endpoint);
            endpoint.idle = endpoint.workers.keys().filter(is_idle).cloned().collect();
        }
    }

    /// The endpoint is gone, and its series with it.
    pub(super) fn forget(&self, contract: &ContractRef) {
        if self.0.endpoints().remove(contract).is_some_and(|it| it.has_series) {
            for state in State::ALL {
                // One that never occurred has no series.
                let _ = self.0.seconds.remove_label_values(&[
                    contract.namespace.as_str(),
                    &contract.name,
                    state.label(),
                ]);
            }
        }
    }
}

impl Inner {
    /// Counts what has passed since it was last counted.
    fn count(&self, contract: &ContractRef, endpoint: &mut Endpoint) {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(endpoint.counted).as_secs_f64();
        endpoint.counted = now;
        let [namespace, name] =
            if endpoint.has_series { [&*contract.namespace, &*contract.name] } else { ["other", "other"] };
        for (uid, state) in &endpoint.workers {
            let state = match state {
                State::Ready if endpoint.idle.contains(uid) => State::Idle,
                State::Starting | State::Ready | State::Idle | State::Closing => *state,
            };
            self.seconds.with_label_values(&[namespace, name, state.label()]).inc_by(seconds);
        }
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<ContractRef, Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for WorkerSeconds {
    fn desc(&self) -> Vec<&Desc> {
        self.0.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (contract, endpoint) in self.0.endpoints().iter_mut() {
            self.0.count(contract, endpoint);
        }
        self.0.seconds.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::read::Kind;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn pods(all: &[(&str, Value)]) -> Vec<Arc<SlimPod>> {
        let pod = |(uid, more): &(&str, Value)| {
            let mut json =
                json!({"metadata": {"name": uid, "uid": uid}, "spec": {"nodeName": "n"}, "status": {}});
            for (part, value) in more.as_object().unwrap() {
                json[part].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            }
            Arc::new(serde_json::from_value(json).unwrap())
        };
        all.iter().map(pod).collect()
    }

    fn found(registry: &Registry) -> Vec<String> {
        let line = |it: &prometheus::proto::Metric| {
            let labels: Vec<_> = it.get_label().iter().map(prometheus::proto::LabelPair::value).collect();
            format!("{} {}", labels.join(" "), it.get_counter().get_value())
        };
        registry.gather().iter().flat_map(|it| it.get_metric().iter().map(line).collect::<Vec<_>>()).collect()
    }

    fn llm() -> ContractRef {
        ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn every_second_of_a_worker_is_counted_once_in_the_state_that_it_is_in() {
        let registry = Registry::new();
        let seconds = WorkerSeconds::new(&registry).unwrap();
        let wait = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let mut closing = ready.clone();
        closing["metadata"] = json!({"annotations": {(names::CLOSING_SINCE): "2026-11-23T00:00:00Z"}});
        let over = json!({"status": {"phase": "Failed"}});

        seconds.see(&llm(), &pods(&[]));
        assert_eq!(found(&registry), Vec::<String>::new());
        seconds.see(&llm(), &pods(&[("u-1", json!({})), ("u-2", json!({}))]));
        wait(1).await;
        seconds.see(&llm(), &pods(&[("u-1", ready.clone()), ("u-2", json!({}))]));
        wait(2).await;
        // Nobody has said yet that it has nothing to do.
        assert_eq!(found(&registry), ["llm a ready 2", "llm a starting 4"]);
        seconds.heard(&llm(), |it| (it == "u-1").then_some(0));
        wait(4).await;
        seconds.heard(&llm(), |it| (it == "u-1").then_some(0));
        wait(8).await;
        seconds.heard(&llm(), |it| (it == "u-1").then_some(3));
        wait(16).await;
        seconds.see(&llm(), &pods(&[("u-1", closing), ("u-2", over)]));
        seconds.heard(&llm(), |_| Some(0));
        wait(32).await;
        seconds.see(&llm(), &pods(&[]));
        wait(64).await;
        assert_eq!(
            found(&registry),
            ["llm a closing 32", "llm a idle 12", "llm a ready 18", "llm a starting 32"]
        );
        seconds.forget(&llm());
        assert_eq!(found(&registry), Vec::<String>::new());
    }
}
