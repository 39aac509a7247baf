//! What a spot server tells the meter. Its cards are used from the moment in which the first of its containers begins until the last one
//! has ended, also while they crash and are started again: they are nobody else's meanwhile. Its disk is used from the creation of
//! its claim until the server is deleted, also while the server does not run.

use std::collections::HashSet;

use kube::ResourceExt;

use crate::api::{SpotServer, names};
use crate::cluster::read::{Caches, ContractRef, Disk};
use crate::cluster::slim::SlimPod;
use crate::controllers::money::meter::{Listed, Name, Offer, Seen, Terms};
use crate::controllers::money::sku::Sku;
use crate::controllers::pool::count;
use crate::controllers::{Context, facts, market};
use crate::domain::book::Share;
use crate::domain::money::metering::Life;
use crate::domain::money::{Currency, Exact};

/// Shows the meter the pods and disks of a server, also of one that is gone.
pub(super) fn observe(context: &Context, contract: &ContractRef) {
    let caches = &context.caches;
    let look = || -> Vec<Seen> {
        let server = caches.spots.get(&contract.namespace, &contract.name);
        let index = format!("spot/{}/{}", contract.namespace, contract.name);
        let of = |owner: &str| server.as_deref().filter(|it| it.metadata.uid.as_deref() == Some(owner));
        let pods = caches.pods.under(&index);
        let cards = pods.iter().filter_map(|it| {
            let owner = owner(it.metadata.owner_references.as_deref())?;
            Some(Seen {
                pod: it.metadata.uid.clone()?,
                units: cards(it).filter(|it| *it > 0)?,
                life: life(context, it),
                offer: of(&owner).and_then(|server| card(context, server, it)),
                owner,
            })
        });
        let disks = caches.disks.under(&index);
        let disks = disks.iter().filter_map(|it| {
            let owner = owner(it.metadata.owner_references.as_deref())?;
            Some(Seen {
                pod: disk_id(it)?,
                units: of(&owner).map_or(1, |it| count(it.spec.disk.size_gb)),
                life: disk_life(context, of(&owner), it),
                offer: of(&owner).and_then(|server| disk(context, server)),
                owner,
            })
        });
        cards.chain(disks).collect()
    };
    context.money.meter.observe(contract, look, (context.now)());
}

/// May a server that is being deleted be let go: does the ledger know of the end of all that it used?
pub(super) fn may_go(context: &Context, contract: &ContractRef, server: &SpotServer) -> bool {
    let uid = server.metadata.uid.as_deref().unwrap_or_default();
    context.money.meter.has_ended(contract, uid)
}

/// What of a server lives, as far as its node can tell: UIDs of pods, and ids of disks.
pub(in crate::controllers) fn alive(caches: &Caches, name: &Name) -> HashSet<String> {
    let index = format!("spot/{}/{}", name.namespace, name.name);
    let lives = |pod: &SlimPod| {
        let node = pod.spec.node_name.as_deref().and_then(|it| caches.nodes.get("", it));
        node.is_some_and(|it| it.is_ready()) && !is_down(pod)
    };
    let pods = caches.pods.under(&index);
    let pods = pods.iter().filter(|it| lives(it)).filter_map(|it| it.metadata.uid.clone());
    let disks = caches.disks.under(&index);
    let disks: Vec<String> = disks.iter().filter_map(|it| disk_id(it)).collect();
    pods.chain(disks).collect()
}

fn disk_id(disk: &Disk) -> Option<String> {
    Some(format!("disk/{}", disk.metadata.uid.as_ref()?))
}

/// UID of the server whose it is.
fn owner(of: Option<&[k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference]>) -> Option<String> {
    of.into_iter().flatten().find(|it| it.kind == "SpotServer").map(|it| it.uid.clone())
}

/// Its cards, whichever server's they are.
fn cards(pod: &SlimPod) -> Option<u32> {
    let mut asked = pod.spec.containers.iter().flat_map(|it| it.resources.requests.keys());
    let share = asked.find_map(|it| Share::parse(it).filter(|it| matches!(it, Share::Spot(_))))?;
    Some(pod.requests(&share.resource()))
}

fn life(context: &Context, pod: &SlimPod) -> Life {
    if is_down(pod) {
        return Life::Down { ended_at: pod.ended_at().map(context.on_our_clock) };
    }
    Life::Up { ready_since: pod.began_at().map(context.on_our_clock) }
}

/// Has it come to its end? Who crashes and is started again has not.
fn is_down(pod: &SlimPod) -> bool {
    pod.is_over() || (pod.metadata.deletion_timestamp.is_some() && pod.has_ended())
}

/// A disk is there from its claim's creation until its server is deleted: from then on it is on its way out with it.
fn disk_life(context: &Context, server: Option<&SpotServer>, disk: &Disk) -> Life {
    let ours = context.on_our_clock;
    let left = server.and_then(|it| it.metadata.deletion_timestamp.as_ref());
    match (left, server) {
        (Some(left), _) => Life::Down { ended_at: Some(ours(left.0)) },
        (None, None) => Life::Down { ended_at: None },
        (None, Some(_)) => {
            Life::Up { ready_since: disk.metadata.creation_timestamp.as_ref().map(|it| ours(it.0)) }
        }
    }
}

fn terms(
    context: &Context,
    server: &SpotServer,
    sku: impl Fn(&str) -> String,
) -> Option<(Terms, std::sync::Arc<crate::api::Tariff>)> {
    let namespace = server.namespace().unwrap_or_default();
    let (account, tariff) = facts::payer(&context.caches, &namespace, &server.spec.region).ok()?;
    let currency = Currency::find(&tariff.spec.currency)?;
    let sku = sku(&tariff.spec.region);
    Some((Terms { account: account.name_any(), currency, sku }, tariff))
}

/// What its cards cost, whose type its node says: the market's price.
fn card(context: &Context, server: &SpotServer, pod: &SlimPod) -> Option<Offer> {
    let node = context.caches.nodes.get("", pod.spec.node_name.as_deref()?)?;
    let card_type = node.labels().get(names::CARD_TYPE)?.clone();
    let (mut terms, tariff) = terms(context, server, |_| String::new())?;
    terms.sku = market::sku(&*facts::market(&context.caches, &card_type, &tariff.spec.region).ok()?);
    Some(Offer { terms, price: None })
}

/// What its disk costs: the tariff's regular price.
fn disk(context: &Context, server: &SpotServer) -> Option<Offer> {
    let sku = |region: &str| Sku::SpotDisk { region: region.to_owned() }.text();
    let (terms, tariff) = terms(context, server, sku)?;
    let text = &tariff.spec.spot.as_ref()?.disk_per_gb_month;
    let made = tariff.metadata.creation_timestamp.as_ref();
    Some(Offer {
        terms,
        price: Some(Listed {
            price: Exact::parse(text).ok()?,
            text: text.clone(),
            since: made.map_or_else(context.now, |it| (context.on_our_clock)(it.0)),
        }),
    })
}
