//! Listeners and connections: who is let in, what is spoken, and how it ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gateway::access::AccessLog;
use crate::gateway::admit::Slot;
use crate::gateway::certificate::Certificate;
use crate::gateway::edge::{Connection, Edge};
use crate::gateway::headers::RequestIds;
use crate::gateway::keys::Rates;
use crate::gateway::life::live;
use crate::gateway::limits::Limits;
use crate::gateway::metrics::Metrics;
use crate::gateway::overdue::{Watched, WatchedStreams};
use crate::gateway::pool::Pool;
use crate::gateway::refuse::Reason;
use crate::link::message::{EndpointKey, Route};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read of a connection at first, to see what it speaks.
const FIRST_READ_BYTES: usize = 4096;
/// Without file descriptors: how long until a connection is accepted again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often connections to workers and counters are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// What the HTTP side asks of the rest of the gateway.
pub trait Backend: Send + Sync + 'static {
    /// The endpoint's route as it is now.
    fn find(&self, endpoint: &EndpointKey) -> Option<Arc<Route>>;

    /// Has it ever been told its routes? Until then an endpoint that it can't find may be there.
    fn knows_routes(&self) -> bool;

    /// Waits for a slot, at most as long as the route allows. Dropping the future gives the place in the queue back.
    fn admit(&self, route: &Arc<Route>) -> impl Future<Output = Result<Slot, Reason>> + Send;
}

/// Everything that requests share.
pub struct Gateway<B> {
    /// Routes and slots.
    pub backend: B,
    /// Endpoints are hosts below it.
    pub domain: String,
    /// How much of everything.
    pub limits: Arc<Limits>,
    /// Connections to workers.
    pub pool: Arc<Pool>,
    /// Rates of keys.
    pub rates: Rates,
    /// What is counted.
    pub metrics: Metrics,
    /// Where each request is written down, if anywhere.
    pub access: Option<AccessLog>,
    /// Names for requests.
    pub ids: RequestIds,
    /// Connections and tunnels.
    pub tasks: TaskTracker,
    /// Ends what is still there after the drain.
    pub cut: CancellationToken,
    started: Instant,
}

/// Where clients come in.
pub enum Listener {
    /// HTTP/1.1, and HTTP/2 by prior knowledge.
    Plain(TcpListener),
    /// The same with TLS.
    Tls(TcpListener, Arc<Certificate>),
}

impl<B: Backend> Gateway<B> {
    /// A gateway for the endpoints below `domain`.
    pub fn new(
        backend: B,
        domain: String,
        limits: Limits,
        access: Option<AccessLog>,
        registry: &Registry,
    ) -> Result<Arc<Gateway<B>>, prometheus::Error> {
        let limits = Arc::new(limits);
        Ok(Arc::new(Gateway {
            backend,
            domain,
            pool: Arc::new(Pool::new(limits.clone())),
            limits,
            rates: Rates::default(),
            metrics: Metrics::new(registry)?,
            access,
            ids: RequestIds::new(),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            started: Instant::now(),
        }))
    }

    /// Serves until `stop`; then takes no new connections, lets requests end for as long as the drain allows, and cuts the rest.
    pub async fn serve(self: Arc<Self>, listeners: Vec<Listener>, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let accepting = TaskTracker::new();
        for listener in listeners {
            accepting.spawn(self.clone().accept(listener, room.clone(), stop.clone()));
        }
        accepting.spawn(self.clone().sweep(stop.clone()));
        accepting.close();
        accepting.wait().await;
        self.tasks.close();
        if timeout(self.limits.drain, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "requests did not end in time and are cut off");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }

    async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(SWEEP_INTERVAL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.pool.sweep();
            self.metrics.forget(|it| self.backend.find(it).is_none());
        }
    }

    async fn accept(self: Arc<Self>, listener: Listener, room: Arc<Semaphore>, stop: CancellationToken) {
        let (listener, certificate) = match listener {
            Listener::Plain(listener) => (listener, None),
            Listener::Tls(listener, certificate) => (listener, Some(certificate)),
        };
        loop {
            let next = async {
                let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
                let (stream, peer) = listener.accept().await?;
                Ok::<_, io::Error>((stream, peer, permit))
            };
            match stop.run_until_cancelled(next).await {
                None => return,
                Some(Ok((stream, peer, permit))) => {
                    let connection = Entering { gateway: self.clone(), peer, permit, stop: stop.clone() };
                    self.tasks.spawn(connection.enter(stream, certificate.clone()));
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A connection that has been accepted.
struct Entering<B> {
    gateway: Arc<Gateway<B>>,
    peer: SocketAddr,
    /// Its place among the connections.
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
}

impl<B: Backend> Entering<B> {
    async fn enter(self, stream: TcpStream, certificate: Option<Arc<Certificate>>) {
        let result = match certificate {
            None => {
                let connection = Connection::new(self.peer.ip(), "http");
                self.speak(stream, connection).await
            }
            Some(certificate) => Box::pin(self.shake_hands(stream, &certificate)).await,
        };
        if let Err(error) = result {
            tracing::debug!(peer = %self.peer, error, "a connection broke");
        }
        drop(self.permit);
    }

    async fn shake_hands(&self, stream: TcpStream, certificate: &Certificate) -> Result<(), Error> {
        stream.set_nodelay(true)?;
        let acceptor = TlsAcceptor::from(certificate.current());
        let stream = timeout(self.gateway.limits.head_timeout, acceptor.accept(stream)).await??;
        self.speak(stream, Connection::new(self.peer.ip(), "https")).await
    }

    async fn speak<S>(&self, mut stream: S, connection: Connection) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = &self.gateway.limits;
        // In boxes, here and below: a connection need not carry the size of what it has behind it, or of the other protocol, for as
        // long as it waits.
        let first = timeout(limits.head_timeout, first_bytes(&mut stream));
        let Some(first) = Box::pin(self.stop.run_until_cancelled(first)).await else { return Ok(()) };
        let (read, is_http2) = first??;
        let connection = Arc::new(connection);
        if is_http2 {
            let edge = Edge::pass_through(stream, read, connection.clone(), limits.clone());
            Box::pin(self.speak_http2(TokioIo::new(edge), connection)).await
        } else {
            let edge = Edge::new(stream, read, connection.clone(), limits.clone());
            Watched::new(self.speak_http1(TokioIo::new(edge), connection)).await.unwrap_or(Ok(()))
        }
    }

    async fn speak_http1<S>(&self, io: TokioIo<Edge<S>>, connection: Arc<Connection>) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gateway = self.gateway.clone();
        let service = service_fn(move |request| live(gateway.clone(), connection.clone(), request));
        let serving = http1_builder(&self.gateway.limits).serve_connection(io, service).with_upgrades();
        let mut serving = pin!(serving);
        tokio::select! {
            biased;
            result = serving.as_mut() => return Ok(result?),
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        self.gateway.cut.run_until_cancelled(serving).await.unwrap_or(Ok(()))?;
        Ok(())
    }

    async fn speak_http2<S>(&self, io: TokioIo<Edge<S>>, connection: Arc<Connection>) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = &self.gateway.limits;
        let gateway = self.gateway.clone();
        let watched = connection.clone();
        let service = service_fn(move |request| live(gateway.clone(), connection.clone(), request));
        let mut serving = pin!(http2_builder(limits).serve_connection(io, service));
        tokio::select! {
            biased;
            result = serving.as_mut() => return Ok(result?),
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
            () = is_idle(&watched, limits.keep_alive_timeout) => serving.as_mut().graceful_shutdown(),
        }
        self.gateway.cut.run_until_cancelled(serving).await.unwrap_or(Ok(()))?;
        Ok(())
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // Heads are checked and timed before hyper sees them.
    builder.max_buf_size(limits.buffer_bytes).max_headers(256).header_read_timeout(None);
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<WatchedStreams> {
    let mut builder = http2::Builder::new(WatchedStreams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_header_list_size(limits.header_list_bytes)
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(limits.resets)
        .max_send_buf_size(limits.buffer_bytes)
        .keep_alive_interval(limits.ping_interval)
        .keep_alive_timeout(limits.ping_interval);
    builder
}

/// Reads until it is clear whether HTTP/2 is spoken.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Vec<u8>, bool)> {
    let mut read = Vec::with_capacity(FIRST_READ_BYTES);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if read.starts_with(PREFACE) {
            return Ok((read, true));
        }
        if !PREFACE.starts_with(&read) {
            return Ok((read, false));
        }
    }
}

/// Ends when no request has come for this long and none is being answered.
async fn is_idle(connection: &Connection, after: Duration) {
    let mut before = None;
    loop {
        sleep(after).await;
        let requests = connection.requests.load(Ordering::Relaxed);
        if connection.busy.load(Ordering::Relaxed) == 0 && before == Some(requests) {
            return;
        }
        before = Some(requests);
    }
}
