//! The operator's end of the line to each gateway: it tells them their routes and hears what there is to do.
//!
//! `routes` makes a route of what is watched, `owners` says which gateway hands out an endpoint's slots, `scale` keeps what
//! was heard and decides how many workers are wanted, `keys` reads who may call. Here: what is published, and the lines. Only
//! the leader runs this.

pub(in crate::controllers) mod keys;
mod owners;
pub(in crate::controllers) mod routes;
pub mod scale;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use prometheus::{IntGauge, Registry};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use self::keys::Keys;
use self::owners::{Owners, SILENT_MS};
use self::scale::{Look, Scale};
use super::Context;
use crate::cluster::read::{ContractRef, Kind};
use crate::link::frame;
use crate::link::message::{EndpointKey, FromGateway, Greeting, Route, Table, ToGateway};
use crate::link::tls;

/// Changes that come within this time are told together.
const GATHER: Duration = Duration::from_millis(5);
/// Owners that say nothing are looked for this often.
const TICK: Duration = Duration::from_millis(250);
/// A new leader waits so long at most for gateways to say what they own.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Names are looked up this often.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// A line says this often that it is alive.
const PING: Duration = Duration::from_secs(1);
/// A line on which nothing comes for so long, or that takes nothing, is down.
const SILENT: Duration = Duration::from_millis(SILENT_MS);
/// The first and the longest wait before a line is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Secrets read at once when this process begins to lead.
const SECRETS_AT_ONCE: usize = 16;

/// How a line to a gateway is opened.
pub trait Dial: Send + Sync + 'static {
    /// Opens a line.
    fn dial(
        &self,
        address: &str,
    ) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send>> + Send;
}

/// What is told to gateways.
#[derive(Debug, Default, Clone, PartialEq)]
struct Published {
    replicas: BTreeMap<String, String>,
    routes: BTreeMap<EndpointKey, Arc<Route>>,
}

struct State {
    owners: Owners,
    /// Who could own something when owners were last given.
    able: Vec<(String, bool)>,
    /// Have all routes been made once?
    made: bool,
    /// Since when this process leads.
    leads: Option<Instant>,
    /// The same, milliseconds since 1970.
    leads_since_ms: u64,
    routes: BTreeMap<EndpointKey, Arc<Route>>,
    /// Addresses that the gateways' names have now.
    addresses: BTreeSet<SocketAddr>,
    settled: bool,
    lines: u64,
}

/// Whom a change concerns.
type OnLook = Arc<dyn Fn(&EndpointKey, Look) + Send + Sync>;

/// What the operator shares with its gateways.
pub struct Link {
    gateways: Vec<String>,
    now: fn() -> Timestamp,
    /// What endpoints have to do.
    pub scale: Scale,
    /// Who may call them.
    pub(in crate::controllers) keys: Keys,
    began: Instant,
    state: Mutex<State>,
    owners_changed: Notify,
    /// Nothing before it is settled who owns what.
    published: watch::Sender<Option<Arc<Published>>>,
    connected: IntGauge,
}

impl Link {
    /// No line yet. `gateways`: `host:port` each; none: there is no gateway.
    pub fn new(
        gateways: Vec<String>,
        now: fn() -> Timestamp,
        registry: &Registry,
    ) -> prometheus::Result<Link> {
        let connected =
            IntGauge::new("tenure_gateways_connected", "Gateways that this leader has a line to")?;
        registry.register(Box::new(connected.clone()))?;
        let state = State {
            owners: Owners::default(),
            able: Vec::new(),
            made: false,
            leads: None,
            leads_since_ms: 0,
            routes: BTreeMap::new(),
            addresses: BTreeSet::new(),
            settled: false,
            lines: 0,
        };
        Ok(Link {
            gateways,
            now,
            scale: Scale::new(now),
            keys: Keys::default(),
            began: Instant::now(),
            state: Mutex::new(state),
            owners_changed: Notify::new(),
            published: watch::Sender::new(None),
            connected,
        })
    }

    /// Is there any gateway?
    pub fn is_configured(&self) -> bool {
        !self.gateways.is_empty()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> T {
        let now_ms = self.now_ms();
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now_ms)
    }

    /// This process leads from now on: its epochs are higher than those of leaders before it.
    fn lead(&self) {
        let epoch = u64::try_from((self.now)().as_millisecond()).unwrap_or(0);
        self.with(|state, _| {
            state.owners.begin_above(epoch);
            state.leads = Some(Instant::now());
            state.leads_since_ms = epoch;
        });
    }

    /// Routes that were made anew; `None`: gone. They are published with their owners.
    fn put(&self, made: Vec<(EndpointKey, Option<Route>)>) {
        self.with(|state, now_ms| {
            state.made = true;
            let mut touched = Vec::new();
            for (endpoint, route) in made {
                if let Some(route) = route {
                    state.routes.insert(endpoint.clone(), Arc::new(route));
                    touched.push(endpoint);
                } else {
                    state.routes.remove(&endpoint);
                    state.owners.forget(&endpoint);
                }
            }
            self.publish(state, now_ms, &touched);
        });
    }

    /// Looks who can still own what it owns, and publishes what has changed.
    fn look(&self) {
        self.with(|state, now_ms| {
            state.owners.sweep(now_ms);
            let number = state.addresses.len();
            let all_there = number > 0 && state.owners.number_reported() >= number;
            let waited = state.leads.is_some_and(|it| it.elapsed() >= SETTLE);
            state.settled |= state.made && (all_there || waited);
            self.publish(state, now_ms, &[]);
        });
    }

    fn publish(&self, state: &mut State, now_ms: u64, touched: &[EndpointKey]) {
        if !state.settled {
            return;
        }
        let able = state.owners.able(now_ms);
        let all: Vec<EndpointKey> = if able == state.able && self.published.borrow().is_some() {
            touched.to_vec()
        } else {
            state.routes.keys().cloned().collect()
        };
        state.able = able;
        for endpoint in all {
            let (owner, epoch) = state.owners.owner_of(&endpoint, now_ms);
            if let Some(route) = state.routes.get_mut(&endpoint)
                && (route.owner != owner || route.epoch != epoch)
            {
                let route = Arc::make_mut(route);
                route.owner = owner;
                route.epoch = epoch;
            }
        }
        let replicas = state.owners.addresses(now_ms);
        self.published.send_if_modified(|before| {
            let same = before.as_ref().is_some_and(|it| it.replicas == replicas && it.routes == state.routes);
            if !same {
                *before = Some(Arc::new(Published { replicas, routes: state.routes.clone() }));
            }
            !same
        });
    }
}

/// What is new for a gateway that was told `before`.
fn news(before: Option<&Published>, after: &Published) -> Option<ToGateway> {
    let Some(before) = before else {
        let routes = after.routes.values().map(|it| (**it).clone()).collect();
        return Some(ToGateway::Snapshot(Table { replicas: after.replicas.clone(), routes }));
    };
    let is_new = |(key, route): &(&EndpointKey, &Arc<Route>)| {
        before.routes.get(*key).is_none_or(|it| !Arc::ptr_eq(it, route) && it != *route)
    };
    let changed: Vec<Route> = after.routes.iter().filter(is_new).map(|(_, it)| (**it).clone()).collect();
    let removed: Vec<EndpointKey> =
        before.routes.keys().filter(|it| !after.routes.contains_key(*it)).cloned().collect();
    let replicas = (before.replicas != after.replicas).then(|| after.replicas.clone());
    (!changed.is_empty() || !removed.is_empty() || replicas.is_some()).then_some(ToGateway::Delta {
        changed,
        removed,
        replicas,
    })
}

/// Runs until told to stop. Without gateways there is nothing to do.
pub async fn run<D: Dial>(context: Arc<Context>, dial: Arc<D>, stop: CancellationToken) {
    if !context.link.is_configured() {
        return;
    }
    let (changes, told) = (context.caches.changes.clone(), context.clone());
    let on_look: OnLook = Arc::new(move |endpoint, look| {
        super::endpoint::heard(&told, endpoint);
        match look {
            Look::Nobody => (),
            Look::Contract => changes.contract(Kind::Endpoint, &endpoint.namespace, &endpoint.name),
            Look::Cards => changes.contract_after_cards(Kind::Endpoint, &endpoint.namespace, &endpoint.name),
        }
    });
    context.link.lead();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_routes(context.clone(), stop.clone()));
    for gateway in context.link.gateways.clone() {
        tasks.spawn(follow(context.clone(), dial.clone(), gateway, on_look.clone(), stop.clone()));
    }
    tasks.spawn(keep_owners(context, stop));
    while tasks.join_next().await.is_some() {}
}

/// Gives endpoints other owners when theirs are gone.
async fn keep_owners(context: Arc<Context>, stop: CancellationToken) {
    keep_owners_of(&context.link, &stop).await;
}

async fn keep_owners_of(link: &Link, stop: &CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = link.owners_changed.notified() => (),
            _ = tick.tick() => (),
        }
        link.look();
    }
}

/// Makes routes anew as what they depend on changes.
async fn keep_routes(context: Arc<Context>, stop: CancellationToken) {
    let changes = context.caches.changes.clone();
    let mut published = context.published.subscribe();
    let mut seen = published.borrow_and_update().clone();
    tokio::select! {
        () = stop.cancelled() => return,
        () = read_all_keys(&context) => (),
    }
    let mut last = Instant::now() - GATHER;
    let mut first = true;
    loop {
        if !first {
            tokio::select! {
                () = stop.cancelled() => return,
                () = changes.routes_changed.notified() => (),
                _ = published.changed() => (),
            }
            tokio::time::sleep_until(last + GATHER).await;
        }
        first = false;
        let dirty = changes.take_routes();
        let latest = published.borrow_and_update().clone();
        let mut todo = dirty.contracts;
        todo.extend(super::changed(&seen, &latest));
        seen = latest;
        if dirty.all {
            todo.extend(super::everything(&context.caches));
            let known = context.link.with(|state, _| state.routes.keys().cloned().collect::<Vec<_>>());
            todo.extend(known.into_iter().map(|it| ContractRef {
                kind: Kind::Endpoint,
                namespace: it.namespace,
                name: it.name,
            }));
        }
        let made = super::with_what_depends(&context.caches, todo)
            .into_iter()
            .filter(|it| it.kind == Kind::Endpoint)
            .map(|it| {
                let route = super::endpoint::route(&context, &it);
                (EndpointKey { namespace: it.namespace, name: it.name }, route)
            })
            .collect();
        context.link.put(made);
        last = Instant::now();
    }
}

/// Before gateways hear anything, it must be known who may call: a route whose keys are not known refuses everybody.
async fn read_all_keys(context: &Context) {
    let endpoints = context.caches.endpoints.all();
    let secrets: BTreeSet<(String, String)> = endpoints
        .iter()
        .filter_map(|it| Some((it.metadata.namespace.clone()?, keys::secret_name(it)?.to_owned())))
        .collect();
    futures::stream::iter(secrets)
        .for_each_concurrent(SECRETS_AT_ONCE, |(namespace, name)| async move {
            context.link.keys.refresh(&context.cluster, &namespace, &name).await;
        })
        .await;
}

/// Keeps a line to every address that a gateway's name has.
async fn follow<D: Dial>(
    context: Arc<Context>,
    dial: Arc<D>,
    gateway: String,
    on_look: OnLook,
    stop: CancellationToken,
) {
    let mut own: BTreeSet<SocketAddr> = BTreeSet::new();
    let mut lines: JoinSet<SocketAddr> = JoinSet::new();
    let mut open: BTreeSet<SocketAddr> = BTreeSet::new();
    let mut tick = tokio::time::interval(RESOLVE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(Ok(ended)) = lines.join_next(), if !lines.is_empty() => {
                open.remove(&ended);
                continue;
            }
            _ = tick.tick() => (),
        }
        match tokio::net::lookup_host(&gateway).await {
            Ok(found) => {
                let found: BTreeSet<SocketAddr> = found.collect();
                context.link.with(|state, _| {
                    state.addresses.retain(|it| !own.contains(it));
                    state.addresses.extend(found.iter().copied());
                });
                own = found;
            }
            // Its addresses are what they were: a name server that is away ends no line.
            Err(error) => tracing::warn!(%error, gateway, "a gateway's name was not found"),
        }
        for address in own.iter().filter(|it| !open.contains(*it)).copied().collect::<Vec<_>>() {
            open.insert(address);
            let (context, dial, on_look, stop) =
                (context.clone(), dial.clone(), on_look.clone(), stop.clone());
            lines.spawn(async move {
                keep_line(&context.link, &*dial, address, &on_look, &stop).await;
                address
            });
        }
    }
    while lines.join_next().await.is_some() {}
}

/// Keeps one line open for as long as its address is a gateway's.
async fn keep_line<D: Dial>(
    link: &Link,
    dial: &D,
    address: SocketAddr,
    on_look: &OnLook,
    stop: &CancellationToken,
) {
    let mut wait = AGAIN.0;
    loop {
        let address_text = address.to_string();
        let opened = tokio::select! {
            () = stop.cancelled() => return,
            opened = tokio::time::timeout(SILENT, dial.dial(&address_text)) => opened,
        };
        match opened {
            Ok(Ok(stream)) => {
                let said_hello = serve(link, stream, &address_text, on_look, stop).await;
                if said_hello {
                    wait = AGAIN.0;
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, %address, "no line to a gateway"),
            Err(_) => tracing::warn!(%address, "no line to a gateway: no answer"),
        }
        if !link.with(|state, _| state.addresses.contains(&address)) {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => (),
        }
        wait = (wait * 2).min(AGAIN.1);
    }
}

/// A gateway on a line; when the line is down it is noted, however that came.
struct Speaker<'a> {
    link: &'a Link,
    line: u64,
    name: String,
}

impl Drop for Speaker<'_> {
    fn drop(&mut self) {
        self.link.connected.dec();
        self.link.with(|state, _| state.owners.down(self.line, &self.name));
        self.link.owners_changed.notify_one();
    }
}

/// Talks on one line until it is down. True when a gateway was there.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    link: &Link,
    stream: S,
    address: &str,
    on_look: &OnLook,
    stop: &CancellationToken,
) -> bool {
    let (from, mut to) = tokio::io::split(stream);
    let greeting = Greeting::Leader { since_ms: link.with(|state, _| state.leads_since_ms) };
    if frame::write(&mut to, &greeting).await.is_err() {
        return false;
    }
    // A stream, so that a message that is half read when something else happens is not lost.
    let mut incoming = pin!(futures::stream::unfold(from, |mut from| async move {
        let message = frame::read::<FromGateway>(&mut from).await.transpose()?;
        Some((message, from))
    }));
    let mut published = link.published.subscribe();
    // What is there now counts as new.
    published.mark_changed();
    let mut told: Option<Arc<Published>> = None;
    let mut speaker: Option<Speaker> = None;
    let mut ping = tokio::time::interval(PING);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            () = stop.cancelled() => return speaker.is_some(),
            () = tokio::time::sleep_until(heard + SILENT) => {
                tracing::warn!(address, "a gateway says nothing");
                return speaker.is_some();
            }
            message = incoming.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(message)) => {
                        if !listen(link, message, address, &mut speaker, on_look) {
                            return speaker.is_some();
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(%error, address, "a line to a gateway broke");
                        return speaker.is_some();
                    }
                    None => return speaker.is_some(),
                }
                continue;
            }
            Ok(()) = published.changed(), if speaker.is_some() => {
                let latest = published.borrow_and_update().clone();
                let message = latest.as_ref().and_then(|it| news(told.as_deref(), it));
                told = latest.or(told);
                message
            }
            _ = ping.tick(), if speaker.is_some() => Some(ToGateway::Ping),
        };
        if let Some(message) = message {
            let written = tokio::time::timeout(SILENT, frame::write(&mut to, &message)).await;
            if !matches!(written, Ok(Ok(()))) {
                tracing::warn!(address, "a line to a gateway takes nothing");
                return speaker.is_some();
            }
        }
    }
}

/// Takes in what a gateway says. False when it makes no sense.
fn listen<'a>(
    link: &'a Link,
    message: FromGateway,
    address: &str,
    speaker: &mut Option<Speaker<'a>>,
    on_look: &OnLook,
) -> bool {
    match (message, speaker.as_ref()) {
        (FromGateway::Hello { replica, epoch_seen }, None) => {
            tracing::info!(replica, address, "a gateway is there");
            let number = link.with(|state, now_ms| {
                state.lines += 1;
                state.owners.hello(state.lines, &replica, address, epoch_seen, now_ms);
                state.lines
            });
            link.connected.inc();
            *speaker = Some(Speaker { link, line: number, name: replica });
            link.owners_changed.notify_one();
            true
        }
        (FromGateway::Demand(demands), Some(it)) => {
            let (mine, new_leader) = link.with(|state, now_ms| {
                state.owners.heard(it.line, &it.name, now_ms);
                let new_leader = !state.settled;
                let owners = &mut state.owners;
                let mut mine = demands;
                mine.retain(|demand| owners.claims(&it.name, &demand.endpoint, demand.epoch, new_leader));
                owners.reported(&it.name);
                (mine, new_leader)
            });
            if new_leader {
                link.owners_changed.notify_one();
            }
            for demand in mine {
                let endpoint = demand.endpoint.clone();
                on_look(&endpoint, link.scale.hear(demand));
            }
            true
        }
        (FromGateway::Leaving, Some(it)) => {
            tracing::info!(replica = it.name, "a gateway leaves");
            link.with(|state, _| state.owners.leaving(it.line, &it.name));
            link.owners_changed.notify_one();
            true
        }
        (FromGateway::Hello { .. }, Some(_)) | (FromGateway::Demand(_) | FromGateway::Leaving, None) => {
            tracing::warn!(address, "a gateway speaks out of turn");
            false
        }
    }
}

impl Dial for tls::Identity {
    async fn dial(&self, address: &str) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
        self.connect(address).await
    }
}
