//! Which gateway owns which endpoint: pure but for nothing, a value with a clock as argument.
//!
//! An owner stays one while its line is up. A new one is found by rendezvous hashing, so that whoever goes away leaves its
//! endpoints spread over all others. Each change of owner has an epoch that is higher than every one before, also than those
//! of leaders before this one.

use std::collections::{BTreeMap, HashMap};

use crate::link::message::EndpointKey;

/// A gateway that says nothing for so long owns nothing any more.
pub(super) const SILENT_MS: u64 = 5_000;

/// Gateways, and what each owns.
#[derive(Debug, Default)]
pub(super) struct Owners {
    replicas: BTreeMap<String, Replica>,
    owned: HashMap<EndpointKey, (String, u64)>,
    last_epoch: u64,
}

#[derive(Debug)]
struct Replica {
    /// Which line speaks for it: the newest.
    line: u64,
    address: String,
    connected: bool,
    heard_ms: u64,
    leaving: bool,
    /// Has it said what it owns?
    reported: bool,
}

impl Replica {
    fn speaks(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms) < SILENT_MS
    }
}

impl Owners {
    /// Epochs from now on are above this.
    pub(super) fn begin_above(&mut self, epoch: u64) {
        self.last_epoch = self.last_epoch.max(epoch);
    }

    /// A gateway is there.
    pub(super) fn hello(&mut self, line: u64, name: &str, address: &str, epoch_seen: u64, now_ms: u64) {
        self.last_epoch = self.last_epoch.max(epoch_seen);
        let replica = Replica {
            line,
            address: address.to_owned(),
            connected: true,
            heard_ms: now_ms,
            leaving: false,
            reported: false,
        };
        self.replicas.insert(name.to_owned(), replica);
    }

    /// It has said something.
    pub(super) fn heard(&mut self, line: u64, name: &str, now_ms: u64) {
        if let Some(replica) = self.replicas.get_mut(name).filter(|it| it.line == line) {
            replica.heard_ms = now_ms;
        }
    }

    /// Its line is down. It keeps what it owns for a while.
    pub(super) fn down(&mut self, line: u64, name: &str) {
        if let Some(replica) = self.replicas.get_mut(name).filter(|it| it.line == line) {
            replica.connected = false;
        }
    }

    /// It stops: others take over at once.
    pub(super) fn leaving(&mut self, line: u64, name: &str) {
        if let Some(replica) = self.replicas.get_mut(name).filter(|it| it.line == line) {
            replica.leaving = true;
        }
    }

    /// It says that it owns an endpoint. True when that is so. A leader that has just begun believes it: the endpoint stays
    /// where it is.
    pub(super) fn claims(
        &mut self,
        name: &str,
        endpoint: &EndpointKey,
        epoch: u64,
        new_leader: bool,
    ) -> bool {
        self.last_epoch = self.last_epoch.max(epoch);
        match self.owned.get(endpoint) {
            Some((owner, since)) if owner == name => *since == epoch,
            Some((_, since)) if !new_leader || *since >= epoch => false,
            None if !new_leader => false,
            Some(_) | None => {
                self.owned.insert(endpoint.clone(), (name.to_owned(), epoch));
                true
            }
        }
    }

    /// It has said all that it owns.
    pub(super) fn reported(&mut self, name: &str) {
        if let Some(replica) = self.replicas.get_mut(name) {
            replica.reported = true;
        }
    }

    /// Gateways that are there and have said what they own.
    pub(super) fn number_reported(&self) -> usize {
        self.replicas.values().filter(|it| it.connected && it.reported).count()
    }

    /// Who may keep what it owns, and whether it may get more.
    pub(super) fn able(&self, now_ms: u64) -> Vec<(String, bool)> {
        let able = self.replicas.iter().filter(|(_, it)| it.speaks(now_ms) && !it.leaving);
        able.map(|(name, it)| (name.clone(), it.connected)).collect()
    }

    /// The gateways that others can reach.
    pub(super) fn addresses(&self, now_ms: u64) -> BTreeMap<String, String> {
        let there = self.replicas.iter().filter(|(_, it)| it.connected || it.speaks(now_ms));
        there.map(|(name, it)| (name.clone(), it.address.clone())).collect()
    }

    /// The owner of an endpoint and since which epoch: as before if it can be, else another. Empty when there is none.
    pub(super) fn owner_of(&mut self, endpoint: &EndpointKey, now_ms: u64) -> (String, u64) {
        let able = |it: &Replica| it.speaks(now_ms) && !it.leaving;
        let before = self.owned.get(endpoint);
        if let Some((owner, epoch)) = before
            && self.replicas.get(owner).is_some_and(able)
        {
            return (owner.clone(), *epoch);
        }
        let candidates = self.replicas.iter().filter(|(_, it)| able(it) && it.connected);
        let best = candidates.map(|(name, _)| (weight(name, endpoint), name)).max();
        let owner = best.map(|(_, name)| name.clone()).unwrap_or_default();
        if let Some((none, epoch)) = before.filter(|(before, _)| before.is_empty() && owner.is_empty()) {
            return (none.clone(), *epoch);
        }
        self.last_epoch += 1;
        self.owned.insert(endpoint.clone(), (owner.clone(), self.last_epoch));
        (owner, self.last_epoch)
    }

    /// The endpoint is gone.
    pub(super) fn forget(&mut self, endpoint: &EndpointKey) {
        self.owned.remove(endpoint);
    }

    /// Gateways that are gone for long are forgotten: their names may never come back.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        self.replicas.retain(|_, it| it.connected || now_ms.saturating_sub(it.heard_ms) < 10 * SILENT_MS);
    }
}

/// FNV-1a, then mixed: the same on every machine and in every version.
fn weight(replica: &str, endpoint: &EndpointKey) -> u64 {
    let text = [replica, "/", &endpoint.namespace, "/", &endpoint.name];
    let hash = text.iter().flat_map(|it| it.bytes()).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u32) -> EndpointKey {
        EndpointKey { namespace: "a".to_owned(), name: format!("e{number}") }
    }

    fn three() -> Owners {
        let mut owners = Owners::default();
        owners.begin_above(1_000);
        for (line, name) in [(1, "g1"), (2, "g2"), (3, "g3")] {
            owners.hello(line, name, "10.0.0.1:9", 7, 0);
        }
        owners
    }

    #[test]
    fn endpoints_are_spread_and_stay_where_they_are() {
        let mut owners = three();
        let mut count: BTreeMap<String, u32> = BTreeMap::new();
        let first: Vec<(String, u64)> = (0..300).map(|it| owners.owner_of(&endpoint(it), 0)).collect();
        for (owner, _) in &first {
            *count.entry(owner.clone()).or_default() += 1;
        }
        assert_eq!(count.len(), 3);
        assert!(count.values().all(|it| (70..130).contains(it)), "{count:?}");
        owners.hello(4, "g4", "10.0.0.4:9", 7, 100);
        let second: Vec<(String, u64)> = (0..300).map(|it| owners.owner_of(&endpoint(it), 100)).collect();
        assert_eq!(first, second, "a new gateway takes nothing from anybody");
    }

    #[test]
    fn an_owner_that_is_silent_or_leaves_is_followed_by_another_with_a_higher_epoch() {
        type Event = fn(&mut Owners, u64, &str);
        let cases: [(&str, Event, u64, bool); 5] = [
            ("silent for less than 5 s", |_, _, _| (), 4_999, false),
            ("silent for 5 s", |_, _, _| (), 5_000, true),
            ("down for less than 5 s", |it, line, name| it.down(line, name), 4_999, false),
            ("leaves", |it, line, name| it.leaving(line, name), 1, true),
            ("an old line says it leaves", |it, line, name| it.leaving(line + 9, name), 1, false),
        ];
        for (what, event, now_ms, moves) in cases {
            let mut owners = three();
            let (before, epoch) = owners.owner_of(&endpoint(1), 0);
            let line: u64 = before.trim_start_matches('g').parse().unwrap();
            event(&mut owners, line, &before);
            for (other, name) in [(1, "g1"), (2, "g2"), (3, "g3")] {
                if name != before {
                    owners.heard(other, name, now_ms);
                }
            }
            let (after, new_epoch) = owners.owner_of(&endpoint(1), now_ms);
            assert_eq!((after != before, new_epoch > epoch), (moves, moves), "{what}");
        }
    }

    #[test]
    fn epochs_are_higher_than_all_that_were_ever_heard_of() {
        let mut owners = Owners::default();
        owners.begin_above(1_000);
        owners.hello(1, "g1", "", 5_000, 0);
        assert_eq!(owners.owner_of(&endpoint(1), 0), ("g1".to_owned(), 5_001));
        assert!(!owners.claims("g2", &endpoint(1), 8_000, false), "g1 owns it");
        assert_eq!(owners.owner_of(&endpoint(2), 0).1, 8_001);
        assert_eq!(owners.owner_of(&endpoint(3), 9_999), (String::new(), 8_002), "nobody is there");
        assert_eq!(owners.owner_of(&endpoint(3), 9_999), (String::new(), 8_002), "and still nobody");
    }

    #[test]
    fn a_new_leader_leaves_endpoints_where_they_are() {
        let mut owners = three();
        assert!(owners.claims("g2", &endpoint(1), 70, true));
        assert!(!owners.claims("g1", &endpoint(1), 69, true), "an older owner");
        assert!(owners.claims("g2", &endpoint(1), 70, false));
        assert!(!owners.claims("g2", &endpoint(1), 69, false), "an older epoch");
        assert!(!owners.claims("g1", &endpoint(9), 70, false), "later nobody is believed");
        assert_eq!(owners.owner_of(&endpoint(1), 0), ("g2".to_owned(), 70));
    }
}
