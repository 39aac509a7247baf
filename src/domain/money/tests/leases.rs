//! The life of a lease, and what is ordered for it.

use proptest::prelude::*;

use super::super::calendar::after_seconds;
use super::super::refund::refund;
use super::super::want::{look_again, next_machine_order, next_order};
use super::*;

const STATES: [&str; 5] = ["requested", "active", "expired", "released", "ended"];

fn initial() -> Order {
    order(Purpose::Initial, 1, period("2026-01-31", "2026-02-28"), "42828")
}

fn expansion(start: &str) -> Order {
    let to = size(8, 40);
    Order { size: to, ..order(Purpose::Expansion { to }, 0, period(start, "2026-02-28"), "1000") }
}

fn manual(position: u32, start: &str, end: &str) -> Order {
    order(Purpose::Manual { position }, 1, period(start, end), "42828")
}

fn auto(old_expiry: &str, start: &str, end: &str) -> Order {
    order(Purpose::Auto { old_expiry: at(old_expiry) }, 1, period(start, end), "42828")
}

/// A lease of each state as of a moment: its month is 31 January to 28 February, it is kept until 29 May.
fn lease(state: &str, now: Timestamp) -> Lease {
    let orders = [(at("2026-01-31"), initial())];
    let (orders, ended) = match state {
        "requested" => (&orders[..0], None),
        "ended" => (&orders[..], Some(now)),
        _ => (&orders[..], None),
    };
    Lease::replay(orders, ended, now, &RULES).unwrap()
}

fn word(state: State) -> &'static str {
    match state {
        State::Requested => "requested",
        State::Active { .. } => "active",
        State::Expired { .. } => "expired",
        State::Released { .. } => "released",
        State::Ended { .. } => "ended",
    }
}

#[test]
fn every_state_answers_every_event() {
    use Rejected::{AlreadyBegun, Ended, Expired, NotBegun, Released};
    // When a state is looked at, and the orders that would be bought then, if they could be.
    let moments = ["2026-02-10", "2026-02-10", "2026-03-05", "2026-06-10", "2026-06-10"];
    let orders: [fn(&str) -> Order; 5] = [
        |now| {
            order(
                Purpose::Initial,
                1,
                Period { start: at(now), end: calendar::after_months(at(now), 1) },
                "42828",
            )
        },
        |now| {
            order(
                Purpose::Conversion,
                1,
                Period { start: at(now), end: calendar::after_months(at(now), 1) },
                "42828",
            )
        },
        expansion,
        |now| {
            let start = at(now).max(at("2026-02-28"));
            let end =
                if start == at("2026-02-28") { at("2026-03-31") } else { calendar::after_months(start, 1) };
            order(Purpose::Manual { position: 0 }, 1, Period { start, end }, "42828")
        },
        |now| {
            let start = at(now).max(at("2026-02-28"));
            let end =
                if start == at("2026-02-28") { at("2026-03-31") } else { calendar::after_months(start, 1) };
            order(Purpose::Auto { old_expiry: at("2026-02-28") }, 1, Period { start, end }, "42828")
        },
    ];
    let table: [[Result<&str, Rejected>; 7]; 5] = [
        // Initial, conversion, expansion, manual, auto, tick, unsubscribed.
        [
            Ok("active"),
            Ok("active"),
            Err(NotBegun),
            Err(NotBegun),
            Err(NotBegun),
            Ok("requested"),
            Ok("ended"),
        ],
        [
            Err(AlreadyBegun),
            Err(AlreadyBegun),
            Ok("active"),
            Ok("active"),
            Ok("active"),
            Ok("active"),
            Ok("ended"),
        ],
        [
            Err(AlreadyBegun),
            Err(AlreadyBegun),
            Err(Expired),
            Ok("active"),
            Err(Expired),
            Ok("expired"),
            Ok("ended"),
        ],
        [
            Err(Released),
            Err(Released),
            Err(Released),
            Err(Released),
            Err(Released),
            Ok("released"),
            Ok("ended"),
        ],
        [Err(Ended), Err(Ended), Err(Ended), Err(Ended), Err(Ended), Ok("ended"), Ok("ended")],
    ];
    for ((state, now), row) in STATES.iter().zip(moments).zip(table) {
        let events = orders.iter().map(|it| Event::Paid(it(now))).chain([Event::Tick, Event::Unsubscribed]);
        for (event, expected) in events.zip(row) {
            let lease = lease(state, at(now));
            assert_eq!(word(lease.state), *state);
            let got = lease.step(event.clone(), at(now), &RULES).map(|(it, _)| word(it.state));
            assert_eq!(got, expected, "{state} and {event:?}");
        }
    }
}

#[test]
fn time_alone_expires_and_releases() {
    let expired = State::Expired { since: at("2026-02-28"), releases_at: at("2026-05-29") };
    for (now, state, effects) in [
        ("2026-02-27T23:59:59", State::Active { expires_at: at("2026-02-28") }, &[][..]),
        ("2026-02-28", expired, &[Effect::Expired][..]),
        ("2026-05-28T23:59:59", expired, &[Effect::Expired][..]),
        ("2026-05-29", State::Released { since: at("2026-05-29") }, &[Effect::Expired, Effect::Released][..]),
    ] {
        let (after, seen) = lease("active", at("2026-02-10")).step(Event::Tick, at(now), &RULES).unwrap();
        assert_eq!((after.state, &seen[..]), (state, effects), "{now}");
    }
    let machine = Rules { retention_days: 7 };
    let (after, _) = lease("active", at("2026-02-10")).step(Event::Tick, at("2026-03-07"), &machine).unwrap();
    assert_eq!(after.state, State::Released { since: at("2026-03-07") });
}

#[test]
fn no_state_but_the_end_is_without_exit() {
    for state in STATES {
        let lease = lease(state, at("2026-03-05"));
        let ended = lease.clone().step(Event::Unsubscribed, at("2026-07-01"), &RULES).unwrap().0;
        let since = if state == "ended" { at("2026-03-05") } else { at("2026-07-01") };
        assert_eq!(ended.state, State::Ended { since }, "{state}: leaving twice is leaving once");
    }
}

#[test]
fn orders_that_do_not_follow_are_rejected() {
    use Rejected::{NotBegun, OutOfTurn, WrongPeriod, WrongSize};
    let other_size = |it: Order| Order { size: size(9, 40), ..it };
    for (state, order, why) in [
        ("requested", manual(0, "2026-02-28", "2026-03-31"), NotBegun),
        ("requested", order(Purpose::Initial, 1, period("2026-01-31", "2026-03-01"), "1"), WrongPeriod),
        ("requested", order(Purpose::Initial, 0, period("2026-01-31", "2026-01-31"), "1"), WrongPeriod),
        ("active", manual(1, "2026-02-28", "2026-03-31"), OutOfTurn),
        ("active", manual(0, "2026-02-28", "2026-03-28"), WrongPeriod),
        ("active", manual(0, "2026-02-20", "2026-03-20"), WrongPeriod),
        ("active", manual(0, "2026-02-20", "2026-03-31"), WrongPeriod),
        ("active", other_size(manual(0, "2026-02-28", "2026-03-31")), WrongSize),
        ("active", auto("2026-02-27", "2026-02-28", "2026-03-31"), WrongPeriod),
        ("active", other_size(expansion("2026-02-10")), WrongSize),
        (
            "active",
            Order { period: period("2026-02-10", "2026-03-01"), ..expansion("2026-02-10") },
            WrongPeriod,
        ),
        (
            "active",
            Order {
                size: size(6, 40),
                purpose: Purpose::Expansion { to: size(6, 40) },
                ..expansion("2026-02-10")
            },
            WrongSize,
        ),
        (
            "active",
            Order {
                size: size(7, 30),
                purpose: Purpose::Expansion { to: size(7, 30) },
                ..expansion("2026-02-10")
            },
            WrongSize,
        ),
        ("expired", manual(0, "2026-03-05", "2026-03-31"), WrongPeriod),
    ] {
        let now = if state == "expired" { at("2026-03-05") } else { at("2026-02-10") };
        let got = lease(state, now).step(Event::Paid(order.clone()), now, &RULES);
        assert_eq!(got.map(|(it, _)| it), Err(why), "{state} and {order:?}");
    }
}

#[test]
fn a_chain_keeps_its_anchor_until_it_breaks() {
    let chain = [
        ("2026-01-31", initial()),
        ("2026-02-10", expansion("2026-02-10")),
        ("2026-02-20", Order { size: size(8, 40), ..manual(0, "2026-02-28", "2026-03-31") }),
        ("2026-03-30", Order { size: size(8, 40), ..auto("2026-03-31", "2026-03-31", "2026-04-30") }),
        // It expires, and comes back twenty days later: a new chain.
        ("2026-05-20", Order { size: size(8, 40), ..manual(1, "2026-05-20", "2026-06-20") }),
        ("2026-05-21", Order { size: size(8, 40), ..manual(2, "2026-06-20", "2026-07-20") }),
    ];
    let orders = chain.map(|(posted, order)| (at(posted), order));
    for (count, now, expires_at, anchor, months, bought) in [
        (1, "2026-02-01", "2026-02-28", "2026-01-31", 1, 0),
        (3, "2026-02-21", "2026-03-31", "2026-01-31", 2, 1),
        (4, "2026-03-31", "2026-04-30", "2026-01-31", 3, 1),
        (5, "2026-05-20", "2026-06-20", "2026-05-20", 1, 2),
        (6, "2026-07-01", "2026-07-20", "2026-05-20", 2, 3),
    ] {
        let lease = Lease::replay(&orders[..count], None, at(now), &RULES).unwrap();
        assert_eq!(lease.state, State::Active { expires_at: at(expires_at) }, "{count} orders");
        assert_eq!((lease.anchor, lease.months), (Some(at(anchor)), months));
        assert_eq!((lease.started_at, lease.renewals_bought), (Some(at("2026-01-31")), bought));
        assert_eq!(lease.size, if count == 1 { size(6, 40) } else { size(8, 40) });
    }
    let before = Lease::replay(&orders[..4], None, at("2026-05-19"), &RULES).unwrap();
    assert_eq!(before.state, State::Expired { since: at("2026-04-30"), releases_at: at("2026-07-29") });
}

#[test]
fn what_was_bought_in_time_counts_when_it_is_posted_late() {
    for (order, posted, state) in [
        (
            manual(0, "2026-02-28", "2026-03-31"),
            "2026-02-28T00:00:09",
            State::Active { expires_at: at("2026-03-31") },
        ),
        (
            auto("2026-02-28", "2026-02-28", "2026-03-31"),
            "2026-03-01",
            State::Active { expires_at: at("2026-03-31") },
        ),
        (
            expansion("2026-02-27T23:59:59"),
            "2026-02-28T00:00:09",
            State::Expired { since: at("2026-02-28"), releases_at: at("2026-05-29") },
        ),
        (
            manual(0, "2026-05-28T23:59:59", "2026-06-28T23:59:59"),
            "2026-05-29T00:00:09",
            State::Active { expires_at: at("2026-06-28T23:59:59") },
        ),
    ] {
        // Whether somebody has looked at the lease in between or not.
        for ticks in [&[][..], &["2026-05-29T00:00:08", "2026-02-28T00:00:08"][..]] {
            let mut lease = lease("active", at("2026-02-10"));
            for tick in ticks.iter().map(|it| at(it)).filter(|it| *it < at(posted)) {
                lease = lease.step(Event::Tick, tick, &RULES).unwrap().0;
            }
            let after = lease.step(Event::Paid(order.clone()), at(posted), &RULES).unwrap().0;
            assert_eq!(after.state, state, "{order:?}");
        }
    }
}

#[test]
fn an_order_posted_after_the_end_is_rejected() {
    let orders = [(at("2026-01-31"), initial()), (at("2026-02-20"), manual(0, "2026-02-28", "2026-03-31"))];
    let replay = |ended| Lease::replay(&orders, Some(at(ended)), at("2026-03-05"), &RULES).map(|it| it.state);
    assert_eq!(replay("2026-02-19"), Err(Rejected::Ended));
    assert_eq!(replay("2026-02-20"), Ok(State::Ended { since: at("2026-02-20") }));
}

#[test]
fn effects_say_what_happened() {
    let step = |lease: Lease, event, now: &str| lease.step(event, at(now), &RULES).unwrap();
    let (active, began) = step(Lease::default(), Event::Paid(initial()), "2026-01-31");
    assert_eq!(began, [Effect::Began]);
    let (_, expanded) = step(active.clone(), Event::Paid(expansion("2026-02-10")), "2026-02-10");
    assert_eq!(expanded, [Effect::Expanded]);
    let late = step(active.clone(), Event::Paid(expansion("2026-02-27T23:59:59")), "2026-02-28").1;
    assert_eq!(late, [Effect::Expanded, Effect::Expired], "posted when it has expired");
    let renewal = Event::Paid(manual(0, "2026-02-28", "2026-03-31"));
    assert_eq!(step(active.clone(), renewal, "2026-02-10").1, [Effect::Renewed]);
    let back = Event::Paid(manual(0, "2026-03-05", "2026-04-05"));
    assert_eq!(step(active.clone(), back.clone(), "2026-03-05").1, [Effect::Expired, Effect::Resumed]);
    let (expired, _) = step(active, Event::Tick, "2026-03-01");
    assert_eq!(step(expired.clone(), back, "2026-03-05").1, [Effect::Resumed], "it is known to have expired");
    let (ended, effects) = step(expired, Event::Unsubscribed, "2026-03-05");
    assert_eq!(effects, [Effect::Ended]);
    assert_eq!(step(ended, Event::Unsubscribed, "2026-03-06").1, []);
}

#[test]
fn reminders_are_due_before_expiry_and_release() {
    let expiry = |days| Some(Reminder::Expiry { days, at: at("2026-02-28") });
    let release = |days| Some(Reminder::Release { days, at: at("2026-05-29") });
    for (now, reminder, next) in [
        ("2026-02-10", None, Some("2026-02-21")),
        ("2026-02-21", expiry(7), Some("2026-02-25")),
        ("2026-02-24T23:59:59", expiry(7), Some("2026-02-25")),
        ("2026-02-25", expiry(3), Some("2026-02-27")),
        ("2026-02-27", expiry(1), Some("2026-02-28")),
        ("2026-02-28", None, Some("2026-04-29")),
        ("2026-04-29", release(30), Some("2026-05-22")),
        ("2026-05-22", release(7), Some("2026-05-28")),
        ("2026-05-28", release(1), Some("2026-05-29")),
        ("2026-05-29", None, None),
    ] {
        let lease = lease("active", at(now));
        assert_eq!(lease.reminder(at(now)), reminder, "{now}");
        assert_eq!(lease.next(at(now)), next.map(at), "{now}");
    }
    let stale = lease("active", at("2026-02-10"));
    assert_eq!(stale.next(at("2026-03-05")), Some(at("2026-03-05")), "it should have expired by now");
    assert_eq!(stale.reminder(at("2026-03-05")), None);
    for state in ["requested", "ended"] {
        assert_eq!(lease(state, at("2026-02-27")).next(at("2026-02-27")), None, "{state}");
        assert_eq!(lease(state, at("2026-02-27")).reminder(at("2026-02-27")), None, "{state}");
    }
    // A machine is kept for 7 days: it is not told that 30 are left.
    let machine = stale.step(Event::Tick, at("2026-02-28"), &Rules { retention_days: 6 }).unwrap().0;
    assert_eq!(machine.reminder(at("2026-02-28")), None);
    assert_eq!(machine.next(at("2026-02-28")), Some(at("2026-03-05")));
}

fn wanted(cards: u32, renewals: &[u32], auto_renew_months: Option<u32>) -> Wanted {
    Wanted { size: size(cards, 40), term_months: 1, renewals: renewals.to_vec(), auto_renew_months }
}

/// Purpose, period, months, cards and price of the next order.
fn next(wanted: &Wanted, lease: &Lease, now: &str) -> Option<(String, Period, u32, u32, String)> {
    match next_order(wanted, lease, &ada(), at(now), &cny()).unwrap() {
        Next::Order(it) => {
            assert_eq!((it.cash, it.voucher), (Money(0), Money(0)));
            Some((it.purpose.id(), it.period, it.months, it.size.cards, it.price.text(&cny())))
        }
        Next::Nothing => None,
    }
}

#[test]
fn what_is_ordered_next() {
    let manual = "renewal/manual/0";
    let auto = "renewal/auto/2026-02-28T00:00:00Z";
    let month = "42828.00";
    for (state, wanted, now, expected) in [
        (
            "requested",
            wanted(6, &[], None),
            "2026-01-31T10:00:00.5",
            Some(("initial", "2026-01-31T10:00", "2026-02-28T10:00", 1, 6, month)),
        ),
        (
            "requested",
            wanted(6, &[1], Some(1)),
            "2026-01-31",
            Some(("initial", "2026-01-31", "2026-02-28", 1, 6, month)),
        ),
        ("active", wanted(6, &[], None), "2026-02-10", None),
        // Renewals first, at the size that is bought; then the expansion.
        (
            "active",
            wanted(8, &[2], Some(1)),
            "2026-02-14",
            Some((manual, "2026-02-28", "2026-04-30", 2, 6, "85656.00")),
        ),
        (
            "active",
            wanted(8, &[], Some(1)),
            "2026-02-14",
            Some(("expand/8 cards/40 GB", "2026-02-14", "2026-02-28", 0, 8, "7138.00")),
        ),
        ("active", wanted(5, &[], None), "2026-02-14", None),
        // Auto-renewal in the last 24 hours, and then no more.
        ("active", wanted(6, &[], Some(1)), "2026-02-26T23:59:59", None),
        (
            "active",
            wanted(6, &[], Some(1)),
            "2026-02-27",
            Some((auto, "2026-02-28", "2026-03-31", 1, 6, month)),
        ),
        ("active", wanted(6, &[], None), "2026-02-27", None),
        // What is there is kept before it grows.
        (
            "active",
            wanted(8, &[], Some(1)),
            "2026-02-27",
            Some((auto, "2026-02-28", "2026-03-31", 1, 6, month)),
        ),
        (
            "active",
            wanted(6, &[3], Some(1)),
            "2026-02-27",
            Some((manual, "2026-02-28", "2026-05-31", 3, 6, "128484.00")),
        ),
        ("expired", wanted(8, &[], Some(1)), "2026-02-28", None),
        (
            "expired",
            wanted(8, &[1], Some(1)),
            "2026-02-28",
            Some((manual, "2026-02-28", "2026-03-31", 1, 6, month)),
        ),
        (
            "expired",
            wanted(8, &[1], Some(1)),
            "2026-03-05T10:00",
            Some((manual, "2026-03-05T10:00", "2026-04-05T10:00", 1, 6, month)),
        ),
        ("released", wanted(8, &[1], Some(1)), "2026-06-10", None),
        ("ended", wanted(8, &[1], Some(1)), "2026-02-10", None),
        ("active", wanted(6, &[0, 1], None), "2026-02-10", None),
    ] {
        let lease = lease(state, at(now));
        assert_eq!(word(lease.state), state);
        let expected = expected.map(|(id, start, end, months, cards, price)| {
            (id.to_owned(), period(start, end), months, cards, price.to_owned())
        });
        assert_eq!(next(&wanted, &lease, now), expected, "{state} at {now}: {wanted:?}");
    }
    let (_, within_a_second, ..) =
        next(&wanted(8, &[], None), &lease("active", at("2026-02-14")), "2026-02-14T00:00:00.7").unwrap();
    assert_eq!(within_a_second.start, at("2026-02-14"));
    let stale = lease("active", at("2026-02-10"));
    assert_eq!(next(&wanted(8, &[1], Some(1)), &stale, "2026-03-05"), None, "it should have expired first");
}

#[test]
fn each_entry_is_bought_once() {
    let wanted = wanted(6, &[1, 12], None);
    let mut lease = Lease::default();
    let mut bought = Vec::new();
    while let Next::Order(order) = next_order(&wanted, &lease, &ada(), at("2026-01-31"), &cny()).unwrap() {
        bought.push((order.purpose.id(), order.period.end));
        lease = lease.step(Event::Paid(order), at("2026-01-31"), &RULES).unwrap().0;
    }
    let id = str::to_owned;
    assert_eq!(
        bought,
        [
            (id("initial"), at("2026-02-28")),
            (id("renewal/manual/0"), at("2026-03-31")),
            (id("renewal/manual/1"), at("2027-03-31")),
        ]
    );
}

#[test]
fn a_machine_does_not_grow_and_a_long_term_costs_less() {
    let wanted = Wanted { size: size(9, 9), term_months: 12, renewals: vec![1], auto_renew_months: None };
    let long_terms = [LongTerm { months: 12, charged_months: 10 }];
    let next = |lease: &Lease| {
        next_machine_order(&wanted, lease, &exact("52000"), &long_terms, at("2026-11-10"), &cny()).unwrap()
    };
    let mut lease = Lease::default();
    for (id, price) in [("initial", "520000"), ("renewal/manual/0", "52000")] {
        let Next::Order(order) = next(&lease) else { panic!("{id}") };
        assert_eq!((order.purpose.id().as_str(), order.price), (id, yuan(price)));
        lease = lease.step(Event::Paid(order), at("2026-11-10"), &RULES).unwrap().0;
    }
    assert_eq!(next(&lease), Next::Nothing);
    assert_eq!(lease.state, State::Active { expires_at: at("2027-12-10") });
}

#[test]
fn an_auto_renewal_that_is_not_paid_is_tried_every_hour() {
    for (auto, now, again) in [
        (Some(1), "2026-02-26", "2026-02-27"),
        (Some(1), "2026-02-27", "2026-02-27T01:00"),
        (Some(1), "2026-02-27T12:30", "2026-02-27T13:00"),
        (Some(1), "2026-02-27T23:30", "2026-02-28"),
        (None, "2026-02-27T12:30", "2026-02-28"),
    ] {
        let again = Some(at(again));
        assert_eq!(
            look_again(&wanted(6, &[], auto), &lease("active", at(now)), at(now)),
            again,
            "{auto:?} {now}"
        );
    }
    assert_eq!(look_again(&wanted(6, &[], Some(1)), &Lease::default(), at("2026-02-10")), None);
}

/// A life: what its owner did, and how long after the one before, seconds.
#[derive(Debug, Clone)]
enum Act {
    Renew(u32),
    Grow(u32),
    Auto(Option<u32>),
    Wait,
}

fn life() -> impl Strategy<Value = Vec<(i64, Act)>> {
    let act = prop_oneof![
        (1..13_u32).prop_map(Act::Renew),
        (1..4_u32).prop_map(Act::Grow),
        prop::option::of(1..4_u32).prop_map(Act::Auto),
        Just(Act::Wait),
    ];
    let pause = prop_oneof![0..86_400_i64, 0..5_000_000_i64, Just(86_400)];
    prop::collection::vec((pause, act), 0..16)
}

/// Lives it: buys all that is to be bought whenever something is done, and when the lease itself says so.
fn live(start: i64, life: &[(i64, Act)]) -> (Vec<(Timestamp, Order)>, Lease, Timestamp) {
    let mut wanted = wanted(2, &[], None);
    let (mut lease, mut orders) = (Lease::default(), Vec::new());
    let mut now = Timestamp::from_second(start).unwrap();
    for (pause, act) in life {
        let until = after_seconds(now, *pause);
        while let Some(wake) = look_again(&wanted, &lease, now).filter(|it| *it <= until && *it > now) {
            now = wake;
            buy(&wanted, &mut lease, &mut orders, now);
        }
        now = until;
        match act {
            Act::Renew(months) => wanted.renewals.push(*months),
            Act::Grow(cards) => wanted.size.cards += cards,
            Act::Auto(months) => wanted.auto_renew_months = *months,
            Act::Wait => (),
        }
        buy(&wanted, &mut lease, &mut orders, now);
    }
    (orders, lease, now)
}

fn buy(wanted: &Wanted, lease: &mut Lease, orders: &mut Vec<(Timestamp, Order)>, now: Timestamp) {
    let take = |lease: &mut Lease, event| *lease = lease.clone().step(event, now, &RULES).unwrap().0;
    take(lease, Event::Tick);
    while let Next::Order(order) = next_order(wanted, lease, &ada(), now, &cny()).unwrap() {
        let order = Order { cash: order.price, ..order };
        take(lease, Event::Paid(order.clone()));
        orders.push((now, order));
        assert!(orders.len() < 200, "an order is bought again and again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What a lease is follows from its orders and the time: ticks in between, and their repetition, change nothing.
    #[test]
    fn a_lease_is_a_function_of_its_orders(start in 0..4_000_000_000_i64, life in life(), later in 0..20_000_000_i64) {
        let (orders, lived, now) = live(start, &life);
        prop_assert_eq!(&Lease::replay(&orders, None, now, &RULES).unwrap(), &if orders.is_empty() { Lease::default() } else { lived.clone() });
        let then = after_seconds(now, later);
        let once = lived.step(Event::Tick, then, &RULES).unwrap().0;
        let (twice, effects) = once.clone().step(Event::Tick, then, &RULES).unwrap();
        prop_assert_eq!(&once, &twice);
        prop_assert_eq!(effects, []);
        prop_assert_eq!(&once, &Lease::replay(&orders, None, then, &RULES).unwrap());
    }

    /// Terms follow each other without gap or overlap; where one begins later, the lease had expired in between. Ids differ.
    #[test]
    fn terms_have_no_gap_before_expiry_and_never_overlap(start in 0..4_000_000_000_i64, life in life()) {
        let (orders, _, _) = live(start, &life);
        let terms: Vec<&(Timestamp, Order)> = orders.iter().filter(|(_, it)| it.months > 0).collect();
        for pair in terms.windows(2) {
            let (old, (posted, new)) = (&pair[0].1, pair[1]);
            if *posted <= old.period.end {
                prop_assert_eq!(new.period.start, old.period.end);
            } else {
                prop_assert_eq!(new.period.start, *posted);
            }
            prop_assert!(new.period.start < new.period.end);
        }
        for (posted, it) in orders.iter().filter(|(_, it)| it.months == 0) {
            prop_assert_eq!(it.period.start, *posted);
            let last = terms.iter().filter(|(at, _)| at <= posted).map(|(_, it)| it.period.end).max();
            prop_assert_eq!(Some(it.period.end), last, "an expansion lasts until expiry");
        }
        let ids: std::collections::BTreeSet<String> = orders.iter().map(|(_, it)| it.purpose.id()).collect();
        prop_assert_eq!(ids.len(), orders.len(), "each purchase has an id of its own");
    }

    /// Leaving returns at most what was paid, whenever that is.
    #[test]
    fn leaving_never_returns_more_than_was_paid(start in 0..4_000_000_000_i64, life in life(), later in 0..20_000_000_i64) {
        let (orders, _, now) = live(start, &life);
        for (_, order) in &orders {
            let got = refund(order, after_seconds(now, later), &RefundRule::default(), &cny()).unwrap();
            prop_assert!(Money(0) <= got && got <= order.cash);
        }
    }
}
