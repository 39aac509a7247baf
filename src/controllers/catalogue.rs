//! CardType, Tariff, SpotMarket, Account and Payment: Ready when valid and all that they name exists.
//!
//! Pure checks over the caches; `report` writes what they say.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{Resource, ResourceExt};
use rust_decimal::Decimal;

use super::facts::{self, Problem};
use super::money::{self, accounts};
use super::pool::number;
use super::{Context, Published, market, notify, spot, status};
use crate::api::account::AccountMode;
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::{
    Account, AccountStatus, CardType, CardTypeStatus, Payment, PaymentStatus, SpotMarket, SpotMarketStatus,
    Tariff, TariffStatus, names,
};
use crate::cluster::read::{Caches, ContractRef, Kind};
use crate::domain::money::Currency;
use crate::domain::units::{parse_milli, parse_whole};

/// What a thing says of which nothing is wrong.
const VALID: (Reason, &str) = (Reason::Valid, "valid, and all that it names exists");

/// Writes the status of the whole catalogue; only what differs. False when a write failed.
pub(super) async fn report(context: &Context) -> bool {
    let mut well = true;
    let published = context.published.borrow().clone();
    measure(context, &published);
    for it in context.caches.card_types.all() {
        let mut new = published.cards.get(&it.name_any()).cloned().unwrap_or_default();
        new.observed_generation = it.metadata.generation;
        new.conditions = conditions(
            context,
            &*it,
            it.status.as_ref().map(|it| &it.conditions),
            check_card_type(&published, &it).map(|()| VALID),
        );
        well &= write(context, &*it, it.status.as_ref(), &new, |it: &CardTypeStatus| &it.conditions).await;
    }
    for it in context.caches.tariffs.all() {
        let checked = check_tariff(&context.caches, &it).map(|()| VALID);
        let conditions = conditions(context, &*it, it.status.as_ref().map(|it| &it.conditions), checked);
        let new = TariffStatus { observed_generation: it.metadata.generation, conditions };
        well &= write(context, &*it, it.status.as_ref(), &new, |it: &TariffStatus| &it.conditions).await;
    }
    for it in context.caches.markets.all() {
        let new = market_status(context, &published, &it);
        well &= write(context, &*it, it.status.as_ref(), &new, |it: &SpotMarketStatus| &it.conditions).await;
    }
    // Payments first: the accounts then show them.
    let mut paid = false;
    // When the ledger is silent once, the others need not wait for it too.
    let mut silent: Option<Problem> = None;
    for it in context.caches.payments.all() {
        let counted = match &silent {
            Some(problem) => Err(problem.clone()),
            None => count_payment(context, &it).await,
        };
        silent = silent.or_else(|| counted.as_ref().err().filter(|it| is_silence(it)).cloned());
        paid |= counted.as_ref().is_ok_and(|it| *it);
        let conditions = conditions(
            context,
            &*it,
            it.status.as_ref().map(|it| &it.conditions),
            counted.map(|_| (Reason::Counted, "counted in the ledger")),
        );
        let new = PaymentStatus { observed_generation: it.metadata.generation, conditions };
        well &= write(context, &*it, it.status.as_ref(), &new, |it: &PaymentStatus| &it.conditions).await;
    }
    for it in context.caches.accounts.all() {
        let new = account_status(context, &it, &mut silent).await;
        well &= write(context, &*it, it.status.as_ref(), &new, |it: &AccountStatus| &it.conditions).await;
    }
    if paid {
        // What waited for money is looked at again, now that it is known how accounts stand.
        context.caches.changes.everything();
    }
    well
}

fn is_silence(problem: &Problem) -> bool {
    problem.reason == Reason::LedgerUnavailable
}

fn measure(context: &Context, published: &Published) {
    // Card types that are gone leave the metric.
    context.cards.reset();
    for (card_type, status) in &published.cards {
        let it = &status.cards;
        for (state, cards) in [
            ("total", it.total),
            ("resident", it.resident),
            ("dedicated", it.dedicated),
            ("spot", it.spot),
            ("shared", it.shared),
            ("held", it.held),
            ("faulty", it.faulty),
            ("free", it.free),
        ] {
            context.cards.with_label_values(&[card_type.as_str(), state]).set(i64::from(cards));
        }
    }
}

/// Writes a status and tells of it; false when that failed.
async fn write<K, S>(
    context: &Context,
    object: &K,
    old: Option<&S>,
    new: &S,
    of: fn(&S) -> &Vec<Condition>,
) -> bool
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    S: serde::Serialize,
{
    let written = status::write(context, object, old, new).await;
    if let Err(error) = &written {
        tracing::warn!(%error, name = object.name_any(), "status was not written");
    }
    let ready = of(new).iter().find(|it| it.type_ == "Ready");
    status::tell(context, object, old.map(|it| of(it).as_slice()), ready).await;
    written.is_ok()
}

fn conditions<K: Resource>(
    context: &Context,
    object: &K,
    before: Option<&Vec<Condition>>,
    checked: Result<(Reason, &str), Problem>,
) -> Vec<Condition> {
    let before = before.cloned().unwrap_or_default();
    let mut conditions = Conditions::new(&before, object.meta().generation, (context.now)());
    set_ready(&mut conditions, checked);
    conditions.done()
}

fn set_ready(conditions: &mut Conditions<'_>, checked: Result<(Reason, &str), Problem>) {
    match checked {
        Ok((reason, message)) => conditions.set(Type::Ready, Some(true), reason, message),
        Err(problem) => conditions.set(Type::Ready, Some(false), problem.reason, problem.message),
    };
}

fn invalid(message: impl Into<String>) -> Problem {
    Problem::new(Reason::Invalid, message)
}

fn amount(what: &str, text: &str) -> Result<Decimal, Problem> {
    text.parse().map_err(|_| invalid(format!("{what} `{text}` is not a number")))
}

fn check_card_type(published: &Published, it: &CardType) -> Result<(), Problem> {
    facts::per_card(it).map_err(|it| invalid(it.to_string()))?;
    if it.spec.resource_name.len() > 63 {
        return Err(invalid("resourceName has more than 63 characters: it must fit into a node's label"));
    }
    match published.conflicts.get(&it.name_any()) {
        None => Ok(()),
        Some(node) => {
            let message = format!(
                "node {node} is matched by another CardType too and belongs to neither: make the nodeSelectors exclude each other"
            );
            Err(Problem::new(Reason::Conflict, message))
        }
    }
}

fn check_tariff(caches: &Caches, it: &Tariff) -> Result<(), Problem> {
    let spec = &it.spec;
    let mut card_types: Vec<&str> = Vec::new();
    if let Some(part) = &spec.resident {
        amount("resident.diskPerGBMonth", &part.disk_per_gb_month)?;
        for price in &part.cards {
            amount("resident.cards.perMonth", &price.per_month)?;
            card_types.push(&price.card_type);
        }
    }
    if let Some(part) = &spec.dedicated {
        card_types.extend(part.machine_types.iter().map(|it| it.card_type.as_str()));
        for price in part.machine_types.iter().flat_map(|it| it.per_month.iter().chain(&it.per_hour)) {
            amount("dedicated.machineTypes price", price)?;
        }
    }
    if let Some(part) = &spec.serverless {
        for price in &part.cards {
            amount("serverless.cards.perSecond", &price.per_second)?;
            card_types.push(&price.card_type);
        }
    }
    if let Some(part) = &spec.spot {
        for machine in &part.machine_types {
            parse_milli(&machine.cpu.0).map_err(|it| invalid(it.to_string()))?;
            parse_whole(&machine.memory.0).map_err(|it| invalid(it.to_string()))?;
            card_types.push(&machine.card_type);
        }
    }
    for name in card_types {
        facts::card_type(caches, name)?;
    }
    let others = caches.tariffs.all();
    let twin = |same: &dyn Fn(&Tariff) -> bool| {
        others.iter().find(|other| other.name_any() != it.name_any() && same(other)).map(|it| it.name_any())
    };
    if let Some(other) = twin(&|other| other.spec.region == spec.region) {
        let message =
            format!("Tariff {other} is for region {} too; the first by name is used: keep one", spec.region);
        return Err(Problem::new(Reason::Conflict, message));
    }
    if let Some(other) = twin(&|other| spec.default && other.spec.default) {
        return Err(Problem::new(
            Reason::Conflict,
            format!("Tariff {other} is the default too; the first by name is used: keep one"),
        ));
    }
    Ok(())
}

fn market_status(context: &Context, published: &Published, it: &SpotMarket) -> SpotMarketStatus {
    let price = market::price(context, it);
    let checked = facts::card_type(&context.caches, &it.spec.card_type).map(drop).and(price.as_ref().map(drop).map_err(Clone::clone)).and_then(|()| {
        let others = context.caches.markets.all();
        let same = |other: &&std::sync::Arc<SpotMarket>| {
            other.name_any() != it.name_any() && other.spec.card_type == it.spec.card_type && other.spec.region == it.spec.region
        };
        match others.iter().find(same) {
            None => Ok(()),
            Some(other) => {
                let message = format!("SpotMarket {} is for the same card type and region; the first by name is used: keep one", other.name_any());
                Err(Problem::new(Reason::Conflict, message))
            }
        }
    });
    let type_of = |node: &str| {
        context.caches.nodes.get("", node).and_then(|it| it.labels().get(names::CARD_TYPE).cloned())
    };
    let runs = |(contract, outcome): &(&ContractRef, &crate::domain::allocate::Outcome)| {
        let here = outcome.holdings.first().and_then(|it| type_of(&it.node));
        contract.kind == Kind::Spot && here.as_ref() == Some(&it.spec.card_type)
    };
    let running: Vec<_> = published.outcomes.iter().filter(runs).map(|(contract, _)| contract).collect();
    let server = |it: &ContractRef| context.caches.spots.get(&it.namespace, &it.name);
    let noticed = running.iter().filter(|it| server(it).is_some_and(|it| spot::is_noticed(&it)));
    let whole = |it: usize| number(u32::try_from(it).unwrap_or(u32::MAX));
    let before = it.status.as_ref().map(|it| &it.conditions);
    let mut conditions = conditions(context, it, before, checked.map(|()| VALID));
    if it.spec.price.feed.is_some() {
        conditions.extend(price_current(context, it, price.as_ref().ok()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    }
    SpotMarketStatus {
        observed_generation: it.metadata.generation,
        since: price.as_ref().ok().map(|it| Time(it.since)),
        price: price.ok().map(|it| it.text),
        free_cards: published.cards.get(&it.spec.card_type).map_or(0, |it| it.cards.free),
        reclaiming: whole(noticed.count()),
        running: whole(running.len()),
        conditions,
    }
}

/// Is the price as new as its feed should make it? If not, the condition says since when.
fn price_current(context: &Context, it: &SpotMarket, price: Option<&market::Price>) -> Vec<Condition> {
    let before = it.status.as_ref().map(|it| it.conditions.clone()).unwrap_or_default();
    let mut conditions = Conditions::new(&before, it.metadata.generation, (context.now)());
    match (context.markets.failure(&it.name_any()), price) {
        (None, Some(price)) => {
            let message = format!("the feed is read; the price is {}", price.text);
            conditions.set(Type::PriceCurrent, Some(true), Reason::Valid, message)
        }
        (None, None) => {
            conditions.set(Type::PriceCurrent, None, Reason::Pending, "the feed has not been read yet")
        }
        (Some(failure), price) => {
            let holds = price.map_or_else(
                || "there is no price yet".to_owned(),
                |it| format!("the last price, {}, holds", it.text),
            );
            let since = failure.since.strftime("%Y-%m-%dT%H:%M:%SZ");
            let message = format!("the feed can't be read since {since}: {}; {holds}", failure.why);
            conditions.set(Type::PriceCurrent, Some(false), Reason::FeedFailed, message)
        }
    };
    conditions.done()
}

async fn account_status(context: &Context, it: &Account, silent: &mut Option<Problem>) -> AccountStatus {
    let before = it.status.clone().unwrap_or_default();
    let money = match (check_account(&context.caches, it), Currency::find(&it.spec.currency)) {
        (Ok(()), Some(currency)) => match (&silent, accounts::credit_limit(it, &currency)) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Err(problem)) => Err(problem),
            (None, Ok(_)) => match context.money.summary(it, (context.now)()).await {
                Ok(summary) => Ok((summary, currency)),
                Err(error) => Err(money::unavailable(&error)),
            },
        },
        (Ok(()), None) => Err(invalid(format!("`{}` is no currency of ISO 4217", it.spec.currency))),
        (Err(problem), _) => Err(problem),
    };
    if let Err(problem) = &money
        && is_silence(problem)
    {
        silent.get_or_insert_with(|| problem.clone());
    }
    let observed_generation = it.metadata.generation;
    let mut conditions = Conditions::new(&before.conditions, observed_generation, (context.now)());
    set_ready(&mut conditions, money.as_ref().map(|_| VALID).map_err(Clone::clone));
    notify::report(context, it, &mut conditions);
    let conditions = conditions.done();
    let Ok((summary, currency)) = money else {
        return AccountStatus { observed_generation, conditions, ..before };
    };
    let limit = accounts::credit_limit(it, &currency).unwrap_or_default();
    let is_known = summary.is_sure || context.money.arrears_since(&it.name_any()).is_some();
    let owes = accounts::in_arrears(it, &summary, limit) && is_known;
    context.money.tell_of_arrears(it, owes, (summary.balance, &currency), (context.now)());
    match context.money.note_arrears(&it.name_any(), owes, (context.now)()).await {
        // What is not prepaid ends, or goes on.
        Ok(true) => context.caches.changes.everything(),
        Ok(false) => (),
        Err(error) => {
            tracing::warn!(%error, account = it.name_any(), "its arrears were not written; it is tried again");
            context.money.note_change();
        }
    }
    AccountStatus {
        observed_generation,
        balance: (it.spec.mode == AccountMode::Prepaid).then(|| summary.balance.text(&currency)),
        arrears: owes,
        arrears_since: context.money.arrears_since(&it.name_any()).map(Time),
        this_month: Some(summary.this_month.text(&currency)),
        conditions,
    }
}

fn check_account(caches: &Caches, it: &Account) -> Result<(), Problem> {
    amount("creditLimit", &it.spec.credit_limit)?;
    it.spec.quotas.iter().try_for_each(|it| facts::card_type(caches, &it.card_type).map(drop))
}

/// Counts a payment; true when it was news.
async fn count_payment(context: &Context, it: &Payment) -> Result<bool, Problem> {
    let account = context.caches.accounts.get("", &it.spec.account).ok_or_else(|| {
        Problem::new(Reason::UnknownAccount, format!("the Account {} does not exist", it.spec.account))
    })?;
    context.money.count(it, &account, (context.now)()).await
}
