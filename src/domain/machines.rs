//! Which machines a group consists of: numbers that are never used twice, and who leaves when a set gets smaller.

use std::collections::{BTreeMap, BTreeSet};

/// The machines of a group, by set. It is kept on the group object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record(pub BTreeMap<String, Numbers>);

/// The machines of one set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Numbers {
    /// The number of the next new machine.
    pub next: u32,
    /// Machines that the group has or waits for.
    pub live: BTreeSet<u32>,
    /// Those among them that have had a node: they are bought, and leave only when they are named.
    pub placed: BTreeSet<u32>,
}

/// A set as the group's owner wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Machines in it.
    pub count: u32,
}

/// Why the machines are not yet as the owner wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// `count` went down and `release` does not say which machines leave.
    NameMachines {
        /// The set.
        set: String,
        /// How many more machines must be named.
        missing: u32,
    },
    /// A prepaid machine can't leave before its term ends.
    BoundByTerm {
        /// The machine.
        machine: String,
    },
}

/// The name of a machine.
pub fn machine_name(set: &str, number: u32) -> String {
    format!("{set}-{number}")
}

/// The machines as they shall be. `bound`: those that may not leave before their term ends. `over`: those that nothing brings
/// back; they count until their set gets smaller, and need not be named then.
pub fn plan(
    now: &Record,
    sets: &[Set],
    release: &[String],
    bound: &BTreeSet<String>,
    over: &BTreeSet<String>,
) -> (Record, Vec<Problem>) {
    let mut record = now.clone();
    let mut problems = Vec::new();
    for set in sets {
        record.0.entry(set.name.clone()).or_default();
    }
    for (name, numbers) in &mut record.0 {
        let set = sets.iter().find(|it| it.name == *name);
        numbers.placed.retain(|it| !over.contains(&machine_name(name, *it)));
        let count = usize::try_from(set.map_or(0, |it| it.count)).unwrap_or(usize::MAX);
        // Machines that never had a node leave first, the newest of them first.
        let waiting: Vec<u32> =
            numbers.live.iter().rev().copied().filter(|it| !numbers.placed.contains(it)).collect();
        for number in waiting {
            if numbers.live.len() > count {
                numbers.live.remove(&number);
            }
        }
        // Then those that the owner names.
        for number in numbers.live.clone() {
            let machine = machine_name(name, number);
            if numbers.live.len() > count && release.contains(&machine) {
                if bound.contains(&machine) {
                    problems.push(Problem::BoundByTerm { machine });
                } else {
                    numbers.live.remove(&number);
                }
            }
        }
        let named = problems
            .iter()
            .filter(|it| matches!(it, Problem::BoundByTerm { machine } if numbers.has(name, machine)))
            .count();
        if let Ok(missing @ 1..) =
            u32::try_from(numbers.live.len().saturating_sub(count).saturating_sub(named))
        {
            problems.push(Problem::NameMachines { set: name.clone(), missing });
        }
        while numbers.live.len() < count {
            numbers.live.insert(numbers.next);
            numbers.next += 1;
        }
        numbers.placed = &numbers.placed & &numbers.live;
    }
    (record, problems)
}

impl Numbers {
    fn has(&self, set: &str, machine: &str) -> bool {
        self.live.iter().any(|it| machine_name(set, *it) == machine)
    }
}

impl Record {
    /// Notes that a machine has a node.
    pub fn place(&mut self, machine: &str) {
        for (set, numbers) in &mut self.0 {
            if let Some(number) = numbers.live.iter().copied().find(|it| machine_name(set, *it) == machine) {
                numbers.placed.insert(number);
            }
        }
    }

    /// The names of the machines that have had a node.
    pub fn placed(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|(set, numbers)| numbers.placed.iter().map(move |it| machine_name(set, *it)))
            .collect()
    }

    /// The names of all machines, by set and number.
    pub fn machines(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().flat_map(|(set, numbers)| {
            numbers.live.iter().map(move |it| (set.as_str(), machine_name(set, *it)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(list: &[(&str, u32, &[u32])]) -> Record {
        Record(
            list.iter()
                .map(|(set, next, live)| {
                    (
                        (*set).to_owned(),
                        Numbers {
                            next: *next,
                            live: live.iter().copied().collect(),
                            placed: live.iter().copied().collect(),
                        },
                    )
                })
                .collect(),
        )
    }

    /// One set `m` of `count` machines, of which `placed` have a node.
    fn check(
        now: &[u32],
        next: u32,
        count: u32,
        release: &[&str],
        placed: &[u32],
        expected: &[u32],
        problems: &[Problem],
    ) {
        let sets = [Set { name: "m".to_owned(), count }];
        let release: Vec<String> = release.iter().map(|it| (*it).to_owned()).collect();
        let mut before = record(&[("m", next, now)]);
        before.0.get_mut("m").unwrap().placed = placed.iter().copied().collect();
        let (after, found) = plan(&before, &sets, &release, &none(), &none());
        assert_eq!(after.0["m"].live.iter().copied().collect::<Vec<_>>(), expected);
        assert_eq!(found, problems);
    }

    #[test]
    fn numbers_are_never_used_twice() {
        check(&[], 0, 2, &[], &[], &[0, 1], &[]);
        check(&[0, 2], 3, 3, &[], &[0, 2], &[0, 2, 3], &[]);
    }

    #[test]
    fn only_named_machines_leave() {
        check(&[0, 1, 2], 3, 2, &["m-1"], &[0, 1, 2], &[0, 2], &[]);
        let unnamed = Problem::NameMachines { set: "m".to_owned(), missing: 1 };
        check(&[0, 1, 2], 3, 1, &["m-1"], &[0, 1, 2], &[0, 2], std::slice::from_ref(&unnamed));
        check(&[0, 1, 2], 3, 2, &[], &[0, 1, 2], &[0, 1, 2], std::slice::from_ref(&unnamed));
        // Named, but the count did not go down: nobody leaves.
        check(&[0, 1], 2, 2, &["m-1"], &[0, 1], &[0, 1], &[]);
        // More named than must leave: in the order of their numbers.
        check(&[0, 1, 2], 3, 2, &["m-2", "m-0"], &[0, 1, 2], &[1, 2], &[]);
    }

    #[test]
    fn a_machine_that_never_had_a_node_leaves_unnamed() {
        check(&[0, 1, 2], 3, 2, &[], &[0, 1], &[0, 1], &[]);
    }

    #[test]
    fn a_removed_set_must_be_named_too() {
        let before = record(&[("gone", 1, &[0])]);
        let (_, problems) = plan(&before, &[], &[], &none(), &none());
        assert_eq!(problems, [Problem::NameMachines { set: "gone".to_owned(), missing: 1 }]);
        let (after, problems) = plan(&before, &[], &["gone-0".to_owned()], &none(), &none());
        assert_eq!((after.machines().count(), problems.len()), (0, 0));
    }

    fn none() -> BTreeSet<String> {
        BTreeSet::new()
    }

    #[test]
    fn a_machine_that_is_bound_by_its_term_stays() {
        let set = [Set { name: "m".to_owned(), count: 0 }];
        let release = ["m-0".to_owned()];
        let bound = BTreeSet::from(release.clone());
        let problem = [Problem::BoundByTerm { machine: "m-0".to_owned() }];
        let (after, problems) = plan(&record(&[("m", 1, &[0])]), &set, &release, &bound, &none());
        assert_eq!((after.machines().count(), problems.as_slice()), (1, problem.as_slice()));
        // Taking the set away changes nothing of what was paid for.
        assert_eq!(plan(&after, &[], &release, &bound, &none()).1, problem);
        assert_eq!(plan(&after, &set, &release, &none(), &none()).0.machines().count(), 0);
    }

    #[test]
    fn a_machine_that_nothing_brings_back_is_not_replaced_and_leaves_unnamed() {
        let over = BTreeSet::from(["m-0".to_owned()]);
        let set = |count| [Set { name: "m".to_owned(), count }];
        let (after, problems) = plan(&record(&[("m", 2, &[0, 1])]), &set(2), &[], &none(), &over);
        assert_eq!((after.0["m"].live.len(), after.0["m"].next, problems.len()), (2, 2, 0), "no new one");
        let (after, problems) = plan(&after, &set(1), &[], &none(), &over);
        assert_eq!((after.0["m"].live.clone(), problems.len()), (BTreeSet::from([1]), 0));
    }
}
