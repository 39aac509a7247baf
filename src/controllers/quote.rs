//! What applying manifests would cost now: bought at once, and by use. Computed by what the operator buys with, from the ledger as it
//! is; nothing is written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use rust_decimal::Decimal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::facts::{self, Problem};
use super::money::Standing;
use super::pool::count;
use super::{Context, pool};
use crate::api::condition::Reason;
use crate::api::group::{Billing, MachineSet, Usage};
use crate::api::tariff::DedicatedTariff;
use crate::api::{DedicatedGroup, ResidentPool, ServerlessEndpoint, SpotServer};
use crate::domain::money::order::{quote_hour, quote_term};
use crate::domain::money::price::charged_months;
use crate::domain::money::{Currency, Exact, LongTerm, MachinePrices, Money, Order};
use crate::ledger::Ledger;

/// A contract as its owner would apply it.
#[derive(Debug, Clone)]
pub enum Document {
    /// A ResidentPool.
    Pool(Box<ResidentPool>),
    /// A DedicatedGroup.
    Group(Box<DedicatedGroup>),
    /// A SpotServer.
    Spot(Box<SpotServer>),
    /// A ServerlessEndpoint.
    Endpoint(Box<ServerlessEndpoint>),
}

/// What a manifest would cost.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quote {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who would pay.
    pub account: String,
    /// In which currency.
    pub currency: String,
    /// What would be bought at once.
    pub orders: Vec<QuotedOrder>,
    /// What is paid by use, and what machines cost.
    pub rates: Vec<Rate>,
    /// The sum of the orders.
    pub total: String,
    /// The same, in the smallest unit.
    #[serde(skip)]
    pub total_minor: i64,
}

/// An order that would be made.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuotedOrder {
    /// `initial`, `expand/8 cards/40 GB`, `renewal/manual/3`, `renewal/auto/<old expiry>`.
    pub order: String,
    /// Calendar months; 0 for an expansion.
    pub months: u32,
    /// When it would begin.
    pub from: Timestamp,
    /// When it would end.
    pub to: Timestamp,
    /// Cards afterwards.
    pub cards: u32,
    /// Disk per card afterwards, GB.
    #[serde(rename = "diskPerCardGB")]
    pub disk_per_card_gb: u32,
    /// What it costs.
    pub price: String,
}

/// A price of something that is not part of the total.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Of what.
    pub what: String,
    /// For what time: `second`, `hour`, `month`, `term`.
    pub per: &'static str,
    /// Months of a term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub months: Option<u32>,
    /// How much.
    pub price: String,
}

/// Why a document has no quote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what its kind asks for.
    #[error("{0}")]
    Invalid(String),
    /// It could not be served.
    #[error("{0}: {1}")]
    Problem(String, String),
    /// The ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] crate::ledger::Error),
}

impl Document {
    /// Reads a manifest. `None`: it is of no kind that is paid for. Without a namespace it is in `namespace`.
    pub fn parse(mut manifest: Value, namespace: &str) -> Result<Option<Document>, Error> {
        let text = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        if kind.is_empty() || version.is_empty() {
            return Err(Error::Invalid(
                "a manifest without apiVersion or kind: write both, as for kubectl apply".to_owned(),
            ));
        }
        let paid_for = ["ResidentPool", "DedicatedGroup", "SpotServer", "ServerlessEndpoint"];
        if !version.starts_with("tenure.dev/") || !paid_for.contains(&kind.as_str()) {
            return Ok(None);
        }
        if name.is_empty() {
            return Err(Error::Invalid(format!("a {kind} without metadata.name: give it one")));
        }
        if text("/metadata/namespace").is_empty()
            && let Some(meta) = manifest.get_mut("metadata").and_then(Value::as_object_mut)
        {
            meta.insert("namespace".to_owned(), Value::String(namespace.to_owned()));
        }
        // What is there already is the ledger's to say.
        if let Some(object) = manifest.as_object_mut() {
            object.remove("status");
        }
        let what = format!("{kind} {name}");
        Ok(Some(match kind.as_str() {
            "ResidentPool" => Document::Pool(read(&what, manifest)?),
            "DedicatedGroup" => Document::Group(read(&what, manifest)?),
            "SpotServer" => Document::Spot(read(&what, manifest)?),
            _ => Document::Endpoint(read(&what, manifest)?),
        }))
    }

    /// Its kind, and the name of its resource.
    pub fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Document::Pool(_) => ("ResidentPool", "residentpools"),
            Document::Group(_) => ("DedicatedGroup", "dedicatedgroups"),
            Document::Spot(_) => ("SpotServer", "spotservers"),
            Document::Endpoint(_) => ("ServerlessEndpoint", "serverlessendpoints"),
        }
    }

    /// Its namespace and name.
    pub fn name(&self) -> (String, String) {
        let of = |meta: &kube::core::ObjectMeta| {
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        match self {
            Document::Pool(it) => of(&it.metadata),
            Document::Group(it) => of(&it.metadata),
            Document::Spot(it) => of(&it.metadata),
            Document::Endpoint(it) => of(&it.metadata),
        }
    }
}

fn read<K: DeserializeOwned>(what: &str, manifest: Value) -> Result<Box<K>, Error> {
    serde_json::from_value(manifest).map(Box::new).map_err(|it| Error::Invalid(format!("{what}: {it}")))
}

/// What applying a document would cost now.
pub async fn quote(context: &Context, ledger: &Ledger, document: &Document) -> Result<Quote, Error> {
    let now = (context.now)();
    let (namespace, name) = document.name();
    let problem =
        |it: Problem| Error::Problem(format!("{} {namespace}/{name}", document.kind().0), it.message);
    let (account, currency, orders, rates) = match document {
        Document::Pool(pool) => {
            let there = context.caches.pools.get(&namespace, &name);
            let contract = match there.as_ref().and_then(|it| it.metadata.uid.as_deref()) {
                Some(uid) => ledger.contract_of(uid).await?.filter(|it| it.closed_at_ms.is_none()),
                None => None,
            };
            let standing = match contract {
                Some(contract) => Some(Standing::read(ledger, contract).await?),
                None => None,
            };
            let mut pool = pool.clone();
            pool.metadata.deletion_timestamp = there.and_then(|it| it.metadata.deletion_timestamp.clone());
            let quoted =
                pool::quote::quote(&context.caches, &pool, standing.as_ref(), now).map_err(problem)?;
            (quoted.account, quoted.currency, quoted.orders, Vec::new())
        }
        Document::Group(group) => {
            let (account, currency, rates) = group_rates(context, group, now).map_err(problem)?;
            (account, currency, Vec::new(), rates)
        }
        Document::Spot(server) => {
            let (account, currency, rates) = spot_rates(context, server).map_err(problem)?;
            (account, currency, Vec::new(), rates)
        }
        Document::Endpoint(endpoint) => {
            let (account, currency, rates) = endpoint_rates(context, endpoint).map_err(problem)?;
            (account, currency, Vec::new(), rates)
        }
    };
    let sum = orders.iter().try_fold(Money(0), |sum, it| sum.checked_add(it.price));
    let total =
        sum.ok_or_else(|| Error::Invalid(format!("{name}: the orders cost more than can be posted")))?;
    Ok(Quote {
        kind: document.kind().0.to_owned(),
        namespace,
        name,
        account,
        currency: currency.code().to_owned(),
        orders: orders.iter().map(|it| quoted(it, &currency)).collect(),
        rates,
        total: total.text(&currency),
        total_minor: total.0,
    })
}

fn quoted(order: &Order, currency: &Currency) -> QuotedOrder {
    QuotedOrder {
        order: order.purpose.id(),
        months: order.months,
        from: order.period.start,
        to: order.period.end,
        cards: order.size.cards,
        disk_per_card_gb: order.size.disk_gb_per_card,
        price: order.price.text(currency),
    }
}

type Rated = (String, Currency, Vec<Rate>);

fn payer(
    context: &Context,
    namespace: Option<String>,
    region: &str,
) -> Result<(String, Currency, std::sync::Arc<crate::api::Tariff>), Problem> {
    let (account, tariff) = facts::payer(&context.caches, &namespace.unwrap_or_default(), region)?;
    let currency = Currency::find(&tariff.spec.currency)
        .ok_or_else(|| invalid(format!("`{}` is no currency of ISO 4217", tariff.spec.currency)))?;
    Ok((account.name_any(), currency, tariff))
}

/// What each machine of a group costs, by set.
fn group_rates(context: &Context, group: &DedicatedGroup, now: Timestamp) -> Result<Rated, Problem> {
    let (account, currency, tariff) = payer(context, group.namespace(), &group.spec.region)?;
    let mut rates = Vec::new();
    for set in &group.spec.machine_sets {
        let terms = tariff.spec.dedicated.as_ref();
        let rate = terms.and_then(|it| Some((it, machine_prices(it, set)?)));
        let unknown = || {
            let message = format!(
                "Tariff {} has no price for machine type {} of set {}",
                tariff.name_any(),
                set.machine_type,
                set.name
            );
            Problem::new(Reason::NoPrice, message)
        };
        let (terms, prices) = rate.ok_or_else(unknown)?;
        let prices = prices.map_err(invalid)?;
        rates.push(machine_rate(set, terms, group.spec.usage, &prices, now, &currency).ok_or_else(unknown)?);
    }
    Ok((account, currency, rates))
}

fn machine_prices(tariff: &DedicatedTariff, set: &MachineSet) -> Option<Result<MachinePrices, String>> {
    let machine = tariff.machine_types.iter().find(|it| it.name == set.machine_type)?;
    let exact = |it: &String| Exact::parse(it).map_err(|it| it.to_string());
    let prices = || {
        Ok(MachinePrices {
            per_month: machine.per_month.as_ref().map(exact).transpose()?,
            per_hour: machine.per_hour.as_ref().map(exact).transpose()?,
            disk_gb_month: exact(&tariff.disk_per_gb_month)?,
            included_disk_gb: count(tariff.included_disk_gb),
        })
    };
    Some(prices())
}

fn machine_rate(
    set: &MachineSet,
    tariff: &DedicatedTariff,
    usage: Usage,
    prices: &MachinePrices,
    now: Timestamp,
    currency: &Currency,
) -> Option<Rate> {
    let disk = count(set.system_disk_gb);
    let what = format!("a machine of set {} ({} of them)", set.name, set.count);
    match set.billing {
        Billing::Prepaid => {
            let months = count(set.term?.months);
            let terms = tariff.long_terms.iter().filter(|it| it.usage == usage);
            let long: Vec<LongTerm> = terms
                .map(|it| LongTerm { months: count(it.months), charged_months: count(it.charged_months) })
                .collect();
            let price = quote_term(&prices.month(disk)?, charged_months(months, &long), currency).ok()?;
            Some(Rate { what, per: "term", months: Some(months), price: price.text(currency) })
        }
        Billing::Postpaid => {
            let price = quote_hour(&prices.hour(disk, now)?, 3_600, currency).ok()?;
            Some(Rate { what, per: "hour", months: None, price: price.text(currency) })
        }
    }
}

fn spot_rates(context: &Context, server: &SpotServer) -> Result<Rated, Problem> {
    let spec = &server.spec;
    let (account, currency, tariff) = payer(context, server.namespace(), &spec.region)?;
    let terms = tariff.spec.spot.as_ref();
    let found = terms
        .and_then(|terms| Some((terms, terms.machine_types.iter().find(|it| it.name == spec.machine_type)?)));
    let (terms, machine) = found.ok_or_else(|| {
        let message = format!("Tariff {} has no spot machine type {}", tariff.name_any(), spec.machine_type);
        Problem::new(Reason::UnknownMachineType, message)
    })?;
    let market = facts::market(&context.caches, &machine.card_type, &tariff.spec.region)?;
    let price = times(super::market::price(context, &market)?.price, machine.cards)?;
    let rate = |what: &str, per, price: Decimal| Rate {
        what: what.to_owned(),
        per,
        months: None,
        price: price.normalize().to_string(),
    };
    let mut rates = vec![rate("the machine, at the market's price of now", "hour", price)];
    rates.push(rate("its disk", "month", times(decimal(&terms.disk_per_gb_month)?, spec.disk.size_gb)?));
    if spec.public_address {
        rates.push(rate("its public address", "hour", decimal(&terms.public_address_per_hour)?));
    }
    Ok((account, currency, rates))
}

fn endpoint_rates(context: &Context, endpoint: &ServerlessEndpoint) -> Result<Rated, Problem> {
    let Some(on) = &endpoint.spec.placement.serverless else {
        // It costs nothing beyond its pool or group, in whatever currency the account pays.
        let account = facts::account(&context.caches, endpoint.namespace().unwrap_or_default().as_str())?;
        let currency = Currency::find(&account.spec.currency)
            .ok_or_else(|| invalid(format!("`{}` is no currency of ISO 4217", account.spec.currency)))?;
        return Ok((account.name_any(), currency, Vec::new()));
    };
    let (account, currency, tariff) = payer(context, endpoint.namespace(), &on.region)?;
    facts::card_type(&context.caches, &on.card_type)?;
    let prices = tariff.spec.serverless.iter().flat_map(|it| &it.cards);
    let price = prices.into_iter().find(|it| it.card_type == on.card_type).ok_or_else(|| {
        let message =
            format!("Tariff {} has no serverless price for card type {}", tariff.name_any(), on.card_type);
        Problem::new(Reason::NoPrice, message)
    })?;
    let price = times(decimal(&price.per_second)?, endpoint.spec.workers.gpus)?;
    let rate = Rate {
        what: "a worker".to_owned(),
        per: "second",
        months: None,
        price: price.normalize().to_string(),
    };
    Ok((account, currency, vec![rate]))
}

fn decimal(text: &str) -> Result<Decimal, Problem> {
    text.parse().map_err(|_| invalid(format!("the price `{text}` is not a number")))
}

fn times(price: Decimal, by: i32) -> Result<Decimal, Problem> {
    let product = price.checked_mul(Decimal::from(count(by)));
    product.ok_or_else(|| invalid(format!("{by} times {price} is more than can be told")))
}

fn invalid(it: String) -> Problem {
    Problem::new(Reason::Invalid, it)
}

/// The sums of quotes by currency.
pub fn totals(quotes: &[Quote]) -> Result<BTreeMap<String, String>, Error> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for it in quotes {
        let sum = sums.entry(it.currency.clone()).or_default();
        let too_much = || Error::Invalid("all of it costs more than can be posted".to_owned());
        *sum = sum.checked_add(it.total_minor).ok_or_else(too_much)?;
    }
    let text = |(code, sum): (String, i64)| Some((code.clone(), Money(sum).text(&Currency::find(&code)?)));
    Ok(sums.into_iter().filter_map(text).collect())
}
