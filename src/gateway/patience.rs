//! How the HTTP side gets its slots: from the endpoint, with the route's patience.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::admit::Slot;
use super::endpoint::Admission;
use super::refuse::Reason;
use super::server::Backend;
use super::table::Endpoints;
use crate::link::message::{EndpointKey, Route};

/// A question to another gateway is answered in this time, or it is not answered.
const ROUND_TRIP: Duration = Duration::from_millis(500);

impl Backend for Arc<Endpoints> {
    fn find(&self, endpoint: &EndpointKey) -> Option<Arc<Route>> {
        Endpoints::find(self, endpoint).map(|it| it.route())
    }

    fn knows_routes(&self) -> bool {
        Endpoints::knows_routes(self)
    }

    async fn admit(&self, route: &Arc<Route>) -> Result<Slot, Reason> {
        let endpoint = Endpoints::find(self, &route.endpoint).ok_or(Reason::Unknown)?;
        let mut waiting = match endpoint.acquire(self.now_ms()) {
            Admission::Slot(slot) => return Ok(slot),
            Admission::Refused(reason) => return Err(reason),
            Admission::Waiting(waiting) => waiting,
        };
        // Another gateway must have the time to answer, also where nobody may wait.
        let least = if endpoint.is_mine() { Duration::ZERO } else { ROUND_TRIP };
        let patience = Duration::from_millis(route.queue_timeout_ms).max(least);
        let answer = timeout(patience, waiting.slot()).await;
        let late = || if endpoint.has_owner() { Reason::QueueTimeout } else { Reason::NoOwner };
        answer.unwrap_or_else(|_| Err(late()))
    }
}
