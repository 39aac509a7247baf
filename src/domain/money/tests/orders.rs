//! Prices, orders, refunds.

use proptest::prelude::*;

use super::super::order::{quote_expansion, quote_hour, quote_term};
use super::super::price::charged_months;
use super::super::refund::{days_used, refund};
use super::super::want::{Offer, term_order};
use super::*;

const CATALOGUE: &str = include_str!("../../../../tests/it/data/resident-prices.csv");

/// Region group, card type; six cards with 40 GB for a month, one card with 10 GB for a year.
const WORKED: &[(&str, &str, &str, &str)] = &[
    ("cn", "ada", "42828.00", "85224.00"),
    ("cn", "ada-2", "37950.00", "75468.00"),
    ("cn", "ada-3", "55026.00", "109620.00"),
    ("cn", "xpu-1", "62790.00", "125148.00"),
    ("cn", "hopper", "119982.00", "239532.00"),
    ("us", "ada", "43773.60", "87028.80"),
    ("us", "hopper", "125811.60", "251104.80"),
    ("de", "ada", "65691.60", "130864.80"),
    ("de", "hopper", "167493.60", "334468.80"),
    ("sg", "ada", "53787.60", "107056.80"),
    ("sg", "hopper", "146973.60", "293428.80"),
];

#[test]
fn every_card_type_in_every_region_costs_what_its_list_says() {
    let mut seen = Vec::new();
    for line in CATALOGUE.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [group, _, card_type, currency, card, disk] = fields[..] else { panic!("{line}") };
        let currency = Currency::find(currency).unwrap();
        let prices = PoolPrices { card_month: exact(card), disk_gb_month: exact(disk) };
        let quote = |it, months| quote_term(&prices.month(it), months, &currency).unwrap().text(&currency);
        seen.push((group, card_type, quote(size(6, 40), 1), quote(size(1, 10), 12)));
    }
    let worked: Vec<_> = WORKED.iter().map(|it| (it.0, it.1, it.2.to_owned(), it.3.to_owned())).collect();
    assert_eq!(seen, worked);
}

#[test]
fn disk_is_charged_from_the_first_gb() {
    // Endpoint A 30 GB × 4 + endpoint B 60 GB × 2 = 240 GB: six cards with 40 GB each.
    let disk_gb = 30 * 4 + 60 * 2;
    assert_eq!(ada().month(size(6, disk_gb / 6)), exact("42828"));
    assert_eq!(ada().month(size(6, 0)), exact("42540"));
    assert_eq!(ada().month(size(1, 60)), exact("7162"));
    assert_eq!(ada().month(size(0, 60)), exact("0"));
}

fn machine() -> MachinePrices {
    MachinePrices {
        per_month: Some(exact("52000")),
        per_hour: Some(exact("98.50")),
        disk_gb_month: exact("1.2"),
        included_disk_gb: 200,
    }
}

#[test]
fn a_machine_costs_its_price_and_the_disk_that_is_not_included() {
    for (disk_gb, month) in
        [(200, "52000"), (100, "52000"), (201, "52001.2"), (300, "52120"), (2000, "54160")]
    {
        assert_eq!(machine().month(disk_gb), Some(exact(month)), "{disk_gb} GB");
    }
    for (disk_gb, begins, seconds, price) in [
        (200, "2026-11-10", 3_600, "98.50"),
        // 120 ÷ 720 h = 0.1666…
        (300, "2026-11-30T23:59", 3_600, "98.67"),
        // 120 ÷ 672 h = 0.1785…
        (300, "2026-02-28T23:59", 3_600, "98.68"),
        // 98.5 × 1,043 ÷ 3,600 = 28.5376…
        (200, "2026-11-10", 1_043, "28.54"),
        (200, "2026-11-10", 0, "0"),
        (200, "2026-11-10", 9_999, "98.50"),
    ] {
        let hour = machine().hour(disk_gb, at(begins)).unwrap();
        assert_eq!(quote_hour(&hour, seconds, &cny()), Ok(yuan(price)), "{disk_gb} GB from {begins}");
    }
    let one_way = MachinePrices { per_month: None, per_hour: None, ..machine() };
    assert_eq!((one_way.month(200), one_way.hour(200, at("2026-11-10"))), (None, None));
}

#[test]
fn a_year_for_training_costs_ten_months() {
    let long_terms = [LongTerm { months: 12, charged_months: 10 }];
    for (months, charged) in [(1, 1), (2, 2), (6, 6), (11, 11), (12, 10)] {
        assert_eq!(charged_months(months, &long_terms), charged, "{months}");
        assert_eq!(charged_months(months, &[]), months);
    }
    let offer = Offer { size: size(0, 0), month: machine().month(300).unwrap(), long_terms: &long_terms };
    let year = |lease: &Lease| {
        term_order(Purpose::Initial, 12, &offer, lease, at("2027-03-01T10:00"), &cny()).unwrap().unwrap()
    };
    let order = year(&Lease::default());
    assert_eq!(order.price.text(&cny()), "521200.00");
    assert_eq!((order.period, order.months), (period("2027-03-01T10:00", "2028-03-01T10:00"), 12));
}

#[test]
fn a_conversion_begins_in_its_second() {
    let offer = Offer { size: size(0, 0), month: machine().month(200).unwrap(), long_terms: &[] };
    let now = at("2026-11-10T09:17:23.9");
    let order = term_order(Purpose::Conversion, 1, &offer, &Lease::default(), now, &cny()).unwrap().unwrap();
    assert_eq!(order.period, period("2026-11-10T09:17:23", "2026-12-10T09:17:23"));
    assert_eq!(order.price, yuan("52000"));
    assert_eq!(term_order(Purpose::Conversion, 0, &offer, &Lease::default(), now, &cny()), Ok(None));
}

#[test]
fn an_expansion_costs_the_seconds_left() {
    for (anchor, now, until, from, to, price) in [
        // 2 × 7,090 + 80 × 1.2 = 14,276 a month; half of November.
        ("2026-11-01", "2026-11-16", "2026-12-01", size(6, 40), size(8, 40), "7138"),
        // 1,252,799 of 2,592,000 s.
        ("2026-11-01", "2026-11-16T12:00:01", "2026-12-01", size(6, 40), size(8, 40), "6900.06"),
        // Half of the 28 days until the 28th, 31 days until 31 March, 30 until 30 April: 2.5 months.
        ("2026-01-31", "2026-02-14", "2026-04-30", size(6, 40), size(8, 40), "35690"),
        // The same renewed: half a month more in a month of 31 days (30 April until 31 May).
        ("2026-01-31", "2026-02-14", "2026-05-31", size(6, 40), size(8, 40), "49966"),
        // Disk alone: 6 × 20 × 1.2 = 144 a month.
        ("2026-11-01", "2026-11-16", "2026-12-01", size(6, 40), size(6, 60), "72"),
        // Cards and disk: 8 × 60 GB is 240 GB more; 2 cards: 14,180 + 288.
        ("2026-11-01", "2026-11-16", "2026-12-01", size(6, 40), size(8, 60), "7234"),
        ("2026-11-01", "2026-12-01", "2026-12-01", size(6, 40), size(8, 60), "0"),
        ("2026-11-01", "2026-11-16", "2026-12-01", size(8, 40), size(6, 40), "0"),
        // The last second: 14,276 ÷ 2,592,000 = 0.0055…
        ("2026-11-01", "2026-11-30T23:59:59", "2026-12-01", size(6, 40), size(8, 40), "0.01"),
    ] {
        let (old, new) = (ada().month(from), ada().month(to));
        assert_eq!(
            quote_expansion(&old, &new, at(anchor), at(now), at(until), &cny()),
            Ok(yuan(price)),
            "{to:?} from {now} until {until}"
        );
    }
}

#[test]
fn purposes_have_ids_that_stay() {
    for (purpose, id) in [
        (Purpose::Initial, "initial"),
        (Purpose::Expansion { to: size(8, 40) }, "expand/8 cards/40 GB"),
        (Purpose::Manual { position: 3 }, "renewal/manual/3"),
        (Purpose::Auto { old_expiry: at("2026-12-23T10:00") }, "renewal/auto/2026-12-23T10:00:00Z"),
        (Purpose::Conversion, "conversion"),
    ] {
        assert_eq!(purpose.id(), id);
        assert_eq!(Purpose::parse(id), Some(purpose));
    }
    for id in [
        "",
        "Initial",
        "initial/",
        "expand/8 cards/40",
        "expand/+8 cards/40 GB",
        "renewal/manual/03",
        "renewal/manual/-1",
        "renewal/auto/2026-12-23",
        "renewal/auto/2026-12-23T10:00:00+00:00",
        "usage/2026-11-23/gpu/2026-11-23T00:00:00Z",
    ] {
        assert_eq!(Purpose::parse(id), None, "{id}");
    }
}

#[test]
fn days_are_counted_as_they_start() {
    let november = period("2026-11-01T10:00", "2026-12-01T10:00");
    for (now, days) in [
        ("2026-11-01T09:59:59", 0),
        ("2026-11-01T10:00", 1),
        ("2026-11-02T09:59:59", 1),
        ("2026-11-02T10:00", 2),
        ("2026-11-10T10:00", 10),
        ("2026-12-01T09:59:59", 30),
    ] {
        assert_eq!(days_used(november, at(now)), days, "{now}");
    }
}

#[test]
fn leaving_returns_the_cash_that_is_not_consumed() {
    let november = ("2026-11-01", "2026-12-01", 1);
    // 365 days at 100 a day.
    let year = ("2026-11-01", "2027-11-01", 12);
    for ((start, end, months), cash, voucher, now, returned) in [
        // 42,828 ÷ 30 = 1,427.60 a day, × 1.2 = 1,713.12.
        (november, "42828", "0", "2026-11-01", "41114.88"),
        (november, "42828", "0", "2026-11-10T12:00", "25696.80"),
        (november, "42828", "0", "2026-11-24T12:00", "1713.12"),
        (november, "42828", "0", "2026-11-25T12:00", "0"),
        (november, "42828", "0", "2026-11-29T12:00", "0"),
        (november, "42828", "0", "2026-11-30T12:00", "0"),
        (november, "42828", "0", "2026-12-01", "0"),
        (november, "42828", "0", "2026-10-31T23:59", "42828"),
        // Vouchers are consumed first, and never returned.
        (november, "40000", "2828", "2026-11-10T12:00", "25696.80"),
        (november, "22828", "20000", "2026-11-10T12:00", "22828"),
        (november, "22828", "20000", "2026-11-12T12:00", "22270.56"),
        (november, "0", "42828", "2026-11-10T12:00", "0"),
        (november, "2828", "40000", "2026-10-31", "2828"),
        // Early until 29 days, × 1.0 from 30.
        (year, "36500", "0", "2026-11-01T12:00", "36380"),
        (year, "36500", "0", "2026-11-29T12:00", "33020"),
        (year, "36500", "0", "2026-11-30T12:00", "33500"),
        (year, "36500", "0", "2026-12-01T12:00", "33400"),
        (year, "36500", "0", "2027-10-31T23:59", "0"),
    ] {
        let price = yuan(cash).checked_add(yuan(voucher)).unwrap();
        let order = Order {
            cash: yuan(cash),
            voucher: yuan(voucher),
            ..order(Purpose::Initial, months, period(start, end), &price.text(&cny()))
        };
        let got = refund(&order, at(now), &RefundRule::default(), &cny()).unwrap();
        assert_eq!(got.text(&cny()), yuan(returned).text(&cny()), "{cash} + {voucher} on {now}");
    }
}

#[test]
fn after_a_renewal_each_order_returns_its_own() {
    let initial = order(Purpose::Initial, 1, period("2026-11-01", "2026-12-01"), "42828");
    let renewal = order(Purpose::Manual { position: 0 }, 1, period("2026-12-01", "2027-01-01"), "42828");
    let both = |now| {
        [&initial, &renewal]
            .map(|it| refund(it, at(now), &RefundRule::default(), &cny()).unwrap().text(&cny()))
    };
    assert_eq!(both("2026-11-10T12:00"), ["25696.80", "42828.00"], "the one that has not begun is whole");
    // 42,828 ÷ 31 × 5 × 1.2 = 8,289.29…
    assert_eq!(both("2026-12-05T12:00"), ["0.00", "34538.71"]);
}

#[test]
fn the_rule_of_leaving_is_the_tariffs() {
    let rule = RefundRule { early_days: 10, early_factor: exact("1.5") };
    let order = order(Purpose::Initial, 1, period("2026-11-01", "2026-12-01"), "30000");
    for (now, returned) in [("2026-11-09T12:00", "16500"), ("2026-11-10T12:00", "20000")] {
        assert_eq!(refund(&order, at(now), &rule, &cny()), Ok(yuan(returned)), "{now}");
    }
    // Half of what is used: but what is used up returns nothing.
    let mild = RefundRule { early_days: 60, early_factor: exact("0.5") };
    for (now, returned) in [("2026-11-30T23:59:59", "15000"), ("2026-12-01", "0")] {
        assert_eq!(refund(&order, at(now), &mild, &cny()), Ok(yuan(returned)), "{now}");
    }
}

proptest! {
    #[test]
    fn a_refund_is_between_nothing_and_the_cash(
        cash in 0..9_000_000_000_i64, voucher in 0..9_000_000_000_i64, start in 0..4_000_000_000_i64,
        length in 0..40_000_000_i64, after in -5_000_000..50_000_000_i64, early_days in 0..400_u32, tenths in 0..50_i64,
    ) {
        let moment = |it| Timestamp::from_second(it).unwrap();
        let order = Order {
            purpose: Purpose::Initial, months: 1, size: size(1, 10),
            period: Period { start: moment(start), end: moment(start + length) },
            price: Money(cash + voucher), cash: Money(cash), voucher: Money(voucher),
        };
        let rule = RefundRule { early_days, early_factor: Exact::whole(tenths).share(1, 10) };
        let now = moment(start + after);
        let got = refund(&order, now, &rule, &cny()).unwrap();
        prop_assert!(Money(0) <= got && got <= order.cash, "{:?}", got);
        if after < 0 {
            prop_assert_eq!(got, order.cash);
        }
    }

    /// What is bought of an expansion in parts of time is what is bought at once, but for the rounding of each.
    #[test]
    fn an_expansion_is_additive_in_time(anchor in 0..4_000_000_000_i64, from in 0..20_000_000_i64, parts in prop::collection::vec(1..20_000_000_i64, 1..4)) {
        let moment = |it: i64| Timestamp::from_second(it).unwrap();
        let (old, new) = (ada().month(size(6, 40)), ada().month(size(8, 40)));
        let quote = |from, until| quote_expansion(&old, &new, moment(anchor), moment(from), moment(until), &cny()).unwrap().0;
        let (mut sum, mut reached) = (0, anchor + from);
        for part in &parts {
            sum += quote(reached, reached + part);
            reached += part;
        }
        prop_assert!((sum - quote(anchor + from, reached)).abs() <= 2, "each line is off by half a unit at most");
    }
}
