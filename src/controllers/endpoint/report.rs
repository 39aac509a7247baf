//! What an endpoint says of itself: status and Events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::{Pass, Runs};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::endpoint::{EndpointPhase, ScalingDecision, ScalingReason, WorkerCounts};
use crate::api::{ServerlessEndpoint, ServerlessEndpointStatus, names};
use crate::controllers::link::routes::key_of;
use crate::controllers::link::scale::Change;
use crate::controllers::pool::{self, is_leaving, number};
use crate::controllers::{Context, Urls};
use crate::domain::autoscale;
use crate::domain::workers;

/// Decisions that are shown.
const DECISIONS: usize = 10;

/// The status.
#[allow(clippy::too_many_lines, reason = "one condition after the other")]
pub(super) fn status(
    context: &Context,
    endpoint: &ServerlessEndpoint,
    pass: &Pass,
) -> ServerlessEndpointStatus {
    let Pass { place, runs, keys, revision, crashing, awaits: _, outcome, pods: _, seen, wanted } = pass;
    let (place, wanted) = (place.as_ref().map(|(place, _)| place), *wanted);
    let before = endpoint.status.clone().unwrap_or_default();
    let counts = workers::count(seen);
    let stopped = runs.as_ref().is_ok_and(|it| !it.on);
    let card_type = place.map_or_else(|_| String::new(), |it| it.card_type.name_any());
    let short = match place {
        Ok(place) if place.elastic => {
            outcome.as_ref().and_then(|it| it.shortage.as_ref()).map(|it| pool::in_words(it, &card_type))
        }
        Ok(place) => place.short.clone(),
        Err(problem) => Some((*problem).clone()),
    };
    let short = runs.as_ref().err().cloned().or(short);
    let live = counts.ready + counts.starting;
    let owes = place.ok().and_then(|it| it.owes.as_ref());
    let phase = match () {
        () if stopped && counts.draining + live > 0 => EndpointPhase::Stopping,
        () if stopped => EndpointPhase::Stopped,
        () if counts.ready > 0 => EndpointPhase::Running,
        () if place.is_err() || runs.is_err() => EndpointPhase::Unavailable,
        () if wanted == 0 && short.is_none() && owes.is_none() => EndpointPhase::Idle,
        () if (short.is_some() || owes.is_some()) && live == 0 => EndpointPhase::Unavailable,
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
    let former = seen.iter().filter(|it| it.is_live() && it.revision != *revision).count();
    let rolling = if former == 0 || place.is_err() {
        String::new()
    } else {
        format!("; {former} are of the former template and are replaced one by one")
    };
    let of = format!("{} of {wanted} workers are ready{rolling}", counts.ready);
    let crash_loop = (*crashing && !all_ready).then(|| crash_loop(endpoint, &of));
    let (workers_reason, workers_message) = match &crash_loop {
        Some(message) => (Reason::CrashLoop, message.clone()),
        None if all_ready => (Reason::Running, of.clone()),
        None => (Reason::Progressing, of.clone()),
    };
    conditions.set(Type::WorkersReady, Some(all_ready), workers_reason, workers_message);
    if let Ok(place) = place {
        match &place.owes {
            None => {
                conditions.set(Type::Funded, Some(true), Reason::NoArrears, "its account is not in arrears")
            }
            Some(owes) => {
                conditions.set(Type::Funded, Some(false), Reason::Arrears, owes.why.message.clone())
            }
        };
    }
    let (holds, reason, message) = match (place, runs) {
        (Err(problem), _) | (_, Err(problem)) => (false, problem.reason, problem.message.clone()),
        (Ok(_), Ok(Runs { on: false, cause })) => {
            (true, Reason::Stopped, format!("stopped {cause}; it serves nothing and costs nothing"))
        }
        (Ok(_), Ok(Runs { on: true, cause: _ })) => match (keys, no_cards, crash_loop) {
            // What runs serves on for a while, and nothing else will.
            _ if live == 0 && owes.is_some() => {
                let why = owes.map(|it| it.why.message.clone()).unwrap_or_default();
                (false, Reason::Arrears, why)
            }
            // Nobody may call it, whatever it runs.
            (Some(problem), _, _) => (false, problem.reason, problem.message.clone()),
            (None, Some(problem), _) => (false, problem.reason, problem.message),
            (None, None, _) if wanted == 0 => (true, Reason::Idle, "scaled to zero".to_owned()),
            (None, None, Some(message)) => (false, Reason::CrashLoop, message),
            (None, None, None) if all_ready => (true, Reason::Running, of),
            (None, None, None) => (false, Reason::Progressing, of),
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
        url: url(&context.urls, endpoint),
        selector: format!("{}={}", names::ENDPOINT, endpoint.name_any()),
        revision: revision.clone(),
        decisions: decisions(&context.link.scale.changes(&key_of(endpoint)), before.decisions),
        conditions: conditions.done(),
    }
}

fn crash_loop(endpoint: &ServerlessEndpoint, of: &str) -> String {
    format!(
        "{of}: they end by themselves before they are ready, and the next is started ever later; look at `kubectl logs -n {} -l {}={}` (with --previous), then at image, command and memory of the template",
        endpoint.namespace().unwrap_or_default(),
        names::ENDPOINT,
        endpoint.name_any()
    )
}

/// Where it is called.
fn url(urls: &Urls, endpoint: &ServerlessEndpoint) -> String {
    let namespace = endpoint.namespace().unwrap_or_default();
    let of = |domain: &String| format!("{}://{}.{namespace}.{domain}", urls.scheme, endpoint.name_any());
    urls.domain.as_ref().map(of).unwrap_or_default()
}

/// What is new, and behind it what was shown already: after a restart only that is known.
fn decisions(changes: &[Change], before: Vec<ScalingDecision>) -> Vec<ScalingDecision> {
    let mut all: Vec<ScalingDecision> = changes.iter().map(decision).collect();
    // The API keeps whole seconds.
    let same = |a: &ScalingDecision, b: &ScalingDecision| {
        (a.time.0.as_second(), a.from, a.wanted) == (b.time.0.as_second(), b.from, b.wanted)
    };
    for old in before {
        if !all.iter().any(|it| same(it, &old)) {
            all.push(old);
        }
    }
    all.truncate(DECISIONS);
    all
}

fn decision(change: &Change) -> ScalingDecision {
    let second = jiff::Timestamp::from_second(change.time.as_second()).unwrap_or(change.time);
    ScalingDecision {
        time: Time(second),
        wanted: number(change.wanted),
        from: number(change.from),
        reason: match change.reason {
            autoscale::Reason::Demand => ScalingReason::Demand,
            autoscale::Reason::Active => ScalingReason::Active,
            autoscale::Reason::Max => ScalingReason::Max,
            autoscale::Reason::Delayed => ScalingReason::Delayed,
            autoscale::Reason::Idle => ScalingReason::Idle,
            autoscale::Reason::NoData => ScalingReason::NoData,
            autoscale::Reason::Warming => ScalingReason::Warming,
        },
        in_flight: number(change.in_flight),
        queued: number(change.queued),
        ready: number(change.ready),
    }
}

/// Tells of a start and of scaling. That it was stopped is told with Ready.
pub(super) async fn tell(context: &Context, endpoint: &ServerlessEndpoint, pass: &Pass) {
    let about = endpoint.object_ref(&());
    let was = endpoint.status.as_ref().and_then(|it| it.phase);
    let was_stopped = matches!(was, Some(EndpointPhase::Stopped | EndpointPhase::Stopping));
    if let Ok(Runs { on: true, cause }) = &pass.runs
        && was_stopped
        && !is_leaving(endpoint)
    {
        context.cluster.tell(&about, false, "Started", &format!("started {cause}")).await;
    }
    for change in context.link.scale.untold(&key_of(endpoint)) {
        let (reason, note) = in_words(&change);
        context.cluster.tell(&about, false, reason, &note).await;
    }
}

fn in_words(change: &Change) -> (&'static str, String) {
    let Change { time: _, from, wanted, reason, in_flight, queued, ready } = change;
    let why = match reason {
        autoscale::Reason::Demand => "as many as its requests need",
        autoscale::Reason::Active => "workers.active are always on",
        autoscale::Reason::Max => "workers.max is the most",
        autoscale::Reason::Delayed => "as many as were needed within scaling.scaleDownDelaySeconds",
        autoscale::Reason::Idle => "no request for scaling.idleSeconds",
        autoscale::Reason::NoData => "its gateway says nothing",
        autoscale::Reason::Warming => "its gateway has not been heard for long",
    };
    let what = if wanted > from { "ScaledUp" } else { "ScaledDown" };
    let note = format!(
        "from {from} to {wanted} workers: {why} ({in_flight} requests in {ready} ready workers, {queued} waiting)"
    );
    (what, note)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(second: i64, from: u32, wanted: u32) -> Change {
        let time = jiff::Timestamp::from_millisecond(second * 1_000 + 123).unwrap();
        Change { time, from, wanted, reason: autoscale::Reason::Demand, in_flight: 3, queued: 1, ready: 2 }
    }

    #[test]
    fn the_last_ten_decisions_are_shown_once_and_survive_a_restart() {
        let first = decisions(&[change(2, 1, 2), change(1, 0, 1)], vec![]);
        assert_eq!(first.iter().map(|it| (it.from, it.wanted)).collect::<Vec<_>>(), [(1, 2), (0, 1)]);
        assert_eq!(decisions(&[change(2, 1, 2), change(1, 0, 1)], first.clone()), first, "nothing new");
        let after_restart = decisions(&[change(9, 2, 5)], first.clone());
        assert_eq!(after_restart.iter().map(|it| it.wanted).collect::<Vec<_>>(), [5, 2, 1]);
        let many: Vec<Change> = (0..20).map(|it| change(40 - it, 1, 2)).collect();
        assert_eq!(decisions(&many, first).len(), DECISIONS);
    }

    #[test]
    fn scaling_is_told_with_its_cause() {
        let (what, note) = in_words(&change(1, 2, 4));
        assert_eq!(what, "ScaledUp");
        assert_eq!(
            note,
            "from 2 to 4 workers: as many as its requests need (3 requests in 2 ready workers, 1 waiting)"
        );
        assert_eq!(in_words(&change(1, 4, 2)).0, "ScaledDown");
    }
}
