//! Thin shells around `domain`: two loops over what is watched.
//!
//! `allocator` decides about cards for all contracts at once. The contracts' loop here looks at each contract that has
//! changed: the files of its kind (`pool`, `group`, `spot`, `endpoint`) say what it wants of the allocator, what it runs and
//! what it reports. `link` tells gateways their routes and hears what there is to do. A contract that fails is tried again by itself, later and later, and never stops the others.

pub mod allocator;
pub mod catalogue;
pub mod endpoint;
pub mod facts;
pub mod group;
pub mod link;
pub mod market;
pub mod money;
pub mod node_notice;
pub mod notify;
pub mod pool;
pub mod quote;
pub mod spot;
pub mod status;
pub mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::CardTypeStatus;
use crate::api::endpoint::WorkerCounts;
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::{Cluster, write};
use crate::domain::allocate::Outcome;
use crate::domain::node_notice::Mark;

/// Contracts looked at at once.
const CONTRACTS_AT_ONCE: usize = 32;
/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(10);
/// Everything is looked at again after this, whatever happened: watches may have missed something.
const RESYNC: Duration = Duration::from_mins(5);
/// Schedules and drains are looked at this often.
const TICK: Duration = Duration::from_secs(5);
/// Counts of cards are written no more often than this.
const CATALOGUE_EVERY: Duration = Duration::from_secs(1);
/// A contract whose pods did not end by themselves for so long is as good as new.
const FORGET_SETBACKS: Duration = Duration::from_mins(15);
/// After so many pods that ended by themselves the next one is expected to do so too.
const CRASHES: u32 = 2;

/// What all controllers share.
pub struct Context {
    /// The API server.
    pub cluster: Cluster,
    /// What is watched.
    pub caches: Caches,
    /// The clock.
    pub now: fn() -> Timestamp,
    /// When it was by our clock when the API server's showed this: they differ only where tests move time.
    pub on_our_clock: fn(Timestamp) -> Timestamp,
    /// Which marks on a node mean that it goes away.
    pub marks: Vec<Mark>,
    /// What is bought.
    pub money: money::Money,
    /// What is known of spot markets.
    pub markets: market::Markets,
    /// What the allocator last found.
    pub published: watch::Sender<Arc<Published>>,
    /// What owners are told, on its way to them.
    pub notices: notify::Notices,
    /// What is shared with gateways.
    pub link: link::Link,
    /// How endpoints are called from outside.
    pub urls: Urls,
    /// Passes by kind and outcome.
    passes: IntCounterVec,
    /// Cards by card type and state.
    cards: IntGaugeVec,
    /// When contracts that wait or failed are looked at again.
    again: Mutex<HashMap<ContractRef, Retry>>,
    /// Contracts that are on their way without their status saying so.
    fresh: Mutex<status::Fresh>,
    /// Contracts whose pods end by themselves.
    setbacks: Mutex<HashMap<ContractRef, Setback>>,
    /// Endpoints' PodDisruptionBudgets as last written or seen: most workers that must stay.
    budgets: Mutex<HashMap<ContractRef, u32>>,
    /// Workers of all endpoints, by state.
    workers: IntGaugeVec,
    /// What each endpoint adds to it.
    worker_counts: Mutex<HashMap<ContractRef, WorkerCounts>>,
    /// How long workers take to start.
    starts: endpoint::Starts,
    /// How long workers are in which state.
    seconds: endpoint::WorkerSeconds,
    /// Workers that the watch has yet to show.
    awaited: endpoint::Awaited,
}

/// Our clock, and the API server's by ours.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// Now.
    pub now: fn() -> Timestamp,
    /// When it was by our clock when the API server's showed this.
    pub of_api_server: fn(Timestamp) -> Timestamp,
}

/// What the controllers are told at start.
pub struct Settings {
    /// The clocks.
    pub clocks: Clocks,
    /// Which marks on a node mean that it goes away.
    pub marks: Vec<Mark>,
    /// The gateways' link ports, `host:port`.
    pub gateways: Vec<String>,
    /// How endpoints are called from outside.
    pub urls: Urls,
    /// What owners are told with.
    pub senders: notify::Senders,
    /// Networks from which feeds are read although they would be refused otherwise.
    pub allowed: Vec<ipnet::IpNet>,
}

/// How endpoints are called from outside.
#[derive(Debug, Clone, Default)]
pub struct Urls {
    /// The gateways' domain.
    pub domain: Option<String>,
    /// `http` or `https`.
    pub scheme: String,
}

/// What the allocator last found.
#[derive(Default, PartialEq)]
pub struct Published {
    /// By contract.
    pub outcomes: HashMap<ContractRef, Outcome>,
    /// By card type: what there is.
    pub cards: BTreeMap<String, CardTypeStatus>,
    /// Card types that match a node which another one matches too, and that node.
    pub conflicts: BTreeMap<String, String>,
    /// Card types of which a node is being adopted: a shortage of theirs may be over in a moment, so it refuses nobody yet.
    pub coming: BTreeSet<String>,
}

struct Retry {
    at: tokio::time::Instant,
    failures: u32,
}

/// Pods of a contract that ended by themselves, one after the other.
struct Setback {
    /// Of which template: another one is a new try.
    version: String,
    count: u32,
    last: tokio::time::Instant,
}

impl Setback {
    fn left(&self) -> Option<Duration> {
        self.wait().checked_sub(self.last.elapsed())
    }

    fn wait(&self) -> Duration {
        Duration::from_secs(2_u64.pow(self.count.min(9))).min(Duration::from_mins(5))
    }
}

/// Why a pass over a contract did not come to its end; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write of what the contract runs.
    #[error("apply: {0}")]
    Apply(write::Error),
    /// The write of its status.
    #[error("write status: {0}")]
    WriteStatus(write::Error),
    /// A write to the ledger.
    #[error("write to the ledger: {0}")]
    Ledger(crate::ledger::Error),
    /// What an amount is made of.
    #[error("compute an amount: {0}")]
    Amount(String),
    /// It took too long.
    #[error("no answer within 60 s")]
    Slow,
}

/// How a pass ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing more to do until something changes.
    Settled,
    /// Look again after this, whatever happens.
    LookAgain(Duration),
}

impl Context {
    /// Makes the context and registers its metrics.
    pub fn new(
        cluster: Cluster,
        caches: Caches,
        settings: Settings,
        registry: &Registry,
    ) -> prometheus::Result<Context> {
        let Settings { clocks, marks, gateways, urls, senders, allowed } = settings;
        let passes = IntCounterVec::new(
            Opts::new("tenure_passes_total", "Passes over contracts, by kind and how they ended"),
            &["kind", "outcome"],
        )?;
        registry.register(Box::new(passes.clone()))?;
        let cards = IntGaugeVec::new(
            Opts::new(
                "tenure_cards",
                "Cards of managed nodes, by card type and state; free ones are shared too",
            ),
            &["card_type", "state"],
        )?;
        registry.register(Box::new(cards.clone()))?;
        let workers = IntGaugeVec::new(
            Opts::new("tenure_endpoint_workers", "Workers of all endpoints, by state"),
            &["state"],
        )?;
        registry.register(Box::new(workers.clone()))?;
        Ok(Context {
            cluster,
            caches,
            now: clocks.now,
            on_our_clock: clocks.of_api_server,
            marks,
            money: money::Money::default(),
            markets: market::Markets::new(allowed),
            published: watch::Sender::default(),
            notices: notify::Notices::new(senders, registry)?,
            link: link::Link::new(gateways, clocks.now, registry)?,
            urls,
            passes,
            cards,
            again: Mutex::default(),
            fresh: Mutex::default(),
            setbacks: Mutex::default(),
            budgets: Mutex::default(),
            workers,
            worker_counts: Mutex::default(),
            starts: endpoint::Starts::new(registry)?,
            seconds: endpoint::WorkerSeconds::new(registry)?,
            awaited: endpoint::Awaited::default(),
        })
    }

    /// For a contract that is on its way: how long until its status has to say so.
    pub(in crate::controllers) fn still_fresh(
        &self,
        contract: &ContractRef,
        on_its_way: bool,
    ) -> Option<Duration> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        if on_its_way {
            return fresh.left(contract);
        }
        fresh.arrived(contract);
        None
    }

    /// Notes that a pod of the contract ended by itself. `version`: of its template.
    pub(in crate::controllers) fn note_setback(&self, contract: &ContractRef, version: &str) {
        let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.retain(|_, it| it.last.elapsed() < FORGET_SETBACKS);
        let last = tokio::time::Instant::now();
        let setback = setbacks.entry(contract.clone()).or_insert(Setback {
            version: version.to_owned(),
            count: 0,
            last,
        });
        if setback.version != version {
            *setback = Setback { version: version.to_owned(), count: 0, last };
        }
        setback.count += 1;
        setback.last = last;
    }

    /// How long to wait before a pod of the contract is started again: ever longer while they end by themselves.
    pub(in crate::controllers) fn setback(&self, contract: &ContractRef, version: &str) -> Option<Duration> {
        let setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.get(contract).filter(|it| it.version == version)?.left()
    }

    /// Have pods of the contract ended by themselves, one after the other, so that the next one may well do so too?
    pub(in crate::controllers) fn is_crashing(&self, contract: &ContractRef, version: &str) -> bool {
        let setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = setbacks.get(contract).filter(|it| it.version == version);
        known.is_some_and(|it| it.count >= CRASHES && it.last.elapsed() < FORGET_SETBACKS)
    }

    /// Notes how many workers an endpoint has, for the metrics.
    pub(in crate::controllers) fn count_workers(&self, contract: &ContractRef, counts: Option<WorkerCounts>) {
        let mut all = self.worker_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match counts {
            Some(counts) => all.insert(contract.clone(), counts),
            None => all.remove(contract),
        };
        let (before, after) = (before.unwrap_or_default(), counts.unwrap_or_default());
        for (state, before, after) in [
            ("wanted", before.wanted, after.wanted),
            ("ready", before.ready, after.ready),
            ("starting", before.starting, after.starting),
            ("draining", before.draining, after.draining),
        ] {
            self.workers.with_label_values(&[state]).add(i64::from(after) - i64::from(before));
        }
    }

    /// What the API server's clock shows now, by which nodes' times go.
    pub(in crate::controllers) fn api_server_now(&self) -> Timestamp {
        let now = (self.now)();
        let ahead = (self.on_our_clock)(now).duration_since(now);
        now.checked_sub(ahead).unwrap_or(now)
    }

    /// What the allocator last said of a contract; `None` before it has looked at it.
    pub fn outcome(&self, kind: Kind, namespace: &str, name: &str) -> Option<Outcome> {
        let contract = ContractRef { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.published.borrow().outcomes.get(&contract).cloned()
    }
}

/// The loops; each says regularly that it has come round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// Decides about cards.
    Allocator,
    /// Looks after contracts.
    Contracts,
    /// Writes down what is metered, and bills it.
    Metering,
    /// Empties nodes that go away.
    NodeNotices,
    /// Tells owners.
    Notices,
}

impl Loop {
    /// All of them, in their order.
    pub const ALL: [Loop; 5] =
        [Loop::Allocator, Loop::Contracts, Loop::Metering, Loop::NodeNotices, Loop::Notices];
}

/// Runs all controllers until they are told to stop. The caches must be complete.
/// `dial` opens lines to gateways; without it there are none.
pub async fn run<D: link::Dial>(
    context: Arc<Context>,
    dial: Option<Arc<D>>,
    beat: Arc<impl Fn(Loop)>,
    stop: CancellationToken,
) {
    // Who may be told to go for a purchase depends on who can pay for it.
    money::accounts::read_all(&context).await;
    let lines = async {
        if let Some(dial) = dial {
            link::run(context.clone(), dial, stop.clone()).await;
        }
    };
    tokio::join!(
        allocator::run(context.clone(), beat.clone(), stop.clone()),
        contracts(context.clone(), beat.clone(), stop.clone()),
        money::metering::run(context.clone(), beat.clone(), stop.clone()),
        market::run(context.clone(), stop.clone()),
        node_notice::run(context.clone(), beat.clone(), stop.clone()),
        notify::run(context.clone(), beat, stop.clone()),
        lines
    );
}

/// Looks after contracts: each by itself, so that a slow one (a namespace whose admission hangs, say) delays no other.
async fn contracts(context: Arc<Context>, beat: Arc<impl Fn(Loop)>, stop: CancellationToken) {
    let changes = context.caches.changes.clone();
    let mut published = context.published.subscribe();
    let mut seen = published.borrow_and_update().clone();
    let mut tick = tokio::time::interval(TICK);
    let mut last_all = tokio::time::Instant::now() - RESYNC;
    let mut waiting: BTreeSet<ContractRef> = BTreeSet::new();
    let mut under_way: HashSet<ContractRef> = HashSet::new();
    let mut passes: JoinSet<ContractRef> = JoinSet::new();
    let mut catalogue_due = true;
    let mut last_catalogue = last_all;
    let mut last_look = last_all;
    loop {
        beat(Loop::Contracts);
        let news = tokio::select! {
            () = stop.cancelled() => break,
            () = changes.contracts_changed.notified() => true,
            _ = published.changed() => true,
            _ = tick.tick() => true,
            () = tokio::time::sleep_until(next_due(&context)) => true,
            () = tokio::time::sleep_until(last_catalogue + CATALOGUE_EVERY), if catalogue_due => true,
            Some(Ok(done)) = passes.join_next(), if !passes.is_empty() => {
                under_way.remove(&done);
                false
            }
        };
        if news {
            // The first change is acted on at once, what follows is gathered.
            tokio::time::sleep_until(last_look + GATHER).await;
            let dirty = changes.take();
            let latest = published.borrow_and_update().clone();
            let all = dirty.all || last_all.elapsed() >= RESYNC;
            let mut todo = dirty.contracts;
            todo.extend(changed(&seen, &latest));
            if seen.coming != latest.coming {
                todo.extend(buyers(&context.caches));
            }
            todo.extend(due(&context));
            if all {
                last_all = tokio::time::Instant::now();
                todo.extend(everything(&context.caches));
            }
            waiting.extend(with_what_depends(&context.caches, todo));
            catalogue_due |= context.money.take_changed();
            catalogue_due |= all || seen.cards != latest.cards || seen.conflicts != latest.conflicts;
            if catalogue_due && (all || last_catalogue.elapsed() >= CATALOGUE_EVERY) {
                catalogue_due = !catalogue::report(&context).await;
                // Before the allocator has said anything there was little to report: what it says then comes at once.
                if catalogue_due || *latest != Published::default() {
                    last_catalogue = tokio::time::Instant::now();
                }
            }
            seen = latest;
            last_look = tokio::time::Instant::now();
        }
        // One pass over a contract at a time; what changes meanwhile waits for the next.
        let ready: Vec<ContractRef> = waiting
            .iter()
            .filter(|it| !under_way.contains(*it))
            .take(CONTRACTS_AT_ONCE.saturating_sub(under_way.len()))
            .cloned()
            .collect();
        for contract in ready {
            waiting.remove(&contract);
            under_way.insert(contract.clone());
            let context = context.clone();
            passes.spawn(async move {
                pass(&context, &contract).await;
                // What a pass has learned (a setback, the time of a schedule's rule) may be another route.
                if contract.kind == Kind::Endpoint {
                    context.caches.changes.route(contract.clone());
                }
                contract
            });
        }
    }
    while passes.join_next().await.is_some() {}
}

/// What is bound to a pool or group depends on it.
fn with_what_depends(caches: &Caches, todo: BTreeSet<ContractRef>) -> BTreeSet<ContractRef> {
    let mut all = todo.clone();
    for contract in todo {
        let index = match contract.kind {
            Kind::Pool => format!("pool/{}/{}", contract.namespace, contract.name),
            Kind::Group => format!("group/{}/{}", contract.namespace, contract.name),
            Kind::Spot | Kind::Endpoint => continue,
        };
        all.extend(caches.endpoints.under(&index).iter().map(|it| reference(Kind::Endpoint, &**it)));
    }
    all
}

/// Looks at one contract and notes how it went.
async fn pass(context: &Context, contract: &ContractRef) {
    let reconciled = async {
        match contract.kind {
            Kind::Pool => pool::reconcile(context, contract).await,
            Kind::Group => group::reconcile(context, contract).await,
            Kind::Spot => spot::reconcile(context, contract).await,
            Kind::Endpoint => endpoint::reconcile(context, contract).await,
        }
    };
    let result = tokio::time::timeout(Duration::from_mins(1), reconciled).await.unwrap_or(Err(Error::Slow));
    let now = tokio::time::Instant::now();
    let mut again = context.again.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = match result {
        Ok(Done::Settled) => {
            again.remove(contract);
            "applied"
        }
        Ok(Done::LookAgain(wait)) => {
            again.insert(contract.clone(), Retry { at: now + wait, failures: 0 });
            "waiting"
        }
        Err(error) => {
            let failures = again.get(contract).map_or(0, |it| it.failures) + 1;
            let wait = Duration::from_millis(100 * 2_u64.pow(failures.min(10))).min(Duration::from_mins(1));
            again.insert(contract.clone(), Retry { at: now + wait, failures });
            // A conflict is the ordinary way of learning that the view was old.
            let ordinary = matches!(
                error,
                Error::Apply(write::Error::Conflict) | Error::WriteStatus(write::Error::Conflict)
            );
            if ordinary {
                tracing::debug!(?contract, %error, "pass failed");
            } else {
                tracing::warn!(?contract, %error, failures, "pass failed");
            }
            "failed"
        }
    };
    drop(again);
    context.passes.with_label_values(&[kind_label(contract.kind), outcome]).inc();
}

pub(in crate::controllers) fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Pool => "ResidentPool",
        Kind::Group => "DedicatedGroup",
        Kind::Spot => "SpotServer",
        Kind::Endpoint => "ServerlessEndpoint",
    }
}

/// When the next contract is due that is looked at again.
fn next_due(context: &Context) -> tokio::time::Instant {
    let again = context.again.lock().unwrap_or_else(PoisonError::into_inner);
    again.values().map(|it| it.at).min().unwrap_or_else(|| tokio::time::Instant::now() + RESYNC)
}

/// Contracts that are due. Until their pass has ended they are not due again.
fn due(context: &Context) -> Vec<ContractRef> {
    let now = tokio::time::Instant::now();
    let mut again = context.again.lock().unwrap_or_else(PoisonError::into_inner);
    let mut found = Vec::new();
    for (contract, retry) in again.iter_mut().filter(|(_, it)| it.at <= now) {
        retry.at = now + RESYNC;
        found.push(contract.clone());
    }
    found
}

/// Contracts of which the allocator says something new.
fn changed(before: &Published, after: &Published) -> Vec<ContractRef> {
    let gone = before.outcomes.keys().filter(|it| !after.outcomes.contains_key(*it));
    let new = after
        .outcomes
        .iter()
        .filter(|(contract, outcome)| before.outcomes.get(contract) != Some(outcome))
        .map(|(contract, _)| contract);
    gone.chain(new).cloned().collect()
}

/// Who may have been spared a refusal because cards were coming.
fn buyers(caches: &Caches) -> impl Iterator<Item = ContractRef> {
    everything(caches).into_iter().filter(|it| matches!(it.kind, Kind::Pool | Kind::Group))
}

fn everything(caches: &Caches) -> Vec<ContractRef> {
    let pools = caches.pools.all();
    let groups = caches.groups.all();
    let spots = caches.spots.all();
    let endpoints = caches.endpoints.all();
    let mut all: Vec<ContractRef> = pools.iter().map(|it| reference(Kind::Pool, &**it)).collect();
    all.extend(groups.iter().map(|it| reference(Kind::Group, &**it)));
    all.extend(spots.iter().map(|it| reference(Kind::Spot, &**it)));
    all.extend(endpoints.iter().map(|it| reference(Kind::Endpoint, &**it)));
    all
}

/// How a contract is called here.
pub fn reference<K: kube::Resource>(kind: Kind, object: &K) -> ContractRef {
    let meta = object.meta();
    ContractRef {
        kind,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}
