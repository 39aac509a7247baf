//! What a pool's owner reads: the status, and Events for what the conditions alone would not tell in time.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use super::order::{Offer, Ordered};
use super::{admitted_to, count, in_words, is_leaving, is_refused, number, refusal, still_bound, usable};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::pool::{Bought, NodeCards, PoolCards, PoolDisk, PoolEndpoint, PoolOrder, PoolPhase};
use crate::api::term::{OrderKind, Paid};
use crate::api::{ResidentPool, ResidentPoolStatus};
use crate::controllers::Context;
use crate::controllers::facts::Problem;
use crate::domain::allocate::Outcome;
use crate::domain::money::{Currency, Lease, Money, Order, PoolSize, Purpose, Reminder, State};

/// Orders that the status shows.
const ORDERS_SHOWN: usize = 16;

/// What a pass has found out.
pub(super) struct Facts<'a> {
    pub(super) outcome: Option<&'a Outcome>,
    pub(super) ordered: &'a Ordered,
    pub(super) offer: Result<&'a Offer, &'a Problem>,
}

/// The status.
pub(super) fn status(context: &Context, pool: &ResidentPool, facts: &Facts<'_>) -> ResidentPoolStatus {
    let before = pool.status.clone().unwrap_or_default();
    let lease = &facts.ordered.bought.lease;
    let none = Outcome::default();
    let has = facts.outcome.unwrap_or(&none);
    let locked = number(has.cards());
    let knows = facts.ordered.is_known;
    let bought = if knows { in_api(lease) } else { before.bought };
    let use_now = usable(context, pool);
    let (admitted, left) = admitted_to(&context.caches, pool, use_now);
    let bound: u32 = admitted.iter().map(|it| it.cards).sum();
    let disk_bound: u32 = admitted.iter().map(|it| it.disk_gb).sum();

    let now = (context.now)();
    let mut conditions = Conditions::new(&before.conditions, pool.metadata.generation, now);
    let state = Place::of(pool, facts, has);
    let why = why(context, pool, facts, &state);
    let waits = facts.outcome.is_none() && facts.offer.is_ok() && !is_leaving(pool);
    let good = state.is_complete && !is_leaving(pool) && facts.offer.is_ok();
    let holds = if waits { None } else { Some(good) };
    conditions.set(
        Type::CardsLocked,
        if waits { None } else { Some(state.in_place && state.active) },
        why.reason,
        why.message.clone(),
    );
    set_paid(&mut conditions, pool, facts);
    set_expiring(&mut conditions, lease, now);
    conditions.set(Type::Ready, holds, why.reason, why.message);
    let currency = facts.ordered.bought.currency.as_ref();
    let kept = |known, before| if knows { known } else { before };
    let orders = &facts.ordered.bought.orders;
    let time = |it: Timestamp| Time(it);
    ResidentPoolStatus {
        observed_generation: pool.metadata.generation,
        phase: Some(phase(pool, lease, knows, before.phase)),
        bought,
        cards: PoolCards { locked, bound: number(bound), free: locked.saturating_sub(number(bound)).max(0) },
        disk_gb: PoolDisk {
            total: number(use_now.cards * use_now.disk_gb_per_card),
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
        started_at: kept(lease.started_at.map(time), before.started_at),
        expires_at: kept(expiry(lease).map(time), before.expires_at),
        releases_at: kept(release(lease).map(time), before.releases_at),
        orders: currency.map(|it| shown(orders, it)).unwrap_or(before.orders),
        paid: currency.map(|it| paid(orders, it)).unwrap_or(before.paid),
        renewals_bought: if knows { number(lease.renewals_bought) } else { before.renewals_bought },
        conditions: conditions.done(),
    }
}

/// Where the pool stands, in the words of its conditions.
struct Place {
    /// All that is bought, and all that is asked for, is there.
    is_complete: bool,
    in_place: bool,
    active: bool,
    /// Bought cards that can't be used.
    lost: u32,
}

impl Place {
    fn of(pool: &ResidentPool, facts: &Facts<'_>, has: &Outcome) -> Place {
        let lease = &facts.ordered.bought.lease;
        let active = matches!(lease.state, State::Active { .. });
        let in_place = has.cards_in_place() >= lease.size.cards;
        let asked =
            PoolSize { cards: count(pool.spec.cards), disk_gb_per_card: count(pool.spec.disk_per_card_gb) };
        let is_bought =
            lease.size.cards >= asked.cards && lease.size.disk_gb_per_card >= asked.disk_gb_per_card;
        let lost = if active { lease.size.cards.saturating_sub(has.cards_in_place()) } else { 0 };
        Place { is_complete: active && in_place && is_bought, in_place, active, lost }
    }
}

/// Why the pool is as it is: the first of these that holds.
fn why(context: &Context, pool: &ResidentPool, facts: &Facts<'_>, state: &Place) -> Problem {
    let lease = &facts.ordered.bought.lease;
    if is_leaving(pool) {
        return leaving(context, pool);
    }
    if let Err(problem) = facts.offer {
        return problem.clone();
    }
    match lease.state {
        State::Expired { since, releases_at } => {
            let message = format!(
                "expired at {since}: append to spec.renewals, such as {{months: 1}}, to bring it back; at {releases_at} it is released for good"
            );
            if facts.ordered.problem.is_none() && facts.ordered.short.is_none() {
                return Problem::new(Reason::Expired, message);
            }
        }
        State::Released { since } => {
            let message = format!("was not renewed by {since} and is released for good: delete it");
            return Problem::new(Reason::Released, message);
        }
        State::Requested | State::Active { .. } | State::Ended { .. } => (),
    }
    if state.lost > 0 {
        let message = format!(
            "{} of {} bought cards can't be used: their node is away or not ready, or they are faulty. Lost ones are replaced as soon as cards are free",
            state.lost, lease.size.cards
        );
        return Problem::new(Reason::Degraded, message);
    }
    if let (Some(why), false) = (refusal(pool), state.is_complete) {
        let message = format!("refused: {why}. Change the spec to try again, or use onShortage: Wait");
        return Problem::new(Reason::Refused, message);
    }
    if let Some(problem) = &facts.ordered.problem {
        return problem.clone();
    }
    if let Some(shortage) = &facts.ordered.short {
        return in_words(shortage, &pool.spec.card_type);
    }
    if state.is_complete {
        return Problem::new(Reason::AsBought, format!("{} cards are locked", lease.size.cards));
    }
    Problem::new(Reason::Pending, "cards are being locked")
}

fn leaving(context: &Context, pool: &ResidentPool) -> Problem {
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
}

fn set_paid(conditions: &mut Conditions<'_>, pool: &ResidentPool, facts: &Facts<'_>) {
    let ordered = facts.ordered;
    let (holds, reason, message) = match (&ordered.problem, &ordered.bought.held) {
        (Some(problem), _) => (Some(false), problem.reason, problem.message.clone()),
        (None, Some(held)) => (
            Some(false),
            Reason::Pending,
            format!("the price of {} is held until its cards are locked", held.purpose.id()),
        ),
        (None, None) if ordered.bought.orders.is_empty() && is_refused(pool) => {
            (Some(false), Reason::Refused, "nothing was charged".to_owned())
        }
        (None, None) if ordered.bought.orders.is_empty() => {
            (None, Reason::Pending, "nothing is ordered yet".to_owned())
        }
        (None, None) => {
            (Some(true), Reason::AsBought, format!("orders that are paid: {}", ordered.bought.orders.len()))
        }
    };
    conditions.set(Type::Paid, holds, reason, message);
}

fn set_expiring(conditions: &mut Conditions<'_>, lease: &Lease, now: Timestamp) {
    let (holds, reason, message) = match (lease.reminder(now), lease.state) {
        (Some(Reminder::Expiry { days, at }), _) => (
            true,
            Reason::Expiring,
            format!("expires within {days} days, at {at}: renew it in time to keep its cards"),
        ),
        (Some(Reminder::Release { days, at }), _) => (
            true,
            Reason::Expired,
            format!("has expired, and is released for good within {days} days, at {at}"),
        ),
        (None, State::Expired { since, .. }) => (true, Reason::Expired, format!("has expired at {since}")),
        (None, State::Released { since }) => (true, Reason::Released, format!("is released since {since}")),
        (None, State::Active { .. }) => {
            (false, Reason::NotExpiring, "expires in more than 7 days".to_owned())
        }
        (None, State::Requested | State::Ended { .. }) => return,
    };
    conditions.set(Type::ExpiringSoon, Some(holds), reason, message);
}

/// Tells of each reminder, of expiry and release, and of money that is missing, when it comes.
pub(super) async fn tell(context: &Context, pool: &ResidentPool, new: &ResidentPoolStatus) {
    let expiring =
        |it: &ResidentPoolStatus| it.conditions.iter().find(|it| it.type_ == "ExpiringSoon").cloned();
    let paid = |it: &ResidentPoolStatus| it.conditions.iter().find(|it| it.type_ == "Paid").cloned();
    // That the pool is not Ready is told by its own Event.
    let is_ready = new.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True");
    if let Some(now) = paid(new).filter(|it| is_ready && it.status == "False" && it.reason != "Pending")
        && pool.status.as_ref().and_then(paid).is_none_or(|it| it.reason != now.reason)
    {
        context.cluster.tell(&pool.object_ref(&()), true, &now.reason, &now.message).await;
    }
    let Some(now) = expiring(new).filter(|it| it.status == "True") else { return };
    if pool.status.as_ref().and_then(expiring).is_none_or(|it| it.message != now.message) {
        context.cluster.tell(&pool.object_ref(&()), true, &now.reason, &now.message).await;
    }
}

fn phase(pool: &ResidentPool, lease: &Lease, knows: bool, before: Option<PoolPhase>) -> PoolPhase {
    match lease.state {
        State::Active { .. } => PoolPhase::Active,
        State::Expired { .. } => PoolPhase::Expired,
        State::Released { .. } | State::Ended { .. } => PoolPhase::Released,
        State::Requested if !knows && before.is_some() => before.unwrap_or(PoolPhase::Pending),
        State::Requested if is_refused(pool) => PoolPhase::Failed,
        State::Requested => PoolPhase::Pending,
    }
}

fn in_api(lease: &Lease) -> Option<Bought> {
    lease.started_at.map(|_| Bought {
        cards: number(lease.size.cards),
        disk_per_card_gb: number(lease.size.disk_gb_per_card),
    })
}

fn expiry(lease: &Lease) -> Option<Timestamp> {
    match lease.state {
        State::Active { expires_at } => Some(expires_at),
        State::Expired { since, .. } => Some(since),
        State::Requested | State::Released { .. } | State::Ended { .. } => None,
    }
}

fn release(lease: &Lease) -> Option<Timestamp> {
    match lease.state {
        State::Expired { releases_at, .. } => Some(releases_at),
        State::Requested | State::Active { .. } | State::Released { .. } | State::Ended { .. } => None,
    }
}

fn shown(orders: &[Order], currency: &Currency) -> Vec<PoolOrder> {
    let first = orders.len().saturating_sub(ORDERS_SHOWN);
    let show = |it: &Order| PoolOrder {
        order: match it.purpose {
            Purpose::Initial | Purpose::Conversion => OrderKind::Initial,
            Purpose::Expansion { .. } => OrderKind::Expansion,
            Purpose::Manual { .. } => OrderKind::Manual,
            Purpose::Auto { .. } => OrderKind::Auto,
        },
        from: Time(it.period.start),
        to: Time(it.period.end),
        price: it.price.text(currency),
    };
    orders.iter().skip(first).map(show).collect()
}

fn paid(orders: &[Order], currency: &Currency) -> Option<Paid> {
    let sum = |of: fn(&Order) -> Money| Money(orders.iter().map(|it| of(it).0).sum()).text(currency);
    (!orders.is_empty()).then(|| Paid {
        cash: sum(|it| it.cash),
        voucher: sum(|it| it.voucher),
        currency: currency.code().to_owned(),
    })
}
