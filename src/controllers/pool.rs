//! ResidentPool: what it claims, which endpoints have room in it, what it reports.

use kube::ResourceExt;

use super::facts::{self, Problem};
use super::{Context, Done, Error, status};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::pool::{Bought, NodeCards, OnShortage, PoolCards, PoolDisk, PoolEndpoint, PoolPhase};
use crate::api::{ResidentPool, ResidentPoolStatus, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::domain::allocate::{Outcome, Shortage};
use crate::domain::book::Key;
use crate::domain::budget::{Admitted, Bound, Budget, admit};
use crate::domain::fleet::{Claim, Demand};

/// Bytes of a GB, as disks are sold.
pub(super) const GB: i64 = 1_000_000_000;

/// A count of the API, which has no unsigned ones. Its rules keep it from being negative.
pub(super) fn count(it: i32) -> u32 {
    u32::try_from(it).unwrap_or(0)
}

/// A count for the API.
pub(super) fn number(it: u32) -> i32 {
    i32::try_from(it).unwrap_or(i32::MAX)
}

/// The contract's key.
pub(super) fn key<K: kube::Resource>(object: &K) -> Key {
    Key::new(
        object.meta().name.as_deref().unwrap_or_default(),
        object.meta().uid.as_deref().unwrap_or_default(),
    )
}

/// When the contract was created, seconds since 1970.
pub(super) fn created_seconds<K: kube::Resource>(object: &K) -> i64 {
    object.meta().creation_timestamp.as_ref().map_or(0, |it| it.0.as_second())
}

/// Is it being deleted?
pub(super) fn is_leaving<K: kube::Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Was the purchase of this generation refused?
pub(super) fn is_refused<K: kube::Resource>(object: &K) -> bool {
    refusal(object).is_some()
}

/// Why the purchase of this generation was refused. The annotation reads `<generation> <why>`.
pub(super) fn refusal<K: kube::Resource>(object: &K) -> Option<&str> {
    let (of, why) = object.meta().annotations.as_ref()?.get(names::REFUSED)?.split_once(' ')?;
    (of == generation(object)).then_some(why)
}

/// The object's generation: what a claim is made from.
pub(super) fn generation<K: kube::Resource>(object: &K) -> String {
    object.meta().generation.unwrap_or_default().to_string()
}

/// Has the finalizer that gives its cards back? Before it has, it may not lock any.
pub(super) fn is_guarded<K: kube::Resource>(object: &K) -> bool {
    object.meta().finalizers.iter().flatten().any(|it| it == names::CARDS)
}

// Validate.

/// Is there what the pool needs? Returns the account.
fn validate(caches: &Caches, pool: &ResidentPool) -> Result<String, Problem> {
    let spec = &pool.spec;
    let card_type = facts::card_type(caches, &spec.card_type)?;
    let (account, tariff) = facts::payer(caches, &pool.namespace().unwrap_or_default(), &spec.region)?;
    let priced = tariff
        .spec
        .resident
        .as_ref()
        .is_some_and(|it| it.cards.iter().any(|it| it.card_type == spec.card_type));
    if !priced {
        let message =
            format!("Tariff {} has no resident price for card type {}", tariff.name_any(), spec.card_type);
        return Err(Problem::new(Reason::NoPrice, message));
    }
    if spec.cards < 1 || !(10..=60).contains(&spec.disk_per_card_gb) || spec.disk_per_card_gb % 10 != 0 {
        return Err(Problem::new(
            Reason::Invalid,
            "cards must be at least 1 and diskPerCardGB 10 to 60 in steps of 10",
        ));
    }
    let per_card = facts::per_card(&card_type).map_err(|it| Problem::new(Reason::Invalid, it.to_string()))?;
    if i64::from(spec.disk_per_card_gb) * GB > per_card.disk_bytes {
        let message = format!(
            "diskPerCardGB is {} and CardType {} brings {} bytes of disk per card",
            spec.disk_per_card_gb, spec.card_type, per_card.disk_bytes
        );
        return Err(Problem::new(Reason::Invalid, message));
    }
    Ok(account.name_any())
}

fn bought(pool: &ResidentPool) -> Bought {
    pool.status.as_ref().and_then(|it| it.bought).unwrap_or_default()
}

/// What the pool asks of the allocator.
pub(super) fn claim(caches: &Caches, pool: &ResidentPool) -> Option<Claim> {
    let bought = count(bought(pool).cards);
    let valid = validate(caches, pool);
    let (cards, bought) = if is_leaving(pool) && still_bound(caches, pool).is_empty() {
        (0, 0)
    } else if is_leaving(pool) {
        // Its cards go back when the last instance is gone; the instances keep theirs until then.
        (bought, bought)
    } else if !is_guarded(pool) {
        return None;
    } else if valid.is_err() || is_refused(pool) {
        // What is bought stays; nothing new is bought.
        (bought, bought)
    } else {
        (count(pool.spec.cards).max(bought), bought)
    };
    Some(Claim {
        key: key(pool),
        card_type: pool.spec.card_type.clone(),
        account: valid.unwrap_or_default(),
        created_seconds: created_seconds(pool),
        version: generation(pool),
        demand: Demand::Resident { cards, bought, paid: true },
    })
}

// Plan.

/// The endpoints bound to a pool and the instances that there is room for in what is bought, the older first.
pub(super) fn admitted(caches: &Caches, pool: &ResidentPool) -> (Vec<Admitted>, Budget) {
    admitted_to(caches, pool, bought(pool))
}

fn admitted_to(caches: &Caches, pool: &ResidentPool, bought: Bought) -> (Vec<Admitted>, Budget) {
    let namespace = pool.namespace().unwrap_or_default();
    let endpoints = caches.endpoints.under(&format!("pool/{namespace}/{}", pool.name_any()));
    let bound: Vec<Bound> = endpoints
        .iter()
        .filter(|it| !is_leaving(&***it))
        .filter_map(|it| {
            let on = it.spec.placement.resident_pool.as_ref()?;
            Some(Bound {
                endpoint: it.name_any(),
                created_seconds: created_seconds(&**it),
                instances: count(on.instances),
                cards_each: count(it.spec.workers.gpus),
                disk_gb_each: count(on.disk_gb),
            })
        })
        .collect();
    let budget =
        Budget { cards: count(bought.cards), disk_gb: count(bought.cards) * count(bought.disk_per_card_gb) };
    admit(budget, &bound)
}

/// The endpoints that have instances in the pool.
fn still_bound(caches: &Caches, pool: &ResidentPool) -> Vec<String> {
    let endpoints =
        caches.endpoints.under(&format!("pool/{}/{}", pool.namespace().unwrap_or_default(), pool.name_any()));
    let bound = endpoints
        .iter()
        .filter(|it| it.spec.placement.resident_pool.as_ref().is_some_and(|it| it.instances > 0));
    bound.map(|it| it.name_any()).collect()
}

// Status.

/// A shortage in words.
pub(super) fn in_words(shortage: &Shortage, card_type: &str) -> Problem {
    match shortage {
        Shortage::NoCards { needed, free } => {
            let message = format!(
                "{needed} more {card_type} cards are needed and {free} are free (workers and servers need theirs on one node)"
            );
            Problem::new(Reason::Shortage, message)
        }
        Shortage::SoldOut { needed, free } => Problem::new(
            Reason::SoldOut,
            format!("sold out: {needed} more whole machines are needed and {free} are free"),
        ),
        Shortage::Quota { limit, held, needed } => {
            let message = format!(
                "the account's quota is {limit} {card_type} cards: it holds {held} and this needs {needed} more"
            );
            Problem::new(Reason::QuotaExceeded, message)
        }
    }
}

fn make_status(
    context: &Context,
    pool: &ResidentPool,
    outcome: Option<&Outcome>,
    problem: Option<&Problem>,
) -> ResidentPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let none = Outcome::default();
    let has = outcome.unwrap_or(&none);
    let locked = number(has.cards());
    let in_place = number(has.cards_in_place());
    let spec = &pool.spec;
    let mut bought = bought(pool);
    // An order is whole or it is not: a part of it that is locked for a moment is not bought. And cards that are on two nodes for
    // the moment of a replacement are not bought twice.
    if outcome.is_some() && locked >= spec.cards {
        bought.cards = bought.cards.max(spec.cards);
    }
    // Cards and disk are one order: more disk is bought when all cards are.
    if bought.cards >= spec.cards.max(1) && problem.is_none() && !is_leaving(pool) {
        bought.disk_per_card_gb = bought.disk_per_card_gb.max(spec.disk_per_card_gb);
    }
    let (admitted, left) = admitted_to(&context.caches, pool, bought);
    let bound: u32 = admitted.iter().map(|it| it.cards).sum();
    let disk_bound: u32 = admitted.iter().map(|it| it.disk_gb).sum();

    let complete = bought.cards >= spec.cards && in_place >= bought.cards.max(spec.cards);
    let mut conditions = Conditions::new(&before.conditions, pool.metadata.generation, (context.now)());
    let shortage = has.shortage.as_ref().map(|it| in_words(it, &spec.card_type));
    let degraded = bought.cards > 0 && in_place < bought.cards;
    let why = if is_leaving(pool) {
        match still_bound(&context.caches, pool).as_slice() {
            [] => Problem::new(Reason::Deleting, "its cards go back"),
            bound => {
                let message = format!(
                    "waits for the endpoints that are bound to it: {}. Delete them or bring their instances to 0",
                    bound.join(", ")
                );
                Problem::new(Reason::StillBound, message)
            }
        }
    } else if let Some(problem) = problem {
        problem.clone()
    } else if degraded {
        let lost = bought.cards - in_place;
        Problem::new(
            Reason::Degraded,
            format!(
                "{lost} of {} bought cards can't be used: their node is away or not ready, or they are faulty. Lost ones are replaced as soon as cards are free",
                bought.cards
            ),
        )
    } else if let (Some(why), false) = (refusal(pool), complete) {
        let message = format!("refused: {why}. Change the spec to try again, or use onShortage: Wait");
        Problem::new(Reason::Refused, message)
    } else if let Some(shortage) = shortage {
        shortage
    } else if complete {
        Problem::new(Reason::AsBought, format!("{locked} cards are locked"))
    } else {
        Problem::new(Reason::Pending, "cards are being locked")
    };
    let good = complete && !is_leaving(pool) && problem.is_none();
    let holds = if outcome.is_none() && problem.is_none() && !is_leaving(pool) { None } else { Some(good) };
    conditions.set(Type::CardsLocked, holds, why.reason, why.message.clone());
    conditions.set(Type::Ready, holds, why.reason, why.message);
    let phase = if bought.cards > 0 {
        PoolPhase::Active
    } else if is_refused(pool) {
        PoolPhase::Failed
    } else {
        PoolPhase::Pending
    };
    ResidentPoolStatus {
        observed_generation: pool.metadata.generation,
        phase: Some(phase),
        bought: (bought.cards > 0).then_some(bought),
        cards: PoolCards { locked, bound: number(bound), free: locked.saturating_sub(number(bound)).max(0) },
        disk_gb: PoolDisk {
            total: bought.cards * bought.disk_per_card_gb,
            bound: number(disk_bound),
            free: number(left.disk_gb),
        },
        endpoints: admitted
            .iter()
            .map(|it| PoolEndpoint {
                name: it.endpoint.clone(),
                instances: number(it.instances),
                cards: number(it.cards),
                disk_gb: number(it.disk_gb),
            })
            .collect(),
        nodes: has
            .holdings
            .iter()
            .map(|it| NodeCards { name: it.node.clone(), cards: number(it.cards) })
            .collect(),
        started_at: before.started_at,
        expires_at: before.expires_at,
        renewals_bought: before.renewals_bought,
        conditions: conditions.done(),
    }
}

// The driver.

/// One pass over a pool.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let Some(pool) = context.caches.pools.get(&contract.namespace, &contract.name) else {
        return Ok(Done::Settled);
    };
    let outcome = context.outcome(Kind::Pool, &contract.namespace, &contract.name);
    let problem = validate(&context.caches, &pool).err();

    // Apply: the finalizer before the first card, the refusal of what does not fit.
    let applied = apply(context, &pool, outcome.as_ref(), problem.as_ref()).await;

    let new = make_status(context, &pool, outcome.as_ref(), problem.as_ref());
    let wait =
        status::report(context, contract, &*pool, pool.status.as_ref(), &new, |it| &it.conditions).await;
    applied?;
    Ok(wait?.map_or(Done::Settled, Done::LookAgain))
}

async fn apply(
    context: &Context,
    pool: &ResidentPool,
    outcome: Option<&Outcome>,
    problem: Option<&Problem>,
) -> Result<(), Error> {
    if is_leaving(pool) {
        if is_guarded(pool)
            && still_bound(&context.caches, pool).is_empty()
            && outcome.is_some_and(|it| it.holdings.is_empty())
        {
            return context
                .cluster
                .remove_finalizer::<ResidentPool>(&pool.metadata, names::CARDS)
                .await
                .map_err(Error::Apply);
        }
        return Ok(());
    }
    if !is_guarded(pool) {
        return context
            .cluster
            .add_finalizer::<ResidentPool>(&pool.metadata, names::CARDS)
            .await
            .map_err(Error::Apply);
    }
    // Only an answer to this very spec refuses it.
    let answer = outcome.filter(|it| it.version == generation(pool) && count(pool.spec.cards) > it.cards());
    let shortage = answer.and_then(|it| it.shortage.as_ref());
    let buys = pool.spec.cards > bought(pool).cards;
    if let (Some(shortage), true) = (
        shortage,
        buys && problem.is_none() && pool.spec.on_shortage == OnShortage::Fail && !is_refused(pool),
    ) {
        let refusal = format!("{} {}", generation(pool), in_words(shortage, &pool.spec.card_type).message);
        return context
            .cluster
            .annotate::<ResidentPool>(&pool.metadata, names::REFUSED, Some(&refusal))
            .await
            .map_err(Error::Apply);
    }
    Ok(())
}
