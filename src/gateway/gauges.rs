//! What there is now, counted when somebody asks for metrics.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use super::metrics::MOST_ENDPOINTS;
use super::table::Endpoints;

/// Requests that are there, by endpoint. Beyond the bound of the counters, endpoints are left out.
pub struct Gauges {
    endpoints: Arc<Endpoints>,
    in_flight: IntGaugeVec,
    queued: IntGaugeVec,
}

impl Gauges {
    /// Of these endpoints.
    ///
    /// # Errors
    /// Never: the names are valid.
    pub fn new(endpoints: Arc<Endpoints>) -> prometheus::Result<Gauges> {
        let gauge =
            |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["namespace", "endpoint"]);
        Ok(Gauges {
            endpoints,
            in_flight: gauge(
                "tenure_gateway_requests_in_flight",
                "Requests of this gateway that are in workers.",
            )?,
            queued: gauge(
                "tenure_gateway_requests_queued",
                "Requests of this gateway that wait for a slot.",
            )?,
        })
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        [self.in_flight.desc(), self.queued.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.in_flight.reset();
        self.queued.reset();
        for endpoint in self.endpoints.all().iter().take(MOST_ENDPOINTS) {
            let labels = [endpoint.key().namespace.as_str(), endpoint.key().name.as_str()];
            let (in_flight, queued) = endpoint.local();
            self.in_flight.with_label_values(&labels).set(i64::from(in_flight));
            self.queued.with_label_values(&labels).set(i64::try_from(queued).unwrap_or(i64::MAX));
        }
        [self.in_flight.collect(), self.queued.collect()].concat()
    }
}
