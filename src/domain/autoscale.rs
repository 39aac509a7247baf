//! How many workers an elastic endpoint wants, from what its gateway says it has to do. It knows nothing of pods or cards.
//!
//! Up at once, down late: a worker more is wanted as soon as there is demand for it, and one less only after a whole
//! `delay` of lower demand that was seen without a gap. Whoever has seen nothing (no gateway, a silent one, an operator
//! that has just started) holds what is there: no data is no reason to end anybody's worker.

use std::collections::VecDeque;

/// A report that is older says nothing about now.
pub const FRESH_MS: u64 = 5_000;
/// A window is kept in at most so many pieces (and one at each end).
const PIECES: u64 = 60;

/// What an endpoint's owner has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Always on.
    pub active: u32,
    /// Most workers.
    pub max: u32,
    /// Idle workers kept ahead of demand.
    pub spare: u32,
    /// Requests in one worker.
    pub concurrency: u32,
    /// Without a request for so long, the last worker goes.
    pub idle_ms: u64,
    /// After so long of lower demand a worker goes.
    pub delay_ms: u64,
}

/// What an endpoint has to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests in workers.
    pub in_flight: u32,
    /// Requests that wait for a slot.
    pub queued: u32,
    /// Requests that have ended. Any change of it is a request that came and went between two reports.
    pub served: u64,
}

/// Why so many are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The requests there are need so many (and `spare`).
    Demand,
    /// Less is needed, but so many are always on.
    Active,
    /// More is needed, but this is the most.
    Max,
    /// More was needed a moment ago.
    Delayed,
    /// Nobody has asked for anything for a while.
    Idle,
    /// Nothing is known about now: what is there stays.
    NoData,
    /// Not yet known for long enough to let anybody go.
    Warming,
}

/// A decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Workers.
    pub wanted: u32,
    /// Why.
    pub reason: Reason,
}

/// What has been seen of one endpoint lately.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// The last report, and when it came.
    last: Option<(u64, Load)>,
    /// Since when reports have come without a gap.
    since_ms: u64,
    /// When there was last a request.
    busy_ms: u64,
    /// The most requests at once, in falling order: what a later piece exceeds is forgotten.
    peaks: VecDeque<Peak>,
    /// What was wanted last; `None` before anything was decided.
    wanted: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peak {
    began_ms: u64,
    ended_ms: u64,
    requests: u64,
}

impl Window {
    /// A report has come. `delay_ms` is as in the rules.
    pub fn hear(&mut self, now_ms: u64, load: Load, delay_ms: u64) {
        let requests = requests(&load);
        match self.last {
            Some((at_ms, before)) if now_ms.saturating_sub(at_ms) <= FRESH_MS => {
                // What was reported held until now.
                self.note(now_ms, self::requests(&before), delay_ms);
                if requests > 0 || self::requests(&before) > 0 || load.served != before.served {
                    self.busy_ms = now_ms;
                }
            }
            Some(_) | None => {
                self.peaks.clear();
                self.since_ms = now_ms;
                self.busy_ms = now_ms;
            }
        }
        self.note(now_ms, requests, delay_ms);
        self.last = Some((now_ms, load));
    }

    fn note(&mut self, now_ms: u64, requests: u64, delay_ms: u64) {
        while self.peaks.front().is_some_and(|it| now_ms.saturating_sub(it.ended_ms) >= delay_ms.max(1)) {
            self.peaks.pop_front();
        }
        let mut began_ms = now_ms;
        while let Some(lower) = self.peaks.back().copied().filter(|it| it.requests <= requests) {
            began_ms = if lower.requests == requests { lower.began_ms } else { began_ms };
            self.peaks.pop_back();
        }
        match self.peaks.back_mut() {
            // One piece is this long at most, so there are never more of them than a window has.
            Some(higher) if now_ms.saturating_sub(higher.began_ms) < delay_ms / PIECES => {
                higher.ended_ms = now_ms;
            }
            Some(_) | None => self.peaks.push_back(Peak { began_ms, ended_ms: now_ms, requests }),
        }
    }

    /// The endpoint was stopped: what was before is no reason to start with more.
    pub fn reset(&mut self) {
        *self = Window { wanted: Some(0), ..Window::default() };
    }

    /// The last report, while it says something about now.
    pub fn load(&self, now_ms: u64) -> Option<Load> {
        self.last.filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) <= FRESH_MS).map(|(_, load)| load)
    }

    /// What was wanted last.
    pub fn wanted(&self) -> Option<u32> {
        self.wanted
    }

    /// Decides. `have`: workers that there are and that are to stay; it counts only before the first decision, for later
    /// on it follows from what was decided.
    pub fn decide(&mut self, now_ms: u64, rules: &Rules, have: u32) -> Decision {
        let decision = self.decision(now_ms, rules, self.wanted.unwrap_or(have));
        assert!(decision.wanted <= rules.max.max(rules.active), "never more than the most");
        self.wanted = Some(decision.wanted);
        decision
    }

    fn decision(&self, now_ms: u64, rules: &Rules, before: u32) -> Decision {
        let max = rules.max.max(rules.active);
        // As many as before, as far as the bounds allow.
        let hold = |reason| match () {
            () if before < rules.active => Decision { wanted: rules.active, reason: Reason::Active },
            () if before > max => Decision { wanted: max, reason: Reason::Max },
            () => Decision { wanted: before, reason },
        };
        let Some(load) = self.load(now_ms) else { return hold(Reason::NoData) };
        let now = raw(requests(&load), rules);
        // Old peaks count as long as they are within the delay as it is now.
        let peak = self.peaks.iter().filter(|it| now_ms.saturating_sub(it.ended_ms) < rules.delay_ms);
        let lately = peak.map(|it| raw(it.requests, rules)).max().unwrap_or(0).max(now);
        let warm = now_ms.saturating_sub(self.since_ms) >= rules.delay_ms;
        let idle = now_ms.saturating_sub(self.busy_ms) >= rules.idle_ms && requests(&load) == 0;

        let of_demand = if now > max {
            Decision { wanted: max, reason: Reason::Max }
        } else if now < rules.active {
            Decision { wanted: rules.active, reason: Reason::Active }
        } else if now == 0 {
            Decision { wanted: 0, reason: Reason::Idle }
        } else {
            Decision { wanted: now, reason: Reason::Demand }
        };
        if of_demand.wanted >= before.min(max) {
            return of_demand;
        }
        // Fewer than there are: only as far as has been enough for a whole window.
        if !warm {
            return hold(Reason::Warming);
        }
        let before = before.min(max);
        let mut floor = lately.min(before);
        if floor == 0 && !idle {
            floor = 1;
        }
        if floor > of_demand.wanted {
            return Decision { wanted: floor, reason: Reason::Delayed };
        }
        of_demand
    }
}

fn requests(load: &Load) -> u64 {
    u64::from(load.in_flight) + u64::from(load.queued)
}

/// Workers that so many requests need, and the spare ones.
fn raw(requests: u64, rules: &Rules) -> u32 {
    let needed = requests.div_ceil(u64::from(rules.concurrency.max(1))) + u64::from(rules.spare);
    u32::try_from(needed).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(active: u32, max: u32, spare: u32, concurrency: u32) -> Rules {
        Rules { active, max, spare, concurrency, idle_ms: 60_000, delay_ms: 30_000 }
    }

    fn load(in_flight: u32, queued: u32) -> Load {
        Load { in_flight, queued, served: 0 }
    }

    /// Reports every second from `from` to `to` (seconds), both included.
    fn report(window: &mut Window, from: u64, to: u64, load: Load) {
        for second in from..=to {
            window.hear(second * 1_000, load, 30_000);
        }
    }

    #[track_caller]
    fn check(window: &mut Window, second: u64, rules: &Rules, have: u32, wanted: u32, reason: Reason) {
        assert_eq!(window.decide(second * 1_000, rules, have), Decision { wanted, reason });
    }

    #[test]
    fn demand_is_rounded_up_and_kept_within_bounds() {
        for (in_flight, queued, active, max, spare, concurrency, wanted, reason) in [
            (0, 0, 0, 4, 0, 8, 0, Reason::Idle),
            (0, 1, 0, 4, 0, 8, 1, Reason::Demand),
            (8, 0, 0, 4, 0, 8, 1, Reason::Demand),
            (8, 1, 0, 4, 0, 8, 2, Reason::Demand),
            (8, 0, 0, 4, 1, 8, 2, Reason::Demand),
            (0, 0, 0, 4, 1, 8, 1, Reason::Demand),
            (0, 0, 2, 4, 0, 8, 2, Reason::Active),
            (99, 9, 2, 4, 0, 8, 4, Reason::Max),
            (32, 0, 2, 4, 0, 8, 4, Reason::Demand),
            (u32::MAX, u32::MAX, 0, 10_000, 10_000, 1, 10_000, Reason::Max),
            // What no rule lets through: it is no reason to panic.
            (3, 0, 0, 4, 0, 0, 3, Reason::Demand),
            (0, 0, 5, 4, 0, 1, 5, Reason::Active),
        ] {
            let mut window = Window::default();
            window.hear(0, load(in_flight, queued), 30_000);
            check(&mut window, 0, &rules(active, max, spare, concurrency), 0, wanted, reason);
        }
    }

    #[test]
    fn fewer_are_wanted_only_after_a_whole_delay_of_less() {
        let rules = rules(1, 9, 0, 1);
        let mut window = Window::default();
        report(&mut window, 0, 40, load(5, 0));
        check(&mut window, 40, &rules, 0, 5, Reason::Demand);
        report(&mut window, 41, 60, load(3, 0));
        check(&mut window, 60, &rules, 5, 5, Reason::Delayed);
        // A higher moment in between counts from when it ended.
        report(&mut window, 61, 61, load(4, 0));
        report(&mut window, 62, 70, load(1, 0));
        check(&mut window, 70, &rules, 5, 5, Reason::Delayed);
        check(&mut window, 71, &rules, 5, 4, Reason::Delayed);
        report(&mut window, 71, 91, load(1, 0));
        check(&mut window, 91, &rules, 4, 4, Reason::Delayed);
        check(&mut window, 92, &rules, 4, 1, Reason::Demand);
    }

    #[test]
    fn the_last_worker_goes_when_nobody_asks_for_idle_seconds() {
        let rules = rules(0, 9, 0, 1);
        let mut window = Window::default();
        report(&mut window, 0, 10, load(1, 0));
        check(&mut window, 10, &rules, 0, 1, Reason::Demand);
        report(&mut window, 11, 50, load(0, 0));
        check(&mut window, 50, &rules, 1, 1, Reason::Delayed);
        // One that came and went between two reports.
        report(&mut window, 51, 110, Load { served: 1, ..Load::default() });
        check(&mut window, 110, &rules, 1, 1, Reason::Delayed);
        report(&mut window, 111, 111, Load { served: 1, ..Load::default() });
        check(&mut window, 111, &rules, 1, 0, Reason::Idle);
        for (active, spare, wanted, reason) in [(1, 0, 1, Reason::Active), (0, 1, 1, Reason::Demand)] {
            let rules = Rules { active, spare, ..rules };
            assert_eq!(window.decision(111_000, &rules, 1), Decision { wanted, reason });
        }
    }

    #[test]
    fn no_data_holds_what_is_there() {
        let rules = rules(1, 4, 0, 1);
        let mut window = Window::default();
        check(&mut window, 0, &rules, 3, 3, Reason::NoData);
        check(&mut Window::default(), 0, &rules, 0, 1, Reason::Active);
        check(&mut Window::default(), 0, &rules, 9, 4, Reason::Max);
        // Pods of a rollout or lost ones are no news.
        check(&mut window, 1, &rules, 4, 3, Reason::NoData);
        report(&mut window, 10, 30, load(0, 0));
        check(&mut window, 30, &rules, 3, 3, Reason::Warming);
        // A gap: everything begins anew.
        check(&mut window, 36, &rules, 3, 3, Reason::NoData);
        report(&mut window, 36, 65, load(0, 0));
        check(&mut window, 65, &rules, 3, 3, Reason::Warming);
        report(&mut window, 66, 66, load(0, 0));
        check(&mut window, 66, &rules, 3, 1, Reason::Active);
    }

    #[test]
    fn a_wake_stays_while_somebody_waits() {
        let rules = rules(0, 4, 0, 8);
        let mut window = Window::default();
        report(&mut window, 0, 100, load(0, 0));
        check(&mut window, 100, &rules, 0, 0, Reason::Idle);
        window.hear(100_300, load(0, 1), 30_000);
        assert_eq!(window.decide(100_300, &rules, 0), Decision { wanted: 1, reason: Reason::Demand });
        report(&mut window, 101, 400, load(0, 1));
        check(&mut window, 400, &rules, 0, 1, Reason::Demand);
        check(&mut window, 500, &rules, 0, 1, Reason::NoData);
    }

    #[test]
    fn a_stopped_endpoint_starts_with_what_is_asked_now() {
        let rules = rules(1, 9, 0, 1);
        let mut window = Window::default();
        report(&mut window, 0, 10, load(7, 0));
        check(&mut window, 10, &rules, 0, 7, Reason::Demand);
        window.reset();
        check(&mut window, 11, &rules, 7, 1, Reason::Active);
    }

    proptest! {
        #[test]
        fn workers_follow_demand_and_never_fall_without_a_window_of_data(
            steps in prop::collection::vec((0..9_000_u64, 0..30_u32, 0..30_u32, 0..2_u64, any::<bool>()), 1..200),
            active in 0..4_u32, above in 0..6_u32, spare in 0..3_u32, concurrency in 1..5_u32, delay in 0..40_u64, idle in 0..40_u64,
        ) {
            let rules = Rules { active, max: (active + above).max(1), spare, concurrency, idle_ms: idle * 1_000, delay_ms: delay * 1_000 };
            let mut window = Window::default();
            // Every report, kept whole: what the window may forget, this does not.
            let mut all: Vec<(u64, u64)> = Vec::new();
            let (mut now_ms, mut served, mut before, mut since_ms) = (0, 0, None::<u32>, None::<u64>);
            for (wait, in_flight, queued, ended, silent) in steps {
                now_ms += wait;
                if !silent {
                    served += ended;
                    let gap = all.last().is_none_or(|(at, _)| now_ms - at > FRESH_MS);
                    since_ms = if gap { Some(now_ms) } else { since_ms };
                    window.hear(now_ms, Load { in_flight, queued, served }, rules.delay_ms);
                    all.push((now_ms, u64::from(in_flight) + u64::from(queued)));
                }
                let decision = window.decide(now_ms, &rules, 0);
                prop_assert!(decision.wanted <= rules.max, "the cap");
                prop_assert!(decision.wanted >= rules.active, "the floor");
                let fresh = all.last().filter(|(at, _)| now_ms - at <= FRESH_MS);
                if let Some((_, requests)) = fresh {
                    prop_assert!(decision.wanted >= raw(*requests, &rules).min(rules.max), "the demand of now");
                } else {
                    prop_assert_eq!(decision.wanted, before.unwrap_or(0).max(rules.active), "no data");
                }
                if decision.wanted < before.unwrap_or(0) {
                    prop_assert!(fresh.is_some());
                    prop_assert!(now_ms - since_ms.unwrap() >= rules.delay_ms, "a whole window");
                    let lately = all.iter().filter(|(at, _)| now_ms - at < rules.delay_ms).map(|it| raw(it.1, &rules)).max();
                    prop_assert!(decision.wanted >= lately.unwrap_or(0).min(rules.max), "the most of the window");
                }
                prop_assert!(window.peaks.len() <= usize::try_from(PIECES).unwrap() + 2, "bounded memory");
                before = Some(decision.wanted);
            }
        }

        #[test]
        fn more_demand_never_wants_fewer(in_flight in 0..100_u32, more in 0..100_u32, have in 0..9_u32, active in 0..3_u32, spare in 0..3_u32, concurrency in 1..9_u32) {
            let rules = rules(active, 9, spare, concurrency);
            let wanted = |in_flight| {
                let mut window = Window::default();
                report(&mut window, 0, 70, load(in_flight, 0));
                window.decide(70_000, &rules, have).wanted
            };
            prop_assert!(wanted(in_flight) <= wanted(in_flight + more));
        }
    }
}
