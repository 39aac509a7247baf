//! ServerlessEndpoint: what it claims, which workers it runs, what it reports.
//!
//! An elastic endpoint runs as many workers as its gateway's demand needs (`scaling`); without a gateway there is no demand to
//! follow, and it runs its active ones. A bound one runs its instances. `report` writes the status, `budget` keeps the
//! PodDisruptionBudget.

mod awaited;
mod budget;
mod metered;
mod report;
mod scaling;
mod seconds;
mod starts;

pub(super) use awaited::Awaited;
pub(super) use metered::alive;
pub(super) use scaling::route;
pub(super) use seconds::WorkerSeconds;
pub(super) use starts::Starts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};

use super::facts::{self, Problem};
use super::link::keys::{self, READ_EVERY};
use super::link::routes::key_of;
use super::pool::{GB, count, created_seconds, generation, is_leaving, key};
use super::worker::{self, Worker};
use super::{Context, Done, Error, TICK, pool, status};
use crate::api::condition::Reason;
use crate::api::endpoint::{OnGroup, OnPool, RuleState, Schedule, State};
use crate::api::group::{GroupPhase, Usage};
use crate::api::{CardType, ServerlessEndpoint, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::SlimPod;
use crate::cluster::write;
use crate::domain::allocate::Outcome;
use crate::domain::book::Share;
use crate::domain::fleet::{Claim, Demand};
use crate::domain::money::arrears::{Grace, Holding, Keeps, standing};
use crate::domain::node_notice::Notice;
use crate::domain::units::Size;
use crate::domain::workers;
use crate::link::message::EndpointKey;

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
    /// For one on a pool: workers that there are cards for in place of those on nodes that go away.
    replaced: u32,
    /// For an elastic one whose account is in arrears.
    owes: Option<Owes>,
}

/// Its account is in arrears: nothing starts or wakes, and what runs does so until then.
struct Owes {
    /// `None`: it is over.
    keeps_until: Option<Timestamp>,
    why: Problem,
}

/// How an elastic endpoint stands with its account.
fn arrears(context: &Context, account: &str) -> Option<Owes> {
    let since = context.money.arrears_since(account)?;
    let stands = standing(Holding::ElasticEndpoint, Some(since), (context.now)(), &Grace::default());
    let (keeps_until, what) = match stands.keeps {
        Keeps::All => return None,
        Keeps::Until(then) => (Some(then), format!("workers that run are stopped at {}", in_seconds(then))),
        Keeps::Nothing => (None, "its workers are stopped".to_owned()),
    };
    let message = format!(
        "Account {account} is in arrears since {}: none starts and {what}; add a Payment, and it goes on by itself",
        in_seconds(since)
    );
    Some(Owes { keeps_until, why: Problem::new(Reason::Arrears, message) })
}

fn in_seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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
    let placement = &endpoint.spec.placement;
    if let Some(on) = &placement.resident_pool {
        return place_on_pool(context, endpoint, on);
    }
    if let Some(on) = &placement.dedicated_group {
        return place_on_group(context, endpoint, on);
    }
    let caches = &context.caches;
    let (account, card_type) = elastic(caches, endpoint)?;
    let owes = arrears(context, &account);
    Ok(Place {
        // All shared cards are one resource, and card types may share the physical one too.
        node_selector: [(names::CARD_TYPE.to_owned(), card_type.name_any())].into(),
        card_type,
        share: Share::Shared,
        wanted: count(endpoint.spec.workers.active),
        disk_bytes: None,
        short: None,
        elastic: true,
        open: owes.is_none(),
        spare: 0,
        replaced: 0,
        owes,
    })
}

fn place_on_pool(context: &Context, endpoint: &ServerlessEndpoint, on: &OnPool) -> Result<Place, Problem> {
    let (caches, namespace) = (&context.caches, endpoint.namespace().unwrap_or_default());
    let unknown = || {
        Problem::new(
            Reason::UnknownPlacement,
            format!("there is no ResidentPool {} in namespace {namespace}", on.name),
        )
    };
    let pool = caches.pools.get(&namespace, &on.name).ok_or_else(unknown)?;
    let card_type = facts::card_type(caches, &pool.spec.card_type)?;
    let (admitted, left) = pool::admitted(context, &pool);
    let instances =
        admitted.iter().find(|it| it.endpoint == endpoint.name_any()).map_or(0, |it| it.instances);
    let bought = pool::usable(context, &pool).cards > 0;
    // A pool that is being deleted waits for its instances.
    let short = if !bought {
        Some(Problem::new(
            Reason::PlacementNotReady,
            format!("ResidentPool {} has no cards: it is not bought yet, or has expired", on.name),
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
    Ok(Place {
        card_type,
        share: Share::Resident(key(&*pool)),
        wanted: instances,
        disk_bytes: Some(i64::from(on.disk_gb) * GB),
        node_selector: BTreeMap::new(),
        short,
        elastic: false,
        // What is being left runs to its end, and no further.
        open: !is_leaving(&*pool),
        spare: (left.cards / count(endpoint.spec.workers.gpus).max(1))
            .min(left.disk_gb / count(on.disk_gb).max(1)),
        replaced: pool::had_twice(context, &pool) / count(endpoint.spec.workers.gpus).max(1),
        owes: None,
    })
}

fn place_on_group(context: &Context, endpoint: &ServerlessEndpoint, on: &OnGroup) -> Result<Place, Problem> {
    let (caches, namespace) = (&context.caches, endpoint.namespace().unwrap_or_default());
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
    let usable = matches!(phase, Some(GroupPhase::Running | GroupPhase::Abnormal)) && !is_leaving(&*group);
    let card_type = super::group::card_types(caches, &group)?.into_iter().next().ok_or_else(unknown)?;
    let short = (!usable).then(|| {
        Problem::new(Reason::PlacementNotReady, format!("DedicatedGroup {} is not Running", on.name))
    });
    // A machine that is away for a moment ends no worker.
    let wanted = if is_leaving(&*group) { 0 } else { count(on.instances) };
    Ok(Place {
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
        replaced: 0,
        owes: None,
    })
}

/// Does it run, and who says so?
#[derive(Debug, Clone, PartialEq, Eq)]
struct Runs {
    on: bool,
    /// `by its state`, or by which rule.
    cause: String,
}

/// Does it run now?
fn runs(endpoint: &ServerlessEndpoint, now: Timestamp) -> Result<Runs, Problem> {
    let by_state = |on| Ok(Runs { on, cause: "by its state".to_owned() });
    match endpoint.spec.state {
        State::Running => by_state(true),
        State::Stopped => by_state(false),
        State::Scheduled => {
            let none = || Problem::new(Reason::Invalid, "state Scheduled needs a schedule");
            scheduled(endpoint.spec.schedule.as_ref().ok_or_else(none)?, now)
        }
    }
}

/// What the last rule that fired says; before any has, it is stopped.
fn scheduled(schedule: &Schedule, now: Timestamp) -> Result<Runs, Problem> {
    let zone = jiff::tz::TimeZone::get(&schedule.time_zone);
    let zone = zone.map_err(|_| {
        Problem::new(Reason::Invalid, format!("there is no time zone {}", schedule.time_zone))
    })?;
    let now = now.to_zoned(zone);
    let mut last: Option<(jiff::Zoned, Runs)> = None;
    for rule in &schedule.rules {
        let bad = |it: croner::errors::CronError| {
            Problem::new(Reason::Invalid, format!("schedule rule `{}`: {it}", rule.at))
        };
        let cron: croner::Cron = rule.at.parse().map_err(bad)?;
        // A rule whose date never comes (30 February) never fires.
        if let Ok(fired) = cron.find_previous_occurrence(&now, true)
            && last.as_ref().is_none_or(|(at, _)| fired >= *at)
        {
            let cause = format!("by the schedule rule `{}`", rule.at);
            last = Some((fired, Runs { on: rule.state == RuleState::Running, cause }));
        }
    }
    let none = || Runs { on: false, cause: "by its schedule, of which no rule has come yet".to_owned() };
    Ok(last.map_or_else(none, |(_, runs)| runs))
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
pub(super) fn claim(context: &Context, endpoint: &ServerlessEndpoint) -> Option<Claim> {
    let (caches, link, now) = (&context.caches, &context.link, (context.now)());
    endpoint.spec.placement.serverless.as_ref()?;
    let pods = pods(caches, endpoint);
    let (account, card_type) = elastic(caches, endpoint).ok()?;
    let there: Vec<&Arc<SlimPod>> =
        pods.iter().filter(|it| it.metadata.deletion_timestamp.is_none() && !it.is_over()).collect();
    let unbound = there.iter().filter(|it| it.spec.node_name.is_none());
    let promised =
        |it: &&Arc<SlimPod>| it.annotations().get(names::PROMISED_NODE).cloned().unwrap_or_default();
    let unbound: Vec<String> = unbound.map(promised).collect();
    let revision =
        worker::revision(&endpoint.spec.template, &Share::Shared, count(endpoint.spec.workers.gpus), None);
    let number = |is_closing: bool, is_current: bool| {
        let fits = |it: &&&Arc<SlimPod>| {
            it.annotations().contains_key(names::CLOSING_SINCE) == is_closing
                && (it.label(names::REVISION) == Some(&revision)) == is_current
        };
        u32::try_from(there.iter().filter(fits).count()).unwrap_or(u32::MAX)
    };
    let is_doomed = |it: &&&Arc<SlimPod>| {
        !it.annotations().contains_key(names::CLOSING_SINCE) && notice(caches, it).is_some()
    };
    let there = There {
        live: number(false, true),
        live_old: number(false, false),
        closing: number(true, true),
        closing_old: number(true, false),
        doomed: u32::try_from(there.iter().filter(is_doomed).count()).unwrap_or(u32::MAX),
    };
    let paid = context.money.arrears_since(&account).is_none();
    let on = paid && !is_leaving(endpoint) && runs(endpoint, now).is_ok_and(|it| it.on);
    let wanted = on.then(|| scaling::wanted(link, endpoint, there.live + there.live_old));
    let surge = endpoint.spec.rollout.as_ref().map_or(0, |it| count(it.surge));
    let (active, wanted) = there.claim(count(endpoint.spec.workers.active), wanted, surge);
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
            exist: there.all(),
            unbound,
        },
    })
}

/// Workers that hold cards, and that nobody has told to go.
#[derive(Debug, Clone, Copy)]
struct There {
    live: u32,
    /// Of a former template.
    live_old: u32,
    closing: u32,
    closing_old: u32,
    /// Of the live ones, old or not: on nodes that go away.
    doomed: u32,
}

impl There {
    fn all(self) -> u32 {
        let There { live, live_old, closing, closing_old, doomed: _ } = self;
        live + live_old + closing + closing_old
    }

    /// What to claim so that there is room for those that are missing: (active, wanted). Who is closed, or on a node that goes
    /// away, holds its card and counts for nothing else, so its successor needs another one. But a rollout stays within its cards: there the
    /// card of an old worker is awaited. `wanted`: none when it is stopped.
    fn claim(self, active: u32, wanted: Option<u32>, surge: u32) -> (u32, u32) {
        let There { live: _, live_old, closing, closing_old, doomed } = self;
        let Some(wanted) = wanted else { return (0, 0) };
        let ahead = if live_old + closing_old > 0 { surge } else { 0 };
        (active + closing + doomed, wanted + ahead + closing + doomed)
    }
}

/// A pod as the planner sees it.
fn seen(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    pod: &SlimPod,
) -> workers::Worker {
    let name = pod.name_any();
    let said =
        pod.metadata.uid.as_ref().and_then(|it| context.link.scale.worker(&scaling::key(contract), it));
    // Since when nobody can tell is long ago.
    let for_seconds = |since: &String| {
        since.parse::<Timestamp>().map_or(i64::MAX, |it| (context.now)().as_second() - it.as_second())
    };
    let heard = said.as_ref().is_some_and(|it| it.closing);
    workers::Worker {
        number: number_of(&name),
        revision: pod.label(names::REVISION).unwrap_or_default().to_owned(),
        ready: pod.is_ready() && !node_gone(&context.caches, pod),
        leaving: pod.metadata.deletion_timestamp.is_some(),
        ended: has_ended(&context.caches, pod),
        created_seconds: created_seconds(pod),
        busy: said.as_ref().map(|it| it.busy),
        reachable: pod.status.pod_ip.is_some(),
        closing: pod
            .annotations()
            .get(names::CLOSING_SINCE)
            .map(|it| workers::Closing { for_seconds: for_seconds(it), heard }),
        doomed: notice(&context.caches, pod).map(|it| {
            let needs = scaling::drain_seconds(endpoint) + super::node_notice::grace_seconds(pod);
            let left = it.deadline.map(|it| it.as_second() - context.api_server_now().as_second());
            workers::Doomed { hurry: left.is_some_and(|it| it <= needs) }
        }),
        name,
    }
}

/// Has the pod come to its end?
fn has_ended(caches: &Caches, pod: &SlimPod) -> bool {
    let leaving = pod.metadata.deletion_timestamp.is_some();
    // Who deletes the live pods of a node that is gone is the garbage collector, after a while: it may come back.
    pod.is_over() || (leaving && (node_gone(caches, pod) || pod.has_ended()))
}

/// The notice of the pod's node, if it goes away.
fn notice(caches: &Caches, pod: &SlimPod) -> Option<Notice> {
    caches.nodes.get("", pod.spec.node_name.as_deref()?).and_then(|it| super::node_notice::noted(&it))
}

/// The kubelet of a node that is gone says nothing any more.
fn node_gone(caches: &Caches, pod: &SlimPod) -> bool {
    pod.spec.node_name.as_deref().is_some_and(|it| caches.nodes.get("", it).is_none())
}

fn number_of(pod_name: &str) -> u32 {
    pod_name.rsplit('-').next().and_then(|it| it.parse().ok()).unwrap_or(0)
}

// The driver.

/// What one pass has found out.
struct Pass {
    /// Where its workers run, and what each may use; or why they can't.
    place: Result<(Place, Size), Problem>,
    runs: Result<Runs, Problem>,
    /// Why nobody may call it.
    keys: Option<Problem>,
    revision: String,
    /// Its workers end by themselves.
    crashing: bool,
    /// For how long at most the view lacks workers that were created already.
    awaits: Option<Duration>,
    outcome: Option<Outcome>,
    pods: Vec<Arc<SlimPod>>,
    seen: Vec<workers::Worker>,
    wanted: u32,
}

/// The gateway that hands out an endpoint's slots has said something of its workers: what is counted follows without a pass.
pub(super) fn heard(context: &Context, endpoint: &EndpointKey) {
    let EndpointKey { namespace, name } = endpoint.clone();
    let contract = ContractRef { kind: Kind::Endpoint, namespace, name };
    let worker = |it: &str| context.link.scale.worker(endpoint, it);
    context.starts.heard(&contract, |it| worker(it).map(|it| it.ready));
    context.seconds.heard(&contract, |it| worker(it).map(|it| it.busy));
}

/// One pass over an endpoint.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    // Before any of them is let go.
    metered::observe(context, contract);
    let Some(endpoint) = caches.endpoints.get(&contract.namespace, &contract.name) else {
        context.link.scale.forget(&scaling::key(contract));
        context.count_workers(contract, None);
        context.starts.forget(contract);
        context.seconds.forget(contract);
        context.awaited.forget(contract);
        budget::forget(context, contract);
        return release_ended(context, contract).await;
    };
    // Also those of an endpoint of this name that was there before.
    release_ended(context, contract).await?;

    // Observe, validate, plan.
    let keys = keys::secret_name(&endpoint);
    if let Some(secret) = keys {
        context.link.keys.refresh(&context.cluster, &contract.namespace, secret).await;
    }
    let mut pass = look(context, contract, &endpoint);
    let steps = plan(context, contract, &endpoint, &mut pass);
    context.starts.see(contract, &pass.pods, |it| {
        context.link.scale.worker(&scaling::key(contract), it).map(|it| it.ready)
    });
    context.seconds.see(contract, &pass.pods);
    let is_short = pass.wanted > number(&pass.seen, workers::Worker::is_live) && pass.place.is_ok();
    let waits = steps.create.is_empty() && steps.reopen.is_empty();
    let held_up = pass.awaits.is_some() || context.setback(contract, &pass.revision).is_some();
    context.starts.lacks_card(contract, is_short && waits && !held_up);

    // Apply.
    let applied = apply(context, contract, &endpoint, &pass, &steps).await;
    let protected = budget::keep(context, contract, &endpoint, pass.wanted).await;

    // Status.
    let new = report::status(context, &endpoint, &pass);
    context.count_workers(contract, Some(new.workers));
    report::tell(context, &endpoint, &pass).await;
    let wait =
        status::report(context, contract, &*endpoint, endpoint.status.as_ref(), &new, |it| &it.conditions)
            .await;
    applied?;
    protected?;
    let wait = wait?;
    let schedule = (endpoint.spec.state == State::Scheduled).then_some(TICK);
    let keys = keys.map(|_| READ_EVERY);
    let setback = context.setback(contract, &pass.revision);
    let drained = scaling::next_drained(&endpoint, &pass.seen);
    let doomed = pass.seen.iter().any(|it| it.is_live() && it.doomed.is_some()).then_some(TICK);
    let owes = pass.place.as_ref().ok().and_then(|(it, _)| it.owes.as_ref()?.keeps_until);
    let owes = owes.and_then(|it| Duration::try_from(it.duration_since((context.now)())).ok());
    let again = [wait, setback, schedule, keys, drained, doomed, owes, pass.awaits];
    let again = again.into_iter().flatten().min();
    Ok(again.map_or(Done::Settled, Done::LookAgain))
}

/// Where its workers run and what each may use, if all that is as it should be.
fn valid_place(context: &Context, endpoint: &ServerlessEndpoint) -> Result<(Place, Size), Problem> {
    let place = place(context, endpoint)?;
    let cards = count(endpoint.spec.workers.gpus);
    let per_card =
        facts::per_card(&place.card_type).map_err(|it| Problem::new(Reason::Invalid, it.to_string()))?;
    let mut size = per_card.times(cards);
    let disk_bytes = place.disk_bytes.unwrap_or(size.disk_bytes);
    if disk_bytes > size.disk_bytes {
        let message = format!(
            "diskGB is more than the {} bytes of disk that come with the cards of an instance",
            size.disk_bytes
        );
        return Err(Problem::new(Reason::Invalid, message));
    }
    size.disk_bytes = disk_bytes;
    worker::validate(&endpoint.spec.template, &place.card_type.spec.resource_name, &size)?;
    Ok((place, per_card.times(cards)))
}

/// What there is, and what of it is valid.
fn look(context: &Context, contract: &ContractRef, endpoint: &ServerlessEndpoint) -> Pass {
    let place = valid_place(context, endpoint);
    let revision = match &place {
        Ok((it, _)) => worker::revision(
            &endpoint.spec.template,
            &it.share,
            count(endpoint.spec.workers.gpus),
            it.disk_bytes,
        ),
        Err(_) => endpoint.status.as_ref().map(|it| it.revision.clone()).unwrap_or_default(),
    };
    let pods = pods(&context.caches, endpoint);
    let secret = keys::secret_name(endpoint);
    Pass {
        place,
        runs: runs(endpoint, (context.now)()),
        keys: secret.and_then(|it| context.link.keys.known(&contract.namespace, it)?.err()),
        crashing: scaling::is_crashing(context, contract, &revision, &pods),
        awaits: context
            .awaited
            .left(contract, |it| context.caches.pods.get(&contract.namespace, it).is_some()),
        revision,
        outcome: context.outcome(Kind::Endpoint, &contract.namespace, &contract.name),
        seen: pods.iter().map(|it| seen(context, contract, endpoint, it)).collect(),
        pods,
        wanted: 0,
    }
}

/// Which workers start and leave; notes how many are wanted.
fn plan(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    pass: &mut Pass,
) -> workers::Steps {
    let live = number(&pass.seen, workers::Worker::is_live);
    let count_wanted = match (&pass.place, &pass.runs) {
        _ if is_leaving(endpoint) => Some(0),
        (Ok(_), Ok(runs)) if !runs.on => {
            context.link.scale.stopped(&key_of(endpoint));
            Some(0)
        }
        (Ok((place, _)), Ok(_)) if place.elastic => {
            let wanted = scaling::wanted(&context.link, endpoint, live);
            Some(match &place.owes {
                None => wanted,
                Some(Owes { keeps_until: Some(_), why: _ }) => wanted.min(live),
                Some(Owes { keeps_until: None, why: _ }) => 0,
            })
        }
        (Ok((place, _)), Ok(_)) => Some(place.wanted),
        (Err(_), _) | (_, Err(_)) => None,
    };
    let Some(wanted) = count_wanted else {
        pass.wanted = live;
        return workers::keep(&pass.seen);
    };
    pass.wanted = wanted;
    let room = match &pass.place {
        Ok((it, _)) if !it.open || context.setback(contract, &pass.revision).is_some() => 0,
        Ok((it, _)) if it.elastic => {
            let left = pass.outcome.as_ref().map_or(0, |it| it.nodes_left(existing(&pass.seen)).len());
            u32::try_from(left).unwrap_or(u32::MAX)
        }
        // Also one that is closed holds its cards.
        Ok((it, _)) => {
            let doomed = number(&pass.seen, |it| it.doomed.is_some() && it.holds_cards());
            let holds = number(&pass.seen, workers::Worker::holds_cards);
            (it.wanted + it.spare + it.replaced.min(doomed)).saturating_sub(holds)
        }
        Err(_) => 0,
    };
    let by_label = context.caches.pods.under(&format!("endpoint/{}/{}", contract.namespace, contract.name));
    let wanted = workers::Wanted {
        count: wanted,
        revision: pass.revision.clone(),
        surge: endpoint.spec.rollout.as_ref().map_or(0, |it| count(it.surge)),
        room,
        next: by_label.iter().map(|it| number_of(&it.name_any()) + 1).max().unwrap_or(1),
        drain: scaling::drain(&context.link, endpoint),
    };
    let mut steps = workers::plan(&wanted, &pass.seen);
    if pass.awaits.is_some() {
        steps.create.clear();
    }
    steps
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

fn number(seen: &[workers::Worker], which: fn(&workers::Worker) -> bool) -> u32 {
    u32::try_from(seen.iter().filter(|it| which(it)).count()).unwrap_or(u32::MAX)
}

/// Workers as the claim counts them.
fn existing(seen: &[workers::Worker]) -> u32 {
    number(seen, workers::Worker::holds_cards)
}

async fn apply(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    pass: &Pass,
    steps: &workers::Steps,
) -> Result<(), Error> {
    for pod in &pass.pods {
        let name = pod.name_any();
        if steps.delete.contains(&name) {
            // One of a former template says nothing about this one.
            if pod.is_over() && pod.label(names::REVISION) == Some(&pass.revision) {
                context.note_setback(contract, &pass.revision);
            }
            context.cluster.delete_pod(pod).await.map_err(Error::Apply)?;
        }
        let since = (context.now)().round(jiff::Unit::Second).unwrap_or((context.now)()).to_string();
        let change = match () {
            () if steps.close.contains(&name) => Some(since.as_str()),
            () if steps.reopen.contains(&name) => None,
            () => continue,
        };
        match context.cluster.annotate::<Pod>(&pod.metadata, names::CLOSING_SINCE, change).await {
            Ok(()) | Err(write::Error::NotFound) => (),
            Err(error) => return Err(Error::Apply(error)),
        }
    }
    let (Ok((place, size)), Some(owner)) = (&pass.place, endpoint.controller_owner_ref(&())) else {
        return Ok(());
    };
    let promised = pass.outcome.as_ref().map(|it| it.nodes_left(existing(&pass.seen))).unwrap_or_default();
    let mut numbers = steps.create.first().copied().unwrap_or(1)..;
    for at in 0..steps.create.len() {
        let pod = worker::build(&Worker {
            name: String::new(),
            namespace: endpoint.namespace().unwrap_or_default(),
            owner: owner.clone(),
            labels: labels(endpoint, &pass.revision),
            card_resource: &place.card_type.spec.resource_name,
            share: place.share.clone(),
            cards: count(endpoint.spec.workers.gpus),
            size: *size,
            disk_bytes: place.disk_bytes,
            node_selector: place.node_selector.clone(),
            promised_node: promised.get(at).filter(|_| place.elastic).cloned(),
            template: &endpoint.spec.template,
        });
        create(context, contract, endpoint, pod, &mut numbers).await?;
    }
    Ok(())
}

/// Creates a worker under the next number whose name is not somebody else's.
async fn create(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    mut pod: Pod,
    numbers: &mut impl Iterator<Item = u32>,
) -> Result<(), Error> {
    let namespace = endpoint.namespace().unwrap_or_default();
    for number in numbers.take(NAMES_TRIED) {
        let name = format!("{}-{number}", endpoint.name_any());
        pod.metadata.name = Some(name.clone());
        match context.cluster.create_pod(&pod).await {
            Ok(()) => {
                context.starts.created(contract, &name);
                context.awaited.created(contract, &name);
                return Ok(());
            }
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
        if held && has_ended(&context.caches, &pod) && pod.metadata.deletion_timestamp.is_some() {
            // Not from a cache: containers on a node that is there may still run.
            let node = pod.spec.node_name.as_deref().filter(|_| node_gone(&context.caches, &pod));
            if let Some(node) = node
                && context.cluster.has_node(node).await.map_err(Error::Apply)?
            {
                continue;
            }
            // With its finalizer its end would be lost. What is written then makes another pass.
            let is_metered = matches!(contract.kind, Kind::Endpoint | Kind::Spot);
            if is_metered && !metered::may_go(context, contract, &pod) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::endpoint::ScheduleRule;

    #[test]
    fn what_is_claimed_leaves_room_for_those_that_are_missing() {
        // (live, live_old, closing, closing_old), wanted, surge: room for how many more.
        for (there, wanted, surge, room, why) in [
            ((0, 0, 0, 0), Some(2), 0, 2, "to begin with"),
            ((2, 0, 0, 0), Some(2), 0, 0, "all are there"),
            ((1, 0, 1, 0), Some(2), 0, 1, "one that closes is not counted"),
            ((1, 0, 1, 0), Some(1), 0, 0, "nor replaced when it is not wanted"),
            ((0, 2, 0, 0), Some(2), 0, 0, "in place: nothing ahead"),
            ((0, 1, 0, 1), Some(2), 0, 0, "in place: its card is awaited"),
            ((0, 1, 0, 0), Some(2), 0, 1, "in place: and then used"),
            ((0, 2, 0, 0), Some(2), 1, 1, "one ahead"),
            ((1, 1, 0, 1), Some(2), 1, 0, "no second one while the first old one finishes"),
            ((1, 1, 0, 0), Some(2), 1, 1, "and then the next"),
            ((0, 0, 0, 1), Some(1), 1, 1, "the new one is lost, while the old one finishes"),
            ((2, 1, 0, 0), None, 0, 0, "stopped"),
        ] {
            let (live, live_old, closing, closing_old) = there;
            let there = There { live, live_old, closing, closing_old, doomed: 0 };
            let (_, claimed) = there.claim(1, wanted, surge);
            assert_eq!(claimed.saturating_sub(there.all()), room, "{why}");
        }
        let there = There { live: 3, live_old: 0, closing: 1, closing_old: 0, doomed: 2 };
        assert_eq!(
            there.claim(1, Some(3), 0),
            (4, 6),
            "those on nodes that go away need others, and so does the closed one"
        );
    }

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
            assert_eq!(
                scheduled(&schedule(zone), now.parse().unwrap()).ok().map(|it| it.on),
                expected,
                "{now} {zone}"
            );
        }
    }
}
