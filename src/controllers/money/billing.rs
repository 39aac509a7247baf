//! What of that which is metered can be billed, and its lines. Reads memory only; `metering` posts.

use std::collections::{BTreeMap, HashMap, HashSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use super::known::{Contract, Known, Metered, Name, Terms};
use super::meter::{Meter, object_of};
use super::sku::Sku;
use super::{Money, contract_id};
use crate::domain::money;
use crate::domain::money::metering::{billable_until, closed_until, spans};
use crate::domain::money::usage::{self, Line, NoLine};
use crate::ledger::ChargeIn;

/// What is to be billed of one contract.
pub(super) struct Bill {
    pub(super) name: Name,
    pub(super) uid: String,
    pub(super) charges: Vec<ChargeIn>,
    /// Spans, and until when.
    pub(super) billed: Vec<(String, Timestamp)>,
    /// Is it the last one?
    pub(super) closes: bool,
}

impl Meter {
    /// What can be billed now. `is_gone`: nothing of the endpoint is there any more.
    pub(super) fn due(&self, now: Timestamp, is_gone: impl Fn(&Name, &str) -> bool) -> Vec<Bill> {
        let mut known = self.known();
        let mut bills = Vec::new();
        let mut never_ready = Vec::new();
        for (name, contracts) in &known.contracts {
            for (uid, contract) in contracts {
                if !contract.is_observed || contract.has_news() {
                    continue;
                }
                let running = || contract.spans.values().filter(|it| it.times.until.is_none());
                let closes = running().next().is_none() && is_gone(name, uid);
                if closes && !contract.is_open {
                    never_ready.push((name.clone(), uid.clone()));
                    continue;
                }
                let until = if closes {
                    Timestamp::MAX
                } else {
                    billable_until(now, running().map(|it| it.times.confirmed))
                };
                let bill = known.bill(name, uid, contract, until, closes);
                if bill.closes || !bill.billed.is_empty() {
                    bills.push(bill);
                }
            }
        }
        for (name, uid) in never_ready {
            known.forget(&name, &uid);
        }
        bills
    }

    /// It is in the ledger.
    pub(super) fn billed(&self, bills: &[Bill]) {
        let mut known = self.known();
        for bill in bills {
            if bill.closes {
                known.forget(&bill.name, &bill.uid);
                continue;
            }
            let Some(contract) = known.contract(&bill.name, &bill.uid) else { continue };
            for (id, until) in &bill.billed {
                let Some(it) = contract.spans.get_mut(id) else { continue };
                it.times.billed = it.times.billed.max(*until);
                contract.closed_until = contract.closed_until.max(Some(closed_until(*until)));
            }
            contract.spans.retain(|_, it| it.times.until.is_none_or(|until| it.times.billed < until));
        }
    }

    /// Sums up what accounts have used that is not billed yet, as far as is confirmed: as its lines will say. True when that
    /// changed.
    pub(super) fn sum_up(&self) -> bool {
        let mut known = self.known();
        let mut accrued: HashMap<String, BTreeMap<&'static str, i64>> = HashMap::new();
        for contract in known.contracts.values().flat_map(BTreeMap::values) {
            for (terms, group) in by_terms(contract.spans.values().filter(|it| !it.terms.is_prepaid())) {
                // What can't be billed can't be counted either; that is said where it is billed.
                let lines = known.lines(terms, &group, Timestamp::MAX).unwrap_or_default();
                let sums = accrued.entry(terms.account.clone()).or_default();
                let sum = sums.entry(terms.currency.code()).or_default();
                *sum = lines.iter().fold(*sum, |sum, it| sum.saturating_add(it.amount.0));
            }
        }
        let changed = known.accrued != accrued;
        known.accrued = accrued;
        changed
    }

    /// What an account has used that is not billed yet.
    pub(super) fn accrued(&self, account: &str, currency: &str) -> money::Money {
        let known = self.known();
        let sum = known.accrued.get(account).and_then(|it| it.get(currency));
        money::Money(sum.copied().unwrap_or_default())
    }
}

/// Spans that have the same payer, currency and prices.
fn by_terms<'a>(spans: impl Iterator<Item = &'a Metered>) -> Vec<(&'a Terms, Vec<&'a Metered>)> {
    let mut groups: BTreeMap<(&str, &str, &str), (&Terms, Vec<&Metered>)> = BTreeMap::new();
    for it in spans {
        let Terms { account, currency, sku } = &it.terms;
        let key = (account.as_str(), currency.code(), sku.as_str());
        groups.entry(key).or_insert_with(|| (&it.terms, Vec::new())).1.push(it);
    }
    groups.into_values().collect()
}

impl Contract {
    /// Does the ledger not know all of it?
    pub(super) fn has_news(&self) -> bool {
        !self.spans.values().all(Metered::is_written)
    }
}

impl Known {
    /// The lines of spans with the same terms, up to a moment.
    fn lines(&self, terms: &Terms, of: &[&Metered], until: Timestamp) -> Result<Vec<Line>, NoLine> {
        let Some(list) = self.prices.get(&terms.sku) else {
            return of.first().map_or(Ok(Vec::new()), |it| Err(NoLine::Unpriced(it.times.from)));
        };
        let uses = of.iter().map(|it| (&it.times, u64::from(it.units)));
        usage::bill(&spans(uses, until), &list.prices, &terms.currency)
    }

    /// What of a contract is not billed, up to a moment. What can't be billed waits, and keeps the contract open; the rest does not wait
    /// for it.
    fn bill(&self, name: &Name, uid: &str, contract: &Contract, until: Timestamp, closes: bool) -> Bill {
        let unbilled = |it: &Metered| it.times.unbilled(until).map(|it| it.end);
        let mut charges = Vec::new();
        let mut waiting: Vec<&Terms> = Vec::new();
        // All that begins here on one day at one price has an id of its own, whoever pays.
        let mut taken: HashSet<String> = HashSet::new();
        let to_pay = contract.spans.values().filter(|it| !it.terms.is_prepaid() && unbilled(it).is_some());
        for (terms, group) in by_terms(to_pay) {
            let lines = match self.lines(terms, &group, until) {
                Ok(lines) => lines,
                Err(error) => {
                    tracing::error!(?name, sku = terms.sku, account = terms.account, %error, "usage can't be billed");
                    waiting.push(terms);
                    continue;
                }
            };
            for line in lines {
                let mut charge = self.charge(name, uid, terms, &line);
                // Others of its day may have been billed without it: their ids are not known any more.
                if contract.closed_until.is_some_and(|it| line.key.day < it) {
                    charge.id = format!("{}/late/{}/{}", charge.id, terms.account, terms.sku);
                }
                let base = charge.id.clone();
                let mut number = 1;
                while !taken.insert(charge.id.clone()) {
                    charge.id = format!("{base}/{number}");
                    number += 1;
                }
                charges.push(charge);
            }
        }
        let goes = |it: &&Metered| !waiting.contains(&&it.terms);
        let billed = contract.spans.iter().filter(|(_, it)| goes(it));
        let billed = billed.filter_map(|(id, it)| Some((id.clone(), unbilled(it)?))).collect();
        let closes = closes && waiting.is_empty();
        Bill { name: name.clone(), uid: uid.to_owned(), charges, billed, closes }
    }

    fn charge(&self, name: &Name, uid: &str, terms: &Terms, line: &Line) -> ChargeIn {
        let price = self.prices.get(&terms.sku).and_then(|it| it.texts.get(&line.key.epoch));
        let sku = Sku::parse(&terms.sku);
        let mut detail = json!({
            "object": object_of(name),
            "day": day_of(line),
            "region": sku.region(),
            "priceSince": line.key.epoch,
        });
        if let Some(card_type) = sku.card_type() {
            detail["cardType"] = json!(card_type);
        }
        let (seconds, per) = match sku {
            Sku::Worker { .. } | Sku::Resident { .. } => ("cardSeconds", "perSecond"),
            Sku::SpotCard { .. } => ("cardSeconds", "perHour"),
            Sku::SpotDisk { .. } => ("gbSeconds", "perGBMonth"),
        };
        detail[seconds] = json!(line.unit_seconds);
        detail[per] = json!(price);
        ChargeIn {
            id: line_id(uid, terms, line),
            contract: contract_id(uid),
            account: terms.account.clone(),
            currency: terms.currency.code().to_owned(),
            amount: line.amount.0,
            detail: detail.to_string(),
        }
    }
}

fn line_id(uid: &str, terms: &Terms, line: &Line) -> String {
    let what = Sku::parse(&terms.sku).what();
    format!("{}/usage/{}/{what}/{}", contract_id(uid), day_of(line), line.key.epoch)
}

fn day_of(line: &Line) -> String {
    line.key.day.to_zoned(TimeZone::UTC).date().to_string()
}

impl Money {
    /// What an account has used that is not billed yet.
    pub(in crate::controllers) fn accrued(&self, account: &str, currency: &str) -> money::Money {
        let machines = self.hours_begun(account, currency);
        money::Money(self.meter.accrued(account, currency).0.saturating_add(machines.0))
    }
}
