//! Machines of groups: hours, conversion at the second, refunds of single machines, what a machine is. Prices are in `orders`.

use proptest::prelude::*;

use super::super::calendar::after_seconds;
use super::super::machine::{Due, End, Hour, Hourly, Stage, stage};
use super::super::refund::{RefundRule, refund};
use super::super::want::{Offer, term_order};
use super::*;

const FROM: &str = "2026-11-10T10:20:30";

fn hourly(billed: &str, end: Option<End>) -> Hourly {
    Hourly { from: at(FROM), billed: at(billed), end }
}

#[test]
fn an_hour_is_charged_when_it_is_over_or_the_use_ends_in_it() {
    type Row<'a> = (&'a str, Option<End>, &'a str, &'a [(&'a str, u64)], &'a str);
    let given = |it| Some(End::GivenBack(at(it)));
    let converted = |it| Some(End::Converted(at(it)));
    let rows: &[Row<'_>] = &[
        (FROM, None, "2026-11-10T11:20:29", &[], FROM),
        (FROM, None, "2026-11-10T11:20:30", &[(FROM, 3_600)], "2026-11-10T11:20:30"),
        // Away for hours: all of them.
        (
            FROM,
            None,
            "2026-11-10T13:59",
            &[(FROM, 3_600), ("2026-11-10T11:20:30", 3_600), ("2026-11-10T12:20:30", 3_600)],
            "2026-11-10T13:20:30",
        ),
        // Given back, the hour that has begun is charged whole; one that has not is not.
        (FROM, given("2026-11-10T10:20:31"), "2026-11-10T12:00", &[(FROM, 3_600)], "2026-11-10T10:20:31"),
        (
            "2026-11-10T11:20:30",
            given("2026-11-10T11:20:31"),
            "2026-11-10T18:00",
            &[("2026-11-10T11:20:30", 3_600)],
            "2026-11-10T11:20:31",
        ),
        ("2026-11-10T11:20:30", given("2026-11-10T11:20:30"), "2026-11-10T18:00", &[], "2026-11-10T11:20:30"),
        (FROM, given(FROM), "2026-11-10T18:00", &[], FROM),
        // Converted, just the seconds before the term.
        (
            "2026-11-10T11:20:30",
            converted("2026-11-10T11:20:31"),
            "2026-11-10T18:00",
            &[("2026-11-10T11:20:30", 1)],
            "2026-11-10T11:20:31",
        ),
        (
            "2026-11-10T11:20:30",
            converted("2026-11-10T12:20:29"),
            "2026-11-10T18:00",
            &[("2026-11-10T11:20:30", 3_599)],
            "2026-11-10T12:20:29",
        ),
        (
            "2026-11-10T11:20:30",
            converted("2026-11-10T12:20:30"),
            "2026-11-10T18:00",
            &[("2026-11-10T11:20:30", 3_600)],
            "2026-11-10T12:20:30",
        ),
        (
            "2026-11-10T11:20:30",
            converted("2026-11-10T11:20:30"),
            "2026-11-10T18:00",
            &[],
            "2026-11-10T11:20:30",
        ),
    ];
    for (billed, end, now, hours, until) in rows {
        let hours =
            hours.iter().map(|(start, seconds)| Hour { start: at(start), seconds: *seconds }).collect();
        assert_eq!(
            hourly(billed, *end).due(at(now), 99),
            Due { hours, billed: at(until) },
            "{billed} {end:?} {now}"
        );
    }
    let most = hourly(FROM, None).due(at("2026-11-11T10:20:30"), 2);
    assert_eq!((most.hours.len(), most.billed), (2, at("2026-11-10T12:20:30")), "so many at a time");
}

#[test]
fn the_next_use_begins_where_no_hour_of_the_last_one_reaches() {
    for (end, covered) in [
        (None, None),
        (Some(End::GivenBack(at("2026-11-10T10:20:31"))), Some("2026-11-10T11:20:30")),
        (Some(End::GivenBack(at("2026-11-10T11:20:30"))), Some("2026-11-10T11:20:30")),
        (Some(End::GivenBack(at("2026-11-10T11:20:31"))), Some("2026-11-10T12:20:30")),
        (Some(End::Converted(at("2026-11-10T11:00"))), Some("2026-11-10T11:00")),
    ] {
        assert_eq!(hourly(FROM, end).covered_until(), covered.map(at), "{end:?}");
    }
    // Whose end nobody saw: in the hour that is not charged yet, whenever that is found out.
    let lost = hourly("2026-11-10T12:20:30", None);
    let ended = Hourly { end: Some(End::GivenBack(lost.ends_unseen(at("2026-11-20")))), ..lost };
    assert_eq!(ended.due(at("2027-01-01"), 99).hours.len(), 1);
    // One that is back before the hour of the last use is over has not begun.
    let early = hourly(FROM, None);
    assert_eq!(
        (early.ends(at("2026-11-10T10:00")), early.ends_unseen(at("2026-11-10T10:00"))),
        (at(FROM), at(FROM))
    );
    assert_eq!(early.ends(at(FROM)), at("2026-11-10T10:20:31"), "one that has begun lasts a second");
    assert_eq!(early.begun(at("2026-11-10T12:00"), 99).len(), 2);
    assert_eq!(early.begun(at("2026-11-10T10:00"), 99), []);
}

#[test]
fn a_machine_returns_what_its_own_orders_have_left() {
    let order = |purpose, start, end, price: i64| {
        let (price, period) = (Money(price), period(start, end));
        Order { purpose, period, months: 1, size: PoolSize::default(), price, cash: price, voucher: Money(0) }
    };
    let initial = order(Purpose::Initial, "2026-11-01", "2026-12-01", 5_200_000);
    let renewal = order(Purpose::Manual { position: 0 }, "2026-12-01", "2027-01-01", 5_200_000);
    // 52000 ÷ 30 × 10 days × 1.2 = 20800 of the first, nothing of the second; then the other way round.
    for (left, first, second) in [
        ("2026-11-10T08:00", "31200.00", "52000.00"),
        ("2026-12-01", "0.00", "49987.10"),
        ("2026-12-30T12:00", "0.00", "1677.42"),
    ] {
        let back = |it: &Order| refund(it, at(left), &RefundRule::default(), &cny()).unwrap().text(&cny());
        assert_eq!((back(&initial).as_str(), back(&renewal).as_str()), (first, second), "{left}");
    }
}

#[test]
fn what_a_machine_is() {
    let rules = Rules { retention_days: 7 };
    let order = |purpose, start: &str, end: &str| Order {
        purpose,
        period: period(start, end),
        months: 1,
        size: PoolSize::default(),
        price: Money(1),
        cash: Money(1),
        voucher: Money(0),
    };
    let term = |purpose, now: &str| {
        let lease = Lease::default().step(
            lease::Event::Paid(order(purpose, "2026-11-10", "2026-12-10")),
            at("2026-11-10"),
            &rules,
        );
        lease.unwrap().0.step(lease::Event::Tick, at(now), &rules).unwrap().0
    };
    let used = |from: &str, end: Option<&str>| Hourly {
        from: at(from),
        billed: at(from),
        end: end.map(|it| End::GivenBack(at(it))),
    };
    let expired = Stage::Expired { since: at("2026-12-10"), releases_at: at("2026-12-17") };
    let runs = Stage::Term { expires_at: at("2026-12-10") };
    let new = Lease::default;
    for (lease, uses, left, expected) in [
        (new(), vec![], None, Stage::New),
        (new(), vec![used("2026-11-01", None)], None, Stage::Hourly),
        (new(), vec![used("2026-11-01", Some("2026-11-02"))], None, Stage::Away),
        (term(Purpose::Initial, "2026-11-20"), vec![], None, runs),
        (
            term(Purpose::Initial, "2026-11-20"),
            vec![],
            Some("2026-11-15"),
            Stage::Over { since: at("2026-11-15") },
        ),
        (term(Purpose::Initial, "2026-12-10"), vec![], None, expired),
        (term(Purpose::Initial, "2026-12-17"), vec![], None, Stage::Over { since: at("2026-12-17") }),
        // It went on by the hour when its term ended, and its retention counts for nothing.
        (term(Purpose::Initial, "2026-12-30"), vec![used("2026-12-10", None)], None, Stage::Hourly),
        (
            term(Purpose::Initial, "2026-12-30"),
            vec![used("2026-12-10", Some("2026-12-20"))],
            None,
            Stage::Away,
        ),
        // Converted: the hours were before.
        (term(Purpose::Conversion, "2026-11-20"), vec![used("2026-11-01", Some("2026-11-10"))], None, runs),
        (
            term(Purpose::Conversion, "2026-12-10"),
            vec![used("2026-11-01", Some("2026-11-10"))],
            None,
            expired,
        ),
    ] {
        assert_eq!(stage(&lease, &uses, left.map(at)), expected, "{lease:?} {uses:?}");
    }
}

proptest! {
    /// Looked at once at the end, or at any moments before, as often as one likes: the same hours, none twice, and no second twice.
    #[test]
    fn any_looks_charge_the_same_hours(
        looks in proptest::collection::vec(0..200_000_i64, 0..20),
        ends in 0..200_000_i64,
        converts in any::<bool>(),
        twice in any::<bool>(),
    ) {
        let from = at(FROM);
        let end_at = after_seconds(from, ends);
        let end = if converts { End::Converted(end_at) } else { End::GivenBack(end_at) };
        let whole = Hourly { from, billed: from, end: Some(end) }.due(Timestamp::MAX, usize::MAX);
        let mut looks: Vec<_> = looks.into_iter().map(|it| after_seconds(from, it)).filter(|it| *it <= end_at).collect();
        looks.sort();
        let mut open = Hourly { from, billed: from, end: None };
        let mut hours = Vec::new();
        for now in looks {
            for _ in 0..if twice { 2 } else { 1 } {
                let due = open.due(now, 3);
                hours.extend(due.hours);
                open.billed = due.billed;
            }
        }
        let mut ended = Hourly { end: Some(end), ..open };
        loop {
            let due = ended.due(Timestamp::MAX, 2);
            if due.billed == ended.billed {
                break;
            }
            hours.extend(due.hours);
            ended.billed = due.billed;
        }
        prop_assert_eq!(&hours, &whole.hours);
        prop_assert_eq!(ended.billed, whole.billed);
        let seconds: u64 = hours.iter().map(|it| it.seconds).sum();
        let used = ends.unsigned_abs();
        prop_assert_eq!(seconds, if converts { used } else { used.div_ceil(3_600) * 3_600 });
        prop_assert!(hours.windows(2).all(|it| it[0].start < it[1].start));
    }

    /// At the second of a conversion the hours end and the term begins: what is charged before and after covers each second once.
    #[test]
    fn no_second_is_paid_for_twice_or_free_when_a_machine_is_converted(used in 3_600..500_000_i64, late in 0..100_000_i64) {
        let from = at(FROM);
        let now = after_seconds(from, used);
        let month = exact("52000");
        let offer = Offer { size: PoolSize::default(), month, long_terms: &[] };
        let order = term_order(Purpose::Conversion, 1, &offer, &Lease::default(), now, &cny()).unwrap().unwrap();
        let ended = Hourly { from, billed: from, end: Some(End::Converted(order.period.start)) };
        let hours = ended.due(after_seconds(now, late), usize::MAX);
        prop_assert_eq!(hours.hours.iter().map(|it| it.seconds).sum::<u64>(), used.unsigned_abs());
        prop_assert_eq!(ended.covered_until(), Some(order.period.start));
        let rules = Rules { retention_days: 7 };
        let posted = after_seconds(now, late);
        let lease = Lease::default().step(lease::Event::Paid(order.clone()), posted, &rules).unwrap().0;
        prop_assert_eq!(lease.state, State::Active { expires_at: order.period.end });
    }
}
