//! A request's body on its way to the worker, and what its request's clocks want to know of it.
//!
//! While a request waits for a slot the first of its body is read. Not for speed: hyper looks for the end of a connection only
//! when nothing of a request is left to read, and a client that has gone should leave the queue.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// So much of a body is read while its request waits.
const MOST_AHEAD_BYTES: usize = 64 * 1024;

/// How far a body has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Pieces that went through.
    pub pieces: AtomicU32,
    /// The client broke off.
    pub broken: AtomicBool,
    /// All of it went through.
    pub ended: AtomicBool,
    /// The worker takes more than the client sends.
    pub starved: AtomicBool,
}

/// A request's body.
pub struct Upload {
    body: Incoming,
    /// `None` when there is no body.
    progress: Option<Arc<Progress>>,
    /// Read while the request waited.
    ahead: VecDeque<Frame<Bytes>>,
    ahead_bytes: usize,
    /// The client sends it only when it is asked to.
    on_demand: bool,
}

impl Upload {
    /// A body, watched if there is one. One that is sent `on_demand` is not asked for before it is wanted.
    pub fn new(body: Incoming, on_demand: bool) -> Upload {
        let progress = (!body.is_end_stream()).then(Arc::default);
        Upload { body, progress, ahead: VecDeque::new(), ahead_bytes: 0, on_demand }
    }

    /// Reads ahead while the request waits. Comes to an end only when the client breaks off.
    pub fn poll_ahead(&mut self, context: &mut Context<'_>) -> Poll<hyper::Error> {
        while !self.on_demand && self.ahead_bytes < MOST_AHEAD_BYTES && !self.body.is_end_stream() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => break,
                Some(Err(error)) => return Poll::Ready(error),
                Some(Ok(frame)) => {
                    self.ahead_bytes += frame.data_ref().map_or(0, Bytes::len);
                    self.ahead.push_back(frame);
                }
            }
        }
        Poll::Pending
    }

    /// What can be known of it when it is gone.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = if let Some(frame) = self.ahead.pop_front() {
            self.ahead_bytes -= frame.data_ref().map_or(0, Bytes::len);
            Some(Ok(frame))
        } else {
            let next = Pin::new(&mut self.body).poll_frame(context);
            if let Some(progress) = &self.progress {
                progress.starved.store(next.is_pending(), Ordering::Relaxed);
            }
            ready!(next)
        };
        if let Some(progress) = &self.progress {
            match &frame {
                Some(Err(_)) => progress.broken.store(true, Ordering::Relaxed),
                Some(Ok(_)) => {
                    progress.pieces.fetch_add(1, Ordering::Relaxed);
                    if self.ahead.is_empty() && self.body.is_end_stream() {
                        progress.ended.store(true, Ordering::Relaxed);
                    }
                }
                None => progress.ended.store(true, Ordering::Relaxed),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, ahead) = (self.body.size_hint(), self.ahead_bytes as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}
