//! The one clock, and the time machine of tests: with `--dev-clock` it can be put ahead, never back.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// How far it is ahead, ms. Always zero without `--dev-clock`.
static AHEAD_MS: AtomicI64 = AtomicI64::new(0);

/// Now.
pub fn now() -> Timestamp {
    let ahead = SignedDuration::from_millis(AHEAD_MS.load(Ordering::Relaxed));
    real().saturating_add(ahead).unwrap_or(Timestamp::MAX)
}

/// Now, for who talks to others: nobody moves this one.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn real() -> Timestamp {
    Timestamp::now()
}

/// What our clock showed when the API server's, which nobody moves, showed this.
pub fn of_api_server(time: Timestamp) -> Timestamp {
    let ahead = SignedDuration::from_millis(AHEAD_MS.load(Ordering::Relaxed));
    time.saturating_add(ahead).unwrap_or(Timestamp::MAX)
}

/// Puts the clock ahead to `then`; false when that is past already: what was billed stays billed.
pub(super) fn advance_to(then: Timestamp) -> bool {
    let ahead = then.duration_since(now());
    let forward = ahead.is_positive();
    if forward {
        // Rounded up: what is due then is due.
        let ahead_ms = i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
        AHEAD_MS.fetch_add(ahead_ms, Ordering::Relaxed);
    }
    forward
}
