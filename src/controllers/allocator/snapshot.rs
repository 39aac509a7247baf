//! Makes the allocator's snapshot of what is watched: pure but for reading the caches.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kube::ResourceExt;

use crate::api::names;
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::controllers::{Context, endpoint, facts, group, node_notice, pool, reference, spot};
use crate::domain::allocate::{Outcome, Plan};
use crate::domain::book::{InUse, Key, Share, Shares};
use crate::domain::fleet::{Claim, Given, Node, Snapshot};
use crate::domain::units::{Size, parse_milli, parse_whole};

/// A snapshot, and which contract each claim is of.
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    contracts: HashMap<Key, ContractRef>,
}

impl Taken {
    pub(super) fn contract(&self, key: &Key) -> Option<&ContractRef> {
        self.contracts.get(key)
    }

    pub(super) fn by_contract(&self, plan: &Plan) -> HashMap<ContractRef, Outcome> {
        plan.outcomes
            .iter()
            .filter_map(|(key, outcome)| Some((self.contracts.get(key)?.clone(), outcome.clone())))
            .collect()
    }
}

pub(super) fn take(context: &Context, nodes: &[Arc<SlimNode>]) -> Taken {
    let caches = &context.caches;
    let mut taken = Taken { snapshot: Snapshot::default(), contracts: HashMap::new() };
    for card_type in caches.card_types.all() {
        if let Ok(size) = facts::per_card(&card_type) {
            taken.snapshot.card_types.insert(card_type.name_any(), size);
        }
    }
    for account in caches.accounts.all() {
        for quota in &account.spec.quotas {
            taken.snapshot.quotas.insert(
                (account.name_any(), quota.card_type.clone()),
                u32::try_from(quota.cards).unwrap_or(0),
            );
        }
    }
    taken.snapshot.nodes = nodes.iter().filter_map(|it| node(caches, it)).collect();
    let mut frozen: Vec<Key> = Vec::new();
    let mut claim = |contract: ContractRef, claim: Option<Claim>| {
        if let Some(claim) = claim {
            taken.contracts.insert(claim.key.clone(), contract);
            taken.snapshot.claims.push(claim);
        }
    };
    for it in caches.pools.all() {
        match pool::asks(context, &it) {
            pool::Asks::For(asked) => claim(reference(Kind::Pool, &*it), Some(asked)),
            pool::Asks::Frozen(key) => frozen.push(key),
            pool::Asks::Nothing => (),
        }
    }
    for it in caches.groups.all() {
        match group::asks(context, &it) {
            pool::Asks::For(asked) => claim(reference(Kind::Group, &*it), Some(asked)),
            pool::Asks::Frozen(key) => frozen.push(key),
            pool::Asks::Nothing => (),
        }
    }
    for it in caches.spots.all() {
        claim(reference(Kind::Spot, &*it), spot::claim(context, &it));
    }
    for it in caches.endpoints.all() {
        claim(reference(Kind::Endpoint, &*it), endpoint::claim(context, &it));
    }
    let unreadable = [caches.pools.unreadable(), caches.groups.unreadable(), caches.spots.unreadable()];
    taken.snapshot.frozen = unreadable
        .iter()
        .flatten()
        .map(|it| Key::new(it.name.as_deref().unwrap_or_default(), it.uid.as_deref().unwrap_or_default()))
        .collect();
    taken.snapshot.frozen.extend(frozen);
    taken.snapshot.frozen.extend(caches.spots.all().iter().filter_map(|it| spot::frozen(context, it)));
    taken
}

/// A managed node; `None` for one that is not.
fn node(caches: &Caches, node: &SlimNode) -> Option<Node> {
    let labels = node.labels();
    let card_type = labels.get(names::CARD_TYPE)?.clone();
    let resource = card_resource(node)?;
    // Until the taint is there, foreign pods may still come: nothing is sold.
    if !node.spec.taints.iter().any(|it| it.key == names::TAINT) {
        return None;
    }
    let count = |amounts: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        amounts.get(&resource).map_or(0, |it| whole(&it.0))
    };
    let (cards, allocatable) = (count(&node.status.capacity), count(&node.status.allocatable));
    let given = given(node);
    let leaving = node_notice::noted(node).is_some();
    let pods = caches.pods.under(&format!("node/{}", node.name_any()));
    let (in_use, group_pods) = in_use(&pods, &resource, given.as_ref().zip(group_of(node)).as_ref());
    Some(Node {
        name: node.name_any(),
        card_type,
        zone: labels.get(names::ZONE).cloned().unwrap_or_default(),
        cards,
        healthy: cards.min(allocatable),
        size: size(node).less(&used_without_cards(&pods, &resource)),
        shares: super::shares_of(node),
        book: book(node),
        given,
        in_use,
        group_pods,
        ready: node.is_ready(),
        open: node.is_ready()
            && !node.spec.unschedulable
            && !leaving
            && node.metadata.deletion_timestamp.is_none(),
        leaving,
    })
}

/// The physical resource of a managed node.
pub(in crate::controllers) fn card_resource(node: &SlimNode) -> Option<String> {
    Some(node.labels().get(names::CARD_RESOURCE)?.replacen('_', "/", 1))
}

pub(super) fn book(node: &SlimNode) -> Option<Shares> {
    let text = node.annotations().get(names::BOOK)?;
    let counts: BTreeMap<String, u32> = serde_json::from_str(text).ok()?;
    Some(counts.into_iter().filter_map(|(name, cards)| Some((Share::parse(&name)?, cards))).collect())
}

pub(super) fn has_contracts(node: &SlimNode) -> bool {
    super::shares_of(node).locked() + book(node).map_or(0, |it| it.locked()) > 0
}

/// The group that a node is given to: namespace and name.
pub(super) fn group_of(node: &SlimNode) -> Option<(String, String)> {
    let labels = node.labels();
    Some((labels.get(names::GROUP_NAMESPACE)?.clone(), labels.get(names::GROUP)?.clone()))
}

/// The machine that a node is. The group's key is in an annotation of its own: its cards may be away for a while.
pub(in crate::controllers) fn given(node: &SlimNode) -> Option<Given> {
    let machine = node.labels().get(names::MACHINE)?.clone();
    let group = Key::parse(node.annotations().get(names::GROUP_KEY)?);
    group_of(node).map(|_| Given { group, machine })
}

/// The type and the number of a managed node's cards.
pub(in crate::controllers) fn cards_of(node: &SlimNode) -> Option<(String, u32)> {
    let amount = node.status.capacity.get(&card_resource(node)?)?;
    Some((node.labels().get(names::CARD_TYPE)?.clone(), whole(&amount.0)))
}

/// Are all its cards healthy?
pub(in crate::controllers) fn is_whole(node: &SlimNode) -> bool {
    card_resource(node).is_some_and(|resource| {
        let count = |it: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
            it.get(&resource).map_or(0, |it| whole(&it.0))
        };
        let cards = count(&node.status.capacity);
        cards > 0 && count(&node.status.allocatable) >= cards
    })
}

/// Cards that pods use, and the number of pods of the group that the node is given to. A pod that has run to its end uses
/// nothing; one that is on its way out does.
pub(super) fn in_use<P: std::ops::Deref<Target = SlimPod>>(
    pods: &[P],
    resource: &str,
    group: Option<&(&Given, (String, String))>,
) -> (InUse, u32) {
    let mut in_use = InUse::default();
    let mut group_pods = 0;
    for pod in pods.iter().filter(|it| !it.is_over()) {
        let of_group = group.filter(|(_, (namespace, name))| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.label(names::GROUP) == Some(name)
        });
        let cards = pod.requests(resource);
        let asked = pod
            .spec
            .containers
            .iter()
            .flat_map(|it| it.resources.requests.keys())
            .find_map(|it| Share::parse(it));
        group_pods += u32::from(of_group.is_some() || matches!(asked, Some(Share::Dedicated(_))));
        // Nobody may ask for what is held; a pod that did nevertheless is as any other foreign one.
        match (asked.filter(|it| *it != Share::Held), of_group) {
            (Some(share), _) => in_use.by_share.add(&share, pod.requests(&share.resource())),
            (None, Some((given, _))) => in_use.by_share.add(&Share::Dedicated(given.group.clone()), cards),
            (None, None) => in_use.foreign += cards,
        }
    }
    (in_use, group_pods)
}

fn used_without_cards<P: std::ops::Deref<Target = SlimPod>>(pods: &[P], resource: &str) -> Size {
    let mut used = Size::default();
    for pod in pods.iter().filter(|it| !it.is_over() && it.requests(resource) == 0) {
        for container in &pod.spec.containers {
            used = used.plus(&amounts(&container.resources.requests, 0));
        }
    }
    used
}

fn size(node: &SlimNode) -> Size {
    // A node that does not count its disk does not run out of it.
    amounts(&node.status.allocatable, i64::MAX)
}

fn amounts(
    of: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
    disk_if_absent: i64,
) -> Size {
    let find = |name: &str| of.get(name).map_or("0", |it| it.0.as_str());
    Size {
        cpu_milli: parse_milli(find("cpu")).unwrap_or(0),
        memory_bytes: parse_whole(find("memory")).unwrap_or(0),
        disk_bytes: of.get("ephemeral-storage").map_or(disk_if_absent, |it| parse_whole(&it.0).unwrap_or(0)),
    }
}

/// Whole cards; what is no number counts as none.
pub(super) fn whole(text: &str) -> u32 {
    parse_whole(text).ok().and_then(|it| u32::try_from(it).ok()).unwrap_or(0)
}
