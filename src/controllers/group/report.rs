//! What a group reports of itself and of each machine.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::Found;
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::group::{
    Billing, DedicatedGroupStatus, DrainStatus, GroupEndpoint, GroupPhase, MachinePhase, MachineStatus,
};
use crate::api::{DedicatedGroup, names};
use crate::controllers::facts::Problem;
use crate::controllers::pool::{in_words, is_leaving, number, refusal};
use crate::controllers::{Context, allocator};

pub(super) fn make_status(context: &Context, group: &DedicatedGroup, found: &Found) -> DedicatedGroupStatus {
    let before = group.status.clone().unwrap_or_default();
    let machines = machines(context, group, found);
    let count = |phase| machines.iter().filter(|it| it.phase == phase).count();
    let usable = count(MachinePhase::Running);
    let emptied = count(MachinePhase::Draining) + count(MachinePhase::Drained);
    let (abnormal, pending) = (count(MachinePhase::Abnormal), count(MachinePhase::Pending));
    let placed = usable + emptied + abnormal;
    let refusal = refusal(group).filter(|_| pending > 0);
    let phase = match () {
        () if is_leaving(group) => GroupPhase::Deleting,
        () if placed == 0 && refusal.is_some() => GroupPhase::Failed,
        () if placed == 0 => GroupPhase::Creating,
        () if usable == 0 && abnormal > 0 => GroupPhase::Unavailable,
        () if abnormal > 0 => GroupPhase::Abnormal,
        () => GroupPhase::Running,
    };

    let card_type = found
        .input
        .as_ref()
        .ok()
        .and_then(|it| it.types.values().next())
        .map(|it| it.0.clone())
        .unwrap_or_default();
    let shortage =
        found.outcome.as_ref().and_then(|it| it.shortage.as_ref()).map(|it| in_words(it, &card_type));
    let abnormal_names: Vec<&str> =
        machines.iter().filter(|it| it.phase == MachinePhase::Abnormal).map(|it| it.name.as_str()).collect();
    let why = if is_leaving(group) {
        Problem::new(Reason::Deleting, "its machines go back when they are empty")
    } else if let Err(problem) = &found.input {
        problem.clone()
    } else if abnormal > 0 {
        let message = format!(
            "{} can't be used: the node goes away, is away, not ready or cordoned, or its cards are away or faulty",
            abnormal_names.join(", ")
        );
        Problem::new(Reason::Degraded, message)
    } else if let Some(why) = refusal {
        Problem::new(Reason::Refused, format!("refused: {why}. Change the spec to try again"))
    } else if let Some(shortage) = shortage {
        shortage
    } else if let Some(problem) = found.problems.first() {
        problem.clone()
    } else if pending > 0 || machines.is_empty() {
        Problem::new(Reason::Pending, "machines are being found")
    } else if emptied > 0 {
        Problem::new(Reason::Draining, format!("{emptied} machines are emptied, as spec.drain says"))
    } else {
        Problem::new(Reason::AsBought, format!("{usable} machines can be used"))
    };
    let undecided = machines.is_empty() && found.input.is_ok() && !is_leaving(group);
    let good =
        phase == GroupPhase::Running && pending == 0 && found.problems.is_empty() && found.input.is_ok();
    let mut conditions = Conditions::new(&before.conditions, group.metadata.generation, (context.now)());
    conditions.set(
        Type::MachinesReady,
        (!undecided).then_some(good && emptied == 0),
        why.reason,
        why.message.clone(),
    );
    // A machine that its owner has emptied is as it should be.
    conditions.set(Type::Ready, (!undecided).then_some(good), why.reason, why.message);
    let namespace = group.namespace().unwrap_or_default();
    let endpoints = context.caches.endpoints.under(&format!("group/{namespace}/{}", group.name_any()));
    DedicatedGroupStatus {
        observed_generation: group.metadata.generation,
        phase: Some(phase),
        ready: format!(
            "{usable}/{}",
            machines.iter().filter(|it| it.phase != MachinePhase::Releasing).count()
        ),
        machines,
        endpoints: endpoints
            .iter()
            .filter_map(|it| {
                Some(GroupEndpoint {
                    name: it.name_any(),
                    instances: it.spec.placement.dedicated_group.as_ref()?.instances,
                })
            })
            .collect(),
        conditions: conditions.done(),
    }
}

/// Each machine that the group has, waits for, or is giving back.
fn machines(context: &Context, group: &DedicatedGroup, found: &Found) -> Vec<MachineStatus> {
    let mut names: BTreeMap<(String, u32), String> = BTreeMap::new();
    for name in found.record.machines().map(|(_, it)| it).chain(found.nodes.keys().cloned()) {
        let (set, at) = name
            .rsplit_once('-')
            .map_or((name.clone(), 0), |(set, at)| (set.to_owned(), at.parse().unwrap_or(0)));
        names.insert((set, at), name);
    }
    names.into_iter().map(|((set, _), name)| machine(context, group, found, &set, name)).collect()
}

fn machine(
    context: &Context,
    group: &DedicatedGroup,
    found: &Found,
    set: &str,
    name: String,
) -> MachineStatus {
    let node = found.nodes.get(&name);
    let kept = found.record.machines().any(|(_, it)| it == name);
    let drain: Option<DrainStatus> = found.drains.get(&name).cloned();
    let holding = found
        .outcome
        .as_ref()
        .and_then(|it| it.holdings.iter().find(|it| it.machine.as_ref() == Some(&name)));
    let phase = match (node, &drain) {
        (Some(_), _) if !kept || is_leaving(group) => MachinePhase::Releasing,
        (Some(_), Some(drain)) if drain.remaining > 0 => MachinePhase::Draining,
        (Some(_), Some(_)) => MachinePhase::Drained,
        (Some(node), None) => {
            let ours = node.annotations().get(names::DRAINED_FOR) == Some(&super::drain::mark(group));
            let usable = node.is_ready()
                && (ours || !node.spec.unschedulable)
                && holding.is_none_or(|it| it.in_place)
                && allocator::is_whole(node);
            if usable { MachinePhase::Running } else { MachinePhase::Abnormal }
        }
        // It had a node and has none now: the next free machine replaces it.
        (None, _) if found.record.placed().contains(&name) => MachinePhase::Abnormal,
        (None, _) => MachinePhase::Pending,
    };
    let on = |node: &str| context.caches.pods.under(&format!("node/{node}"));
    let pods = node.map_or(0, |it| {
        on(&it.name_any()).iter().filter(|it| !it.is_part_of_node() && !it.is_over()).count()
    });
    let billing =
        group.spec.machine_sets.iter().find(|it| it.name == set).map_or(Billing::Postpaid, |it| it.billing);
    MachineStatus {
        node: node.map(|it| it.name_any()),
        phase,
        billing,
        pods: number(u32::try_from(pods).unwrap_or(u32::MAX)),
        drain,
        name,
    }
}
