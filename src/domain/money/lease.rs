//! The life of something prepaid: a pool, or one machine. A function of the orders that were posted for it, and of time.

use std::fmt;

use jiff::Timestamp;

use super::calendar::{Period, after_days, after_months, whole_second};
use super::{Order, PoolSize, Purpose};

/// Reminders before expiry, days.
const EXPIRY_REMINDER_DAYS: [u32; 3] = [7, 3, 1];

/// Reminders before what has expired is released for good, days.
const RELEASE_REMINDER_DAYS: [u32; 3] = [30, 7, 1];

/// Where something prepaid stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its first order is not paid.
    Requested,
    /// It is paid for.
    Active {
        /// When its last period ends.
        expires_at: Timestamp,
    },
    /// Its time is over; a renewal brings it back.
    Expired {
        /// When it expired.
        since: Timestamp,
        /// When it is released for good.
        releases_at: Timestamp,
    },
    /// It was not renewed in time: nothing brings it back.
    Released {
        /// When its retention ended.
        since: Timestamp,
    },
    /// Its owner has left it. The end.
    Ended {
        /// When.
        since: Timestamp,
    },
}

/// What happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An order for it is posted.
    Paid(Order),
    /// Time has passed.
    Tick,
    /// Its owner leaves it.
    Unsubscribed,
}

/// What follows from an event, for who acts on it or tells the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Its first period has begun.
    Began,
    /// It has grown.
    Expanded,
    /// It expires later.
    Renewed,
    /// It had expired and is back.
    Resumed,
    /// It has expired.
    Expired,
    /// It is released for good.
    Released,
    /// It has been left.
    Ended,
}

/// Why an order can't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// Something else than a first term comes before it.
    NotBegun,
    /// It has had its first term.
    AlreadyBegun,
    /// The purchase is refused while it is expired.
    Expired,
    /// It is released for good.
    Released,
    /// It has been left.
    Ended,
    /// The order's period is not the one that follows.
    WrongPeriod,
    /// The renewal is not the next one of the list.
    OutOfTurn,
    /// An expansion doesn't enlarge it, or a renewal is for another size.
    WrongSize,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejected::NotBegun => "it is not bought yet",
            Rejected::AlreadyBegun => "it is bought already",
            Rejected::Expired => "it has expired: renew it first",
            Rejected::Released => "it is released for good",
            Rejected::Ended => "it has ended",
            Rejected::WrongPeriod => "the order's period is not the one that follows",
            Rejected::OutOfTurn => "the renewal is not the next one of the list",
            Rejected::WrongSize => "the order is for another size",
        })
    }
}

impl std::error::Error for Rejected {}

/// What the tariff says about leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long what has expired can be brought back, days of 24 h.
    pub retention_days: u32,
}

/// A reminder that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reminder {
    /// It expires soon.
    Expiry {
        /// In so many days at most.
        days: u32,
        /// When.
        at: Timestamp,
    },
    /// It is released for good soon.
    Release {
        /// In so many days at most.
        days: u32,
        /// When.
        at: Timestamp,
    },
}

/// A term that follows: its period, and the chain of months that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// What an order of this term pays for.
    pub period: Period,
    /// Where the chain of months begins.
    pub anchor: Timestamp,
    /// How many months after the anchor it ends.
    pub months: u32,
}

/// Something prepaid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Where it stands.
    pub state: State,
    /// Where its chain of months begins: its first moment, or that of the renewal which brought it back last.
    pub anchor: Option<Timestamp>,
    /// Months of the chain, bought so far.
    pub months: u32,
    /// When its first period began.
    pub started_at: Option<Timestamp>,
    /// How many entries of the list of renewals are bought.
    pub renewals_bought: u32,
    /// What is bought.
    pub size: PoolSize,
}

impl Default for Lease {
    /// Nothing is paid.
    fn default() -> Self {
        Lease {
            state: State::Requested,
            anchor: None,
            months: 0,
            started_at: None,
            renewals_bought: 0,
            size: PoolSize::default(),
        }
    }
}

impl Lease {
    /// Computes what it is after an event. The single place where it changes.
    ///
    /// Time passes first: whatever the event, what should have expired by now has. An order counts from the moment it is
    /// for, however late it was posted: one that was bought in time is never lost to a slow ledger.
    pub fn step(self, event: Event, now: Timestamp, rules: &Rules) -> Result<(Lease, Vec<Effect>), Rejected> {
        let counts_from = match &event {
            Event::Paid(order) => now.min(order.period.start),
            Event::Tick | Event::Unsubscribed => now,
        };
        let (lease, mut effects) = self.pass_time(counts_from, *rules);
        let lease = lease.seen_at(counts_from, *rules);
        let (lease, effect) = match (lease.state, event) {
            (State::Requested, Event::Paid(order)) => lease.begin(&order)?,
            (State::Active { expires_at }, Event::Paid(order)) => lease.buy_more(&order, expires_at)?,
            (State::Expired { since, .. }, Event::Paid(order)) => lease.resume(&order, since)?,
            (State::Released { .. }, Event::Paid(_)) => return Err(Rejected::Released),
            (State::Ended { .. }, Event::Paid(_)) => return Err(Rejected::Ended),

            (
                State::Requested | State::Active { .. } | State::Expired { .. } | State::Released { .. },
                Event::Unsubscribed,
            ) => (Lease { state: State::Ended { since: now }, ..lease }, Some(Effect::Ended)),

            // Idempotent: it is left already, or time has passed above.
            (State::Ended { .. }, Event::Unsubscribed)
            | (
                State::Requested
                | State::Active { .. }
                | State::Expired { .. }
                | State::Released { .. }
                | State::Ended { .. },
                Event::Tick,
            ) => (lease, None),
        };
        effects.extend(effect);
        let (lease, since_then) = lease.pass_time(now, *rules);
        effects.extend(since_then);
        Ok((lease, effects))
    }

    /// Replays orders in the order in which they were posted, each with when that was; then its end, if it has one; then the
    /// time until now. An order that was posted after the end is rejected.
    pub fn replay(
        orders: &[(Timestamp, Order)],
        ended_at: Option<Timestamp>,
        now: Timestamp,
        rules: &Rules,
    ) -> Result<Lease, Rejected> {
        let mut lease = Lease::default();
        let mut end = ended_at;
        for (posted_at, order) in orders {
            if let Some(at) = end.take_if(|at| *at < *posted_at) {
                (lease, _) = lease.step(Event::Unsubscribed, at, rules)?;
            }
            (lease, _) = lease.step(Event::Paid(order.clone()), *posted_at, rules)?;
        }
        if let Some(at) = end {
            (lease, _) = lease.step(Event::Unsubscribed, at, rules)?;
        }
        Ok(lease.step(Event::Tick, now, rules)?.0)
    }

    /// The term of so many months that an order would buy now; `None` when nothing can be bought any more.
    ///
    /// The first one begins now. A renewal before expiry begins at the old expiry and ends on the chain's next step; one
    /// after it begins now, and its chain with it. Beginnings are whole seconds.
    pub fn term(&self, months: u32, now: Timestamp) -> Option<Term> {
        let (anchor, before, start) = match (self.state, self.anchor) {
            (State::Active { expires_at }, Some(anchor)) => (anchor, self.months, expires_at),
            (State::Expired { since, .. }, Some(anchor)) if whole_second(now) <= since => {
                (anchor, self.months, since)
            }
            (State::Requested | State::Active { .. } | State::Expired { .. }, None | Some(_)) => {
                (whole_second(now), 0, whole_second(now))
            }
            (State::Released { .. } | State::Ended { .. }, None | Some(_)) => return None,
        };
        let months = before.saturating_add(months);
        Some(Term { period: Period { start, end: after_months(anchor, months) }, anchor, months })
    }

    /// When it changes by itself next, or a reminder is due: the first such moment after now. What should have changed by
    /// now is due now.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let change = match self.state {
            State::Active { expires_at } => expires_at,
            State::Expired { releases_at, .. } => releases_at,
            State::Requested | State::Released { .. } | State::Ended { .. } => return None,
        };
        let reminders = self.reminders().into_iter().map(|(due, _)| due).filter(|due| *due > now);
        reminders.chain([change.max(now)]).min()
    }

    /// The reminder that is due: 7, 3 and 1 days before expiry, 30, 7 and 1 days before release, the tightest that has
    /// come. It is the same until the next one is due, so that who has sent it can tell.
    pub fn reminder(&self, now: Timestamp) -> Option<Reminder> {
        let due = self.reminders().into_iter().filter(|(due, _)| *due <= now);
        due.max_by_key(|(due, _)| *due).map(|(_, reminder)| reminder).filter(|reminder| match reminder {
            Reminder::Expiry { at, .. } | Reminder::Release { at, .. } => now < *at,
        })
    }

    /// Every reminder of its present state, with when it is due. Before a release none is due that would have come before
    /// the expiry: a retention of 7 days has no reminder 30 days before its end.
    fn reminders(&self) -> Vec<(Timestamp, Reminder)> {
        let before = |at, days: u32| after_days(at, -i64::from(days));
        match self.state {
            State::Active { expires_at: at } => {
                EXPIRY_REMINDER_DAYS.map(|days| (before(at, days), Reminder::Expiry { days, at })).to_vec()
            }
            State::Expired { since, releases_at: at } => RELEASE_REMINDER_DAYS
                .map(|days| (before(at, days), Reminder::Release { days, at }))
                .into_iter()
                .filter(|(due, _)| *due >= since)
                .collect(),
            State::Requested | State::Released { .. } | State::Ended { .. } => Vec::new(),
        }
    }

    fn begin(self, order: &Order) -> Result<(Lease, Option<Effect>), Rejected> {
        match order.purpose {
            Purpose::Initial | Purpose::Conversion => (),
            Purpose::Expansion { .. } | Purpose::Manual { .. } | Purpose::Auto { .. } => {
                return Err(Rejected::NotBegun);
            }
        }
        let begun = Lease { size: order.size, started_at: Some(order.period.start), ..self };
        Ok((begun.extended(order)?, Some(Effect::Began)))
    }

    fn buy_more(self, order: &Order, expires_at: Timestamp) -> Result<(Lease, Option<Effect>), Rejected> {
        match order.purpose {
            Purpose::Initial | Purpose::Conversion => Err(Rejected::AlreadyBegun),
            Purpose::Expansion { to } => {
                if order.size != to || !to.is_larger_than(self.size) {
                    return Err(Rejected::WrongSize);
                }
                if order.period.end != expires_at {
                    return Err(Rejected::WrongPeriod);
                }
                Ok((Lease { size: to, ..self }, Some(Effect::Expanded)))
            }
            Purpose::Manual { position } => Ok((self.manual(order, position)?, Some(Effect::Renewed))),
            Purpose::Auto { old_expiry } => {
                Ok((self.auto(order, old_expiry, expires_at)?, Some(Effect::Renewed)))
            }
        }
    }

    fn resume(self, order: &Order, since: Timestamp) -> Result<(Lease, Option<Effect>), Rejected> {
        match order.purpose {
            Purpose::Initial | Purpose::Conversion => Err(Rejected::AlreadyBegun),
            Purpose::Expansion { .. } => Err(Rejected::Expired),
            Purpose::Manual { position } => Ok((self.manual(order, position)?, Some(Effect::Resumed))),
            // It gives up at expiry: only one that was bought before, and posted late, gets here.
            Purpose::Auto { .. } if order.period.start > since => Err(Rejected::Expired),
            Purpose::Auto { old_expiry } => Ok((self.auto(order, old_expiry, since)?, Some(Effect::Resumed))),
        }
    }

    fn manual(self, order: &Order, position: u32) -> Result<Lease, Rejected> {
        if position != self.renewals_bought {
            return Err(Rejected::OutOfTurn);
        }
        let renewals_bought = self.renewals_bought.saturating_add(1);
        Lease { renewals_bought, ..self }.extended(order)
    }

    fn auto(self, order: &Order, old_expiry: Timestamp, expiry: Timestamp) -> Result<Lease, Rejected> {
        if old_expiry == expiry { self.extended(order) } else { Err(Rejected::WrongPeriod) }
    }

    /// With the order's term added, if it is the one that follows.
    fn extended(self, order: &Order) -> Result<Lease, Rejected> {
        if order.size != self.size {
            return Err(Rejected::WrongSize);
        }
        let term = self.term(order.months, order.period.start);
        let Some(term) = term.filter(|it| it.period == order.period && order.months > 0) else {
            return Err(Rejected::WrongPeriod);
        };
        let state = State::Active { expires_at: term.period.end };
        Ok(Lease { state, anchor: Some(term.anchor), months: term.months, ..self })
    }

    /// Goes forward in time.
    fn pass_time(mut self, now: Timestamp, rules: Rules) -> (Lease, Vec<Effect>) {
        let mut effects = Vec::new();
        if let State::Active { expires_at: since } = self.state
            && since <= now
        {
            self.state =
                State::Expired { since, releases_at: after_days(since, rules.retention_days.into()) };
            effects.push(Effect::Expired);
        }
        if let State::Expired { releases_at: since, .. } = self.state
            && since <= now
        {
            self.state = State::Released { since };
            effects.push(Effect::Released);
        }
        (self, effects)
    }

    /// As it was at a moment since its chain began, which may be earlier than what it has seen: what is bought says how it
    /// stood then.
    fn seen_at(self, at: Timestamp, rules: Rules) -> Lease {
        match (self.state, self.anchor) {
            (State::Active { .. } | State::Expired { .. } | State::Released { .. }, Some(anchor)) => {
                let state = State::Active { expires_at: after_months(anchor, self.months) };
                Lease { state, ..self }.pass_time(at, rules).0
            }
            (
                State::Requested
                | State::Active { .. }
                | State::Expired { .. }
                | State::Released { .. }
                | State::Ended { .. },
                None | Some(_),
            ) => self,
        }
    }
}
