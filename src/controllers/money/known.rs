//! What one look at the workers of an endpoint, or at a spot server, does to what is known of them: prices, contracts, spans. Memory only; what a span's
//! beginning and end are is decided in `domain::money::metering`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::sku::Sku;
use crate::cluster::read::ContractRef;
use crate::domain::money::calendar::after_seconds;
use crate::domain::money::metering::{Life, Step, Use, price_begins, step};
use crate::domain::money::usage::Prices;
use crate::domain::money::{Currency, Exact};
use crate::ledger::PriceRow;

/// How an endpoint or a spot server is called.
pub(in crate::controllers) type Name = ContractRef;

/// Who pays for something, and by which price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct Terms {
    pub(in crate::controllers) account: String,
    pub(in crate::controllers) currency: Currency,
    /// What its price is for (`Sku`).
    pub(in crate::controllers) sku: String,
}

impl Terms {
    /// Is it paid in advance? Then it is metered, and no line of a bill.
    pub(super) fn is_prepaid(&self) -> bool {
        matches!(Sku::parse(&self.sku), Sku::Resident { .. })
    }
}

/// Terms as they are now.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Offer {
    pub(in crate::controllers) terms: Terms,
    /// The tariff's price; `None` where a market has it.
    pub(in crate::controllers) price: Option<Listed>,
}

/// A price that a tariff or market states now.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Listed {
    pub(in crate::controllers) price: Exact,
    pub(in crate::controllers) text: String,
    /// When the tariff or market was made: nothing was sold by it before.
    pub(in crate::controllers) since: Timestamp,
}

/// A worker, elastic or on a pool, the pod of a spot server, or its disk, as a pass sees it.
#[derive(Debug, Clone)]
pub(in crate::controllers) struct Seen {
    /// UID of its pod; of a disk `disk/` and the UID of its claim.
    pub(in crate::controllers) pod: String,
    /// UID of its endpoint or server.
    pub(in crate::controllers) owner: String,
    /// How many cards, or GB.
    pub(in crate::controllers) units: u32,
    pub(in crate::controllers) life: Life,
    /// `None` while nobody can say who pays: then what has begun goes on, and nothing begins.
    pub(in crate::controllers) offer: Option<Offer>,
}

#[derive(Default)]
pub(super) struct Known {
    /// Contracts by endpoint or server and its UID: one of the same name may have been there before.
    pub(super) contracts: HashMap<Name, BTreeMap<String, Contract>>,
    pub(super) prices: BTreeMap<String, PriceList>,
    pub(super) new_prices: Vec<PriceRow>,
    /// Those with something that is not written.
    pub(super) unwritten: BTreeSet<Name>,
    /// What is not billed yet, by account and currency, when it was last summed up.
    pub(super) accrued: HashMap<String, BTreeMap<&'static str, i64>>,
}

/// The prices of one thing.
pub(super) struct PriceList {
    pub(super) prices: Prices,
    /// As they were written.
    pub(super) texts: BTreeMap<Timestamp, String>,
}

/// What is metered of one endpoint or server.
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
    pub(super) units: u32,
    pub(super) times: Use,
    /// Does the ledger know that it began, and that it ended?
    pub(super) is_begun: bool,
    pub(super) is_ended: bool,
}

impl Metered {
    pub(super) fn is_written(&self) -> bool {
        self.is_begun && self.is_ended == self.times.until.is_some()
    }
}

impl PriceList {
    pub(super) fn new(sku: &str) -> PriceList {
        let per = Sku::parse(sku).per();
        PriceList { prices: Prices { per, epochs: BTreeMap::new() }, texts: BTreeMap::new() }
    }

    /// The price that holds now, as it was written, and since when.
    pub(super) fn last(&self) -> Option<(Timestamp, &str)> {
        self.texts.last_key_value().map(|(since, text)| (*since, text.as_str()))
    }

    pub(super) fn insert(&mut self, from: Timestamp, price: Exact, text: String) {
        self.prices.epochs.insert(from, price);
        self.texts.insert(from, text);
    }

    fn first(&self) -> Option<Timestamp> {
        self.prices.epochs.first_key_value().map(|(from, _)| *from)
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
    pub(super) fn see_price(&mut self, sku: &str, listed: &Listed, now: Timestamp) -> bool {
        let list = self.prices.entry(sku.to_owned()).or_insert_with(|| PriceList::new(sku));
        let Some(from) = price_begins(&list.prices.epochs, &listed.price, listed.since, now) else {
            return false;
        };
        list.insert(from, listed.price.clone(), listed.text.clone());
        self.new_prices.push(PriceRow {
            sku: sku.to_owned(),
            from_ms: from.as_millisecond(),
            price: listed.text.clone(),
        });
        true
    }
}

impl Contract {
    /// The spans of a pod, the first one first.
    pub(super) fn of_pod(&self, pod: &str) -> impl Iterator<Item = (&String, &Metered)> {
        self.spans.range(pod.to_owned()..).take_while(move |(id, _)| pod_of(id) == pod)
    }

    /// The pod's span that has not ended.
    fn open_of(&mut self, pod: &str) -> Option<&mut Metered> {
        let id = self.of_pod(pod).find(|(_, it)| it.times.until.is_none())?.0.clone();
        self.spans.get_mut(&id)
    }

    /// Ends what runs of a pod; true when that was news.
    pub(super) fn end(&mut self, pod: &str, ended_at: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(open) = self.open_of(pod) else { return false };
        let Step::End(until) = step(Some(&open.times), Life::Down { ended_at }, open.times.from, false, now)
        else {
            return false;
        };
        open.times.until = Some(until);
        true
    }

    /// Ends what runs of pods that are not there any more.
    pub(super) fn end_others(&mut self, seen: &[Seen], now: Timestamp) -> bool {
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
                units: worker.units,
                times: Use::begins(from),
                is_begun: false,
                is_ended: false,
            },
        );
    }
}

/// Looks at one worker; true when that was news.
pub(super) fn look_at(
    contracts: &mut HashMap<Name, BTreeMap<String, Contract>>,
    prices: &BTreeMap<String, PriceList>,
    name: &Name,
    worker: &Seen,
    now: Timestamp,
) -> bool {
    let contract = contracts.get(name).and_then(|it| it.get(&worker.owner));
    let spans = || contract.into_iter().flat_map(|it| it.of_pod(&worker.pod)).map(|(_, it)| it);
    let open = spans().find(|it| it.times.until.is_none());
    let first_price = |terms: &Terms| prices.get(&terms.sku).and_then(PriceList::first);
    // What has no price yet could never be billed: what runs keeps its old terms meanwhile.
    let has_price = |terms: &&Terms| terms.is_prepaid() || first_price(terms).is_some();
    let terms = worker.offer.as_ref().map(|it| &it.terms).filter(has_price);
    let first_price = terms.and_then(first_price);
    let closed = contract.and_then(|it| it.closed_until);
    let ended = spans().filter_map(|it| it.times.until).max();
    let not_before = first_price.into_iter().chain(closed).chain(ended).max().unwrap_or(Timestamp::MIN);
    let others = open.is_some_and(|it| terms.is_some_and(|terms| *terms != it.terms));
    let step = step(open.map(|it| &it.times), worker.life, not_before, others, now);
    let (end, begin) = match step {
        Step::Stay => return false,
        Step::Begin(from) => (None, Some(from)),
        Step::End(until) => (Some(until), None),
        Step::Cut(at) => {
            // Our clock may be behind the one that said since when the price holds.
            let at = first_price.map_or(at, |it| it.max(at));
            (Some(at), Some(at))
        }
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

/// Whose span it is.
pub(super) fn pod_of(id: &str) -> &str {
    id.rsplit_once('/').map_or(id, |(pod, _)| pod)
}
