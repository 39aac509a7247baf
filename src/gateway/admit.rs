//! Where a request gets its slot.

use std::net::SocketAddr;
use std::sync::Arc;

/// Where a worker listens.
#[derive(Debug, PartialEq, Eq)]
pub struct WorkerAt {
    /// Its pod's UID.
    pub id: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
}

/// A request's place in a worker. Dropping it gives the place back, so it lives as long as the worker may work on the request.
pub struct Slot {
    /// The worker.
    pub worker: Arc<WorkerAt>,
    give_back: Option<Box<dyn FnOnce(bool) + Send>>,
    suspect: bool,
}

impl Slot {
    /// A place that calls `give_back` once when it ends; with `true` if the worker could not be reached.
    pub fn new(worker: Arc<WorkerAt>, give_back: impl FnOnce(bool) + Send + 'static) -> Slot {
        Slot { worker, give_back: Some(Box::new(give_back)), suspect: false }
    }

    /// The worker did not take the connection: it gets no request until its probe answers again.
    pub fn unreachable(mut self) {
        self.suspect = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back(self.suspect);
        }
    }
}
