//! Carries out a move: shrink into `held`, look at the node's pods afresh, give on what is really unused.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::snapshot;
use crate::api::names;
use crate::cluster::Cluster;
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::cluster::write::{Error, NodeChange};
use crate::domain::allocate::Move;
use crate::domain::book::{Share, Shares, settle, shrink};
use crate::domain::fleet::Given;

/// Moves the shares of a node. May stop half-way and be planned again from what is then there.
///
/// `owner` is the namespace and name of the group that the node shall be given to.
pub(super) async fn execute(
    cluster: &Cluster,
    node: &SlimNode,
    resource: &str,
    step: &Move,
    owner: Option<(String, String)>,
) -> Result<SlimNode, Error> {
    let name = node.name_any();
    let before = super::shares_of(node);
    let was_given = snapshot::given(node);
    let group = was_given.as_ref().zip(snapshot::group_of(node));
    let released = was_given.is_some() && step.given != was_given;

    // 1. Givers shrink into `held`; a machine that goes back takes no more pods of its group.
    let shrunk = shrink(&before, &step.target);
    let mut written = node.clone();
    if shrunk != before || released {
        let mut change = NodeChange::default();
        if released {
            label(&mut change, None);
        }
        written = write(cluster, node, &before, &shrunk, change, None).await?;
    }

    // 2. What do the pods that are bound here now really use? Not from a cache.
    let pods = cluster.pods_on(&name).await.map_err(Error::from)?;
    let (in_use, group_pods) = snapshot::in_use(&pods.iter().collect::<Vec<_>>(), resource, group.as_ref());
    if released && group_pods > 0 {
        // A pod of the group came in at the last moment: the machine stays the group's until it is empty.
        let mut change = NodeChange::default();
        label(&mut change, snapshot::group_of(node).zip(was_given));
        return write(cluster, &written, &shrunk, &before, change, Some(&pods)).await;
    }

    // 3. Takers get what is unused. New physical cards come in through `held` too.
    let count = |node: &SlimNode,
                 of: fn(
        &SlimNode,
    )
        -> &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        of(node).get(resource).map_or(0, |it| snapshot::whole(&it.0))
    };
    let healthy = count(&written, |it| &it.status.capacity).min(count(&written, |it| &it.status.allocatable));
    // Never beyond the healthy cards: while some are faulty a book may be larger, and the API server would refuse all of it.
    let mut start = shrunk.clone();
    start.add(&Share::Held, step.target.sum().min(healthy).saturating_sub(start.sum()));
    let mut target = step.target.clone();
    let mut given = step.given.clone();
    if step.given.is_some() && step.given != snapshot::given(node) && in_use.sum() > 0 {
        // A machine is given whole or not at all.
        target = target
            .iter()
            .filter(|(it, _)| !matches!(it, Share::Dedicated(_)))
            .map(|(it, cards)| (it.clone(), cards))
            .collect();
        given = None;
    }
    let settled = settle(&start, &target, &in_use, healthy);
    let mut change = NodeChange::default();
    if let (Some(given), true) = (&given, step.given != snapshot::given(node)) {
        label(&mut change, owner.map(|it| (it, given.clone())));
    }
    write(cluster, &written, &shrunk, &settled, change, Some(&pods)).await
}

/// Marks a node as a machine of a group (its namespace and name), or as none.
pub(super) fn label(change: &mut NodeChange, machine: Option<((String, String), Given)>) {
    let (group, namespace, machine, key) = match machine {
        Some(((namespace, group), given)) => {
            (Some(group), Some(namespace), Some(given.machine), Some(given.group.to_string()))
        }
        None => (None, None, None, None),
    };
    change.labels.extend([
        (names::GROUP, group),
        (names::GROUP_NAMESPACE, namespace),
        (names::MACHINE, machine),
    ]);
    change.annotations.insert(names::GROUP_KEY, key);
}

/// One guarded patch: shares, book and labels together.
async fn write(
    cluster: &Cluster,
    node: &SlimNode,
    before: &Shares,
    after: &Shares,
    mut change: NodeChange,
    pods: Option<&[SlimPod]>,
) -> Result<SlimNode, Error> {
    let mut counts: BTreeMap<String, Option<u32>> = BTreeMap::new();
    let there = node.status.capacity.keys().filter_map(|it| Share::parse(it));
    for share in there.chain(before.iter().map(|(it, _)| it.clone())) {
        // The kubelet forgets a resource that is missing and then admits pods that ask for it: what pods still ask for
        // stays, as zero.
        let resource = share.resource();
        let keep = share.key().is_none()
            || pods.is_none_or(|it| it.iter().any(|it| !it.is_over() && it.requests(&resource) > 0));
        counts.insert(resource, keep.then_some(0));
    }
    for share in [Share::Shared, Share::Held] {
        counts.insert(share.resource(), Some(0));
    }
    for (share, cards) in after.iter() {
        counts.insert(share.resource(), Some(cards));
    }
    let book: BTreeMap<String, u32> = after.iter().map(|(share, cards)| (share.resource(), cards)).collect();
    change.annotations.insert(names::BOOK, serde_json::to_string(&book).ok());
    let version = node.metadata.resource_version.clone().unwrap_or_default();
    let written = cluster.write_shares(&node.name_any(), &version, &counts, &change).await?;
    tracing::info!(node = node.name_any(), shares = ?book, "moved cards");
    Ok(written)
}
