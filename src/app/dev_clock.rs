//! The time machine's handle: `PUT /dev/clock` with a time, `GET` to read it. Only with `--dev-clock`, and for who has its token.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use jiff::Timestamp;
use subtle::ConstantTimeEq;

use super::clock;

/// A clock that can be moved is said again and again.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// The routes. `moved` is called after each move: what is due by now must be looked at.
pub(super) fn routes(token: String, moved: Arc<dyn Fn() + Send + Sync>) -> Router {
    let token = Arc::new(token);
    let read = {
        let token = token.clone();
        move |headers: HeaderMap| async move {
            if is_allowed(&headers, &token) {
                (StatusCode::OK, format!("{}\n", clock::now()))
            } else {
                refused()
            }
        }
    };
    let set = move |headers: HeaderMap, body: String| async move {
        if !is_allowed(&headers, &token) {
            return refused();
        }
        let Ok(then) = body.trim().parse::<Timestamp>() else {
            return (StatusCode::BAD_REQUEST, "write a time such as 2026-12-24T08:00:00Z\n".to_owned());
        };
        if !clock::advance_to(then) {
            return (StatusCode::CONFLICT, "time does not go back\n".to_owned());
        }
        tracing::warn!(now = %clock::now(), "THE CLOCK WAS MOVED: contracts age with it");
        moved();
        (StatusCode::OK, format!("{}\n", clock::now()))
    };
    Router::new().route("/dev/clock", get(read).put(set))
}

fn is_allowed(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
    given.is_some_and(|it| it.as_bytes().ct_eq(token.as_bytes()).into())
}

fn refused() -> (StatusCode, String) {
    (StatusCode::UNAUTHORIZED, "the token of --dev-clock is needed\n".to_owned())
}

/// Says for ever that the clock can be moved.
pub(super) async fn be_loud() {
    let mut tick = tokio::time::interval(WARN_EVERY);
    loop {
        tick.tick().await;
        tracing::warn!(now = %clock::now(), "--dev-clock is on: whoever has its token can move time, and with it contracts and bills");
    }
}
