//! What a pool buys: hold its price, lock its cards, post it; or void it. What to buy next is decided in `domain::money`.

use jiff::Timestamp;
use kube::ResourceExt;
use std::sync::Arc;
use std::time::Duration;

use super::{bought_in_status, count, generation, is_leaving, is_refused};
use crate::api::condition::Reason;
use crate::api::tariff::{ExpiredCards, ResidentTariff};
use crate::api::{Account, ResidentPool, Tariff};
use crate::controllers::facts::Problem;
use crate::controllers::money::orders::{self, TRY_AGAIN};
use crate::controllers::money::{self, Detail, Held, PoolBought, Standing, What};
use crate::controllers::{Context, Error};
use crate::domain::allocate::{Outcome, Shortage};
use crate::domain::money::refund::RefundRule;
use crate::domain::money::want::{look_again, next_order};
use crate::domain::money::{
    Currency, Exact, Lease, Next, Order, PoolPrices, PoolSize, Purpose, State, Wanted,
};
use crate::ledger::{self, OrderIn};

/// Orders made in one pass: the first term, each renewal that a manifest may list, an expansion and one more.
pub(super) const ORDERS_AT_ONCE: usize = 124;

/// How a pool stands: what it is worth to its owner now.
#[derive(Debug, Clone, Default)]
pub(super) struct Bought {
    pub(super) lease: Lease,
    /// Paid orders, the first one first.
    pub(super) orders: Vec<Order>,
    pub(super) held: Option<Held>,
    /// Are its cards kept for it when it has expired?
    keeps_cards: bool,
    /// Of its orders.
    pub(super) currency: Option<Currency>,
}

/// What a pass over the orders came to.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// Is it known what is bought?
    pub(super) is_known: bool,
    pub(super) bought: Bought,
    /// Why something that is wanted is not bought, other than that there are no cards.
    pub(super) problem: Option<Problem>,
    /// The order that waits for money.
    pub(super) unpaid: Option<Purpose>,
    /// Why there are no cards for the next order.
    pub(super) short: Option<Shortage>,
    /// Is that order one that may be refused? A renewal waits, whatever the spec says.
    pub(super) may_refuse: bool,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// Who pays, and what it costs.
pub(super) struct Offer {
    pub(super) account: Arc<Account>,
    pub(super) tariff: Arc<Tariff>,
    pub(super) currency: Currency,
    pub(super) prices: PoolPrices,
    card_per_month: String,
    disk_per_gb_month: String,
    pub(super) retention_days: u32,
    refund: RefundRule,
    early_factor: String,
    keeps_cards: bool,
}

impl Offer {
    /// The offer of a tariff for a card type.
    pub(super) fn new(account: Arc<Account>, tariff: Arc<Tariff>, card_type: &str) -> Result<Offer, Problem> {
        let invalid = |it: String| Problem::new(Reason::Invalid, it);
        let card = |it: &ResidentTariff| {
            it.cards.iter().find(|it| it.card_type == card_type).map(|it| it.per_month.clone())
        };
        let Some((resident, card_per_month)) =
            tariff.spec.resident.as_ref().and_then(|it| Some((it, card(it)?)))
        else {
            let message =
                format!("Tariff {} has no resident price for card type {card_type}", tariff.name_any());
            return Err(Problem::new(Reason::NoPrice, message));
        };
        let disk_per_gb_month = resident.disk_per_gb_month.clone();
        let currency = Currency::find(&tariff.spec.currency)
            .ok_or_else(|| invalid(format!("`{}` is no currency of ISO 4217", tariff.spec.currency)))?;
        let exact = |text: &str| Exact::parse(text).map_err(|it| invalid(it.to_string()));
        let (early_days, early_factor) = match &resident.refund {
            Some(rule) => (count(rule.early_days), rule.early_factor.clone()),
            None => (30, "1.2".to_owned()),
        };
        let refund = RefundRule { early_days, early_factor: exact(&early_factor)? };
        let retention_days = count(resident.retention_days);
        let keeps_cards = resident.expired == ExpiredCards::Hold;
        let prices =
            PoolPrices { card_month: exact(&card_per_month)?, disk_gb_month: exact(&disk_per_gb_month)? };
        Ok(Offer {
            account,
            tariff,
            currency,
            prices,
            card_per_month,
            disk_per_gb_month,
            retention_days,
            refund,
            early_factor,
            keeps_cards,
        })
    }
}

/// What the pool has bought; `None` when the ledger knows no contract of it.
pub(super) fn bought(context: &Context, pool: &ResidentPool) -> Option<Result<Bought, Problem>> {
    let uid = pool.metadata.uid.as_deref()?;
    let standing = context.money.standing(Some(uid))?;
    if context.money.is_doubtful(uid) {
        let message = "the ledger has not said yet whether the last write came through";
        return Some(Err(Problem::new(Reason::LedgerUnavailable, message)));
    }
    Some(look(pool, &standing, (context.now)()))
}

fn look(pool: &ResidentPool, standing: &Standing, now: Timestamp) -> Result<Bought, Problem> {
    let mismatch = |why: String| {
        let message = format!(
            "{why}: was another ledger configured, or an old backup restored? What the pool has stays; nothing is bought until that is mended"
        );
        Problem::new(Reason::LedgerMismatch, message)
    };
    let replayed = standing.pool().lease(now);
    let (lease, orders) =
        replayed.map_err(|it| mismatch(format!("the orders in the ledger don't fit together ({it})")))?;
    // The ledger is written before the status: that the status says more can't be.
    if let Some(said) = bought_in_status(pool) {
        let says_more = count(said.cards) > lease.size.cards
            || count(said.disk_per_card_gb) > lease.size.disk_gb_per_card
            || count(pool.status.as_ref().map_or(0, |it| it.renewals_bought)) > lease.renewals_bought;
        if says_more {
            return Err(mismatch("the pool says that more is bought than the ledger knows of".to_owned()));
        }
    }
    let keeps_cards = standing.pool().keeps_cards().unwrap_or_default();
    let currency = standing.pool().currency().and_then(Currency::find);
    Ok(Bought { lease, orders, held: standing.pool().held(), keeps_cards, currency })
}

/// Cards and disk, as the spec asks.
fn asked(pool: &ResidentPool, lease: &Lease) -> PoolSize {
    // What is bought never shrinks, also when only the other one of both grows.
    PoolSize {
        cards: count(pool.spec.cards).max(lease.size.cards),
        disk_gb_per_card: count(pool.spec.disk_per_card_gb).max(lease.size.disk_gb_per_card),
    }
}

/// What its owner wants. A refused order is no more wanted; what is bought is renewed all the same.
pub(super) fn wanted(pool: &ResidentPool, lease: &Lease) -> Wanted {
    let auto_renew = pool.spec.auto_renew.filter(|it| it.enabled);
    Wanted {
        size: if is_refused(pool) { lease.size } else { asked(pool, lease) },
        term_months: count(pool.spec.term.months),
        renewals: pool.spec.renewals.iter().map(|it| count(it.months)).collect(),
        auto_renew_months: auto_renew.map(|it| count(it.months)),
    }
}

/// How many cards must be locked before the order is posted; 0 when they are, or none are needed.
fn needs_cards(purpose: &Purpose, size: PoolSize, lease: &Lease) -> u32 {
    match (purpose, lease.state) {
        // More disk alone.
        (Purpose::Expansion { .. }, _) if size.cards == lease.size.cards => 0,
        (Purpose::Initial | Purpose::Conversion | Purpose::Expansion { .. }, _)
        | (Purpose::Manual { .. } | Purpose::Auto { .. }, State::Expired { .. }) => size.cards,
        (
            Purpose::Manual { .. } | Purpose::Auto { .. },
            State::Requested | State::Active { .. } | State::Released { .. } | State::Ended { .. },
        ) => 0,
    }
}

/// What the pool claims of the allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) cards: u32,
    pub(super) bought: u32,
    pub(super) paid: bool,
}

/// Cards that are the pool's, and those that it wants. `may_buy`: all that a purchase needs is there.
pub(super) fn claimed(pool: &ResidentPool, bought: &Bought, may_buy: bool) -> Claimed {
    let lease = &bought.lease;
    let own = match lease.state {
        State::Active { .. } => lease.size.cards,
        State::Expired { .. } if bought.keeps_cards => lease.size.cards,
        State::Requested | State::Expired { .. } | State::Released { .. } | State::Ended { .. } => 0,
    };
    if let Some(held) = &bought.held {
        let needed = needs_cards(&held.purpose, held.size, lease);
        return Claimed { cards: needed.max(own), bought: own, paid: true };
    }
    let next = match lease.state {
        State::Requested | State::Active { .. } => wanted(pool, lease).size.cards,
        // It comes back by a renewal that is not bought yet.
        State::Expired { .. }
            if pool.spec.renewals.len() > usize::try_from(lease.renewals_bought).unwrap_or(0) =>
        {
            lease.size.cards
        }
        State::Expired { .. } | State::Released { .. } | State::Ended { .. } => own,
    };
    Claimed { cards: if may_buy { next.max(own) } else { own }, bought: own, paid: false }
}

/// From what a claim was made: the answer to it names it.
pub(super) fn version(pool: &ResidentPool, claimed: Claimed) -> String {
    let Claimed { cards, bought, paid } = claimed;
    format!("{}/{cards}/{bought}/{paid}", generation(pool))
}

/// Buys what is wanted, as far as there are cards and money.
pub(super) async fn advance(
    context: &Context,
    pool: &ResidentPool,
    offer: Result<&Offer, &Problem>,
    outcome: Option<&Outcome>,
) -> Result<Ordered, Error> {
    let now = (context.now)();
    let uid = pool.uid().unwrap_or_default();
    let Some(mut standing) = context.money.standing(Some(&uid)) else {
        return Ok(open(context, pool, now).await);
    };
    if context.money.is_doubtful(&uid) {
        match context.money.refresh(&standing).await {
            Ok(fresh) => standing = fresh,
            Err(error) => {
                let problem = Some(money::unavailable(&error));
                return Ok(Ordered { problem, again: Some(TRY_AGAIN), ..Ordered::default() });
            }
        }
    }
    let mut ordered = Ordered::default();
    for _ in 0..ORDERS_AT_ONCE {
        ordered.bought = match look(pool, &standing, now) {
            Ok(bought) => bought,
            Err(problem) => return Ok(Ordered { problem: Some(problem), ..Ordered::default() }),
        };
        ordered.is_known = true;
        let step = decide(pool, &ordered.bought, offer, outcome, now);
        let done = match step {
            Step::Nothing => break,
            Step::Short(shortage, purpose) => {
                let comes = matches!(shortage, Shortage::Reclaiming { .. });
                if let (true, Ok(offer)) = (comes, offer)
                    && !is_funded(context, pool, &ordered.bought, offer, now)
                {
                    // For who can't pay nobody is told to go.
                    ordered.problem = Some(unfunded(context, pool, &ordered.bought, offer, now));
                    ordered.again = Some(TRY_AGAIN);
                    break;
                }
                ordered.short = Some(shortage);
                // What spot servers give back is waited for.
                ordered.may_refuse =
                    !comes && matches!(purpose, Purpose::Initial | Purpose::Expansion { .. });
                break;
            }
            Step::Problem(problem) => {
                ordered.problem = Some(problem);
                break;
            }
            Step::Hold(order) => {
                let Ok(offer) = offer else { break };
                match hold(context, pool, &standing, offer, &ordered.bought.lease, &order, now).await {
                    Ok(done) => done,
                    Err(problem) => {
                        ordered.unpaid =
                            (problem.reason == Reason::InsufficientFunds).then(|| order.purpose.clone());
                        ordered.problem = Some(problem);
                        ordered.again = Some(TRY_AGAIN);
                        break;
                    }
                }
            }
            Step::Post(order) => context.money.post(&standing, &[&order], now).await,
            Step::Void(order) => context.money.void(&standing, &[&order], now).await,
        };
        if let Err(error) = done {
            ordered.problem = Some(money::unavailable(&error));
            ordered.again = Some(TRY_AGAIN);
            break;
        }
        // What is paid is another claim now.
        context.caches.changes.cards_changed.notify_one();
        match context.money.standing(Some(&uid)) {
            Some(now) => standing = now,
            None => break,
        }
    }
    let next = look_again(&wanted(pool, &ordered.bought.lease), &ordered.bought.lease, now);
    let until = next.map(|it| Duration::try_from(it.duration_since(now)).unwrap_or_default());
    ordered.again = ordered.again.into_iter().chain(until.map(|it| it.max(Duration::from_millis(1)))).min();
    Ok(ordered)
}

/// What its next order costs.
fn next_price(
    pool: &ResidentPool,
    bought: &Bought,
    offer: &Offer,
    now: Timestamp,
) -> Option<crate::domain::money::Money> {
    let lease = &bought.lease;
    match next_order(&wanted(pool, lease), lease, &offer.prices, now, &offer.currency) {
        Ok(Next::Order(order)) => Some(order.price),
        Ok(Next::Nothing) | Err(_) => None,
    }
}

/// Is there as much on the account as its next order costs, as far as is known? The hold has the last word.
pub(super) fn is_funded(
    context: &Context,
    pool: &ResidentPool,
    bought: &Bought,
    offer: &Offer,
    now: Timestamp,
) -> bool {
    let Some(price) = next_price(pool, bought, offer, now) else { return false };
    match orders::least(&offer.account, &offer.currency) {
        Ok(None) => true,
        Ok(Some(least)) => {
            let has = context.money.last_balance(&offer.account);
            has.and_then(|it| it.checked_sub(price)).is_some_and(|left| left.0 >= least)
        }
        Err(_) => false,
    }
}

/// What its owner reads when spot servers would give it cards, and there is no money for them.
fn unfunded(
    context: &Context,
    pool: &ResidentPool,
    bought: &Bought,
    offer: &Offer,
    now: Timestamp,
) -> Problem {
    let price = next_price(pool, bought, offer, now).unwrap_or_default();
    let message = format!(
        "the order costs {} {currency} and Account {} has {} {currency}: spot servers have cards for it, and are told to give them back when it is paid for; add a Payment",
        price.text(&offer.currency),
        offer.account.name_any(),
        context.money.last_balance(&offer.account).unwrap_or_default().text(&offer.currency),
        currency = offer.currency.code(),
    );
    Problem::new(Reason::InsufficientFunds, message)
}

/// Opens the pool's contract, before it claims any card.
async fn open(context: &Context, pool: &ResidentPool, now: Timestamp) -> Ordered {
    match orders::open(context, pool, bought_in_status(pool).is_some(), "pool", now).await {
        Ok(()) => Ordered::default(),
        Err(problem) => {
            let again = (problem.reason == Reason::LedgerUnavailable).then_some(TRY_AGAIN);
            Ordered { problem: Some(problem), again, ..Ordered::default() }
        }
    }
}

/// The next step with the money.
#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    /// There are no cards for this order.
    Short(Shortage, Purpose),
    Problem(Problem),
    Hold(Order),
    Post(String),
    Void(String),
}

fn decide(
    pool: &ResidentPool,
    bought: &Bought,
    offer: Result<&Offer, &Problem>,
    outcome: Option<&Outcome>,
    now: Timestamp,
) -> Step {
    let lease = &bought.lease;
    let may_buy = offer.is_ok() && !is_leaving(pool);
    let is_over = lease.state == State::Requested && is_refused(pool);
    let next = match offer {
        Ok(offer) if may_buy && !is_over => {
            match next_order(&wanted(pool, lease), lease, &offer.prices, now, &offer.currency) {
                Ok(Next::Order(order)) => Some(order),
                Ok(Next::Nothing) => None,
                Err(error) => return Step::Problem(Problem::new(Reason::Invalid, error.to_string())),
            }
        }
        Ok(_) | Err(_) => None,
    };
    let claimed = claimed(pool, bought, may_buy);
    let answer = outcome.filter(|it| it.version == version(pool, claimed));
    let locked = answer.map_or(0, Outcome::cards_in_place);
    if let Some(held) = &bought.held {
        let needed = needs_cards(&held.purpose, held.size, lease);
        let same =
            |it: &Order| it.purpose == held.purpose && it.months == held.months && it.size == held.size;
        let payer = |it: &Offer| it.account.name_any() == held.account && it.currency.code() == held.currency;
        let is_wanted = next.as_ref().is_some_and(same) && offer.is_ok_and(payer);
        // Somebody else took the cards, or it is not wanted any more.
        return if !is_wanted || answer.is_some_and(|it| it.shortage.is_some() && locked < needed) {
            Step::Void(held.id.clone())
        } else if locked >= needed {
            Step::Post(held.id.clone())
        } else {
            Step::Nothing
        };
    }
    let listed = u32::try_from(pool.spec.renewals.len()).unwrap_or(u32::MAX);
    if listed < lease.renewals_bought && offer.is_ok() {
        let message = format!(
            "spec.renewals has {listed} entries, and {} are bought: what is appended counts only after those; list them again first",
            lease.renewals_bought
        );
        return Step::Problem(Problem::new(Reason::Invalid, message));
    }
    let Some(order) = next else { return Step::Nothing };
    let needed = needs_cards(&order.purpose, order.size, lease);
    // Money is held when the allocator has said that the cards are there.
    match answer.map(|it| &it.shortage) {
        _ if needed == 0 => Step::Hold(order),
        Some(None) => Step::Hold(order),
        Some(Some(shortage)) => Step::Short(shortage.clone(), order.purpose),
        None => Step::Nothing,
    }
}

async fn hold(
    context: &Context,
    pool: &ResidentPool,
    standing: &Standing,
    offer: &Offer,
    lease: &Lease,
    order: &Order,
    now: Timestamp,
) -> Result<Result<(), ledger::Error>, Problem> {
    // What begins when its cards are locked has no dates yet.
    let is_dated = needs_cards(&order.purpose, order.size, lease) == 0
        || matches!(order.purpose, Purpose::Expansion { .. });
    let detail = Detail {
        purpose: order.purpose.id(),
        months: order.months,
        what: What::Pool(PoolBought {
            card_type: pool.spec.card_type.clone(),
            cards: order.size.cards,
            disk_per_card_gb: order.size.disk_gb_per_card,
            card_per_month: offer.card_per_month.clone(),
            disk_per_gb_month: offer.disk_per_gb_month.clone(),
            keeps_cards: offer.keeps_cards,
        }),
        region: offer.tariff.spec.region.clone(),
        retention_days: offer.retention_days,
        early_days: offer.refund.early_days,
        early_factor: offer.early_factor.clone(),
        from: is_dated.then_some(order.period.start),
        to: is_dated.then_some(order.period.end),
    };
    let (account, currency) = (offer.account.name_any(), offer.currency.code());
    let wanted = OrderIn {
        id: order_id(standing, &order.purpose),
        contract: standing.contract.id.clone(),
        accrued: context.money.accrued(&account, currency).0.max(0),
        account,
        currency: currency.to_owned(),
        price: order.price.0,
        least: orders::least(&offer.account, &offer.currency)?,
        detail: serde_json::to_string(&detail).unwrap_or_default(),
    };
    let held = context.money.hold(standing, std::slice::from_ref(&wanted), now).await;
    let missing = |it: &ledger::Error| {
        orders::not_enough(it, &order.purpose.id(), std::slice::from_ref(&wanted), &offer.currency)
    };
    match held.as_ref().err().and_then(missing) {
        Some(problem) => Err(problem),
        None => Ok(held),
    }
}

fn order_id(standing: &Standing, purpose: &Purpose) -> String {
    format!("{}/{}", standing.contract.id, purpose.id())
}

/// Pays back what the owner has not used, and closes the contract: once, as of the moment in which the pool was deleted.
pub(super) async fn settle(context: &Context, pool: &ResidentPool) -> Result<(), Error> {
    let uid = pool.uid().unwrap_or_default();
    let Some(standing) = context.money.standing(Some(&uid)) else {
        let is_settled =
            bought_in_status(pool).is_none() || context.money.is_closed(&uid).await.map_err(Error::Ledger)?;
        let why = "the ledger knows nothing of what this pool has bought, so it can't be refunded";
        return if is_settled { Ok(()) } else { Err(Error::Amount(why.to_owned())) };
    };
    // Nothing may be left behind that is not known here.
    let standing = context.money.refresh(&standing).await.map_err(Error::Ledger)?;
    let left_at =
        pool.metadata.deletion_timestamp.as_ref().map_or_else(context.now, |it| (context.on_our_clock)(it.0));
    let now = (context.now)();
    if let Some(held) = standing.pool().held() {
        context.money.void(&standing, &[&held.id], now).await.map_err(Error::Ledger)?;
    }
    let (_, paid) = standing.pool().life(left_at).map_err(|it| Error::Amount(it.to_string()))?;
    let refunds = paid
        .iter()
        .map(|it| orders::refund_of(&standing, it, left_at, true))
        .collect::<Result<Vec<_>, _>>()?;
    context.money.close(&standing, &refunds, now).await.map_err(Error::Ledger)
}
