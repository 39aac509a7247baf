//! Writes down what is metered, and bills it: one loop in the leader, so that nothing of this is done twice at once.
//!
//! What passes have seen is written at once, as much as there is in one transaction. Every minute all workers that live are
//! confirmed. A UTC day is billed when nothing of it can come out otherwise any more (`domain::money::metering`), and the last one
//! when the endpoint and all its pods are gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meter::{Contract, Known, Meter, Metered, Name, Terms, object_of};
use super::{Money, contract_id};
use crate::cluster::read::{Caches, Kind};
use crate::controllers::{Context, Loop, TICK, endpoint};
use crate::domain::money;
use crate::domain::money::calendar::whole_second;
use crate::domain::money::metering::{billable_until, closed_until, spans};
use crate::domain::money::usage::{self, Line, NoLine};
use crate::ledger::{ChargeIn, Error, UsageIn};

/// Workers that live are confirmed this often.
const CONFIRM_EVERY: SignedDuration = SignedDuration::from_secs(60);
/// Endpoints billed in one transaction: some thousands of rows.
const BILLED_AT_ONCE: usize = 500;
/// A ledger that did not answer is asked again after this, doubled each time, at most `MOST_PATIENCE`.
const PATIENCE: Duration = Duration::from_millis(500);
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// Meters until it is told to stop.
pub(in crate::controllers) async fn run(
    context: Arc<Context>,
    beat: Arc<impl Fn(Loop)>,
    stop: CancellationToken,
) {
    let meter = &context.money.meter;
    // Also an endpoint that is gone is looked at once: its workers may have ended while nobody led.
    for (namespace, name) in meter.endpoints() {
        context.caches.changes.contract(Kind::Endpoint, &namespace, &name);
    }
    let mut tick = tokio::time::interval(TICK);
    let mut clock = Clock { confirmed: Timestamp::MIN, billed: None };
    let mut patience = PATIENCE;
    loop {
        beat(Loop::Metering);
        tokio::select! {
            () = stop.cancelled() => break,
            () = meter.news.notified() => (),
            _ = tick.tick() => (),
        }
        match round(&context, &mut clock).await {
            Ok(()) => patience = PATIENCE,
            Err(error) => {
                tracing::warn!(%error, "what is metered could not be written; it is kept and tried again");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(patience) => meter.news.notify_one(),
                }
                patience = (patience * 2).min(MOST_PATIENCE);
            }
        }
    }
    // What is not written now, the next leader sees itself.
    write(&context, None).await.ok();
}

/// When something was last done.
struct Clock {
    confirmed: Timestamp,
    billed: Option<Instant>,
}

async fn round(context: &Context, clock: &mut Clock) -> Result<(), Error> {
    let now = (context.now)();
    // The clock may have been moved.
    let confirms = now.duration_since(clock.confirmed) >= CONFIRM_EVERY;
    write(context, confirms.then_some(now)).await?;
    if confirms {
        clock.confirmed = now;
    }
    if confirms || clock.billed.is_none_or(|it| it.elapsed() >= TICK) {
        clock.billed = Some(Instant::now());
        bill(context, now).await?;
    }
    if confirms {
        // What is used changes how accounts stand.
        let changed = context.money.meter.sum_up();
        context.money.changed.fetch_or(changed, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes what is not in the ledger yet, and that all workers that live are confirmed.
async fn write(context: &Context, confirm_at: Option<Timestamp>) -> Result<(), Error> {
    let (money, meter) = (&context.money, &context.money.meter);
    let alive = confirm_at.map(|at| (whole_second(at), alive(&context.caches, meter)));
    let mut pending = meter.pending();
    for (name, uid) in &pending.contracts {
        let opened = money
            .ledger()?
            .open_contract(money.at((context.now)()), &contract_id(uid), &object_of(name), uid)
            .await;
        let contract = opened.map_err(|it| money.seen(it))?;
        meter.opened(name, uid, contract.closed_at_ms.is_some());
    }
    if !pending.contracts.is_empty() {
        pending = meter.pending();
    }
    // What still has no contract has made news again.
    pending.measured.confirmed =
        alive.as_ref().filter(|(_, ids)| !ids.is_empty()).map(|(at, ids)| (at.as_millisecond(), ids.clone()));
    if pending.measured.is_empty() {
        return Ok(());
    }
    let at = money.at((context.now)());
    money.ledger()?.measure(at, &pending.measured).await.map_err(|it| money.seen(it))?;
    for (namespace, name) in meter.written(&pending) {
        // Its pod may go now.
        context.caches.changes.contract(Kind::Endpoint, &namespace, &name);
    }
    if let Some((at, ids)) = alive.filter(|(_, ids)| !ids.is_empty()) {
        meter.confirmed(&ids, at);
    }
    Ok(())
}

/// The running spans of workers that live.
fn alive(caches: &Caches, meter: &Meter) -> Vec<String> {
    let mut ids = Vec::new();
    for (name, spans) in meter.running() {
        let pods = endpoint::alive(caches, &name);
        ids.extend(spans.into_iter().filter(|(_, pod)| pods.contains(pod)).map(|(id, _)| id));
    }
    ids
}

/// What is to be billed of one contract.
struct Bill {
    name: Name,
    uid: String,
    charges: Vec<ChargeIn>,
    /// Spans, and until when.
    billed: Vec<(String, Timestamp)>,
    /// Is it the last one?
    closes: bool,
}

/// Bills all that can be billed.
async fn bill(context: &Context, now: Timestamp) -> Result<(), Error> {
    let (money, meter) = (&context.money, &context.money.meter);
    let bills = meter.due(now, |name, uid| is_gone(&context.caches, name, uid));
    for some in bills.chunks(BILLED_AT_ONCE) {
        let usage = UsageIn {
            charges: some.iter().flat_map(|it| it.charges.iter().cloned()).collect(),
            billed: some
                .iter()
                .flat_map(|it| &it.billed)
                .map(|(id, at)| (id.clone(), at.as_millisecond()))
                .collect(),
            closed: some.iter().filter(|it| it.closes).map(|it| contract_id(&it.uid)).collect(),
        };
        let at = money.at((context.now)());
        money.ledger()?.charge_usage(at, &usage).await.map_err(|it| money.seen(it))?;
        tracing::info!(lines = usage.charges.len(), closed = usage.closed.len(), "usage is billed");
        meter.billed(some);
        meter.sum_up();
        money.touched();
    }
    Ok(())
}

/// Is neither the endpoint there nor any pod of it?
fn is_gone(caches: &Caches, (namespace, name): &Name, uid: &str) -> bool {
    let of_uid = |it: Option<&String>| it.is_some_and(|it| it == uid);
    let there = caches.endpoints.get(namespace, name).is_some_and(|it| of_uid(it.metadata.uid.as_ref()))
        || caches.endpoints.unreadable().iter().any(|it| of_uid(it.uid.as_ref()));
    let pods = caches.pods.under(&format!("endpoint/{namespace}/{name}"));
    let owners = || pods.iter().flat_map(|it| it.metadata.owner_references.iter().flatten());
    !there && !owners().any(|it| it.uid == uid)
}

impl Meter {
    /// What can be billed now. `is_gone`: nothing of the endpoint is there any more.
    fn due(&self, now: Timestamp, is_gone: impl Fn(&Name, &str) -> bool) -> Vec<Bill> {
        let mut known = self.known();
        let mut bills = Vec::new();
        let mut never_ready = Vec::new();
        for (name, contracts) in &known.contracts {
            for (uid, contract) in contracts {
                if !contract.is_observed || !contract.is_written() {
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
                match known.bill(name, uid, contract, until, closes) {
                    Ok(bill) if bill.billed.is_empty() && !closes => (),
                    Ok(bill) => bills.push(bill),
                    Err(error) => tracing::error!(?name, %error, "usage can't be billed"),
                }
            }
        }
        for (name, uid) in never_ready {
            known.forget(&name, &uid);
        }
        bills
    }

    /// It is in the ledger.
    fn billed(&self, bills: &[Bill]) {
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
            for (terms, group) in by_terms(contract.spans.values()) {
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
    /// Does the ledger know all of it?
    fn is_written(&self) -> bool {
        self.spans.values().all(Metered::is_written)
    }
}

impl Known {
    /// The lines of spans with the same terms, up to a moment.
    fn lines(&self, terms: &Terms, of: &[&Metered], until: Timestamp) -> Result<Vec<Line>, NoLine> {
        let Some(list) = self.prices.get(&terms.sku) else {
            return of.first().map_or(Ok(Vec::new()), |it| Err(NoLine::Unpriced(it.times.from)));
        };
        let uses = of.iter().map(|it| (&it.times, u64::from(it.cards)));
        usage::bill(&spans(uses, until), &list.prices, &terms.currency)
    }

    /// What of a contract is not billed, up to a moment.
    fn bill(
        &self,
        name: &Name,
        uid: &str,
        contract: &Contract,
        until: Timestamp,
        closes: bool,
    ) -> Result<Bill, NoLine> {
        let unbilled = |it: &Metered| it.times.unbilled(until).map(|it| it.end);
        let billed: Vec<(String, Timestamp)> =
            contract.spans.iter().filter_map(|(id, it)| Some((id.clone(), unbilled(it)?))).collect();
        let mut charges = Vec::new();
        // All that begins here on one day at one price has an id of its own, whoever pays.
        let mut taken: HashSet<String> = HashSet::new();
        for (terms, group) in by_terms(contract.spans.values().filter(|it| unbilled(it).is_some())) {
            for line in self.lines(terms, &group, until)? {
                let mut charge = self.charge(name, uid, terms, &line);
                let mut number = 1;
                while !taken.insert(charge.id.clone()) {
                    charge.id = format!("{}/{number}", line_id(uid, &line));
                    number += 1;
                }
                charges.push(charge);
            }
        }
        Ok(Bill { name: name.clone(), uid: uid.to_owned(), charges, billed, closes })
    }

    fn charge(&self, name: &Name, uid: &str, terms: &Terms, line: &Line) -> ChargeIn {
        let price = self.prices.get(&terms.sku).and_then(|it| it.texts.get(&line.key.epoch));
        let (region, card_type) = terms.sku.rsplit_once('/').unwrap_or(("", &terms.sku));
        let detail = json!({
            "object": object_of(name),
            "day": day_of(line),
            "region": region,
            "cardType": card_type,
            "cardSeconds": line.unit_seconds,
            "perSecond": price,
            "priceSince": line.key.epoch,
        });
        ChargeIn {
            id: line_id(uid, line),
            contract: contract_id(uid),
            account: terms.account.clone(),
            currency: terms.currency.code().to_owned(),
            amount: line.amount.0,
            detail: detail.to_string(),
        }
    }
}

fn line_id(uid: &str, line: &Line) -> String {
    format!("{}/usage/{}/gpu/{}", contract_id(uid), day_of(line), line.key.epoch)
}

fn day_of(line: &Line) -> String {
    line.key.day.to_zoned(TimeZone::UTC).date().to_string()
}

impl Money {
    /// What an account has used that is not billed yet.
    pub(in crate::controllers) fn accrued(&self, account: &str, currency: &str) -> money::Money {
        self.meter.accrued(account, currency)
    }
}
