//! The one loop that decides about cards: adopt nodes, take a snapshot, plan, move, publish.
//!
//! It never acts on a view older than its own last write: the node that a write returned is kept until the watch has
//! caught up with it.

mod inventory;
mod moves;
mod nodes;
mod snapshot;

pub(super) use snapshot::{card_resource, cards_of, given, is_whole};

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::ResourceExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Context, Loop, Published, market};
use crate::cluster::read::Caches;
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::cluster::write;
use crate::domain::allocate::{Excess, plan};
use crate::domain::book::{Share, Shares};

/// Nodes written to at once.
const NODES_AT_ONCE: usize = 16;
/// Changes that come within this time are planned together.
const GATHER: Duration = Duration::from_millis(50);
/// And within this, however large the fleet is.
const GATHER_MOST: Duration = Duration::from_millis(500);
/// A node that could not be adopted so often is no longer waited for.
const ADOPTION_TRIES: u32 = 6;
/// It looks at everything again after this, whatever happened.
const RESYNC: Duration = Duration::from_secs(10);

/// A node's name, and how a write to it ended.
type Written = (String, Result<SlimNode, write::Error>);

/// Our own last write of each node, until the watch shows it.
type Newest = HashMap<String, SlimNode>;

/// Nodes that could not be written to, and when they are tried again: ever later, and without holding up the others.
#[derive(Default)]
struct Trouble(HashMap<String, (Instant, u32)>);

impl Trouble {
    fn has(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|(until, _)| *until > Instant::now())
    }

    fn failures(&self, node: &str) -> u32 {
        self.0.get(node).map_or(0, |(_, failures)| *failures)
    }

    fn add(&mut self, node: &str) {
        let failures = self.failures(node) + 1;
        let wait = Duration::from_millis(100 * 2_u64.pow(failures.min(9))).min(Duration::from_secs(30));
        self.0.insert(node.to_owned(), (Instant::now() + wait, failures));
    }

    fn next(&self) -> Instant {
        let resync = Instant::now() + RESYNC;
        self.0
            .values()
            .map(|(until, _)| *until)
            .filter(|it| *it > Instant::now())
            .min()
            .map_or(resync, |it| it.min(resync))
    }
}

/// Runs until told to stop; a pass under way is finished first.
pub async fn run(context: Arc<Context>, beat: Arc<impl Fn(Loop)>, stop: CancellationToken) {
    let mut newest = Newest::new();
    let mut trouble = Trouble::default();
    let mut gather = GATHER;
    let mut last = Instant::now() - GATHER;
    loop {
        beat(Loop::Allocator);
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.caches.changes.cards_changed.notified() => (),
            () = tokio::time::sleep_until(trouble.next()) => (),
        }
        // The first change is planned at once, what follows is gathered.
        tokio::time::sleep_until(last + gather).await;
        // The more there is to plan, the more changes one plan answers: planning takes a tenth of a core at most.
        gather = (pass(&context, &mut newest, &mut trouble).await * 9).clamp(GATHER, GATHER_MOST);
        last = Instant::now();
    }
}

/// One pass; how long it thought.
async fn pass(context: &Context, newest: &mut Newest, trouble: &mut Trouble) -> Duration {
    let nodes = newest_nodes(context, newest);
    trouble.0.retain(|name, _| nodes.iter().any(|it| it.name_any() == *name));
    let matched = nodes::matched(&context.caches, &nodes);

    // Labels and taints first: a node whose taint is not there yet can still get foreign pods.
    let mut changes = nodes::changes(&context.caches, &nodes, &matched);
    changes.retain(|(node, _)| !trouble.has(&node.name_any()));
    let adopted: Vec<Written> = futures::stream::iter(changes)
        .map(|(node, change)| async move {
            (node.name_any(), nodes::write(&context.cluster, &node, &change).await)
        })
        .buffer_unordered(NODES_AT_ONCE)
        .collect()
        .await;
    note(adopted, newest, trouble);
    let began_planning = Instant::now();

    let nodes = newest_nodes(context, newest);
    market::set_prices(context);
    let taken = snapshot::take(context, &nodes);
    let planned = plan(&taken.snapshot);
    let published = Published {
        outcomes: taken.by_contract(&planned),
        cards: inventory::count(&context.caches, &taken.snapshot),
        coming: matched.coming(&nodes, |name| trouble.failures(name) < ADOPTION_TRIES),
        conflicts: matched.conflicts,
    };
    context.published.send_if_modified(|it| {
        let new = **it != published;
        if new {
            *it = Arc::new(published);
        }
        new
    });

    // Who waits for an answer looks now, also when the answer is as before.
    if context.caches.changes.any() {
        context.caches.changes.contracts_changed.notify_one();
    }

    let thought = began_planning.elapsed();

    let by_name: HashMap<String, Arc<SlimNode>> = nodes.into_iter().map(|it| (it.name_any(), it)).collect();
    let moved: Vec<Written> = futures::stream::iter(planned.moves.iter().filter(|it| !trouble.has(&it.node)))
        .filter_map(|step| {
            let node = by_name.get(&step.node).cloned();
            let resource = node.as_ref().and_then(|it| snapshot::card_resource(it));
            let owner = step
                .given
                .as_ref()
                .and_then(|it| taken.contract(&it.group))
                .map(|it| (it.namespace.clone(), it.name.clone()));
            async move { Some((step, node?, resource?, owner)) }
        })
        .map(|(step, node, resource, owner)| async move {
            (step.node.clone(), moves::execute(&context.cluster, &node, &resource, step, owner).await)
        })
        .buffer_unordered(NODES_AT_ONCE)
        .collect()
        .await;
    let version = |it: &SlimNode| it.metadata.resource_version.clone();
    let any = moved.iter().any(|(name, it)| {
        it.as_ref().is_ok_and(|it| by_name.get(name).is_none_or(|before| version(before) != version(it)))
    });
    note(moved, newest, trouble);
    if any {
        // What was moved is news for the contracts, and may be the room that another one waits for.
        context.caches.changes.cards_changed.notify_one();
    }
    for excess in &planned.excess {
        free_excess(context, excess).await;
    }
    thought
}

/// The nodes as the watch shows them, or as we wrote them when that is newer.
fn newest_nodes(context: &Context, newest: &mut Newest) -> Vec<Arc<SlimNode>> {
    let version = |it: &SlimNode| {
        it.metadata.resource_version.as_deref().and_then(|it| it.parse::<u64>().ok()).unwrap_or(0)
    };
    let watched = context.caches.nodes.all();
    let mut nodes: Vec<Arc<SlimNode>> = Vec::with_capacity(watched.len());
    let mut kept = Newest::new();
    for node in watched {
        match newest.remove(&node.name_any()) {
            Some(ours) if version(&ours) > version(&node) && ours.metadata.uid == node.metadata.uid => {
                nodes.push(Arc::new(ours.clone()));
                kept.insert(node.name_any(), ours);
            }
            _ => nodes.push(node),
        }
    }
    *newest = kept;
    nodes.sort_by_key(|it| it.name_any());
    nodes
}

/// Keeps what was written, and remembers what was not.
fn note(results: Vec<Written>, newest: &mut Newest, trouble: &mut Trouble) {
    for (name, result) in results {
        match result {
            Ok(node) => {
                trouble.0.remove(&name);
                newest.insert(name, node);
            }
            Err(error) => {
                // After a conflict the newer version is on its way through the watch.
                if !matches!(error, write::Error::Conflict | write::Error::NotFound) {
                    tracing::warn!(%error, node = name, "a node was not written");
                }
                trouble.add(&name);
            }
        }
    }
}

/// A pod was bound while its share shrank: the youngest workers make room. They have just begun, and are started again.
async fn free_excess(context: &Context, excess: &Excess) {
    let resource = excess.share.resource();
    let mut pods: Vec<Arc<SlimPod>> = context.caches.pods.under(&format!("node/{}", excess.node));
    pods.retain(|it| it.requests(&resource) > 0 && !it.is_over());
    pods.sort_by_key(|it| std::cmp::Reverse(it.metadata.creation_timestamp.clone()));
    let mut left = excess.cards;
    for pod in pods.iter().filter(|it| it.metadata.deletion_timestamp.is_some()) {
        left = left.saturating_sub(pod.requests(&resource));
    }
    for pod in pods.iter().filter(|it| it.metadata.deletion_timestamp.is_none()) {
        if left == 0 {
            return;
        }
        tracing::warn!(
            pod = pod.name_any(),
            node = excess.node,
            share = resource,
            "was bound beyond its share and is started again"
        );
        match context.cluster.delete_pod(pod).await {
            Ok(()) => left = left.saturating_sub(pod.requests(&resource)),
            Err(error) => tracing::warn!(%error, pod = pod.name_any(), "was not deleted"),
        }
    }
}

/// Has the contract any card left, on any node?
pub(super) fn holds(caches: &Caches, share: &Share) -> bool {
    let some = |it: &Shares| it.get(share) > 0;
    caches
        .nodes
        .all()
        .iter()
        .any(|node| some(&shares_of(node)) || snapshot::book(node).as_ref().is_some_and(some))
}

/// The shares in a node's capacity.
fn shares_of(node: &SlimNode) -> Shares {
    node.status
        .capacity
        .iter()
        .filter_map(|(name, amount)| Some((Share::parse(name)?, snapshot::whole(&amount.0))))
        .collect()
}
