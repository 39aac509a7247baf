//! The one clock.

use jiff::Timestamp;

/// Now.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
