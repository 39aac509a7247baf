//! The body of an answer: the worker's, or a few words of ours.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::gateway::access::Note;
use crate::gateway::edge::Connection;
use crate::gateway::exchange::Exchange;

/// A body on its way to a client.
pub struct Answer {
    content: Content,
    /// The request counts as busy until its answer is gone.
    busy: Option<Busy>,
    /// For the access log, if there is one.
    note: Option<Box<Note>>,
}

enum Content {
    Words(Bytes),
    Worker(Box<Exchange>),
}

/// A request that is being answered; its connection is not idle.
pub struct Busy(Arc<Connection>);

impl Busy {
    /// A request has come on this connection.
    pub fn new(connection: Arc<Connection>) -> Busy {
        connection.busy.fetch_add(1, Ordering::Relaxed);
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Busy(connection)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answer {
    /// The worker's.
    pub fn worker(exchange: Box<Exchange>) -> Answer {
        Answer { content: Content::Worker(exchange), busy: None, note: None }
    }

    /// Ours.
    pub fn words(words: Bytes) -> Answer {
        Answer { content: Content::Words(words), busy: None, note: None }
    }

    /// Nothing.
    pub fn empty() -> Answer {
        Answer::words(Bytes::new())
    }

    /// Its request is busy until it is gone, and then written down.
    pub fn keep(mut self, busy: Busy, note: Option<Box<Note>>) -> Answer {
        self.busy = Some(busy);
        self.note = note;
        // hyper asks for no frame of a body that is empty.
        self.note_end();
        self
    }

    fn note_end(&mut self) {
        if self.note.is_some()
            && self.is_end_stream()
            && let Some(note) = &mut self.note
        {
            note.complete();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match &mut self.content {
            Content::Words(words) if words.is_empty() => Poll::Ready(None),
            Content::Words(words) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(words))))),
            Content::Worker(exchange) => Pin::new(&mut **exchange).poll_frame(context),
        };
        if let (Some(note), Poll::Ready(frame)) = (&mut self.note, &polled) {
            match frame {
                Some(Ok(frame)) => note.passed(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => (),
                None => note.complete(),
            }
            self.note_end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Words(words) => words.is_empty(),
            Content::Worker(exchange) => exchange.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Words(words) => SizeHint::with_exact(words.len() as u64),
            Content::Worker(exchange) => exchange.size_hint(),
        }
    }
}
