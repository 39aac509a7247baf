//! The next step with a group's money: a function of what the ledger, the allocator and the spec say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kube::ResourceExt;

use super::Found;
use super::hours::is_due;
use super::life::{Claimed, Machine, View, names_of};
use super::offer::{Offer, SetOffer};
use super::order::{is_funded, may_buy, order_id};
use crate::api::condition::Reason;
use crate::api::group::Billing;
use crate::api::{DedicatedGroup, names};
use crate::controllers::Context;
use crate::controllers::facts::Problem;
use crate::controllers::money::machines::{Arrears, sku};
use crate::controllers::money::{Detail, Held, List, MachineBought, Standing, What, orders};
use crate::domain::allocate::{Outcome, Shortage};
use crate::domain::money::calendar::whole_second;
use crate::domain::money::machine::Stage;
use crate::domain::money::price::charged_months;
use crate::domain::money::{Order, Purpose};
use crate::ledger::{Measured, OrderIn, SpanIn};

/// What is known when a step is decided.
pub(super) struct Facts<'a> {
    pub(super) context: &'a Context,
    pub(super) group: &'a DedicatedGroup,
    pub(super) found: &'a Found,
    /// `None` when nothing can be bought.
    pub(super) offer: Option<&'a Offer>,
    pub(super) standing: &'a Standing,
    /// Machines that have a node.
    pub(super) nodes: &'a BTreeSet<String>,
    pub(super) arrears: Arrears,
    pub(super) now: Timestamp,
}

/// The next step.
pub(super) enum Step {
    Nothing,
    /// `what` costs so much; without the money these machines are left out for this pass.
    Hold {
        orders: Vec<OrderIn>,
        what: String,
        skip: Vec<String>,
    },
    Post(Vec<String>),
    Void(Vec<String>),
    /// Prices, uses that begin, uses that end.
    Note(Measured),
    /// Hours are over.
    Charge,
}

/// The next step, and why others are not taken.
pub(super) struct Decided {
    pub(super) step: Step,
    pub(super) problem: Option<Problem>,
    pub(super) short: Option<Shortage>,
    pub(super) no_node: Vec<String>,
}

/// What the allocator said to just this claim.
struct Answer<'a>(Option<&'a Outcome>);

impl Answer<'_> {
    fn in_place(&self, machine: &str) -> bool {
        self.0.is_some_and(|it| {
            it.holdings.iter().any(|it| it.machine.as_deref() == Some(machine) && it.in_place)
        })
    }

    fn all_in_place(&self, machines: &[String]) -> bool {
        machines.iter().all(|it| self.in_place(it))
    }

    fn shortage(&self) -> Option<&Shortage> {
        self.0.and_then(|it| it.shortage.as_ref())
    }

    fn has_no_node(&self, machine: &str) -> bool {
        self.0.is_some_and(|it| it.no_node.iter().any(|it| it == machine))
    }
}

/// Decides. First what is held is posted or given up, so that hours are charged up to a conversion and not beyond; then hours end
/// and are charged; then what there is to buy.
pub(super) fn decide(
    facts: &Facts<'_>,
    view: &View<'_>,
    claimed: &Claimed,
    skipped: &BTreeSet<String>,
) -> Decided {
    let version = claimed.version(facts.group);
    let answer = Answer(facts.found.outcome.as_ref().filter(|it| it.version == version));
    let mut decided = Decided { step: Step::Nothing, problem: None, short: None, no_node: Vec::new() };
    decided.step = of_held(facts, view, claimed, &answer)
        .or_else(|| of_uses(facts, view))
        .or_else(|| begins(facts, view, claimed, &answer))
        .or_else(|| buys(facts, view, claimed, &answer, skipped, &mut decided))
        .unwrap_or(Step::Nothing);
    decided
}

/// Orders that are held: those that nobody wants any more, or whose machines somebody else took; then those that are fulfilled.
fn of_held(facts: &Facts<'_>, view: &View<'_>, claimed: &Claimed, answer: &Answer<'_>) -> Option<Step> {
    let is_lost = claimed.ordered.iter().any(|it| !answer.in_place(it)) && answer.shortage().is_some();
    let is_over = |it: &Machine<'_>, held: &Held| {
        let payer = |offer: &Offer| {
            offer.account.name_any() == held.account && offer.currency.code() == held.currency
        };
        let next = facts.offer.filter(|it| payer(it) && may_buy(facts.group));
        let next = next.and_then(|offer| it.next(facts.group, offer, facts.now).ok().flatten());
        let is_wanted = next.is_some_and(|it| it.purpose == held.purpose && it.months == held.months);
        let is_taken = match it.stage {
            Stage::New => is_lost,
            Stage::Expired { .. } => answer.has_no_node(&it.name),
            Stage::Term { .. } | Stage::Hourly | Stage::Away | Stage::Over { .. } => false,
        };
        !is_wanted || is_taken
    };
    let is_fulfilled = |it: &Machine<'_>| match it.stage {
        Stage::New => claimed.paid && answer.all_in_place(&claimed.ordered),
        Stage::Expired { .. } => answer.in_place(&it.name),
        Stage::Term { .. } | Stage::Hourly => true,
        Stage::Away | Stage::Over { .. } => false,
    };
    let held: Vec<(&Machine<'_>, &Held)> =
        view.machines.iter().filter_map(|it| Some((it, it.held.as_ref()?))).collect();
    let over: Vec<String> =
        held.iter().filter(|(it, held)| is_over(it, held)).map(|(_, it)| it.id.clone()).collect();
    if !over.is_empty() {
        return Some(Step::Void(over));
    }
    let done: Vec<String> =
        held.iter().filter(|(it, _)| is_fulfilled(it)).map(|(_, it)| it.id.clone()).collect();
    (!done.is_empty()).then_some(Step::Post(done))
}

/// Prices that begin; uses that end because of a conversion, a lost node or another payer; hours that are over.
fn of_uses(facts: &Facts<'_>, view: &View<'_>) -> Option<Step> {
    let mut measured = Measured::default();
    if let Some(offer) = facts.offer {
        let by_hour = |name: &str| {
            let of_set = |it: &&Machine<'_>| it.set.is_some_and(|it| it.name == name);
            view.machines.iter().filter(of_set).any(|it| {
                it.billing() == Billing::Postpaid || matches!(it.stage, Stage::Hourly | Stage::Away)
            })
        };
        for (_, set) in offer.sets.iter().filter(|(name, _)| by_hour(name)) {
            let new = set.per_hour.iter().flat_map(|it| facts.context.money.new_prices(it, facts.now));
            for price in new {
                if !measured.prices.iter().any(|it| it.sku == price.sku) {
                    measured.prices.push(price);
                }
            }
        }
    }
    for it in &view.machines {
        let (Some(open), Some(span)) = (it.open_use(), it.part.open_span()) else { continue };
        if let Some(at) = it.converted_at() {
            measured.ended.push((span.begun.id.clone(), at.as_millisecond()));
        } else if !facts.nodes.contains(&it.name) {
            measured.ended.push((span.begun.id.clone(), open.ends_unseen(facts.now).as_millisecond()));
        } else if let Some(offer) = facts.offer
            && (offer.account.name_any() != span.begun.account
                || offer.currency.code() != span.begun.currency)
            && !is_due(open, facts.now)
        {
            // From the hour that is not charged yet somebody else pays.
            measured.ended.push((span.begun.id.clone(), open.billed.as_millisecond()));
            let from_ms = open.billed.as_millisecond();
            measured.begun.push(SpanIn {
                id: span_id(facts, it, open.billed, offer),
                account: offer.account.name_any(),
                currency: offer.currency.code().to_owned(),
                from_ms,
                ..span.begun.clone()
            });
        }
    }
    if !measured.is_empty() {
        return Some(Step::Note(measured));
    }
    let due = view.machines.iter().flat_map(|it| &it.uses).any(|it| is_due(it, facts.now));
    due.then_some(Step::Charge)
}

fn span_id(facts: &Facts<'_>, machine: &Machine<'_>, from: Timestamp, offer: &Offer) -> String {
    let contract = &facts.standing.contract.id;
    format!("{contract}/machine/{}/use/{from}/{}", machine.name, offer.account.name_any())
}

/// Machines that begin to be paid by the hour: those of an order that is in place, those that are back, and those whose term has ended
/// and that stay.
fn begins(facts: &Facts<'_>, view: &View<'_>, claimed: &Claimed, answer: &Answer<'_>) -> Option<Step> {
    let offer = facts.offer.filter(|_| may_buy(facts.group))?;
    let mut measured = Measured::default();
    for it in view.live().filter(|it| it.held.is_none()) {
        let (Some(set), true) = (it.set, facts.nodes.contains(&it.name)) else { continue };
        let now = whole_second(facts.now).max(it.free_from().unwrap_or(Timestamp::MIN));
        let is_in_place = || answer.in_place(&it.name);
        let returns = || claimed.returning.get(&it.name) == Some(&true);
        let from = match it.stage {
            Stage::New if it.billing() == Billing::Postpaid => {
                (claimed.paid && answer.all_in_place(&claimed.ordered)).then_some(now)
            }
            Stage::Expired { since, .. } if it.by_the_hour() && !is_emptied(facts, &it.name) => {
                returns().then_some(since)
            }
            Stage::Expired { .. } if it.by_the_hour() => (returns() && is_in_place()).then_some(now),
            Stage::Away => (returns() && is_in_place()).then_some(now),
            Stage::New | Stage::Expired { .. } | Stage::Term { .. } | Stage::Hourly | Stage::Over { .. } => {
                None
            }
        };
        let known = offer.sets.get(&set.name).and_then(|it| it.per_hour.as_ref());
        if let (Some(from), Some(price)) = (from, known) {
            measured.begun.push(SpanIn {
                id: span_id(facts, it, from, offer),
                contract: facts.standing.contract.id.clone(),
                account: offer.account.name_any(),
                currency: offer.currency.code().to_owned(),
                sku: sku(&price.region, &price.machine_type),
                units: i64::from(set.system_disk_gb),
                from_ms: from.as_millisecond(),
            });
        }
    }
    (!measured.is_empty()).then_some(Step::Note(measured))
}

/// Did we empty it because its term has ended? Then it did not stay.
fn is_emptied(facts: &Facts<'_>, machine: &str) -> bool {
    let node = facts.found.nodes.get(machine);
    node.is_some_and(|it| it.annotations().contains_key(names::DRAINED_FOR))
        && !facts.group.spec.drain.iter().any(|it| it == machine)
}

/// The next order: renewals and conversions of what runs; then what comes back; then what was never there, all of it or nothing.
fn buys(
    facts: &Facts<'_>,
    view: &View<'_>,
    claimed: &Claimed,
    answer: &Answer<'_>,
    skipped: &BTreeSet<String>,
    decided: &mut Decided,
) -> Option<Step> {
    let offer = facts.offer.filter(|_| may_buy(facts.group))?;
    let can = |it: &&Machine<'_>| it.held.is_none() && !skipped.contains(&it.name);
    for it in view.live().filter(can) {
        let problem = refused(it);
        if let Some(problem) = problem {
            decided.problem.get_or_insert(problem);
            continue;
        }
        let needs_node = match it.stage {
            Stage::Term { .. } | Stage::Hourly => false,
            Stage::Expired { .. } => true,
            Stage::New | Stage::Away | Stage::Over { .. } => continue,
        };
        let order = match it.next(facts.group, offer, facts.now) {
            Ok(Some(order)) => order,
            Ok(None) => continue,
            Err(problem) => {
                decided.problem.get_or_insert(problem);
                continue;
            }
        };
        if needs_node && answer.has_no_node(&it.name) {
            decided.no_node.push(it.name.clone());
        } else if !needs_node || answer.0.is_some() {
            let what = format!("{} of machine {}", order.purpose.id(), it.name);
            match order_in(facts, offer, it, &order) {
                Ok(order) => {
                    return Some(Step::Hold { orders: vec![order], what, skip: vec![it.name.clone()] });
                }
                Err(problem) => drop(decided.problem.get_or_insert(problem)),
            }
        }
    }
    // Those that come back by the hour.
    let away = |it: &&String| answer.has_no_node(it) && !decided.no_node.contains(*it);
    let more: Vec<String> = claimed.returning.keys().filter(away).cloned().collect();
    decided.no_node.extend(more);
    buys_new(facts, offer, view, claimed, answer, skipped, decided)
}

/// The order of all machines that were never there.
fn buys_new(
    facts: &Facts<'_>,
    offer: &Offer,
    view: &View<'_>,
    claimed: &Claimed,
    answer: &Answer<'_>,
    skipped: &BTreeSet<String>,
    decided: &mut Decided,
) -> Option<Step> {
    if claimed.ordered.is_empty() {
        return None;
    }
    let new: Vec<&Machine<'_>> =
        view.live().filter(|it| it.stage == Stage::New && claimed.ordered.contains(&it.name)).collect();
    let by_hour = new.iter().any(|it| it.billing() == Billing::Postpaid);
    if by_hour && let Some(since) = facts.arrears.since() {
        let message = format!(
            "Account {} is in arrears since {since}: no machine by the hour is begun before that is paid",
            offer.account.name_any()
        );
        decided.problem.get_or_insert(Problem::new(Reason::Arrears, message));
        return None;
    }
    if let Some(shortage) = answer.shortage() {
        let comes = matches!(shortage, Shortage::Reclaiming { .. });
        if comes && !is_funded(facts.context, facts.group, view, offer, facts.arrears, facts.now) {
            let message = format!(
                "spot servers have machines for it, and are told to give them back when it is paid for: add a Payment to Account {}",
                offer.account.name_any()
            );
            decided.problem.get_or_insert(Problem::new(Reason::InsufficientFunds, message));
            return None;
        }
        decided.short = Some(shortage.clone());
        return None;
    }
    let missing: Vec<&Machine<'_>> = new
        .into_iter()
        .filter(|it| it.held.is_none() && it.billing() == Billing::Prepaid && !skipped.contains(&it.name))
        .collect();
    // Money is held when the allocator has said that the machines are there.
    if missing.is_empty() || answer.0.is_none() {
        return None;
    }
    let order = |it: &&Machine<'_>| {
        let order = it.next(facts.group, offer, facts.now)?;
        order.map(|order| order_in(facts, offer, it, &order)).transpose()
    };
    match missing.iter().map(order).collect::<Result<Vec<_>, Problem>>() {
        Ok(orders) => {
            let orders: Vec<OrderIn> = orders.into_iter().flatten().collect();
            let names = names_of(missing.iter().map(|it| it.name.as_str()));
            let what = format!("initial of machines {names}");
            let skip = missing.iter().map(|it| it.name.clone()).collect();
            (!orders.is_empty()).then_some(Step::Hold { orders, what, skip })
        }
        Err(problem) => {
            decided.problem.get_or_insert(problem);
            None
        }
    }
}

/// Why nothing is ordered for a machine, whatever its owner wants.
fn refused(machine: &Machine<'_>) -> Option<Problem> {
    if let Some((list, listed, bought)) = machine.lacks_renewals() {
        let message = format!(
            "{list} of set {} has {listed} entries for machine {}, and {bought} are bought: what is appended counts only after those; list them again first",
            machine.set.map_or("", |it| it.name.as_str()),
            machine.name
        );
        return Some(Problem::new(Reason::Invalid, message));
    }
    if machine.stage == Stage::Hourly && machine.billing() == Billing::Prepaid && !machine.is_charged() {
        let message = format!(
            "machine {} is converted to Prepaid when an hour of it is charged: its first hour is not over yet",
            machine.name
        );
        return Some(Problem::new(Reason::NoHourCharged, message));
    }
    None
}

fn order_in(
    facts: &Facts<'_>,
    offer: &Offer,
    machine: &Machine<'_>,
    order: &Order,
) -> Result<OrderIn, Problem> {
    let set = machine.set.and_then(|it| offer.sets.get(&it.name));
    let no_price = || Problem::new(Reason::NoPrice, format!("machine {} has no price", machine.name));
    let set = set.ok_or_else(no_price)?;
    let detail = detail(offer, set, machine, order).ok_or_else(no_price)?;
    let (account, currency) = (offer.account.name_any(), offer.currency.code());
    Ok(OrderIn {
        id: order_id(facts.standing, &machine.name, order, machine.conversions()),
        contract: facts.standing.contract.id.clone(),
        accrued: facts.context.money.accrued(&account, currency).0.max(0),
        account,
        currency: currency.to_owned(),
        price: order.price.0,
        least: orders::least(&offer.account, &offer.currency)?,
        detail: serde_json::to_string(&detail).unwrap_or_default(),
    })
}

fn detail(offer: &Offer, set: &SetOffer, machine: &Machine<'_>, order: &Order) -> Option<Detail> {
    let is_first = matches!(order.purpose, Purpose::Initial | Purpose::Conversion);
    let is_manual = matches!(order.purpose, Purpose::Manual { .. });
    // What begins when its node is there has no dates yet.
    let is_dated = matches!(machine.stage, Stage::Term { .. } | Stage::Hourly);
    let before_it = u32::try_from(machine.older_renewals).unwrap_or(u32::MAX);
    let list: Option<List> = machine.next_list().filter(|_| is_manual);
    Some(Detail {
        purpose: order.purpose.id(),
        months: order.months,
        what: What::Machine(MachineBought {
            machine: machine.name.clone(),
            machine_type: set.machine_type.clone(),
            card_type: set.card_type.clone(),
            cards: set.cards,
            system_disk_gb: set.system_disk_gb,
            per_month: set.per_month.as_ref()?.0.clone(),
            disk_per_gb_month: set.disk_per_gb_month.clone(),
            included_disk_gb: set.included_disk_gb,
            charged_months: charged_months(order.months, &offer.long_terms),
            bound: offer.bound,
            list,
            older_renewals: is_first.then_some(before_it),
        }),
        region: offer.region.clone(),
        retention_days: offer.retention_days,
        early_days: offer.early_days,
        early_factor: offer.early_factor.clone(),
        from: is_dated.then_some(order.period.start),
        to: is_dated.then_some(order.period.end),
    })
}
