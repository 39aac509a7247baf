//! What each machine of a group is worth to it now, and what it asks of the allocator: a function of the ledger and the time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;

use super::offer::Offer;
use crate::api::DedicatedGroup;
use crate::api::condition::Reason;
use crate::api::group::{Billing, MachineSet};
use crate::controllers::facts::Problem;
use crate::controllers::money::machines::Arrears;
use crate::controllers::money::{Held, List, Paid, Part, Standing, anew};
use crate::controllers::pool::{count, generation, is_leaving, is_refused};
use crate::domain::machines::Record;
use crate::domain::money::arrears::{Grace, Holding, Keeps, standing};
use crate::domain::money::machine::{Hourly, Stage, stage};
use crate::domain::money::want::{Offer as TermOffer, look_again, next_machine_order, term_order};
use crate::domain::money::{Lease, Next, Order, PoolSize, Purpose, Wanted};

/// A machine of a group.
pub(super) struct Machine<'a> {
    pub(super) name: String,
    /// Its set, if the spec still has it.
    pub(super) set: Option<&'a MachineSet>,
    /// Is it the group's, or on its way back?
    pub(super) is_live: bool,
    pub(super) part: &'a Part,
    pub(super) lease: Lease,
    /// Its paid orders, the first one first.
    pub(super) paid: Vec<Paid<'a>>,
    pub(super) held: Option<Held>,
    /// Its times by the hour, the first one first.
    pub(super) uses: Vec<Hourly>,
    pub(super) stage: Stage,
    /// Entries of the set's renewals that are older than the machine.
    pub(super) older_renewals: usize,
}

/// All machines of a group.
pub(super) struct View<'a> {
    pub(super) machines: Vec<Machine<'a>>,
}

/// What the group claims of the allocator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) bought: Vec<String>,
    pub(super) returning: BTreeMap<String, bool>,
    pub(super) ordered: Vec<String>,
    pub(super) paid: bool,
}

impl Claimed {
    /// From what the claim was made: the answer to it names it.
    pub(super) fn version(&self, group: &DedicatedGroup) -> String {
        let Claimed { bought, returning, ordered, paid } = self;
        let returning: Vec<String> = returning.iter().map(|(name, paid)| format!("{name}:{paid}")).collect();
        let list = [bought.join(","), returning.join(","), ordered.join(",")].join("|");
        format!("{}/{paid}/{list}", generation(group))
    }
}

impl<'a> View<'a> {
    /// The machines that the group has, waits for, or is giving back. `nodes`: those that have a node.
    pub(super) fn of(
        group: &'a DedicatedGroup,
        standing: &'a Standing,
        record: &Record,
        nodes: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<View<'a>, Problem> {
        let live: BTreeMap<String, String> =
            record.machines().map(|(set, name)| (name, set.to_owned())).collect();
        let known = standing.machines().map(|(name, _)| name.to_owned());
        let names: BTreeSet<String> =
            live.keys().cloned().chain(nodes.iter().cloned()).chain(known).collect();
        let mut machines = Vec::with_capacity(names.len());
        for name in names {
            let is_live = live.contains_key(&name);
            let set = live
                .get(&name)
                .map_or_else(|| name.rsplit_once('-').map_or("", |it| it.0).to_owned(), String::clone);
            let set = group.spec.machine_sets.iter().find(|it| it.name == set);
            machines.push(Machine::of(name, set, is_live, standing, now)?);
        }
        // A machine that joins a set later does not buy what others have bought of its renewals before.
        let mut bought: BTreeMap<&str, usize> = BTreeMap::new();
        for it in &machines {
            let Some(set) = it.set else { continue };
            let mine = it.older_renewals + it.bought_of(List::Set);
            let most = bought.entry(set.name.as_str()).or_default();
            *most = (*most).max(mine);
        }
        for it in machines.iter_mut().filter(|it| it.paid.is_empty()) {
            it.older_renewals = it.set.and_then(|it| bought.get(it.name.as_str())).copied().unwrap_or(0);
        }
        Ok(View { machines })
    }

    /// The same, unless the status says more than the ledger.
    pub(super) fn checked(
        group: &'a DedicatedGroup,
        standing: &'a Standing,
        record: &Record,
        nodes: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<View<'a>, Problem> {
        let view = View::of(group, standing, record, nodes, now)?;
        view.check(group)?;
        Ok(view)
    }

    /// The ledger is written before the status: that the status says more can't be.
    fn check(&self, group: &DedicatedGroup) -> Result<(), Problem> {
        let said = group.status.iter().flat_map(|it| &it.machines);
        for it in said {
            let Some(expires_at) = it.expires_at.as_ref().map(|it| it.0) else { continue };
            let known = self.machines.iter().find(|of| of.name == it.name);
            let last = known.and_then(|it| it.paid.iter().map(|it| it.order.period.end).max());
            if last.is_none_or(|it| it < expires_at) {
                return Err(mismatch(&format!(
                    "the group says that machine {} is bought until {expires_at}, and the ledger knows nothing of it",
                    it.name
                )));
            }
        }
        Ok(())
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Machine<'a>> {
        self.machines.iter().filter(|it| it.is_live)
    }

    /// Machines that are bound by their term, and until when.
    pub(super) fn bound(&self, now: Timestamp) -> BTreeMap<String, Timestamp> {
        let bound = |it: &Machine<'_>| {
            let Stage::Term { .. } = it.stage else { return None };
            let ends = it.paid.iter().filter(|it| is_bound(it)).map(|it| it.order.period.end);
            Some((it.name.clone(), ends.filter(|it| *it > now).max()?))
        };
        self.machines.iter().filter_map(bound).collect()
    }

    /// Machines that nothing brings back.
    pub(super) fn over(&self) -> BTreeSet<String> {
        let over = |it: &&Machine<'_>| matches!(it.stage, Stage::Over { .. });
        self.machines.iter().filter(over).map(|it| it.name.clone()).collect()
    }

    /// What the group claims. `nodes`: machines that have a node. `offer`: `None` when nothing can be bought.
    pub(super) fn claimed(
        &self,
        group: &DedicatedGroup,
        offer: Option<&Offer>,
        nodes: &BTreeSet<String>,
        arrears: Arrears,
        now: Timestamp,
    ) -> Claimed {
        let mut claimed = Claimed { paid: true, ..Claimed::default() };
        if is_leaving(group) {
            return claimed;
        }
        let may_owe = keeps(arrears, now) != Keeps::Nothing;
        for it in &self.machines {
            let name = it.name.clone();
            match it.stage {
                Stage::Term { .. } if it.is_live || nodes.contains(&it.name) => claimed.bought.push(name),
                // One that ends is not replaced.
                Stage::Hourly if nodes.contains(&it.name) || (it.is_live && may_owe) => {
                    claimed.bought.push(name);
                }
                Stage::Away | Stage::Expired { .. } if it.is_live => {
                    let Some(offer) = offer else {
                        // It would stay, were its tariff there.
                        if it.by_the_hour() && nodes.contains(&it.name) {
                            claimed.bought.push(name);
                        }
                        continue;
                    };
                    if it.by_the_hour() {
                        // Who has not looked at the account yet neither gives a node nor takes one back.
                        let may_return = match arrears {
                            Arrears::Unknown => nodes.contains(&name),
                            Arrears::Clear | Arrears::Since(_) => may_owe,
                        };
                        claimed.returning.insert(name, may_return);
                    } else if it.held.is_some() {
                        claimed.returning.insert(name, true);
                    } else if matches!(it.next(group, offer, now), Ok(Some(_))) {
                        claimed.returning.insert(name, false);
                    }
                }
                Stage::New if it.is_live && offer.is_some() && !is_refused(group) => {
                    let is_paid = match it.billing() {
                        Billing::Prepaid => it.held.is_some(),
                        // Whose node is there was in order when it got it: who has not looked yet takes nothing back.
                        Billing::Postpaid => match arrears {
                            Arrears::Clear => true,
                            Arrears::Unknown => nodes.contains(&name),
                            Arrears::Since(_) => false,
                        },
                    };
                    claimed.paid &= is_paid;
                    claimed.ordered.push(name);
                }
                Stage::Term { .. }
                | Stage::Hourly
                | Stage::Away
                | Stage::Expired { .. }
                | Stage::New
                | Stage::Over { .. } => (),
            }
        }
        claimed
    }

    /// Machines that are emptied because nothing is paid for them, and until when their pods may stay.
    pub(super) fn ending(
        &self,
        claimed: &Claimed,
        arrears: Arrears,
        now: Timestamp,
    ) -> BTreeMap<String, Timestamp> {
        let arrears_over = arrears.since().map(grace_ends).filter(|it| *it <= now);
        let end = |it: &Machine<'_>| match it.stage {
            Stage::Hourly => arrears_over.map(|since| (it.name.clone(), since)),
            Stage::Expired { since, .. } => {
                let stays =
                    claimed.returning.get(&it.name) == Some(&true) || claimed.bought.contains(&it.name);
                (!stays).then(|| (it.name.clone(), since))
            }
            Stage::Over { since } => Some((it.name.clone(), since)),
            Stage::New | Stage::Term { .. } | Stage::Away => None,
        };
        self.live().filter_map(end).collect()
    }

    /// When something changes by itself next.
    pub(super) fn look_again(&self, arrears: Arrears, now: Timestamp) -> Option<Timestamp> {
        let grace = arrears.since().map(grace_ends).filter(|it| *it > now);
        let lease = |it: &Machine<'_>| look_again(&it.wanted(), &it.lease, now).filter(|_| it.is_live);
        let hour = |it: &Machine<'_>| it.uses.last().filter(|it| it.end.is_none()).map(Hourly::next);
        self.machines.iter().flat_map(|it| [lease(it), hour(it)]).flatten().chain(grace).min()
    }
}

/// What becomes of machines that are paid by the hour.
pub(super) fn keeps(arrears: Arrears, now: Timestamp) -> Keeps {
    standing(Holding::PostpaidMachine, arrears.since(), now, &Grace::default()).keeps
}

/// When a machine that is paid by the hour is emptied, in arrears since then.
pub(super) fn grace_ends(since: Timestamp) -> Timestamp {
    match standing(Holding::PostpaidMachine, Some(since), since, &Grace::default()).keeps {
        Keeps::Until(until) => until,
        Keeps::All | Keeps::Nothing => since,
    }
}

/// Is an order of a machine bound to its end?
pub(super) fn is_bound(paid: &Paid<'_>) -> bool {
    paid.machine().is_some_and(|it| it.bound)
}

pub(super) fn mismatch(why: &str) -> Problem {
    let message = format!(
        "{why}: was another ledger configured, or an old backup restored? What the group has stays; nothing is bought until that is mended"
    );
    Problem::new(Reason::LedgerMismatch, message)
}

impl<'a> Machine<'a> {
    fn of(
        name: String,
        set: Option<&'a MachineSet>,
        is_live: bool,
        standing: &'a Standing,
        now: Timestamp,
    ) -> Result<Machine<'a>, Problem> {
        let part = standing.machine(&name);
        let (lease, paid) = part.life(now).map_err(|it| {
            mismatch(&format!("the orders of machine {name} in the ledger don't fit together ({it})"))
        })?;
        let uses = part.uses(&paid);
        let stage = stage(&lease, &uses, paid.last().and_then(|it| it.refunded));
        let older = paid.iter().find_map(|it| it.machine()?.older_renewals).unwrap_or(0);
        let older_renewals = usize::try_from(older).unwrap_or(usize::MAX);
        Ok(Machine { name, set, is_live, part, lease, paid, held: part.held(), uses, stage, older_renewals })
    }

    /// How its set wants it paid; one of a set that is gone goes on as it is.
    pub(super) fn billing(&self) -> Billing {
        match (self.set, self.stage) {
            (Some(set), _) => set.billing,
            (None, Stage::Hourly | Stage::Away) => Billing::Postpaid,
            (None, Stage::New | Stage::Term { .. } | Stage::Expired { .. } | Stage::Over { .. }) => {
                Billing::Prepaid
            }
        }
    }

    /// Does it come back by the hour, and not by a renewal?
    pub(super) fn by_the_hour(&self) -> bool {
        self.stage == Stage::Away || self.billing() == Billing::Postpaid
    }

    /// The use that has not ended.
    pub(super) fn open_use(&self) -> Option<&Hourly> {
        self.uses.last().filter(|it| it.end.is_none())
    }

    /// Its renewals of a list that are bought.
    fn bought_of(&self, list: List) -> usize {
        self.paid.iter().filter(|it| it.machine().is_some_and(|it| it.list == Some(list))).count()
    }

    /// Renewals that are asked for and not bought, each with its list.
    fn renewals_left(&self) -> Vec<(List, u32)> {
        let Some(set) = self.set else { return Vec::new() };
        let of_set = set.renewals.iter().map(|it| (List::Set, count(it.months)));
        let own = set.machine_renewals.iter().filter(|it| it.machine == self.name);
        let own = own.map(|it| (List::Machine, count(it.months)));
        of_set
            .skip(self.older_renewals + self.bought_of(List::Set))
            .chain(own.skip(self.bought_of(List::Machine)))
            .collect()
    }

    /// The list that the next renewal is of.
    pub(super) fn next_list(&self) -> Option<List> {
        self.renewals_left().first().map(|it| it.0)
    }

    /// What its owner wants of it, as far as it is paid for a term.
    fn wanted(&self) -> Wanted {
        let set = self.set.filter(|it| it.billing == Billing::Prepaid);
        let bought = usize::try_from(self.lease.renewals_bought).unwrap_or(0);
        let left = if set.is_some() { self.renewals_left() } else { Vec::new() };
        Wanted {
            size: PoolSize::default(),
            term_months: set.and_then(|it| it.term).map_or(0, |it| count(it.months)),
            renewals: std::iter::repeat_n(0, bought).chain(left.into_iter().map(|it| it.1)).collect(),
            auto_renew_months: set
                .and_then(|it| it.auto_renew)
                .filter(|it| it.enabled)
                .map(|it| count(it.months)),
        }
    }

    /// A list with fewer renewals than are bought, how many, and how many are bought: what is appended would count only after those.
    pub(super) fn lacks_renewals(&self) -> Option<(&'static str, usize, usize)> {
        let set = self.set.filter(|it| it.billing == Billing::Prepaid)?;
        let own = set.machine_renewals.iter().filter(|it| it.machine == self.name).count();
        let lists = [
            ("renewals", set.renewals.len(), self.older_renewals + self.bought_of(List::Set)),
            ("machineRenewals", own, self.bought_of(List::Machine)),
        ];
        lists.into_iter().find(|(_, listed, bought)| listed < bought)
    }

    /// Is an hour of it charged?
    pub(super) fn is_charged(&self) -> bool {
        self.uses.iter().any(Hourly::is_charged)
    }

    /// Its next order: its term, a renewal, or the conversion of a machine that is paid by the hour.
    pub(super) fn next(
        &self,
        group: &DedicatedGroup,
        offer: &Offer,
        now: Timestamp,
    ) -> Result<Option<Order>, Problem> {
        let Some(set) = self.set.filter(|it| it.billing == Billing::Prepaid && self.is_live) else {
            return Ok(None);
        };
        let Some((_, month)) = offer.sets.get(&set.name).and_then(|it| it.per_month.as_ref()) else {
            return Ok(None);
        };
        let invalid = |it: crate::domain::money::TooMuch| Problem::new(Reason::Invalid, it.to_string());
        match self.stage {
            Stage::New if is_refused(group) => Ok(None),
            Stage::New | Stage::Term { .. } | Stage::Expired { .. } => {
                let (wanted, terms) = (self.wanted(), &offer.long_terms);
                let next = next_machine_order(&wanted, &self.lease, month, terms, now, &offer.currency);
                match next.map_err(invalid)? {
                    Next::Order(order) => Ok(Some(order)),
                    Next::Nothing => Ok(None),
                }
            }
            // An hour that is paid already covers until the next use begins: a term that began before it would end no use.
            Stage::Hourly if self.open_use().is_none_or(|it| now < it.from) => Ok(None),
            Stage::Hourly => {
                let months = set.term.map_or(0, |it| count(it.months));
                let terms = TermOffer {
                    size: PoolSize::default(),
                    month: month.clone(),
                    long_terms: &offer.long_terms,
                };
                let lease = anew(&self.lease);
                term_order(Purpose::Conversion, months, &terms, &lease, now, &offer.currency).map_err(invalid)
            }
            Stage::Away | Stage::Over { .. } => Ok(None),
        }
    }

    /// When a use that has not ended ended by a conversion that is paid.
    pub(super) fn converted_at(&self) -> Option<Timestamp> {
        let open = self.open_use()?;
        let term = self.paid.iter().rfind(|it| it.order.purpose == Purpose::Conversion)?;
        Some(term.order.period.start).filter(|it| *it >= open.from)
    }

    /// The first second in which it may be paid by the hour anew.
    pub(super) fn free_from(&self) -> Option<Timestamp> {
        self.uses.last().and_then(Hourly::covered_until)
    }

    /// How many conversions are paid.
    pub(super) fn conversions(&self) -> usize {
        self.paid.iter().filter(|it| it.order.purpose == Purpose::Conversion).count()
    }
}

/// How people call the group's machines.
pub(super) fn names_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [first] => (*first).to_owned(),
        [first, rest @ ..] if rest.len() < 4 => format!("{first}, {}", rest.join(", ")),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

/// The name of the group, as ids and Events need it.
pub(super) fn name_of(group: &DedicatedGroup) -> (String, String) {
    (group.namespace().unwrap_or_default(), group.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::offer::SetOffer;
    use super::*;
    use crate::domain::money::machine::End;
    use crate::domain::money::{Currency, Exact};

    fn group(set: &Value) -> DedicatedGroup {
        let spec = json!({"usage": "DevTraining", "region": "r", "machineSets": [set]});
        let object = json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "DedicatedGroup",
            "metadata": {"namespace": "n", "name": "g", "uid": "u", "generation": 1}, "spec": spec,
        });
        serde_json::from_value(object).unwrap()
    }

    fn offer() -> Offer {
        let account = json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "Account", "metadata": {"name": "acme"}, "spec": {"currency": "EUR"},
        });
        let set = SetOffer {
            machine_type: "m8".to_owned(),
            card_type: "ada".to_owned(),
            cards: 8,
            system_disk_gb: 200,
            disk_per_gb_month: "1".to_owned(),
            included_disk_gb: 200,
            per_month: Some(("100".to_owned(), Exact::parse("100").unwrap())),
            per_hour: None,
        };
        Offer {
            account: std::sync::Arc::new(serde_json::from_value(account).unwrap()),
            currency: Currency::find("EUR").unwrap(),
            sets: [("base".to_owned(), set)].into(),
            long_terms: Vec::new(),
            region: "r".to_owned(),
            retention_days: 7,
            early_days: 30,
            early_factor: "1.2".to_owned(),
            bound: false,
        }
    }

    fn machine<'a>(
        group: &'a DedicatedGroup,
        part: &'a Part,
        stage: Stage,
        uses: Vec<Hourly>,
    ) -> Machine<'a> {
        Machine {
            name: "base-0".to_owned(),
            set: group.spec.machine_sets.first(),
            is_live: true,
            part,
            lease: Lease::default(),
            paid: Vec::new(),
            held: None,
            uses,
            stage,
            older_renewals: 0,
        }
    }

    fn at(time: &str) -> Timestamp {
        format!("2026-11-25T{time}Z").parse().unwrap()
    }

    /// A conversion begins in the second in which it is bought. Before the use that it shall end it would end none, and be bought again.
    #[test]
    fn a_machine_is_converted_only_once_its_use_has_begun() {
        let set = json!({
            "name": "base", "machineType": "m8", "count": 1, "systemDiskGB": 200, "billing": "Prepaid", "term": {"months": 1},
        });
        let (group, part) = (group(&set), Part::default());
        // Its node was lost at 11:00:01, the hour until 12:00 is charged, and the next node came at 11:11.
        let lost = Hourly {
            from: at("10:00:00"),
            billed: at("12:00:00"),
            end: Some(End::GivenBack(at("11:00:01"))),
        };
        let open = Hourly { from: at("12:00:00"), billed: at("12:00:00"), end: None };
        let machine = machine(&group, &part, Stage::Hourly, vec![lost, open]);
        for (now, converts) in
            [("11:20:00", false), ("11:59:59", false), ("12:00:00", true), ("12:30:00", true)]
        {
            let next = machine.next(&group, &offer(), at(now)).unwrap();
            assert_eq!(next.map(|it| it.purpose == Purpose::Conversion), converts.then_some(true), "{now}");
        }
    }

    #[test]
    fn who_has_not_looked_at_the_account_gives_no_machine_a_node_and_takes_none() {
        let set = json!({"name": "base", "machineType": "m8", "count": 1, "systemDiskGB": 200, "billing": "Postpaid"});
        let (group, part) = (group(&set), Part::default());
        let long_ago = Arrears::Since("2026-11-01T00:00:00Z".parse().unwrap());
        for (stage, has_node, arrears, expected) in [
            (Stage::Away, false, Arrears::Unknown, false),
            (Stage::Away, true, Arrears::Unknown, true),
            (Stage::Away, false, Arrears::Clear, true),
            (Stage::Away, false, long_ago, false),
            (Stage::New, false, Arrears::Unknown, false),
            (Stage::New, true, Arrears::Unknown, true),
            (Stage::New, false, Arrears::Clear, true),
            (Stage::New, true, long_ago, false),
        ] {
            let view = View { machines: vec![machine(&group, &part, stage, Vec::new())] };
            let nodes = BTreeSet::from_iter(has_node.then(|| "base-0".to_owned()));
            let claimed = view.claimed(&group, Some(&offer()), &nodes, arrears, at("10:00:00"));
            let is_paid = match stage {
                Stage::Away => claimed.returning.get("base-0") == Some(&true),
                _ => claimed.paid,
            };
            assert_eq!(is_paid, expected, "{stage:?}, has a node {has_node}, {arrears:?}");
        }
    }
}
