//! What the pods of an endpoint tell the meter: which of them are workers, elastic or on a pool, since when they are ready, when they
//! ended, and who pays. What becomes of that is decided in `domain::money::metering`.

use std::collections::HashSet;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::api::{ServerlessEndpoint, names};
use crate::cluster::read::{Caches, ContractRef};
use crate::cluster::slim::SlimPod;
use crate::controllers::money::meter::{Listed, Name, Offer, Seen, Terms};
use crate::controllers::money::sku::Sku;
use crate::controllers::pool::key;
use crate::controllers::{Context, facts};
use crate::domain::book::Share;
use crate::domain::money::metering::Life;
use crate::domain::money::{Currency, Exact};

/// Shows the meter all workers of an endpoint, also of one that is gone.
pub(super) fn observe(context: &Context, contract: &ContractRef) {
    let caches = &context.caches;
    let look = || -> Vec<Seen> {
        let endpoint = caches.endpoints.get(&contract.namespace, &contract.name);
        let payer = endpoint.as_deref().and_then(|it| payer(caches, it));
        let pool = endpoint.as_deref().and_then(|it| pool(context, it));
        let pods = caches.pods.under(&format!("endpoint/{}/{}", contract.namespace, contract.name));
        let seen = |pod: &SlimPod| {
            let owner = owner(pod)?;
            let own = |it: &Option<String>| it.as_deref() == Some(owner.as_str());
            let elastic = pod.requests(&Share::Shared.resource());
            let (units, offer) = if elastic > 0 {
                let payer = payer.as_ref().filter(|it| own(&it.endpoint_uid));
                (elastic, payer.and_then(|it| offer(context, it, pod)))
            } else {
                let cards = Some(resident(pod)).filter(|it| *it > 0)?;
                let pool = pool.as_ref().filter(|it| own(&it.endpoint_uid) && pod.requests(&it.resource) > 0);
                (cards, pool.map(|it| it.offer.clone()))
            };
            Some(Seen { pod: pod.metadata.uid.clone()?, owner, units, life: life(context, pod), offer })
        };
        pods.iter().filter_map(|it| seen(it)).collect()
    };
    context.money.meter.observe(contract, look, (context.now)());
}

/// May a pod that has ended be let go: does the ledger know of its end?
pub(super) fn may_go(context: &Context, contract: &ContractRef, pod: &SlimPod) -> bool {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let seen = pod.ended_at().map(context.on_our_clock);
    context.money.meter.may_go(contract, uid, seen, (context.now)())
}

/// UIDs of the pods of an endpoint that live, as far as their nodes can tell.
pub(in crate::controllers) fn alive(caches: &Caches, name: &Name) -> HashSet<String> {
    let lives = |pod: &SlimPod| {
        let node = pod.spec.node_name.as_deref().and_then(|it| caches.nodes.get("", it));
        node.is_some_and(|it| it.is_ready()) && !is_down(pod)
    };
    let pods = caches.pods.under(&format!("endpoint/{}/{}", name.namespace, name.name));
    pods.iter().filter(|it| lives(it)).filter_map(|it| it.metadata.uid.clone()).collect()
}

/// UID of the endpoint whose pod it is.
fn owner(pod: &SlimPod) -> Option<String> {
    let all = pod.metadata.owner_references.iter().flatten();
    all.filter(|it| it.kind == "ServerlessEndpoint").map(|it| it.uid.clone()).next()
}

fn life(context: &Context, pod: &SlimPod) -> Life {
    let ours = |it: Option<Timestamp>| it.map(context.on_our_clock);
    if is_down(pod) {
        Life::Down { ended_at: ours(pod.ended_at()) }
    } else if let Some(ended_at) = ours(pod.restarted_at()) {
        Life::Restarted { ended_at }
    } else {
        Life::Up { ready_since: ours(pod.ready_since()) }
    }
}

/// Has it ended, or crashed? Of a pod that leaves all containers must have ended: until then it drains. What becomes of pods whose node
/// is gone is asked of the API server, when they are let go.
fn is_down(pod: &SlimPod) -> bool {
    match pod.metadata.deletion_timestamp {
        Some(_) => pod.is_over() || pod.has_ended(),
        None => pod.is_over() || pod.is_crashed(),
    }
}

/// Cards of pools that a pod asks for.
fn resident(pod: &SlimPod) -> u32 {
    let share = pod.resources().find(|it| matches!(Share::parse(it), Some(Share::Resident(_))));
    share.map_or(0, |it| pod.requests(it))
}

/// The pool that an endpoint is bound to, as a price of nothing.
struct Pool {
    endpoint_uid: Option<String>,
    /// The pool's share.
    resource: String,
    offer: Offer,
}

fn pool(context: &Context, endpoint: &ServerlessEndpoint) -> Option<Pool> {
    let on = endpoint.spec.placement.resident_pool.as_ref()?;
    let namespace = endpoint.namespace().unwrap_or_default();
    let pool = context.caches.pools.get(&namespace, &on.name)?;
    let account = facts::account(&context.caches, &namespace).ok()?;
    let made = pool.metadata.creation_timestamp.as_ref();
    let offer = Offer {
        terms: Terms {
            account: account.name_any(),
            currency: Currency::find(&account.spec.currency)?,
            sku: Sku::Resident { pool: pool.metadata.uid.clone()? }.text(),
        },
        price: Some(Listed {
            price: Exact::zero(),
            text: "0".to_owned(),
            since: made.map_or_else(context.now, |it| (context.on_our_clock)(it.0)),
        }),
    };
    let resource = Share::Resident(key(&*pool)).resource();
    Some(Pool { endpoint_uid: endpoint.metadata.uid.clone(), resource, offer })
}

/// Who pays for an endpoint's workers, and by which tariff.
struct Payer {
    endpoint_uid: Option<String>,
    account: String,
    tariff: std::sync::Arc<crate::api::Tariff>,
    currency: Currency,
}

fn payer(caches: &Caches, endpoint: &ServerlessEndpoint) -> Option<Payer> {
    let on = endpoint.spec.placement.serverless.as_ref()?;
    let namespace = endpoint.namespace().unwrap_or_default();
    let (account, tariff) = facts::payer(caches, &namespace, &on.region).ok()?;
    let currency = Currency::find(&tariff.spec.currency)?;
    Some(Payer { endpoint_uid: endpoint.metadata.uid.clone(), account: account.name_any(), tariff, currency })
}

/// What its card costs, whose type its node says.
fn offer(context: &Context, payer: &Payer, pod: &SlimPod) -> Option<Offer> {
    let node = context.caches.nodes.get("", pod.spec.node_name.as_deref()?)?;
    let card_type = node.labels().get(names::CARD_TYPE)?.clone();
    let spec = &payer.tariff.spec;
    let price = spec.serverless.as_ref()?.cards.iter().find(|it| it.card_type == card_type)?;
    let made = payer.tariff.metadata.creation_timestamp.as_ref();
    Some(Offer {
        terms: Terms {
            account: payer.account.clone(),
            currency: payer.currency,
            sku: Sku::Worker { region: spec.region.clone(), card_type: card_type.clone() }.text(),
        },
        price: Some(Listed {
            price: Exact::parse(&price.per_second).ok()?,
            text: price.per_second.clone(),
            since: made.map_or_else(context.now, |it| (context.on_our_clock)(it.0)),
        }),
    })
}
