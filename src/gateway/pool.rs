//! Connections to workers: made, kept for the next request, and thrown away.
//!
//! A connection carries one request at a time, in HTTP/2 too, because a slot is one request and ends with its connection when
//! nothing better is known. HTTP/1 connections have no task of their own: whoever has the request drives them, so that a
//! request costs no wake-up between tasks.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::gateway::admit::WorkerAt;
use crate::gateway::alarm::Alarm;
use crate::gateway::limits::Limits;
use crate::gateway::upload::Upload;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, known beforehand.
    Http2,
}

/// A connection to a worker.
pub struct Line {
    /// Who speaks on it.
    pub voice: Voice,
    /// For the clocks of its requests.
    pub alarm: Alarm,
    idle_since: Instant,
}

/// The protocol's part of a connection.
#[allow(clippy::large_enum_variant, reason = "it lies in the one box of its line, and nearly all are HTTP/1")]
pub enum Voice {
    /// Driven by the request on it.
    Http1 {
        /// Takes requests.
        sender: http1::SendRequest<Upload>,
        /// Moves bytes when polled.
        driver: http1::Connection<TokioIo<TcpStream>, Upload>,
        /// It moves no more.
        ended: bool,
    },
    /// hyper's HTTP/2 wants a task of its own.
    Http2 {
        /// Takes requests.
        sender: http2::SendRequest<Upload>,
        /// Gives the socket back when HTTP/2 is done with it.
        driver: JoinHandle<Option<TcpStream>>,
    },
}

impl Line {
    /// Moves bytes. After this the connection may have ended.
    pub fn drive(&mut self, context: &mut Context<'_>) {
        if let Voice::Http1 { driver, ended, .. } = &mut self.voice
            && !*ended
        {
            *ended = Pin::new(driver).poll(context).is_ready();
        }
    }

    /// Could it take a request now?
    pub fn is_ready(&self) -> bool {
        match &self.voice {
            Voice::Http1 { sender, ended, .. } => !ended && sender.is_ready(),
            Voice::Http2 { sender, driver } => !driver.is_finished() && sender.is_ready(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self.voice {
            Voice::Http1 { .. } => Protocol::Http1,
            Voice::Http2 { .. } => Protocol::Http2,
        }
    }
}

/// The connections that wait for a request.
pub struct Pool {
    limits: Arc<Limits>,
    #[allow(clippy::vec_box, reason = "a line moves between pool and requests; its box is made once")]
    idle: Mutex<HashMap<Place, Vec<Box<Line>>>>,
}

/// Connections to a worker's id, since addresses come back with other pods behind them.
type Place = (Arc<str>, Protocol);

impl Pool {
    /// No connections.
    pub fn new(limits: Arc<Limits>) -> Pool {
        Pool { limits, idle: Mutex::default() }
    }

    /// A connection to this worker on which a request can be sent now, if one waits.
    pub fn take(&self, worker: &WorkerAt, protocol: Protocol) -> Option<Box<Line>> {
        let key = (worker.id.clone(), protocol);
        loop {
            let mut line = self.idle.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key)?.pop()?;
            if self.is_good(&mut line) {
                return Some(line);
            }
        }
    }

    /// A request on it has ended.
    pub fn give(&self, worker: &WorkerAt, mut line: Box<Line>) {
        line.idle_since = Instant::now();
        let key = (worker.id.clone(), line.protocol());
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = idle.entry(key).or_default();
        if lines.len() < self.limits.idle_per_worker {
            lines.push(line);
        }
    }

    /// Throws away what has waited for too long or was closed by its worker. To be called every few seconds.
    pub fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, lines| {
            lines.retain_mut(|it| self.is_good(it));
            !lines.is_empty()
        });
    }

    fn is_good(&self, line: &mut Line) -> bool {
        if line.idle_since.elapsed() >= self.limits.idle_worker_timeout {
            return false;
        }
        // The worker may have closed it in the meantime; nobody was looking.
        line.drive(&mut Context::from_waker(Waker::noop()));
        line.is_ready()
    }

    /// A new connection to this worker.
    pub async fn connect(&self, worker: &WorkerAt, protocol: Protocol) -> io::Result<Box<Line>> {
        let connecting = TcpStream::connect(worker.address);
        let stream = timeout(self.limits.connect_timeout, connecting).await.map_err(io::Error::from)??;
        stream.set_nodelay(true)?;
        let voice = match protocol {
            Protocol::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(self.limits.buffer_bytes);
                let (sender, driver) =
                    builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
                Voice::Http1 { sender, driver, ended: false }
            }
            Protocol::Http2 => http2_voice(stream, &self.limits).await.map_err(io::Error::other)?,
        };
        Ok(Box::new(Line { voice, alarm: Alarm::new(), idle_since: Instant::now() }))
    }
}

async fn http2_voice(stream: TcpStream, limits: &Limits) -> hyper::Result<Voice> {
    let kept = Arc::new(Mutex::new(None));
    let stream = Kept { stream: Some(stream), kept: kept.clone() };
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.connection_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_header_list_size(limits.header_list_bytes * 4)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_interval);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to a worker broke");
        }
        kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    });
    Ok(Voice::Http2 { sender, driver })
}

/// A socket that outlives the HTTP/2 on it.
struct Kept {
    stream: Option<TcpStream>,
    kept: Arc<Mutex<Option<TcpStream>>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl Kept {
    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Kept {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}
