//! SpotServer: what it claims, the pod and disk it runs. `notices` tells its owner that it is reclaimed and does so, `metered` says
//! what it uses, `report` writes the status.

mod metered;
mod notices;
mod report;

pub(super) use metered::alive;
pub(super) use notices::is_noticed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{Resource, ResourceExt};
use rust_decimal::Decimal;
use serde_json::json;

use super::facts::{self, Problem};
use super::pool::{count, created_seconds, generation, is_guarded, is_leaving, key};
use super::worker::{self, Worker};
use super::{Context, Done, Error, allocator, endpoint, market, status};
use crate::api::condition::Reason;
use crate::api::tariff::SpotTariff;
use crate::api::{Account, CardType, SpotServer, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::SlimPod;
use crate::cluster::write;
use crate::domain::allocate::Outcome;
use crate::domain::book::{Key, Share};
use crate::domain::fleet::{Claim, Demand, Hold};
use crate::domain::money::arrears::{Grace, Holding, Keeps, standing};
use crate::domain::units::{Size, parse_milli, parse_whole};

/// What a server is, resolved.
struct Input {
    account: Arc<Account>,
    card_type: Arc<CardType>,
    cards: u32,
    size: Size,
    bid: Decimal,
    price: market::Price,
    /// Until when neither price nor shortage touches it.
    protected_until: Timestamp,
    notice_minutes: u32,
    arrears: Option<Owes>,
}

/// Its account is in arrears.
#[derive(Debug, Clone, Copy)]
struct Owes {
    /// Until when it is on the recovery list.
    grace_ends: Timestamp,
}

// Validate.

fn validate(context: &Context, server: &SpotServer) -> Result<Input, Problem> {
    let caches = &context.caches;
    let spec = &server.spec;
    let (account, tariff) = facts::payer(caches, &server.namespace().unwrap_or_default(), &spec.region)?;
    let unknown = || {
        Problem::new(
            Reason::UnknownMachineType,
            format!("Tariff {} has no spot machine type {}", tariff.name_any(), spec.machine_type),
        )
    };
    let terms: &SpotTariff = tariff.spec.spot.as_ref().ok_or_else(unknown)?;
    let machine = terms.machine_types.iter().find(|it| it.name == spec.machine_type).ok_or_else(unknown)?;
    let card_type = facts::card_type(caches, &machine.card_type)?;
    let market = facts::market(caches, &machine.card_type, &tariff.spec.region)?;
    let bad = |what: &str| Problem::new(Reason::Invalid, what.to_owned());
    let per_card = facts::per_card(&card_type).map_err(|it| bad(&it.to_string()))?;
    let most = per_card.times(count(machine.cards));
    let size = Size {
        cpu_milli: parse_milli(&machine.cpu.0).map_err(|it| bad(&it.to_string()))?,
        memory_bytes: parse_whole(&machine.memory.0).map_err(|it| bad(&it.to_string()))?,
        disk_bytes: most.disk_bytes,
    };
    if most.fits(&size) == 0 {
        return Err(bad(&format!(
            "machine type {} has more CPU or memory than comes with its cards",
            machine.name
        )));
    }
    worker::validate(&spec.template, &card_type.spec.resource_name, &size)?;
    if spec.disk.restore_from.is_some() || spec.disk.snapshots {
        return Err(bad("snapshots are not served yet: leave disk.snapshots and disk.restoreFrom out"));
    }
    if spec.public_address {
        return Err(bad("public addresses are not served yet: leave publicAddress out"));
    }
    let bid = spec.bid.parse().map_err(|_| bad(&format!("the bid `{}` is not a number", spec.bid)))?;
    let made = server.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |it| it.0);
    let protection = SignedDuration::from_mins(i64::from(terms.protection_minutes));
    Ok(Input {
        arrears: arrears(context, &account, terms),
        cards: count(machine.cards),
        notice_minutes: count(terms.notice_minutes),
        protected_until: made.saturating_add(protection).unwrap_or(Timestamp::MAX),
        price: market::price(context, &market)?,
        account,
        card_type,
        size,
        bid,
    })
}

/// How long a server is kept whose account is in arrears.
fn arrears(context: &Context, account: &Account, terms: &SpotTariff) -> Option<Owes> {
    let since = context.money.arrears_since(&account.name_any())?;
    let grace = Grace { spot_server_seconds: count(terms.arrears_grace_minutes) * 60, ..Grace::default() };
    let now = (context.now)();
    match standing(Holding::SpotServer, Some(since), now, &grace).keeps {
        Keeps::All => None,
        Keeps::Until(grace_ends) => Some(Owes { grace_ends }),
        Keeps::Nothing => Some(Owes { grace_ends: now }),
    }
}

/// What the server asks of the allocator.
pub(super) fn claim(context: &Context, server: &SpotServer) -> Option<Claim> {
    if !is_guarded(server) {
        return None;
    }
    let it = validate(context, server).ok()?;
    let now = (context.now)();
    let leaving = is_leaving(server);
    let notice = notices::of(server).filter(|it| !it.is_over());
    // Its notice has ended: as soon as no pod is there, its cards go back.
    let goes = notice.is_some_and(|it| it.is_due(now)) && !has_pod_to_stay(context, server);
    Some(Claim {
        key: key(server),
        card_type: it.card_type.name_any(),
        account: it.account.name_any(),
        created_seconds: created_seconds(server),
        version: generation(server),
        demand: Demand::Spot {
            cards: if leaving || goes { 0 } else { it.cards },
            bid: it.bid,
            may_start: it.bid >= it.price.price && it.arrears.is_none() && !leaving && !goes,
            hold: Hold {
                is_protected: now < it.protected_until,
                is_outbid: it.price.price > it.bid,
                in_arrears: it.arrears.is_some(),
                is_noticed: notice.is_some(),
            },
        },
    })
}

/// Has it a pod that nobody has told to end?
fn has_pod_to_stay(context: &Context, server: &SpotServer) -> bool {
    let pod = pod(&context.caches, server);
    pod.is_some_and(|it| it.metadata.deletion_timestamp.is_none())
}

/// Its pod.
fn pod(caches: &Caches, server: &SpotServer) -> Option<Arc<SlimPod>> {
    let namespace = server.namespace().unwrap_or_default();
    let pods = caches.pods.under(&format!("spot/{namespace}/{}", server.name_any()));
    pods.into_iter().find(|it| {
        it.metadata.owner_references.iter().flatten().any(|it| Some(&it.uid) == server.metadata.uid.as_ref())
    })
}

/// A server keeps what it has while something that it names is away.
pub(super) fn frozen(context: &Context, server: &SpotServer) -> Option<Key> {
    (!is_leaving(server) && validate(context, server).is_err()).then(|| key(server))
}

// The driver.

/// One pass over a server.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    // Before its pod is let go.
    metered::observe(context, contract);
    let Some(server) = caches.spots.get(&contract.namespace, &contract.name) else {
        return endpoint::release_ended(context, contract).await;
    };
    let input = validate(context, &server);
    let outcome = context.outcome(Kind::Spot, &contract.namespace, &contract.name);
    let pod = pod(caches, &server);
    endpoint::release_ended(context, contract).await?;

    let told =
        notices::advance(context, &server, input.as_ref().ok(), outcome.as_ref(), pod.as_deref()).await;
    let (told, notice) = match told {
        Ok(notice) => (Ok(()), notice),
        Err(error) => (Err(error), notices::of(&server)),
    };
    let applied = match &told {
        Ok(()) => {
            let ready = input.as_ref().ok().filter(|_| notice.is_none_or(|it| !it.is_due((context.now)())));
            apply(
                context,
                contract,
                &server,
                ready,
                outcome.as_ref(),
                pod.as_deref(),
                notice.is_some_and(|it| it.is_over()),
            )
            .await
        }
        Err(_) => Ok(()),
    };

    let facts = report::Facts {
        input: input.as_ref(),
        outcome: outcome.as_ref(),
        pod: pod.as_deref(),
        notice: notice.as_ref(),
    };
    let new = report::status(context, &server, &facts);
    let wait =
        status::report(context, contract, &*server, server.status.as_ref(), &new, |it| &it.conditions).await;
    told?;
    applied?;
    let wait = wait?;
    let now = (context.now)();
    // The phase changes when the protected time ends, and what happens then when the notice does.
    let moments = input.as_ref().ok().map(|it| it.protected_until).into_iter();
    let moments = moments.chain(notice.filter(|it| !it.is_over()).map(|it| it.reclaim_at));
    let due =
        moments.filter_map(|it| Duration::try_from(it.duration_since(now)).ok().filter(|it| !it.is_zero()));
    Ok(due
        .chain(wait)
        .chain(context.setback(contract, &generation(&*server)))
        .min()
        .map_or(Done::Settled, Done::LookAgain))
}

async fn apply(
    context: &Context,
    contract: &ContractRef,
    server: &SpotServer,
    input: Option<&Input>,
    outcome: Option<&Outcome>,
    pod: Option<&SlimPod>,
    was_reclaimed: bool,
) -> Result<(), Error> {
    if is_leaving(server) {
        if let Some(pod) = pod {
            if pod.metadata.deletion_timestamp.is_none() {
                return context.cluster.delete_pod(pod).await.map_err(Error::Apply);
            }
            return Ok(());
        }
        // One that is not valid claims nothing, so the allocator has no answer for it.
        let share = Share::Spot(key(server));
        let gone =
            outcome.map_or_else(|| !allocator::holds(&context.caches, &share), |it| it.holdings.is_empty());
        // What it has used must be in the ledger first.
        if is_guarded(server) && gone && metered::may_go(context, contract, server) {
            return context
                .cluster
                .remove_finalizer::<SpotServer>(&server.metadata, names::CARDS)
                .await
                .map_err(Error::Apply);
        }
        return Ok(());
    }
    if !is_guarded(server) {
        return context
            .cluster
            .add_finalizer::<SpotServer>(&server.metadata, names::CARDS)
            .await
            .map_err(Error::Apply);
    }
    let (Some(input), Some(owner)) = (input, server.controller_owner_ref(&())) else { return Ok(()) };
    if outcome.is_none_or(|it| it.cards_in_place() < input.cards) {
        return Ok(());
    }
    match pod {
        // Its containers ended for good (the kubelet refused it, the node went): it is started again.
        Some(pod) if pod.is_over() && pod.metadata.deletion_timestamp.is_none() => {
            context.note_setback(contract, &generation(server));
            context.cluster.delete_pod(pod).await.map_err(Error::Apply)
        }
        Some(_) => Ok(()),
        None if context.setback(contract, &generation(server)).is_some() => Ok(()),
        // It starts anew as soon as its notice is forgotten.
        None if was_reclaimed => Ok(()),
        None => {
            let claim: PersistentVolumeClaim = serde_json::from_value(json!({
                "metadata": {"name": disk_name(server), "namespace": server.namespace(), "ownerReferences": [owner], "labels": {names::SPOT_SERVER: server.name_any()}},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": server.spec.disk.storage_class_name,
                    "resources": {"requests": {"storage": format!("{}G", server.spec.disk.size_gb)}},
                },
            }))
            .map_err(|it| Error::Apply(write::Error::Refused(it.to_string())))?;
            context.cluster.create_claim(&claim).await.map_err(Error::Apply)?;
            let there = context
                .cluster
                .read::<PersistentVolumeClaim>(&contract.namespace, &disk_name(server))
                .await
                .map_err(Error::Apply)?;
            let ours = |it: &PersistentVolumeClaim| {
                it.metadata.owner_references == Some(vec![owner.clone()])
                    && it.metadata.deletion_timestamp.is_none()
            };
            if !there.as_ref().is_some_and(ours) {
                // The disk of a server of this name that was there before is on its way out, or it is somebody else's.
                let message = format!("the disk {} is there and belongs to another owner", disk_name(server));
                context.cluster.tell(&server.object_ref(&()), true, "DiskTaken", &message).await;
                return Err(Error::Apply(write::Error::AlreadyExists));
            }
            match context.cluster.create_pod(&build(server, input, owner)).await {
                Ok(()) => Ok(()),
                Err(write::Error::AlreadyExists) => {
                    let message = format!(
                        "a pod {} is there and is not this server's, or not yet seen",
                        server.name_any()
                    );
                    tracing::debug!(message);
                    Err(Error::Apply(write::Error::AlreadyExists))
                }
                Err(write::Error::Refused(message)) => {
                    context.cluster.tell(&server.object_ref(&()), true, "WorkerRefused", &message).await;
                    Err(Error::Apply(write::Error::Refused(message)))
                }
                Err(error) => Err(Error::Apply(error)),
            }
        }
    }
}

// Build.

fn disk_name(server: &SpotServer) -> String {
    format!("{}-data", server.name_any())
}

fn build(
    server: &SpotServer,
    input: &Input,
    owner: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
) -> Pod {
    let mut template = server.spec.template.clone();
    if let Some(spec) = &mut template.spec {
        if let Ok(volume) = serde_json::from_value(
            json!({"name": "tenure-data", "persistentVolumeClaim": {"claimName": disk_name(server)}}),
        ) {
            spec.volumes.get_or_insert_default().push(volume);
        }
        if let (Some(first), Ok(mount)) = (
            spec.containers.first_mut(),
            serde_json::from_value(json!({"name": "tenure-data", "mountPath": "/data"})),
        ) {
            first.volume_mounts.get_or_insert_default().push(mount);
        }
    }
    worker::build(&Worker {
        name: server.name_any(),
        namespace: server.namespace().unwrap_or_default(),
        owner,
        labels: [(names::SPOT_SERVER.to_owned(), server.name_any())].into(),
        card_resource: &input.card_type.spec.resource_name,
        share: Share::Spot(key(server)),
        cards: input.cards,
        size: input.size,
        disk_bytes: None,
        node_selector: BTreeMap::new(),
        promised_node: None,
        template: &template,
    })
}
