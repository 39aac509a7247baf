//! The nodes while a plan is made: what each one's shares shall be, and which cards are still free.

use std::collections::HashMap;

use super::{Claim, Excess, Given, Holding, Key, Machine, Move, Share, Shares, Snapshot};
use crate::domain::fleet::{Demand, Node};
use crate::domain::market::Server;

/// What a contract keeps.
#[derive(Default)]
pub(super) struct Kept<'a> {
    pub(super) cards: u32,
    /// Of these, cards of nodes that go away.
    pub(super) leaving: u32,
    pub(super) by_type: HashMap<&'a str, u32>,
    pub(super) machines: Vec<String>,
}

pub(super) struct Board<'a> {
    slots: Vec<Slot<'a>>,
    /// Slots of a card type, by name of the node.
    by_type: HashMap<&'a str, Vec<usize>>,
}

struct Slot<'a> {
    node: &'a Node,
    /// Shares of contracts that this node shall have; `Shared` and `Held` are derived from them.
    locked: Shares,
    given: Option<Given>,
    /// Cards that may be sold here: healthy, and with CPU, memory and disk to go with them.
    limit: u32,
    /// Shared cards that nobody uses and nobody got in this plan.
    free: u32,
    /// Shared cards promised to workers that are not bound yet, or set aside for a purchase that waits for the rest.
    reserved: u32,
    /// Free cards that a machine waits on, so that nothing is placed here meanwhile.
    kept: u32,
    /// Does a machine wait for all of it? Then no other one counts on it.
    expected: bool,
    /// The node's cards are away while its book says that some are sold: nothing is decided about it.
    waiting: bool,
}

impl<'a> Board<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, claims: &[&'a Claim]) -> Board<'a> {
        let by_key: HashMap<&Key, &Claim> = claims.iter().map(|it| (&it.key, *it)).collect();
        let mut nodes: Vec<&Node> = snapshot.nodes.iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let mut slots: Vec<Slot> = nodes.iter().map(|node| Slot::new(node, snapshot, &by_key)).collect();
        let mut by_type: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, node) in nodes.iter().enumerate() {
            by_type.entry(&node.card_type).or_default().push(at);
        }
        give_back_surplus(&mut slots, claims);
        for slot in &mut slots {
            slot.count_free();
        }
        Board { slots, by_type }
    }

    /// What each contract has now, by key.
    pub(super) fn holdings(&self) -> HashMap<Key, Vec<Holding>> {
        let mut found: HashMap<Key, Vec<Holding>> = HashMap::new();
        for slot in &self.slots {
            for (share, cards) in slot.node.sold().iter() {
                let Some(key) = share.key() else { continue };
                let given = slot
                    .node
                    .given
                    .as_ref()
                    .filter(|it| matches!(share, Share::Dedicated(_)) && it.group == *key);
                found.entry(key.clone()).or_default().push(Holding {
                    node: slot.node.name.clone(),
                    cards,
                    machine: given.map(|it| it.machine.clone()),
                    in_place: slot.node.ready && !slot.waiting && slot.node.shares.get(share) >= cards,
                });
            }
        }
        found
    }

    /// What each share of a contract keeps after step 0: cards, and for a group the machines that keep their node.
    pub(super) fn kept(&self) -> HashMap<Share, Kept<'a>> {
        let mut kept: HashMap<Share, Kept<'a>> = HashMap::new();
        for slot in &self.slots {
            for (share, cards) in slot.locked.iter() {
                let entry = kept.entry(share.clone()).or_default();
                entry.cards += cards;
                entry.leaving += if slot.node.leaving { cards } else { 0 };
                *entry.by_type.entry(&slot.node.card_type).or_default() += cards;
            }
            if let Some(given) = &slot.given {
                kept.entry(Share::Dedicated(given.group.clone()))
                    .or_default()
                    .machines
                    .push(given.machine.clone());
            }
        }
        kept
    }

    /// Free cards of a type.
    pub(super) fn free(&self, card_type: &str) -> u32 {
        self.of_type(card_type).map(|at| self.slots[at].free).sum()
    }

    /// Sets cards aside for workers that exist and are not bound yet, on the node they were promised, or where they fit
    /// best when that one can't take them any more: nobody else shall be promised the same cards.
    pub(super) fn keep_promises(&mut self, card_type: &str, cards: u32, nodes: &[String]) {
        for name in nodes {
            let promised = self.slots.binary_search_by(|it| it.node.name.as_str().cmp(name)).ok();
            let promised = promised
                .filter(|at| self.slots[*at].free >= cards && self.slots[*at].node.card_type == card_type);
            if let Some(at) = promised.or_else(|| self.tightest(card_type, cards)) {
                self.slots[at].reserve(cards);
            }
        }
    }

    /// Locks cards for a contract in as few nodes as it can. There must be that many free ones.
    pub(super) fn place_cards(&mut self, card_type: &str, share: &Share, cards: u32) {
        self.take_cards(card_type, share, cards, |slot, taken| slot.lock(share, taken));
    }

    /// Sets cards aside for a purchase that is not made yet: nobody who comes after it gets them in this plan.
    pub(super) fn set_aside(&mut self, card_type: &str, share: &Share, cards: u32) {
        self.take_cards(card_type, share, cards, Slot::reserve);
    }

    fn take_cards(&mut self, card_type: &str, share: &Share, cards: u32, take: impl Fn(&mut Slot<'a>, u32)) {
        let mut needed = cards;
        while needed > 0 {
            // The tightest fit for all that is left, a node that has cards of this contract already before others;
            let fits = self.of_type(card_type).filter(|at| self.slots[*at].free >= needed).min_by_key(|at| {
                let slot = &self.slots[*at];
                (slot.locked.get(share) == 0, slot.is_whole(), slot.free, *at)
            });
            // else all of the node that has most, so that they are few.
            let at = fits.or_else(|| {
                self.of_type(card_type).filter(|at| self.slots[*at].free > 0).min_by_key(|at| {
                    let slot = &self.slots[*at];
                    (std::cmp::Reverse(slot.free), slot.locked.get(share) == 0, *at)
                })
            });
            let Some(at) = at else { unreachable!("the caller counted the free cards") };
            let taken = needed.min(self.slots[at].free);
            take(&mut self.slots[at], taken);
            needed -= taken;
        }
    }

    /// Finds a node for a worker; it is bound by the scheduler, so only the promise is noted.
    pub(super) fn place_worker(&mut self, card_type: &str, cards: u32) -> Option<String> {
        let at = self.tightest(card_type, cards)?;
        self.slots[at].reserve(cards);
        Some(self.slots[at].node.name.clone())
    }

    /// Locks cards on one node; false when no node has that many.
    pub(super) fn place_spot(&mut self, card_type: &str, share: &Share, cards: u32) -> bool {
        let Some(at) = self.tightest(card_type, cards) else { return false };
        self.slots[at].lock(share, cards);
        true
    }

    /// How many of the machines would get a node, were they placed now in this order.
    pub(super) fn machines_that_fit(&self, machines: &[&Machine]) -> usize {
        let mut taken: Vec<usize> = Vec::new();
        for machine in machines {
            let free = self
                .of_type(&machine.card_type)
                .find(|at| !taken.contains(at) && self.slots[*at].suits(machine));
            taken.extend(free);
        }
        taken.len()
    }

    /// The spot servers that have cards, and what they would free.
    pub(super) fn servers(&self, claims: &[&'a Claim]) -> Vec<Server<'a>> {
        let spots: HashMap<&Key, &'a Claim> = claims
            .iter()
            .filter(|it| matches!(it.demand, Demand::Spot { .. }))
            .map(|it| (&it.key, *it))
            .collect();
        let mut servers = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            for (share, cards) in slot.locked.iter() {
                let Share::Spot(key) = share else { continue };
                let Some(claim) = spots.get(key) else { continue };
                let Demand::Spot { cards: wanted, bid, may_start: _, hold } = claim.demand else { continue };
                servers.push(Server {
                    key: &claim.key,
                    card_type: &claim.card_type,
                    node: at,
                    frees: slot.frees(cards),
                    bid,
                    created_seconds: claim.created_seconds,
                    is_protected: hold.is_protected,
                    is_outbid: hold.is_outbid,
                    in_arrears: hold.in_arrears,
                    is_noticed: hold.is_noticed,
                    is_leaving: wanted == 0,
                });
            }
        }
        servers
    }

    /// Nodes that would suit the machine if it were not for spot servers.
    pub(super) fn nodes_for(&self, machine: &Machine) -> Vec<usize> {
        self.of_type(&machine.card_type).filter(|at| self.slots[*at].would_suit(machine)).collect()
    }

    /// Sets nodes aside for machines that fit and are not paid yet: nobody who comes after them gets those in this plan.
    pub(super) fn set_machines_aside(&mut self, machines: &[&Machine]) {
        for machine in machines {
            let fits = self.of_type(&machine.card_type).find(|at| self.slots[*at].suits(machine));
            if let Some(at) = fits {
                let free = self.slots[at].free;
                self.slots[at].reserve(free);
            }
        }
    }

    /// Keeps what is free of a node for a machine that waits for the rest of it.
    pub(super) fn keep_for_machine(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.kept = slot.free;
        slot.free = 0;
        slot.expected = true;
    }

    /// Gives a whole node to a group's machine; false when none is free.
    pub(super) fn place_machine(&mut self, group: &Key, machine: &Machine) -> bool {
        let Some(at) = self.of_type(&machine.card_type).find(|at| self.slots[*at].suits(machine)) else {
            return false;
        };
        let slot = &mut self.slots[at];
        slot.given = Some(Given { group: group.clone(), machine: machine.name.clone() });
        slot.limit = slot.node.healthy;
        slot.lock(&Share::Dedicated(group.clone()), slot.node.healthy);
        slot.free = 0;
        true
    }

    /// The nodes that must change, and the shares that pods overrun.
    pub(super) fn finish(self) -> (Vec<Move>, Vec<Excess>) {
        let mut moves = Vec::new();
        let mut excess = Vec::new();
        for slot in self.slots {
            if slot.waiting {
                continue;
            }
            let target = slot.target();
            let as_written = slot.node.book.as_ref() == Some(&slot.node.shares);
            if target != slot.node.shares || !as_written || slot.given != slot.node.given {
                moves.push(Move { node: slot.node.name.clone(), target, given: slot.given });
            } else if slot.node.healthy == slot.node.cards {
                // Only on a node that is wholly in order: after a fault or a restart a pod is not to blame.
                for (share, used) in slot.node.in_use.by_share.iter() {
                    let cards = used.saturating_sub(target.get(share));
                    if cards > 0 && !matches!(share, Share::Dedicated(_) | Share::Held) {
                        excess.push(Excess { node: slot.node.name.clone(), share: share.clone(), cards });
                    }
                }
            }
        }
        (moves, excess)
    }

    fn of_type(&self, card_type: &str) -> impl Iterator<Item = usize> + '_ {
        self.by_type.get(card_type).into_iter().flatten().copied()
    }

    fn tightest(&self, card_type: &str, cards: u32) -> Option<usize> {
        self.of_type(card_type).filter(|at| self.slots[*at].free >= cards).min_by_key(|at| {
            let slot = &self.slots[*at];
            (slot.is_whole(), slot.free, *at)
        })
    }
}

impl<'a> Slot<'a> {
    fn new(node: &'a Node, snapshot: &Snapshot, claims: &HashMap<&Key, &Claim>) -> Slot<'a> {
        let sold = node.sold();
        // A device plugin that restarts shows all its cards as gone or as not allocatable for a while.
        let waiting = node.healthy == 0 && sold.sum() > 0;
        let frozen = |key: &Key| snapshot.frozen.contains(key);
        let mut slot = Slot {
            node,
            locked: Shares::default(),
            given: node.given.clone(),
            limit: 0,
            free: 0,
            reserved: 0,
            kept: 0,
            expected: false,
            waiting,
        };
        for (share, cards) in sold.iter() {
            let Some(key) = share.key() else { continue };
            let claimed = match share {
                // A machine is what the group was given, not what some pod of it asks for.
                Share::Dedicated(_) => node.given.as_ref().is_some_and(|it| it.group == *key),
                _ => {
                    frozen(key)
                        || claims
                            .get(key)
                            .is_some_and(|it| it.share() == *share && it.card_type == node.card_type)
                }
            };
            slot.locked.add(share, if claimed { cards } else { cards.min(node.in_use.by_share.get(share)) });
        }
        slot.keep_machine(claims, node.given.as_ref().is_some_and(|it| frozen(&it.group)));
        if !waiting {
            slot.drop_faulty(claims);
        }
        let size = snapshot.card_types.get(&node.card_type).copied().unwrap_or_default();
        slot.limit =
            if slot.given.is_some() { node.healthy } else { node.healthy.min(node.size.fits(&size)) };
        slot
    }

    /// A machine of a group is its whole node, as long as the group wants it or has pods on it.
    fn keep_machine(&mut self, claims: &HashMap<&Key, &Claim>, frozen: bool) {
        let Some(given) = &self.given else { return };
        let share = Share::Dedicated(given.group.clone());
        let wanted = frozen
            || claims.get(&given.group).is_some_and(|it| match &it.demand {
                Demand::Dedicated { machines, bought, returning, paid, funded: _ } => {
                    // Without its money it goes back.
                    let is_paid = bought.contains(&given.machine)
                        || returning.get(&given.machine).copied().unwrap_or(*paid);
                    is_paid && machines.iter().any(|it| it.name == given.machine)
                }
                Demand::Resident { .. } | Demand::Spot { .. } | Demand::Workers { .. } => false,
            });
        let in_use = self.node.group_pods > 0 || self.node.in_use.sum() > 0;
        if self.waiting {
            return;
        }
        if wanted || in_use {
            self.locked.set(share, self.node.healthy);
        } else {
            self.locked.set(share, 0);
            self.given = None;
        }
    }

    /// Fewer healthy cards than are locked: spot servers lose theirs first, then the newest contract, unused cards only.
    fn drop_faulty(&mut self, claims: &HashMap<&Key, &Claim>) {
        let mut over = self.locked.sum().saturating_sub(self.node.healthy);
        if over == 0 {
            return;
        }
        let mut losers: Vec<Share> = self.locked.iter().map(|(share, _)| share.clone()).collect();
        losers.sort_by_key(|share| {
            let claim = share.key().and_then(|key| claims.get(key));
            (
                !matches!(share, Share::Spot(_)),
                std::cmp::Reverse(claim.map(|it| (it.created_seconds, &it.key))),
            )
        });
        for share in losers {
            let unused = self.locked.get(&share).saturating_sub(self.node.in_use.by_share.get(&share));
            over -= self.locked.take(&share, unused.min(over));
        }
    }

    /// Cards for serverless workers: what is neither locked nor under a pod of somebody else.
    fn shared(&self) -> u32 {
        let taken: u32 =
            self.locked.iter().map(|(share, cards)| cards.max(self.node.in_use.by_share.get(share))).sum();
        let unlocked: u32 = self
            .node
            .in_use
            .by_share
            .iter()
            .filter(|(share, _)| share.key().is_some() && self.locked.get(share) == 0)
            .map(|(_, used)| used)
            .sum();
        let left = self.limit.saturating_sub(taken + unlocked + self.node.in_use.foreign);
        // Never below what workers use, as far as there are cards.
        let used = self.node.in_use.by_share.get(&Share::Shared);
        left.max(used).min(self.node.healthy.saturating_sub(self.locked.sum()))
    }

    fn count_free(&mut self) {
        let open = self.node.open && !self.waiting && self.given.is_none();
        let used = self.node.in_use.by_share.get(&Share::Shared) + self.reserved;
        self.free = if open { self.shared().saturating_sub(used) } else { 0 };
    }

    fn is_whole(&self) -> bool {
        self.locked.is_empty() && self.reserved == 0 && self.node.in_use.sum() == 0
    }

    fn suits(&self, machine: &Machine) -> bool {
        let node = self.node;
        let whole = self.given.is_none()
            && self.is_whole()
            && node.group_pods == 0
            && node.open
            && !self.waiting
            && !self.expected;
        let sound = node.healthy == node.cards && node.cards == machine.cards;
        whole && sound && (machine.zone.is_empty() || machine.zone == node.zone)
    }

    /// Would it suit the machine without its spot servers?
    fn would_suit(&self, machine: &Machine) -> bool {
        let node = self.node;
        let spot = |share: &Share| matches!(share, Share::Spot(_));
        let only_spot = self.locked.iter().all(|(share, _)| spot(share))
            && node.in_use.by_share.iter().all(|(share, cards)| cards == 0 || spot(share))
            && node.in_use.foreign == 0;
        let empty =
            self.given.is_none() && only_spot && self.reserved == 0 && node.group_pods == 0 && !self.expected;
        let sound = node.healthy == node.cards && node.cards == machine.cards;
        empty && sound && node.open && !self.waiting && (machine.zone.is_empty() || machine.zone == node.zone)
    }

    /// How many cards can be sold more here when so many locked ones are not locked any more.
    fn frees(&self, cards: u32) -> u32 {
        if !self.node.open || self.waiting || self.given.is_some() {
            return 0;
        }
        let taken = self.locked.sum() + self.node.in_use.foreign;
        self.limit.saturating_sub(taken.saturating_sub(cards)) - self.limit.saturating_sub(taken)
    }

    fn lock(&mut self, share: &Share, cards: u32) {
        self.locked.add(share, cards);
        self.free = self.free.saturating_sub(cards);
        assert!(
            self.locked.sum() <= self.node.healthy,
            "more cards locked on {} than it has",
            self.node.name
        );
    }

    fn reserve(&mut self, cards: u32) {
        self.reserved += cards;
        self.free -= cards;
    }

    fn target(&self) -> Shares {
        let mut target = self.locked.clone();
        target.set(Share::Shared, self.shared().saturating_sub(self.kept));
        target.set(Share::Held, self.node.healthy.saturating_sub(target.sum()));
        target
    }
}

impl Node {
    /// The shares that count as sold: the book; on a node that has none what its capacity says; on one made anew what its
    /// pods use.
    fn sold(&self) -> &Shares {
        match &self.book {
            Some(book) => book,
            None if !self.shares.is_empty() => &self.shares,
            None => &self.in_use.by_share,
        }
    }
}

/// Unused cards beyond what a contract wants go back, first those of the node where it uses fewest.
fn give_back_surplus(slots: &mut [Slot<'_>], claims: &[&Claim]) {
    let mut places: HashMap<Share, Vec<usize>> = HashMap::new();
    for (at, slot) in slots.iter().enumerate() {
        for (share, _) in slot.locked.iter() {
            places.entry(share.clone()).or_default().push(at);
        }
    }
    for claim in claims {
        let share = claim.share();
        let Some(at) = places.get_mut(&share) else { continue };
        if let Demand::Spot { cards, .. } = claim.demand {
            // A server is on one node: what is left of one after a fault is of no use to it.
            for slot in at.iter() {
                let slot = &mut slots[*slot];
                if slot.locked.get(&share) < cards
                    && slot.node.in_use.by_share.get(&share) == 0
                    && !slot.waiting
                {
                    slot.locked.set(share.clone(), 0);
                }
            }
        }
        let cards_on = |leaving: bool| -> u32 {
            let these = at.iter().filter(|at| slots[**at].node.leaving == leaving);
            these.map(|at| slots[*at].locked.get(&share)).sum()
        };
        let (staying, leaving) = (cards_on(false), cards_on(true));
        let have = match claim.demand {
            // Cards of nodes that go away are had twice once they are replaced.
            Demand::Resident { bought, .. } => staying + leaving.min(bought.saturating_sub(staying)),
            Demand::Dedicated { .. } | Demand::Spot { .. } | Demand::Workers { .. } => staying + leaving,
        };
        let wanted = match &claim.demand {
            // Somebody came in between while the order was carried out: it is whole or it is not, so what there is of it
            // goes back, and all of it is bought anew when it fits. And without its money all of it goes back.
            Demand::Resident { cards, bought, paid, funded: _ } if have < *cards || !paid => *bought,
            Demand::Resident { cards, .. } | Demand::Spot { cards, .. } => *cards,
            Demand::Dedicated { .. } | Demand::Workers { .. } => continue,
        };
        for (is_leaving, have) in [(false, staying), (true, leaving)] {
            let of_these: Vec<usize> =
                at.iter().copied().filter(|at| slots[*at].node.leaving == is_leaving).collect();
            give_back(slots, of_these, &share, have.saturating_sub(wanted));
        }
    }
}

/// Gives back so many unused cards of a share, on these nodes.
fn give_back(slots: &mut [Slot<'_>], mut at: Vec<usize>, share: &Share, mut surplus: u32) {
    // Where the cards are away nothing is decided: what is there too many waits for their return, and what is in place stays.
    let away = at.iter().filter(|at| slots[**at].waiting);
    surplus -= away.map(|at| slots[*at].locked.get(share)).sum::<u32>().min(surplus);
    at.retain(|at| !slots[*at].waiting);
    at.sort_by_key(|at| {
        (slots[*at].node.in_use.by_share.get(share), slots[*at].locked.get(share), std::cmp::Reverse(*at))
    });
    for at in at {
        let slot = &mut slots[at];
        let unused = slot.locked.get(share).saturating_sub(slot.node.in_use.by_share.get(share));
        surplus -= slot.locked.take(share, unused.min(surplus));
    }
}
