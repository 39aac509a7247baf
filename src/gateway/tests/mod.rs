//! Requests through real sockets.

use crate::link::message::{EndpointKey, Limit, Probe, Route, Serving};

/// An open endpoint `rp/chat`.
pub fn route() -> Route {
    Route {
        endpoint: EndpointKey { namespace: "rp".to_owned(), name: "chat".to_owned() },
        owner: "me".to_owned(),
        epoch: 1,
        serving: Serving::Yes,
        concurrency: 1,
        limit: Limit::Queue { depth: 10 },
        queue_timeout_ms: 60_000,
        first_byte_timeout_ms: 0,
        idle_timeout_ms: 0,
        total_timeout_ms: 0,
        drain_ms: 60_000,
        keys: None,
        probe: Probe::Connect,
        workers: Vec::new(),
    }
}

mod access;
mod floods;
mod hostile;
mod requests;
mod slots;
mod world;
