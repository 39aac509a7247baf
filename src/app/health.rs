//! Is the process well: `/healthz`, `/readyz`, and `/metrics` beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};

use crate::controllers::Loop;

/// A loop that has not come round for so long hangs. A pass over many contracts with a slow API server may take minutes.
const STALLED_AFTER: Duration = Duration::from_mins(5);

/// What the probes answer from.
pub struct Health {
    started: Instant,
    ready: AtomicBool,
    leads: AtomicBool,
    /// When each loop last came round, seconds since the start.
    beats: [AtomicU64; Loop::ALL.len()],
}

impl Health {
    /// Not ready, not leading.
    pub fn new() -> Arc<Health> {
        let beats = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Health {
            started: Instant::now(),
            ready: AtomicBool::new(false),
            leads: AtomicBool::new(false),
            beats,
        })
    }

    /// The caches are complete: it can lead.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// The loops run from now on.
    pub fn set_leads(&self) {
        for it in Loop::ALL {
            self.beat(it);
        }
        self.leads.store(true, Ordering::Relaxed);
    }

    /// Do the loops run?
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// A loop has come round.
    pub fn beat(&self, which: Loop) {
        self.beats[which as usize].store(self.started.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn stalled(&self) -> Option<Loop> {
        let now = self.started.elapsed().as_secs();
        let leads = self.leads.load(Ordering::Relaxed);
        let late = |it: &Loop| {
            now.saturating_sub(self.beats[*it as usize].load(Ordering::Relaxed)) > STALLED_AFTER.as_secs()
        };
        Loop::ALL.into_iter().find(|it| leads && late(it))
    }
}

/// The routes.
pub fn routes(health: Arc<Health>, registry: Registry) -> Router {
    let alive = health.clone();
    let healthz = move || async move {
        match alive.stalled() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(which) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the {which:?} loop hangs\n")),
        }
    };
    let readyz = move || async move {
        if health.ready.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the caches are not complete yet\n")
        }
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

/// All metrics, as Prometheus reads them.
pub fn metrics(registry: &Registry) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leader_can_hang() {
        let mut health = Health::new();
        let past = Instant::now().checked_sub(STALLED_AFTER * 2).unwrap();
        Arc::get_mut(&mut health).unwrap().started = past;
        assert_eq!(health.stalled(), None, "a standby has no loops");
        health.set_leads();
        assert_eq!(health.stalled(), None);
        health.beats[Loop::Contracts as usize].store(0, Ordering::Relaxed);
        assert_eq!(health.stalled(), Some(Loop::Contracts));
    }
}
