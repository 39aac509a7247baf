//! The snapshot that the allocator decides on: nodes with their cards, and what the contracts claim. A value, built elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;

use super::book::{InUse, Key, Share, Shares};
use super::units::Size;

/// Everything that one decision depends on.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What goes with one card, by card type.
    pub card_types: BTreeMap<String, Size>,
    /// The managed nodes.
    pub nodes: Vec<Node>,
    /// What the contracts want. Their order does not matter.
    pub claims: Vec<Claim>,
    /// Contracts of which nobody can tell what they want now (the object can't be read, what it names is away): they keep
    /// what they have.
    pub frozen: BTreeSet<Key>,
    /// Most cards of a type that an account may hold at once: (account, card type) → cards. Absent: no limit.
    pub quotas: BTreeMap<(String, String), u32>,
}

/// A managed node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The card type of all its cards.
    pub card_type: String,
    /// Its zone; empty when it has none.
    pub zone: String,
    /// Physical cards in its capacity.
    pub cards: u32,
    /// min(capacity, allocatable) of the physical cards: those that are not faulty.
    pub healthy: u32,
    /// CPU, memory and disk that are left for cards: allocatable, less what pods without cards ask for.
    pub size: Size,
    /// The shares in its capacity.
    pub shares: Shares,
    /// The shares as we last wrote them; absent on a node that is new (or was made anew).
    pub book: Option<Shares>,
    /// The machine of a group that it is given to.
    pub given: Option<Given>,
    /// Cards that the pods on it ask for.
    pub in_use: InUse,
    /// Pods on it (with or without cards) of the group that it is given to.
    pub group_pods: u32,
    /// Does its kubelet say that it is Ready?
    pub ready: bool,
    /// May new work be placed here: Ready, not cordoned, not on its way out.
    pub open: bool,
    /// Does it go away: is there a notice?
    pub leaving: bool,
}

/// A node's place in a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Given {
    /// The group.
    pub group: Key,
    /// The machine's name in it, e.g. `base-0`.
    pub machine: String,
}

/// What a contract claims.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The contract.
    pub key: Key,
    /// The card type; for a group each machine names its own.
    pub card_type: String,
    /// Who pays, for quotas.
    pub account: String,
    /// When the contract was created, seconds since 1970: the older is served first, ties by key.
    pub created_seconds: i64,
    /// What this claim was made from, e.g. the object's generation. It comes back in the outcome.
    pub version: String,
    /// What it wants.
    pub demand: Demand,
}

/// What a contract wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Demand {
    /// Cards locked for a pool, anywhere.
    Resident {
        /// Cards in all; fewer than are locked gives the unused rest back.
        cards: u32,
        /// Cards that are bought already: lost ones among them are replaced before anybody buys.
        bought: u32,
        /// Is there money for those that are not bought yet? If not, the answer only says whether they would fit.
        paid: bool,
        /// Is there as much on the account, so that spot servers may be reclaimed for it?
        funded: bool,
    },
    /// Whole machines.
    Dedicated {
        /// The machines, by name.
        machines: Vec<Machine>,
        /// Names among `machines` that are bought: a lost one is replaced before anybody buys.
        bought: Vec<String>,
        /// Those among `machines` that were bought once and come back, each by itself: each is there money for it? If not, the answer
        /// only says whether there is a node.
        returning: BTreeMap<String, bool>,
        /// Is there money for all others, which are one order? If not, the answer only says whether they would fit.
        paid: bool,
        /// Is there enough on the account for that order, as far as is known? Only then does anybody go for it.
        funded: bool,
    },
    /// Cards for a spot server, on one node.
    Spot {
        /// Cards on one node.
        cards: u32,
        /// Most to pay per card-hour: the higher is served first.
        bid: Decimal,
        /// May it start now (bid ≥ price, account in order)?
        may_start: bool,
        /// What may take its cards back when it has them.
        hold: Hold,
    },
    /// Serverless workers on shared cards; the scheduler binds them, the plan says how many there is room for, and where.
    Workers {
        /// Cards per worker.
        cards: u32,
        /// Workers that are always on.
        active: u32,
        /// Workers wanted now.
        wanted: u32,
        /// Worker pods that exist and are not on their way out, bound or not.
        exist: u32,
        /// For each of them that is not bound yet: the node that it was promised.
        unbound: Vec<String>,
    },
}

/// How firmly a spot server has its cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four things that come and go by themselves, no states of one"
)]
pub struct Hold {
    /// In its protected time neither price nor shortage touches it.
    pub is_protected: bool,
    /// The price is above its bid.
    pub is_outbid: bool,
    /// Its account does not pay.
    pub in_arrears: bool,
    /// It has a notice.
    pub is_noticed: bool,
}

/// A machine that a group wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name, e.g. `base-0`.
    pub name: String,
    /// The type of its cards.
    pub card_type: String,
    /// Cards that the machine type has; a node with another number does not fit.
    pub cards: u32,
    /// Zone; empty = any.
    pub zone: String,
}

impl Claim {
    /// The share that this contract's cards are in.
    pub fn share(&self) -> Share {
        match &self.demand {
            Demand::Resident { .. } => Share::Resident(self.key.clone()),
            Demand::Dedicated { .. } => Share::Dedicated(self.key.clone()),
            Demand::Spot { .. } => Share::Spot(self.key.clone()),
            Demand::Workers { .. } => Share::Shared,
        }
    }
}
