//! How answers look: a refusal, as the API server words its own; and what is told line by line, whose last line says whether it is whole.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A bill or export that takes longer ends with an error.
const STREAM_WITHIN: Duration = Duration::from_mins(15);
/// Who takes no piece for so long is not waited for: others ask too.
const PIECE_WITHIN: Duration = Duration::from_mins(1);
/// Lines go out in pieces of about this size.
const PIECE_BYTES: usize = 32 * 1024;
/// Pieces that wait for a slow reader.
const PIECES_WAITING: usize = 4;

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refused {
    status: StatusCode,
    message: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Refused {
        Refused { status, message: message.into() }
    }

    pub(super) fn busy() -> Refused {
        Refused::new(StatusCode::TOO_MANY_REQUESTS, "others ask just now: try again")
    }

    pub(super) fn unavailable(error: &dyn std::error::Error) -> Refused {
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, in_words(error))
    }
}

/// An error and what it comes from.
fn in_words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = self.status.as_u16();
        let body = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": self.message,
        });
        (self.status, axum::Json(body)).into_response()
    }
}

/// Why a bill or export does not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
    /// It does not add up, or there is none.
    #[error("{0}")]
    Wrong(String),
    /// Nobody reads it any more.
    #[error("nobody reads it")]
    Gone,
    /// Who reads it has stopped.
    #[error("its reader took nothing for {} s", PIECE_WITHIN.as_secs())]
    Stalled,
}

/// Where lines go: JSON, one a line.
pub(super) struct Out {
    to: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Out {
    /// Tells a line.
    pub(super) async fn tell(&mut self, line: &impl Serialize) -> Result<(), Broken> {
        serde_json::to_writer(&mut self.piece, line).map_err(|it| Broken::Wrong(it.to_string()))?;
        self.piece.push(b'\n');
        if self.piece.len() < PIECE_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Broken> {
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        match self.to.send_timeout(piece, PIECE_WITHIN).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Broken::Stalled),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Broken::Gone),
        }
    }
}

/// Tells line by line what `tell` says. The last line is `{"end": ...}`, which `tell` returns, or `{"error": ...}`.
pub(super) fn stream<F>(
    permit: OwnedSemaphorePermit,
    tell: impl FnOnce(Out) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = (Out, Result<serde_json::Value, Broken>)> + Send,
{
    let (to, from) = mpsc::channel(PIECES_WAITING);
    let late = to.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let told = tokio::time::timeout(STREAM_WITHIN, tell(Out { to, piece: Vec::new() })).await;
        let (mut out, last) = match told {
            Ok((out, Ok(end))) => (out, json!({"end": end})),
            // It ends without a last line.
            Ok((_, Err(error @ (Broken::Gone | Broken::Stalled)))) => {
                tracing::warn!(%error, "a bill or export was broken off");
                return;
            }
            Ok((out, Err(error))) => {
                tracing::warn!(%error, "a bill or export was broken off");
                (out, json!({"error": in_words(&error)}))
            }
            Err(_) => {
                let out = Out { to: late, piece: Vec::new() };
                (out, json!({"error": "it took too long: ask for a month, or an account"}))
            }
        };
        if out.tell(&last).await.is_ok() {
            out.flush().await.ok();
        }
    });
    let pieces = futures::stream::unfold(from, |mut from| async move {
        from.recv().await.map(|piece| (Ok::<_, std::convert::Infallible>(piece), from))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    /// Its permit comes back although nobody reads the answer, and nobody hangs up.
    async fn let_go(lines: usize) {
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.clone().acquire_owned().await.unwrap();
        let answer = stream(permit, move |mut out| async move {
            let line = "x".repeat(PIECE_BYTES);
            for _ in 0..lines {
                if let Err(error) = out.tell(&line).await {
                    return (out, Err(error));
                }
            }
            (out, Ok(json!({})))
        });
        let free = tokio::time::timeout(STREAM_WITHIN * 2, permits.acquire()).await;
        assert!(free.is_ok(), "{lines} lines");
        drop(answer);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_reading_keeps_nobody_else_from_it() {
        // The last line is the one that does not fit, or one before.
        let_go(PIECES_WAITING).await;
        let_go(PIECES_WAITING * 2).await;
    }
}
