//! What an endpoint has to do with its gateways: how many workers it wants, how they are let go, and its route.

use std::sync::Arc;
use std::time::Duration;

use crate::api::ServerlessEndpoint;
use crate::cluster::read::{ContractRef, Kind};
use crate::cluster::slim::SlimPod;
use crate::controllers::Context;
use crate::controllers::link::routes::{self, Facts, key_of};
use crate::controllers::link::{Link, keys};
use crate::controllers::pool::{count, is_leaving};
use crate::domain::autoscale::Rules;
use crate::domain::workers::{Drain, Worker};
use crate::link::message::{EndpointKey, Route};

/// A worker whose containers were started again so often, and that is not ready, crashes.
const RESTARTS: i32 = 2;

/// How an endpoint is called between processes.
pub(super) fn key(contract: &ContractRef) -> EndpointKey {
    EndpointKey { namespace: contract.namespace.clone(), name: contract.name.clone() }
}

fn rules(endpoint: &ServerlessEndpoint) -> Rules {
    let workers = &endpoint.spec.workers;
    let scaling = endpoint.spec.scaling.clone().unwrap_or_default();
    let ms = |seconds: i32| u64::from(count(seconds)) * 1_000;
    Rules {
        active: count(workers.active),
        max: count(workers.max),
        spare: count(workers.spare),
        concurrency: count(workers.concurrency),
        idle_ms: ms(scaling.idle_seconds),
        delay_ms: ms(scaling.scale_down_delay_seconds),
    }
}

/// How many workers an elastic endpoint that runs wants. `have`: those that are there to stay.
pub(super) fn wanted(link: &Link, endpoint: &ServerlessEndpoint, have: u32) -> u32 {
    if !link.is_configured() {
        return count(endpoint.spec.workers.active);
    }
    link.scale.decide(&key_of(endpoint), rules(endpoint), have).wanted
}

/// How its workers are let go.
pub(super) fn drain(link: &Link, endpoint: &ServerlessEndpoint) -> Drain {
    if link.is_configured() { Drain::Within(drain_seconds(endpoint)) } else { Drain::AtOnce }
}

pub(super) fn drain_seconds(endpoint: &ServerlessEndpoint) -> i64 {
    i64::from(endpoint.spec.timeouts.clone().unwrap_or_default().drain_seconds.max(0))
}

/// When the next closed worker must go, whatever it does.
pub(super) fn next_drained(endpoint: &ServerlessEndpoint, seen: &[Worker]) -> Option<Duration> {
    let closing = seen.iter().filter(|it| it.holds_cards()).filter_map(|it| it.closing);
    let left = closing.map(|it| drain_seconds(endpoint).saturating_sub(it.for_seconds).max(1)).min()?;
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(1)))
}

/// Do its workers end by themselves, one after the other, or over and over?
pub(super) fn is_crashing(
    context: &Context,
    contract: &ContractRef,
    revision: &str,
    pods: &[Arc<SlimPod>],
) -> bool {
    let live = |it: &&Arc<SlimPod>| it.metadata.deletion_timestamp.is_none() && !it.is_over();
    let over_and_over = pods.iter().filter(live).any(|it| !it.is_ready() && it.restarts() >= RESTARTS);
    // When the wait is over and nothing runs, the next request is a new try.
    let one_after_the_other = context.is_crashing(contract, revision)
        && (pods.iter().any(|it| live(&it)) || context.setback(contract, revision).is_some());
    over_and_over || one_after_the_other
}

/// The route of an endpoint as it is now, without its owner; `None` when it is gone.
pub(in crate::controllers) fn route(context: &Context, contract: &ContractRef) -> Option<Route> {
    let endpoint = context.caches.endpoints.get(&contract.namespace, &contract.name)?;
    let pass = super::look(context, contract, &endpoint);
    let pods: Vec<(Arc<SlimPod>, bool)> =
        pass.pods.iter().map(|it| (it.clone(), super::node_gone(&context.caches, it))).collect();
    let instances = match &pass.place {
        Ok((place, _)) => (!place.elastic).then_some(place.wanted),
        Err(_) => bought(&endpoint),
    };
    let known = |secret| context.link.keys.known(&contract.namespace, secret);
    let outcome = context.outcome(Kind::Endpoint, &contract.namespace, &contract.name);
    Some(routes::build(&Facts {
        endpoint: &endpoint,
        pods: &pods,
        runs: pass.runs.as_ref().ok().map(|it| it.on),
        usable: pass
            .place
            .as_ref()
            .is_ok_and(|(it, _)| it.open && (it.elastic || it.short.is_none() || it.wanted > 0)),
        instances,
        no_card: outcome.is_some_and(|it| it.shortage.is_some() && it.worker_nodes.is_empty()),
        crashing: pass.crashing && !is_leaving(&*endpoint),
        // Whose keys are not as they should be is called by nobody.
        keys: keys::secret_name(&endpoint).map(|it| known(it).and_then(Result::ok).unwrap_or_default()),
    }))
}

/// Instances of a bound endpoint, as its owner wrote them.
fn bought(endpoint: &ServerlessEndpoint) -> Option<u32> {
    let placement = &endpoint.spec.placement;
    let on_pool = placement.resident_pool.as_ref().map(|it| count(it.instances));
    on_pool.or_else(|| placement.dedicated_group.as_ref().map(|it| count(it.instances)))
}
