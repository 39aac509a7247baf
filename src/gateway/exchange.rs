//! One request on one connection to a worker: sent, answered, and its slot given back at the right moment.
//!
//! Whoever holds the exchange drives its connection. When the answer is at its end the connection goes back to the pool and the
//! slot is free; an exchange that is dropped before lingers (`linger.rs`).

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::TrySendError;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::gateway::admit::Slot;
use crate::gateway::linger::linger;
use crate::gateway::overdue;
use crate::gateway::pool::{Line, Pool, Voice};
use crate::gateway::refuse::Reason;
use crate::gateway::upload::{Progress, Upload};
use crate::link::message::Route;

/// How long each part of a request may take.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    first_byte: Option<Instant>,
    total: Option<Instant>,
    idle: Option<Duration>,
    drain: Duration,
    /// Between two pieces of the request's body, while the worker waits for them.
    body: Duration,
}

/// When a request that came at `arrived` must have its whole answer.
pub fn total_deadline(route: &Route, arrived: Instant) -> Option<Instant> {
    let total = Some(route.total_timeout_ms).filter(|it| *it > 0)?;
    arrived.checked_add(Duration::from_millis(total))
}

impl Clocks {
    /// The clocks of a request that came at `arrived` and has its slot `now`.
    pub fn new(route: &Route, arrived: Instant, now: Instant, body: Duration) -> Clocks {
        let limit = |milliseconds: u64| (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
        let after = |from: Instant, milliseconds| limit(milliseconds).and_then(|it| from.checked_add(it));
        Clocks {
            first_byte: after(now, route.first_byte_timeout_ms),
            total: total_deadline(route, arrived),
            idle: limit(route.idle_timeout_ms),
            drain: Duration::from_millis(route.drain_ms),
            body,
        }
    }

    /// For a tunnel.
    pub fn idle(&self) -> Option<Duration> {
        self.idle
    }

    /// For a tunnel.
    pub fn total(&self) -> Option<Instant> {
        self.total
    }

    /// For what is cut off.
    pub fn drain(&self) -> Duration {
        self.drain
    }
}

/// What became of a request.
pub enum Sent {
    /// The worker answers.
    Answered(Response<Box<Exchange>>),
    /// The connection had closed; the worker has seen nothing.
    Untouched(Slot, Box<Request<Upload>>),
    /// It won't be answered.
    Failed(Reason),
}

/// A request on a connection.
pub struct Exchange {
    /// Both are there until the worker is done.
    line: Option<Box<Line>>,
    slot: Option<Slot>,
    answer: Option<Incoming>,
    upload: Option<Arc<Progress>>,
    upload_pieces: u32,
    /// Why it breaks off, when the client has got what came before.
    broken: Option<hyper::Error>,
    moved: Instant,
    clocks: Clocks,
    pool: Arc<Pool>,
}

impl Exchange {
    /// Sends a request, and waits for the head of its answer.
    pub async fn run(
        pool: Arc<Pool>,
        line: Box<Line>,
        slot: Slot,
        request: Box<Request<Upload>>,
        clocks: Clocks,
    ) -> Sent {
        let mut exchange = Box::new(Exchange {
            upload: request.body().progress(),
            upload_pieces: 0,
            broken: None,
            line: Some(line),
            slot: Some(slot),
            answer: None,
            moved: Instant::now(),
            clocks,
            pool,
        });
        let Some(line) = &mut exchange.line else { return Sent::Failed(Reason::WorkerBroke) };
        let sent = match &mut line.voice {
            Voice::Http1 { sender, .. } => {
                let answer = sender.try_send_request(*request);
                exchange.wait(answer).await
            }
            Voice::Http2 { sender, .. } => {
                let answer = sender.try_send_request(*request);
                exchange.wait(answer).await
            }
        };
        match sent {
            Ok(Ok(response)) => Sent::Answered(exchange.answered(response).await),
            Ok(Err(mut error)) => match (error.take_message(), exchange.slot.take()) {
                (Some(request), Some(slot)) => Sent::Untouched(slot, Box::new(request)),
                (_, slot) => {
                    exchange.slot = slot;
                    tracing::debug!(error = %error.error(), "a worker broke off");
                    Sent::Failed(if exchange.client_broke() {
                        Reason::BadRequest
                    } else {
                        Reason::WorkerBroke
                    })
                }
            },
            Err(reason) => Sent::Failed(reason),
        }
    }

    /// Drives the connection until the answer's head is there, or a clock says stop.
    async fn wait<F>(&mut self, answer: F) -> Result<F::Output, Reason>
    where
        F: Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
    {
        let mut answer = pin!(answer);
        poll_fn(|context| {
            self.drive(context);
            if let Poll::Ready(sent) = answer.as_mut().poll(context) {
                return Poll::Ready(Ok(sent));
            }
            let first = self.clocks.first_byte.map(|it| (it, Reason::FirstByteTimeout));
            let total = self.clocks.total.map(|it| (it, Reason::TotalTimeout));
            let body = self.starved_until().map(|it| (it, Reason::BodyTimeout));
            let Some((deadline, reason)) = first.into_iter().chain(total).chain(body).min() else {
                return Poll::Pending;
            };
            self.poll_alarm(context, deadline).map(|()| Err(reason))
        })
        .await
    }

    async fn answered(mut self: Box<Self>, response: Response<Incoming>) -> Response<Box<Exchange>> {
        self.moved = Instant::now();
        let (parts, body) = response.into_parts();
        let is_short = body.is_end_stream();
        self.answer = Some(body);
        if is_short && parts.status != http::StatusCode::SWITCHING_PROTOCOLS {
            poll_fn(|context| {
                self.finish(context);
                Poll::Ready(())
            })
            .await;
        } else {
            self.watch();
        }
        Response::from_parts(parts, self)
    }

    /// The worker's socket with what was read on it, after it has switched protocols, and the slot.
    pub async fn into_tunnel(mut self) -> Option<(TcpStream, Bytes, Slot)> {
        poll_fn(|context| {
            self.drive(context);
            match self.line.as_deref() {
                Some(Line { voice: Voice::Http1 { ended: false, .. }, .. }) => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        let line = self.line.take()?;
        let slot = self.slot.take()?;
        match line.voice {
            Voice::Http1 { driver, .. } => {
                let parts = driver.into_parts();
                Some((TokioIo::into_inner(parts.io), parts.read_buf, slot))
            }
            Voice::Http2 { .. } => None,
        }
    }

    /// The worker waits for more of the request's body: until when? HTTP/1 has a clock of its own for it, at the edge.
    fn starved_until(&mut self) -> Option<Instant> {
        self.upload.as_ref().filter(|it| it.starved.load(Ordering::Relaxed))?;
        self.note_upload();
        Some(self.moved + self.clocks.body)
    }

    /// A piece of the request's body that went through is a movement too.
    fn note_upload(&mut self) {
        let pieces = self.upload.as_ref().map_or(0, |it| it.pieces.load(Ordering::Relaxed));
        if pieces != self.upload_pieces {
            self.upload_pieces = pieces;
            self.moved = Instant::now();
        }
    }

    /// Did the request's body break off on the client's side?
    fn client_broke(&self) -> bool {
        self.upload.as_ref().is_some_and(|it| it.broken.load(Ordering::Relaxed))
    }

    fn drive(&mut self, context: &mut Context<'_>) {
        if let Some(line) = &mut self.line {
            line.drive(context);
        }
    }

    fn poll_alarm(&mut self, context: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        match &mut self.line {
            Some(line) => line.alarm.poll(context, Some(deadline)),
            None => Poll::Pending,
        }
    }

    /// The worker has said its last word: its slot is free. Unless it has answered before it has read the whole request: then
    /// it is not done with it, and who drops us lingers.
    fn finish(&mut self, context: &mut Context<'_>) {
        overdue::set(None);
        let Some(mut line) = self.line.take() else { return };
        line.drive(context);
        let ended = matches!(line.voice, Voice::Http1 { ended: true, .. });
        let uploaded = self.upload.as_ref().is_none_or(|it| it.ended.load(Ordering::Relaxed));
        let ready = uploaded && line.is_ready();
        if !ready && !ended {
            self.line = Some(line);
            return;
        }
        let Some(slot) = self.slot.take() else { return };
        if ready {
            self.pool.give(&slot.worker, line);
        }
    }

    /// Says by when the answer has to move, in either direction, or to be at its end.
    fn watch(&mut self) {
        self.note_upload();
        let idle = self.clocks.idle.map(|it| self.moved + it);
        overdue::set(idle.into_iter().chain(self.clocks.total).min());
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.answer {
            Some(answer) => Pin::new(answer).poll_frame(context),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        overdue::set(None);
        // The answer goes first: that tells HTTP/2 to reset the stream.
        self.answer = None;
        if let (Some(line), Some(slot)) = (self.line.take(), self.slot.take()) {
            linger(*line, slot, self.clocks.drain);
        }
    }
}

impl Body for Exchange {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let mut frame = self.poll_answer(context);
        if frame.is_pending() {
            self.drive(context);
            frame = self.poll_answer(context);
        }
        match frame {
            Poll::Pending => {
                self.watch();
                Poll::Pending
            }
            Poll::Ready(Some(Err(error))) => {
                // hyper throws away what it has not written when a body breaks; when we let it wait it writes.
                self.broken = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.moved = Instant::now();
                if self.answer.as_ref().is_some_and(Body::is_end_stream) {
                    self.finish(context);
                } else {
                    self.watch();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.finish(context);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
