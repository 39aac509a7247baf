//! When the use of a worker begins and ends, as its pod tells, and how far use can be billed. What it costs is `usage`'s.
//!
//! A day is billed once, as a whole. So it waits until nothing of it can come out otherwise: for who might still tell late of an end,
//! and for workers of which nobody knows whether they live. What turns out afterwards to have been used in a billed day is not
//! billed any more.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::calendar::{Period, after_seconds, utc_day, whole_second};
use super::{Exact, usage};

/// An end may become known this late without being billed for too long: a kubelet that was cut off for a moment reports it when
/// it is back, and a node that says nothing for 50 s counts as not ready, from when on nobody confirms its workers.
pub const LATE_SECONDS: i64 = 300;

/// What a worker's pod says of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It lives.
    Up {
        /// Since when it is ready, if it is.
        ready_since: Option<Timestamp>,
    },
    /// It is not ready, and has ended at this moment and been started again.
    Restarted {
        /// When it ended.
        ended_at: Timestamp,
    },
    /// It has ended, or has crashed and waits for its next start.
    Down {
        /// When, if anybody saw it.
        ended_at: Option<Timestamp>,
    },
}

/// A time in which a worker is billed. All its times are whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Its first second.
    pub from: Timestamp,
    /// The first second after it, once it has ended.
    pub until: Option<Timestamp>,
    /// Until when it is known to have lasted.
    pub confirmed: Timestamp,
    /// What is before this is billed.
    pub billed: Timestamp,
}

/// What a look at a worker comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Its use begins.
    Begin(Timestamp),
    /// Its use ends.
    End(Timestamp),
    /// Its use ends, and at once another one begins: somebody else pays, or it has another price list.
    Cut(Timestamp),
}

impl Use {
    /// One that begins.
    pub fn begins(from: Timestamp) -> Use {
        Use { from, until: None, confirmed: from, billed: from }
    }

    /// Until when it lasted, as far as is known.
    pub fn reached(&self) -> Timestamp {
        self.until.unwrap_or(self.confirmed)
    }

    /// What of it is before this moment and not billed.
    pub fn unbilled(&self, until: Timestamp) -> Option<Period> {
        let end = self.reached().min(until);
        (self.billed < end).then_some(Period { start: self.billed, end })
    }

    /// When it ends: never before what is billed of it. Whose end nobody saw ends at its last confirmed second. A clock that is
    /// ahead of ours makes nothing last longer.
    fn ends(&self, seen: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let end = seen.map_or(self.confirmed, |it| whole_second(it.min(now)));
        end.max(self.from).max(self.billed)
    }
}

/// What becomes of a worker's use: of the one that has not ended, if there is one. `not_before`: what is before this is closed.
/// `other_terms`: from now on somebody else pays, or it has another price list.
pub fn step(
    open: Option<&Use>,
    life: Life,
    not_before: Timestamp,
    other_terms: bool,
    now: Timestamp,
) -> Step {
    match (open, life) {
        (None, Life::Up { ready_since: Some(since) }) => {
            Step::Begin(whole_second(since.min(now)).max(not_before))
        }
        (Some(open), Life::Down { ended_at }) => Step::End(open.ends(ended_at, now)),
        // It may have been started again before it was ever ready.
        (Some(open), Life::Restarted { ended_at }) if ended_at > open.from => {
            Step::End(open.ends(Some(ended_at), now))
        }
        // Two uses may not begin in the same second.
        (Some(open), Life::Up { .. }) if other_terms && whole_second(now) > open.from.max(open.billed) => {
            Step::Cut(whole_second(now))
        }
        (None, Life::Up { ready_since: None } | Life::Restarted { .. } | Life::Down { .. })
        | (Some(_), Life::Up { .. } | Life::Restarted { .. }) => Step::Stay,
    }
}

/// Until when a contract's use can be billed: a midnight. `confirmed`: of all its uses that have not ended.
pub fn billable_until(now: Timestamp, confirmed: impl IntoIterator<Item = Timestamp>) -> Timestamp {
    let sure = confirmed.into_iter().fold(now, Timestamp::min);
    utc_day(after_seconds(sure, -LATE_SECONDS)).start
}

/// The end of the days of which something is billed: what begins before it comes too late.
pub fn closed_until(billed: Timestamp) -> Timestamp {
    utc_day(after_seconds(billed, -1)).end
}

/// When a price begins that is first seen now; `None` when it is the one that holds. `first`: when a first one begins.
pub fn price_begins(
    known: &BTreeMap<Timestamp, Exact>,
    price: &Exact,
    first: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let Some((last, holds)) = known.last_key_value() else { return Some(whole_second(first.min(now))) };
    (holds != price).then(|| whole_second(now).max(after_seconds(*last, 1)))
}

/// The spans to bill of uses: with how many units each, up to a moment.
pub fn spans<'a>(uses: impl IntoIterator<Item = (&'a Use, u64)>, until: Timestamp) -> Vec<usage::Span> {
    let span = |(it, units): (&Use, u64)| Some(usage::Span { period: it.unbilled(until)?, units });
    uses.into_iter().filter_map(span).collect()
}
