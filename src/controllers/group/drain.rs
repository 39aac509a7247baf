//! Emptying a machine: cordon, evict as far as PodDisruptionBudgets allow, say who can't leave; and the way back.

use std::sync::Arc;

use kube::ResourceExt;

use crate::api::{DedicatedGroup, group::DrainStatus, names};
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::cluster::write::{Evicted, NodeChange};
use crate::controllers::{Context, Error};

/// `<namespace>/<group>`, as it stands on a node that we cordoned.
pub(super) fn mark(group: &DedicatedGroup) -> String {
    format!("{}/{}", group.namespace().unwrap_or_default(), group.name_any())
}

/// Cordons a node and asks its pods to leave; how far it has come. Called again until nobody is left. `by_force`: who can't be
/// evicted is deleted.
pub(super) async fn step(
    context: &Context,
    group: &DedicatedGroup,
    node: &SlimNode,
    by_force: bool,
) -> Result<DrainStatus, Error> {
    if !node.spec.unschedulable {
        let change = NodeChange {
            annotations: [(names::DRAINED_FOR, Some(mark(group)))].into(),
            unschedulable: Some(true),
            ..NodeChange::default()
        };
        write(context, node, &change).await?;
    }
    let leaving: Vec<Arc<SlimPod>> = context.caches.pods.under(&format!("node/{}", node.name_any()));
    let leaving = leaving.iter().filter(|it| !it.is_part_of_node() && !it.is_over());
    let mut status = DrainStatus { remaining: 0, blocked_by: None };
    for pod in leaving {
        status.remaining += 1;
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Evicted::Blocked(why) = context.cluster.evict(pod).await.map_err(Error::Apply)? {
            if by_force {
                context.cluster.delete_pod(pod).await.map_err(Error::Apply)?;
                continue;
            }
            let name =
                format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.name_any());
            status.blocked_by.get_or_insert(format!("pod {name}: {why}"));
        }
    }
    Ok(status)
}

/// Uncordons a node that we cordoned. One that somebody else cordoned stays as it is.
pub(super) async fn undo(context: &Context, node: &SlimNode) -> Result<(), Error> {
    let change = NodeChange {
        annotations: [(names::DRAINED_FOR, None)].into(),
        unschedulable: Some(false),
        ..NodeChange::default()
    };
    write(context, node, &change).await
}

async fn write(context: &Context, node: &SlimNode, change: &NodeChange) -> Result<(), Error> {
    let version = node.metadata.resource_version.clone().unwrap_or_default();
    context.cluster.write_node(&node.name_any(), &version, change).await.map(drop).map_err(Error::Apply)
}
