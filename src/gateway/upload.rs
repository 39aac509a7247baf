//! A request's body on its way to the worker, and what its request's clocks want to know of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// How far a body has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Pieces that went through.
    pub pieces: AtomicU32,
    /// The client broke off.
    pub broken: AtomicBool,
    /// All of it went through.
    pub ended: AtomicBool,
}

/// A request's body.
pub struct Upload {
    body: Incoming,
    /// `None` when there is no body.
    progress: Option<Arc<Progress>>,
}

impl Upload {
    /// A body, watched if there is one.
    pub fn new(body: Incoming) -> Upload {
        let progress = (!body.is_end_stream()).then(Arc::default);
        Upload { body, progress }
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(progress) = &self.progress {
            match &frame {
                Some(Err(_)) => progress.broken.store(true, Ordering::Relaxed),
                Some(Ok(_)) => {
                    progress.pieces.fetch_add(1, Ordering::Relaxed);
                    if self.body.is_end_stream() {
                        progress.ended.store(true, Ordering::Relaxed);
                    }
                }
                None => progress.ended.store(true, Ordering::Relaxed),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
