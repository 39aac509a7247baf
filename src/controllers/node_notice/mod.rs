//! Nodes that go away: the loop that notes their notices, cordons them, empties them, and undoes it when a notice is withdrawn.
//!
//! What is noted on the node (`tenure.dev/notice`) is what all others go by: the allocator replaces cards of pools, endpoints
//! replace their workers. What marks mean, and who goes when, is decided in `domain::node_notice`; `empty` carries it out.

mod empty;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Context, Loop, TICK};
use crate::api::names;
use crate::cluster::read::{Caches, Kind};
use crate::cluster::slim::SlimNode;
use crate::cluster::write::{self, NodeChange};
use crate::domain::node_notice::{self, Mark, Notice, Place, Sign, Unreadable};
use empty::Asked;
pub(super) use empty::grace_seconds;

/// Nodes looked after at once.
const NODES_AT_ONCE: usize = 16;
/// Changes that come within this time are looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// All nodes are looked at again after this, whatever happened.
const RESYNC: Duration = Duration::from_mins(1);
/// A node that could not be written is tried again after this.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// What stands in `names::DRAINED_FOR` on a node that was cordoned because of a notice.
const MARK: &str = "notice";

/// A notice as it is noted on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    cause: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Timestamp>,
    /// When it was first seen.
    since: Timestamp,
}

/// The notice that is acted on; `None` for a node that stays.
pub(super) fn noted(node: &SlimNode) -> Option<Notice> {
    read(node).map(|it| Notice { cause: it.cause, deadline: it.deadline })
}

fn read(node: &SlimNode) -> Option<Noted> {
    serde_json::from_str(node.annotations().get(names::NOTICE)?).ok()
}

/// What must be written to a node.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be.
    Nothing,
    /// It goes away, or at another time than is noted.
    Note(Noted),
    /// It stays after all.
    Withdraw,
}

/// `now` is the clock that the node's own times come from.
fn step(marks: &[Mark], node: &SlimNode, now: Timestamp) -> (Step, Vec<Unreadable>) {
    let before = read(node);
    let now = now.round(jiff::Unit::Second).unwrap_or(now);
    let since = before.as_ref().map_or(now, |it| it.since);
    let is_managed = node.labels().contains_key(names::CARD_TYPE);
    let (notice, unreadable) = node_notice::read(marks, &signs(node), since);
    let is_noted = node.annotations().contains_key(names::NOTICE);
    let step = match notice.filter(|_| is_managed) {
        Some(Notice { cause, deadline }) => {
            let after = Noted { cause, deadline, since };
            if before.as_ref() == Some(&after) { Step::Nothing } else { Step::Note(after) }
        }
        None if is_noted => Step::Withdraw,
        None => Step::Nothing,
    };
    (step, unreadable)
}

/// All on a node that may be a mark.
fn signs(node: &SlimNode) -> Vec<Sign> {
    let sign = |place, key: &str, value: &str, since: Option<Timestamp>| Sign {
        place,
        key: key.to_owned(),
        value: value.to_owned(),
        since,
    };
    let taints = node.spec.taints.iter().map(|it| {
        let since = it.time_added.as_ref().map(|it| it.0);
        sign(Place::Taint, &it.key, it.value.as_deref().unwrap_or_default(), since)
    });
    let conditions = node.status.conditions.iter().map(|it| {
        sign(Place::Condition, &it.type_, &it.status, it.last_transition_time.as_ref().map(|it| it.0))
    });
    let labels = node.labels().iter().map(|(key, value)| sign(Place::Label, key, value, None));
    let annotations = node.annotations().iter().map(|(key, value)| sign(Place::Annotation, key, value, None));
    taints.chain(conditions).chain(labels).chain(annotations).collect()
}

/// Runs until told to stop.
pub(super) async fn run(context: Arc<Context>, beat: Arc<impl Fn(Loop)>, stop: CancellationToken) {
    let changes = &context.caches.changes;
    let mut last_all = Instant::now() - RESYNC;
    let mut next = Instant::now();
    let asked = Asked::default();
    // What each node's notice was when those with pods on it were last told.
    let mut told: HashMap<String, Option<Notice>> = HashMap::new();
    loop {
        beat(Loop::NodeNotices);
        tokio::select! {
            () = stop.cancelled() => return,
            () = changes.nodes_changed.notified() => (),
            () = tokio::time::sleep_until(next.min(last_all + RESYNC)) => (),
        }
        let dirty = changes.take_nodes();
        let is_all = dirty.is_none() || last_all.elapsed() >= RESYNC;
        let nodes: Vec<Arc<SlimNode>> = context.caches.nodes.all();
        let is_due =
            |it: &SlimNode| is_all || dirty.as_ref().is_some_and(|names| names.contains(&it.name_any()));
        let due = nodes.iter().filter(|it| is_due(it) || noted(it).is_some());
        let again: Option<Duration> = futures::stream::iter(due.cloned())
            .map(|node| {
                let (context, asked) = (context.clone(), &asked);
                async move { look(&context, &node, asked).await }
            })
            .buffer_unordered(NODES_AT_ONCE)
            .filter_map(|it| async move { it })
            .fold(None, |soonest: Option<Duration>, it| async move { soonest.into_iter().chain([it]).min() })
            .await;
        tell_contracts(&context.caches, &nodes, &mut told);
        if is_all {
            last_all = Instant::now();
            asked.forget();
        }
        next = Instant::now() + again.unwrap_or(RESYNC);
        // What follows at once is looked at together.
        tokio::time::sleep(GATHER).await;
    }
}

/// Looks after one node; when to look again.
async fn look(context: &Context, node: &SlimNode, asked: &Asked) -> Option<Duration> {
    let (step, unreadable) = step(&context.marks, node, context.api_server_now());
    for Unreadable { key, value } in unreadable {
        let words =
            format!("{key} is `{value}`, which is no time: write RFC 3339, such as 2026-12-31T23:59:00Z");
        context.cluster.tell(&node.object_ref(&()), true, "NoticeUnreadable", &words).await;
    }
    match step {
        Step::Nothing => (),
        Step::Note(after) => return note(context, node, &after).await,
        Step::Withdraw => return withdraw(context, node).await,
    }
    let notice = noted(node)?;
    empty::empty(context, node, &notice, asked).await
}

/// Notes a notice, and cordons the node in the same write.
async fn note(context: &Context, node: &SlimNode, after: &Noted) -> Option<Duration> {
    let mut change = NodeChange::default();
    change.annotations.insert(names::NOTICE, Some(serde_json::to_string(after).unwrap_or_default()));
    if !node.spec.unschedulable {
        change.annotations.insert(names::DRAINED_FOR, Some(MARK.to_owned()));
        change.unschedulable = Some(true);
    }
    if let Err(again) = write(context, node, &change).await {
        return again;
    }
    let until = after.deadline.map_or_else(String::new, |it| format!(", at {it}"));
    let words = format!("the node goes away{until}: {}", after.cause);
    tracing::info!(node = node.name_any(), cause = after.cause, deadline = ?after.deadline, "a node goes away");
    context.cluster.tell(&node.object_ref(&()), true, "ReclaimNotice", &words).await;
    empty::say(
        context,
        node,
        &[("MaintenancePlanned", true), ("DrainInProgress", true), ("Drained", false)],
        &words,
    )
    .await;
    // What comes back through the watch is looked at again.
    None
}

/// Undoes what a notice had us do.
async fn withdraw(context: &Context, node: &SlimNode) -> Option<Duration> {
    let mut change = NodeChange::default();
    change.annotations.insert(names::NOTICE, None);
    if node.annotations().get(names::DRAINED_FOR).map(String::as_str) == Some(MARK) {
        change.annotations.insert(names::DRAINED_FOR, None);
        change.unschedulable = Some(false);
    }
    if let Err(again) = write(context, node, &change).await {
        return again;
    }
    let words = "the notice is withdrawn: the node stays, and takes new work again";
    tracing::info!(node = node.name_any(), "a node stays after all");
    context.cluster.tell(&node.object_ref(&()), false, "ReclaimWithdrawn", words).await;
    empty::say(
        context,
        node,
        &[("MaintenancePlanned", false), ("DrainInProgress", false), ("Drained", false)],
        words,
    )
    .await;
    None
}

async fn write(context: &Context, node: &SlimNode, change: &NodeChange) -> Result<(), Option<Duration>> {
    let version = node.metadata.resource_version.clone().unwrap_or_default();
    match context.cluster.write_node(&node.name_any(), &version, change).await {
        Ok(_) => Ok(()),
        Err(write::Error::NotFound) => Err(None),
        Err(error) => {
            // After a conflict the newer version is on its way through the watch.
            if !matches!(error, write::Error::Conflict) {
                tracing::warn!(%error, node = node.name_any(), "a notice was not noted");
            }
            context.caches.changes.node(&node.name_any());
            Err(Some(TRY_AGAIN))
        }
    }
}

/// Who has pods on a node of which there is something new, looks at it.
fn tell_contracts(caches: &Caches, nodes: &[Arc<SlimNode>], told: &mut HashMap<String, Option<Notice>>) {
    let names: BTreeSet<String> = nodes.iter().map(|it| it.name_any()).collect();
    told.retain(|name, _| names.contains(name));
    for node in nodes {
        let (name, now) = (node.name_any(), noted(node));
        let is_news = told.get(&name).cloned().unwrap_or_default() != now;
        told.insert(name.clone(), now);
        if !is_news {
            continue;
        }
        for pod in caches.pods.under(&format!("node/{name}")) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let kinds = [
                (names::ENDPOINT, Kind::Endpoint),
                (names::SPOT_SERVER, Kind::Spot),
                (names::GROUP, Kind::Group),
            ];
            for (label, kind) in kinds {
                if let Some(contract) = pod.label(label) {
                    caches.changes.contract(kind, namespace, contract);
                }
            }
        }
    }
}

/// How soon a pod that could not leave is asked again.
const ASK_AGAIN: Duration = TICK;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::node_notice::known_marks;

    fn node(metadata: &str, spec: &str) -> SlimNode {
        let text = format!(
            r#"{{"metadata": {{"name": "a", "labels": {{"tenure.dev/card-type": "ada"}}, {metadata}}}, "spec": {{{spec}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_notice_is_noted_once_moved_and_withdrawn() {
        let now = at("2026-11-25T10:00:00.6Z");
        let taint = r#""taints": [{"key": "aws-node-termination-handler/spot-itn", "effect": "NoSchedule"}]"#;
        let step = |metadata: &str, spec: &str| step(&known_marks(), &node(metadata, spec), now).0;
        let Step::Note(first) = step(r#""annotations": {}"#, taint) else { panic!("it is noted") };
        assert_eq!(first.since, at("2026-11-25T10:00:01Z"));
        assert_eq!(first.deadline, Some(at("2026-11-25T10:02:01Z")));
        let text = serde_json::to_string(&first).unwrap();
        let noted =
            format!(r#""annotations": {{"tenure.dev/notice": {}}}"#, serde_json::to_string(&text).unwrap());
        assert_eq!(
            step(&noted, taint),
            Step::Nothing,
            "the deadline of a mark without a time stays where it was"
        );
        assert_eq!(step(&noted, ""), Step::Withdraw);
        let sooner = noted.replacen('{', r#"{"tenure.dev/reclaim-at": "2026-11-25T10:01:00Z", "#, 1);
        let Step::Note(moved) = step(&sooner, taint) else { panic!("it is moved") };
        assert_eq!((moved.since, moved.deadline), (first.since, Some(at("2026-11-25T10:01:00Z"))));
        assert_eq!(step(r#""annotations": {"tenure.dev/notice": "?"}"#, ""), Step::Withdraw);
        assert_eq!(step(r#""annotations": {}"#, ""), Step::Nothing);
        let text = format!(r#"{{"metadata": {{"name": "b"}}, "spec": {{{taint}}}}}"#);
        let foreign: SlimNode = serde_json::from_str(&text).unwrap();
        assert_eq!(super::step(&known_marks(), &foreign, now).0, Step::Nothing, "not a managed node");
    }
}
