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
}

impl Phase {
    const ALL: [Phase; 4] = [Phase::NoCard, Phase::Scheduling, Phase::Pulling, Phase::Loading];

    fn label(self) -> &'static str {
        match self {
            Phase::NoCard => "no-card",
            Phase::Scheduling => "scheduling",
            Phase::Pulling => "pulling",
            Phase::Loading => "loading",
        }
    }

    /// Where a pod is; `None` when it is ready.
    fn of(pod: &SlimPod) -> Option<Phase> {
        let runs = pod.status.container_statuses.iter().any(|it| it.state.running.is_some());
        match () {
            () if pod.is_ready() => None,
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
    /// Has it series of its own?
    has_series: bool,
}

impl Starts {
    /// Registers its metric.
    pub(in crate::controllers) fn new(registry: &Registry) -> prometheus::Result<Starts> {
        let options = HistogramOpts::new(
            "tenure_worker_start_seconds",
            "Time that starting workers spent in a phase: no-card, scheduling, pulling, loading",
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

    /// The endpoint's pods as they are now.
    pub(super) fn see(&self, contract: &ContractRef, pods: &[Arc<SlimPod>]) {
        let mut endpoints = self.endpoints();
        let Some(endpoint) = endpoints.get_mut(contract).filter(|it| !it.starting.is_empty()) else { return };
        let mut passed = Vec::new();
        for pod in pods {
            let name = pod.name_any();
            let Some((phase, since)) = endpoint.starting.get(&name).copied() else { continue };
            let now = Phase::of(pod);
            let over = pod.is_over() || pod.metadata.deletion_timestamp.is_some();
            if now != Some(phase) && !over {
                passed.push((phase, since));
            }
            match now.filter(|_| !over) {
                Some(next) if next != phase => _ = endpoint.starting.insert(name, (next, Instant::now())),
                Some(_) => (),
                None => _ = endpoint.starting.remove(&name),
            }
        }
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
            "metadata": {"name": "llm-1"}, "spec": {"nodeName": node},
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
        starts.see(&llm, &pod(Some("n"), "waiting", false));
        wait(8).await;
        starts.see(&llm, &pod(Some("n"), "running", false));
        wait(16).await;
        for _ in 0..2 {
            starts.see(&llm, &pod(Some("n"), "running", true));
        }
        assert_eq!(found(&registry), ["loading 16", "no-card 3", "pulling 8", "scheduling 4"]);
        starts.forget(&llm);
        assert_eq!(found(&registry), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_seen_from_its_beginning_is_not_counted() {
        let registry = Registry::new();
        let starts = Starts::new(&registry).unwrap();
        let llm = ContractRef { kind: Kind::Endpoint, namespace: "a".to_owned(), name: "llm".to_owned() };
        starts.lacks_card(&llm, true);
        starts.lacks_card(&llm, false);
        starts.see(&llm, &pod(Some("n"), "running", true));
        assert_eq!(found(&registry), Vec::<String>::new());
    }
}
