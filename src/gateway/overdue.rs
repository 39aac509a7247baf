//! Cuts an answer that has stopped moving or takes too long, whoever's fault it is.
//!
//! A body can't do that itself: while a client does not read, hyper does not poll it, and a client that reads a byte a minute
//! would keep a slot for good. So the task around it watches: an HTTP/1 connection's, or an HTTP/2 stream's.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use hyper::rt::Executor;
use tokio::time::Instant;

use crate::gateway::alarm::Alarm;

tokio::task_local! {
    static DEADLINE: Cell<Option<Instant>>;
}

/// The answer that this task is writing must move before this, or it is cut. `None`: it writes none.
pub fn set(deadline: Option<Instant>) {
    // In no watched task there is nothing to cut: a tunnel has clocks of its own.
    let _ = DEADLINE.try_with(|it| it.set(deadline));
}

/// Runs a future that writes answers; `None` if it was cut.
pub async fn watched<F: Future>(future: F) -> Option<F::Output> {
    let run = async {
        let mut future = pin!(future);
        let mut alarm = Alarm::new();
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            alarm.poll(context, DEADLINE.with(Cell::get)).map(|()| None)
        })
        .await
    };
    DEADLINE.scope(Cell::new(None), run).await
}

/// Watches each stream of an HTTP/2 connection.
#[derive(Clone)]
pub struct WatchedStreams;

impl<F> Executor<F> for WatchedStreams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        tokio::spawn(async move {
            let _ = watched(future).await;
        });
    }
}
