//! Amounts, currencies, the calendar.

use proptest::prelude::*;

use super::super::calendar::{after_months, calendar_month, months_between, utc_day, whole_second};
use super::*;

#[test]
fn currencies_have_the_digits_of_iso_4217() {
    for (code, digits) in [("CNY", 2), ("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3)] {
        let found = Currency::find(code).unwrap();
        assert_eq!((found.code(), found.minor_digits()), (code, digits));
    }
    // Unknown, written otherwise, or without a minor unit.
    for code in ["", "CN", "CNYY", "cny", "ABC", "¥", "XAU", "XXX"] {
        assert_eq!(Currency::find(code), None, "{code}");
    }
}

#[test]
fn plain_decimals_are_read_and_nothing_else() {
    for (text, minor) in [("7090", 709_000), ("1.2", 120), ("-3.5", -350), ("0", 0), ("007", 700), ("-0", 0)]
    {
        assert_eq!(Money::round_line(&exact(text), &cny()), Ok(Money(minor)), "{text}");
        assert_eq!(Money::parse(text, &cny()), Ok(Money(minor)), "{text}");
    }
    let long = "9".repeat(41);
    for text in [
        "", "-", ".", "1.", ".5", "+1", "--1", "1e3", "1E3", "NaN", "inf", " 1", "1 ", "1,000", "1_000",
        "1.2.3", "0x1", "١", "1.-2", &long,
    ] {
        assert_eq!(Exact::parse(text), Err(NotAnAmount(text.to_owned())));
        assert_eq!(Money::parse(text, &cny()), Err(NotAnAmount(text.to_owned())));
    }
}

#[test]
fn money_has_no_more_digits_than_its_currency() {
    for (code, text, minor) in [
        ("CNY", "42828", Some(4_282_800)),
        ("CNY", "42828.5", Some(4_282_850)),
        ("CNY", "42828.001", None),
        ("CNY", "42828.000", None),
        ("JPY", "500", Some(500)),
        ("JPY", "500.0", None),
        ("KWD", "1.234", Some(1_234)),
        ("CNY", "92233720368547758.07", Some(i64::MAX)),
        ("CNY", "92233720368547758.08", None),
    ] {
        let currency = Currency::find(code).unwrap();
        assert_eq!(Money::parse(text, &currency).ok(), minor.map(Money), "{text} {code}");
    }
}

#[test]
fn money_is_written_with_all_digits() {
    for (code, minor, text) in [
        ("CNY", 4_282_800, "42828.00"),
        ("CNY", 5, "0.05"),
        ("CNY", -5, "-0.05"),
        ("CNY", 0, "0.00"),
        ("JPY", -42_828, "-42828"),
        ("JPY", 0, "0"),
        ("KWD", 1_234, "1.234"),
        ("KWD", -1, "-0.001"),
        ("CNY", i64::MIN, "-92233720368547758.08"),
    ] {
        assert_eq!(Money(minor).text(&Currency::find(code).unwrap()), text);
    }
}

#[test]
fn a_line_is_rounded_half_even() {
    for (code, text, minor) in [
        ("CNY", "0.005", 0),
        ("CNY", "0.015", 2),
        ("CNY", "0.025", 2),
        ("CNY", "0.035", 4),
        ("CNY", "0.00500001", 1),
        ("CNY", "0.01499999", 1),
        ("CNY", "-0.005", 0),
        ("CNY", "-0.015", -2),
        ("CNY", "-0.025", -2),
        ("CNY", "-0.026", -3),
        ("JPY", "0.5", 0),
        ("JPY", "1.5", 2),
        ("JPY", "2.5", 2),
        ("KWD", "0.0005", 0),
        ("KWD", "0.0015", 2),
    ] {
        let currency = Currency::find(code).unwrap();
        assert_eq!(Money::round_line(&exact(text), &currency), Ok(Money(minor)), "{text} {code}");
    }
    assert_eq!(Money::round_line(&Exact::whole(2).share(1, 3), &cny()), Ok(Money(67)));
    assert_eq!(
        Money::round_line(&Exact::whole(1).share(1, 3).times(3), &cny()),
        Ok(Money(100)),
        "exact within"
    );
    assert_eq!(Money::round_line(&Exact::whole(i64::MAX), &cny()), Err(TooMuch));
    let most = Currency::find("JPY").unwrap();
    assert_eq!(Money::round_line(&Exact::whole(i64::MAX), &most), Ok(Money(i64::MAX)));
    assert_eq!(Money(i64::MAX).checked_add(Money(1)), None);
    assert_eq!(Money(3).checked_sub(Money(5)), Some(Money(-2)));
}

#[test]
fn months_step_from_the_anchor() {
    for (anchor, months, after) in [
        ("2026-01-31T10:00", 0, "2026-01-31T10:00"),
        ("2026-01-31T10:00", 1, "2026-02-28T10:00"),
        ("2026-01-31T10:00", 2, "2026-03-31T10:00"),
        ("2026-01-31T10:00", 3, "2026-04-30T10:00"),
        ("2026-01-31T10:00", 13, "2027-02-28T10:00"),
        ("2026-01-31T10:00", 25, "2028-02-29T10:00"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2028-01-30", 1, "2028-02-29"),
        ("2027-01-29", 1, "2027-02-28"),
        ("2028-02-29", 12, "2029-02-28"),
        ("2028-02-29", 48, "2032-02-29"),
        ("2026-11-30", 3, "2027-02-28"),
        ("2100-01-31", 1, "2100-02-28"),
        ("2026-12-31T23:59:59", 2, "2027-02-28T23:59:59"),
    ] {
        assert_eq!(after_months(at(anchor), months), at(after), "{anchor} + {months}");
    }
    assert_eq!(after_months(at("2026-01-31"), u32::MAX), Timestamp::MAX);
}

#[test]
fn a_range_is_cut_at_the_steps_of_its_anchor() {
    let cut = |from, until| months_between(at("2026-01-31"), at(from), at(until));
    assert_eq!(
        cut("2026-02-10", "2026-04-15"),
        [
            (period("2026-01-31", "2026-02-28"), period("2026-02-10", "2026-02-28")),
            (period("2026-02-28", "2026-03-31"), period("2026-02-28", "2026-03-31")),
            (period("2026-03-31", "2026-04-30"), period("2026-03-31", "2026-04-15")),
        ]
    );
    assert_eq!(
        cut("2026-02-28", "2026-03-01"),
        [(period("2026-02-28", "2026-03-31"), period("2026-02-28", "2026-03-01"))]
    );
    assert_eq!(
        cut("2026-01-30", "2026-02-01"),
        [
            (period("2025-12-31", "2026-01-31"), period("2026-01-30", "2026-01-31")),
            (period("2026-01-31", "2026-02-28"), period("2026-01-31", "2026-02-01")),
        ],
        "before the anchor too"
    );
    assert_eq!(
        months_between(at("9999-10-01"), at("9999-11-01"), Timestamp::MAX).len(),
        2,
        "the calendar ends"
    );
    assert_eq!(cut("2026-03-01", "2026-03-01"), []);
    assert_eq!(cut("2026-03-02", "2026-03-01"), []);
}

#[test]
fn months_and_days_of_the_calendar() {
    for (moment, start, end) in [
        ("2026-02-28T23:59:59", "2026-02-01", "2026-03-01"),
        ("2028-02-01", "2028-02-01", "2028-03-01"),
        ("2026-12-31", "2026-12-01", "2027-01-01"),
    ] {
        assert_eq!(calendar_month(at(moment)), period(start, end), "{moment}");
    }
    assert_eq!(utc_day(at("2026-02-28T23:59:59")), period("2026-02-28", "2026-03-01"));
    assert_eq!(utc_day(at("2026-03-01")), period("2026-03-01", "2026-03-02"));
    assert_eq!(whole_second(at("2026-03-01T10:00:01.999")), at("2026-03-01T10:00:01"));
    assert_eq!(period("2026-02-28", "2026-03-31").days(), Exact::whole(31));
    assert_eq!(period("2026-02-28", "2026-02-28T12:00").days(), exact("0.5"));
    assert_eq!(period("2026-02-28", "2026-02-27").seconds(), 0);
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(minor in any::<i64>(), which in 0..3_usize) {
        let currency = Currency::find(["CNY", "JPY", "KWD"][which]).unwrap();
        prop_assert_eq!(Money::parse(&Money(minor).text(&currency), &currency), Ok(Money(minor)));
        prop_assert_eq!(Money::round_line(&Money(minor).exact(&currency), &currency), Ok(Money(minor)));
    }

    #[test]
    fn rounding_is_off_by_half_a_unit_at_most(part in 0..1_000_000_u64, of in 1..5_000_u64) {
        let line = Exact::whole(1).share(part, of);
        let off = Money::round_line(&line, &cny()).unwrap().exact(&cny()).minus(&line);
        prop_assert!(off <= exact("0.005") && off >= exact("-0.005"), "{:?}", off);
    }

    /// The parts are the range, without gap or overlap, each within its month; and the months are those of the anchor.
    #[test]
    fn the_parts_of_a_range_are_the_range(anchor in 0..4_000_000_000_i64, from in 0..4_000_000_000_i64, length in 1..90_000_000_i64) {
        let moment = |it| Timestamp::from_second(it).unwrap();
        let cut = months_between(moment(anchor), moment(from), moment(from + length));
        prop_assert_eq!(cut[0].1.start, moment(from));
        prop_assert_eq!(cut.last().unwrap().1.end, moment(from + length));
        for pair in cut.windows(2) {
            prop_assert_eq!(pair[0].1.end, pair[1].1.start);
            prop_assert_eq!(pair[0].0.end, pair[1].0.start);
        }
        for (month, part) in &cut {
            prop_assert!(month.start <= part.start && part.start < part.end && part.end <= month.end);
            let days = month.seconds() / 86_400;
            prop_assert!((28..=31).contains(&days) && month.seconds() % 86_400 == 0);
        }
    }
}
