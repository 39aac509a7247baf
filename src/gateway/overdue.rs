//! Cuts an answer that has stopped moving or takes too long, whoever's fault it is.
//!
//! A body can't do that itself: while a client does not read, hyper does not poll it, and a client that reads a byte a minute
//! would keep a slot for good. So the task around it watches: an HTTP/1 connection's, or an HTTP/2 stream's.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

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

/// A future that writes answers; `None` if it was cut. It is in a box of its own: an async block around it would hold it two
/// or three times over.
pub struct Watched<F> {
    future: Pin<Box<F>>,
    deadline: Option<Instant>,
    alarm: Alarm,
}

impl<F: Future> Watched<F> {
    /// Watches it.
    pub fn new(future: F) -> Watched<F> {
        Watched { future: Box::pin(future), deadline: None, alarm: Alarm::new() }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Watched { future, deadline, alarm } = &mut *self;
        let polled = DEADLINE.sync_scope(Cell::new(*deadline), || {
            let polled = future.as_mut().poll(context);
            *deadline = DEADLINE.with(Cell::get);
            polled
        });
        match polled {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => alarm.poll(context, *deadline).map(|()| None),
        }
    }
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
        tokio::spawn(Watched::new(future));
    }
}
