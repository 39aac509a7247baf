//! Which workers of an endpoint are started, which leave, and whose end is complete.

/// A worker pod.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "what is seen of a pod; each combination occurs")]
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
    /// Requests in it, as the gateways say; `None` when they don't.
    pub busy: Option<u32>,
    /// Has it an address, so that a gateway may send it requests?
    pub reachable: bool,
    /// Is it closed: no gateway shall send it a new request?
    pub closing: Option<Closing>,
    /// Does its node go away?
    pub doomed: Option<Doomed>,
}

/// What is known of the end of a worker's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doomed {
    /// Is the time left only what it needs to finish its requests and to end?
    pub hurry: bool,
}

/// How far a worker is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// For how long, seconds.
    pub for_seconds: i64,
    /// Has who hands out its slots said that it gives out no more of them?
    pub heard: bool,
}

/// How a worker is let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// At once: no gateway sends it anything.
    AtOnce,
    /// It is closed first, and deleted when its last request has ended, or so many seconds after it was closed.
    Within(i64),
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
    /// How workers are let go.
    pub drain: Drain,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps {
    /// Numbers of workers to create.
    pub create: Vec<u32>,
    /// Names of workers that shall get no new requests from now on.
    pub close: Vec<String>,
    /// Names of closed workers that are wanted again.
    pub reopen: Vec<String>,
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

impl Worker {
    /// Does it take new requests?
    pub fn is_live(&self) -> bool {
        self.holds_cards() && self.closing.is_none()
    }

    /// Is it there to stay?
    pub fn is_sound(&self) -> bool {
        self.is_live() && self.doomed.is_none()
    }

    /// Does it hold its cards, and has nobody told it to go?
    pub fn holds_cards(&self) -> bool {
        !self.leaving && !self.ended
    }
}

/// Counts workers by state.
pub fn count(workers: &[Worker]) -> Count {
    let mut count = Count::default();
    for worker in workers {
        if worker.leaving || (worker.closing.is_some() && !worker.ended) {
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
/// Who leaves first when there are too many: workers of an old revision, then those not ready, then those with the fewest
/// requests, then the youngest. A new revision takes over one worker at a time (`surge` of them ahead, when it is not zero),
/// and only while every worker of the new revision is ready. While none of it is, the last ready worker of the old one is
/// the last to leave: a template that never gets ready does not take it.
///
/// Leaving is two steps: it is closed, and deleted when it has nothing to do. In between it holds its cards and counts for
/// nothing else; if more are wanted meanwhile, it is opened again rather than another one started.
///
/// A worker whose node goes away serves on, and another one is started as far as there are cards. It is closed when enough
/// others are ready, or when the time that is left is what it needs to finish.
pub fn plan(wanted: &Wanted, workers: &[Worker]) -> Steps {
    let mut steps = keep(workers);
    let current = |it: &Worker| it.revision == wanted.revision;
    let mut live: Vec<&Worker> = workers.iter().filter(|it| it.is_sound()).collect();
    // The first to leave comes first.
    live.sort_by_key(|it| {
        (current(it), it.ready, it.busy.unwrap_or(0), -it.created_seconds, std::cmp::Reverse(it.number))
    });
    let mut closing: Vec<&Worker> =
        workers.iter().filter(|it| it.holds_cards() && it.closing.is_some()).collect();

    let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
    let new = count(live.iter().filter(|it| current(it)).count());
    let new_ready = count(live.iter().filter(|it| current(it) && it.ready).count());
    let old = count(live.len()) - new;
    let all = new + old;
    // Cards that come free by themselves are worth waiting for.
    let card_is_coming = closing.iter().any(|it| it.doomed.is_none())
        || (wanted.surge > 0 && workers.iter().any(|it| it.leaving && !it.ended));
    // Where there are no cards to surge with, workers are replaced in place.
    let surge = if old > 0 && (wanted.room > 0 || all > wanted.count) { wanted.surge } else { 0 };

    let most = wanted.count + surge;
    // A worker of the old revision has its cards until it has ended: its successor waits for them. (One of this revision that was
    // evicted or deleted is replaced at once.)
    let going = count(
        workers.iter().filter(|it| !current(it) && !it.ended && !it.is_live() && it.doomed.is_none()).count(),
    );
    let missing = wanted.count.saturating_sub(new).min(most.saturating_sub(all + going));
    reopen(&mut steps, &mut closing, missing, current);
    let reopened = count(steps.reopen.len());
    let started = (missing - reopened).min(wanted.room);
    steps.create = (wanted.next..).take(usize::try_from(started).unwrap_or(0)).collect();

    let mut surplus = all.saturating_sub(most);
    if surplus == 0 && started + reopened == 0 && old > 0 && new == new_ready {
        // Surging: each ready new one lets an old one go. In place: one goes, so that its cards are free for the next.
        surplus = match all.checked_sub(wanted.count) {
            Some(0) => u32::from(surge == 0 && !card_is_coming),
            Some(ahead) => ahead.min(old),
            None => 0,
        };
    }
    if new_ready == 0
        && let Some(last_good) = live.iter().rposition(|it| it.ready)
    {
        let last_good = live.remove(last_good);
        live.push(last_good);
    }
    let leaving = live.into_iter().take(usize::try_from(surplus).unwrap_or(0));
    for worker in leaving.chain(replaced(wanted, workers)) {
        let closes = match wanted.drain {
            Drain::AtOnce => false,
            Drain::Within(_) => worker.reachable,
        };
        let list = if closes { &mut steps.close } else { &mut steps.delete };
        list.push(worker.name.clone());
    }
    steps.delete.extend(closing.iter().filter(|it| is_drained(wanted.drain, it)).map(|it| it.name.clone()));
    steps
}

/// Workers on nodes that go away, of which others have taken the place, or who have no more time.
fn replaced<'a>(wanted: &Wanted, workers: &'a [Worker]) -> Vec<&'a Worker> {
    let sound = |ready| workers.iter().filter(|it| it.is_sound() && it.ready == ready).count();
    let mut needed = usize::try_from(wanted.count).unwrap_or(usize::MAX).saturating_sub(sound(true));
    let starting = sound(false);
    let mut doomed: Vec<(&Worker, Doomed)> =
        workers.iter().filter(|it| it.is_live()).filter_map(|it| Some((it, it.doomed?))).collect();
    // Who stays longest comes first: with time left, ready, the busiest, the oldest.
    doomed.sort_by_key(|(it, doomed)| {
        (doomed.hurry, !it.ready, std::cmp::Reverse(it.busy.unwrap_or(0)), it.created_seconds, it.number)
    });
    doomed.retain(|(it, doomed)| {
        // One that starts as well gets ready no sooner than its successor.
        let serves = !doomed.hurry && needed > if it.ready { 0 } else { starting };
        needed -= usize::from(serves);
        !serves
    });
    doomed.into_iter().map(|(it, _)| it).collect()
}

/// Opens closed workers again instead of starting others: the busiest first, then the oldest.
fn reopen(steps: &mut Steps, closing: &mut Vec<&Worker>, missing: u32, current: impl Fn(&Worker) -> bool) {
    closing.sort_by_key(|it| (std::cmp::Reverse(it.busy), it.created_seconds, it.number));
    closing.retain(|it| {
        let opens = steps.reopen.len() < usize::try_from(missing).unwrap_or(0)
            && current(it)
            && it.ready
            && it.doomed.is_none();
        if opens {
            steps.reopen.push(it.name.clone());
        }
        !opens
    });
}

/// Has a closed worker nothing to do any more, or no time left?
fn is_drained(drain: Drain, worker: &Worker) -> bool {
    let (Drain::Within(seconds), Some(closing)) = (drain, worker.closing) else { return true };
    !worker.reachable || closing.for_seconds >= seconds || (closing.heard && worker.busy == Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `r` ready, `s` starting, `o` ready of an old revision, `x` not ready of an old revision, `c` closed, `O` closed of an
    /// old revision, `d` on its way out, `D` that and ended, `e` ended; on a node that goes away: `z` ready, `y` starting, `Z`
    /// closed, `h` ready and in a hurry.
    fn workers(states: &str) -> Vec<Worker> {
        (1_u32..)
            .zip(states.chars())
            .map(|(number, state)| Worker {
                name: format!("w-{number}"),
                number,
                revision: if matches!(state, 'o' | 'x' | 'O') { "old" } else { "new" }.to_owned(),
                ready: matches!(state, 'r' | 'o' | 'd' | 'c' | 'O' | 'z' | 'Z' | 'h'),
                leaving: matches!(state, 'd' | 'D'),
                ended: matches!(state, 'D' | 'e'),
                created_seconds: i64::from(number),
                busy: None,
                reachable: true,
                closing: matches!(state, 'c' | 'O' | 'Z').then_some(Closing { for_seconds: 0, heard: false }),
                doomed: match state {
                    'z' | 'Z' | 'y' => Some(Doomed { hurry: false }),
                    'h' => Some(Doomed { hurry: true }),
                    _ => None,
                },
            })
            .collect()
    }

    fn wanted(count: u32, surge: u32) -> Wanted {
        Wanted { count, revision: "new".to_owned(), surge, room: 99, next: 1, drain: Drain::AtOnce }
    }

    /// The same behind a gateway.
    fn drained(count: u32, surge: u32) -> Wanted {
        Wanted { drain: Drain::Within(30), ..wanted(count, surge) }
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
    fn a_rollout_stays_within_its_cards() {
        let going = |states: &str, surge| {
            let mut world = workers(states);
            for worker in world.iter_mut().filter(|it| it.leaving) {
                worker.revision = "old".to_owned();
            }
            plan(&Wanted { next: 9, ..wanted(2, surge) }, &world).create
        };
        assert_eq!(going("od", 0), Vec::<u32>::new(), "its successor waits until it has ended");
        assert_eq!(going("oD", 0), [9], "it has");
        assert_eq!(going("od", 1), [9], "one ahead");
        assert_eq!(going("ord", 1), Vec::<u32>::new(), "one is ahead already");
        assert_eq!(going("dd", 0), Vec::<u32>::new(), "both are on their way");
        check("rd", 2, 0, &[3], &[], &[]);
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

    #[test]
    fn workers_of_a_node_that_goes_away_are_replaced_before_they_leave() {
        for (states, count, room, create, close, delete, why) in [
            ("rz", 2, 9, vec![9], vec![], vec![], "its successor first"),
            ("rzs", 2, 9, vec![], vec![], vec![], "which is not ready yet"),
            ("rzr", 2, 9, vec![], vec!["w-2"], vec![], "now it is"),
            ("rz", 2, 0, vec![], vec![], vec![], "no card: it serves on"),
            ("rh", 2, 0, vec![], vec!["w-2"], vec![], "until it needs the time to finish"),
            ("zz", 2, 1, vec![9], vec![], vec![], "as far as there are cards"),
            ("zzr", 2, 0, vec![], vec!["w-2"], vec![], "one for one, the younger first"),
            ("rz", 1, 9, vec![], vec!["w-2"], vec![], "nobody needs it"),
            ("z", 0, 9, vec![], vec!["w-1"], vec![], "stopped"),
            ("y", 1, 0, vec![], vec![], vec![], "may serve for a while yet"),
            ("ys", 1, 0, vec![], vec!["w-1"], vec![], "the other one gets ready as soon"),
            ("Z", 1, 1, vec![9], vec![], vec![], "closed: it is not opened again"),
            ("c", 1, 1, vec![], vec![], vec![], "the notice is withdrawn: it is"),
            ("oz", 2, 9, vec![9], vec![], vec![], "a rollout does not wait for its cards"),
        ] {
            let wanted = Wanted { room, next: 9, ..drained(count, 0) };
            let steps = plan(&wanted, &workers(states));
            assert_eq!(
                (steps.create, steps.close, steps.delete),
                (create, own(&close), own(&delete)),
                "{states}: {why}"
            );
            assert_eq!(steps.reopen.len(), usize::from(states == "c"), "{states}: {why}");
        }
    }

    fn own(names: &[&str]) -> Vec<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn behind_a_gateway_a_worker_is_closed_before_it_is_deleted() {
        let steps = plan(&drained(1, 0), &workers("rr"));
        assert_eq!((steps.close, steps.delete), (vec!["w-2".to_owned()], vec![]));
        let mut unknown = workers("rs");
        unknown[1].reachable = false;
        let steps = plan(&drained(1, 0), &unknown);
        assert_eq!(
            (steps.close, steps.delete),
            (vec![], vec!["w-2".to_owned()]),
            "nobody can have called it"
        );

        for (for_seconds, heard, busy, goes) in [
            (0, false, Some(0), false),
            (0, true, Some(0), true),
            (29, true, Some(1), false),
            (29, true, None, false),
            (29, false, None, false),
            (30, false, None, true),
            (30, true, Some(9), true),
        ] {
            let mut workers = workers("rc");
            workers[1].closing = Some(Closing { for_seconds, heard });
            workers[1].busy = busy;
            let steps = plan(&drained(1, 0), &workers);
            assert_eq!(!steps.delete.is_empty(), goes, "{for_seconds} s, heard {heard}, {busy:?}");
            assert_eq!(plan(&wanted(1, 0), &workers).delete, ["w-2"], "no gateway: nothing to wait for");
        }
    }

    #[test]
    fn the_emptiest_leaves_among_equals() {
        let mut busy = workers("rrr");
        for (worker, requests) in busy.iter_mut().zip([2, 0, 1]) {
            worker.busy = Some(requests);
        }
        assert_eq!(plan(&drained(2, 0), &busy).close, ["w-2"]);
        assert_eq!(plan(&drained(1, 0), &busy).close, ["w-2", "w-3"]);
        busy[0].ready = false;
        assert_eq!(plan(&drained(2, 0), &busy).close, ["w-1"], "one that serves nobody");
    }

    #[test]
    fn a_closed_worker_is_opened_again_before_another_is_started() {
        let open = |states, count| plan(&drained(count, 0), &workers(states));
        assert_eq!((open("rc", 2).reopen, open("rc", 2).create.len()), (vec!["w-2".to_owned()], 0));
        assert_eq!((open("rc", 3).reopen.len(), open("rc", 3).create.len()), (1, 1));
        assert_eq!(open("rc", 1).reopen.len(), 0, "it is not wanted");
        assert_eq!(open("rO", 2).reopen.len(), 0, "not one of an old template");
        assert_eq!(open("rd", 2).reopen.len(), 0, "what is deleted is gone");
        let late = Wanted { room: 0, ..drained(2, 0) };
        assert_eq!(plan(&late, &workers("rc")).reopen, ["w-2"], "it has its card");
        let mut done = workers("rc");
        done[1].closing = Some(Closing { for_seconds: 99, heard: true });
        let steps = plan(&drained(2, 0), &done);
        assert_eq!((steps.reopen.len(), steps.delete.len()), (1, 0), "even at the last moment");
    }

    #[test]
    fn a_template_that_never_gets_ready_takes_no_good_worker_with_it() {
        let full = |states, count, surge| {
            plan(&Wanted { room: 0, next: 9, ..drained(count, surge) }, &workers(states))
        };
        let none: [&str; 0] = [];
        for (states, count, surge, closed, why) in [
            ("oo", 2, 0, &["w-2"][..], "one is down at a time"),
            ("oO", 2, 0, &none[..], "until it is gone"),
            ("od", 2, 0, &none[..], "and the new one there"),
            ("os", 2, 0, &none[..], "and ready"),
            ("or", 2, 0, &["w-1"][..], "then the next"),
            ("ox", 2, 0, &["w-2"][..], "one that is down already comes first"),
            ("o", 1, 0, &["w-1"][..], "with one worker and no surge there is no other way"),
            ("oos", 2, 1, &none[..], "the new one is not ready"),
            ("orO", 2, 1, &none[..], "a card is coming: no second one goes"),
            ("ord", 2, 1, &none[..], "likewise"),
            ("oos", 1, 1, &["w-2"][..], "fewer are wanted: the other good one stays"),
            ("ooss", 1, 0, &["w-2", "w-4", "w-3"][..], "likewise"),
            ("xs", 1, 0, &["w-1"][..], "there is no good one"),
        ] {
            assert_eq!(full(states, count, surge).close, closed, "{states} for {count}: {why}");
        }
    }

    #[test]
    fn the_old_template_applied_again_replaces_what_is_not_ready_first() {
        for states in ["rx", "rrx", "xr"] {
            let workers = workers(states);
            let count = u32::try_from(workers.len()).unwrap();
            let bad = workers.iter().find(|it| it.revision == "old").unwrap();
            let steps = plan(&drained(count, 0), &workers);
            assert_eq!(steps.close, [bad.name.as_str()], "{states}");
        }
        // One that had been closed for the bad template is opened again.
        let steps = plan(&Wanted { room: 0, ..drained(2, 0) }, &workers("rc"));
        assert_eq!(steps.reopen, ["w-2"]);
    }

    proptest! {
        /// Whatever the workers do, there are never more than wanted (and the surge), and in the end just the wanted ones.
        #[test]
        fn every_start_ends_in_what_is_wanted(states in "[rsoxcOdDezyZh]{0,6}", count in 0..5_u32, surge in 0..3_u32, gateway in any::<bool>()) {
            let mut wanted = if gateway { drained(count, surge) } else { wanted(count, surge) };
            let mut world = workers(&states);
            for _ in 0..90 {
                wanted.next = wanted.next.max(world.iter().map(|it| it.number + 1).max().unwrap_or(1));
                let steps = plan(&wanted, &world);
                let live_before = world.iter().filter(|it| it.holds_cards()).count();
                prop_assert!(steps.close.iter().all(|it| !steps.delete.contains(it)));
                world.retain(|it| !steps.release.contains(&it.name));
                for worker in &mut world {
                    worker.ended |= worker.leaving;
                    worker.leaving |= steps.delete.contains(&worker.name);
                    worker.ready = !worker.ended;
                    if let Some(closing) = &mut worker.closing {
                        closing.for_seconds += 10;
                    }
                    if steps.close.contains(&worker.name) {
                        worker.closing = Some(Closing { for_seconds: 0, heard: false });
                    }
                    if steps.reopen.contains(&worker.name) {
                        worker.closing = None;
                    }
                }
                for number in &steps.create {
                    prop_assert!(world.iter().all(|it| it.number != *number), "a number was used twice");
                    world.push(Worker { name: format!("w-{number}"), number: *number, revision: "new".to_owned(), ready: false, leaving: false, ended: false, created_seconds: 99, busy: None, reachable: true, closing: None, doomed: None });
                }
                let live = world.iter().filter(|it| it.is_sound()).count();
                prop_assert!(live <= live_before.max((count + surge) as usize));
            }
            let live: Vec<&Worker> = world.iter().filter(|it| !it.leaving && it.closing.is_none()).collect();
            prop_assert_eq!(live.len(), count as usize);
            prop_assert!(live.iter().all(|it| it.revision == "new" && it.ready));
        }
    }
}
