//! A notice: a server is told that it will be reclaimed, and when. What becomes of it as time goes on and its cause comes and goes.

use jiff::{SignedDuration, Timestamp};

/// Why a server has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its account does not pay. Nothing protects it from that.
    Arrears,
    /// The price is above its bid.
    PriceAboveBid,
    /// A purchase needs its cards.
    Shortage,
}

/// A notice that was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Why.
    pub cause: Cause,
    /// When its owner was told.
    pub noticed_at: Timestamp,
    /// Until when it runs.
    pub reclaim_at: Timestamp,
    /// When its cards were back. From then on the notice is history, and the server may start anew.
    pub reclaimed_at: Option<Timestamp>,
}

/// How the server's pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pod {
    /// It is there.
    There,
    /// It is on its way out.
    Leaving,
    /// There is none.
    None,
}

/// What is so now.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The time.
    pub at: Timestamp,
    /// Why it has to go, if it has.
    pub cause: Option<Cause>,
    /// Is the cause gone by now, which was decided from what was known before? Then nothing is done for its sake.
    pub is_outdated: bool,
    /// Does it have cards?
    pub has_cards: bool,
    /// Its pod.
    pub pod: Pod,
    /// How long before it goes its owner is told.
    pub notice_minutes: u32,
    /// In arrears: until when it is on the recovery list.
    pub grace_ends: Option<Timestamp>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// Nothing, and decide anew whether it has to go: what was decided is outdated.
    Ask,
    /// Tell its owner, and remember this notice instead of any other.
    Give(Notice),
    /// The cause is gone before the server went: tell its owner, and forget the notice.
    Withdraw,
    /// The notice has ended: end the pod, with its own grace.
    Reclaim,
    /// The cards are back: remember that.
    Record(Notice),
    /// It starts anew: forget the notice.
    Forget,
}

impl Notice {
    /// Is it history?
    pub fn is_over(&self) -> bool {
        self.reclaimed_at.is_some()
    }

    /// Has it ended, and the server to go?
    pub fn is_due(&self, now: Timestamp) -> bool {
        !self.is_over() && now >= self.reclaim_at
    }

    /// A notice that is given now.
    fn given(cause: Cause, now: &Now) -> Notice {
        let minutes = SignedDuration::from_mins(i64::from(now.notice_minutes));
        let full = now.at.saturating_add(minutes).unwrap_or(Timestamp::MAX);
        let reclaim_at = match cause {
            Cause::Arrears => now.grace_ends.unwrap_or(full).max(now.at),
            Cause::PriceAboveBid | Cause::Shortage => full,
        };
        Notice { cause, noticed_at: now.at, reclaim_at, reclaimed_at: None }
    }

    /// The same notice when its cause is another one by now; `None` when it stays as it is.
    fn for_cause(&self, cause: Cause, now: &Now) -> Option<Notice> {
        match (self.cause, cause) {
            (before, after) if before == after => None,
            // Who does not pay any more is not kept for the sake of another notice.
            (_, Cause::Arrears) => {
                let arrears = Notice::given(Cause::Arrears, now);
                Some(Notice { reclaim_at: arrears.reclaim_at.min(self.reclaim_at.max(now.at)), ..arrears })
            }
            // What is paid again gets the whole notice for anything else.
            (Cause::Arrears, _) => Some(Notice::given(cause, now)),
            (_, _) => Some(Notice { cause, ..*self }),
        }
    }
}

/// What to do about a server that has this notice, or none.
pub fn step(notice: Option<&Notice>, now: &Now) -> Step {
    let Some(notice) = notice else {
        return match now.cause {
            Some(_) if now.has_cards && now.is_outdated => Step::Ask,
            Some(cause) if now.has_cards => Step::Give(Notice::given(cause, now)),
            Some(_) | None => Step::Stay,
        };
    };
    if notice.is_over() {
        return if now.has_cards { Step::Forget } else { Step::Stay };
    }
    // What has begun goes on to its end, whatever becomes of its cause.
    if notice.is_due(now.at) && now.pod != Pod::There {
        let is_gone = !now.has_cards && now.pod == Pod::None;
        let over = Notice { reclaimed_at: Some(now.at), ..*notice };
        return if is_gone { Step::Record(over) } else { Step::Stay };
    }
    match now.cause {
        None => Step::Withdraw,
        Some(_) if now.is_outdated => Step::Ask,
        Some(cause) => match notice.for_cause(cause, now) {
            Some(other) => Step::Give(other),
            None if notice.is_due(now.at) => Step::Reclaim,
            None => Step::Stay,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_goes_or_is_told_to_for_a_cause_that_is_gone() {
        let at = |text: &str| -> Timestamp { format!("2026-11-25T{text}:00Z").parse().unwrap() };
        let notice = Notice {
            cause: Cause::Arrears,
            noticed_at: at("10:00"),
            reclaim_at: at("11:00"),
            reclaimed_at: None,
        };
        let over = Notice { reclaimed_at: Some(at("12:00")), ..notice };
        for (notice, is_outdated, has_cards, pod, expected) in [
            (Some(notice), false, true, Pod::There, Step::Reclaim),
            (Some(notice), true, true, Pod::There, Step::Ask),
            (None, true, true, Pod::There, Step::Ask),
            (None, true, false, Pod::None, Step::Stay),
            // What has begun goes on to its end.
            (Some(notice), true, true, Pod::Leaving, Step::Stay),
            (Some(notice), true, false, Pod::None, Step::Record(over)),
        ] {
            let now = Now {
                at: at("12:00"),
                cause: Some(Cause::Arrears),
                is_outdated,
                has_cards,
                pod,
                notice_minutes: 60,
                grace_ends: None,
            };
            assert_eq!(step(notice.as_ref(), &now), expected, "{notice:?} {is_outdated} {pod:?}");
        }
    }
}
