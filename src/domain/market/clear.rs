//! Clearing: which servers have to go. First those that nothing keeps (arrears; a price above the bid), then the fewest whose cards
//! suffice for the purchases that lack some.
//!
//! Purchases ask in their own declared order, and each hears whether servers can give what it lacks. What comes back anyway counts
//! first. Among the servers that may be reclaimed for a shortage, the fewest are taken that free enough for all purchases
//! together; among sets of that size one with servers that have their notice already, then the one with the lowest bids (compared
//! from the lowest one up), then the one with the younger servers. For a whole machine likewise, node by node. Nobody in the
//! protected time is taken. The result does not depend on the order of the input, and nobody is taken without whom the rest
//! would do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use rust_decimal::Decimal;

use super::Cause;
use crate::domain::book::Key;

/// A server that has cards.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "things that come and go by themselves, no states of one")]
pub struct Server<'a> {
    /// The server.
    pub key: &'a Key,
    /// The type of its cards.
    pub card_type: &'a str,
    /// Its node, by number.
    pub node: usize,
    /// Cards that a purchase can have when it is gone; 0 on a node on which nothing may be placed.
    pub frees: u32,
    /// Its bid.
    pub bid: Decimal,
    /// When it was created.
    pub created_seconds: i64,
    /// Is it in its protected time, in which neither price nor shortage touches it?
    pub is_protected: bool,
    /// Is the price above its bid?
    pub is_outbid: bool,
    /// Is its account in arrears, and its time on the recovery list under way or over?
    pub in_arrears: bool,
    /// Has it a notice?
    pub is_noticed: bool,
    /// Is it on its way out, whatever happens?
    pub is_leaving: bool,
}

impl Server<'_> {
    fn cause(&self) -> Option<Cause> {
        match () {
            () if self.is_leaving => None,
            () if self.in_arrears => Some(Cause::Arrears),
            () if self.is_outbid && !self.is_protected => Some(Cause::PriceAboveBid),
            () => None,
        }
    }

    /// Who goes first for a shortage.
    fn order(&self) -> impl Ord + use<'_> {
        (!self.is_noticed, self.bid, Reverse((self.created_seconds, self.key)))
    }
}

/// Who has to go, while purchases ask one after the other.
#[derive(Debug, Default)]
pub struct Clearing<'a> {
    causes: BTreeMap<&'a Key, Cause>,
    types: BTreeMap<&'a str, Stock<'a>>,
    /// By node.
    nodes: HashMap<usize, Vec<&'a Server<'a>>>,
}

/// The servers of a card type.
#[derive(Debug, Default)]
struct Stock<'a> {
    /// Cards that purchases lack.
    lack: u64,
    /// Cards of those who go anyway.
    going: u64,
    /// Cards of all who may be reclaimed for a shortage.
    may_come: u64,
    /// Who may be.
    may_go: Vec<&'a Server<'a>>,
}

impl<'a> Clearing<'a> {
    /// Notes who goes without anybody asking.
    pub fn new(servers: &'a [Server<'a>]) -> Clearing<'a> {
        let mut clearing = Clearing::default();
        for server in servers {
            clearing.nodes.entry(server.node).or_default().push(server);
            if let Some(cause) = server.cause() {
                clearing.causes.insert(server.key, cause);
            }
            let stock = clearing.types.entry(server.card_type).or_default();
            if server.is_leaving || server.cause().is_some() {
                stock.going += u64::from(server.frees);
            } else if !server.is_protected && server.frees > 0 {
                stock.may_come += u64::from(server.frees);
                stock.may_go.push(server);
            }
        }
        clearing
    }

    /// Could servers give so many cards more?
    pub fn could(&self, card_type: &str, lack: u32) -> bool {
        let stock = self.types.get(card_type);
        stock.is_some_and(|it| it.going + it.may_come >= it.lack + u64::from(lack))
    }

    /// A purchase lacks cards: servers go for it. False, and nobody goes, when they can't give so many.
    pub fn ask(&mut self, card_type: &str, lack: u32) -> bool {
        if !self.could(card_type, lack) {
            return false;
        }
        if let Some(stock) = self.types.get_mut(card_type) {
            stock.lack += u64::from(lack);
        }
        true
    }

    /// Of these nodes, on which nothing but servers is in the way, the one that is whole with the fewest of them gone. `None`
    /// when each has one that stays, or one that another purchase counts on. Nobody goes yet.
    pub fn find_machine(&self, nodes: impl IntoIterator<Item = usize>) -> Option<usize> {
        let cost = |node: usize| {
            let servers = self.nodes.get(&node).map(Vec::as_slice).unwrap_or_default();
            let mut goes: Vec<&Server> = servers.iter().copied().filter(|it| !self.goes(it)).collect();
            goes.sort_by(|a, b| a.order().cmp(&b.order()));
            let stays = goes.iter().any(|it| it.is_protected || it.frees == 0);
            let new = goes.iter().filter(|it| !it.is_noticed).count();
            let bids: Vec<Decimal> = goes.iter().map(|it| it.bid).collect();
            (!stays && self.can_spare(servers)).then_some((goes.len(), new, bids, node))
        };
        nodes.into_iter().filter_map(cost).min().map(|(.., node)| node)
    }

    /// Do the others have what purchases count on?
    fn can_spare(&self, servers: &[&Server]) -> bool {
        servers.iter().all(|server| {
            let here = servers.iter().filter(|it| it.card_type == server.card_type);
            let here: u64 = here.map(|it| u64::from(it.frees)).sum();
            let stock = self.types.get(server.card_type);
            stock.is_none_or(|it| it.lack == 0 || it.going + it.may_come >= it.lack + here)
        })
    }

    /// All servers go from a node, for a machine.
    pub fn ask_machine(&mut self, node: usize) {
        for server in self.nodes.get(&node).cloned().unwrap_or_default() {
            let goes = self.goes(server);
            let Some(stock) = self.types.get_mut(server.card_type) else { continue };
            if goes {
                stock.going = stock.going.saturating_sub(u64::from(server.frees));
            } else {
                stock.may_come = stock.may_come.saturating_sub(u64::from(server.frees));
                stock.may_go.retain(|it| it.key != server.key);
                self.causes.insert(server.key, Cause::Shortage);
            }
        }
    }

    fn goes(&self, server: &Server) -> bool {
        server.is_leaving || self.causes.contains_key(server.key)
    }

    /// Why servers have to go, by server: all purchases have asked.
    pub fn finish(mut self) -> BTreeMap<&'a Key, Cause> {
        for stock in self.types.values_mut() {
            let lack = stock.lack.saturating_sub(stock.going);
            if lack == 0 {
                continue;
            }
            stock.may_go.sort_by(|a, b| a.order().cmp(&b.order()));
            let taken = fewest(lack, &stock.may_go);
            self.causes.extend(taken.iter().map(|it| (it.key, Cause::Shortage)));
        }
        self.causes
    }
}

/// The fewest whose cards suffice; of several such sets the one with the first in order. Together they must suffice.
fn fewest<'a>(lack: u64, in_order: &[&'a Server<'a>]) -> Vec<&'a Server<'a>> {
    let mut left = lack;
    let mut sizes: BTreeMap<u32, usize> = BTreeMap::new();
    for it in in_order {
        *sizes.entry(it.frees).or_default() += 1;
    }
    let mut count = needed(&sizes, left);
    let mut taken = Vec::new();
    for server in in_order {
        if left == 0 || count == 0 {
            break;
        }
        // Either it is taken, or no set of that size has it.
        if let Some(it) = sizes.get_mut(&server.frees) {
            *it -= 1;
        }
        if u64::from(server.frees) + largest(&sizes, count - 1) >= left {
            left = left.saturating_sub(u64::from(server.frees));
            count -= 1;
            taken.push(*server);
        }
    }
    taken
}

/// How many are needed at least.
fn needed(sizes: &BTreeMap<u32, usize>, cards: u64) -> usize {
    let (mut left, mut count) = (cards, 0);
    for (size, number) in sizes.iter().rev() {
        let each = u64::from(*size).max(1);
        let of_these = usize::try_from(left.div_ceil(each)).unwrap_or(usize::MAX).min(*number);
        count += of_these;
        left = left.saturating_sub(each * of_these as u64);
        if left == 0 {
            break;
        }
    }
    count
}

/// Cards of so many of the largest.
fn largest(sizes: &BTreeMap<u32, usize>, count: usize) -> u64 {
    let (mut left, mut cards) = (count, 0);
    for (size, number) in sizes.iter().rev() {
        if left == 0 {
            break;
        }
        let of_these = left.min(*number);
        cards += u64::from(*size) * of_these as u64;
        left -= of_these;
    }
    cards
}
