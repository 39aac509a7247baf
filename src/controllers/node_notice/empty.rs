//! Empties a node that goes away: asks its pods to leave as far as their budgets allow, names who can't, and deletes
//! what is left when its grace must begin.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use super::ASK_AGAIN;
use crate::api::names;
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::cluster::write::Evicted;
use crate::controllers::{Context, Error};
use crate::domain::node_notice::{Act, Leaver, Leaving, Notice, act};

/// What a pod has to end when nobody says: Kubernetes' own default, seconds.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// When each pod was last asked to leave, by UID.
#[derive(Default)]
pub(super) struct Asked(Mutex<HashMap<String, Instant>>);

impl Asked {
    /// May it be asked (again)? Notes that it is.
    fn may_ask(&self, pod: &SlimPod) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = pod.uid().unwrap_or_default();
        let may = asked.get(&uid).is_none_or(|it| it.elapsed() >= ASK_AGAIN);
        if may {
            asked.insert(uid, Instant::now());
        }
        may
    }

    /// Forgets pods that were asked long ago.
    pub(super) fn forget(&self) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < 2 * ASK_AGAIN);
    }
}

/// How long a pod has to end, seconds.
pub(in crate::controllers) fn grace_seconds(pod: &SlimPod) -> i64 {
    pod.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS)
}

fn leaver(context: &Context, pod: &SlimPod) -> Leaver {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let owned = |kind: &str| pod.metadata.owner_references.iter().flatten().any(|it| it.kind == kind);
    let serves_others = || {
        let namespace = context.caches.namespaces.get("", namespace);
        namespace.is_some_and(|it| it.labels().get(names::CARD_SOFTWARE).is_some_and(|it| it == "allowed"))
    };
    let kind = match () {
        () if pod.label(names::ENDPOINT).is_some() && owned("ServerlessEndpoint") => Leaving::Replaced,
        () if pod.label(names::SPOT_SERVER).is_some() && owned("SpotServer") => Leaving::Stays,
        () if serves_others() => Leaving::Last,
        () => Leaving::Evicted,
    };
    Leaver {
        name: format!("{namespace}/{}", pod.name_any()),
        kind,
        grace_seconds: grace_seconds(pod),
        is_leaving: pod.metadata.deletion_timestamp.is_some(),
    }
}

/// One step towards an empty node; when to look again.
pub(super) async fn empty(
    context: &Context,
    node: &SlimNode,
    notice: &Notice,
    asked: &Asked,
) -> Option<Duration> {
    let mut pods: Vec<Arc<SlimPod>> = context.caches.pods.under(&format!("node/{}", node.name_any()));
    pods.retain(|it| !it.is_part_of_node() && !it.is_over());
    pods.sort_by_key(|it| (it.metadata.namespace.clone(), it.name_any()));
    if pods.is_empty() {
        let is_said = |it: &crate::cluster::slim::SlimCondition| it.type_ == "Drained" && it.status == "True";
        if !node.status.conditions.iter().any(is_said) {
            let words = "no pod is left that has to leave";
            context.cluster.tell(&node.object_ref(&()), false, "Drained", words).await;
            say(context, node, &[("DrainInProgress", false), ("Drained", true)], words).await;
        }
        return None;
    }
    let leavers: Vec<Leaver> = pods.iter().map(|it| leaver(context, it)).collect();
    let now = context.api_server_now();
    let (acts, again) = act(&leavers, notice.deadline, now);
    let mut soonest = again.map(|it| until(now, it));
    for (at, act) in acts {
        let (pod, leaver) = (&pods[at], &leavers[at]);
        let waits = match act {
            Act::Delete { grace_seconds } => delete(context, node, pod, leaver, grace_seconds).await,
            Act::Evict if asked.may_ask(pod) => evict(context, node, notice, pod, leaver).await,
            Act::Evict => Ok(true),
        };
        match waits {
            Ok(false) => (),
            Ok(true) => soonest = soonest.into_iter().chain([ASK_AGAIN]).min(),
            Err(error) => {
                tracing::warn!(%error, pod = leaver.name, node = node.name_any(), "could not be asked to leave");
                soonest = soonest.into_iter().chain([ASK_AGAIN]).min();
            }
        }
    }
    soonest
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default().max(Duration::from_millis(1))
}

/// Asks a pod to leave; true when it can't yet.
async fn evict(
    context: &Context,
    node: &SlimNode,
    notice: &Notice,
    pod: &SlimPod,
    leaver: &Leaver,
) -> Result<bool, Error> {
    let Evicted::Blocked(why) = context.cluster.evict(pod).await.map_err(Error::Apply)? else {
        return Ok(false);
    };
    let then = notice.deadline.map(|it| {
        let grace = jiff::SignedDuration::from_secs(leaver.grace_seconds);
        it.checked_sub(grace).unwrap_or(Timestamp::MIN)
    });
    let words = match then {
        Some(then) => format!("pod {} can't leave yet: {why}. It is deleted at {then}", leaver.name),
        None => {
            format!("pod {} can't leave yet: {why}. There is no deadline: it stays until it can", leaver.name)
        }
    };
    for about in
        [Some(node.object_ref(&())), Some(pod.object_ref(&())), group_of(context, pod)].iter().flatten()
    {
        context.cluster.tell(about, true, "DrainBlocked", &words).await;
    }
    Ok(true)
}

fn group_of(context: &Context, pod: &SlimPod) -> Option<k8s_openapi::api::core::v1::ObjectReference> {
    let namespace = pod.metadata.namespace.as_deref()?;
    Some(context.caches.groups.get(namespace, pod.label(names::GROUP)?)?.object_ref(&()))
}

/// Deletes a pod whose grace must begin; never waits.
async fn delete(
    context: &Context,
    node: &SlimNode,
    pod: &SlimPod,
    leaver: &Leaver,
    grace_seconds: i64,
) -> Result<bool, Error> {
    let words = format!(
        "pod {} is deleted with {grace_seconds} s to end: its node goes away, whatever budgets say",
        leaver.name
    );
    for about in [node.object_ref(&()), pod.object_ref(&())] {
        context.cluster.tell(&about, true, "DrainForced", &words).await;
    }
    context.cluster.delete_pod_within(pod, grace_seconds).await.map_err(Error::Apply)?;
    Ok(false)
}

/// Says of the node how far it is, in the conditions that Kubernetes has for it from 1.37 on. Nothing depends on them.
pub(super) async fn say(context: &Context, node: &SlimNode, conditions: &[(&str, bool)], words: &str) {
    let name = node.name_any();
    if let Err(error) =
        context.cluster.write_node_conditions(&name, conditions, words, context.api_server_now()).await
    {
        tracing::debug!(%error, node = name, "conditions were not written");
    }
}
