//! Which workers of an endpoint are started, which leave, and whose end is complete.

/// A worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The pod's name.
    pub name: String,
    /// The number at the end of its name.
    pub number: u32,
    /// The revision of the template that it was made from.
    pub revision: String,
    /// Does its Ready condition hold?
    pub ready: bool,
    /// Is it on its way out (deleted, its grace runs)?
    pub leaving: bool,
    /// Have all its containers ended, or is its node gone?
    pub ended: bool,
    /// When it was created, seconds since 1970.
    pub created_seconds: i64,
}

/// What an endpoint shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Workers.
    pub count: u32,
    /// The revision of the template as it is now.
    pub revision: String,
    /// Workers of a new revision that may be started before an old one leaves.
    pub surge: u32,
    /// How many more workers there are cards for.
    pub room: u32,
    /// The number of the next worker: above that of every pod that is seen.
    pub next: u32,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// Numbers of workers to create.
    pub create: Vec<u32>,
    /// Names of workers to delete, with their grace.
    pub delete: Vec<String>,
    /// Names of workers whose end is complete: they may be forgotten, their cards are free.
    pub release: Vec<String>,
}

/// How many workers are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Ready and not on their way out.
    pub ready: u32,
    /// Not ready yet.
    pub starting: u32,
    /// On their way out.
    pub draining: u32,
}

/// Counts workers by state.
pub fn count(workers: &[Worker]) -> Count {
    let mut count = Count::default();
    for worker in workers {
        if worker.leaving {
            count.draining += 1;
        } else if worker.ready && !worker.ended {
            count.ready += 1;
        } else {
            count.starting += 1;
        }
    }
    count
}

/// What can be done while nobody can tell what is wanted: running workers serve on, ended ones are let go.
pub fn keep(workers: &[Worker]) -> Steps {
    let mut steps = Steps::default();
    for worker in workers.iter().filter(|it| it.ended) {
        let list = if worker.leaving { &mut steps.release } else { &mut steps.delete };
        list.push(worker.name.clone());
    }
    steps
}

/// Decides. New numbers follow the highest that is seen, so a stale view collides with the real pod's name instead of
/// doubling it.
///
/// Who leaves first when there are too many: workers of an old revision, then those not ready, then the youngest.
/// A new revision takes over one worker at a time (`surge` of them ahead, when it is not zero), and only while every
/// worker of the new revision is ready.
pub fn plan(wanted: &Wanted, workers: &[Worker]) -> Steps {
    let mut steps = keep(workers);
    let mut live: Vec<&Worker> = workers.iter().filter(|it| !it.leaving && !it.ended).collect();
    // The first to leave comes first.
    live.sort_by_key(|it| {
        (it.revision == wanted.revision, it.ready, -it.created_seconds, std::cmp::Reverse(it.number))
    });

    let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
    let new = count(live.iter().filter(|it| it.revision == wanted.revision).count());
    let new_ready = count(live.iter().filter(|it| it.revision == wanted.revision && it.ready).count());
    let old = count(live.len()) - new;
    let all = new + old;
    // Where there are no cards to surge with, workers are replaced in place.
    let surge = if old > 0 && (wanted.room > 0 || all > wanted.count) { wanted.surge } else { 0 };

    let most = wanted.count + surge;
    let missing = wanted.count.saturating_sub(new).min(most.saturating_sub(all)).min(wanted.room);
    steps.create = (wanted.next..).take(usize::try_from(missing).unwrap_or(0)).collect();

    let mut surplus = all.saturating_sub(most);
    if surplus == 0 && missing == 0 && old > 0 && new == new_ready {
        // Surging: each ready new one lets an old one go. In place: one goes, so that its cards are free for the next.
        surplus = match all.checked_sub(wanted.count) {
            Some(0) => u32::from(surge == 0),
            Some(ahead) => ahead.min(old),
            None => 0,
        };
    }
    steps.delete.extend(live.iter().take(usize::try_from(surplus).unwrap_or(0)).map(|it| it.name.clone()));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `r` ready, `s` starting, `o` ready of an old revision, `d` on its way out, `D` that and ended, `e` ended.
    fn workers(states: &str) -> Vec<Worker> {
        (1_u32..)
            .zip(states.chars())
            .map(|(number, state)| Worker {
                name: format!("w-{number}"),
                number,
                revision: if state == 'o' { "old" } else { "new" }.to_owned(),
                ready: matches!(state, 'r' | 'o' | 'd'),
                leaving: matches!(state, 'd' | 'D'),
                ended: matches!(state, 'D' | 'e'),
                created_seconds: i64::from(number),
            })
            .collect()
    }

    fn wanted(count: u32, surge: u32) -> Wanted {
        Wanted { count, revision: "new".to_owned(), surge, room: 99, next: 1 }
    }

    #[track_caller]
    fn check(states: &str, count: u32, surge: u32, create: &[u32], delete: &[&str], release: &[&str]) {
        let workers = workers(states);
        let next = u32::try_from(workers.len()).unwrap() + 1;
        let steps = plan(&Wanted { next, ..wanted(count, surge) }, &workers);
        assert_eq!(steps.create, create, "created");
        assert_eq!(steps.delete, delete, "deleted");
        assert_eq!(steps.release, release, "released");
    }

    #[test]
    fn workers_are_created_up_to_what_is_wanted() {
        check("", 2, 0, &[1, 2], &[], &[]);
        check("r", 2, 0, &[2], &[], &[]);
        check("rd", 2, 0, &[3], &[], &[]);
        check("rs", 2, 0, &[], &[], &[]);
        let steps = plan(&Wanted { room: 1, ..wanted(3, 0) }, &[]);
        assert_eq!(steps.create, [1], "no further than there are cards");
    }

    #[test]
    fn the_starting_and_then_the_youngest_leave() {
        check("rrr", 2, 0, &[], &["w-3"], &[]);
        check("rsr", 2, 0, &[], &["w-2"], &[]);
        check("ror", 2, 0, &[], &["w-2"], &[]);
        check("rr", 0, 0, &[], &["w-2", "w-1"], &[]);
    }

    #[test]
    fn ended_workers_are_deleted_and_then_released() {
        check("e", 1, 0, &[2], &["w-1"], &[]);
        check("D", 1, 0, &[2], &[], &["w-1"]);
        check("d", 0, 0, &[], &[], &[]);
    }

    #[test]
    fn running_workers_serve_on_while_nobody_knows_what_is_wanted() {
        let steps = keep(&workers("rsodDe"));
        assert_eq!(
            (steps.create.len(), steps.delete, steps.release),
            (0, vec!["w-6".to_owned()], vec!["w-5".to_owned()])
        );
    }

    #[test]
    fn a_new_revision_takes_over_one_at_a_time() {
        check("oo", 2, 0, &[], &["w-2"], &[]);
        check("od", 2, 0, &[3], &[], &[]);
        check("os", 2, 0, &[], &[], &[]);
        check("or", 2, 0, &[], &["w-1"], &[]);
        check("oo", 2, 1, &[3], &[], &[]);
        let without_room = |states| plan(&Wanted { room: 0, next: 9, ..wanted(2, 1) }, &workers(states));
        assert_eq!(without_room("oo").delete, ["w-2"], "no card to surge with: in place");
        assert_eq!(without_room("o").delete, Vec::<String>::new(), "fewer than wanted already");
        assert_eq!(without_room("oos").delete, Vec::<String>::new(), "the new one is not ready");
        assert_eq!(without_room("oor").delete, ["w-2"], "the new one is ready");
        check("oos", 2, 1, &[], &[], &[]);
        check("oor", 2, 1, &[], &["w-2"], &[]);
        check("orr", 2, 1, &[], &["w-1"], &[]);
    }

    proptest! {
        /// Whatever the workers do, there are never more than wanted (and the surge), and in the end just the wanted ones.
        #[test]
        fn every_start_ends_in_what_is_wanted(states in "[rsodDe]{0,6}", count in 0..5_u32, surge in 0..3_u32) {
            let mut wanted = wanted(count, surge);
            let mut world = workers(&states);
            for _ in 0..60 {
                wanted.next = wanted.next.max(world.iter().map(|it| it.number + 1).max().unwrap_or(1));
                let steps = plan(&wanted, &world);
                let live_before = world.iter().filter(|it| !it.leaving && !it.ended).count();
                world.retain(|it| !steps.release.contains(&it.name));
                for worker in &mut world {
                    worker.ended |= worker.leaving;
                    worker.leaving |= steps.delete.contains(&worker.name);
                    worker.ready = !worker.ended;
                }
                for number in &steps.create {
                    prop_assert!(world.iter().all(|it| it.number != *number), "a number was used twice");
                    world.push(Worker { name: format!("w-{number}"), number: *number, revision: "new".to_owned(), ready: false, leaving: false, ended: false, created_seconds: 99 });
                }
                let live = world.iter().filter(|it| !it.leaving && !it.ended).count();
                prop_assert!(live <= live_before.max((count + surge) as usize));
            }
            let live: Vec<&Worker> = world.iter().filter(|it| !it.leaving).collect();
            prop_assert_eq!(live.len(), count as usize);
            prop_assert!(live.iter().all(|it| it.revision == "new" && it.ready));
        }
    }
}
