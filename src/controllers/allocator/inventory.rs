//! Counts cards by card type, for people.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::api::CardTypeStatus;
use crate::api::card_type::CardCounts;
use crate::cluster::read::Caches;
use crate::domain::book::Share;
use crate::domain::fleet::Snapshot;

/// What there is of each card type. Conditions are left to the catalogue.
pub(super) fn count(caches: &Caches, snapshot: &Snapshot) -> BTreeMap<String, CardTypeStatus> {
    let mut all: BTreeMap<String, CardTypeStatus> =
        caches.card_types.all().iter().map(|it| (it.name_any(), CardTypeStatus::default())).collect();
    for node in &snapshot.nodes {
        let Some(status) = all.get_mut(&node.card_type) else { continue };
        status.nodes += 1;
        let count = |it: u32| i32::try_from(it).unwrap_or(i32::MAX);
        let CardCounts { total, resident, dedicated, spot, shared, held, faulty, free } = &mut status.cards;
        *total += count(node.cards);
        *faulty += count(node.cards - node.healthy);
        for (share, cards) in node.shares.iter() {
            match share {
                Share::Resident(_) => *resident += count(cards),
                Share::Dedicated(_) => *dedicated += count(cards),
                Share::Spot(_) => *spot += count(cards),
                Share::Shared => *shared += count(cards),
                Share::Held => *held += count(cards),
            }
        }
        if node.open {
            *free += count(
                node.shares.get(&Share::Shared).saturating_sub(node.in_use.by_share.get(&Share::Shared)),
            );
        }
    }
    all
}
