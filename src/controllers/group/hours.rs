//! Hours of a group's machines: what they cost, which are charged now, and which have begun.

use jiff::Timestamp;
use kube::ResourceExt;

use super::life::View;
use super::offer::Offer;
use crate::api::DedicatedGroup;
use crate::controllers::Context;
use crate::controllers::money::{Standing, machines};
use crate::domain::money::machine::{Hour, Hourly};
use crate::domain::money::order::quote_hour;
use crate::domain::money::{Currency, Money};
use crate::ledger::{self, ChargeIn, Measured, SpanRow, UsageIn};

/// Hours that are charged in one transaction: some thousands of rows.
const HOURS_AT_ONCE: usize = 500;
/// Hours of one machine that count as begun and not charged, at most: no machine is behind for longer while its account is looked at.
const HOURS_BEGUN: usize = 48;

/// Notes what its machines owe for hours that have begun.
pub(super) fn note_begun(
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
pub(super) async fn charge(
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

/// Is an hour of it over and not charged?
pub(super) fn is_due(it: &Hourly, now: Timestamp) -> bool {
    it.due(now, 1).billed > it.billed
}
