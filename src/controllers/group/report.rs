//! What a group reports of itself and of each machine, and Events for what the conditions alone would not tell in time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::Found;
use super::life::names_of;
use super::order::Stands;
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::group::{
    Billing, DedicatedGroupStatus, DrainStatus, GroupEndpoint, GroupPhase, MachinePhase, MachineStatus,
};
use crate::api::{DedicatedGroup, names};
use crate::controllers::facts::Problem;
use crate::controllers::pool::{in_words, is_leaving, is_refused, number, refusal};
use crate::controllers::{Context, allocator};
use crate::domain::money::Reminder;
use crate::domain::money::machine::Stage;

pub(super) fn make_status(context: &Context, group: &DedicatedGroup, found: &Found) -> DedicatedGroupStatus {
    let before = group.status.clone().unwrap_or_default();
    let machines = machines(context, group, found);
    let counted = Counted::of(&machines);
    let phase = counted.phase(group);
    let why = why(group, found, &machines, &counted);
    let undecided = machines.is_empty() && found.input.is_ok() && !is_leaving(group);
    let unpaid = counted.expired + counted.suspended;
    // What runs goes on, but somebody has to mend that.
    let is_unknown = found.ordered.problem.as_ref().is_some_and(|it| it.reason == Reason::LedgerMismatch);
    let good = phase == GroupPhase::Running
        && !is_unknown
        && counted.pending + unpaid == 0
        && found.problems.is_empty()
        && found.input.is_ok();
    let mut conditions = Conditions::new(&before.conditions, group.metadata.generation, (context.now)());
    conditions.set(
        Type::MachinesReady,
        (!undecided).then_some(good && counted.emptied == 0),
        why.reason,
        why.message.clone(),
    );
    set_paid(&mut conditions, group, found);
    set_expiring(&mut conditions, found);
    // A machine that its owner has emptied is as it should be.
    conditions.set(Type::Ready, (!undecided).then_some(good), why.reason, why.message);
    let namespace = group.namespace().unwrap_or_default();
    let endpoints = context.caches.endpoints.under(&format!("group/{namespace}/{}", group.name_any()));
    let mut conditions = conditions.done();
    if found.ordered.machines.is_none() {
        // Nothing new was heard of the money in this pass.
        let known: Vec<String> = conditions.iter().map(|it| it.type_.clone()).collect();
        let kept = before.conditions.iter().filter(|it| !known.contains(&it.type_)).cloned();
        conditions.extend(kept);
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    let bound_until = found.ordered.bound.values().max().map(|it| Time(*it));
    let all = machines.iter().filter(|it| it.phase != MachinePhase::Releasing).count();
    DedicatedGroupStatus {
        observed_generation: group.metadata.generation,
        phase: Some(phase),
        ready: format!("{}/{all}", counted.usable),
        machines,
        bound_until: if found.ordered.machines.is_some() { bound_until } else { before.bound_until },
        endpoints: endpoints
            .iter()
            .filter_map(|it| {
                Some(GroupEndpoint {
                    name: it.name_any(),
                    instances: it.spec.placement.dedicated_group.as_ref()?.instances,
                })
            })
            .collect(),
        conditions,
    }
}

/// How many machines are how.
struct Counted {
    usable: usize,
    emptied: usize,
    abnormal: usize,
    pending: usize,
    expired: usize,
    suspended: usize,
    over: usize,
}

impl Counted {
    fn of(machines: &[MachineStatus]) -> Counted {
        let count = |phase| machines.iter().filter(|it| it.phase == phase).count();
        Counted {
            usable: count(MachinePhase::Running),
            emptied: count(MachinePhase::Draining) + count(MachinePhase::Drained),
            abnormal: count(MachinePhase::Abnormal),
            pending: count(MachinePhase::Pending),
            expired: count(MachinePhase::Expired),
            suspended: count(MachinePhase::Suspended),
            over: count(MachinePhase::Released),
        }
    }

    fn phase(&self, group: &DedicatedGroup) -> GroupPhase {
        let placed = self.usable + self.emptied + self.abnormal;
        let refused = refusal(group).is_some() && self.pending > 0;
        match () {
            () if is_leaving(group) => GroupPhase::Deleting,
            () if placed == 0 && self.suspended > 0 => GroupPhase::Unavailable,
            () if placed == 0 && self.expired + self.over > 0 => GroupPhase::Expired,
            () if placed == 0 && refused => GroupPhase::Failed,
            () if placed == 0 => GroupPhase::Creating,
            () if self.usable == 0 && self.abnormal > 0 => GroupPhase::Unavailable,
            () if self.abnormal > 0 => GroupPhase::Abnormal,
            () => GroupPhase::Running,
        }
    }
}

/// Why the group is as it is: the first of these that holds.
fn why(group: &DedicatedGroup, found: &Found, machines: &[MachineStatus], counted: &Counted) -> Problem {
    let named = |phase| names_of(machines.iter().filter(|it| it.phase == phase).map(|it| it.name.as_str()));
    if is_leaving(group) {
        return Problem::new(Reason::Deleting, "its machines go back when they are empty");
    }
    if let Err(problem) = &found.input {
        return problem.clone();
    }
    if counted.abnormal > 0 {
        let message = format!(
            "{} can't be used: the node goes away, is away, not ready or cordoned, or its cards are away or faulty",
            named(MachinePhase::Abnormal)
        );
        return Problem::new(Reason::Degraded, message);
    }
    if let Some(why) = refusal(group).filter(|_| counted.pending > 0) {
        return Problem::new(Reason::Refused, format!("refused: {why}. Change the spec to try again"));
    }
    if let Some(problem) = &found.ordered.problem {
        return problem.clone();
    }
    if let (Some(shortage), Ok(offer)) = (&found.ordered.short, &found.input) {
        let card_type = offer.sets.values().next().map_or("", |it| it.card_type.as_str());
        return in_words(shortage, card_type);
    }
    if counted.suspended > 0 {
        let message = format!(
            "{} was given back, because the account is in arrears: it comes back by itself when that is paid and a machine is free",
            named(MachinePhase::Suspended)
        );
        return Problem::new(Reason::Arrears, message);
    }
    if !found.ordered.no_node.is_empty() {
        let waiting = names_of(found.ordered.no_node.iter().map(String::as_str));
        let message =
            format!("sold out: there is no free machine for {waiting}, which waits unpaid for the first one");
        return Problem::new(Reason::SoldOut, message);
    }
    if counted.expired > 0 {
        let message = format!(
            "{} has expired: append to renewals or machineRenewals of its set, such as {{months: 1}}, to bring it back",
            named(MachinePhase::Expired)
        );
        return Problem::new(Reason::Expired, message);
    }
    if let Some(problem) = found.problems.first() {
        return problem.clone();
    }
    if counted.pending > 0 || machines.is_empty() {
        return Problem::new(Reason::Pending, "machines are being found");
    }
    if counted.over > 0 {
        let message = format!(
            "{} was not renewed in time and is released for good: lower the count of its set",
            named(MachinePhase::Released)
        );
        return Problem::new(Reason::Released, message);
    }
    if counted.emptied > 0 {
        let message = format!("{} machines are emptied, as spec.drain says", counted.emptied);
        return Problem::new(Reason::Draining, message);
    }
    Problem::new(Reason::AsBought, format!("{} machines can be used", counted.usable))
}

fn set_paid(conditions: &mut Conditions<'_>, group: &DedicatedGroup, found: &Found) {
    let ordered = &found.ordered;
    let Some(machines) = &ordered.machines else {
        if let Some(problem) = &ordered.problem {
            conditions.set(Type::Paid, Some(false), problem.reason, problem.message.clone());
        }
        return;
    };
    let live = || machines.values().filter(|it| it.is_live);
    let by_hour = live().filter(|it| it.stage == Stage::Hourly).count();
    let terms = live().filter(|it| matches!(it.stage, Stage::Term { .. })).count();
    let held = names_of(machines.iter().filter(|(_, it)| it.is_held).map(|(name, _)| name.as_str()));
    let (holds, reason, message) = match (&ordered.problem, ordered.arrears.since()) {
        (Some(problem), _) => (Some(false), problem.reason, problem.message.clone()),
        (None, Some(since)) if live().any(|it| it.billing == Billing::Postpaid) => {
            let until = super::life::grace_ends(since);
            let message = format!(
                "the account is in arrears since {since}: machines by the hour are kept until {until}, then emptied and given back. Paid again, they come back by themselves"
            );
            (Some(false), Reason::Arrears, message)
        }
        (None, _) if !held.is_empty() => {
            let message = format!("the price of {held} is held until its machine is there");
            (Some(false), Reason::Pending, message)
        }
        (None, _) if by_hour + terms > 0 => {
            let message = format!("machines that are paid for a term: {terms}, by the hour: {by_hour}");
            (Some(true), Reason::AsBought, message)
        }
        (None, _) if is_refused(group) => (Some(false), Reason::Refused, "nothing was charged".to_owned()),
        (None, _) => (None, Reason::Pending, "nothing is ordered yet".to_owned()),
    };
    conditions.set(Type::Paid, holds, reason, message);
}

fn set_expiring(conditions: &mut Conditions<'_>, found: &Found) {
    let Some(machines) = &found.ordered.machines else { return };
    let live = || machines.iter().filter(|(_, it)| it.is_live);
    let with = |wanted: &dyn Fn(&Stands) -> Option<Timestamp>| -> Option<(Timestamp, String)> {
        let soonest = live().filter_map(|(_, it)| wanted(it)).min()?;
        let names = live().filter(|(_, it)| wanted(it) == Some(soonest)).map(|(name, _)| name.as_str());
        Some((soonest, names_of(names)))
    };
    let expiring = with(&|it| match it.reminder {
        Some(Reminder::Expiry { at, .. }) => Some(at),
        Some(Reminder::Release { .. }) | None => None,
    });
    let expired = with(&|it| match it.stage {
        Stage::Expired { releases_at, .. } => Some(releases_at),
        Stage::New | Stage::Term { .. } | Stage::Hourly | Stage::Away | Stage::Over { .. } => None,
    });
    let days_to = |at: Timestamp| {
        let of = |it: &Stands| match it.reminder {
            Some(Reminder::Expiry { days, at: when } | Reminder::Release { days, at: when })
                if when == at =>
            {
                Some(days)
            }
            Some(Reminder::Expiry { .. } | Reminder::Release { .. }) | None => None,
        };
        live().filter_map(|(_, it)| of(it)).min()
    };
    let (holds, reason, message) = match (expiring, expired) {
        (_, Some((at, names))) => {
            let within = days_to(at).map_or(String::new(), |days| format!(" within {days} days,"));
            (true, Reason::Expired, format!("{names} has expired, and is released for good{within} at {at}"))
        }
        (Some((at, names)), None) => {
            let days = days_to(at).unwrap_or_default();
            let message = format!("{names} expires within {days} days, at {at}: renew it in time to keep it");
            (true, Reason::Expiring, message)
        }
        (None, None) if live().any(|(_, it)| matches!(it.stage, Stage::Term { .. })) => {
            (false, Reason::NotExpiring, "no machine expires within 7 days".to_owned())
        }
        (None, None) => return,
    };
    conditions.set(Type::ExpiringSoon, Some(holds), reason, message);
}

/// Tells of each reminder, of expiry, and of money that is missing, when it comes.
pub(super) async fn tell(context: &Context, group: &DedicatedGroup, new: &DedicatedGroupStatus) {
    let of =
        |it: &DedicatedGroupStatus, kind: &str| it.conditions.iter().find(|it| it.type_ == kind).cloned();
    let before = |kind: &str| group.status.as_ref().and_then(|it| of(it, kind));
    // That the group is not Ready is told by its own Event.
    let is_ready = of(new, "Ready").is_some_and(|it| it.status == "True");
    if let Some(now) = of(new, "Paid").filter(|it| is_ready && it.status == "False" && it.reason != "Pending")
        && before("Paid").is_none_or(|it| it.reason != now.reason)
    {
        context.cluster.tell(&group.object_ref(&()), true, &now.reason, &now.message).await;
    }
    let Some(now) = of(new, "ExpiringSoon").filter(|it| it.status == "True") else { return };
    if before("ExpiringSoon").is_none_or(|it| it.message != now.message) {
        context.cluster.tell(&group.object_ref(&()), true, &now.reason, &now.message).await;
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
    let drain: Option<DrainStatus> = found.drains.get(&name).cloned();
    let stands = found.ordered.machines.as_ref().and_then(|it| it.get(&name));
    let before = group.status.iter().flat_map(|it| &it.machines).find(|it| it.name == name);
    let on = |node: &str| context.caches.pods.under(&format!("node/{node}"));
    let pods = node.map_or(0, |it| {
        on(&it.name_any()).iter().filter(|it| !it.is_part_of_node() && !it.is_over()).count()
    });
    let said = before.map(|it| it.billing);
    let of_set = || group.spec.machine_sets.iter().find(|it| it.name == set).map(|it| it.billing);
    MachineStatus {
        node: node.map(|it| it.name_any()),
        phase: phase(group, found, &name, drain.as_ref()),
        billing: stands.map(|it| it.billing).or(said).or_else(of_set).unwrap_or(Billing::Postpaid),
        expires_at: match stands {
            Some(it) => it.expires_at.map(Time),
            None => before.and_then(|it| it.expires_at.clone()),
        },
        pods: number(u32::try_from(pods).unwrap_or(u32::MAX)),
        drain,
        name,
    }
}

fn phase(group: &DedicatedGroup, found: &Found, name: &str, drain: Option<&DrainStatus>) -> MachinePhase {
    let node = found.nodes.get(name);
    let is_live = found.record.machines().any(|(_, it)| it == name);
    let stage = found.ordered.machines.as_ref().and_then(|it| it.get(name)).map(|it| it.stage);
    let holdings = found.outcome.iter().flat_map(|it| &it.holdings);
    let holding = holdings.into_iter().find(|it| it.machine.as_deref() == Some(name));
    match (node, drain, stage) {
        (Some(_), ..) if !is_live || is_leaving(group) => MachinePhase::Releasing,
        (_, _, Some(Stage::Over { .. })) => MachinePhase::Released,
        // One that goes on by the hour has not expired for its owner.
        (Some(_), Some(_), Some(Stage::Expired { .. })) | (None, _, Some(Stage::Expired { .. })) => {
            MachinePhase::Expired
        }
        // Its node is there, and its money is not settled yet.
        (Some(_), _, Some(Stage::New)) => MachinePhase::Pending,
        (Some(_), Some(drain), _) if drain.remaining > 0 => MachinePhase::Draining,
        (Some(_), Some(_), _) => MachinePhase::Drained,
        (Some(node), None, _) => {
            let ours = node.annotations().get(names::DRAINED_FOR) == Some(&super::drain::mark(group));
            let usable = node.is_ready()
                && (ours || !node.spec.unschedulable)
                && holding.is_none_or(|it| it.in_place)
                && allocator::is_whole(node);
            if usable { MachinePhase::Running } else { MachinePhase::Abnormal }
        }
        (None, _, Some(Stage::Away)) if found.ordered.arrears.since().is_some() => MachinePhase::Suspended,
        // It had a node and has none now: the next free machine replaces it.
        (None, ..) if found.record.placed().iter().any(|it| it == name) => MachinePhase::Abnormal,
        (None, ..) => MachinePhase::Pending,
    }
}
