//! The life of one machine of a group: what it is worth to its owner now, and which of its hours are charged.
//!
//! A machine is paid for a term (`lease`) or by the hour. Its hours count from the second in which it began to be paid so; each
//! is charged when it is over, or when the use ends in it. Given back, an hour that has begun is charged whole; converted, just
//! the seconds before its term begins, so that no second is paid for twice and none is free.

use jiff::Timestamp;

use super::calendar::{after_seconds, whole_second};
use super::{Lease, State};

/// Seconds of an hour.
pub const HOUR_SECONDS: i64 = 3_600;

/// A machine that is emptied because nothing is paid any more has so long until its pods are deleted, seconds.
pub const DRAIN_SECONDS: i64 = 3_600;

/// A time in which a machine is paid by the hour. All on whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hourly {
    /// When it began, and so its first hour.
    pub from: Timestamp,
    /// Before this everything is charged.
    pub billed: Timestamp,
    /// Its end, if it has one.
    pub end: Option<End>,
}

/// How a use by the hour ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The machine is the group's no more, or somebody else pays from then on.
    GivenBack(Timestamp),
    /// Its term begins in this second.
    Converted(Timestamp),
}

impl End {
    /// When.
    pub fn at(self) -> Timestamp {
        match self {
            End::GivenBack(at) | End::Converted(at) => at,
        }
    }
}

/// An hour to charge: a line of the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hour {
    /// When it begins.
    pub start: Timestamp,
    /// How much of it is charged, seconds.
    pub seconds: u64,
}

/// Hours to charge now, and until when everything is charged with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The hours, in order.
    pub hours: Vec<Hour>,
    /// Until when.
    pub billed: Timestamp,
}

impl Hourly {
    /// The hours that are over and not charged, so many at most.
    pub fn due(&self, now: Timestamp, most: usize) -> Due {
        let mut due = Due { hours: Vec::new(), billed: self.billed };
        let limit = self.end.map_or(now, End::at);
        while due.billed < limit {
            let (start, end) = (due.billed, after_seconds(due.billed, HOUR_SECONDS));
            let seconds = match self.end {
                _ if end <= limit => HOUR_SECONDS,
                None => return due,
                Some(End::GivenBack(_)) => HOUR_SECONDS,
                Some(End::Converted(at)) => at.as_second() - start.as_second(),
            };
            if due.hours.len() == most {
                return due;
            }
            due.hours.push(Hour { start, seconds: seconds.unsigned_abs() });
            due.billed = if self.end.is_some() { end.min(limit) } else { end };
        }
        due
    }

    /// The hours that have begun and are not charged, as they are charged if the machine is given back now.
    pub fn begun(&self, now: Timestamp, most: usize) -> Vec<Hour> {
        let end = self.end.or(Some(End::GivenBack(self.ends(now))));
        Hourly { end, ..*self }.due(now, most).hours
    }

    /// The first second that no hour of it covers: the next use may begin there, and not before.
    pub fn covered_until(&self) -> Option<Timestamp> {
        match self.end? {
            End::Converted(at) => Some(at),
            End::GivenBack(at) => {
                let seconds = at.as_second() - self.from.as_second();
                let hours = (seconds + HOUR_SECONDS - 1).div_euclid(HOUR_SECONDS);
                Some(after_seconds(self.from, hours * HOUR_SECONDS))
            }
        }
    }

    /// When a use ends that ends now: one that has begun lasted a second at least, and one that has not is empty.
    pub fn ends(&self, now: Timestamp) -> Timestamp {
        if now < self.from {
            self.from
        } else {
            whole_second(now).max(after_seconds(self.from, 1)).max(self.billed)
        }
    }

    /// When a use ends whose end nobody saw, and that is found out now: in the hour that is not charged yet, which has begun.
    pub fn ends_unseen(&self, now: Timestamp) -> Timestamp {
        if now < self.from { self.from } else { after_seconds(self.billed, 1) }
    }

    /// When its next hour is over.
    pub fn next(&self) -> Timestamp {
        after_seconds(self.billed, HOUR_SECONDS)
    }

    /// Is any hour of it charged?
    pub fn is_charged(&self) -> bool {
        self.billed > self.from
    }
}

/// What a machine is to its group now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was never bought.
    New,
    /// Paid for a term that runs.
    Term {
        /// Until when.
        expires_at: Timestamp,
    },
    /// Paid by the hour.
    Hourly,
    /// Its term has ended: a renewal brings it back.
    Expired {
        /// When it expired.
        since: Timestamp,
        /// When it is released for good.
        releases_at: Timestamp,
    },
    /// It was paid by the hour and lost its node, or was given back in arrears: it comes back when there is one.
    Away,
    /// Nothing brings it back: it was not renewed in time, or its owner has left it.
    Over {
        /// Since when.
        since: Timestamp,
    },
}

/// What a machine is. `uses`: its times by the hour, the first one first. `left`: when its owner left its orders.
pub fn stage(lease: &Lease, uses: &[Hourly], left: Option<Timestamp>) -> Stage {
    let last = uses.last();
    if last.is_some_and(|it| it.end.is_none()) {
        return Stage::Hourly;
    }
    // What came last says how it is: a use that began at expiry, or a term that began at the end of a use.
    let hours_later = |since: Timestamp| last.is_some_and(|it| it.from >= since);
    match lease.state {
        State::Requested if uses.is_empty() => Stage::New,
        State::Requested => Stage::Away,
        State::Active { expires_at } => match left {
            Some(since) => Stage::Over { since },
            None => Stage::Term { expires_at },
        },
        State::Expired { since, .. } | State::Released { since } if hours_later(expiry(lease, since)) => {
            Stage::Away
        }
        State::Expired { since, releases_at } => Stage::Expired { since, releases_at },
        State::Released { since } | State::Ended { since } => Stage::Over { since },
    }
}

/// When a lease expired whose state says when it expired or was released.
fn expiry(lease: &Lease, otherwise: Timestamp) -> Timestamp {
    lease.anchor.map_or(otherwise, |it| super::calendar::after_months(it, lease.months))
}
