//! Which nodes are managed: their card type, labels and taints.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kube::ResourceExt;

use super::snapshot;
use crate::api::{CardType, names};
use crate::cluster::Cluster;
use crate::cluster::read::Caches;
use crate::cluster::slim::{SlimNode, Taint};
use crate::cluster::write::{Error, NodeChange};
use crate::domain::book::Share;

/// Which card type each node has.
#[derive(Default)]
pub(super) struct Matched {
    /// Node → card type.
    types: HashMap<String, Arc<CardType>>,
    /// Card type → a node that another card type matches too. Neither gets it.
    pub(super) conflicts: BTreeMap<String, String>,
}

impl Matched {
    /// Card types of which a node is about to be adopted: it has cards and could be used, and its labels and taint are not
    /// written yet, such as after a conflict.
    pub(super) fn coming(
        &self,
        nodes: &[Arc<SlimNode>],
        is_tried: impl Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let comes = |node: &&Arc<SlimNode>| {
            self.types.get(&node.name_any()).is_some_and(|it| is_coming(node, it))
                && is_tried(&node.name_any())
        };
        nodes.iter().filter(comes).map(|it| self.types[&it.name_any()].name_any()).collect()
    }
}

fn is_coming(node: &SlimNode, card_type: &CardType) -> bool {
    let cards = node.status.allocatable.get(&card_type.spec.resource_name);
    let label = node.labels().get(names::CARD_TYPE);
    // One that is another type's keeps it until its cards are back, however long that is.
    if label.is_some_and(|it| *it != card_type.name_any()) {
        return false;
    }
    let is_adopted = label.is_some()
        && has_resource(node, card_type)
        && node.spec.taints.iter().any(|it| it.key == names::TAINT);
    let could_be_used =
        node.is_ready() && !node.spec.unschedulable && node.metadata.deletion_timestamp.is_none();
    could_be_used && !is_adopted && cards.is_some_and(|it| snapshot::whole(&it.0) > 0)
}

pub(super) fn matched(caches: &Caches, nodes: &[Arc<SlimNode>]) -> Matched {
    let mut types = caches.card_types.all();
    types.retain(|it| it.metadata.deletion_timestamp.is_none());
    let mut matched = Matched::default();
    for node in nodes {
        let labels = node.labels();
        let fits: Vec<&Arc<CardType>> = types
            .iter()
            .filter(|it| it.spec.node_selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
            .collect();
        match fits.as_slice() {
            [one] => {
                matched.types.insert(node.name_any(), (*one).clone());
            }
            [] => (),
            several => {
                for card_type in several {
                    matched.conflicts.entry(card_type.name_any()).or_insert_with(|| node.name_any());
                }
            }
        }
    }
    matched
}

/// What must change in labels and taints. A node whose cards belong to contracts keeps its type until they are back.
pub(super) fn changes(
    caches: &Caches,
    nodes: &[Arc<SlimNode>],
    matched: &Matched,
) -> Vec<(Arc<SlimNode>, NodeChange)> {
    nodes.iter().filter_map(|node| change(caches, node, matched).map(|it| (node.clone(), it))).collect()
}

fn change(caches: &Caches, node: &Arc<SlimNode>, matched: &Matched) -> Option<NodeChange> {
    let name = node.name_any();
    let labels = node.labels();
    let now = labels.get(names::CARD_TYPE);
    let fits = matched.types.get(&name);
    let mut change = NodeChange::default();
    match (now, fits) {
        (None, None) => return None,
        (Some(now), Some(fits)) if *now == fits.name_any() && has_resource(node, fits) => (),
        (None, Some(fits)) => {
            change.labels.insert(names::CARD_TYPE, Some(fits.name_any()));
            change
                .labels
                .insert(names::CARD_RESOURCE, Some(names::resource_as_label(&fits.spec.resource_name)));
        }
        // It has another type than it is labelled with, or none any more.
        (Some(_), _) if snapshot::has_contracts(node) || in_use(caches, node) => return None,
        (Some(_), _) => {
            for label in [names::CARD_TYPE, names::CARD_RESOURCE] {
                change.labels.insert(label, None);
            }
            super::moves::label(&mut change, None);
            change.annotations.insert(names::BOOK, None);
            change.taints =
                Some(node.spec.taints.iter().filter(|it| it.key != names::TAINT).cloned().collect());
            return Some(change);
        }
    }
    // Half of a group's marks are none: pods of that group must not find this node.
    if snapshot::given(node).is_none()
        && [names::GROUP, names::GROUP_NAMESPACE, names::MACHINE].iter().any(|it| labels.contains_key(*it))
    {
        super::moves::label(&mut change, None);
    }
    let wanted = taints(caches, node);
    if wanted != node.spec.taints {
        change.taints = Some(wanted);
    }
    (change != NodeChange::default()).then_some(change)
}

/// NoSchedule at once; NoExecute once nobody is left whom it would throw out.
fn taints(caches: &Caches, node: &SlimNode) -> Vec<Taint> {
    let mut taints = node.spec.taints.clone();
    let taint =
        |effect: &str| Taint { key: names::TAINT.to_owned(), effect: effect.to_owned(), ..Taint::default() };
    let has = |effect: &str| node.spec.taints.iter().any(|it| it.key == names::TAINT && it.effect == effect);
    if !has("NoSchedule") {
        taints.push(taint("NoSchedule"));
    } else if !has("NoExecute") {
        // Only when NoSchedule is there already: else somebody could still come in between.
        let pods = caches.pods.under(&format!("node/{}", node.name_any()));
        let stays = |it: &&Arc<crate::cluster::slim::SlimPod>| {
            !it.tolerates(names::TAINT, "NoExecute") && !it.is_over()
        };
        if !pods.iter().any(|it| stays(&it)) {
            taints.push(taint("NoExecute"));
        }
    }
    taints
}

fn has_resource(node: &SlimNode, card_type: &CardType) -> bool {
    snapshot::card_resource(node).as_ref() == Some(&card_type.spec.resource_name)
}

fn in_use(caches: &Caches, node: &SlimNode) -> bool {
    let shares: Vec<String> = super::shares_of(node).iter().map(|(share, _)| share.resource()).collect();
    let pods = caches.pods.under(&format!("node/{}", node.name_any()));
    pods.iter().any(|pod| shares.iter().any(|it| pod.requests(it) > 0))
}

/// Writes a change; a node that is given up loses its shares too.
pub(super) async fn write(
    cluster: &Cluster,
    node: &SlimNode,
    change: &NodeChange,
) -> Result<SlimNode, Error> {
    let name = node.name_any();
    let version = node.metadata.resource_version.clone().unwrap_or_default();
    let given_up = change.labels.get(names::CARD_TYPE).is_some_and(Option::is_none);
    if !given_up {
        let mut change = change.clone();
        let throws = |it: &[Taint]| it.iter().any(|it| it.key == names::TAINT && it.effect == "NoExecute");
        if let Some(taints) = &mut change.taints
            && throws(taints)
            && !throws(&node.spec.taints)
        {
            // Not from a cache: a pod that was bound a moment ago would be thrown out.
            let pods = cluster.pods_on(&name).await.map_err(Error::from)?;
            if pods.iter().any(|it| !it.tolerates(names::TAINT, "NoExecute") && !it.is_over()) {
                taints.retain(|it| it.key != names::TAINT || it.effect != "NoExecute");
            }
        }
        return cluster.write_node(&name, &version, &change).await;
    }
    tracing::info!(node = name, "no longer managed: no card type matches it");
    let gone = node
        .status
        .capacity
        .keys()
        .filter(|it| Share::parse(it).is_some())
        .map(|it| (it.clone(), None))
        .collect();
    let written = cluster.write_shares(&name, &version, &gone, &NodeChange::default()).await?;
    cluster.write_node(&name, &written.metadata.resource_version.unwrap_or_default(), change).await
}
