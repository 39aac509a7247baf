//! When use begins and ends, and how far it is billed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::calendar::{after_seconds, utc_day};
use super::super::metering::{
    LATE_SECONDS, Life, Step, Use, billable_until, closed_until, price_begins, spans, step,
};
use super::super::usage::{LineKey, Per, Prices, bill};
use super::*;

const UP: Life = Life::Up { ready_since: None };

fn ready(since: &str) -> Life {
    Life::Up { ready_since: Some(at(since)) }
}

fn down(ended_at: Option<&str>) -> Life {
    Life::Down { ended_at: ended_at.map(at) }
}

fn used(from: &str, confirmed: &str, billed: &str) -> Use {
    Use { from: at(from), until: None, confirmed: at(confirmed), billed: at(billed) }
}

#[test]
fn a_worker_is_used_from_first_ready_to_its_end() {
    let ten = "2026-11-10T10:00";
    let open = used(ten, "2026-11-10T10:30", ten);
    let billed = used("2026-11-09T10:00", "2026-11-10T00:10", "2026-11-10");
    let begin = |it| Step::Begin(at(it));
    let end = |it| Step::End(at(it));
    let now = "2026-11-10T10:31:07";
    for (open, life, not_before, other_terms, expected, why) in [
        (None, UP, ten, false, Step::Stay, "never ready"),
        (None, down(Some(now)), ten, false, Step::Stay, "ended before it was ready"),
        (None, down(None), ten, false, Step::Stay, "gone before it was ready"),
        (None, Life::Restarted { ended_at: at(now) }, ten, false, Step::Stay, "crashes before it is ready"),
        (None, ready("2026-11-10T10:29:59"), ten, false, begin("2026-11-10T10:29:59"), "since it is ready"),
        (None, ready("2026-11-09T22:00"), "2026-11-10", false, begin("2026-11-10"), "that day is closed"),
        (None, ready("2026-11-10T11:00"), ten, false, begin(now), "its clock is ahead"),
        (Some(&open), UP, ten, false, Step::Stay, "not ready for a while, but it runs"),
        (Some(&open), ready("2026-11-10T10:31"), ten, false, Step::Stay, "ready again"),
        (Some(&open), down(Some("2026-11-10T10:31:01")), ten, false, end("2026-11-10T10:31:01"), "seen"),
        (Some(&open), down(Some("2026-11-10T10:29")), ten, false, end("2026-11-10T10:29"), "heard of late"),
        (Some(&open), down(Some("2026-11-10T12:00")), ten, false, end(now), "its clock is ahead"),
        (Some(&open), down(Some("2026-11-10T09:00")), ten, false, end(ten), "its clock is behind"),
        (
            Some(&open),
            down(None),
            ten,
            false,
            end("2026-11-10T10:30"),
            "nobody saw: the last confirmed second",
        ),
        (Some(&billed), down(Some("2026-11-09T23:59")), ten, false, end("2026-11-10"), "a billed day stays"),
        (
            Some(&open),
            Life::Restarted { ended_at: at("2026-11-10T10:15") },
            ten,
            false,
            end("2026-11-10T10:15"),
            "crashed, and is not ready again yet",
        ),
        (
            Some(&open),
            Life::Restarted { ended_at: at("2026-11-10T09:55") },
            ten,
            false,
            Step::Stay,
            "it crashed before it was first ready",
        ),
        (Some(&open), UP, ten, true, Step::Cut(at(now)), "somebody else pays"),
        (Some(&used(now, now, now)), UP, ten, true, Step::Stay, "not in its first second"),
    ] {
        assert_eq!(step(open, life, at(not_before), other_terms, at(now)), expected, "{why}");
    }
}

#[test]
fn a_day_is_billed_when_nothing_can_come_late() {
    let midnight = "2026-11-11";
    for (now, confirmed, until) in [
        ("2026-11-11T00:04:59", vec![], "2026-11-10"),
        ("2026-11-11T00:05:00", vec![], midnight),
        ("2026-11-11T00:06:00", vec!["2026-11-11T00:05:59", "2026-11-11T00:05:00"], midnight),
        // Of one nobody knows whether it lived then.
        ("2026-11-11T00:06:00", vec!["2026-11-11T00:05:59", "2026-11-11T00:04:59"], "2026-11-10"),
        ("2026-11-20T00:06:00", vec!["2026-11-08T03:00"], "2026-11-08"),
        ("2026-11-11T10:00:00", vec!["2026-11-11T10:00:00"], midnight),
    ] {
        assert_eq!(
            billable_until(at(now), confirmed.iter().map(|it| at(it))),
            at(until),
            "{now} {confirmed:?}"
        );
    }
    for (billed, closed) in
        [(midnight, midnight), ("2026-11-10T10:00", midnight), ("2026-11-10T23:59:59", midnight)]
    {
        assert_eq!(closed_until(at(billed)), at(closed), "{billed}");
    }
}

#[test]
fn a_price_begins_when_it_is_first_seen() {
    let (made, now) = ("2026-11-01", at("2026-11-10T10:00:00.700"));
    let known = |epochs: &[(&str, &str)]| -> BTreeMap<Timestamp, Exact> {
        epochs.iter().map(|(since, price)| (at(since), exact(price))).collect()
    };
    for (known, price, begins) in [
        (known(&[]), "1", Some(made)),
        (known(&[(made, "1")]), "1.00", None),
        (known(&[(made, "1")]), "2", Some("2026-11-10T10:00:00")),
        (known(&[(made, "1"), ("2026-11-05", "2")]), "1", Some("2026-11-10T10:00:00")),
        // Twice in a second, or after the clock was put back.
        (known(&[(made, "1"), ("2026-11-10T10:00:00", "2")]), "1", Some("2026-11-10T10:00:01")),
        (known(&[(made, "1"), ("2026-11-20", "2")]), "1", Some("2026-11-20T00:00:01")),
    ] {
        assert_eq!(price_begins(&known, &exact(price), at(made), now), begins.map(at), "{known:?} {price}");
    }
}

proptest! {
    /// Whenever it is looked at, billed day by day as time goes on: a second is billed once, and each line is what it would be if
    /// all were known at once. Nothing before it is first ready, nothing after its end.
    #[test]
    fn looked_at_at_any_time_it_is_billed_once(
        from in 0..200_000_i64, lives in 1..400_000_i64, looks in prop::collection::vec(1..30_000_i64, 1..60),
        cards in 1..9_u64, dearer in 0..500_000_i64, unseen in any::<bool>(),
    ) {
        let moment = |it: i64| after_seconds(at("2026-11-10"), it);
        let (ready_since, ended_at) = (moment(from), moment(from + lives));
        let prices = Prices {
            per: Per::Second,
            epochs: [(at("2026-11-01"), exact("0.0041")), (moment(dearer), exact("0.0052"))].into(),
        };
        let mut it: Option<Use> = None;
        let mut lines: BTreeMap<LineKey, Money> = BTreeMap::new();
        let mut now = moment(0);
        // In the end somebody looks, much later.
        for look in looks.into_iter().chain([900_000, 400]) {
            now = after_seconds(now, look);
            let life = match () {
                () if now < ready_since => UP,
                () if now < ended_at => Life::Up { ready_since: Some(ready_since) },
                () => Life::Down { ended_at: (!unseen).then_some(ended_at) },
            };
            let open = it.as_ref().filter(|it| it.until.is_none());
            let step = if it.is_some() && open.is_none() { Step::Stay } else { step(open, life, moment(0), false, now) };
            match (step, &mut it) {
                (Step::Begin(from), _) => it = Some(Use::begins(from)),
                (Step::End(until), Some(it)) => it.until = Some(until),
                _ => (),
            }
            let Some(it) = &mut it else { continue };
            if matches!(life, Life::Up { .. }) {
                it.confirmed = it.confirmed.max(now);
            }
            let until = billable_until(now, it.until.is_none().then_some(it.confirmed));
            for line in bill(&spans([(&*it, cards)], until), &prices, &cny()).unwrap() {
                prop_assert!(lines.insert(line.key, line.amount).is_none(), "{:?} twice", line.key);
            }
            if let Some(billed) = it.unbilled(until) {
                prop_assert!(it.until.is_some() || billed.end <= after_seconds(it.confirmed, -LATE_SECONDS));
                prop_assert!(it.until.is_some() || billed.end == utc_day(billed.end).start);
                it.billed = billed.end;
            }
        }
        if let Some(it) = it {
            prop_assert_eq!(it.from, ready_since);
            let until = it.until.unwrap();
            let is_right = if unseen { until < ended_at } else { until == ended_at };
            prop_assert!(is_right, "{until} {ended_at}");
            let whole = bill(&spans([(&Use { billed: it.from, ..it }, cards)], until), &prices, &cny()).unwrap();
            let whole: BTreeMap<LineKey, Money> = whole.into_iter().map(|it| (it.key, it.amount)).collect();
            prop_assert_eq!(lines, whole);
        }
    }
}
