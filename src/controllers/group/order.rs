//! What a group buys: hold the prices, get the nodes, post; or void. Hours of machines, conversions, and what leaving returns. What
//! to buy next is decided in `domain::money`, the next step with the money in `step`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::life::{Arrears, Claimed, Machine, View, is_bound, keeps, name_of};
use super::offer::Offer;
use super::step::{Facts, Step, decide};
use super::{Found, record};
use crate::api::DedicatedGroup;
use crate::api::condition::Reason;
use crate::api::group::Billing;
use crate::cluster::read::Kind;
use crate::controllers::facts::Problem;
use crate::controllers::money::{self, Standing, machines, orders};
use crate::controllers::pool::is_leaving;
use crate::controllers::{Context, Error};
use crate::domain::allocate::Shortage;
use crate::domain::machines::Record;
use crate::domain::money::arrears::Keeps;
use crate::domain::money::machine::{Hour, Hourly, Stage};
use crate::domain::money::order::quote_hour;
use crate::domain::money::{Currency, Money, Order, Purpose, Reminder};
use crate::ledger::{self, ChargeIn, Measured, RefundIn, SpanRow, UsageIn};

/// Steps with the money in one pass; what is left comes in the next one, at once.
const STEPS_AT_ONCE: usize = 256;
/// Hours that are charged in one transaction: some thousands of rows.
const HOURS_AT_ONCE: usize = 500;
/// Hours of one machine that count as begun and not charged, at most: no machine is behind for longer while its account is looked at.
const HOURS_BEGUN: usize = 48;

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
    /// Since when the account is in arrears.
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
    let arrears = offer.and_then(|it| context.money.known_arrears(&it.account.name_any()));
    Ok(Known { view, arrears })
}

/// Buys, charges and ends what there is to, as far as there are machines and money.
pub(super) async fn advance(context: &Context, group: &DedicatedGroup, found: &Found) -> Ordered {
    let now = (context.now)();
    let uid = group.uid().unwrap_or_default();
    let failed = |problem: Problem| {
        let again = (problem.reason == Reason::LedgerUnavailable).then_some(orders::TRY_AGAIN);
        Ordered { problem: Some(problem), again, ..Ordered::default() }
    };
    let Some(mut standing) = context.money.standing(Some(&uid)) else {
        let is_bought = !found.record.placed().is_empty();
        let opened = orders::open(context, group, is_bought, "group", now).await;
        return opened.map_or_else(failed, |()| Ordered::default());
    };
    if context.money.is_doubtful(&uid) {
        match context.money.refresh(&standing).await {
            Ok(fresh) => standing = fresh,
            Err(error) => return failed(money::unavailable(&error)),
        }
    }
    let offer = found.input.as_ref().ok();
    let mut arrears = match look_at_account(context, offer, now).await {
        Ok(arrears) => arrears,
        Err(problem) => return failed(problem),
    };
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
        let done = match decided.step {
            Step::Nothing => break,
            Step::Hold { orders, what, skip } => {
                let Some(offer) = offer else { break };
                let held = context.money.hold(&standing, &orders, now).await;
                let missing = held.as_ref().err();
                let missing = missing.and_then(|it| orders::not_enough(it, &what, &orders, &offer.currency));
                if let Some(problem) = missing {
                    // The others may cost less, and need not wait for it.
                    ordered.problem.get_or_insert(problem);
                    ordered.again = Some(orders::TRY_AGAIN);
                    skipped.extend(skip);
                    continue;
                }
                held
            }
            Step::Post(ids) => context.money.post(&standing, &texts(&ids), now).await,
            Step::Void(ids) => context.money.void(&standing, &texts(&ids), now).await,
            Step::Note(measured) => context.money.note_uses(&standing, &measured, now).await,
            Step::Charge => charge(context, group, &standing, &view, now).await,
        };
        if let Err(error) = done {
            ordered.problem = Some(money::unavailable(&error));
            ordered.again = Some(orders::TRY_AGAIN);
            break;
        }
        steps += 1;
        // What is paid is another claim now.
        context.caches.changes.cards_changed.notify_one();
        match context.money.standing(Some(&uid)) {
            Some(now) => standing = now,
            None => break,
        }
    }
    if steps > 0 {
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

fn texts(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

/// Whether the account is in arrears, and since when. Who asks for machines hears when that has changed.
async fn look_at_account(
    context: &Context,
    offer: Option<&Offer>,
    now: Timestamp,
) -> Result<Arrears, Problem> {
    let Some(offer) = offer else { return Ok(None) };
    let before = context.money.known_arrears(&offer.account.name_any());
    let since = context.money.arrears_since(&offer.account, &offer.currency, now).await?;
    if before != Some(since) {
        context.caches.changes.cards_changed.notify_one();
    }
    Ok(Some(since))
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

/// Notes what its machines owe for hours that have begun.
fn note_begun(
    context: &Context,
    offer: Option<&Offer>,
    standing: &Standing,
    view: &View<'_>,
    now: Timestamp,
) {
    let Some(offer) = offer else { return };
    let mut sum = Money(0);
    for it in &view.machines {
        for (span, hourly) in it.part.spans().iter().zip(&it.uses) {
            for hour in hourly.begun(now, HOURS_BEGUN) {
                let cost = price(context, &span.begun.sku, span.begun.units, hour, &offer.currency);
                sum = Money(sum.0.saturating_add(cost.map_or(0, |it| it.0.0)));
            }
        }
    }
    let account = offer.account.name_any();
    context.money.note_begun(&standing.contract.id, &account, offer.currency.code(), sum.0);
}

/// What an hour costs, and at which prices.
fn price(
    context: &Context,
    sku: &str,
    disk_gb: i64,
    hour: Hour,
    currency: &Currency,
) -> Option<(Money, machines::HourPrice)> {
    let mut parts = sku.split('/').skip(1);
    let (region, machine_type) = (parts.next()?, parts.next()?);
    let (prices, texts) = context.money.hour_price(region, machine_type, hour.start)?;
    let per_hour = prices.hour(u32::try_from(disk_gb).unwrap_or(0), hour.start)?;
    Some((quote_hour(&per_hour, hour.seconds, currency).ok()?, texts))
}

/// Charges hours that are over: how far uses are charged moves in the same transaction.
async fn charge(
    context: &Context,
    group: &DedicatedGroup,
    standing: &Standing,
    view: &View<'_>,
    now: Timestamp,
) -> Result<(), ledger::Error> {
    let mut usage = UsageIn::default();
    let mut open = Vec::new();
    for it in &view.machines {
        for (span, hourly) in it.part.spans().iter().zip(&it.uses) {
            let due = hourly.due(now, HOURS_AT_ONCE.saturating_sub(usage.charges.len()));
            if due.billed == hourly.billed {
                continue;
            }
            let Some(currency) = Currency::find(&span.begun.currency) else { continue };
            let lines = due.hours.iter().map(|hour| {
                let price = price(context, &span.begun.sku, span.begun.units, *hour, &currency);
                line(group, standing, &it.name, span, *hour, price?)
            });
            let Some(lines) = lines.collect::<Option<Vec<ChargeIn>>>() else {
                tracing::error!(span = span.begun.id, "an hour can't be charged: it has no price");
                continue;
            };
            usage.charges.extend(lines);
            usage.billed.push((span.begun.id.clone(), due.billed.as_millisecond()));
            if hourly.end.is_none() {
                open.push(span.begun.id.clone());
            }
        }
    }
    if usage.billed.is_empty() {
        return Err(ledger::Error::Invalid {
            field: "hours",
            value: standing.contract.id.clone(),
            reason: "have no price: the tariff's prices of the machine type can't be read",
        });
    }
    if !open.is_empty() {
        // What is charged is known to have lasted.
        let confirmed = Some((now.as_second() * 1_000, open));
        context.money.note_uses(standing, &Measured { confirmed, ..Measured::default() }, now).await?;
    }
    context.money.charge_hours(standing, &usage, now).await
}

/// A machine's hour, as a line of the bill.
fn line(
    group: &DedicatedGroup,
    standing: &Standing,
    machine: &str,
    span: &SpanRow,
    hour: Hour,
    (amount, prices): (Money, machines::HourPrice),
) -> Option<ChargeIn> {
    let object = format!("DedicatedGroup/{}/{}", group.namespace()?, group.name_any());
    let detail = serde_json::json!({
        "object": object,
        "machine": machine,
        "machineType": prices.machine_type,
        "region": prices.region,
        "from": hour.start,
        "seconds": hour.seconds,
        "systemDiskGB": span.begun.units,
        "perHour": prices.per_hour,
        "diskPerGBMonth": prices.disk_per_gb_month,
        "includedDiskGB": prices.included_disk_gb,
    });
    Some(ChargeIn {
        id: format!("{}/machine/{machine}/hour/{}", standing.contract.id, hour.start),
        contract: standing.contract.id.clone(),
        account: span.begun.account.clone(),
        currency: span.begun.currency.clone(),
        amount: amount.0,
        detail: detail.to_string(),
    })
}

/// Settles machines that end and are empty: their hours end, and what is prepaid is paid back. Only then they go back.
pub(super) async fn give_back(context: &Context, group: &DedicatedGroup, found: &Found) -> Result<(), Error> {
    let now = (context.now)();
    let Some(standing) = context.money.standing(group.metadata.uid.as_deref()) else { return Ok(()) };
    let nodes: BTreeSet<String> = found.nodes.keys().cloned().collect();
    let Ok(view) = View::of(group, &standing, &found.record, &nodes, now) else { return Ok(()) };
    let is_over = keeps(found.ordered.arrears, now) == Keeps::Nothing;
    let mut measured = Measured::default();
    let mut refunds = Vec::new();
    for it in &view.machines {
        let is_empty =
            !nodes.contains(&it.name) || found.drains.get(&it.name).is_some_and(|it| it.remaining == 0);
        if !is_empty {
            continue;
        }
        match (it.stage, it.open_use(), it.part.open_span()) {
            (Stage::Hourly, Some(open), Some(span)) if !it.is_live || is_over => {
                measured.ended.push((span.begun.id.clone(), open.ends(now).as_millisecond()));
            }
            (Stage::Term { .. }, ..) if !it.is_live => {
                for paid in it.paid.iter().filter(|it| it.refunded.is_none()) {
                    refunds.push(orders::refund_of(&standing, paid, now, !is_bound(paid))?);
                }
            }
            (_, _, _) => (),
        }
    }
    if measured.is_empty() && refunds.is_empty() {
        return Ok(());
    }
    if !measured.is_empty() {
        context.money.note_uses(&standing, &measured, now).await.map_err(Error::Ledger)?;
    }
    if !refunds.is_empty() {
        context.money.refund(&standing, &refunds, now).await.map_err(Error::Ledger)?;
    }
    let (namespace, name) = name_of(group);
    context.caches.changes.contract_after_cards(Kind::Group, &namespace, &name);
    Ok(())
}

/// Pays back what the owner has not used, and closes the contract: once, as of the moment in which the group was deleted.
pub(super) async fn settle(context: &Context, group: &DedicatedGroup) -> Result<(), Error> {
    let uid = group.uid().unwrap_or_default();
    let Some(standing) = context.money.standing(Some(&uid)) else {
        let said = group.status.iter().flat_map(|it| &it.machines).any(|it| it.expires_at.is_some());
        let is_settled = !said || context.money.is_closed(&uid).await.map_err(Error::Ledger)?;
        let why = "the ledger knows nothing of what this group has bought, so it can't be refunded";
        return if is_settled { Ok(()) } else { Err(Error::Amount(why.to_owned())) };
    };
    // Nothing may be left behind that is not known here.
    let mut standing = context.money.refresh(&standing).await.map_err(Error::Ledger)?;
    let left_at = group
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or_else(context.now, |it| (context.on_our_clock)(it.0));
    let now = (context.now)();
    let record = record::read(&context.caches, group);
    let look = |it: &Standing| -> Result<Vec<RefundIn>, Error> {
        let view = View::of(group, it, &record, &BTreeSet::new(), left_at);
        let view = view.map_err(|it| Error::Amount(it.message))?;
        let paid = view.machines.iter().flat_map(|it| &it.paid).filter(|it| it.refunded.is_none());
        // What is bound till its end returns nothing: the policy refuses to delete such a group, but with its namespace it goes.
        paid.map(|paid| orders::refund_of(it, paid, left_at, !is_bound(paid))).collect()
    };
    let held: Vec<String> = standing.machines().filter_map(|(_, it)| Some(it.held()?.id)).collect();
    if !held.is_empty() {
        context.money.void(&standing, &texts(&held), now).await.map_err(Error::Ledger)?;
        standing = context.money.refresh(&standing).await.map_err(Error::Ledger)?;
    }
    standing = end_all(context, group, standing, &record, left_at, now).await?;
    let refunds = look(&standing)?;
    context.money.close(&standing, &refunds, now).await.map_err(Error::Ledger)
}

/// Ends all uses by the hour, and charges what is left of them.
async fn end_all(
    context: &Context,
    group: &DedicatedGroup,
    mut standing: Arc<Standing>,
    record: &Record,
    left_at: Timestamp,
    now: Timestamp,
) -> Result<Arc<Standing>, Error> {
    let nodes = BTreeSet::new();
    let uid = group.uid().unwrap_or_default();
    loop {
        let view = View::of(group, &standing, record, &nodes, now).map_err(|it| Error::Amount(it.message))?;
        let open = |it: &Machine<'_>| {
            let (open, span) = (it.open_use()?, it.part.open_span()?);
            let end = it.converted_at().unwrap_or_else(|| open.ends(left_at));
            Some((span.begun.id.clone(), end.as_millisecond()))
        };
        let ended: Vec<(String, i64)> = view.machines.iter().filter_map(open).collect();
        if !ended.is_empty() {
            let measured = Measured { ended, ..Measured::default() };
            context.money.note_uses(&standing, &measured, now).await.map_err(Error::Ledger)?;
        } else if view.machines.iter().flat_map(|it| &it.uses).any(|it| is_due(it, now)) {
            charge(context, group, &standing, &view, now).await.map_err(Error::Ledger)?;
        } else {
            return Ok(standing);
        }
        let fresh = context.money.standing(Some(&uid));
        standing = fresh.ok_or_else(|| Error::Amount("the contract is closed".to_owned()))?;
    }
}

/// Is an hour of it over and not charged?
pub(super) fn is_due(it: &Hourly, now: Timestamp) -> bool {
    it.due(now, 1).billed > it.billed
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
