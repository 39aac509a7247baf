//! What is paid in advance, told by the day: a table computed by hand, and that nothing is lost or told twice.

use jiff::Timestamp;
use proptest::prelude::*;

use crate::domain::money::calendar::{Period, after_seconds, utc_day};
use crate::domain::money::commitment::{Commitment, Left, Portion, Spent, portions};
use crate::domain::money::{Money, usage};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn period(start: &str, end: &str) -> Period {
    Period { start: at(start), end: at(end) }
}

/// A day's portion: day, used or not, amount, card-hours.
fn told(portions: &[Portion]) -> Vec<(String, Spent, i64, u64)> {
    let day = |it: &Portion| it.period.start.to_string()[..10].to_owned();
    portions.iter().map(|it| (day(it), it.spent, it.amount.0, it.unit_seconds / 3_600)).collect()
}

#[test]
fn a_day_bears_its_seconds_of_the_price_and_is_used_by_its_card_hours() {
    use Spent::{Unused, Used};
    // 30 days, 6 cards, 42,828.00: 1,427.60 a day.
    let order = Commitment {
        period: period("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        price: Money(4_282_800),
        units: 6,
        left: None,
    };
    // 4 cards for 12 hours of the first day, and for all of the second one.
    let used = [
        usage::Span { period: period("2026-11-01T12:00:00Z", "2026-11-02T00:00:00Z"), units: 4 },
        usage::Span { period: period("2026-11-02T00:00:00Z", "2026-11-03T00:00:00Z"), units: 4 },
    ];
    let all = portions(&[order], Some(&used));
    assert_eq!(
        told(&all)[..5],
        [
            // 48 of 144 card-hours: a third, rounded down; the rest is unused.
            ("2026-11-01".to_owned(), Used, 47_586, 48),
            ("2026-11-01".to_owned(), Unused, 95_174, 96),
            ("2026-11-02".to_owned(), Used, 95_173, 96),
            ("2026-11-02".to_owned(), Unused, 47_587, 48),
            ("2026-11-03".to_owned(), Unused, 142_760, 144),
        ]
    );
    assert_eq!(all.len(), 2 + 2 + 28);

    // A machine is itself what is used.
    let machine = portions(&[Commitment { units: 1, ..order }], None);
    assert!(machine.iter().all(|it| it.spent == Used));
    assert_eq!(machine.len(), 30);

    // Left in its tenth day at noon: 25,696.80 came back. Of 17,131.20 nine days and a half bear 13,562.20.
    let left = Some(Left { at: at("2026-11-10T12:00:00Z"), refund: Money(2_569_680) });
    let all = portions(&[Commitment { left, ..order }], Some(&[]));
    let (last, days) = all.split_last().unwrap();
    assert_eq!(days.len(), 9);
    assert_eq!(last.period, period("2026-11-10T00:00:00Z", "2026-11-11T00:00:00Z"));
    assert_eq!((last.spent, last.amount.0, last.unit_seconds / 3_600), (Unused, 71_380 + 356_900, 72));
    assert_eq!(all.iter().map(|it| it.amount.0).sum::<i64>(), 1_713_120);

    // Left before it began: what vouchers paid is void.
    let left = Some(Left { at: at("2026-10-10T12:00:00Z"), refund: Money(4_000_000) });
    assert_eq!(
        told(&portions(&[Commitment { left, ..order }], Some(&[]))),
        [("2026-10-10".to_owned(), Unused, 282_800, 0)]
    );
}

#[test]
fn more_is_used_than_there_is_counts_as_all_of_it() {
    let order = Commitment {
        period: period("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
        price: Money(101),
        units: 2,
        left: None,
    };
    let used = usage::Span { period: order.period, units: 5 };
    assert_eq!(told(&portions(&[order], Some(&[used]))), [("2026-11-01".to_owned(), Spent::Used, 101, 48)]);
    let nothing = Commitment { period: period("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z"), ..order };
    assert_eq!(
        told(&portions(&[nothing], Some(&[used]))),
        [("2026-11-01".to_owned(), Spent::Unused, 101, 0)]
    );
}

prop_compose! {
    fn commitment()(
        start in 1_700_000_000_i64..1_800_000_000,
        seconds in 0_i64..9_000_000,
        price in 0_i64..1_000_000_000_000,
        units in 0_u64..100,
        left in proptest::option::of((-1_000_000_i64..10_000_000, 0_i64..1_000)),
    ) -> Commitment {
        let start = Timestamp::from_second(start).unwrap();
        let left = left.map(|(after, thousandths)| Left {
            at: after_seconds(start, after),
            refund: Money(price / 1_000 * thousandths),
        });
        Commitment { period: Period { start, end: after_seconds(start, seconds) }, price: Money(price), units, left }
    }
}

prop_compose! {
    fn span()(start in 1_700_000_000_i64..1_800_000_000, seconds in 0_i64..9_000_000, units in 0_u64..100) -> usage::Span {
        let start = Timestamp::from_second(start).unwrap();
        usage::Span { period: Period { start, end: after_seconds(start, seconds) }, units }
    }
}

proptest! {
    #[test]
    fn the_days_bear_all_that_was_paid_and_did_not_come_back(
        commitments in proptest::collection::vec(commitment(), 0..6),
        used in proptest::option::of(proptest::collection::vec(span(), 0..6)),
    ) {
        let all = portions(&commitments, used.as_deref());
        let borne: i64 = all.iter().map(|it| it.amount.0).sum();
        let paid: i64 = commitments.iter().map(|it| it.price.0 - it.left.map_or(0, |it| it.refund.0)).sum();
        prop_assert_eq!(borne, paid);
        for it in &all {
            prop_assert!(it.period.start < it.period.end && it.period.end <= utc_day(it.period.start).end);
        }
    }

    #[test]
    fn what_was_used_changes_only_which_part_is_used(
        commitments in proptest::collection::vec(commitment(), 0..4),
        used in proptest::collection::vec(span(), 0..6),
    ) {
        let by_day = |all: &[Portion]| {
            let mut days = std::collections::BTreeMap::<_, (i64, u64)>::new();
            for it in all {
                let day = days.entry(it.period.start).or_default();
                *day = (day.0 + it.amount.0, day.1 + it.unit_seconds);
            }
            days
        };
        let (with, without) = (portions(&commitments, Some(&used)), portions(&commitments, Some(&[])));
        prop_assert_eq!(by_day(&with), by_day(&without));
        prop_assert!(without.iter().all(|it| it.spent == Spent::Unused));
    }

    /// A day that was told before something was left is told the same afterwards.
    #[test]
    fn leaving_changes_no_day_before_it(order in commitment()) {
        let before = portions(&[Commitment { left: None, ..order }], Some(&[]));
        let after = portions(&[order], Some(&[]));
        let until = order.left.map_or(order.period.end, |it| it.at);
        let told = |all: &[Portion]| all.iter().filter(|it| utc_day(it.period.start).end <= until).copied().collect::<Vec<_>>();
        prop_assert_eq!(told(&before), told(&after));
    }
}
