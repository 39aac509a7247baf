//! What is counted of requests, per endpoint.
//!
//! A label's handle is looked up once per endpoint and reason and kept; a request costs a read lock and a few additions. After
//! 10,000 endpoints the others are counted together.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::gateway::refuse::Reason;
use crate::link::message::EndpointKey;

/// Endpoints with labels of their own.
pub(super) const MOST_ENDPOINTS: usize = 10_000;
const OTHER: &str = "other";
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// The counters of all endpoints.
pub struct Metrics {
    requests: IntCounterVec,
    first_byte: HistogramVec,
    queue: HistogramVec,
    endpoints: RwLock<HashMap<EndpointKey, Arc<OfEndpoint>>>,
    /// Requests for no endpoint.
    none: OfEndpoint,
    others: Arc<OfEndpoint>,
}

/// The counters of one endpoint.
pub struct OfEndpoint {
    namespace: String,
    name: String,
    requests: IntCounterVec,
    answered: [OnceLock<IntCounter>; CLASSES.len()],
    refused: [OnceLock<IntCounter>; Reason::ALL.len()],
    first_byte: Histogram,
    queue: Histogram,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "tenure_gateway_requests_total",
                "Requests by status class of the worker's answer, or by status and reason when the gateway refused.",
            ),
            &["namespace", "endpoint", "code", "reason"],
        )?;
        let first_byte = HistogramVec::new(
            HistogramOpts::new(
                "tenure_gateway_first_byte_seconds",
                "From a request's head to the head of its answer, the wait for a slot included.",
            )
            .buckets(SECONDS.to_vec()),
            &["namespace", "endpoint"],
        )?;
        let queue = HistogramVec::new(
            HistogramOpts::new(
                "tenure_gateway_queue_seconds",
                "From a request's head to its slot in a worker, for requests that got one.",
            )
            .buckets(SECONDS.to_vec()),
            &["namespace", "endpoint"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(first_byte.clone()))?;
        registry.register(Box::new(queue.clone()))?;
        let of =
            |namespace: &str, name: &str| OfEndpoint::new(namespace, name, &requests, &first_byte, &queue);
        let (none, others) = (of("", ""), Arc::new(of(OTHER, OTHER)));
        Ok(Metrics { requests, first_byte, queue, endpoints: RwLock::default(), none, others })
    }

    /// An endpoint's counters.
    pub fn of(&self, endpoint: &EndpointKey) -> Arc<OfEndpoint> {
        let known = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(endpoint) {
            return known.clone();
        }
        drop(known);
        let mut known = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_ENDPOINTS {
            return self.others.clone();
        }
        let new = || {
            let (namespace, name) = (&endpoint.namespace, &endpoint.name);
            Arc::new(OfEndpoint::new(namespace, name, &self.requests, &self.first_byte, &self.queue))
        };
        known.entry(endpoint.clone()).or_insert_with(new).clone()
    }

    /// The counters of what was for no endpoint.
    pub fn of_none(&self) -> &OfEndpoint {
        &self.none
    }

    /// Endpoints that are gone, and their series with them. To be called now and then.
    pub fn forget(&self, is_gone: impl Fn(&EndpointKey) -> bool) {
        let mut known = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|endpoint, counters| {
            let gone = is_gone(endpoint);
            if gone {
                counters.remove(&[&self.first_byte, &self.queue]);
            }
            !gone
        });
    }
}

impl OfEndpoint {
    fn new(
        namespace: &str,
        name: &str,
        requests: &IntCounterVec,
        first_byte: &HistogramVec,
        queue: &HistogramVec,
    ) -> OfEndpoint {
        OfEndpoint {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            requests: requests.clone(),
            answered: [const { OnceLock::new() }; CLASSES.len()],
            refused: [const { OnceLock::new() }; Reason::ALL.len()],
            first_byte: first_byte.with_label_values(&[namespace, name]),
            queue: queue.with_label_values(&[namespace, name]),
        }
    }

    /// The worker answered.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.answered[class].get_or_init(|| self.counter(CLASSES[class], "")).inc();
        self.first_byte.observe(after.as_secs_f64());
    }

    /// A request got its slot.
    pub fn waited(&self, wait: Duration) {
        self.queue.observe(wait.as_secs_f64());
    }

    /// The gateway answered instead.
    pub fn refused(&self, reason: Reason) {
        let row = reason.row();
        self.refused[reason as usize].get_or_init(|| self.counter(row.status.as_str(), row.code)).inc();
    }

    fn counter(&self, code: &str, reason: &str) -> IntCounter {
        self.requests.with_label_values(&[&self.namespace, &self.name, code, reason])
    }

    fn remove(&self, histograms: &[&HistogramVec]) {
        // What was never counted has no series to remove.
        for histogram in histograms {
            let _ = histogram.remove_label_values(&[&self.namespace, &self.name]);
        }
        for (class, _) in CLASSES.iter().zip(&self.answered).filter(|(_, it)| it.get().is_some()) {
            let _ = self.requests.remove_label_values(&[self.namespace.as_str(), &self.name, class, ""]);
        }
        for (reason, _) in Reason::ALL.iter().zip(&self.refused).filter(|(_, it)| it.get().is_some()) {
            let row = reason.row();
            let labels = [&self.namespace, &self.name, row.status.as_str(), row.code];
            let _ = self.requests.remove_label_values(&labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(registry: &Registry) -> Vec<String> {
        let families = registry.gather();
        let family = families.iter().find(|it| it.name() == "tenure_gateway_requests_total");
        let line = |it: &prometheus::proto::Metric| {
            let labels: Vec<_> = it.get_label().iter().map(prometheus::proto::LabelPair::value).collect();
            format!("{} {}", labels.join(" "), it.get_counter().get_value())
        };
        family.map(|it| it.get_metric().iter().map(line).collect()).unwrap_or_default()
    }

    #[test]
    fn what_is_counted_and_forgotten() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let chat = EndpointKey { namespace: "rp".to_owned(), name: "chat".to_owned() };
        metrics.of(&chat).answered(StatusCode::CREATED, Duration::from_millis(3));
        metrics.of(&chat).answered(StatusCode::OK, Duration::from_millis(3));
        metrics.of(&chat).refused(Reason::QueueFull);
        metrics.of_none().refused(Reason::Unknown);
        // Labels come in the order of their names: code, endpoint, namespace, reason.
        assert_eq!(series(&registry), ["2xx chat rp  2", "404   unknown 1", "429 chat rp queue-full 1"]);
        metrics.forget(|it| *it == chat);
        assert_eq!(series(&registry), ["404   unknown 1"]);
    }
}
