//! What a group buys: hold the prices, get the nodes, post; or void. What to buy next is decided in `domain::money`, the next step
//! with the money in `step`; `hours` charges, `leave` settles what goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::Found;
use super::hours::{charge, note_begun};
use super::life::{Claimed, Machine, View};
use super::offer::Offer;
use super::step::{Facts, Step, decide};
use crate::api::DedicatedGroup;
use crate::api::condition::Reason;
use crate::api::group::Billing;
use crate::controllers::Context;
use crate::controllers::facts::Problem;
use crate::controllers::money::machines::Arrears;
use crate::controllers::money::{self, Standing, orders};
use crate::controllers::pool::is_leaving;
use crate::domain::allocate::Shortage;
use crate::domain::machines::Record;
use crate::domain::money::machine::Stage;
use crate::domain::money::{Order, Purpose, Reminder};
use crate::ledger;

/// Steps with the money in one pass; what is left comes in the next one, at once.
const STEPS_AT_ONCE: usize = 256;
/// What a pass over the money came to.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// How each machine stands; `None` when the ledger has not said.
    pub(super) machines: Option<BTreeMap<String, Stands>>,
    /// Until when machines are bound by their term, and so the group.
    pub(super) bound: BTreeMap<String, Timestamp>,
    /// Machines that nothing brings back.
    pub(super) over: BTreeSet<String>,
    /// Machines that are emptied because nothing is paid for them, and since when.
    pub(super) ending: BTreeMap<String, Timestamp>,
    /// Why something that is wanted is not bought, other than that there are no machines.
    pub(super) problem: Option<Problem>,
    /// Why there are no machines for the order.
    pub(super) short: Option<Shortage>,
    /// Machines that would come back and find no node.
    pub(super) no_node: Vec<String>,
    /// Is the account in arrears?
    pub(super) arrears: Arrears,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// How a machine stands with its money.
#[derive(Debug, Clone)]
pub(super) struct Stands {
    pub(super) stage: Stage,
    pub(super) billing: Billing,
    /// When its term ends or has ended.
    pub(super) expires_at: Option<Timestamp>,
    pub(super) reminder: Option<Reminder>,
    /// Is an order of it held?
    pub(super) is_held: bool,
    pub(super) is_live: bool,
}

/// What the allocator and others need to know of a group between passes.
pub(super) struct Known<'a> {
    pub(super) view: View<'a>,
    pub(super) arrears: Arrears,
}

/// How a group's machines stand, by what is known now; `None` when the ledger knows no contract of it.
pub(super) fn known<'a>(
    context: &Context,
    group: &'a DedicatedGroup,
    standing: &'a Standing,
    record: &Record,
    nodes: &BTreeSet<String>,
    offer: Option<&Offer>,
) -> Result<Known<'a>, Problem> {
    if context.money.is_doubtful(group.metadata.uid.as_deref().unwrap_or_default()) {
        let message = "the ledger has not said yet whether the last write came through";
        return Err(Problem::new(Reason::LedgerUnavailable, message));
    }
    let view = View::checked(group, standing, record, nodes, (context.now)())?;
    let arrears = offer.map(|it| context.money.known_arrears(&it.account.name_any())).unwrap_or_default();
    Ok(Known { view, arrears })
}

/// Buys, charges and ends what there is to, as far as there are machines and money.
pub(super) async fn advance(context: &Context, group: &DedicatedGroup, found: &Found) -> Ordered {
    let now = (context.now)();
    let standing = match standing(context, group, found, now).await {
        Ok(Some(standing)) => standing,
        Ok(None) => return Ordered::default(),
        Err(problem) => return failed(problem),
    };
    let offer = found.input.as_ref().ok();
    match look_at_account(context, offer, now).await {
        Ok(arrears) => advance_from(context, group, found, standing, arrears, now).await,
        Err(problem) => failed(problem),
    }
}

fn failed(problem: Problem) -> Ordered {
    let again = (problem.reason == Reason::LedgerUnavailable).then_some(orders::TRY_AGAIN);
    Ordered { problem: Some(problem), again, ..Ordered::default() }
}

/// The group's contract as the ledger has it; `None` when it was opened just now, or is not to be.
async fn standing(
    context: &Context,
    group: &DedicatedGroup,
    found: &Found,
    now: Timestamp,
) -> Result<Option<Arc<Standing>>, Problem> {
    let uid = group.uid().unwrap_or_default();
    let Some(standing) = context.money.standing(Some(&uid)) else {
        let is_bought = !found.record.placed().is_empty();
        return orders::open(context, group, is_bought, "group", now).await.map(|()| None);
    };
    if !context.money.is_doubtful(&uid) {
        return Ok(Some(standing));
    }
    let fresh = context.money.refresh(&standing).await;
    fresh.map(Some).map_err(|it| money::unavailable(&it))
}

/// Takes one step after the other.
async fn advance_from(
    context: &Context,
    group: &DedicatedGroup,
    found: &Found,
    mut standing: Arc<Standing>,
    mut arrears: Arrears,
    now: Timestamp,
) -> Ordered {
    let offer = found.input.as_ref().ok();
    let nodes: BTreeSet<String> = found.nodes.keys().cloned().collect();
    let mut ordered = Ordered::default();
    let mut skipped: BTreeSet<String> = BTreeSet::new();
    let mut steps = 0;
    while steps < STEPS_AT_ONCE {
        let view = match View::checked(group, &standing, &found.record, &nodes, now) {
            Ok(view) => view,
            Err(problem) => return failed(problem),
        };
        let claimed = view.claimed(group, offer, &nodes, arrears, now);
        let facts = Facts { context, group, found, offer, standing: &standing, nodes: &nodes, arrears, now };
        let decided = decide(&facts, &view, &claimed, &skipped);
        ordered.short = decided.short;
        ordered.no_node = decided.no_node;
        if let Some(problem) = decided.problem {
            ordered.problem.get_or_insert(problem);
        }
        match take(&facts, &view, decided.step).await {
            Taken::Nothing => break,
            Taken::Done => (),
            Taken::Missing(problem, skip) => {
                // The others may cost less, and need not wait for it.
                ordered.problem.get_or_insert(problem);
                ordered.again = Some(orders::TRY_AGAIN);
                skipped.extend(skip);
                continue;
            }
            Taken::Failed(error) => {
                ordered.problem = Some(money::unavailable(&error));
                ordered.again = Some(orders::TRY_AGAIN);
                break;
            }
        }
        steps += 1;
        // What is paid is another claim now.
        context.caches.changes.cards_changed.notify_one();
        match context.money.standing(group.metadata.uid.as_deref()) {
            Some(now) => standing = now,
            None => break,
        }
    }
    if steps > 0 {
        // What was charged a moment ago is no more an hour that has only begun.
        if let Ok(view) = View::of(group, &standing, &found.record, &nodes, now) {
            note_begun(context, offer, &standing, &view, now);
        }
        arrears = look_at_account(context, offer, now).await.unwrap_or(arrears);
    }
    if let Ok(view) = View::of(group, &standing, &found.record, &nodes, now) {
        note_begun(context, offer, &standing, &view, now);
        let claimed = view.claimed(group, offer, &nodes, arrears, now);
        sum_up(&mut ordered, &view, &claimed, arrears, now);
    }
    if steps == STEPS_AT_ONCE {
        ordered.again = Some(Duration::from_millis(1));
    }
    ordered
}

/// How a step went.
enum Taken {
    Nothing,
    Done,
    /// The money for it is missing; without these machines the others are looked at.
    Missing(Problem, Vec<String>),
    Failed(ledger::Error),
}

async fn take(facts: &Facts<'_>, view: &View<'_>, step: Step) -> Taken {
    let (money, standing, now) = (&facts.context.money, facts.standing, facts.now);
    let done = match step {
        Step::Nothing => return Taken::Nothing,
        Step::Hold { orders, what, skip } => {
            let held = money.hold(standing, &orders, now).await;
            let missing = held.as_ref().err().zip(facts.offer);
            let missing =
                missing.and_then(|(it, offer)| orders::not_enough(it, &what, &orders, &offer.currency));
            if let Some(problem) = missing {
                return Taken::Missing(problem, skip);
            }
            held
        }
        Step::Post(ids) => money.post(standing, &texts(&ids), now).await,
        Step::Void(ids) => money.void(standing, &texts(&ids), now).await,
        Step::Note(measured) => money.note_uses(standing, &measured, now).await,
        Step::Charge => charge(facts.context, facts.group, standing, view, now).await,
    };
    done.map_or_else(Taken::Failed, |()| Taken::Done)
}

fn texts(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

/// Whether the account is in arrears, and since when. Who asks for machines hears when that has changed.
async fn look_at_account(
    context: &Context,
    offer: Option<&Offer>,
    now: Timestamp,
) -> Result<Arrears, Problem> {
    let Some(offer) = offer else { return Ok(Arrears::Unknown) };
    let before = context.money.known_arrears(&offer.account.name_any());
    let arrears = context.money.arrears(&offer.account, &offer.currency, now).await?;
    if before != arrears {
        context.caches.changes.cards_changed.notify_one();
    }
    Ok(arrears)
}

/// What the report tells of it.
fn sum_up(ordered: &mut Ordered, view: &View<'_>, claimed: &Claimed, arrears: Arrears, now: Timestamp) {
    let stands = |it: &Machine<'_>| {
        let last = it.paid.iter().map(|it| it.order.period.end).max();
        let stands = Stands {
            stage: it.stage,
            billing: match it.stage {
                Stage::Hourly | Stage::Away => Billing::Postpaid,
                Stage::Term { .. } | Stage::Expired { .. } | Stage::Over { .. } => Billing::Prepaid,
                Stage::New => it.billing(),
            },
            expires_at: match it.stage {
                Stage::Term { expires_at } => Some(expires_at),
                Stage::Expired { since, .. } => Some(since),
                Stage::Over { .. } => last,
                Stage::New | Stage::Hourly | Stage::Away => None,
            },
            reminder: match it.stage {
                // What goes on by the hour does not expire.
                Stage::Term { .. } if it.billing() == Billing::Postpaid => None,
                Stage::Term { .. } | Stage::Expired { .. } => it.lease.reminder(now),
                Stage::New | Stage::Hourly | Stage::Away | Stage::Over { .. } => None,
            },
            is_held: it.held.is_some(),
            is_live: it.is_live,
        };
        (it.name.clone(), stands)
    };
    ordered.machines = Some(view.machines.iter().map(stands).collect());
    ordered.bound = view.bound(now);
    ordered.over = view.over();
    ordered.ending = view.ending(claimed, arrears, now);
    ordered.arrears = arrears;
    let next = view.look_again(arrears, now).map(|it| {
        let wait = Duration::try_from(it.duration_since(now)).unwrap_or_default();
        wait.max(Duration::from_millis(1))
    });
    ordered.again = ordered.again.into_iter().chain(next).min();
}

/// The id of a machine's order. A machine that is converted once more has the number of the conversions before.
pub(super) fn order_id(standing: &Standing, machine: &str, order: &Order, conversions: usize) -> String {
    let id = format!("{}/machine/{machine}/{}", standing.contract.id, order.purpose.id());
    match order.purpose {
        Purpose::Conversion if conversions > 0 => format!("{id}/{conversions}"),
        Purpose::Initial
        | Purpose::Expansion { .. }
        | Purpose::Manual { .. }
        | Purpose::Auto { .. }
        | Purpose::Conversion => id,
    }
}

/// Is the group one that nothing is to be decided about any more?
pub(super) fn may_buy(group: &DedicatedGroup) -> bool {
    !is_leaving(group)
}

/// Is there as much on the account as the order of all machines that were never there costs, as far as is known? The hold has the last
/// word. By the hour none is begun in arrears.
pub(super) fn is_funded(
    context: &Context,
    group: &DedicatedGroup,
    view: &View<'_>,
    offer: &Offer,
    arrears: Arrears,
    now: Timestamp,
) -> bool {
    let new = || view.live().filter(|it| it.stage == Stage::New && it.held.is_none());
    if new().any(|it| it.billing() == Billing::Postpaid) && arrears != Arrears::Clear {
        return false;
    }
    let mut price = 0_i64;
    for it in new() {
        match it.next(group, offer, now) {
            Ok(order) => price = price.saturating_add(order.map_or(0, |it| it.price.0)),
            Err(_) => return false,
        }
    }
    match orders::least(&offer.account, &offer.currency) {
        Ok(None) => true,
        Ok(Some(least)) => {
            let has = context.money.last_balance(&offer.account);
            has.is_some_and(|it| it.0.saturating_sub(price) >= least)
        }
        Err(_) => false,
    }
}
