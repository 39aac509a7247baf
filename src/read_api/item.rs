//! What a line of the ledger is about, as people read it. Lines tell it themselves, in their id and their detail, whatever contract
//! they are of: nothing here knows which kinds there are.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::domain::money::Period;
use crate::domain::money::calendar::{after_months, after_seconds, utc_day, whole_second};

/// What is told of a line beside its amount.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    /// What it is for, without its contract: `initial`, `usage/2026-11-23/gpu/...`, `machine/base-0/initial`.
    pub(super) purpose: String,
    /// Which time it is for.
    pub(super) from: Timestamp,
    /// The first moment after it.
    pub(super) to: Timestamp,
    /// How much.
    #[serde(serialize_with = "as_text")]
    pub(super) quantity: Decimal,
    /// Of what: `month`, `card-seconds`.
    pub(super) unit: String,
    /// What one costs, before the line is rounded; absent where the line is of no such price.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_as_text")]
    pub(super) unit_price: Option<Decimal>,
    /// For which time that price is, if not for one unit: `hour`, `gb-month`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) price_per: Option<String>,
    /// The tariff's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) region: Option<String>,
    /// The type of its cards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) card_type: Option<String>,
    /// Cards that it is for, after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cards: Option<u64>,
    /// Months of a term.
    #[serde(skip)]
    pub(super) months: u32,
    /// Which order it refunds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) of: Option<String>,
}

fn as_text<S: Serializer>(it: &Decimal, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(it)
}

#[expect(clippy::ref_option, reason = "serde asks for it")]
fn maybe_as_text<S: Serializer>(it: &Option<Decimal>, to: S) -> Result<S::Ok, S::Error> {
    match it {
        Some(it) => to.collect_str(it),
        None => to.serialize_none(),
    }
}

/// Reads a line: its id, when it was written, its contract, its detail.
pub(super) fn read(id: &str, at_ms: i64, contract: Option<&str>, detail: &str) -> Item {
    let detail: Map<String, Value> = serde_json::from_str(detail).unwrap_or_default();
    let text = |name: &str| detail.get(name).and_then(Value::as_str);
    let number = |name: &str| detail.get(name).and_then(Value::as_u64);
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    let months = number("months").and_then(|it| u32::try_from(it).ok()).unwrap_or_default();
    let period = period(&detail, at, months);
    let (quantity, unit, unit_price, price_per) = quantity(&detail, months);
    let own = contract.and_then(|it| id.strip_prefix(it)?.strip_prefix('/'));
    Item {
        purpose: own.unwrap_or(id).to_owned(),
        from: period.start,
        to: period.end,
        quantity,
        unit,
        unit_price,
        price_per,
        region: text("region").map(str::to_owned),
        card_type: text("cardType").map(str::to_owned),
        cards: number("cards"),
        months,
        of: text("of").map(str::to_owned),
    }
}

/// Which time a line is for: it says so, or names a day; a term that does not begins when it was posted; and all else is of the day on
/// which it was written.
fn period(detail: &Map<String, Value>, at: Timestamp, months: u32) -> Period {
    let time = |name: &str| detail.get(name).and_then(Value::as_str).and_then(|it| it.parse().ok());
    if let (Some(start), Some(end)) = (time("from"), time("to")) {
        return Period { start, end };
    }
    let day = detail.get("day").and_then(Value::as_str).and_then(|it| it.parse::<Date>().ok());
    if let Some(start) = day.and_then(|it| it.to_zoned(TimeZone::UTC).ok()) {
        return utc_day(start.timestamp());
    }
    if months > 0 {
        let start = whole_second(at);
        return Period { start, end: after_months(start, months) };
    }
    // A moment of which only the beginning is told.
    match time("leftAt") {
        Some(start) => Period { start, end: after_seconds(start, 1) },
        None => utc_day(at),
    }
}

type Quantity = (Decimal, String, Option<Decimal>, Option<String>);

/// How much of what, and what one costs.
fn quantity(detail: &Map<String, Value>, months: u32) -> Quantity {
    let decimal = |name: &str| detail.get(name).and_then(Value::as_str).and_then(|it| it.parse().ok());
    let count = |name: &str| detail.get(name).and_then(Value::as_u64).map(Decimal::from);
    if let (Some(card), Some(disk), Some(cards), Some(gb)) =
        (decimal("cardPerMonth"), decimal("diskPerGBMonth"), count("cards"), count("diskPerCardGB"))
        && months > 0
    {
        let month = cards.checked_mul(card).zip(cards.checked_mul(gb).and_then(|it| it.checked_mul(disk)));
        let month = month.and_then(|(cards, disk)| cards.checked_add(disk)).map(|it| it.normalize());
        return (Decimal::from(months), "months".to_owned(), month, None);
    }
    let price = detail.iter().find_map(|(name, value)| {
        let per = name.strip_prefix("per").filter(|it| it.starts_with(char::is_uppercase))?;
        Some((words(per), value.as_str()?.parse::<Decimal>().ok()?))
    });
    let used = detail.iter().find_map(|(name, value)| {
        let lower = name.to_lowercase();
        let is_quantity = ["seconds", "hours"].iter().any(|it| lower.ends_with(it));
        Some((words(name), Decimal::from(value.as_u64()?))).filter(|_| is_quantity)
    });
    match (used, price) {
        (Some((unit, quantity)), Some((per, price))) => {
            // A price per second is one of a card-second.
            let same = unit.trim_end_matches('s').ends_with(&per);
            (quantity, unit, Some(price), (!same).then_some(per))
        }
        (Some((unit, quantity)), None) => (quantity, unit, None, None),
        (None, _) => (Decimal::ONE, "items".to_owned(), None, None),
    }
}

/// `cardSeconds` as `card-seconds`, `GBMonth` as `gb-month`.
fn words(name: &str) -> String {
    let mut words = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (place, letter) in letters.iter().enumerate() {
        let after_lower = place > 0 && letters[place - 1].is_lowercase();
        let before_lower = place > 0 && letters.get(place + 1).is_some_and(|it| it.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            words.push('-');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_itself_what_it_is_for() {
        let at = "2026-11-05T10:00:00.250Z".parse::<Timestamp>().unwrap().as_millisecond();
        let usage = "usage/2026-11-04/gpu/2026-11-01T00:00:00Z";
        // id · detail · period · quantity and unit · what one costs
        for (id, detail, period, quantity, price) in [
            (
                "initial",
                r#"{"purpose":"initial","months":1,"cards":6,"diskPerCardGB":40,"cardPerMonth":"7090","diskPerGBMonth":"1.2"}"#,
                "2026-11-05T10:00:00Z 2026-12-05T10:00:00Z",
                "1 months",
                Some("42828"),
            ),
            (
                "renewal/manual/0",
                r#"{"months":2,"from":"2026-12-05T10:00:00Z","to":"2027-02-05T10:00:00Z"}"#,
                "2026-12-05T10:00:00Z 2027-02-05T10:00:00Z",
                "1 items",
                None,
            ),
            (
                "expand/8 cards/40 GB",
                r#"{"months":0,"cards":8,"diskPerCardGB":40,"cardPerMonth":"7090","diskPerGBMonth":"1.2","from":"2026-11-05T10:00:00Z","to":"2026-12-05T10:00:00Z"}"#,
                "2026-11-05T10:00:00Z 2026-12-05T10:00:00Z",
                "1 items",
                None,
            ),
            (
                usage,
                r#"{"day":"2026-11-04","cardSeconds":7200,"perSecond":"0.0041"}"#,
                "2026-11-04T00:00:00Z 2026-11-05T00:00:00Z",
                "7200 card-seconds",
                Some("0.0041"),
            ),
            (
                "usage/2026-11-04/disk/x",
                r#"{"day":"2026-11-04","gbSeconds":100,"perGBMonth":"1.2"}"#,
                "2026-11-04T00:00:00Z 2026-11-05T00:00:00Z",
                "100 gb-seconds",
                Some("1.2 per gb-month"),
            ),
            (
                "machine/base-0/hour/2026-11-05T09:00:00Z",
                r#"{"from":"2026-11-05T09:00:00Z","to":"2026-11-05T10:00:00Z"}"#,
                "2026-11-05T09:00:00Z 2026-11-05T10:00:00Z",
                "1 items",
                None,
            ),
            (
                "refund/initial",
                r#"{"of":"contract/u/initial","leftAt":"2026-11-05T09:59:59Z"}"#,
                "2026-11-05T09:59:59Z 2026-11-05T10:00:00Z",
                "1 items",
                None,
            ),
            ("what/nobody/knows", "[]", "2026-11-05T00:00:00Z 2026-11-06T00:00:00Z", "1 items", None),
        ] {
            let item = read(&format!("contract/u/{id}"), at, Some("contract/u"), detail);
            assert_eq!(item.purpose, id);
            assert_eq!(format!("{} {}", item.from, item.to), period, "{id}");
            assert_eq!(format!("{} {}", item.quantity, item.unit), quantity, "{id}");
            let found = item.unit_price.map(|it| match &item.price_per {
                Some(per) => format!("{it} per {per}"),
                None => it.to_string(),
            });
            assert_eq!(found.as_deref(), price, "{id}");
        }
    }
}
