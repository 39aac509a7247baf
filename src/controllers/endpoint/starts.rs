//! How long workers take to start, phase by phase, as this operator sees it: from what the watches show, so no pod's clock is
//! asked. A worker whose start it has not seen from the beginning (it began to lead later) is not counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use prometheus::{HistogramOpts, HistogramVec, Registry};
use tokio::time::Instant;

use crate::cluster::read::ContractRef;
use crate::cluster::slim::SlimPod;

/// Endpoints with series of their own; the others are counted together.
const MOST_ENDPOINTS: usize = 10_000;
const SECONDS: [f64; 11] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// The phases of a start, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A worker is wanted, and there is no card for it.
    NoCard,
    /// Its pod is there, and has no node.
    Scheduling,
    /// It has a node: its sandbox is made, its image pulled, init containers run.
    Pulling,
    /// Its containers run, and it is not ready.
    Loading,
    /// Its pod is ready, and the gateway that hands out its slots has yet to find it so. Most are found before, and have no such
    /// phase.
    Probing,
}

impl Phase {
    const ALL: [Phase; 5] =
        [Phase::NoCard, Phase::Scheduling, Phase::Pulling, Phase::Loading, Phase::Probing];

    fn label(self) -> &'static str {
        match self {
            Phase::NoCard => "no-card",
            Phase::Scheduling => "scheduling",
            Phase::Pulling => "pulling",
            Phase::Loading => "loading",
            Phase::Probing => "probing",
        }
    }

    /// Where a pod is; `None` when it is ready. `opened`: has its gateway found it ready? `None`: no gateway says anything of it.
    fn of(pod: &SlimPod, opened: Option<bool>) -> Option<Phase> {
        let runs = pod.status.container_statuses.iter().any(|it| it.state.running.is_some());
        match () {
            () if pod.is_ready() => (opened == Some(false)).then_some(Phase::Probing),
            () if runs => Some(Phase::Loading),
            () if pod.spec.node_name.is_some() => Some(Phase::Pulling),
            () => Some(Phase::Scheduling),
        }
    }
}

/// Starts that are under way, and how long those before took.
pub(in crate::controllers) struct Starts {
    seconds: HistogramVec,
    endpoints: Mutex<HashMap<ContractRef, Endpoint>>,
}

#[derive(Default)]
struct Endpoint {
    /// Since when a worker is wanted and has no card.
    without_card: Option<Instant>,
    /// By the pod's name: its phase, and since when.
    starting: HashMap<String, (Phase, Instant)>,
    /// Names of those that are probed, by their UIDs.
    probed: HashMap<String, String>,
    /// Has it series of its own?
    has_series: bool,
}

impl Starts {
    /// Registers its metric.
    pub(in crate::controllers) fn new(registry: &Registry) -> prometheus::Result<Starts> {
        let options = HistogramOpts::new(
            "tenure_worker_start_seconds",
            "Time that starting workers spent in a phase: no-card, scheduling, pulling, loading, probing",
        );
        let seconds =
            HistogramVec::new(options.buckets(SECONDS.to_vec()), &["namespace", "endpoint", "phase"])?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Starts { seconds, endpoints: Mutex::default() })
    }

    /// Is a worker wanted for which there is no card?
    pub(super) fn lacks_card(&self, contract: &ContractRef, lacks: bool) {
        let mut endpoints = self.endpoints();
        if lacks {
            endpoints.entry(contract.clone()).or_default().without_card.get_or_insert_with(Instant::now);
        } else if let Some(endpoint) = endpoints.get_mut(contract) {
            // Nobody wants it any more: that is no start.
            endpoint.without_card = None;
        }
    }

    /// A worker's pod was created.
    pub(super) fn created(&self, contract: &ContractRef, pod: &str) {
        let mut endpoints = self.endpoints();
        let since = endpoints.entry(contract.clone()).or_default().without_card.take();
        if let Some(since) = since {
            self.passed(&mut endpoints, contract, Phase::NoCard, since);
        }
        let endpoint = endpoints.entry(contract.clone()).or_default();
        endpoint.starting.insert(pod.to_owned(), (Phase::Scheduling, Instant::now()));
    }

    /// The endpoint's pods as they are now. `opened`: what its gateway says of a pod, by UID.
    pub(super) fn see(
        &self,
        contract: &ContractRef,
        pods: &[Arc<SlimPod>],
        opened: impl Fn(&str) -> Option<bool>,
    ) {
        let mut endpoints = self.endpoints();
        let Some(endpoint) = endpoints.get_mut(contract).filter(|it| !it.starting.is_empty()) else { return };
        let mut passed = Vec::new();
        for pod in pods {
            let name = pod.name_any();
            let Some((phase, since)) = endpoint.starting.get(&name).copied() else { continue };
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let now = Phase::of(pod, opened(&uid));
            let over = pod.is_over() || pod.metadata.deletion_timestamp.is_some();
            if now != Some(phase) && !over {
                passed.push((phase, since));
            }
            match now.filter(|_| !over) {
                Some(next) if next != phase => {
                    if next == Phase::Probing {
                        endpoint.probed.insert(uid, name.clone());
                    }
                    endpoint.starting.insert(name, (next, Instant::now()));
                }
                Some(_) => (),
                None => {
                    endpoint.starting.remove(&name);
                    endpoint.probed.remove(&uid);
                }
            }
        }
        for (phase, since) in passed {
            self.passed(&mut endpoints, contract, phase, since);
        }
    }

    /// The gateway has said something new of its workers.
    pub(super) fn heard(&self, contract: &ContractRef, opened: impl Fn(&str) -> Option<bool>) {
        let mut endpoints = self.endpoints();
        let Some(endpoint) = endpoints.get_mut(contract).filter(|it| !it.probed.is_empty()) else { return };
        let Endpoint { probed, starting, .. } = endpoint;
        let mut passed = Vec::new();
        probed.retain(|uid, name| {
            let is_open = opened(uid) == Some(true);
            if is_open {
                passed.extend(starting.remove(name));
            }
            !is_open
        });
        for (phase, since) in passed {
            self.passed(&mut endpoints, contract, phase, since);
        }
    }

    /// The endpoint is gone, and its series with it.
    pub(super) fn forget(&self, contract: &ContractRef) {
        if self.endpoints().remove(contract).is_some_and(|it| it.has_series) {
            for phase in Phase::ALL {
                // One that never occurred has no series.
                let _ =
                    self.seconds.remove_label_values(&[&contract.namespace, &contract.name, phase.label()]);
            }
        }
    }

    fn passed(
        &self,
        endpoints: &mut HashMap<ContractRef, Endpoint>,
        contract: &ContractRef,
        phase: Phase,
        since: Instant,
    ) {
        let own = endpoints.len() <= MOST_ENDPOINTS;
        let endpoint = endpoints.entry(contract.clone()).or_default();
        endpoint.has_series |= own;
        let [namespace, name] =
            if endpoint.has_series { [&*contract.namespace, &*contract.name] } else { ["other", "other"] };
        let histogram = self.seconds.with_label_values(&[namespace, name, phase.label()]);
        histogram.observe(since.elapsed().as_secs_f64());
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<ContractRef, Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::read::Kind;
    use serde_json::json;
    use std::time::Duration;

    fn pod(node: Option<&str>, state: &str, ready: bool) -> Vec<Arc<SlimPod>> {
        let status = if ready { "True" } else { "False" };
        let json = json!({
            "metadata": {"name": "llm-1", "uid": "u-1"}, "spec": {"nodeName": node},
            "status": {"conditions": [{"type": "Ready", "status": status}], "containerStatuses": [{"state": {state: {}}}]},
        });
        vec![Arc::new(serde_json::from_value(json).unwrap())]
    }

    fn found(registry: &Registry) -> Vec<String> {
        let line = |it: &prometheus::proto::Metric| {
            let phase = it.get_label().iter().find(|it| it.name() == "phase").map(|it| it.value().to_owned());
            format!("{} {}", phase.unwrap_or_default(), it.get_histogram().get_sample_sum())
        };
        registry.gather().iter().flat_map(|it| it.get_metric().iter().map(line).collect::<Vec<_>>()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_is_counted_once_and_all_go_with_the_endpoint() {
        let registry = Registry::new();
        let starts = Starts::new(&registry).unwrap();
        let llm = ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() };
        let wait = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        starts.lacks_card(&llm, true);
        wait(1).await;
        starts.lacks_card(&llm, true);
        wait(2).await;
        starts.created(&llm, "llm-1");
        wait(4).await;
        let opened = |said: Option<bool>| move |_: &str| said;
        starts.see(&llm, &pod(Some("n"), "waiting", false), opened(Some(false)));
        wait(8).await;
        starts.see(&llm, &pod(Some("n"), "running", false), opened(Some(false)));
        wait(16).await;
        for _ in 0..2 {
            starts.see(&llm, &pod(Some("n"), "running", true), opened(Some(false)));
        }
        wait(32).await;
        starts.heard(&llm, opened(Some(false)));
        let before = ["loading 16", "no-card 3", "pulling 8", "scheduling 4"];
        assert_eq!(found(&registry), before);
        for _ in 0..2 {
            starts.heard(&llm, |uid| Some(uid == "u-1"));
            starts.see(&llm, &pod(Some("n"), "running", true), opened(Some(true)));
        }
        assert_eq!(found(&registry), [&before[..2], &["probing 32"], &before[2..]].concat());
        starts.forget(&llm);
        assert_eq!(found(&registry), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_its_gateway_has_found_or_that_has_none_is_not_probed() {
        for said in [Some(true), None] {
            let registry = Registry::new();
            let starts = Starts::new(&registry).unwrap();
            let llm = ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() };
            starts.created(&llm, "llm-1");
            starts.see(&llm, &pod(Some("n"), "running", false), |_| said);
            starts.see(&llm, &pod(Some("n"), "running", true), |_| said);
            starts.heard(&llm, |_| Some(true));
            assert_eq!(found(&registry), ["loading 0", "scheduling 0"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_seen_from_its_beginning_is_not_counted() {
        let registry = Registry::new();
        let starts = Starts::new(&registry).unwrap();
        let llm = ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() };
        starts.lacks_card(&llm, true);
        starts.lacks_card(&llm, false);
        starts.see(&llm, &pod(Some("n"), "running", true), |_| None);
        assert_eq!(found(&registry), Vec::<String>::new());
    }
}
