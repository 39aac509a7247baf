//! DedicatedGroup: the machines it claims, who may use them, emptying and giving back, what it reports.

mod drain;
mod hours;
mod leave;
mod life;
mod offer;
mod order;
mod record;
mod report;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::facts::Problem;
use super::pool::{
    Asks, count, created_seconds, generation, in_words, is_guarded, is_leaving, is_refused, key,
};
use super::{Context, Done, Error, TICK, allocator, endpoint, money, status};
use crate::api::condition::Reason;
use crate::api::group::{DrainStatus, MachineSet, Network, Usage};
use crate::api::{DedicatedGroup, names};
use crate::cluster::read::{Caches, ContractRef};
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::domain::allocate::{Outcome, Shortage};
use crate::domain::fleet::{Claim, Demand, Machine};
use crate::domain::machines::{self, Record};
use crate::domain::money::calendar::after_seconds;
use crate::domain::money::machine::DRAIN_SECONDS;
use life::Claimed;
use offer::Offer;
use order::{Known, Ordered};

// Validate.

/// The types of the group's cards, in the order of its sets.
pub(super) fn card_types(caches: &Caches, group: &DedicatedGroup) -> Result<Vec<String>, Problem> {
    let offer = Offer::of(caches, group)?;
    let of_set = |it: &MachineSet| Some(offer.sets.get(&it.name)?.card_type.clone());
    Ok(group.spec.machine_sets.iter().filter_map(of_set).collect())
}

/// What the group asks of the allocator.
pub(super) fn asks(context: &Context, group: &DedicatedGroup) -> Asks {
    let caches = &context.caches;
    if !is_guarded(group) {
        return Asks::Nothing;
    }
    let record = record::read(caches, group);
    let offer = Offer::of(caches, group).ok();
    let given = nodes_of(caches, group);
    let nodes: BTreeSet<String> = given.keys().cloned().collect();
    let now = (context.now)();
    let mut funded = false;
    let claimed = match context.money.standing(group.metadata.uid.as_deref()) {
        Some(standing) => match order::known(context, group, &standing, &record, &nodes, offer.as_ref()) {
            Ok(Known { view, arrears }) => {
                let claimed = view.claimed(group, offer.as_ref(), &nodes, arrears, now);
                funded = offer
                    .as_ref()
                    .is_some_and(|it| order::is_funded(context, group, &view, it, arrears, now));
                claimed
            }
            // It keeps what it has; when it is deleted, all goes back.
            Err(_) if is_leaving(group) => Claimed::default(),
            Err(_) => return Asks::Frozen(key(group)),
        },
        // The ledger knows nothing of it: what is there stays.
        None if is_leaving(group) => Claimed::default(),
        None => Claimed { bought: record.placed(), paid: true, ..Claimed::default() },
    };
    Asks::For(claim(group, &record, offer.as_ref(), &given, claimed, funded))
}

fn claim(
    group: &DedicatedGroup,
    record: &Record,
    offer: Option<&Offer>,
    given: &BTreeMap<String, Arc<SlimNode>>,
    claimed: Claimed,
    funded: bool,
) -> Claim {
    let sets: BTreeMap<String, &str> = record.machines().map(|(set, name)| (name, set)).collect();
    let machine = |name: &String| {
        let known = sets.get(name).and_then(|set| offer?.sets.get(*set));
        let known = known.map(|it| (it.card_type.clone(), it.cards));
        // Of a machine that the tariff does not know any more its node still tells.
        let (card_type, cards) = known.or_else(|| given.get(name).and_then(|it| allocator::cards_of(it)))?;
        Some(Machine { name: name.clone(), card_type, cards, zone: group.spec.zone.clone() })
    };
    let version = claimed.version(group);
    let Claimed { bought, returning, ordered, paid } = claimed;
    let machines: Vec<Machine> =
        bought.iter().chain(returning.keys()).chain(&ordered).filter_map(machine).collect();
    Claim {
        key: key(group),
        card_type: machines.first().map(|it| it.card_type.clone()).unwrap_or_default(),
        account: offer.map(|it| it.account.name_any()).unwrap_or_default(),
        created_seconds: created_seconds(group),
        version,
        demand: Demand::Dedicated { machines, bought, returning, paid, funded: funded || paid },
    }
}

/// Cards of the group's machines that no pod uses.
pub(super) fn free_cards(caches: &Caches, group: &DedicatedGroup) -> u32 {
    let free = |node: &Arc<SlimNode>| {
        let (resource, cards) = (allocator::card_resource(node)?, allocator::cards_of(node)?.1);
        let pods = caches.pods.under(&format!("node/{}", node.name_any()));
        let used: u32 = pods.iter().filter(|it| !it.is_over()).map(|it| it.requests(&resource)).sum();
        (node.is_ready() && !node.spec.unschedulable).then(|| cards.saturating_sub(used))
    };
    nodes_of(caches, group).values().filter_map(free).sum()
}

/// The nodes that are machines of the group, by machine.
fn nodes_of(caches: &Caches, group: &DedicatedGroup) -> BTreeMap<String, Arc<SlimNode>> {
    let key = key(group);
    let nodes = caches.nodes.all();
    nodes
        .into_iter()
        .filter_map(|node| Some((allocator::given(&node).filter(|it| it.group == key)?.machine, node)))
        .collect()
}

// Plan.

/// The machines as the owner wants them, and what stands against it. `bound`: those that may not leave before their term ends.
/// `over`: those that nothing brings back.
fn plan(
    group: &DedicatedGroup,
    before: &Record,
    placed: impl Iterator<Item = String>,
    bound: &BTreeSet<String>,
    over: &BTreeSet<String>,
) -> (Record, Vec<Problem>) {
    let set = |it: &MachineSet| machines::Set { name: it.name.clone(), count: count(it.count) };
    let sets: Vec<machines::Set> = group.spec.machine_sets.iter().map(set).collect();
    let mut before = before.clone();
    for machine in placed {
        before.place(&machine);
    }
    let (record, problems) = machines::plan(&before, &sets, &group.spec.release, bound, over);
    let in_words = |it: machines::Problem| match it {
        machines::Problem::NameMachines { set, missing } => {
            let message = format!(
                "set {set} has {missing} more machines than its count: name the machines to give back in spec.release"
            );
            Problem::new(Reason::NameMachines, message)
        }
        machines::Problem::BoundByTerm { machine } => {
            let message = format!(
                "machine {machine} is prepaid and the tariff says earlyRelease: Refuse: it stays until its term ends"
            );
            Problem::new(Reason::BoundByTerm, message)
        }
    };
    (record, problems.into_iter().map(in_words).collect())
}

// The driver.

/// What one pass found and did, for the report.
struct Found {
    input: Result<Offer, Problem>,
    record: Record,
    problems: Vec<Problem>,
    nodes: BTreeMap<String, Arc<SlimNode>>,
    outcome: Option<Outcome>,
    /// Are nodes for it being adopted?
    more_come: bool,
    /// By machine that is being emptied, or is empty.
    drains: BTreeMap<String, DrainStatus>,
    /// How it stands with its money.
    ordered: Ordered,
}

/// One pass over a group.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    let Some(group) = caches.groups.get(&contract.namespace, &contract.name) else {
        return endpoint::release_ended(context, contract).await;
    };
    endpoint::release_ended(context, contract).await?;
    let input = Offer::of(caches, &group);
    let before = record::read(caches, &group);
    let nodes = nodes_of(caches, &group);
    let (record, problems) = match (&input, settled(context, &group, &before, &nodes)) {
        (Ok(_), Some((bound, over))) if !is_leaving(&*group) => {
            plan(&group, &before, nodes.keys().cloned(), &bound, &over)
        }
        (Ok(_) | Err(_), _) => (before, Vec::new()),
    };
    // One look: an answer, and whether cards were coming when it was given, belong together.
    let published = context.published.borrow().clone();
    let outcome = published.outcomes.get(contract).cloned();
    let comes = |it: &offer::SetOffer| published.coming.contains(&it.card_type);
    let more_come = input.as_ref().is_ok_and(|it| it.sets.values().any(comes));
    let (drains, ordered) = (BTreeMap::new(), Ordered::default());
    let mut found = Found { input, record, problems, nodes, outcome, more_come, drains, ordered };

    let applied = apply(context, &group, &mut found).await;

    let new = report::make_status(context, &group, &found);
    report::tell(context, &group, &new).await;
    let wait =
        status::report(context, contract, &*group, group.status.as_ref(), &new, |it| &it.conditions).await;
    applied?;
    let wait = wait?;
    let draining = found.drains.values().any(|it| it.remaining > 0);
    let drain = (draining || is_leaving(&*group)).then_some(TICK);
    Ok(wait.into_iter().chain(drain).chain(found.ordered.again).min().map_or(Done::Settled, Done::LookAgain))
}

/// Machines that are bound by their term, and those that nothing brings back; `None` while the ledger does not say.
fn settled(
    context: &Context,
    group: &DedicatedGroup,
    record: &Record,
    nodes: &BTreeMap<String, Arc<SlimNode>>,
) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let Some(standing) = context.money.standing(group.metadata.uid.as_deref()) else {
        // Nothing is bought yet, or was before there was money.
        return record.placed().is_empty().then(Default::default);
    };
    let nodes = nodes.keys().cloned().collect();
    let known = order::known(context, group, &standing, record, &nodes, None).ok()?;
    let bound = known.view.bound((context.now)()).into_keys().collect();
    Some((bound, known.view.over()))
}

async fn apply(context: &Context, group: &DedicatedGroup, found: &mut Found) -> Result<(), Error> {
    let cluster = &context.cluster;
    if is_leaving(group) {
        return leave(context, group, found).await;
    }
    let own = money::contract_id(&group.uid().unwrap_or_default());
    // One that was restored from a backup names its former contract.
    let contract = group.annotations().get(names::CONTRACT).cloned().unwrap_or(own);
    if !is_guarded(group) {
        return cluster
            .guard::<DedicatedGroup>(&group.metadata, names::CARDS, names::CONTRACT, &contract)
            .await
            .map_err(Error::Apply);
    }
    if !group.annotations().contains_key(names::CONTRACT) {
        return cluster
            .annotate::<DedicatedGroup>(&group.metadata, names::CONTRACT, Some(&contract))
            .await
            .map_err(Error::Apply);
    }
    let machines = record::print(&found.record);
    if group.annotations().get(names::MACHINES) != Some(&machines) {
        return cluster
            .annotate::<DedicatedGroup>(&group.metadata, names::MACHINES, Some(&machines))
            .await
            .map_err(Error::Apply);
    }
    found.ordered = order::advance(context, group, found).await;
    // What spot servers give back is waited for.
    let comes = matches!(found.ordered.short, Some(Shortage::Reclaiming { .. }));
    let may_refuse = !is_refused(group) && !found.more_come && !comes;
    if let (Some(shortage), Ok(offer), true) = (&found.ordered.short, &found.input, may_refuse) {
        let card_type = offer.sets.values().next().map_or("", |it| it.card_type.as_str());
        let refusal = format!("{} {}", generation(group), in_words(shortage, card_type).message);
        return cluster
            .annotate::<DedicatedGroup>(&group.metadata, names::REFUSED, Some(&refusal))
            .await
            .map_err(Error::Apply);
    }
    isolate(context, group).await?;
    turn_out(context, group, found).await?;
    empty(context, group, found).await?;
    leave::give_back(context, group, found).await
}

/// Empties the machines that are named in `drain`, those that go back, and those for which nothing is paid any more; restarts
/// the others.
async fn empty(context: &Context, group: &DedicatedGroup, found: &mut Found) -> Result<(), Error> {
    let live: Vec<String> = found.record.machines().map(|(_, it)| it).collect();
    let mark = drain::mark(group);
    for (machine, node) in found.nodes.clone() {
        let ends = found.ordered.ending.get(&machine).copied();
        if group.spec.drain.contains(&machine) || !live.contains(&machine) || ends.is_some() {
            let now = (context.now)();
            let by_force = ends.is_some_and(|it| after_seconds(it, DRAIN_SECONDS) <= now);
            found.drains.insert(machine, drain::step(context, group, &node, by_force).await?);
        }
    }
    // Machines that have just gone back are no longer ours, but the cordon still is.
    for node in context.caches.nodes.all() {
        let emptied = allocator::given(&node)
            .is_some_and(|it| found.drains.contains_key(&it.machine) && it.group == key(group));
        if node.annotations().get(names::DRAINED_FOR) == Some(&mark) && !emptied {
            drain::undo(context, &node).await?;
        }
    }
    Ok(())
}

/// Who may not run here but does (the policy was absent, say) leaves.
async fn turn_out(context: &Context, group: &DedicatedGroup, found: &Found) -> Result<(), Error> {
    if group.spec.usage != Usage::Inference {
        return Ok(());
    }
    for pod in pods_on(context, group, found) {
        let worker = pod.label(names::ENDPOINT).is_some()
            && pod.metadata.owner_references.iter().flatten().any(|it| it.kind == "ServerlessEndpoint");
        if worker || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let message =
            format!("pod {} is turned out: a group of usage Inference takes endpoints only", pod.name_any());
        context.cluster.tell(&group.object_ref(&()), true, "WrongUsage", &message).await;
        context.cluster.evict(&pod).await.map_err(Error::Apply)?;
    }
    Ok(())
}

/// The group's own pods that are bound to its machines and have not run to their end.
fn pods_on(context: &Context, group: &DedicatedGroup, found: &Found) -> Vec<Arc<SlimPod>> {
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    let mut pods = context.caches.pods.under(&format!("group/{namespace}/{name}"));
    let here = |it: &SlimPod| {
        it.spec.node_name.as_ref().is_some_and(|on| found.nodes.values().any(|node| node.name_any() == *on))
    };
    pods.retain(|it| here(it) && !it.is_over());
    pods
}

/// Deleting makes every workload on it unavailable: its pods go, then its machines, then the group.
async fn leave(context: &Context, group: &DedicatedGroup, found: &Found) -> Result<(), Error> {
    for pod in pods_on(context, group, found) {
        if pod.metadata.deletion_timestamp.is_none() {
            context.cluster.delete_pod(&pod).await.map_err(Error::Apply)?;
        }
    }
    let mark = drain::mark(group);
    for node in context.caches.nodes.all() {
        if node.annotations().get(names::DRAINED_FOR) == Some(&mark) {
            drain::undo(context, &node).await?;
        }
    }
    let empty = found.nodes.is_empty() && found.outcome.as_ref().is_some_and(|it| it.holdings.is_empty());
    if is_guarded(group) && empty {
        leave::settle(context, group).await?;
        return context
            .cluster
            .remove_finalizer::<DedicatedGroup>(&group.metadata, names::CARDS)
            .await
            .map_err(Error::Apply);
    }
    Ok(())
}

/// The NetworkPolicy of an isolated group: its pods are reached from their own namespace and by Tenure.
async fn isolate(context: &Context, group: &DedicatedGroup) -> Result<(), Error> {
    let (namespace, name) = (group.namespace().unwrap_or_default(), group.name_any());
    let policy_name = format!("tenure-{name}");
    let there =
        context.cluster.read::<NetworkPolicy>(&namespace, &policy_name).await.map_err(Error::Apply)?;
    let ours = there.as_ref().is_some_and(|it| {
        it.metadata.owner_references.iter().flatten().any(|it| Some(&it.uid) == group.metadata.uid.as_ref())
    });
    if group.spec.network == Network::Open {
        return match there {
            Some(policy) if ours => {
                context.cluster.delete::<NetworkPolicy>(&policy.metadata).await.map_err(Error::Apply)
            }
            _ => Ok(()),
        };
    }
    let spec = json!({
        "podSelector": {"matchLabels": {names::GROUP: name}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [
            {"podSelector": {}},
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": names::OPERATOR_NAMESPACE}}},
        ]}],
    });
    let same = there.as_ref().and_then(|it| serde_json::to_value(&it.spec).ok()).as_ref() == Some(&spec);
    if ours && same {
        return Ok(());
    }
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy_name, "namespace": namespace, "ownerReferences": group.controller_owner_ref(&()).map(|it| vec![it])},
        "spec": spec,
    });
    context.cluster.apply::<NetworkPolicy>(&namespace, &policy_name, &policy).await.map_err(Error::Apply)
}
