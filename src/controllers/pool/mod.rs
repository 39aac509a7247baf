//! ResidentPool: what it claims, which endpoints have room in it, what it reports.

mod notice;
mod order;
pub(super) mod quote;
mod report;

use kube::ResourceExt;

use super::facts::{self, Problem};
use super::{Context, Done, Error, money, status};
use crate::api::condition::Reason;
use crate::api::pool::{self, OnShortage};
use crate::api::{ResidentPool, names};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::domain::allocate::{Outcome, Shortage};
use crate::domain::book::{Key, Share};
use crate::domain::budget::{Admitted, Bound, Budget, admit};
use crate::domain::fleet::{Claim, Demand};
use crate::domain::money::{PoolSize, State};
use order::{Bought, Claimed, Offer, Ordered};
use report::Facts;

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

/// Is there what the pool needs? Returns who pays, and what it costs.
fn validate(caches: &Caches, pool: &ResidentPool) -> Result<Offer, Problem> {
    let spec = &pool.spec;
    let card_type = facts::card_type(caches, &spec.card_type)?;
    let (account, tariff) = facts::payer(caches, &pool.namespace().unwrap_or_default(), &spec.region)?;
    let offer = Offer::new(account, tariff, &spec.card_type)?;
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
    Ok(offer)
}

/// What the status says is bought.
fn bought_in_status(pool: &ResidentPool) -> Option<pool::Bought> {
    pool.status.as_ref().and_then(|it| it.bought)
}

/// Is it left and refunded? Then somebody else's finalizer keeps the object.
fn is_settled(pool: &ResidentPool) -> bool {
    is_leaving(pool) && !is_guarded(pool)
}

/// What the allocator hears of a pool.
pub(super) enum Asks {
    /// It claims cards.
    For(Claim),
    /// The ledger is silent about it, or makes no sense: it keeps what it has, and gets nothing.
    Frozen(Key),
    Nothing,
}

/// What the pool asks of the allocator.
pub(super) fn asks(context: &Context, pool: &ResidentPool) -> Asks {
    if is_settled(pool) {
        return Asks::Nothing;
    }
    match order::bought(context, pool) {
        Some(Err(_)) => Asks::Frozen(key(pool)),
        Some(Ok(bought)) => claim(context, pool, Some(&bought)).map_or(Asks::Nothing, Asks::For),
        None => claim(context, pool, None).map_or(Asks::Nothing, Asks::For),
    }
}

/// What it claims. `bought`: `None` when the ledger has no contract of it.
fn claim(context: &Context, pool: &ResidentPool, bought: Option<&Bought>) -> Option<Claim> {
    let caches = &context.caches;
    let valid = validate(caches, pool);
    let now = (context.now)();
    let is_funded = |it: Claimed| match (&valid, bought) {
        (Ok(offer), Some(bought)) if it.cards > it.bought => {
            it.paid || order::is_funded(context, pool, bought, offer, now)
        }
        (Ok(_) | Err(_), _) => it.paid,
    };
    let may_buy = valid.is_ok() && !is_leaving(pool);
    let keeps = |cards| Claimed { cards, bought: cards, paid: false };
    let mut claimed = match bought {
        Some(bought) => order::claimed(pool, bought, may_buy),
        // The ledger knows nothing of it: what is there stays.
        None => keeps(count(bought_in_status(pool)?.cards)),
    };
    if is_leaving(pool) {
        // Its cards go back when the last instance is gone; the instances keep theirs until then.
        claimed = keeps(if still_bound(caches, pool).is_empty() { 0 } else { claimed.bought });
    } else if !is_guarded(pool) {
        return None;
    }
    let funded = is_funded(claimed);
    let Claimed { cards, bought, paid } = claimed;
    Some(Claim {
        key: key(pool),
        card_type: pool.spec.card_type.clone(),
        account: valid.as_ref().map(|it| it.account.name_any()).unwrap_or_default(),
        created_seconds: created_seconds(pool),
        version: order::version(pool, claimed),
        demand: Demand::Resident { cards, bought, paid, funded },
    })
}

// Plan.

/// How many instances there is room for in what is bought and not expired, for each endpoint that is bound to the pool, the
/// older first; and what is left.
pub(super) fn admitted(context: &Context, pool: &ResidentPool) -> (Vec<Admitted>, Budget) {
    admitted_to(&context.caches, pool, usable(context, pool))
}

/// What is bought and can be used now.
pub(super) fn usable(context: &Context, pool: &ResidentPool) -> PoolSize {
    if is_settled(pool) {
        return PoolSize::default();
    }
    match order::bought(context, pool) {
        Some(Ok(bought)) if matches!(bought.lease.state, State::Active { .. }) => bought.lease.size,
        Some(Ok(_)) => PoolSize::default(),
        // What runs is left alone while the ledger is silent.
        Some(Err(_)) | None => {
            let said = bought_in_status(pool).filter(|_| !is_over(pool));
            said.map(|it| PoolSize { cards: count(it.cards), disk_gb_per_card: count(it.disk_per_card_gb) })
                .unwrap_or_default()
        }
    }
}

/// Cards in place of those on nodes that go away, as far as they are there.
pub(super) fn had_twice(context: &Context, pool: &ResidentPool) -> u32 {
    let bought = usable(context, pool).cards;
    let outcome = context.outcome(Kind::Pool, &pool.namespace().unwrap_or_default(), &pool.name_any());
    outcome.map_or(0, |it| it.cards_in_place()).saturating_sub(bought)
}

/// Does its status say that its term has ended?
fn is_over(pool: &ResidentPool) -> bool {
    let phase = pool.status.as_ref().and_then(|it| it.phase);
    matches!(phase, Some(pool::PoolPhase::Expired | pool::PoolPhase::Released))
}

fn admitted_to(caches: &Caches, pool: &ResidentPool, bought: PoolSize) -> (Vec<Admitted>, Budget) {
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
    let budget = Budget { cards: bought.cards, disk_gb: bought.cards * bought.disk_gb_per_card };
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

/// A shortage in words.
pub(super) fn in_words(shortage: &Shortage, card_type: &str) -> Problem {
    match shortage {
        Shortage::NoCards { needed, free } => {
            let message = format!(
                "{needed} more {card_type} cards are needed and {free} are free (workers and servers need theirs on one node)"
            );
            Problem::new(Reason::Shortage, message)
        }
        Shortage::Reclaiming { needed, free } => {
            let message = format!(
                "{needed} more are needed and {free} are free: spot servers give the rest back when their notice ends"
            );
            Problem::new(Reason::Reclaiming, message)
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

// The driver.

/// One pass over a pool.
pub(super) async fn reconcile(context: &Context, contract: &ContractRef) -> Result<Done, Error> {
    let Some(pool) = context.caches.pools.get(&contract.namespace, &contract.name) else {
        return Ok(Done::Settled);
    };
    // One look: an answer, and whether cards were coming when it was given, belong together.
    let published = context.published.borrow().clone();
    let outcome = published.outcomes.get(contract).cloned();
    let offer = validate(&context.caches, &pool);

    // Apply: the finalizer before the first card, its money before its cards, the refusal of what does not fit.
    let ordered = if is_guarded(&*pool) {
        order::advance(context, &pool, offer.as_ref(), outcome.as_ref()).await?
    } else {
        Ordered::default()
    };
    let more_come = published.coming.contains(&pool.spec.card_type);
    let applied = apply(context, &pool, outcome.as_ref(), &ordered, more_come).await;

    let facts = Facts { outcome: outcome.as_ref(), ordered: &ordered, offer: offer.as_ref() };
    let new = report::status(context, &pool, &facts);
    report::tell(context, &pool, &new).await;
    notice::tell(context, &pool, &facts);
    if pool.status.as_ref().and_then(|it| it.phase) != new.phase {
        // What it claims follows from where it is in its life, and time alone changes that.
        context.caches.changes.cards_changed.notify_one();
    }
    let wait =
        status::report(context, contract, &*pool, pool.status.as_ref(), &new, |it| &it.conditions).await;
    applied?;
    Ok(wait?.into_iter().chain(ordered.again).min().map_or(Done::Settled, Done::LookAgain))
}

async fn apply(
    context: &Context,
    pool: &ResidentPool,
    outcome: Option<&Outcome>,
    ordered: &Ordered,
    more_come: bool,
) -> Result<(), Error> {
    if is_leaving(pool) {
        if is_guarded(pool)
            && still_bound(&context.caches, pool).is_empty()
            && outcome.is_none_or(|it| it.holdings.is_empty())
            && !super::allocator::holds(&context.caches, &Share::Resident(key(pool)))
        {
            order::settle(context, pool).await?;
            return context
                .cluster
                .remove_finalizer::<ResidentPool>(&pool.metadata, names::CARDS)
                .await
                .map_err(Error::Apply);
        }
        return Ok(());
    }
    if !is_guarded(pool) {
        let id = money::contract_id(&pool.uid().unwrap_or_default());
        // One that was restored from a backup names its former contract.
        let contract = pool.annotations().get(names::CONTRACT).cloned().unwrap_or(id);
        return context
            .cluster
            .guard::<ResidentPool>(&pool.metadata, names::CARDS, names::CONTRACT, &contract)
            .await
            .map_err(Error::Apply);
    }
    let refuses = pool.spec.on_shortage == OnShortage::Fail && ordered.may_refuse && !more_come;
    if let (Some(shortage), true) = (&ordered.short, refuses) {
        let refusal = format!("{} {}", generation(pool), in_words(shortage, &pool.spec.card_type).message);
        return context
            .cluster
            .annotate::<ResidentPool>(&pool.metadata, names::REFUSED, Some(&refusal))
            .await
            .map_err(Error::Apply);
    }
    Ok(())
}
