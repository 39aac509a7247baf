//! DedicatedGroup: the machines it claims, who may use them, emptying and giving back, what it reports.

mod drain;
mod record;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::facts::{self, Problem};
use super::pool::{count, created_seconds, generation, in_words, is_guarded, is_leaving, is_refused, key};
use super::{Context, Done, Error, TICK, allocator, endpoint, status};
use crate::api::condition::Reason;
use crate::api::group::{Billing, DrainStatus, Network, Usage};
use crate::api::tariff::EarlyRelease;
use crate::api::{DedicatedGroup, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::{SlimNode, SlimPod};
use crate::domain::allocate::Outcome;
use crate::domain::fleet::{Claim, Demand, Machine};
use crate::domain::machines::{self, Record};

/// What a group is, resolved.
struct Input {
    account: String,
    /// By set: the type of a machine's cards, and how many it has.
    types: BTreeMap<String, (String, u32)>,
    early_release: EarlyRelease,
}

// Validate.

fn validate(caches: &Caches, group: &DedicatedGroup) -> Result<Input, Problem> {
    let (account, tariff) = facts::payer(caches, &group.namespace().unwrap_or_default(), &group.spec.region)?;
    let terms = tariff.spec.dedicated.as_ref();
    let mut types = BTreeMap::new();
    for set in &group.spec.machine_sets {
        let machine = terms
            .and_then(|it| it.machine_types.iter().find(|it| it.name == set.machine_type))
            .ok_or_else(|| {
                let message = format!(
                    "Tariff {} has no dedicated machine type {}",
                    tariff.name_any(),
                    set.machine_type
                );
                Problem::new(Reason::UnknownMachineType, message)
            })?;
        let priced = match set.billing {
            Billing::Prepaid => machine.per_month.is_some(),
            Billing::Postpaid => machine.per_hour.is_some(),
        };
        if !priced {
            let message = format!(
                "Tariff {} sells machine type {} not {:?}",
                tariff.name_any(),
                set.machine_type,
                set.billing
            );
            return Err(Problem::new(Reason::NoPrice, message));
        }
        facts::card_type(caches, &machine.card_type)?;
        types.insert(set.name.clone(), (machine.card_type.clone(), count(machine.cards)));
    }
    let early_release = terms.map(|it| it.early_release).unwrap_or_default();
    Ok(Input { account: account.name_any(), types, early_release })
}

/// The types of the group's cards, in the order of its sets.
pub(super) fn card_types(caches: &Caches, group: &DedicatedGroup) -> Result<Vec<String>, Problem> {
    let input = validate(caches, group)?;
    Ok(group.spec.machine_sets.iter().filter_map(|it| Some(input.types.get(&it.name)?.0.clone())).collect())
}

/// What the group asks of the allocator.
pub(super) fn claim(caches: &Caches, group: &DedicatedGroup) -> Option<Claim> {
    if !is_guarded(group) {
        return None;
    }
    let record = record::read(caches, group);
    let bought = record.placed();
    let input = validate(caches, group).ok();
    let given = nodes_of(caches, group);
    let machine = |(set, name): (&str, String)| {
        let known = input.as_ref().and_then(|it| it.types.get(set)).cloned();
        // Of a machine that the tariff does not know any more its node still tells.
        let (card_type, cards) = known.or_else(|| given.get(&name).and_then(|it| allocator::cards_of(it)))?;
        Some(Machine { name, card_type, cards, zone: group.spec.zone.clone() })
    };
    let mut machines: Vec<Machine> = record.machines().filter_map(machine).collect();
    if is_leaving(group) {
        machines.clear();
    } else if input.is_none() || is_refused(group) {
        // What is bought stays; nothing new is bought.
        machines.retain(|it| bought.contains(&it.name));
    }
    Some(Claim {
        key: key(group),
        card_type: machines.first().map(|it| it.card_type.clone()).unwrap_or_default(),
        account: input.map(|it| it.account).unwrap_or_default(),
        created_seconds: created_seconds(group),
        version: version(group),
        demand: Demand::Dedicated { machines, bought },
    })
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

/// What a claim is made from: the spec, and the machines as they are noted.
fn version(group: &DedicatedGroup) -> String {
    format!("{} {}", generation(group), group.annotations().get(names::MACHINES).map_or("", String::as_str))
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

/// The machines as the owner wants them, and what stands against it.
fn plan(
    group: &DedicatedGroup,
    input: &Input,
    before: &Record,
    placed: impl Iterator<Item = String>,
) -> (Record, Vec<Problem>) {
    let sets: Vec<machines::Set> = group
        .spec
        .machine_sets
        .iter()
        .map(|it| machines::Set {
            name: it.name.clone(),
            count: count(it.count),
            prepaid: it.billing == Billing::Prepaid,
        })
        .collect();
    let mut before = before.clone();
    for machine in placed {
        before.place(&machine);
    }
    let (record, problems) =
        machines::plan(&before, &sets, &group.spec.release, input.early_release == EarlyRelease::Refuse);
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
    input: Result<Input, Problem>,
    record: Record,
    problems: Vec<Problem>,
    nodes: BTreeMap<String, Arc<SlimNode>>,
    outcome: Option<Outcome>,
    /// By machine that is being emptied, or is empty.
    drains: BTreeMap<String, DrainStatus>,
}

/// One pass over a group.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    let Some(group) = caches.groups.get(&contract.namespace, &contract.name) else {
        return endpoint::release_ended(context, contract).await;
    };
    endpoint::release_ended(context, contract).await?;
    let input = validate(caches, &group);
    let before = record::read(caches, &group);
    let nodes = nodes_of(caches, &group);
    let (record, problems) = match &input {
        Ok(input) if !is_leaving(&*group) => plan(&group, input, &before, nodes.keys().cloned()),
        _ => (before, Vec::new()),
    };
    let outcome = context.outcome(Kind::Group, &contract.namespace, &contract.name);
    let mut found = Found { input, record, problems, nodes, outcome, drains: BTreeMap::new() };

    let applied = apply(context, &group, &mut found).await;

    let new = report::make_status(context, &group, &found);
    let wait =
        status::report(context, contract, &*group, group.status.as_ref(), &new, |it| &it.conditions).await;
    applied?;
    let wait = wait?;
    let draining = found.drains.values().any(|it| it.remaining > 0);
    let drain = (draining || is_leaving(&*group)).then_some(TICK);
    Ok(wait.into_iter().chain(drain).min().map_or(Done::Settled, Done::LookAgain))
}

async fn apply(context: &Context, group: &DedicatedGroup, found: &mut Found) -> Result<(), Error> {
    let cluster = &context.cluster;
    if is_leaving(group) {
        return leave(context, group, found).await;
    }
    if !is_guarded(group) {
        return cluster
            .add_finalizer::<DedicatedGroup>(&group.metadata, names::CARDS)
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
    // Only an answer to these very machines refuses them.
    let answer = found.outcome.as_ref().filter(|it| it.version == version(group));
    // What spot servers give back is waited for.
    let shortage = answer
        .and_then(|it| it.shortage.as_ref())
        .filter(|it| !matches!(it, crate::domain::allocate::Shortage::Reclaiming { .. }));
    let buys = found.record.machines().count() > found.record.placed().len();
    if let (Some(shortage), Ok(input), true) = (shortage, &found.input, buys && !is_refused(group)) {
        let card_type = input.types.values().next().map_or("", |it| it.0.as_str());
        let refusal = format!("{} {}", generation(group), in_words(shortage, card_type).message);
        return cluster
            .annotate::<DedicatedGroup>(&group.metadata, names::REFUSED, Some(&refusal))
            .await
            .map_err(Error::Apply);
    }
    isolate(context, group).await?;
    turn_out(context, group, found).await?;
    empty(context, group, found).await
}

/// Empties the machines that are named in `drain` and those that go back; restarts those that are named no more.
async fn empty(context: &Context, group: &DedicatedGroup, found: &mut Found) -> Result<(), Error> {
    let live: Vec<String> = found.record.machines().map(|(_, it)| it).collect();
    let mark = drain::mark(group);
    for (machine, node) in found.nodes.clone() {
        if group.spec.drain.contains(&machine) || !live.contains(&machine) {
            found.drains.insert(machine, drain::step(context, group, &node).await?);
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
