//! Machines by the hour as the ledger has them: their uses, hours and prices; and what an account owes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;

use super::standing::Standing;
use super::{Money, accounts};
use crate::api::Account;
use crate::controllers::facts::Problem;
use crate::domain::money::calendar::{after_seconds, whole_second};
use crate::domain::money::{self, Currency, Exact, MachinePrices};
use crate::ledger::{Error, Measured, PriceRow, RefundIn, UsageIn};

/// What is known of machines by the hour.
#[derive(Default)]
pub(super) struct Known {
    /// Prices by what they are for, since when.
    prices: BTreeMap<String, BTreeMap<Timestamp, String>>,
    /// By contract: hours that have begun and are not charged. Who pays, in which currency, and how much.
    begun: HashMap<String, (String, String, i64)>,
    /// How accounts stood when they were last looked at.
    arrears: HashMap<String, Arrears>,
}

/// Is an account in arrears?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::controllers) enum Arrears {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It is not.
    Clear,
    /// It is, since then.
    Since(Timestamp),
}

impl Arrears {
    /// Since when; `None` when it is in none, as far as is known.
    pub(in crate::controllers) fn since(self) -> Option<Timestamp> {
        match self {
            Arrears::Unknown | Arrears::Clear => None,
            Arrears::Since(since) => Some(since),
        }
    }
}

/// What an hour of a machine costs, as a tariff has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct HourPrice {
    pub(in crate::controllers) region: String,
    pub(in crate::controllers) machine_type: String,
    pub(in crate::controllers) per_hour: String,
    pub(in crate::controllers) disk_per_gb_month: String,
    pub(in crate::controllers) included_disk_gb: u32,
}

/// What the hours of a machine type are priced under.
pub(in crate::controllers) fn sku(region: &str, machine_type: &str) -> String {
    format!("dedicated/{region}/{machine_type}")
}

fn disk_sku(region: &str) -> String {
    format!("dedicated-disk/{region}")
}

fn included_sku(region: &str) -> String {
    format!("dedicated-included/{region}")
}

impl Money {
    fn hourly(&self) -> MutexGuard<'_, Known> {
        self.hourly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new leader finds.
    pub(super) fn load_hour_prices(&self, prices: &[PriceRow]) {
        let mut known = self.hourly();
        for it in prices.iter().filter(|it| it.sku.starts_with("dedicated")) {
            let from = Timestamp::from_millisecond(it.from_ms).unwrap_or_default();
            known.prices.entry(it.sku.clone()).or_default().insert(from, it.price.clone());
        }
    }

    /// Prices that begin now because the tariff has others than those that hold. The first ones hold from ever.
    pub(in crate::controllers) fn new_prices(&self, tariff: &HourPrice, now: Timestamp) -> Vec<PriceRow> {
        let known = self.hourly();
        let said = [
            (sku(&tariff.region, &tariff.machine_type), tariff.per_hour.clone()),
            (disk_sku(&tariff.region), tariff.disk_per_gb_month.clone()),
            (included_sku(&tariff.region), tariff.included_disk_gb.to_string()),
        ];
        let mut rows = Vec::new();
        for (sku, price) in said {
            let last = known.prices.get(&sku).and_then(|it| it.last_key_value());
            let from = match last {
                None => Timestamp::UNIX_EPOCH,
                Some((_, holds)) if *holds == price => continue,
                Some((since, _)) => whole_second(now).max(after_seconds(*since, 1)),
            };
            rows.push(PriceRow { sku, from_ms: from.as_millisecond(), price });
        }
        rows
    }

    /// The prices of an hour that begins then; and as texts, for the bill.
    pub(in crate::controllers) fn hour_price(
        &self,
        region: &str,
        machine_type: &str,
        begins: Timestamp,
    ) -> Option<(MachinePrices, HourPrice)> {
        let known = self.hourly();
        let at = |sku: &str| Some(known.prices.get(sku)?.range(..=begins).next_back()?.1.clone());
        let texts = HourPrice {
            region: region.to_owned(),
            machine_type: machine_type.to_owned(),
            per_hour: at(&sku(region, machine_type))?,
            disk_per_gb_month: at(&disk_sku(region))?,
            included_disk_gb: at(&included_sku(region))?.parse().ok()?,
        };
        let prices = MachinePrices {
            per_month: None,
            per_hour: Some(Exact::parse(&texts.per_hour).ok()?),
            disk_gb_month: Exact::parse(&texts.disk_per_gb_month).ok()?,
            included_disk_gb: texts.included_disk_gb,
        };
        Some((prices, texts))
    }

    /// Writes prices, and uses that begin, last or end.
    pub(in crate::controllers) async fn note_uses(
        &self,
        standing: &Standing,
        measured: &Measured,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        let written = self.ledger()?.measure(self.at(now), measured).await;
        self.sure(&mut write, standing, written).await?;
        self.load_hour_prices(&measured.prices);
        self.refresh(standing).await?;
        write.is_known = true;
        Ok(())
    }

    /// Charges hours, and with them how far uses are charged.
    pub(in crate::controllers) async fn charge_hours(
        &self,
        standing: &Standing,
        usage: &UsageIn,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        let charged = self.ledger()?.charge_usage(self.at(now), usage).await;
        self.sure(&mut write, standing, charged).await?;
        self.refresh(standing).await?;
        write.is_known = true;
        Ok(())
    }

    /// Pays back orders of a contract that goes on.
    pub(in crate::controllers) async fn refund(
        &self,
        standing: &Standing,
        refunds: &[RefundIn],
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        for it in refunds {
            let refunded = self.ledger()?.refund(self.at(now), it).await;
            self.sure(&mut write, standing, refunded).await?;
        }
        self.refresh(standing).await?;
        write.is_known = true;
        Ok(())
    }

    /// Notes what hours of a contract's machines have begun and are not charged.
    pub(in crate::controllers) fn note_begun(&self, contract: &str, account: &str, currency: &str, sum: i64) {
        let now = (account.to_owned(), currency.to_owned(), sum);
        let before = self.hourly().begun.insert(contract.to_owned(), now.clone());
        if before.as_ref().map_or(0, |it| it.2) != sum {
            self.changed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The contract is closed.
    pub(super) fn forget_hours(&self, contract: &str) {
        self.hourly().begun.remove(contract);
    }

    /// What an account owes for hours that have begun.
    pub(super) fn hours_begun(&self, account: &str, currency: &str) -> money::Money {
        let known = self.hourly();
        let of = known.begun.values().filter(|it| it.0 == account && it.1 == currency);
        money::Money(of.fold(0, |sum, it| sum.saturating_add(it.2)))
    }

    /// Is the account in arrears, and since when? What is posted says since when; what is only accrued so far begins now.
    pub(in crate::controllers) async fn arrears(
        &self,
        account: &Account,
        currency: &Currency,
        now: Timestamp,
    ) -> Result<Arrears, Problem> {
        let limit = accounts::credit_limit(account, currency)?;
        let name = account.metadata.name.clone().unwrap_or_default();
        let summary = self.summary(account, now).await.map_err(|it| super::unavailable(&it))?;
        let arrears = if accounts::in_arrears(account, &summary, limit) {
            if !summary.is_sure {
                return Ok(self.known_arrears(&name));
            }
            let posted = self.ledger().map_err(|it| super::unavailable(&it))?;
            let posted = posted.below_since(&name, currency.code(), -limit.0).await;
            let posted = posted.map_err(|it| super::unavailable(&it))?;
            Arrears::Since(posted.and_then(|it| Timestamp::from_millisecond(it).ok()).unwrap_or(now))
        } else {
            Arrears::Clear
        };
        self.hourly().arrears.insert(name, arrears);
        Ok(arrears)
    }

    /// How an account stood when it was last looked at.
    pub(in crate::controllers) fn known_arrears(&self, account: &str) -> Arrears {
        self.hourly().arrears.get(account).copied().unwrap_or_default()
    }
}
