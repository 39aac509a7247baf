//! SpotServer: what it claims, the pod and disk it runs, what it reports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};
use rust_decimal::Decimal;
use serde_json::json;

use super::facts::{self, Problem};
use super::pool::{count, created_seconds, generation, in_words, is_guarded, is_leaving, key};
use super::worker::{self, Worker};
use super::{Context, Done, Error, allocator, endpoint, status};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::spot::SpotPhase;
use crate::api::tariff::SpotTariff;
use crate::api::{CardType, SpotServer, SpotServerStatus, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::cluster::slim::SlimPod;
use crate::cluster::write;
use crate::domain::allocate::Outcome;
use crate::domain::book::{Key, Share};
use crate::domain::fleet::{Claim, Demand};
use crate::domain::units::{Size, parse_milli, parse_whole};

/// What a server is, resolved.
struct Input {
    account: String,
    card_type: Arc<CardType>,
    cards: u32,
    size: Size,
    bid: Decimal,
    price: Decimal,
    protection_minutes: i32,
}

// Validate.

fn validate(caches: &Caches, server: &SpotServer) -> Result<Input, Problem> {
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
    Ok(Input {
        account: account.name_any(),
        card_type,
        cards: count(machine.cards),
        size,
        bid,
        price: facts::price(&market)?,
        protection_minutes: terms.protection_minutes,
    })
}

/// What the server asks of the allocator.
pub(super) fn claim(caches: &Caches, server: &SpotServer) -> Option<Claim> {
    if !is_guarded(server) {
        return None;
    }
    let it = validate(caches, server).ok()?;
    let leaving = is_leaving(server);
    Some(Claim {
        key: key(server),
        card_type: it.card_type.name_any(),
        account: it.account,
        created_seconds: created_seconds(server),
        version: generation(server),
        demand: Demand::Spot {
            cards: if leaving { 0 } else { it.cards },
            bid: it.bid,
            may_start: it.bid >= it.price && !leaving,
        },
    })
}

/// A server keeps what it has while something that it names is away.
pub(super) fn frozen(caches: &Caches, server: &SpotServer) -> Option<Key> {
    (!is_leaving(server) && validate(caches, server).is_err()).then(|| key(server))
}

// The driver.

/// One pass over a server.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let caches = &context.caches;
    let Some(server) = caches.spots.get(&contract.namespace, &contract.name) else {
        return endpoint::release_ended(context, contract).await;
    };
    let input = validate(caches, &server);
    let outcome = context.outcome(Kind::Spot, &contract.namespace, &contract.name);
    let pods = caches.pods.under(&format!("spot/{}/{}", contract.namespace, contract.name));
    let pod = pods.iter().find(|it| {
        it.metadata.owner_references.iter().flatten().any(|it| Some(&it.uid) == server.metadata.uid.as_ref())
    });
    endpoint::release_ended(context, contract).await?;

    let applied =
        apply(context, contract, &server, input.as_ref().ok(), outcome.as_ref(), pod.map(|it| &**it)).await;

    let new = make_status(context, &server, &input, outcome.as_ref(), pod.map(|it| &**it));
    let wait =
        status::report(context, contract, &*server, server.status.as_ref(), &new, |it| &it.conditions).await;
    applied?;
    let wait = wait?;
    // The phase changes when the protected time ends.
    let protected = new
        .protected_until
        .as_ref()
        .map(|it| it.0.duration_since((context.now)()))
        .and_then(|it| Duration::try_from(it).ok());
    Ok(protected
        .into_iter()
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
        if is_guarded(server) && gone {
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

// Status.

fn make_status(
    context: &Context,
    server: &SpotServer,
    input: &Result<Input, Problem>,
    outcome: Option<&Outcome>,
    pod: Option<&SlimPod>,
) -> SpotServerStatus {
    let before = server.status.clone().unwrap_or_default();
    let now = (context.now)();
    let holding = outcome.and_then(|it| it.holdings.first());
    let ready = pod.is_some_and(|it| it.is_ready() && it.metadata.deletion_timestamp.is_none());
    let started_at = before.started_at.clone().or_else(|| ready.then_some(Time(now)));
    let protection = input.as_ref().map_or(0, |it| i64::from(it.protection_minutes));
    let created = server.metadata.creation_timestamp.as_ref();
    let protected_until = created
        .filter(|_| input.is_ok())
        .map(|it| Time(it.0 + jiff::SignedDuration::from_mins(protection)))
        .or(before.protected_until);
    let protected = protected_until.as_ref().is_some_and(|it| it.0 > now);

    let (placed, why) = match (input, holding) {
        (Err(problem), _) => (false, problem.clone()),
        (Ok(_), Some(holding)) if holding.in_place => {
            (true, Problem::new(Reason::AsBought, format!("has its cards on {}", holding.node)))
        }
        (Ok(_), Some(holding)) => {
            (false, Problem::new(Reason::Degraded, format!("its cards on {} are away", holding.node)))
        }
        (Ok(it), None) if it.bid < it.price => (
            false,
            Problem::new(Reason::PriceAboveBid, format!("the price is {} and the bid {}", it.price, it.bid)),
        ),
        (Ok(it), None) => {
            let shortage = outcome.and_then(|it| it.shortage.as_ref());
            (
                false,
                shortage.map_or_else(
                    || Problem::new(Reason::Pending, "cards are being found"),
                    |short| in_words(short, &it.card_type.name_any()),
                ),
            )
        }
    };
    let mut conditions = Conditions::new(&before.conditions, server.metadata.generation, now);
    conditions.set(Type::Placed, Some(placed), why.reason, why.message.clone());
    let (holds, reason, message) = match (placed, ready) {
        _ if is_leaving(server) => {
            (false, Reason::Deleting, "its cards go back when its pod is gone".to_owned())
        }
        (true, true) => (true, Reason::Running, why.message),
        (true, false) => (false, Reason::Progressing, "its pod is not ready yet".to_owned()),
        (false, _) => (false, why.reason, why.message),
    };
    conditions.set(Type::Ready, Some(holds), reason, message);
    SpotServerStatus {
        observed_generation: server.metadata.generation,
        phase: Some(match (placed, protected) {
            (true, true) => SpotPhase::Protected,
            (true, false) => SpotPhase::Running,
            (false, _) => SpotPhase::Pending,
        }),
        node: holding.map(|it| it.node.clone()),
        price: input.as_ref().ok().map(|it| it.price.to_string()),
        started_at,
        protected_until,
        conditions: conditions.done(),
    }
}
