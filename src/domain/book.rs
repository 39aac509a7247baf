//! The shares of one node, and how cards move between them without ever being taken from under a pod.
//!
//! A move is two steps with a look in between: `shrink` takes from the givers into `held`, the shell then reads the
//! node's pods afresh, and `settle` passes on only what those pods really leave unused.

use std::collections::BTreeMap;
use std::fmt;

/// A contract's key: its name cut to 40 characters, `-`, and 8 hex digits of its UID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The key of the object with this name and UID.
    pub fn new(name: &str, uid: &str) -> Key {
        // A resource name's part ends with a letter or digit, and so does every prefix that we keep.
        let short = name.chars().take(40).collect::<String>();
        let hex: String = uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Key(format!("{short}-{}", hex.to_ascii_lowercase()))
    }

    /// A key as it was printed.
    pub fn parse(text: &str) -> Key {
        Key(text.to_owned())
    }

    /// The key as it stands in a resource name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// To whom a card of a managed node belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// Locked for a pool.
    Resident(Key),
    /// Of a machine given to a group.
    Dedicated(Key),
    /// Of a spot server.
    Spot(Key),
    /// For serverless workers.
    Shared,
    /// In transit, quarantined, or without the CPU, memory or disk to go with it. Nobody can ask for it.
    Held,
}

impl Share {
    /// The extended resource on the node that counts this share.
    pub fn resource(&self) -> String {
        match self {
            Share::Resident(key) => format!("resident.tenure.dev/{key}"),
            Share::Dedicated(key) => format!("dedicated.tenure.dev/{key}"),
            Share::Spot(key) => format!("spot.tenure.dev/{key}"),
            Share::Shared => "shared.tenure.dev/cards".to_owned(),
            Share::Held => "held.tenure.dev/cards".to_owned(),
        }
    }

    /// The share that a resource name counts; `None` for a resource that is not ours.
    pub fn parse(resource: &str) -> Option<Share> {
        let (domain, name) = resource.split_once('/')?;
        let key = || Key(name.to_owned());
        match domain.strip_suffix(".tenure.dev")? {
            "resident" => Some(Share::Resident(key())),
            "dedicated" => Some(Share::Dedicated(key())),
            "spot" => Some(Share::Spot(key())),
            "shared" => (name == "cards").then_some(Share::Shared),
            "held" => (name == "cards").then_some(Share::Held),
            _ => None,
        }
    }

    /// The contract whose share this is; `None` for shared and held.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Share::Resident(key) | Share::Dedicated(key) | Share::Spot(key) => Some(key),
            Share::Shared | Share::Held => None,
        }
    }
}

/// Cards by share. A share that is absent has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shares(BTreeMap<Share, u32>);

impl Shares {
    /// The cards of a share.
    pub fn get(&self, share: &Share) -> u32 {
        self.0.get(share).copied().unwrap_or(0)
    }

    /// Sets a share; zero removes it.
    pub fn set(&mut self, share: Share, cards: u32) {
        if cards == 0 {
            self.0.remove(&share);
        } else {
            self.0.insert(share, cards);
        }
    }

    /// Adds cards to a share.
    pub fn add(&mut self, share: &Share, cards: u32) {
        if cards > 0 {
            *self.0.entry(share.clone()).or_insert(0) += cards;
        }
    }

    /// Takes cards from a share; at most what is there. Returns what was taken.
    pub fn take(&mut self, share: &Share, cards: u32) -> u32 {
        let have = self.get(share);
        let taken = cards.min(have);
        self.set(share.clone(), have - taken);
        taken
    }

    /// All cards of all shares.
    pub fn sum(&self) -> u32 {
        self.0.values().sum()
    }

    /// The shares that have cards, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Share, u32)> {
        self.0.iter().map(|(share, cards)| (share, *cards))
    }

    /// Is there no card in any share?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cards that are locked for contracts.
    pub fn locked(&self) -> u32 {
        self.iter().filter(|(share, _)| share.key().is_some()).map(|(_, cards)| cards).sum()
    }
}

impl FromIterator<(Share, u32)> for Shares {
    fn from_iter<T: IntoIterator<Item = (Share, u32)>>(iter: T) -> Self {
        let mut shares = Shares::default();
        for (share, cards) in iter {
            shares.add(&share, cards);
        }
        shares
    }
}

/// The first step of a move: every giver shrinks to its target, what it gives is `Held`, and no taker has grown.
///
/// When the target has fewer cards in all (a card became faulty) the difference leaves the book here.
pub fn shrink(now: &Shares, target: &Shares) -> Shares {
    let mut after: Shares = now
        .iter()
        .filter(|(share, _)| **share != Share::Held)
        .map(|(share, cards)| (share.clone(), cards.min(target.get(share))))
        .collect();
    let given = now.sum() - now.get(&Share::Held) - after.sum();
    let room = target.sum().saturating_sub(after.sum());
    after.set(Share::Held, (now.get(&Share::Held) + given).min(room));
    after
}

/// What pods on a node really ask for, read afresh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InUse {
    /// Cards by the share that the pods ask for.
    pub by_share: Shares,
    /// Cards asked for by pods that ask for no share of ours.
    pub foreign: u32,
}

impl InUse {
    /// All cards in use.
    pub fn sum(&self) -> u32 {
        self.by_share.sum() + self.foreign
    }
}

/// The second step of a move: givers whose pods are still there get their cards back out of `Held`, takers get what is
/// then left, the rest stays `Held`.
///
/// `healthy` is min(capacity, allocatable) of the physical resource. A taker is never given a card that some pod sits on.
pub fn settle(held: &Shares, target: &Shares, in_use: &InUse, healthy: u32) -> Shares {
    let mut after = held.clone();
    let mut in_hand = after.take(&Share::Held, u32::MAX);
    // 1. Nothing is taken from under a pod: what turned out to be used goes back.
    for (share, used) in in_use.by_share.iter() {
        let missing = used.saturating_sub(after.get(share)).min(in_hand);
        after.add(share, missing);
        in_hand -= missing;
    }
    // 2. Takers, in the order of the shares. A card under a foreign pod, or under a pod beyond its share, is nobody's to give.
    let mut spare = healthy
        .saturating_sub(after.iter().map(|(share, cards)| cards.max(in_use.by_share.get(share))).sum());
    spare = spare.saturating_sub(in_use.foreign).min(in_hand);
    for (share, cards) in target.iter().filter(|(share, _)| **share != Share::Held) {
        let given = cards.saturating_sub(after.get(share)).min(spare);
        after.add(share, given);
        in_hand -= given;
        spare -= given;
    }
    after.set(Share::Held, in_hand);
    assert!(after.sum() == held.sum(), "settling moves cards, it neither makes nor loses one");
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> Share {
        Share::Resident(Key::new("chat", "12345678-aaaa"))
    }

    fn shares(list: &[(Share, u32)]) -> Shares {
        list.iter().cloned().collect()
    }

    #[test]
    fn keys_are_short_and_tell_twins_apart() {
        assert_eq!(Key::new("chat", "ABCDEF12-3456").as_str(), "chat-abcdef12");
        assert_eq!(Key::new(&"x".repeat(60), "12345678").as_str().len(), 49);
        assert_ne!(Key::new("chat", "00000001-1"), Key::new("chat", "00000002-1"));
    }

    #[test]
    fn resources_are_read_back() {
        for share in [
            pool(),
            Share::Shared,
            Share::Held,
            Share::Spot(Key::new("a", "1")),
            Share::Dedicated(Key::new("b", "2")),
        ] {
            assert_eq!(Share::parse(&share.resource()), Some(share));
        }
        for other in ["nvidia.com/gpu", "cpu", "shared.tenure.dev/other", "x.tenure.dev/y", "tenure.dev/y"] {
            assert_eq!(Share::parse(other), None, "{other}");
        }
    }

    #[test]
    fn unused_cards_move_and_used_ones_come_back() {
        let now = shares(&[(Share::Shared, 8)]);
        let target = shares(&[(pool(), 6), (Share::Shared, 2)]);
        let held = shrink(&now, &target);
        assert_eq!(held, shares(&[(Share::Shared, 2), (Share::Held, 6)]));
        // Nobody came in between.
        assert_eq!(settle(&held, &target, &InUse::default(), 8), target);
        // Five workers were bound while the share shrank: three cards go back to them.
        let in_use = InUse { by_share: shares(&[(Share::Shared, 5)]), foreign: 0 };
        assert_eq!(settle(&held, &target, &in_use, 8), shares(&[(Share::Shared, 5), (pool(), 3)]));
        // A foreign pod sits on two cards: they stay held.
        let in_use = InUse { by_share: Shares::default(), foreign: 2 };
        let settled = settle(&held, &target, &in_use, 8);
        assert_eq!(settled.get(&pool()) + settled.get(&Share::Shared), 6);
        assert_eq!(settled.get(&Share::Held), 2);
    }

    #[test]
    fn a_faulty_card_leaves_the_book_without_growing_anything() {
        let now = shares(&[(pool(), 6), (Share::Shared, 2)]);
        let target = shares(&[(pool(), 6), (Share::Shared, 1)]);
        let held = shrink(&now, &target);
        assert_eq!(held, target);
    }

    fn any_shares() -> impl Strategy<Value = Shares> {
        proptest::collection::vec((0..5_usize, 0..4_u32), 0..6).prop_map(|list| {
            let names = [
                pool(),
                Share::Spot(Key::new("s", "1")),
                Share::Dedicated(Key::new("d", "2")),
                Share::Shared,
                Share::Held,
            ];
            list.into_iter().map(|(at, cards)| (names[at].clone(), cards)).collect()
        })
    }

    proptest! {
        /// Whatever the pods turn out to be: no card is made, no used card is taken, and takers get only unused ones.
        #[test]
        fn a_move_is_safe(now in any_shares(), target in any_shares(), used in any_shares(), foreign in 0..4_u32) {
            let mut used = used;
            used.set(Share::Held, 0);
            let healthy = now.sum().max(target.sum());
            let in_use = InUse { by_share: used, foreign };
            let held = shrink(&now, &target);
            prop_assert!(held.sum() <= now.sum());
            for (share, cards) in held.iter().filter(|(share, _)| **share != Share::Held) {
                prop_assert!(cards <= now.get(share), "nobody grows in the first step");
            }
            let after = settle(&held, &target, &in_use, healthy);
            prop_assert_eq!(after.sum(), held.sum());
            for (share, cards) in after.iter().filter(|(share, _)| **share != Share::Held) {
                let grown = cards.saturating_sub(now.get(share));
                let to_pods = in_use.by_share.get(share).saturating_sub(now.get(share));
                prop_assert!(cards <= target.get(share).max(now.get(share)).max(in_use.by_share.get(share)));
                prop_assert!(grown == 0 || grown <= to_pods || in_use.sum() <= healthy + in_use.by_share.get(share));
            }
            // Unless pods already overran the book, a share keeps what its pods use.
            for (share, used) in in_use.by_share.iter() {
                if target.sum() >= now.sum() && used <= now.get(share) {
                    let others: u32 = in_use.by_share.iter().filter(|(it, used)| *it != share && *used > held.get(it)).map(|(it, used)| used - held.get(it)).sum();
                    prop_assert!(after.get(share) >= used || others > 0, "a card was taken from under a pod");
                }
            }
        }
    }
}
