//! ServerlessEndpoint: what it claims, which workers it runs, what it reports.
//!
//! Without a gateway there is no demand to follow: an elastic endpoint runs its active workers, a bound one its instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::facts::{self, Problem};
use super::pool::{GB, count, created_seconds, generation, is_leaving, key, number};
use super::worker::{self, Worker};
use super::{Context, Done, Error, TICK, pool, status};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::endpoint::{EndpointPhase, RuleState, Schedule, State, WorkerCounts};
use crate::api::group::{GroupPhase, Usage};
use crate::api::{CardType, ServerlessEndpoint, ServerlessEndpointStatus, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::SlimPod;
use crate::cluster::write;
use crate::domain::allocate::Outcome;
use crate::domain::book::Share;
use crate::domain::fleet::{Claim, Demand};
use crate::domain::workers;

/// Names of workers that are tried when they belong to somebody else.
const NAMES_TRIED: usize = 16;

/// Where an endpoint's workers run, resolved.
struct Place {
    card_type: Arc<CardType>,
    share: Share,
    /// Workers wanted when it runs.
    wanted: u32,
    /// Disk of one worker in bytes, when the contract sets it.
    disk_bytes: Option<i64>,
    node_selector: BTreeMap<String, String>,
    /// Why there are fewer than it asks for, or why none can run now.
    short: Option<Problem>,
    /// Is there anything to wait for at the allocator?
    elastic: bool,
    /// May a worker be started now? Those that run stay.
    open: bool,
    /// For one that is bound: workers beyond the wanted ones that there are cards for, to surge with.
    spare: u32,
}

// Validate.

/// Who pays for elastic workers, and their card type.
fn elastic(caches: &Caches, endpoint: &ServerlessEndpoint) -> Result<(String, Arc<CardType>), Problem> {
    let Some(on) = &endpoint.spec.placement.serverless else {
        return Err(Problem::new(Reason::Invalid, "give exactly one placement"));
    };
    let card_type = facts::card_type(caches, &on.card_type)?;
    let (account, tariff) = facts::payer(caches, &endpoint.namespace().unwrap_or_default(), &on.region)?;
    let priced = tariff
        .spec
        .serverless
        .as_ref()
        .is_some_and(|it| it.cards.iter().any(|it| it.card_type == on.card_type));
    if !priced {
        let message =
            format!("Tariff {} has no serverless price for card type {}", tariff.name_any(), on.card_type);
        return Err(Problem::new(Reason::NoPrice, message));
    }
    Ok((account.name_any(), card_type))
}

fn place(context: &Context, endpoint: &ServerlessEndpoint) -> Result<Place, Problem> {
    let caches = &context.caches;
    let namespace = endpoint.namespace().unwrap_or_default();
    let placement = &endpoint.spec.placement;
    if let Some(on) = &placement.resident_pool {
        let unknown = || {
            Problem::new(
                Reason::UnknownPlacement,
                format!("there is no ResidentPool {} in namespace {namespace}", on.name),
            )
        };
        let pool = caches.pools.get(&namespace, &on.name).ok_or_else(unknown)?;
        let card_type = facts::card_type(caches, &pool.spec.card_type)?;
        let (admitted, left) = pool::admitted(caches, &pool);
        let instances =
            admitted.iter().find(|it| it.endpoint == endpoint.name_any()).map_or(0, |it| it.instances);
        let bought = pool.status.as_ref().is_some_and(|it| it.bought.is_some());
        // A pool that is being deleted waits for its instances.
        let short = if !bought {
            Some(Problem::new(
                Reason::PlacementNotReady,
                format!("ResidentPool {} has no cards yet", on.name),
            ))
        } else if instances < count(on.instances) {
            let message = format!(
                "ResidentPool {} has room for {instances} of {} instances: {} cards and {} GB of disk are left",
                on.name, on.instances, left.cards, left.disk_gb
            );
            Some(Problem::new(Reason::PoolWithoutRoom, message))
        } else {
            None
        };
        return Ok(Place {
            card_type,
            share: Share::Resident(key(&*pool)),
            wanted: instances,
            disk_bytes: Some(i64::from(on.disk_gb) * GB),
            node_selector: BTreeMap::new(),
            short,
            elastic: false,
            open: true,
            spare: (left.cards / count(endpoint.spec.workers.gpus).max(1))
                .min(left.disk_gb / count(on.disk_gb).max(1)),
        });
    }
    if let Some(on) = &placement.dedicated_group {
        let unknown = || {
            Problem::new(
                Reason::UnknownPlacement,
                format!("there is no DedicatedGroup {} in namespace {namespace}", on.name),
            )
        };
        let group = caches.groups.get(&namespace, &on.name).ok_or_else(unknown)?;
        if group.spec.usage != Usage::Inference {
            let message = format!(
                "DedicatedGroup {} is for {:?}: endpoints need a group of usage Inference",
                on.name, group.spec.usage
            );
            return Err(Problem::new(Reason::GroupNotInference, message));
        }
        let phase = group.status.as_ref().and_then(|it| it.phase);
        let usable =
            matches!(phase, Some(GroupPhase::Running | GroupPhase::Abnormal)) && !is_leaving(&*group);
        let card_type = super::group::card_types(caches, &group)?.into_iter().next().ok_or_else(unknown)?;
        let short = (!usable).then(|| {
            Problem::new(Reason::PlacementNotReady, format!("DedicatedGroup {} is not Running", on.name))
        });
        // A machine that is away for a moment ends no worker.
        let wanted = if is_leaving(&*group) { 0 } else { count(on.instances) };
        return Ok(Place {
            card_type: facts::card_type(caches, &card_type)?,
            share: Share::Dedicated(key(&*group)),
            wanted,
            disk_bytes: None,
            node_selector: [
                (names::GROUP.to_owned(), on.name.clone()),
                (names::GROUP_NAMESPACE.to_owned(), namespace),
            ]
            .into(),
            short,
            elastic: false,
            open: usable,
            spare: super::group::free_cards(caches, &group) / count(endpoint.spec.workers.gpus).max(1),
        });
    }
    let (_, card_type) = elastic(caches, endpoint)?;
    Ok(Place {
        card_type,
        share: Share::Shared,
        wanted: count(endpoint.spec.workers.active),
        disk_bytes: None,
        node_selector: BTreeMap::new(),
        short: None,
        elastic: true,
        open: true,
        spare: 0,
    })
}

/// Does it run now?
fn runs(endpoint: &ServerlessEndpoint, now: Timestamp) -> Result<bool, Problem> {
    match endpoint.spec.state {
        State::Running => Ok(true),
        State::Stopped => Ok(false),
        State::Scheduled => {
            let none = || Problem::new(Reason::Invalid, "state Scheduled needs a schedule");
            scheduled(endpoint.spec.schedule.as_ref().ok_or_else(none)?, now)
        }
    }
}

/// What the last rule that fired says; before any has, it is stopped.
fn scheduled(schedule: &Schedule, now: Timestamp) -> Result<bool, Problem> {
    let zone = jiff::tz::TimeZone::get(&schedule.time_zone);
    let zone = zone.map_err(|_| {
        Problem::new(Reason::Invalid, format!("there is no time zone {}", schedule.time_zone))
    })?;
    let now = now.to_zoned(zone);
    let mut last: Option<(jiff::Zoned, bool)> = None;
    for rule in &schedule.rules {
        let bad = |it: croner::errors::CronError| {
            Problem::new(Reason::Invalid, format!("schedule rule `{}`: {it}", rule.at))
        };
        let cron: croner::Cron = rule.at.parse().map_err(bad)?;
        // A rule whose date never comes (30 February) never fires.
        if let Ok(fired) = cron.find_previous_occurrence(&now, true)
            && last.as_ref().is_none_or(|(at, _)| fired >= *at)
        {
            last = Some((fired, rule.state == RuleState::Running));
        }
    }
    Ok(last.is_some_and(|(_, runs)| runs))
}

fn pods(caches: &Caches, endpoint: &ServerlessEndpoint) -> Vec<Arc<SlimPod>> {
    let mut pods = caches.pods.under(&format!(
        "endpoint/{}/{}",
        endpoint.namespace().unwrap_or_default(),
        endpoint.name_any()
    ));
    // A pod with our label that is not ours is not a worker.
    pods.retain(|it| {
        it.metadata
            .owner_references
            .iter()
            .flatten()
            .any(|it| Some(&it.uid) == endpoint.metadata.uid.as_ref())
    });
    pods
}

/// What the endpoint asks of the allocator: only elastic workers compete for cards.
pub(super) fn claim(caches: &Caches, endpoint: &ServerlessEndpoint, now: Timestamp) -> Option<Claim> {
    endpoint.spec.placement.serverless.as_ref()?;
    let pods = pods(caches, endpoint);
    let (account, card_type) = elastic(caches, endpoint).ok()?;
    let live: Vec<&Arc<SlimPod>> =
        pods.iter().filter(|it| it.metadata.deletion_timestamp.is_none() && !it.is_over()).collect();
    let unbound = live.iter().filter(|it| it.spec.node_name.is_none());
    let promised =
        |it: &&Arc<SlimPod>| it.annotations().get(names::PROMISED_NODE).cloned().unwrap_or_default();
    let unbound: Vec<String> = unbound.map(promised).collect();
    let on = !is_leaving(endpoint) && runs(endpoint, now).unwrap_or(false);
    let active = if on { count(endpoint.spec.workers.active) } else { 0 };
    let surge = endpoint.spec.rollout.as_ref().map_or(0, |it| count(it.surge));
    let revision =
        worker::revision(&endpoint.spec.template, &Share::Shared, count(endpoint.spec.workers.gpus), None);
    let rolling = live.iter().any(|it| it.label(names::REVISION) != Some(&revision));
    let wanted = if rolling && on { active + surge } else { active };
    Some(Claim {
        key: key(endpoint),
        card_type: card_type.name_any(),
        account,
        created_seconds: created_seconds(endpoint),
        version: generation(endpoint),
        demand: Demand::Workers {
            cards: count(endpoint.spec.workers.gpus),
            active,
            wanted,
            exist: u32::try_from(live.len()).unwrap_or(u32::MAX),
            unbound,
        },
    })
}

/// A pod as the planner sees it.
fn seen(caches: &Caches, pod: &SlimPod) -> workers::Worker {
    let name = pod.name_any();
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let node_gone = node_gone(caches, pod);
    workers::Worker {
        number: number_of(&name),
        revision: pod.label(names::REVISION).unwrap_or_default().to_owned(),
        ready: pod.is_ready() && !node_gone,
        leaving,
        // Who deletes the live pods of a node that is gone is the garbage collector, after a while: it may come back.
        ended: pod.is_over() || (leaving && (node_gone || pod.has_ended())),
        created_seconds: created_seconds(pod),
        name,
    }
}

/// The kubelet of a node that is gone says nothing any more.
fn node_gone(caches: &Caches, pod: &SlimPod) -> bool {
    pod.spec.node_name.as_deref().is_some_and(|it| caches.nodes.get("", it).is_none())
}

fn number_of(pod_name: &str) -> u32 {
    pod_name.rsplit('-').next().and_then(|it| it.parse().ok()).unwrap_or(0)
}

// The driver.

/// One pass over an endpoint.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    let Some(endpoint) = caches.endpoints.get(&contract.namespace, &contract.name) else {
        return release_ended(context, contract).await;
    };
    // Also those of an endpoint of this name that was there before.
    release_ended(context, contract).await?;

    // Observe.
    let pods = pods(caches, &endpoint);
    let seen: Vec<workers::Worker> = pods.iter().map(|it| seen(caches, it)).collect();
    let outcome = context.outcome(Kind::Endpoint, &contract.namespace, &contract.name);

    // Validate.
    let place = place(context, &endpoint).and_then(|it| {
        let cards = count(endpoint.spec.workers.gpus);
        let per_card =
            facts::per_card(&it.card_type).map_err(|it| Problem::new(Reason::Invalid, it.to_string()))?;
        let mut size = per_card.times(cards);
        let disk_bytes = it.disk_bytes.unwrap_or(size.disk_bytes);
        if disk_bytes > size.disk_bytes {
            let message = format!(
                "diskGB is more than the {} bytes of disk that come with the cards of an instance",
                size.disk_bytes
            );
            return Err(Problem::new(Reason::Invalid, message));
        }
        size.disk_bytes = disk_bytes;
        worker::validate(&endpoint.spec.template, &it.card_type.spec.resource_name, &size)?;
        Ok((it, per_card.times(cards)))
    });
    let runs = runs(&endpoint, (context.now)());

    // Plan.
    let revision = match &place {
        Ok((it, _)) => worker::revision(
            &endpoint.spec.template,
            &it.share,
            count(endpoint.spec.workers.gpus),
            it.disk_bytes,
        ),
        Err(_) => endpoint.status.as_ref().map(|it| it.revision.clone()).unwrap_or_default(),
    };
    let setback = context.setback(contract);
    let room = match &place {
        Ok((it, _)) if !it.open || setback.is_some() => 0,
        Ok((it, _)) if it.elastic => outcome.as_ref().map_or(0, |it| it.worker_nodes.len()),
        Ok((it, _)) => {
            usize::try_from(it.wanted.saturating_sub(number_live(&seen)) + it.spare).unwrap_or(usize::MAX)
        }
        Err(_) => 0,
    };
    let surge = endpoint.spec.rollout.as_ref().map_or(0, |it| count(it.surge));
    let by_label = caches.pods.under(&format!("endpoint/{}/{}", contract.namespace, contract.name));
    let next = by_label.iter().map(|it| number_of(&it.name_any()) + 1).max().unwrap_or(1);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    let plan = |count| {
        workers::plan(&workers::Wanted { count, revision: revision.clone(), surge, room, next }, &seen)
    };
    let (wanted, steps) = match (&place, &runs) {
        _ if is_leaving(&*endpoint) => (0, plan(0)),
        (Ok((place, _)), Ok(true)) => (place.wanted, plan(place.wanted)),
        (Ok(_), Ok(false)) => (0, plan(0)),
        (Err(_), _) | (_, Err(_)) => (number_live(&seen), workers::keep(&seen)),
    };

    // Apply.
    let applied =
        apply(context, contract, &endpoint, place.as_ref().ok(), &pods, &steps, outcome.as_ref(), &revision)
            .await;

    // Status.
    let new = make_status(
        context,
        &endpoint,
        place.as_ref().map(|it| &it.0),
        &runs,
        &seen,
        wanted,
        outcome.as_ref(),
        &revision,
    );
    let wait =
        status::report(context, contract, &*endpoint, endpoint.status.as_ref(), &new, |it| &it.conditions)
            .await;
    applied?;
    let wait = wait?;
    let schedule = (endpoint.spec.state == State::Scheduled).then_some(TICK);
    Ok(wait.into_iter().chain(setback).chain(schedule).min().map_or(Done::Settled, Done::LookAgain))
}

/// Whose worker it is; on a group also whose machine it uses.
fn labels(endpoint: &ServerlessEndpoint, revision: &str) -> BTreeMap<String, String> {
    let group =
        endpoint.spec.placement.dedicated_group.as_ref().map(|it| (names::GROUP.to_owned(), it.name.clone()));
    let own = [
        (names::ENDPOINT.to_owned(), endpoint.name_any()),
        (names::REVISION.to_owned(), revision.to_owned()),
    ];
    own.into_iter().chain(group).collect()
}

fn number_live(seen: &[workers::Worker]) -> u32 {
    u32::try_from(seen.iter().filter(|it| !it.leaving && !it.ended).count()).unwrap_or(u32::MAX)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one pass")]
async fn apply(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    place: Option<&(Place, crate::domain::units::Size)>,
    pods: &[Arc<SlimPod>],
    steps: &workers::Steps,
    outcome: Option<&Outcome>,
    revision: &str,
) -> Result<(), Error> {
    for pod in pods {
        let name = pod.name_any();
        if steps.delete.contains(&name) {
            if pod.is_over() {
                context.note_setback(contract);
            }
            context.cluster.delete_pod(pod).await.map_err(Error::Apply)?;
        }
    }
    let (Some((place, size)), Some(owner)) = (place, endpoint.controller_owner_ref(&())) else {
        return Ok(());
    };
    let promised = outcome.map(|it| it.worker_nodes.as_slice()).unwrap_or_default();
    let mut numbers = steps.create.first().copied().unwrap_or(1)..;
    for at in 0..steps.create.len() {
        let pod = worker::build(&Worker {
            name: String::new(),
            namespace: endpoint.namespace().unwrap_or_default(),
            owner: owner.clone(),
            labels: labels(endpoint, revision),
            card_resource: &place.card_type.spec.resource_name,
            share: place.share.clone(),
            cards: count(endpoint.spec.workers.gpus),
            size: *size,
            disk_bytes: place.disk_bytes,
            node_selector: place.node_selector.clone(),
            promised_node: promised.get(at).filter(|_| place.elastic).cloned(),
            template: &endpoint.spec.template,
        });
        create(context, endpoint, pod, &mut numbers).await?;
    }
    Ok(())
}

/// Creates a worker under the next number whose name is not somebody else's.
async fn create(
    context: &Context,
    endpoint: &ServerlessEndpoint,
    mut pod: Pod,
    numbers: &mut impl Iterator<Item = u32>,
) -> Result<(), Error> {
    let namespace = endpoint.namespace().unwrap_or_default();
    for number in numbers.take(NAMES_TRIED) {
        let name = format!("{}-{number}", endpoint.name_any());
        pod.metadata.name = Some(name.clone());
        match context.cluster.create_pod(&pod).await {
            Ok(()) => return Ok(()),
            Err(write::Error::AlreadyExists) => {
                let there = context.cluster.read::<SlimPod>(&namespace, &name).await.map_err(Error::Apply)?;
                let ours = |it: SlimPod| {
                    it.metadata
                        .owner_references
                        .iter()
                        .flatten()
                        .any(|it| Some(&it.uid) == endpoint.metadata.uid.as_ref())
                };
                // The view was old: the pod is there, and the watch will show it.
                if there.is_some_and(ours) {
                    return Ok(());
                }
            }
            Err(write::Error::Refused(message)) => {
                context.cluster.tell(&endpoint.object_ref(&()), true, "WorkerRefused", &message).await;
                return Err(Error::Apply(write::Error::Refused(message)));
            }
            Err(error) => return Err(Error::Apply(error)),
        }
    }
    Err(Error::Apply(write::Error::AlreadyExists))
}

/// Lets go of pods whose containers have ended: an endpoint's workers, also of one that is gone (they go by their owner
/// reference), a spot server's pod, or the pods of a group.
pub(super) async fn release_ended(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let kind = match contract.kind {
        Kind::Spot => "spot",
        Kind::Group => "group",
        Kind::Endpoint | Kind::Pool => "endpoint",
    };
    let pods = context.caches.pods.under(&format!("{kind}/{}/{}", contract.namespace, contract.name));
    for pod in pods {
        let held = pod.metadata.finalizers.iter().flatten().any(|it| it == names::METERING);
        if held && seen(&context.caches, &pod).ended && pod.metadata.deletion_timestamp.is_some() {
            // Not from a cache: containers on a node that is there may still run.
            let node = pod.spec.node_name.as_deref().filter(|_| node_gone(&context.caches, &pod));
            if let Some(node) = node
                && context.cluster.has_node(node).await.map_err(Error::Apply)?
            {
                continue;
            }
            context
                .cluster
                .remove_finalizer::<Pod>(&pod.metadata, names::METERING)
                .await
                .map_err(Error::Apply)?;
        }
    }
    Ok(Done::Settled)
}

// Status.

#[allow(clippy::too_many_arguments, reason = "the parts of one pass")]
fn make_status(
    context: &Context,
    endpoint: &ServerlessEndpoint,
    place: Result<&Place, &Problem>,
    runs: &Result<bool, Problem>,
    seen: &[workers::Worker],
    wanted: u32,
    outcome: Option<&Outcome>,
    revision: &str,
) -> ServerlessEndpointStatus {
    let before = endpoint.status.clone().unwrap_or_default();
    let counts = workers::count(seen);
    let stopped = matches!(runs, Ok(false));
    let card_type = place.map_or_else(|_| String::new(), |it| it.card_type.name_any());
    let short = match place {
        Ok(place) if place.elastic => {
            outcome.and_then(|it| it.shortage.as_ref()).map(|it| pool::in_words(it, &card_type))
        }
        Ok(place) => place.short.clone(),
        Err(problem) => Some(problem.clone()),
    };
    let short = runs.as_ref().err().cloned().or(short);
    let live = counts.ready + counts.starting;
    let phase = match () {
        () if stopped && counts.draining + live > 0 => EndpointPhase::Stopping,
        () if stopped => EndpointPhase::Stopped,
        () if counts.ready > 0 => EndpointPhase::Running,
        () if place.is_err() || runs.is_err() => EndpointPhase::Unavailable,
        () if wanted == 0 && short.is_none() => EndpointPhase::Idle,
        () if short.is_some() && live == 0 => EndpointPhase::Unavailable,
        () => EndpointPhase::Starting,
    };
    let mut conditions = Conditions::new(&before.conditions, endpoint.metadata.generation, (context.now)());
    let all_ready = counts.ready >= wanted;
    let waits = wanted.saturating_sub(live) > 0 || place.is_ok_and(|it| !it.elastic);
    let no_cards = short.clone().filter(|_| waits && !stopped);
    match &no_cards {
        Some(problem) => {
            conditions.set(Type::CardsAvailable, Some(false), problem.reason, problem.message.clone())
        }
        // What it wants can't be told.
        None if place.is_err() || runs.is_err() => conditions.set(
            Type::CardsAvailable,
            None,
            Reason::Pending,
            "not known while the endpoint is not valid",
        ),
        None => conditions.set(
            Type::CardsAvailable,
            Some(true),
            Reason::AsBought,
            "there are cards for all workers that are wanted",
        ),
    };
    let former = seen.iter().filter(|it| !it.leaving && !it.ended && it.revision != revision).count();
    let rolling = if former == 0 || place.is_err() {
        String::new()
    } else {
        format!("; {former} are of the former template and are replaced one by one")
    };
    let of = format!("{} of {wanted} workers are ready{rolling}", counts.ready);
    let workers_reason = if all_ready { Reason::Running } else { Reason::Progressing };
    conditions.set(Type::WorkersReady, Some(all_ready), workers_reason, of.clone());
    let (holds, reason, message) = match (place, runs) {
        (Err(problem), _) | (_, Err(problem)) => (false, problem.reason, problem.message.clone()),
        (Ok(_), Ok(false)) => (
            true,
            Reason::Stopped,
            "stopped, as its state says; it serves nothing and costs nothing".to_owned(),
        ),
        (Ok(_), Ok(true)) => match no_cards {
            Some(problem) => (false, problem.reason, problem.message),
            None if wanted == 0 => (true, Reason::Idle, "scaled to zero".to_owned()),
            None if all_ready => (true, Reason::Running, of),
            None => (false, Reason::Progressing, of),
        },
    };
    conditions.set(
        Type::Ready,
        Some(holds && !is_leaving(endpoint)),
        if is_leaving(endpoint) { Reason::Deleting } else { reason },
        message,
    );
    ServerlessEndpointStatus {
        observed_generation: endpoint.metadata.generation,
        phase: Some(phase),
        ready: format!("{}/{}", counts.ready, wanted.max(1)),
        workers: WorkerCounts {
            wanted: number(wanted),
            ready: number(counts.ready),
            starting: number(counts.starting),
            draining: number(counts.draining),
        },
        selector: format!("{}={}", names::ENDPOINT, endpoint.name_any()),
        revision: revision.to_owned(),
        conditions: conditions.done(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::endpoint::ScheduleRule;

    #[test]
    fn the_last_rule_that_fired_holds_in_its_own_time_zone() {
        let rule = |at: &str, state| ScheduleRule { at: at.to_owned(), state };
        let schedule = |zone: &str| Schedule {
            time_zone: zone.to_owned(),
            rules: vec![rule("0 8 * * 1-5", RuleState::Running), rule("0 20 * * 1-5", RuleState::Stopped)],
        };
        for (now, zone, expected) in [
            ("2026-11-23T00:30:00Z", "Asia/Shanghai", Some(true)),
            ("2026-11-22T23:59:00Z", "Asia/Shanghai", Some(false)),
            ("2026-11-23T12:00:00Z", "Asia/Shanghai", Some(false)),
            ("2026-11-23T12:00:00Z", "UTC", Some(true)),
            // Saturday: Friday evening's rule holds.
            ("2026-11-21T10:00:00Z", "UTC", Some(false)),
            ("2026-11-21T10:00:00Z", "Mars/Phobos", None),
        ] {
            assert_eq!(scheduled(&schedule(zone), now.parse().unwrap()).ok(), expected, "{now} {zone}");
        }
    }
}
