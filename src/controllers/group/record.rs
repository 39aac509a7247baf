//! The machines of a group, as its annotation keeps them: `{"base": {"next": 1, "live": [0], "placed": [0]}}`.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::api::{DedicatedGroup, names};
use crate::cluster::read::Caches;
use crate::controllers::allocator::given;
use crate::controllers::pool::key;
use crate::domain::machines::{Numbers, Record};

#[derive(Serialize, Deserialize)]
struct Written {
    next: u32,
    live: BTreeSet<u32>,
    placed: BTreeSet<u32>,
}

/// The machines that the group has or waits for. Where the annotation is lost the nodes still know.
pub(super) fn read(caches: &Caches, group: &DedicatedGroup) -> Record {
    let parsed = group.annotations().get(names::MACHINES).and_then(|it| parse(it));
    parsed.unwrap_or_else(|| from_nodes(caches, group))
}

fn parse(text: &str) -> Option<Record> {
    let sets: BTreeMap<String, Written> = serde_json::from_str(text).ok()?;
    let numbers = |it: Written| Numbers { next: it.next, live: it.live, placed: it.placed };
    Some(Record(sets.into_iter().map(|(set, it)| (set, numbers(it))).collect()))
}

/// As it stands in the annotation.
pub(super) fn print(record: &Record) -> String {
    let written = |it: &Numbers| Written { next: it.next, live: it.live.clone(), placed: it.placed.clone() };
    let sets: BTreeMap<&String, Written> = record.0.iter().map(|(set, it)| (set, written(it))).collect();
    serde_json::to_string(&sets).unwrap_or_default()
}

fn from_nodes(caches: &Caches, group: &DedicatedGroup) -> Record {
    let mut record = Record::default();
    let key = key(group);
    for given in caches.nodes.all().iter().filter_map(|it| given(it)).filter(|it| it.group == key) {
        let Some((set, number)) = given.machine.rsplit_once('-') else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let numbers = record.0.entry(set.to_owned()).or_default();
        numbers.live.insert(number);
        numbers.placed.insert(number);
        numbers.next = numbers.next.max(number + 1);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let numbers = Numbers { next: 4, live: [0, 3].into(), placed: [3].into() };
        let record = Record([("base".to_owned(), numbers)].into());
        assert_eq!(print(&record), r#"{"base":{"next":4,"live":[0,3],"placed":[3]}}"#);
        assert_eq!(parse(&print(&record)), Some(record.clone()));
        let older = r#"{"base":{"next":4,"live":[0,3],"placed":[3],"prepaid":true}}"#;
        assert_eq!(parse(older), Some(record), "as it was written before there was money");
        assert_eq!(parse("{"), None);
    }
}
