//! What a group needs of account, tariff and card types, and what its machines cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;

use crate::api::condition::Reason;
use crate::api::group::{Billing, MachineSet};
use crate::api::tariff::{DedicatedMachineType, DedicatedTariff, EarlyRelease};
use crate::api::{Account, DedicatedGroup, Tariff};
use crate::cluster::read::Caches;
use crate::controllers::facts::{self, Problem};
use crate::controllers::money::machines::HourPrice;
use crate::controllers::pool::count;
use crate::domain::money::{Currency, Exact, LongTerm, MachinePrices};

/// What a group is, resolved: who pays, and what its machines cost.
pub(super) struct Offer {
    pub(super) account: Arc<Account>,
    pub(super) currency: Currency,
    /// By set.
    pub(super) sets: BTreeMap<String, SetOffer>,
    /// Of which fewer months are charged, for groups of this usage.
    pub(super) long_terms: Vec<LongTerm>,
    pub(super) region: String,
    pub(super) retention_days: u32,
    pub(super) early_days: u32,
    pub(super) early_factor: String,
    /// May machines not be given back before their term ends?
    pub(super) bound: bool,
}

/// What a machine of a set is and costs.
pub(super) struct SetOffer {
    pub(super) machine_type: String,
    pub(super) card_type: String,
    pub(super) cards: u32,
    pub(super) system_disk_gb: u32,
    pub(super) disk_per_gb_month: String,
    pub(super) included_disk_gb: u32,
    /// The tariff's price, and the price of a month with the disk; `None` when it is not sold for a term.
    pub(super) per_month: Option<(String, Exact)>,
    /// `None` when it is not sold by the hour.
    pub(super) per_hour: Option<HourPrice>,
}

impl Offer {
    /// Is there what the group needs?
    pub(super) fn of(caches: &Caches, group: &DedicatedGroup) -> Result<Offer, Problem> {
        let namespace = group.namespace().unwrap_or_default();
        let (account, tariff) = facts::payer(caches, &namespace, &group.spec.region)?;
        let unknown = |machine_type: &str| {
            let message =
                format!("Tariff {} has no dedicated machine type {machine_type}", tariff.name_any());
            Problem::new(Reason::UnknownMachineType, message)
        };
        let Some(terms) = tariff.spec.dedicated.as_ref() else {
            let first = group.spec.machine_sets.first();
            return Err(unknown(first.map_or("", |it| it.machine_type.as_str())));
        };
        let mut sets = BTreeMap::new();
        for set in &group.spec.machine_sets {
            let machine = terms.machine_types.iter().find(|it| it.name == set.machine_type);
            let machine = machine.ok_or_else(|| unknown(&set.machine_type))?;
            facts::card_type(caches, &machine.card_type)?;
            sets.insert(set.name.clone(), SetOffer::of(&tariff, terms, machine, set)?);
        }
        let currency = Currency::find(&tariff.spec.currency)
            .ok_or_else(|| invalid(format!("`{}` is no currency of ISO 4217", tariff.spec.currency)))?;
        let long_terms = terms.long_terms.iter().filter(|it| it.usage == group.spec.usage);
        let (early_days, early_factor) = match &terms.refund {
            Some(rule) => (count(rule.early_days), rule.early_factor.clone()),
            None => (30, "1.2".to_owned()),
        };
        exact(&early_factor)?;
        Ok(Offer {
            account,
            currency,
            sets,
            long_terms: long_terms
                .map(|it| LongTerm { months: count(it.months), charged_months: count(it.charged_months) })
                .collect(),
            region: tariff.spec.region.clone(),
            retention_days: count(terms.retention_days),
            early_days,
            early_factor,
            bound: terms.early_release == EarlyRelease::Refuse,
        })
    }
}

impl SetOffer {
    fn of(
        tariff: &Tariff,
        terms: &DedicatedTariff,
        machine: &DedicatedMachineType,
        set: &MachineSet,
    ) -> Result<SetOffer, Problem> {
        let is_sold = match set.billing {
            Billing::Prepaid => machine.per_month.is_some(),
            Billing::Postpaid => machine.per_hour.is_some(),
        };
        if !is_sold {
            let message = format!(
                "Tariff {} sells machine type {} not {:?}",
                tariff.name_any(),
                set.machine_type,
                set.billing
            );
            return Err(Problem::new(Reason::NoPrice, message));
        }
        let prices = MachinePrices {
            per_month: machine.per_month.as_deref().map(exact).transpose()?,
            per_hour: machine.per_hour.as_deref().map(exact).transpose()?,
            disk_gb_month: exact(&terms.disk_per_gb_month)?,
            included_disk_gb: count(terms.included_disk_gb),
        };
        let system_disk_gb = count(set.system_disk_gb);
        let per_hour = machine.per_hour.as_ref().map(|it| HourPrice {
            region: tariff.spec.region.clone(),
            machine_type: machine.name.clone(),
            per_hour: it.clone(),
            disk_per_gb_month: terms.disk_per_gb_month.clone(),
            included_disk_gb: prices.included_disk_gb,
        });
        Ok(SetOffer {
            machine_type: machine.name.clone(),
            card_type: machine.card_type.clone(),
            cards: count(machine.cards),
            system_disk_gb,
            disk_per_gb_month: terms.disk_per_gb_month.clone(),
            included_disk_gb: prices.included_disk_gb,
            per_month: machine.per_month.clone().zip(prices.month(system_disk_gb)),
            per_hour,
        })
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(Reason::Invalid, message)
}

fn exact(text: &str) -> Result<Exact, Problem> {
    Exact::parse(text).map_err(|it| invalid(it.to_string()))
}
