//! A client's connection as hyper sees it: only bytes that `head.rs` found good come through.
//!
//! When a client breaks a rule, hyper reads a tiny request of ours in place of the bad bytes, whose method says what it is. So
//! the answers to what was pipelined before stay in order, and the refusal is written like any other answer.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::gateway::alarm::Alarm;
use crate::gateway::head::{Checker, Verdict};
use crate::gateway::limits::Limits;
use crate::gateway::refuse::Reason;

/// The method of the request that hyper reads instead of a bad one. Who sends it himself gets the same refusal.
pub const REFUSED: &str = "REFUSED";
const REFUSED_REQUEST: &[u8] = b"REFUSED / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// After the last answer, for the client to read it before the connection goes: bytes that are still read are thrown away.
const LINGER: std::time::Duration = std::time::Duration::from_secs(1);
const MOST_LINGER_BYTES: usize = 1024 * 1024;

/// What is known of a client's connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address, as `x-forwarded-for` says it.
    pub address: HeaderValue,
    /// The same, as `forwarded` says it.
    pub forwarded: HeaderValue,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The rule that the client broke.
    violation: OnceLock<Reason>,
    /// Requests that are being answered.
    pub busy: AtomicU32,
    /// Requests that ever came.
    pub requests: AtomicU64,
    switch: AtomicU8,
}

const UNDECIDED: u8 = 0;
const STAYS: u8 = 1;
const SWITCHES: u8 = 2;

impl Connection {
    /// A new connection from this address.
    pub fn new(address: std::net::IpAddr, scheme: &'static str) -> Connection {
        let address = address.to_canonical();
        let node = match address {
            std::net::IpAddr::V4(it) => format!("for={it};proto={scheme}"),
            std::net::IpAddr::V6(it) => format!("for=\"[{it}]\";proto={scheme}"),
        };
        let value = |text: &str| HeaderValue::from_str(text).expect("addresses are ASCII");
        Connection {
            address: value(&address.to_string()),
            forwarded: value(&node),
            scheme,
            violation: OnceLock::new(),
            busy: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            switch: AtomicU8::new(UNDECIDED),
        }
    }

    /// The rule that the client broke, if it did.
    pub fn violation(&self) -> Option<Reason> {
        self.violation.get().copied()
    }

    /// A request that asked for another protocol has its answer: does the connection switch?
    pub fn decide(&self, switches: bool) {
        self.switch.store(if switches { SWITCHES } else { STAYS }, Ordering::Release);
    }
}

/// A client's connection.
pub struct Edge<S> {
    stream: S,
    connection: Arc<Connection>,
    checker: Checker,
    limits: Arc<Limits>,
    /// Read, but not found good yet.
    held: Vec<u8>,
    /// Found good, but not read by hyper yet.
    good: Vec<u8>,
    good_read: usize,
    /// hyper gets no more.
    ended: bool,
    /// The last that it gets is our own request.
    is_refused: bool,
    /// Since when the client has let us wait: for a piece of a body, the rest of a head, or a request.
    waits_since: Option<Instant>,
    writes_since: Option<Instant>,
    alarm: Alarm,
    lingers: Option<(Instant, usize)>,
}

impl<S> Edge<S> {
    /// An HTTP/1 connection on which `read` has been read already.
    pub fn new(stream: S, read: Vec<u8>, connection: Arc<Connection>, limits: Arc<Limits>) -> Edge<S> {
        let checker = Checker::new(&limits);
        let mut edge = Edge {
            stream,
            connection,
            checker,
            limits,
            held: read,
            good: Vec::new(),
            good_read: 0,
            ended: false,
            is_refused: false,
            waits_since: None,
            writes_since: None,
            alarm: Alarm::new(),
            lingers: None,
        };
        // A connection begins with a head, so nothing can be cut here, only refused.
        let _ = edge.check_held();
        edge
    }

    /// An HTTP/2 connection, which has framing of its own: nothing is checked here.
    pub fn pass_through(
        stream: S,
        read: Vec<u8>,
        connection: Arc<Connection>,
        limits: Arc<Limits>,
    ) -> Edge<S> {
        let mut edge = Edge::new(stream, Vec::new(), connection, limits);
        edge.checker.pass_through();
        edge.good = read;
        edge
    }

    /// Moves what is good from `held` to `good`.
    fn check_held(&mut self) -> io::Result<()> {
        if self.checker.is_undecided() {
            match self.connection.switch.swap(UNDECIDED, Ordering::AcqRel) {
                STAYS => self.checker.stays(),
                SWITCHES => self.checker.pass_through(),
                _ => return Ok(()),
            }
        }
        let (released, verdict) = self.checker.advance(&self.held);
        self.good.extend(self.held.drain(..released));
        if self.held.is_empty() {
            // Its memory too: a request may wait for long.
            self.held = Vec::new();
        }
        self.judge(verdict)
    }

    fn judge(&mut self, verdict: Verdict) -> io::Result<()> {
        match verdict {
            Verdict::Good => Ok(()),
            Verdict::Refuse(reason) => {
                self.refuse(reason);
                Ok(())
            }
            Verdict::Cut(reason) => {
                self.end(reason);
                Err(io::Error::new(io::ErrorKind::InvalidData, reason.row().code))
            }
        }
    }

    fn refuse(&mut self, reason: Reason) {
        self.end(reason);
        self.is_refused = true;
        self.good.extend_from_slice(REFUSED_REQUEST);
    }

    fn end(&mut self, reason: Reason) {
        self.connection.violation.get_or_init(|| reason);
        self.held = Vec::new();
        self.ended = true;
    }

    /// The client lets us wait: for too long?
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.checker.is_through() {
            return Poll::Pending;
        }
        let now = Instant::now();
        let (between, begun) = (self.checker.is_between(), !self.held.is_empty());
        let idle = between && !begun;
        let busy = self.connection.busy.load(Ordering::Relaxed) > 0;
        if busy && (idle || self.checker.is_undecided()) {
            // It is we who let the client wait.
            self.waits_since = Some(now);
        }
        let since = *self.waits_since.get_or_insert(now);
        let limit = match (between, begun) {
            (true, true) => self.limits.head_timeout,
            (true, false) => self.limits.keep_alive_timeout,
            (false, _) => self.limits.body_timeout,
        };
        ready!(self.alarm.poll(context, Some(since + limit)));
        self.waits_since = None;
        if between && begun {
            self.refuse(Reason::HeadTimeout);
        } else if idle {
            self.ended = true;
        } else {
            self.end(Reason::BodyTimeout);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> Edge<S> {
    /// Reads once from the client. Bytes that are good already when they arrive stay in `buffer`.
    fn poll_more(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.checker.is_undecided() && self.held.len() >= self.limits.head_bytes {
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => return self.poll_patience(context),
            Poll::Ready(result) => result?,
        }
        let read = &buffer.filled()[before..];
        if read.is_empty() {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        if self.held.is_empty() && !self.checker.is_undecided() {
            let (released, verdict) = self.checker.advance(read);
            self.held.extend_from_slice(&read[released..]);
            buffer.set_filled(before + released);
            if released > 0 {
                self.waits_since = None;
            }
            self.judge(verdict)?;
        } else {
            self.held.extend_from_slice(read);
            buffer.set_filled(before);
            self.check_held()?;
            if !self.good.is_empty() {
                self.waits_since = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Edge<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            if this.good_read < this.good.len() {
                let rest = &this.good[this.good_read..];
                let step = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..step]);
                this.good_read += step;
                if this.good_read == this.good.len() {
                    this.good = Vec::new();
                    this.good_read = 0;
                }
                return Poll::Ready(Ok(()));
            }
            if this.is_refused {
                // The end comes with our answer. hyper would take an end that it reads here for the client's leaving.
                return Poll::Pending;
            }
            if this.ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.checker.is_undecided() {
                this.check_held()?;
                if !this.good.is_empty() {
                    continue;
                }
            }
            if this.checker.is_through() && this.held.is_empty() {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            ready!(this.poll_more(context, buffer))?;
            if buffer.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Edge<S> {
    /// A client that takes nothing of what we write for too long is cut off: its answer holds a slot.
    fn written<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.writes_since = None;
            return result;
        }
        let since = *self.writes_since.get_or_insert_with(Instant::now);
        ready!(self.alarm.poll(context, Some(since + self.limits.body_timeout)));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Edge<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, result)
    }

    /// Closing a socket that has unread bytes resets it, and the client may lose our last answer. So they are read first.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
        }
        let (since, mut read) = *this.lingers.get_or_insert_with(|| (Instant::now(), 0));
        let mut waste = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut waste);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && read < MOST_LINGER_BYTES => {
                    read += buffer.filled().len();
                    this.lingers = Some((since, read));
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(this.alarm.poll(context, Some(since + LINGER)));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
