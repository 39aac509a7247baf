//! What a pool's owner is told outside of the cluster: what its status says now, each time it is looked at. That it is told once is
//! the outbox's business.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::generation;
use super::report::Facts;
use crate::api::ResidentPool;
use crate::controllers::Context;
use crate::domain::money::{Lease, Purpose, Reminder, State};
use crate::domain::notice::{About, Notice, What};

/// What is older than this when it is first seen is no news: a pool that expired long before anybody asked to be told, say.
const NEWS: SignedDuration = SignedDuration::from_hours(24 * 31);

/// Tells of what holds now.
pub(super) fn tell(context: &Context, pool: &ResidentPool, facts: &Facts<'_>) {
    let uid = pool.uid().unwrap_or_default();
    let (Some(standing), true) = (context.money.standing(Some(&uid)), facts.ordered.is_known) else { return };
    let bought = &facts.ordered.bought;
    // Who pays; of a namespace that names nobody any more, who paid last.
    let last = standing.pool().last_payer().map(str::to_owned);
    let Some(account) = facts.offer.as_ref().map(|it| it.account.name_any()).ok().or(last) else { return };
    let about = About { id: standing.contract.id.clone(), object: standing.contract.object.clone() };
    let of_lease = of_lease(&bought.lease, (context.now)());
    for what in of_lease.into_iter().chain(unpaid(pool, facts)) {
        context.money.tell(&Notice { account: account.clone(), about: about.clone(), what });
    }
}

/// What follows from where it is in its life.
fn of_lease(lease: &Lease, now: Timestamp) -> Vec<What> {
    let is_news = |it: Timestamp| now.duration_since(it) <= NEWS;
    let state = match lease.state {
        State::Expired { since: at, releases_at } if is_news(at) => Some(What::Expired { at, releases_at }),
        State::Released { since: at } if is_news(at) => Some(What::Released { at }),
        State::Requested
        | State::Active { .. }
        | State::Expired { .. }
        | State::Released { .. }
        | State::Ended { .. } => None,
    };
    let reminder = lease.reminder(now).map(|it| match it {
        Reminder::Expiry { days, at } => What::Expiring { days, at },
        Reminder::Release { days, at } => What::Releasing { days, at },
    });
    state.into_iter().chain(reminder).collect()
}

/// The order that waits for money.
fn unpaid(pool: &ResidentPool, facts: &Facts<'_>) -> Option<What> {
    let why = facts.ordered.problem.as_ref()?.message.clone();
    Some(match facts.ordered.unpaid.as_ref()? {
        Purpose::Auto { old_expiry } => What::RenewalUnpaid { expires_at: *old_expiry, why },
        order @ (Purpose::Initial
        | Purpose::Conversion
        | Purpose::Expansion { .. }
        | Purpose::Manual { .. }) => {
            What::WaitsForMoney { order: order.id(), version: generation(pool), why }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_tells_where_it_is_and_what_comes() {
        let day = |it: i64| Timestamp::from_second(it * 86_400).unwrap();
        let active = State::Active { expires_at: day(100) };
        let expired = State::Expired { since: day(100), releases_at: day(190) };
        let released = State::Released { since: day(190) };
        let expiring = |days| What::Expiring { days, at: day(100) };
        let releasing = |days| What::Releasing { days, at: day(190) };
        let over = What::Expired { at: day(100), releases_at: day(190) };
        for (state, now, expected) in [
            (State::Requested, 1, vec![]),
            (active, 92, vec![]),
            (active, 93, vec![expiring(7)]),
            (active, 97, vec![expiring(3)]),
            (active, 99, vec![expiring(1)]),
            (expired, 100, vec![over.clone()]),
            (expired, 131, vec![over]),
            (expired, 132, vec![]),
            (expired, 160, vec![releasing(30)]),
            (expired, 189, vec![releasing(1)]),
            (released, 190, vec![What::Released { at: day(190) }]),
            (released, 222, vec![]),
            (State::Ended { since: day(1) }, 1, vec![]),
        ] {
            let lease = Lease { state, ..Lease::default() };
            assert_eq!(of_lease(&lease, day(now)), expected, "{state:?} on day {now}");
        }
    }
}
