//! A gateway on a socket of its own, with slots as the real ones, and workers that do as a test says.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::domain::slots::{Arrival, Grant, Limit, Request, Slots};
use crate::gateway::access::AccessLog;
use crate::gateway::admit::{Slot, WorkerAt};
use crate::gateway::limits::Limits;
use crate::gateway::refuse::Reason;
use crate::gateway::server::{Backend, Gateway, Listener};
use crate::gateway::tests::route;
use crate::link::message::{EndpointKey, Route};

/// Only there so that a test that hangs says so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must come.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// The slots of one endpoint, `rp/chat`.
pub struct Slotted {
    route: Arc<Route>,
    slots: Arc<Mutex<Held>>,
    tickets: AtomicU64,
    /// Requests in workers, and requests that wait.
    pub seen: watch::Receiver<(u32, u32)>,
}

struct Held {
    slots: Slots,
    workers: HashMap<Arc<str>, Arc<WorkerAt>>,
    waiting: HashMap<u64, oneshot::Sender<Arc<str>>>,
    seen: watch::Sender<(u32, u32)>,
}

impl Held {
    fn go(&mut self, grants: Vec<Grant>) {
        for grant in grants {
            if let Some(waiting) = self.waiting.remove(&grant.ticket) {
                waiting.send(grant.worker).ok();
            }
        }
        self.seen.send_replace((self.slots.in_flight(), self.slots.queued()));
    }
}

struct Leaves(Arc<Mutex<Held>>, u64);

impl Drop for Leaves {
    fn drop(&mut self) {
        let mut held = self.0.lock().unwrap();
        held.slots.leave("me", self.1);
        held.go(Vec::new());
    }
}

impl Backend for Slotted {
    fn find(&self, endpoint: &EndpointKey) -> Option<Arc<Route>> {
        (*endpoint == self.route.endpoint).then(|| self.route.clone())
    }

    fn knows_routes(&self) -> bool {
        true
    }

    async fn admit(&self, _: &Arc<Route>) -> Result<Slot, Reason> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (sender, granted) = oneshot::channel();
        let arrival = {
            let mut held = self.slots.lock().unwrap();
            let arrival =
                held.slots.arrive(Request { holder: "me".into(), ticket, since_ms: ticket, again: false });
            held.waiting.insert(ticket, sender);
            held.go(Vec::new());
            arrival
        };
        let leaves = Leaves(self.slots.clone(), ticket);
        let worker = match arrival {
            Arrival::Granted(worker) => worker,
            Arrival::Waits => granted.await.map_err(|_| Reason::NoOwner)?,
            Arrival::Full => return Err(Reason::QueueFull),
        };
        drop(leaves);
        let at = self.slots.lock().unwrap().workers[&worker].clone();
        let slots = self.slots.clone();
        Ok(Slot::new(at, move |suspect| {
            let mut held = slots.lock().unwrap();
            if suspect {
                held.slots.open(&worker, false);
            }
            let grants = held.slots.release("me", &worker);
            held.go(grants);
        }))
    }
}

/// A running gateway.
pub struct World {
    pub gateway: Arc<Gateway<Slotted>>,
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub serving: JoinHandle<()>,
}

impl World {
    /// With these workers of the endpoint `rp/chat`.
    pub async fn new(workers: &[SocketAddr]) -> World {
        World::with(workers, route(), Limits::default()).await
    }

    pub async fn with(workers: &[SocketAddr], route: Route, limits: Limits) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        World::on(workers, route, limits, Listener::Plain(listener), address)
    }

    /// One that writes its requests down.
    pub async fn writing(workers: &[SocketAddr], route: Route, access: AccessLog) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        World::start(workers, route, Limits::default(), Some(access), Listener::Plain(listener), address)
    }

    pub fn on(
        workers: &[SocketAddr],
        route: Route,
        limits: Limits,
        on: Listener,
        address: SocketAddr,
    ) -> World {
        World::start(workers, route, limits, None, on, address)
    }

    fn start(
        workers: &[SocketAddr],
        route: Route,
        limits: Limits,
        access: Option<AccessLog>,
        on: Listener,
        address: SocketAddr,
    ) -> World {
        let mut slots = Slots::new(route.concurrency, Limit::Queue(10), BTreeSet::new());
        let names = |at: usize| Arc::<str>::from(format!("w{at}"));
        let open: Vec<_> = (0..workers.len()).map(|at| (names(at), true)).collect();
        slots.update(route.concurrency, Limit::Queue(10), &open);
        let place = |(at, address): (usize, &SocketAddr)| {
            (names(at), Arc::new(WorkerAt { id: names(at), address: *address }))
        };
        let (seen, receiver) = watch::channel((0, 0));
        let workers = workers.iter().enumerate().map(place).collect();
        let held = Held { slots, workers, waiting: HashMap::new(), seen };
        let backend = Slotted {
            route: Arc::new(route),
            slots: Arc::new(Mutex::new(held)),
            tickets: AtomicU64::new(0),
            seen: receiver,
        };
        let gateway = Gateway::new(backend, "gpu.test".to_owned(), limits, access, &Registry::new()).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(gateway.clone().serve(vec![on], stop.clone()));
        World { gateway, address, stop, serving }
    }

    /// Waits until so many requests are in workers, and so many wait.
    pub async fn until(&self, in_flight: u32, queued: u32) {
        let mut seen = self.gateway.backend.seen.clone();
        let what = format!("{in_flight} in flight, {queued} queued");
        soon(&what, seen.wait_for(|it| *it == (in_flight, queued))).await.unwrap();
    }

    pub async fn client(&self) -> Talk {
        Talk::new(TcpStream::connect(self.address).await.unwrap())
    }
}

/// One side of a raw connection.
pub struct Talk<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

impl<S: AsyncReadExt + AsyncWriteExt + Unpin> Talk<S> {
    pub fn new(stream: S) -> Talk<S> {
        Talk { stream, read: Vec::new() }
    }

    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads up to the first `end`, and says what there was with it.
    pub async fn hear(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|it| it == end.as_bytes()) {
                let rest = self.read.split_off(at + end.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            let length = soon(end, self.stream.read_buf(&mut self.read)).await.unwrap_or(0);
            assert!(length > 0, "{end:?} expected, ended with {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    /// All that comes until the other side ends.
    pub async fn hear_all(&mut self) -> String {
        while let 1.. = soon("the end", self.stream.read_buf(&mut self.read)).await.unwrap_or(0) {}
        String::from_utf8(std::mem::take(&mut self.read)).unwrap()
    }
}

/// A worker: `script` is run for each connection.
pub async fn worker<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(Talk) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(Talk::new(stream)));
        }
    });
    address
}

/// A worker that answers every head with `hello`, and what heads it saw.
pub async fn counting() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let address = worker(move |mut talk| {
        let seen = seen.clone();
        async move {
            while let Ok(1..) = talk.stream.read_buf(&mut talk.read).await {
                while let Some(at) = talk.read.windows(4).position(|it| it == b"\r\n\r\n") {
                    let rest = talk.read.split_off(at + 4);
                    let head = String::from_utf8(std::mem::replace(&mut talk.read, rest)).unwrap();
                    seen.lock().unwrap().push(head);
                    talk.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                }
            }
        }
    })
    .await;
    (address, heads)
}

/// Any request's body.
pub type AnyBody = http_body_util::combinators::BoxBody<Bytes, hyper::Error>;

/// Speaks HTTP/2.
pub async fn http2_client<S>(stream: S) -> http2::SendRequest<AnyBody>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub fn empty() -> AnyBody {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}
