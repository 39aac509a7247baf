//! Arrears, metering, credits.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::arrears::{Grace, Holding, Keeps, Request, in_arrears, standing};
use super::super::calendar::after_seconds;
use super::super::credit::{Faulty, credit};
use super::super::usage::{LineKey, Metered, NoLine, Per, Prices, Span, bill, meter};
use super::*;

#[test]
fn arrears_begin_below_the_credit_limit_or_with_an_unpaid_due() {
    for (balance, limit, due, arrears) in [
        (0, 0, false, false),
        (-1, 0, false, true),
        (-100, 100, false, false),
        (-101, 100, false, true),
        (500, 0, true, true),
        (i64::MIN, i64::MAX, false, true),
        (0, i64::MIN, false, true),
    ] {
        assert_eq!(in_arrears(Money(balance), Money(limit), due), arrears, "{balance} {limit} {due}");
    }
}

#[test]
fn what_is_kept_and_refused_in_arrears() {
    use Holding::{
        BoundEndpoint, ElasticEndpoint, PostpaidMachine, PrepaidMachine, ResidentPool, SpotServer,
    };
    use Request::{Buy, Convert, Create, Expand, Renew, Start, Wake};
    let since = "2026-11-10T10:00";
    let until = |end| Keeps::Until(at(end));
    let (all, nothing) = (Keeps::All, Keeps::Nothing);
    let group = &[Buy, Expand, Renew, Convert][..];
    for (holding, now, keeps, refused) in [
        (ResidentPool, "2027-11-10", all, &[Buy, Expand, Renew][..]),
        (PrepaidMachine, "2027-11-10", all, group),
        (PostpaidMachine, "2026-11-10T10:00", until("2026-11-11T10:00"), group),
        (PostpaidMachine, "2026-11-11T09:59:59", until("2026-11-11T10:00"), group),
        (PostpaidMachine, "2026-11-11T10:00", nothing, group),
        (SpotServer, "2026-11-10T10:04:59", until("2026-11-10T10:05"), &[Create]),
        (SpotServer, "2026-11-10T10:05", nothing, &[Create]),
        (ElasticEndpoint, "2026-11-10T10:04:59", until("2026-11-10T10:05"), &[Start, Wake]),
        (ElasticEndpoint, "2026-11-10T10:05", nothing, &[Start, Wake]),
        (BoundEndpoint, "2027-11-10", all, &[]),
    ] {
        let got = standing(holding, Some(at(since)), at(now), &Grace::default());
        assert_eq!((got.keeps, got.refused), (keeps, refused), "{holding:?} at {now}");
        let paid = standing(holding, None, at(now), &Grace::default());
        assert_eq!((paid.keeps, paid.refused.len()), (all, 0), "paid again, everything resumes");
    }
}

fn span(start: &str, end: &str, units: u64) -> Span {
    Span { period: period(start, end), units }
}

fn prices(per: Per, epochs: &[(&str, &str)]) -> Prices {
    Prices { per, epochs: epochs.iter().map(|(since, price)| (at(since), exact(price))).collect() }
}

#[test]
fn use_is_billed_by_day_and_price() {
    type Row<'a> = (Per, &'a [(&'a str, &'a str)], &'a [Span], &'a [(&'a str, &'a str, u64, &'a str)]);
    let nov = "2026-11-01";
    let rows: &[Row<'_>] = &[
        // A worker of 2 cards for 100 s at 0.0041.
        (
            Per::Second,
            &[(nov, "0.0041")],
            &[span("2026-11-10T10:00", "2026-11-10T10:01:40", 2)],
            &[("2026-11-10", nov, 200, "0.82")],
        ),
        // Over midnight, and the price moves an hour later.
        (
            Per::Hour,
            &[(nov, "2.40"), ("2026-11-11T01:00", "3")],
            &[span("2026-11-10T23:30", "2026-11-11T02:00", 1)],
            &[
                ("2026-11-10", nov, 1_800, "1.20"),
                ("2026-11-11", nov, 3_600, "2.40"),
                ("2026-11-11", "2026-11-11T01:00", 3_600, "3.00"),
            ],
        ),
        // 40 GB × 1.2 for a day of November, and of February.
        (
            Per::CalendarMonth,
            &[(nov, "1.2")],
            &[span("2026-11-10", "2026-11-11", 40)],
            &[("2026-11-10", nov, 3_456_000, "1.60")],
        ),
        (
            Per::CalendarMonth,
            &[(nov, "1.2")],
            &[span("2027-02-10", "2027-02-11", 40)],
            &[("2027-02-10", nov, 3_456_000, "1.71")],
        ),
        // Two workers of one object at once: one line, rounded once (0.0041 + 0.0041 = 0.0082).
        (
            Per::Second,
            &[(nov, "0.0041")],
            &[
                span("2026-11-10T10:00:00", "2026-11-10T10:00:01", 1),
                span("2026-11-10T10:00:00", "2026-11-10T10:00:01", 1),
            ],
            &[("2026-11-10", nov, 2, "0.01")],
        ),
        (
            Per::Second,
            &[(nov, "0.0041")],
            &[span("2026-11-10", "2026-11-10", 1), span("2026-11-10", "2026-11-11", 0)],
            &[],
        ),
        // The same price again is another epoch.
        (
            Per::Second,
            &[(nov, "1"), ("2026-11-10T00:00:10", "1")],
            &[span("2026-11-10", "2026-11-10T00:00:20", 1)],
            &[("2026-11-10", nov, 10, "10.00"), ("2026-11-10", "2026-11-10T00:00:10", 10, "10.00")],
        ),
    ];
    for (per, epochs, spans, expected) in rows {
        let lines: Vec<_> = bill(spans, &prices(*per, epochs), &cny())
            .unwrap()
            .iter()
            .map(|it| (it.key, it.unit_seconds, it.amount.text(&cny())))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(day, epoch, used, text)| {
                (LineKey { day: at(day), epoch: at(epoch) }, *used, (*text).to_owned())
            })
            .collect();
        assert_eq!(lines, expected, "{per:?} {epochs:?}");
    }
}

#[test]
fn use_without_a_price_is_an_error() {
    let late = prices(Per::Second, &[("2026-11-10T12:00", "1")]);
    let from = at("2026-11-10T11:00");
    let got = bill(&[span("2026-11-10T11:00", "2026-11-10T13:00", 1)], &late, &cny());
    assert_eq!(got, Err(NoLine::Unpriced(from)));
    let dear = prices(Per::Second, &[("2026-11-10", "92233720368547758.08")]);
    assert_eq!(bill(&[span("2026-11-10", "2026-11-10T00:00:01", 1)], &dear, &cny()), Err(NoLine::TooMuch));
}

#[test]
fn faulty_minutes_are_credited() {
    let november = order(Purpose::Initial, 1, period("2026-11-01", "2026-12-01"), "42828");
    let disk = order(Purpose::Expansion { to: size(6, 60) }, 0, period("2026-11-16", "2026-12-01"), "72");
    for (order, cards, faulty_cards, minutes, credited) in [
        // 1,427.60 ÷ 6 ÷ 1,440 = 0.16523… a card and minute.
        (&november, 6, 1, 1, "0.17"),
        (&november, 6, 1, 90, "14.87"),
        (&november, 6, 2, 90, "29.74"),
        (&november, 6, 6, 1_440, "1427.60"),
        (&november, 6, 9, 9_999, "1427.60"),
        (&november, 6, 0, 90, "0"),
        (&disk, 0, 1, 90, "0"),
    ] {
        let got = credit(order, Faulty { cards, faulty_cards, minutes }, &cny());
        assert_eq!(got, Ok(yuan(credited)), "{faulty_cards} of {cards} for {minutes} min");
    }
}

proptest! {
    /// Metered in parts it is as metered whole, line by line.
    #[test]
    fn metered_in_parts_it_is_the_same(
        start in 0..4_000_000_000_i64, cuts in prop::collection::vec(1..200_000_i64, 1..6), units in 1..9_u64,
        epochs in prop::collection::vec((0..600_000_i64, 0..100_000_i64), 0..5), per in 0..3_usize,
    ) {
        let moment = |it: i64| Timestamp::from_second(it).unwrap();
        let price = |it: i64| Exact::whole(it).share(1, 10_000);
        let mut known: BTreeMap<Timestamp, Exact> = epochs.iter().map(|(after, it)| (moment(start + after), price(*it))).collect();
        known.insert(moment(start - 5), price(41));
        let prices = Prices { per: [Per::Second, Per::Hour, Per::CalendarMonth][per], epochs: known };
        let mut parts = Vec::new();
        let mut reached = moment(start);
        for cut in &cuts {
            let end = after_seconds(reached, *cut);
            parts.push(Span { period: Period { start: reached, end }, units });
            reached = end;
        }
        let whole = Span { period: Period { start: moment(start), end: reached }, units };
        let metered = meter(&[whole], &prices).unwrap();
        prop_assert_eq!(&meter(&parts, &prices).unwrap(), &metered);

        // Also when each part is metered alone, and the lines are added up.
        let mut sum: BTreeMap<LineKey, Metered> = BTreeMap::new();
        for part in &parts {
            for (key, it) in meter(&[*part], &prices).unwrap() {
                let line = sum.entry(key).or_insert(Metered { unit_seconds: 0, exact: Exact::zero() });
                line.unit_seconds += it.unit_seconds;
                line.exact = line.exact.plus(&it.exact);
            }
        }
        prop_assert_eq!(&sum, &metered);
        let used: u64 = metered.values().map(|it| it.unit_seconds).sum();
        prop_assert_eq!(used, whole.period.seconds() * units);
    }
}
