//! Who gets which cards: one pure function for all contracts, because they compete for the same cards.
//!
//! `plan` serves the claims in this declared order, and within each step the older contract first (ties by key):
//!
//! 0. what is locked stays; the book is restored where somebody else changed the shares; faulty cards leave the shared
//!    ones first; what no contract claims any more is given back as far as no pod sits on it;
//! 1. replacements of lost cards and machines that are bought, and of pools' cards on nodes that go away; then machines that come
//!    back, each by itself;
//! 2. pools, whole orders only, and only paid ones;
//! 3. groups, whole orders only;
//! 4. serverless workers up to `active`;
//! 5. serverless workers above it;
//! 6. spot servers, the highest bid first.
//!
//! Where cards lack in 1 to 3, spot servers are told to go (`market::clear` says which), and what is free is set aside for the
//! purchase until they have gone: who comes after it gets none of that.
//!
//! Where cards come from: pools in as few nodes as possible, broken nodes before whole ones, the tightest fit first;
//! workers and spot servers likewise on one node; machines by name. Ties go to the first name. The result does not
//! depend on the order of the input, and the plan of a planned fleet is empty.

mod board;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use super::book::{Key, Share, Shares};
use super::fleet::{Claim, Demand, Given, Machine, Snapshot};
use super::market::{Cause, Clearing};
use board::Board;

/// What to do, and what each contract has or why it has not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Nodes whose shares must change, by name.
    pub moves: Vec<Move>,
    /// By contract.
    pub outcomes: BTreeMap<Key, Outcome>,
    /// Pods that were bound while their share shrank: this many cards of a share must be freed on a node.
    pub excess: Vec<Excess>,
}

/// The shares that a node shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The node.
    pub node: String,
    /// All its shares.
    pub target: Shares,
    /// The machine that it shall be given to.
    pub given: Option<Given>,
}

/// Cards that pods use beyond a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// The node.
    pub node: String,
    /// The share that is overrun.
    pub share: Share,
    /// By how many cards.
    pub cards: u32,
}

/// What a contract has now, and what comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// The claim that this is the answer to.
    pub version: String,
    /// What it has now, by node; machines by name.
    pub holdings: Vec<Holding>,
    /// Why it does not get the rest.
    pub shortage: Option<Shortage>,
    /// Machines that would come back and find no node.
    pub no_node: Vec<String>,
    /// For each further worker that there is room for: the node where it fits best.
    pub worker_nodes: Vec<String>,
    /// Workers that existed when this was decided.
    pub workers: u32,
    /// Of a spot server that has cards: why it has to go.
    pub cause: Option<Cause>,
}

impl Outcome {
    /// Cards in all holdings.
    pub fn cards(&self) -> u32 {
        self.holdings.iter().map(|it| it.cards).sum()
    }

    /// The nodes for further workers, now that there are so many: those that were created since have taken the first ones.
    pub fn nodes_left(&self, workers: u32) -> &[String] {
        let created = usize::try_from(workers.saturating_sub(self.workers)).unwrap_or(usize::MAX);
        self.worker_nodes.get(created..).unwrap_or_default()
    }

    /// Cards in holdings that can be used now.
    pub fn cards_in_place(&self) -> u32 {
        self.holdings.iter().filter(|it| it.in_place).map(|it| it.cards).sum()
    }
}

/// Cards of a contract on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The node.
    pub node: String,
    /// Cards.
    pub cards: u32,
    /// The machine's name, for a group.
    pub machine: Option<String>,
    /// Are they in the node's capacity now, and the node Ready? Not while the node's cards are away (a kubelet that starts
    /// anew) or the move is under way.
    pub in_place: bool,
}

/// Why a contract does not get what it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// Not enough free cards (or not enough on one node).
    NoCards {
        /// Cards still needed.
        needed: u32,
        /// Free cards of that type in the whole fleet.
        free: u32,
    },
    /// Not enough free cards or machines, and spot servers could give the rest: they have their notice, as soon as there is money
    /// for it.
    Reclaiming {
        /// Cards, or machines, still needed.
        needed: u32,
        /// Those that are free.
        free: u32,
    },
    /// No machine that is wholly free.
    SoldOut {
        /// Machines still needed.
        needed: u32,
        /// Machines that would fit and are wholly free.
        free: u32,
    },
    /// The account's quota of that card type.
    Quota {
        /// The most that the account may hold.
        limit: u32,
        /// What it holds.
        held: u32,
        /// What it needs more.
        needed: u32,
    },
}

impl Shortage {
    /// Cards lack; `comes`: spot servers can give them.
    fn of_cards(comes: bool, needed: u32, free: u32) -> Shortage {
        if comes { Shortage::Reclaiming { needed, free } } else { Shortage::NoCards { needed, free } }
    }

    /// Machines lack.
    fn of_machines(comes: bool, needed: u32, free: u32) -> Shortage {
        if comes { Shortage::Reclaiming { needed, free } } else { Shortage::SoldOut { needed, free } }
    }
}

/// Decides. See the module's text for the order.
pub fn plan(snapshot: &Snapshot) -> Plan {
    let mut claims: Vec<&Claim> = snapshot.claims.iter().collect();
    claims.sort_by(|a, b| (a.created_seconds, &a.key).cmp(&(b.created_seconds, &b.key)));

    // 0. What is there, put in order.
    let mut board = Board::new(snapshot, &claims);
    let servers = board.servers(&claims);
    let mut deal = Deal::new(snapshot, &claims, &board, Clearing::new(&servers));

    for claim in &claims {
        if let Demand::Workers { cards, unbound, .. } = &claim.demand {
            board.keep_promises(&claim.card_type, *cards, unbound);
        }
    }
    // 1. Replacements.
    for claim in &claims {
        deal.replace(&mut board, claim);
    }
    for claim in &claims {
        if let Demand::Dedicated { machines, returning, .. } = &claim.demand {
            deal.bring_back(&mut board, claim, machines, returning);
        }
    }
    // 2. Pools.
    for claim in &claims {
        if let Demand::Resident { cards, paid, funded, .. } = claim.demand {
            deal.buy_cards(&mut board, claim, cards, paid, funded);
        }
    }
    // 3. Groups.
    for claim in &claims {
        if let Demand::Dedicated { machines, returning, paid, funded, .. } = &claim.demand {
            deal.buy_machines(&mut board, claim, machines, returning, *paid, *funded);
        }
    }
    // 4. and 5. Workers.
    for claim in &claims {
        if let Demand::Workers { active, wanted, exist, .. } = claim.demand {
            deal.admit_workers(&mut board, claim, active.min(wanted).saturating_sub(exist));
        }
    }
    for claim in &claims {
        if let Demand::Workers { active, wanted, exist, .. } = claim.demand {
            deal.admit_workers(&mut board, claim, wanted.saturating_sub(exist.max(active.min(wanted))));
        }
    }
    // 6. Spot.
    let mut bids: Vec<&Claim> =
        claims.iter().copied().filter(|it| matches!(it.demand, Demand::Spot { .. })).collect();
    bids.sort_by_key(|it| std::cmp::Reverse(bid(it))); // stable: ties stay in the order of age
    for claim in bids {
        deal.start_spot(&mut board, claim);
    }

    for (key, cause) in deal.clearing.finish() {
        if let Some(outcome) = deal.outcomes.get_mut(key) {
            outcome.cause = Some(cause);
        }
    }
    let (moves, excess) = board.finish();
    Plan { moves, outcomes: deal.outcomes, excess }
}

fn bid(claim: &Claim) -> rust_decimal::Decimal {
    match claim.demand {
        Demand::Spot { bid, .. } => bid,
        Demand::Resident { .. } | Demand::Dedicated { .. } | Demand::Workers { .. } => {
            rust_decimal::Decimal::ZERO
        }
    }
}

/// What each contract has so far, and what each account holds.
struct Deal<'a, 's> {
    clearing: Clearing<'s>,
    outcomes: BTreeMap<Key, Outcome>,
    /// Cards (for a group: of machines that it still wants) that each contract has or gets in this plan.
    have: HashMap<&'a Key, u32>,
    /// Cards of pools on nodes that go away, that are not replaced yet.
    lost: HashMap<&'a Key, u32>,
    /// Machines of each group that have or get a node in this plan.
    placed: HashMap<&'a Key, Vec<String>>,
    held_by_account: HashMap<(&'a str, &'a str), u32>,
    quotas: &'a BTreeMap<(String, String), u32>,
}

impl<'a, 's> Deal<'a, 's> {
    fn new(
        snapshot: &'a Snapshot,
        claims: &[&'a Claim],
        board: &Board<'a>,
        clearing: Clearing<'s>,
    ) -> Deal<'a, 's> {
        let mut deal = Deal {
            clearing,
            outcomes: BTreeMap::new(),
            have: HashMap::new(),
            lost: HashMap::new(),
            placed: HashMap::new(),
            held_by_account: HashMap::new(),
            quotas: &snapshot.quotas,
        };
        let mut holdings = board.holdings();
        let mut all_kept = board.kept();
        for claim in claims {
            let found = holdings.remove(&claim.key).unwrap_or_default();
            let board::Kept { cards: kept, leaving, machines, by_type } =
                all_kept.remove(&claim.share()).unwrap_or_default();
            deal.placed.insert(&claim.key, machines);
            let (workers, workers_cards) = match claim.demand {
                Demand::Workers { cards, exist, .. } => (exist, cards * exist),
                Demand::Resident { .. } | Demand::Dedicated { .. } | Demand::Spot { .. } => (0, 0),
            };
            // What goes away with its node is replaced while it is still there.
            let (lost, twice) = match claim.demand {
                Demand::Resident { bought, .. } => (leaving, leaving.min(kept.saturating_sub(bought))),
                Demand::Dedicated { .. } | Demand::Workers { .. } | Demand::Spot { .. } => (0, 0),
            };
            deal.have.insert(&claim.key, kept - lost);
            deal.lost.insert(&claim.key, lost - twice);
            *deal.held_by_account.entry((&claim.account, &claim.card_type)).or_insert(0) += workers_cards;
            // By the type of the cards themselves: a group can have machines of several.
            for (card_type, cards) in by_type {
                *deal.held_by_account.entry((&claim.account, card_type)).or_insert(0) += cards;
            }
            // What a pool has twice for a while is no more of its account's quota.
            deal.not_held(claim, twice);
            deal.outcomes.insert(
                claim.key.clone(),
                Outcome { version: claim.version.clone(), holdings: found, workers, ..Outcome::default() },
            );
        }
        deal
    }

    /// Gives back what was bought and lost, as far as there are cards.
    fn replace(&mut self, board: &mut Board<'a>, claim: &'a Claim) {
        match &claim.demand {
            Demand::Resident { cards, bought, paid: _, funded: _ } => {
                let lost = (*bought).min(*cards).saturating_sub(self.have[&claim.key]);
                let free = board.free(&claim.card_type);
                let placed = lost.min(free);
                board.place_cards(&claim.card_type, &claim.share(), placed);
                self.gained(claim, placed);
                self.not_held(claim, placed.min(self.lost[&claim.key]));
                if placed < lost {
                    let (needed, free) = (lost - placed, free - placed);
                    let comes = self.clearing.ask(&claim.card_type, needed);
                    self.short(claim, Shortage::of_cards(comes, needed, free));
                }
            }
            Demand::Dedicated { machines, bought, returning: _, paid: _, funded: _ } => {
                for machine in machines.iter().filter(|it| bought.contains(&it.name)) {
                    if self.placed[&claim.key].contains(&machine.name) {
                        continue;
                    }
                    if board.place_machine(&claim.key, machine) {
                        self.placed.entry(&claim.key).or_default().push(machine.name.clone());
                        self.gained_of(claim, &machine.card_type, machine.cards);
                    } else {
                        let comes = self.ask_machines(board, &[machine], true);
                        self.short(claim, Shortage::of_machines(comes, 1, 0));
                    }
                }
            }
            Demand::Spot { .. } | Demand::Workers { .. } => (),
        }
    }

    /// A pool's order: all of what is missing or nothing. One that is not paid takes nothing, and hears whether it would fit; with
    /// money for it on the account, what is free waits for it, and spot servers go for the rest.
    fn buy_cards(&mut self, board: &mut Board<'a>, claim: &'a Claim, cards: u32, paid: bool, funded: bool) {
        let needed = cards.saturating_sub(self.have[&claim.key]);
        if needed == 0 || self.outcomes[&claim.key].shortage.is_some() || self.over_quota(claim, needed) {
            return;
        }
        let free = board.free(&claim.card_type);
        let lack = needed.saturating_sub(free);
        if lack > 0 {
            let comes = if funded {
                self.clearing.ask(&claim.card_type, lack)
            } else {
                self.clearing.could(&claim.card_type, lack)
            };
            if comes && funded {
                board.set_aside(&claim.card_type, &claim.share(), free);
                self.promised(claim, &claim.card_type, needed);
            }
            self.short(claim, Shortage::of_cards(comes, needed, free));
        } else if paid {
            board.place_cards(&claim.card_type, &claim.share(), needed);
            self.gained(claim, needed);
        } else if funded {
            board.set_aside(&claim.card_type, &claim.share(), needed);
            self.promised(claim, &claim.card_type, needed);
        }
    }

    fn not_held(&mut self, claim: &'a Claim, cards: u32) {
        let held = self.held_by_account.entry((&claim.account, &claim.card_type)).or_insert(0);
        *held = held.saturating_sub(cards);
    }

    /// Cards that an account will have as soon as they are there, or paid: they count against its quota already.
    fn promised(&mut self, claim: &'a Claim, card_type: &'a str, cards: u32) {
        *self.held_by_account.entry((&claim.account, card_type)).or_insert(0) += cards;
    }

    /// Machines that come back, each by itself. One that is not paid takes nothing, and hears whether there is a node.
    fn bring_back(
        &mut self,
        board: &mut Board<'a>,
        claim: &'a Claim,
        machines: &'a [Machine],
        returning: &BTreeMap<String, bool>,
    ) {
        for machine in machines {
            let Some(paid) = returning.get(&machine.name) else { continue };
            if self.placed[&claim.key].contains(&machine.name) {
                continue;
            }
            let is_over = self.quota_short_of(claim, &machine.card_type, machine.cards).is_some();
            if is_over || board.machines_that_fit(&[machine]) == 0 {
                if let Some(outcome) = self.outcomes.get_mut(&claim.key) {
                    outcome.no_node.push(machine.name.clone());
                }
            } else if *paid {
                let done = board.place_machine(&claim.key, machine);
                assert!(done, "counted as free a moment ago");
                self.placed.entry(&claim.key).or_default().push(machine.name.clone());
                self.gained_of(claim, &machine.card_type, machine.cards);
            }
        }
    }

    /// A group's order: all missing machines or none. One that is not paid takes nothing, and hears whether it would fit.
    fn buy_machines(
        &mut self,
        board: &mut Board<'a>,
        claim: &'a Claim,
        machines: &'a [Machine],
        returning: &BTreeMap<String, bool>,
        paid: bool,
        funded: bool,
    ) {
        let placed = &self.placed[&claim.key];
        let is_ordered = |it: &&Machine| !placed.contains(&it.name) && !returning.contains_key(&it.name);
        let mut missing: Vec<&'a Machine> = machines.iter().filter(is_ordered).collect();
        // Machines with a zone first: one without must not take the only node of a zone that another needs.
        missing.sort_by_key(|it| it.zone.is_empty());
        if missing.is_empty() || self.outcomes[&claim.key].shortage.is_some() {
            return;
        }
        let mut by_type: BTreeMap<&'a str, u32> = BTreeMap::new();
        for machine in &missing {
            *by_type.entry(&machine.card_type).or_default() += machine.cards;
        }
        if by_type.iter().any(|(card_type, cards)| self.over_quota_of(claim, card_type, *cards)) {
            return;
        }
        let fits = board.machines_that_fit(&missing);
        if fits < missing.len() {
            let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
            let comes = self.ask_machines(board, &missing, funded);
            for (card_type, cards) in by_type.into_iter().filter(|_| comes && funded) {
                self.promised(claim, card_type, cards);
            }
            return self.short(claim, Shortage::of_machines(comes, count(missing.len()), count(fits)));
        }
        if !paid && funded {
            board.set_machines_aside(&missing);
            for (card_type, cards) in by_type {
                self.promised(claim, card_type, cards);
            }
        }
        for machine in missing.into_iter().filter(|_| paid) {
            let done = board.place_machine(&claim.key, machine);
            assert!(done, "counted as free a moment ago");
            self.gained_of(claim, &machine.card_type, machine.cards);
        }
    }

    /// Has spot servers leave nodes for machines that lack; false, and nobody leaves, when that is not enough for all of them.
    fn ask_machines(&mut self, board: &mut Board<'a>, machines: &[&Machine], funded: bool) -> bool {
        let mut nodes: Vec<usize> = Vec::new();
        for machine in machines {
            let all = board.nodes_for(machine).into_iter().filter(|it| !nodes.contains(it));
            let Some(node) = self.clearing.find_machine(all) else { return false };
            nodes.push(node);
        }
        // For who can't pay nobody goes.
        for node in nodes.into_iter().filter(|_| funded) {
            self.clearing.ask_machine(node);
            board.keep_for_machine(node);
        }
        true
    }

    fn admit_workers(&mut self, board: &mut Board<'a>, claim: &'a Claim, count: u32) {
        let Demand::Workers { cards, .. } = claim.demand else { return };
        for _ in 0..count {
            if self.outcomes[&claim.key].shortage.is_some() || self.over_quota(claim, cards) {
                return;
            }
            let Some(node) = board.place_worker(&claim.card_type, cards) else {
                let free = board.free(&claim.card_type);
                return self.short(claim, Shortage::NoCards { needed: cards, free });
            };
            self.gained(claim, cards);
            if let Some(outcome) = self.outcomes.get_mut(&claim.key) {
                outcome.worker_nodes.push(node);
            }
        }
    }

    fn start_spot(&mut self, board: &mut Board<'a>, claim: &'a Claim) {
        let Demand::Spot { cards, bid: _, may_start, hold: _ } = claim.demand else { return };
        if self.have[&claim.key] > 0 || !may_start || cards == 0 || self.over_quota(claim, cards) {
            return;
        }
        if board.place_spot(&claim.card_type, &claim.share(), cards) {
            self.gained(claim, cards);
        } else {
            let free = board.free(&claim.card_type);
            self.short(claim, Shortage::NoCards { needed: cards, free });
        }
    }

    fn over_quota(&mut self, claim: &'a Claim, needed: u32) -> bool {
        self.over_quota_of(claim, &claim.card_type, needed)
    }

    fn over_quota_of(&mut self, claim: &Claim, card_type: &str, needed: u32) -> bool {
        let short = self.quota_short_of(claim, card_type, needed);
        short.is_some_and(|it| {
            self.short(claim, it);
            true
        })
    }

    fn quota_short_of(&self, claim: &Claim, card_type: &str, needed: u32) -> Option<Shortage> {
        let limit = self.quotas.get(&(claim.account.clone(), card_type.to_owned())).copied()?;
        let held = self.held_by_account.get(&(claim.account.as_str(), card_type)).copied().unwrap_or(0);
        (held + needed > limit).then_some(Shortage::Quota { limit, held, needed })
    }

    fn gained(&mut self, claim: &'a Claim, cards: u32) {
        self.gained_of(claim, &claim.card_type, cards);
    }

    fn gained_of(&mut self, claim: &'a Claim, card_type: &'a str, cards: u32) {
        *self.have.entry(&claim.key).or_insert(0) += cards;
        *self.held_by_account.entry((&claim.account, card_type)).or_insert(0) += cards;
    }

    fn short(&mut self, claim: &Claim, shortage: Shortage) {
        if let Some(outcome) = self.outcomes.get_mut(&claim.key) {
            outcome.shortage.get_or_insert(shortage);
        }
    }
}
