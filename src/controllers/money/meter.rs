//! What is known of workers that are paid for by the second: kept in memory, what of it is not written yet included.
//!
//! Passes over endpoints say what they see and never wait for the ledger; `metering` writes it down. A span's id is the pod's UID and
//! the second in which it begins, so that who sees the same twice writes it once. A worker has several when it crashes and gets
//! ready again, when its namespace gets another payer or its endpoint another region.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::contract_id;
use crate::domain::money::calendar::after_seconds;
use crate::domain::money::metering::{Life, Step, Use, closed_until, price_begins, step};
use crate::domain::money::usage::{Per, Prices};
use crate::domain::money::{Currency, Exact};
use crate::ledger::{self, Measured, PriceRow, SpanIn, SpanRow};

/// Namespace and name of an endpoint.
pub(in crate::controllers) type Name = (String, String);

/// Who pays for a worker, and by which price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct Terms {
    pub(in crate::controllers) account: String,
    pub(in crate::controllers) currency: Currency,
    /// `REGION/CARD TYPE`.
    pub(in crate::controllers) sku: String,
}

/// Terms as they are now, with the price.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Offer {
    pub(in crate::controllers) terms: Terms,
    /// Of a card for a second.
    pub(in crate::controllers) price: Exact,
    pub(in crate::controllers) price_text: String,
    /// When the tariff was made: no worker was sold by it before.
    pub(in crate::controllers) since: Timestamp,
}

/// An elastic worker as a pass sees it.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Seen {
    /// UID of its pod.
    pub(in crate::controllers) pod: String,
    /// UID of its endpoint.
    pub(in crate::controllers) owner: String,
    pub(in crate::controllers) cards: u32,
    pub(in crate::controllers) life: Life,
    /// `None` while nobody can say who pays: then what has begun goes on, and nothing begins.
    pub(in crate::controllers) offer: Option<Offer>,
}

/// All that is metered.
#[derive(Default)]
pub(in crate::controllers) struct Meter {
    known: Mutex<Known>,
    /// There is something to write.
    pub(super) news: Notify,
}

#[derive(Default)]
pub(super) struct Known {
    /// Contracts by endpoint and its UID: one of the same name may have been there before.
    pub(super) contracts: HashMap<Name, BTreeMap<String, Contract>>,
    pub(super) prices: BTreeMap<String, PriceList>,
    new_prices: Vec<PriceRow>,
    /// Endpoints with something that is not written.
    unwritten: BTreeSet<Name>,
    /// What is not billed yet, by account and currency, when it was last summed up.
    pub(super) accrued: HashMap<String, BTreeMap<&'static str, i64>>,
}

/// The prices of a card type in a region.
pub(super) struct PriceList {
    pub(super) prices: Prices,
    /// As they were written.
    pub(super) texts: BTreeMap<Timestamp, String>,
}

/// What is metered of one endpoint.
#[derive(Default)]
pub(super) struct Contract {
    /// Does the ledger know it?
    pub(super) is_open: bool,
    /// Has a pass looked at its pods since this process leads?
    pub(super) is_observed: bool,
    /// What is before this is billed, and closed.
    pub(super) closed_until: Option<Timestamp>,
    /// By id.
    pub(super) spans: BTreeMap<String, Metered>,
}

pub(super) struct Metered {
    pub(super) terms: Terms,
    pub(super) cards: u32,
    pub(super) times: Use,
    /// Does the ledger know that it began, and that it ended?
    is_begun: bool,
    is_ended: bool,
}

impl Metered {
    pub(super) fn is_written(&self) -> bool {
        self.is_begun && self.is_ended == self.times.until.is_some()
    }
}

/// What is not in the ledger yet.
#[derive(Default)]
pub(super) struct Pending {
    /// Endpoints that need a contract before anything of them is written, with their UIDs.
    pub(super) contracts: Vec<(Name, String)>,
    pub(super) measured: Measured,
    /// Whose spans are begun or ended with it, by id.
    spans: Vec<(Name, String, String)>,
}

impl PriceList {
    fn new() -> PriceList {
        PriceList { prices: Prices { per: Per::Second, epochs: BTreeMap::new() }, texts: BTreeMap::new() }
    }

    fn insert(&mut self, from: Timestamp, price: Exact, text: String) {
        self.prices.epochs.insert(from, price);
        self.texts.insert(from, text);
    }

    fn first(&self) -> Option<Timestamp> {
        self.prices.epochs.first_key_value().map(|(from, _)| *from)
    }
}

impl Meter {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the ledger knows of endpoints.
    pub(super) fn load(
        &self,
        contracts: &[ledger::Contract],
        spans: Vec<SpanRow>,
        billed: &BTreeMap<String, i64>,
        prices: Vec<PriceRow>,
    ) {
        let mut known = self.known();
        let mut by_id = HashMap::new();
        for it in contracts {
            let Some(name) = endpoint_of(&it.object) else { continue };
            by_id.insert(it.id.clone(), (name.clone(), it.uid.clone()));
            let closed = billed.get(&it.id).map(|it| closed_until(time(*it)));
            let contract = Contract { is_open: true, closed_until: closed, ..Contract::default() };
            known.contracts.entry(name).or_default().insert(it.uid.clone(), contract);
        }
        for row in spans {
            let Some(currency) = Currency::find(&row.begun.currency) else {
                tracing::error!(span = row.begun.id, "a span has a currency that this version does not know");
                continue;
            };
            let Some((name, uid)) = by_id.get(&row.begun.contract) else { continue };
            let Some(contract) = known.contract(name, uid) else { continue };
            let times = Use {
                from: time(row.begun.from_ms),
                until: row.until_ms.map(time),
                confirmed: time(row.confirmed_ms),
                billed: time(row.billed_ms),
            };
            let terms = Terms { account: row.begun.account, currency, sku: row.begun.sku };
            let cards = u32::try_from(row.begun.units).unwrap_or(u32::MAX);
            let is_ended = times.until.is_some();
            contract.spans.insert(row.begun.id, Metered { terms, cards, times, is_begun: true, is_ended });
        }
        for row in prices {
            match Exact::parse(&row.price) {
                Ok(price) => {
                    let list = known.prices.entry(row.sku).or_insert_with(PriceList::new);
                    list.insert(time(row.from_ms), price, row.price);
                }
                Err(error) => tracing::error!(sku = row.sku, %error, "a price can't be read"),
            }
        }
    }

    /// The endpoints of which something is metered.
    pub(super) fn endpoints(&self) -> Vec<Name> {
        self.known().contracts.keys().cloned().collect()
    }

    /// A pass sees the workers of an endpoint, all of them. It looks while nobody else does, so that no old price is taken for a
    /// new one.
    pub(in crate::controllers) fn observe(
        &self,
        name: &Name,
        look: impl FnOnce() -> Vec<Seen>,
        now: Timestamp,
    ) {
        let mut known = self.known();
        let seen = look();
        let mut news = false;
        for offer in seen.iter().filter_map(|it| it.offer.as_ref()) {
            news |= known.see_price(offer, now);
        }
        let Known { contracts, prices, .. } = &mut *known;
        for contract in contracts.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
            contract.is_observed = true;
            news |= contract.end_others(&seen, now);
        }
        for worker in &seen {
            news |= look_at(contracts, prices, name, worker, now);
        }
        if news {
            known.unwritten.insert(name.clone());
            self.news.notify_one();
        }
    }

    /// A worker's pod is at its end and would be let go: may it be, or has the ledger to hear of that first?
    pub(in crate::controllers) fn may_go(
        &self,
        name: &Name,
        pod: &str,
        ended_at: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let mut known = self.known();
        let mut written = true;
        for contract in known.contracts.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
            contract.end(pod, ended_at, now);
            written &= contract.of_pod(pod).all(|(_, it)| it.is_written());
        }
        if !written {
            known.unwritten.insert(name.clone());
            self.news.notify_one();
        }
        written
    }

    /// What is to be written.
    pub(super) fn pending(&self) -> Pending {
        let known = self.known();
        let mut pending = Pending::default();
        pending.measured.prices.clone_from(&known.new_prices);
        for name in &known.unwritten {
            for (uid, contract) in known.contracts.get(name).into_iter().flatten() {
                if !contract.is_open {
                    pending.contracts.push((name.clone(), uid.clone()));
                    continue;
                }
                for (id, it) in contract.spans.iter().filter(|(_, it)| !it.is_written()) {
                    pending.add(name, uid, id, it);
                }
            }
        }
        pending
    }

    /// It is written now. Endpoints whose workers have ended with it.
    pub(super) fn written(&self, pending: &Pending) -> Vec<Name> {
        let mut known = self.known();
        let prices = &pending.measured.prices;
        known.new_prices.retain(|it| !prices.contains(it));
        let ended: HashMap<&String, i64> =
            pending.measured.ended.iter().map(|(id, until)| (id, *until)).collect();
        let mut names = Vec::new();
        for (name, uid, id) in &pending.spans {
            let Some(span) = known.contract(name, uid).and_then(|it| it.spans.get_mut(id)) else { continue };
            span.is_begun = true;
            if ended.contains_key(id) {
                span.is_ended = true;
                names.push(name.clone());
            }
        }
        names.dedup();
        let Known { contracts, unwritten, .. } = &mut *known;
        let has_more = |it: &Contract| it.spans.values().any(|it| !it.is_written());
        unwritten.retain(|it| contracts.get(it).is_some_and(|it| it.values().any(has_more)));
        names
    }

    /// The ledger has a contract for it now. One that is closed takes nothing any more.
    pub(super) fn opened(&self, name: &Name, uid: &str, is_closed: bool) {
        let mut known = self.known();
        if is_closed {
            tracing::warn!(?name, uid, "workers of an endpoint whose last bill is written are not billed");
            known.forget(name, uid);
        } else if let Some(contract) = known.contract(name, uid) {
            contract.is_open = true;
        }
    }

    /// Spans that have not ended: by endpoint, their ids and pods.
    pub(super) fn running(&self) -> Vec<(Name, Vec<(String, String)>)> {
        let known = self.known();
        let open = |(id, it): (&String, &Metered)| {
            it.times.until.is_none().then(|| (id.clone(), pod_of(id).to_owned()))
        };
        let all = known.contracts.iter().map(|(name, contracts)| {
            let spans = contracts.values().flat_map(|it| &it.spans).filter_map(open).collect::<Vec<_>>();
            (name.clone(), spans)
        });
        all.filter(|(_, spans)| !spans.is_empty()).collect()
    }

    /// These lasted until then at least.
    pub(super) fn confirmed(&self, ids: &[String], until: Timestamp) {
        let ids: HashSet<&String> = ids.iter().collect();
        let mut known = self.known();
        let spans = known.contracts.values_mut().flat_map(BTreeMap::values_mut).flat_map(|it| &mut it.spans);
        for (_, it) in spans.filter(|(id, it)| ids.contains(id) && it.times.until.is_none()) {
            it.times.confirmed = it.times.confirmed.max(until);
        }
    }
}

impl Known {
    pub(super) fn contract(&mut self, name: &Name, uid: &str) -> Option<&mut Contract> {
        self.contracts.get_mut(name)?.get_mut(uid)
    }

    /// Nothing more is to be metered of it.
    pub(super) fn forget(&mut self, name: &Name, uid: &str) {
        if let Some(contracts) = self.contracts.get_mut(name) {
            contracts.remove(uid);
            if contracts.is_empty() {
                self.contracts.remove(name);
            }
        }
    }

    /// Notes a price if it is another one.
    fn see_price(&mut self, offer: &Offer, now: Timestamp) -> bool {
        let list = self.prices.entry(offer.terms.sku.clone()).or_insert_with(PriceList::new);
        let Some(from) = price_begins(&list.prices.epochs, &offer.price, offer.since, now) else {
            return false;
        };
        list.insert(from, offer.price.clone(), offer.price_text.clone());
        self.new_prices.push(PriceRow {
            sku: offer.terms.sku.clone(),
            from_ms: from.as_millisecond(),
            price: offer.price_text.clone(),
        });
        true
    }
}

impl Contract {
    /// The spans of a pod, the first one first.
    fn of_pod(&self, pod: &str) -> impl Iterator<Item = (&String, &Metered)> {
        self.spans.range(pod.to_owned()..).take_while(move |(id, _)| pod_of(id) == pod)
    }

    /// The pod's span that has not ended.
    fn open_of(&mut self, pod: &str) -> Option<&mut Metered> {
        let id = self.of_pod(pod).find(|(_, it)| it.times.until.is_none())?.0.clone();
        self.spans.get_mut(&id)
    }

    /// Ends what runs of a pod; true when that was news.
    fn end(&mut self, pod: &str, ended_at: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(open) = self.open_of(pod) else { return false };
        let Step::End(until) = step(Some(&open.times), Life::Down { ended_at }, open.times.from, false, now)
        else {
            return false;
        };
        open.times.until = Some(until);
        true
    }

    /// Ends what runs of pods that are not there any more.
    fn end_others(&mut self, seen: &[Seen], now: Timestamp) -> bool {
        let there: HashSet<&str> = seen.iter().map(|it| it.pod.as_str()).collect();
        let runs = self.spans.iter().filter(|(_, it)| it.times.until.is_none());
        let gone: Vec<String> =
            runs.map(|(id, _)| pod_of(id).to_owned()).filter(|it| !there.contains(it.as_str())).collect();
        for pod in &gone {
            self.end(pod, None, now);
        }
        !gone.is_empty()
    }

    fn begin(&mut self, worker: &Seen, terms: &Terms, from: Timestamp) {
        let id = |from: Timestamp| format!("{}/{}", worker.pod, from.as_second());
        let mut from = from;
        while self.spans.contains_key(&id(from)) {
            from = after_seconds(from, 1);
        }
        self.spans.insert(
            id(from),
            Metered {
                terms: terms.clone(),
                cards: worker.cards,
                times: Use::begins(from),
                is_begun: false,
                is_ended: false,
            },
        );
    }
}

/// Looks at one worker; true when that was news.
fn look_at(
    contracts: &mut HashMap<Name, BTreeMap<String, Contract>>,
    prices: &BTreeMap<String, PriceList>,
    name: &Name,
    worker: &Seen,
    now: Timestamp,
) -> bool {
    let contract = contracts.get(name).and_then(|it| it.get(&worker.owner));
    let spans = || contract.into_iter().flat_map(|it| it.of_pod(&worker.pod)).map(|(_, it)| it);
    let open = spans().find(|it| it.times.until.is_none());
    let terms = worker.offer.as_ref().map(|it| &it.terms);
    let first_price = terms.and_then(|it| prices.get(&it.sku)?.first());
    let closed = contract.and_then(|it| it.closed_until);
    let ended = spans().filter_map(|it| it.times.until).max();
    let not_before = first_price.into_iter().chain(closed).chain(ended).max().unwrap_or(Timestamp::MIN);
    let others = open.is_some_and(|it| terms.is_some_and(|terms| *terms != it.terms));
    let step = step(open.map(|it| &it.times), worker.life, not_before, others, now);
    let (end, begin) = match step {
        Step::Stay => return false,
        Step::Begin(from) => (None, Some(from)),
        Step::End(until) => (Some(until), None),
        Step::Cut(at) => (Some(at), Some(at)),
    };
    let begin = begin.and_then(|from| Some((from, terms?)));
    if end.is_none() && begin.is_none() {
        return false;
    }
    let contract = contracts.entry(name.clone()).or_default().entry(worker.owner.clone()).or_default();
    contract.is_observed = true;
    if let Some(open) = contract.open_of(&worker.pod).filter(|_| end.is_some()) {
        open.times.until = end;
    }
    if let Some((from, terms)) = begin {
        contract.begin(worker, terms, from);
    }
    true
}

impl Pending {
    fn add(&mut self, name: &Name, uid: &str, id: &str, it: &Metered) {
        if !it.is_begun {
            self.measured.begun.push(SpanIn {
                id: id.to_owned(),
                contract: contract_id(uid),
                account: it.terms.account.clone(),
                currency: it.terms.currency.code().to_owned(),
                sku: it.terms.sku.clone(),
                units: i64::from(it.cards),
                from_ms: it.times.from.as_millisecond(),
            });
        }
        if let Some(until) = it.times.until {
            self.measured.ended.push((id.to_owned(), until.as_millisecond()));
        }
        self.spans.push((name.clone(), uid.to_owned(), id.to_owned()));
    }
}

/// How the ledger calls an endpoint.
pub(super) fn object_of((namespace, name): &Name) -> String {
    format!("{ENDPOINT}{namespace}/{name}")
}

/// Which endpoint the ledger calls so.
fn endpoint_of(object: &str) -> Option<Name> {
    let (namespace, name) = object.strip_prefix(ENDPOINT)?.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// Is this how the ledger calls an endpoint?
pub(super) fn is_endpoint(object: &str) -> bool {
    object.starts_with(ENDPOINT)
}

const ENDPOINT: &str = "ServerlessEndpoint/";

/// Whose span it is.
fn pod_of(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(pod, _)| pod)
}

fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}
