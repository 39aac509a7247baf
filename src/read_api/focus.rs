//! FOCUS: the columns of its datasets, and how rows look. Cost and Usage has the names of version 1.2, the newest one that the public
//! validator brings rules for; Contract Commitment those that 1.3 and 1.4 have.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;

use super::item::Item;
use crate::domain::money::calendar::calendar_month;
use crate::domain::money::commitment::{Portion, Spent};
use crate::domain::money::{Currency, Money, Period};

/// What a column holds.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) enum Holds {
    Text,
    Decimal,
    Time,
}

macro_rules! dataset {
    ($(#[$doc:meta])* $name:ident { $($column:ident: $holds:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(non_camel_case_types, reason = "columns of ours begin with x_")]
        #[allow(clippy::enum_variant_names, reason = "FOCUS calls them so")]
        #[allow(dead_code, reason = "a column for which we have no value must be there all the same")]
        pub(super) enum $name { $($column,)* }

        impl $name {
            /// Name and content of each column.
            pub(super) const COLUMNS: &[(&str, Holds)] = &[$((stringify!($column), Holds::$holds),)*];
        }

        impl Column for $name {
            const COUNT: usize = $name::COLUMNS.len();
            fn place(self) -> usize { self as usize }
        }
    };
}

dataset! {
    /// Cost and Usage.
    CostAndUsage {
        BilledCost: Decimal,
        BillingAccountId: Text,
        BillingAccountName: Text,
        BillingCurrency: Text,
        BillingPeriodEnd: Time,
        BillingPeriodStart: Time,
        ChargeCategory: Text,
        ChargeClass: Text,
        ChargeDescription: Text,
        ChargeFrequency: Text,
        ChargePeriodEnd: Time,
        ChargePeriodStart: Time,
        CommitmentDiscountCategory: Text,
        CommitmentDiscountId: Text,
        CommitmentDiscountName: Text,
        CommitmentDiscountQuantity: Decimal,
        CommitmentDiscountStatus: Text,
        CommitmentDiscountType: Text,
        CommitmentDiscountUnit: Text,
        ConsumedQuantity: Decimal,
        ConsumedUnit: Text,
        ContractedCost: Decimal,
        ContractedUnitPrice: Decimal,
        EffectiveCost: Decimal,
        InvoiceId: Text,
        InvoiceIssuerName: Text,
        ListCost: Decimal,
        ListUnitPrice: Decimal,
        PricingCategory: Text,
        PricingCurrency: Text,
        PricingCurrencyContractedUnitPrice: Decimal,
        PricingCurrencyEffectiveCost: Decimal,
        PricingCurrencyListUnitPrice: Decimal,
        PricingQuantity: Decimal,
        PricingUnit: Text,
        ProviderName: Text,
        PublisherName: Text,
        RegionId: Text,
        RegionName: Text,
        ResourceId: Text,
        ResourceName: Text,
        ResourceType: Text,
        ServiceCategory: Text,
        ServiceName: Text,
        ServiceSubcategory: Text,
        SkuId: Text,
        SkuMeter: Text,
        SkuPriceDetails: Text,
        SkuPriceId: Text,
        SubAccountId: Text,
        SubAccountName: Text,
        Tags: Text,
        x_CashCost: Decimal,
        x_VoucherCost: Decimal,
        x_LedgerId: Text,
    }
}

dataset! {
    /// Contract Commitment.
    ContractCommitment {
        BillingCurrency: Text,
        ContractCommitmentCategory: Text,
        ContractCommitmentCost: Decimal,
        ContractCommitmentCreated: Time,
        ContractCommitmentDescription: Text,
        ContractCommitmentId: Text,
        ContractCommitmentLastUpdated: Time,
        ContractCommitmentLifecycleStatus: Text,
        ContractCommitmentPaymentInterval: Text,
        ContractCommitmentPaymentModel: Text,
        ContractCommitmentPaymentUpfrontPercentage: Decimal,
        ContractCommitmentPeriodEnd: Time,
        ContractCommitmentPeriodStart: Time,
        ContractCommitmentQuantity: Decimal,
        ContractCommitmentType: Text,
        ContractCommitmentUnit: Text,
        ContractId: Text,
        ContractPeriodEnd: Time,
        ContractPeriodStart: Time,
        x_BillingAccountId: Text,
    }
}

/// A column of a dataset.
pub(super) trait Column: Copy {
    const COUNT: usize;
    fn place(self) -> usize;
}

/// A row: a value or nothing for each column.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(transparent, bound = "")]
pub(super) struct Row<C: Column> {
    values: Vec<Option<String>>,
    #[serde(skip)]
    of: std::marker::PhantomData<C>,
}

impl<C: Column> Row<C> {
    pub(super) fn new() -> Row<C> {
        Row { values: vec![None; C::COUNT], of: std::marker::PhantomData }
    }

    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "numbers and times are told as they are")]
    pub(super) fn set(mut self, column: C, value: impl ToString) -> Row<C> {
        self.values[column.place()] = Some(value.to_string());
        self
    }

    #[must_use]
    pub(super) fn maybe(self, column: C, value: Option<impl ToString>) -> Row<C> {
        match value {
            Some(value) => self.set(column, value),
            None => self,
        }
    }

    #[cfg(test)]
    pub(super) fn get(&self, column: C) -> Option<&str> {
        self.values[column.place()].as_deref()
    }
}

/// What somebody pays for: of whom, and in which currency.
#[derive(Debug, Clone)]
pub(super) struct Of<'a> {
    pub(super) account: &'a str,
    pub(super) currency: &'a Currency,
    pub(super) contract: &'a str,
    /// `ResidentPool/team-a/chat`.
    pub(super) object: &'a str,
}

impl<'a> Of<'a> {
    fn parts(&self) -> (&'a str, &'a str, &'a str) {
        let (kind, rest) = self.object.split_once('/').unwrap_or((self.object, ""));
        let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
        (kind, namespace, name)
    }

    /// The kind in words: `Resident Pool`.
    pub(super) fn service(&self) -> String {
        let mut words = String::new();
        for letter in self.parts().0.chars() {
            if letter.is_uppercase() && !words.is_empty() {
                words.push(' ');
            }
            words.push(letter);
        }
        if words.is_empty() { "Tenure".to_owned() } else { words }
    }
}

/// What is paid: in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paid {
    pub(super) at: Timestamp,
    pub(super) cash: i64,
    pub(super) voucher: i64,
}

/// Who sells.
const PROVIDER: &str = "Tenure";

type Usage = Row<CostAndUsage>;

/// What all rows of a contract have.
fn base(of: &Of<'_>, billing: Timestamp, charge: Period) -> Usage {
    use CostAndUsage as C;
    let (kind, namespace, _) = of.parts();
    let subcategory = match kind {
        "ServerlessEndpoint" => "Serverless Compute",
        "SpotServer" => "Virtual Machines",
        _ => "Other (Compute)",
    };
    let month = calendar_month(billing);
    let bill = format!("{}/{}/{}", of.account, of.currency.code(), &month.start.to_string()[..7]);
    Row::new()
        .set(C::InvoiceId, bill)
        .set(C::PricingCurrency, of.currency.code())
        .set(C::BillingAccountId, of.account)
        .set(C::BillingAccountName, of.account)
        .set(C::BillingCurrency, of.currency.code())
        .set(C::BillingPeriodStart, month.start)
        .set(C::BillingPeriodEnd, month.end)
        .set(C::ChargePeriodStart, charge.start)
        .set(C::ChargePeriodEnd, charge.end)
        .set(C::InvoiceIssuerName, PROVIDER)
        .set(C::ProviderName, PROVIDER)
        .set(C::PublisherName, PROVIDER)
        .set(C::ServiceCategory, "Compute")
        .set(C::ServiceName, of.service())
        .set(C::ServiceSubcategory, subcategory)
        .maybe(C::SubAccountId, (!namespace.is_empty()).then_some(namespace))
        .maybe(C::SubAccountName, (!namespace.is_empty()).then_some(namespace))
}

/// What a row is priced by. A row without such a price is one item of its amount.
fn priced(row: Usage, quantity: Decimal, unit: &str, price: Decimal) -> Usage {
    use CostAndUsage as C;
    // Exact; what is billed of it is rounded.
    let cost = quantity.checked_mul(price).map_or_else(|| price.to_string(), |it| it.normalize().to_string());
    row.set(C::PricingQuantity, quantity)
        .set(C::PricingUnit, unit)
        .set(C::ListUnitPrice, price)
        .set(C::ContractedUnitPrice, price)
        .set(C::PricingCurrencyListUnitPrice, price)
        .set(C::PricingCurrencyContractedUnitPrice, price)
        .set(C::ListCost, &cost)
        .set(C::ContractedCost, cost)
}

/// An amount as a price: it is never negative, so what is negative is minus one of it.
fn as_items(row: Usage, amount: i64, unit: &str, currency: &Currency) -> Usage {
    let one = if amount < 0 { -Decimal::ONE } else { Decimal::ONE };
    priced(row, one, unit, decimal(amount.saturating_abs(), currency))
}

fn decimal(amount: i64, currency: &Currency) -> Decimal {
    Decimal::new(amount, currency.minor_digits())
}

fn sku(row: Usage, of: &Of<'_>, item: &Item, meter: &str) -> Usage {
    use CostAndUsage as C;
    let what = item.card_type.as_deref().unwrap_or("any");
    let place = item.region.as_deref().unwrap_or("any");
    let (kind, _, _) = of.parts();
    let id = format!("{kind}/{what}/{meter}");
    row.set(C::SkuPriceId, format!("{place}/{id}"))
        .set(C::SkuId, id)
        .set(C::SkuMeter, meter)
        .maybe(C::RegionId, item.region.as_deref())
        .maybe(C::RegionName, item.region.as_deref())
}

fn resource(row: Usage, of: &Of<'_>) -> Usage {
    use CostAndUsage as C;
    let (_, namespace, name) = of.parts();
    row.set(C::ResourceId, of.object)
        .set(C::ResourceName, format!("{namespace}/{name}"))
        .set(C::ResourceType, of.service())
}

/// The commitment itself as the resource: of what is bought, and of what is not used.
fn as_commitment(row: Usage, of: &Of<'_>) -> Usage {
    use CostAndUsage as C;
    row.set(C::ResourceId, of.contract)
        .set(C::ResourceName, of.object)
        .set(C::ResourceType, format!("{} Commitment", of.service()))
}

fn committed(row: Usage, of: &Of<'_>, quantity: Decimal, unit: &str) -> Usage {
    use CostAndUsage as C;
    row.set(C::CommitmentDiscountCategory, "Usage")
        .set(C::CommitmentDiscountId, of.contract)
        .set(C::CommitmentDiscountName, of.object)
        .set(C::CommitmentDiscountType, of.service())
        .set(C::CommitmentDiscountQuantity, quantity)
        .set(C::CommitmentDiscountUnit, unit)
}

fn costs(row: Usage, billed: i64, effective: i64, paid: Option<Paid>, currency: &Currency) -> Usage {
    use CostAndUsage as C;
    let text = |it: i64| Money(it).text(currency);
    row.set(C::BilledCost, text(billed))
        .set(C::EffectiveCost, text(effective))
        .set(C::PricingCurrencyEffectiveCost, text(effective))
        .set(C::x_CashCost, text(paid.map_or(0, |it| it.cash)))
        .set(C::x_VoucherCost, text(paid.map_or(0, |it| it.voucher)))
}

/// What was paid by use: a line of the bill.
pub(super) fn usage(of: &Of<'_>, id: &str, item: &Item, paid: Paid) -> Usage {
    use CostAndUsage as C;
    let amount = paid.cash.saturating_add(paid.voucher);
    let row = base(of, paid.at, Period { start: item.from, end: item.to });
    let unit = in_capitals(&item.unit);
    let row = match (item.unit_price, &item.price_per) {
        (Some(price), None) => priced(row, item.quantity, &unit, price),
        (Some(_) | None, _) => as_items(row, amount, "Items", of.currency),
    };
    let (kind, _, _) = of.parts();
    let category = if kind == "SpotServer" { "Dynamic" } else { "Standard" };
    let row = resource(sku(row, of, item, "use"), of)
        .set(C::ChargeCategory, "Usage")
        .set(C::ChargeFrequency, "Usage-Based")
        .set(C::ChargeDescription, format!("{}: {}", of.object, item.purpose))
        .set(C::PricingCategory, category)
        .set(C::ConsumedQuantity, item.quantity)
        .set(C::ConsumedUnit, unit)
        .set(C::x_LedgerId, id);
    costs(row, amount, amount, Some(paid), of.currency)
}

/// What was paid in advance. What it costs is told again by the days that it is for.
pub(super) fn purchase(of: &Of<'_>, id: &str, item: &Item, paid: Paid, units: u64, unit: &str) -> Usage {
    use CostAndUsage as C;
    let amount = paid.cash.saturating_add(paid.voucher);
    let charge = not_empty(Period { start: item.from, end: item.to });
    let row = as_items(base(of, paid.at, charge), amount, "Orders", of.currency);
    let quantity = hours(charge.seconds().saturating_mul(units));
    let row = committed(as_commitment(sku(row, of, item, "term"), of), of, quantity, unit)
        .set(C::ChargeCategory, "Purchase")
        .set(C::ChargeFrequency, "One-Time")
        .set(C::ChargeDescription, format!("{}: {}", of.object, item.purpose))
        .set(C::PricingCategory, "Standard")
        .set(C::x_LedgerId, id);
    costs(row, amount, 0, Some(paid), of.currency)
}

/// What came back of an order: the order's own category, less. It corrects an earlier month if the order was billed in one.
pub(super) fn refund(
    of: &Of<'_>,
    id: &str,
    order: &Item,
    ordered_at: Timestamp,
    paid: Paid,
    unit: &str,
) -> Usage {
    use CostAndUsage as C;
    let amount = paid.cash.saturating_add(paid.voucher);
    let is_later = calendar_month(ordered_at) != calendar_month(paid.at);
    let charge = not_empty(Period { start: order.from, end: order.to });
    let row = as_items(base(of, paid.at, charge), amount, "Orders", of.currency);
    let row = committed(as_commitment(sku(row, of, order, "term"), of), of, Decimal::ZERO, unit)
        .set(C::ChargeCategory, "Purchase")
        .maybe(C::ChargeClass, is_later.then_some("Correction"))
        .set(C::ChargeFrequency, "One-Time")
        .set(C::ChargeDescription, format!("{}: refund of {}", of.object, order.purpose))
        .set(C::PricingCategory, "Standard")
        .set(C::x_LedgerId, id);
    costs(row, amount, 0, Some(paid), of.currency)
}

/// What a day bears of what was paid in advance.
pub(super) fn portion(of: &Of<'_>, item: &Item, portion: &Portion, unit: &str) -> Usage {
    use CostAndUsage as C;
    let row = base(of, portion.period.start, portion.period);
    let row = sku(as_items(row, portion.amount.0, "Days", of.currency), of, item, "term");
    let quantity = hours(portion.unit_seconds);
    let row = committed(row, of, quantity, unit)
        .set(C::ChargeCategory, "Usage")
        .set(C::ChargeFrequency, "Usage-Based")
        .set(C::PricingCategory, "Committed");
    let row = match portion.spent {
        Spent::Used => resource(row, of)
            .set(C::CommitmentDiscountStatus, "Used")
            .set(C::ChargeDescription, format!("{}: used", of.object))
            .set(C::ConsumedQuantity, quantity)
            .set(C::ConsumedUnit, unit),
        Spent::Unused => as_commitment(row, of)
            .set(C::CommitmentDiscountStatus, "Unused")
            .set(C::ChargeDescription, format!("{}: paid for and not used", of.object)),
    };
    costs(row, 0, portion.amount.0, None, of.currency)
}

/// An order that is paid in advance, as a contract commitment.
pub(super) struct Term<'a> {
    pub(super) id: &'a str,
    pub(super) item: &'a Item,
    pub(super) price: i64,
    pub(super) units: u64,
    pub(super) unit: &'a str,
    pub(super) ordered_at: Timestamp,
    pub(super) left_at: Option<Timestamp>,
    /// From its contract's first order to its last one's end.
    pub(super) whole: Period,
}

/// An order that is paid in advance.
pub(super) fn commitment(of: &Of<'_>, term: &Term<'_>, now: Timestamp) -> Row<ContractCommitment> {
    use ContractCommitment as C;
    let period = not_empty(Period { start: term.item.from, end: term.item.to });
    let status = match term.left_at {
        Some(_) => "Canceled",
        None if now < period.start => "Pending",
        None if now < period.end => "Active",
        None => "Expired",
    };
    let updated = term.left_at.unwrap_or(term.ordered_at);
    Row::new()
        .set(C::BillingCurrency, of.currency.code())
        .set(C::ContractCommitmentCategory, "Usage")
        .set(C::ContractCommitmentCost, Money(term.price).text(of.currency))
        .set(C::ContractCommitmentCreated, whole(term.ordered_at))
        .set(C::ContractCommitmentDescription, format!("{}: {}", of.object, term.item.purpose))
        .set(C::ContractCommitmentId, term.id)
        .set(C::ContractCommitmentLastUpdated, whole(updated))
        .set(C::ContractCommitmentLifecycleStatus, status)
        .set(C::ContractCommitmentPaymentInterval, "One-Time")
        .set(C::ContractCommitmentPaymentModel, "All Upfront")
        .set(C::ContractCommitmentPaymentUpfrontPercentage, "1.0")
        .set(C::ContractCommitmentPeriodStart, period.start)
        .set(C::ContractCommitmentPeriodEnd, period.end)
        .set(C::ContractCommitmentQuantity, hours(period.seconds().saturating_mul(term.units)))
        .set(C::ContractCommitmentType, of.service())
        .set(C::ContractCommitmentUnit, term.unit)
        .set(C::ContractId, of.contract)
        .set(C::ContractPeriodStart, term.whole.start)
        .set(C::ContractPeriodEnd, not_empty(term.whole).end)
        .set(C::x_BillingAccountId, of.account)
}

fn whole(at: Timestamp) -> Timestamp {
    crate::domain::money::calendar::whole_second(at)
}

/// Periods end after they begin.
fn not_empty(period: Period) -> Period {
    let least = crate::domain::money::calendar::after_seconds(period.start, 1);
    Period { end: period.end.max(least), ..period }
}

/// Seconds as hours, to ten digits.
fn hours(seconds: u64) -> Decimal {
    (Decimal::from(seconds) / Decimal::from(3_600)).round_dp(10).normalize()
}

/// `card-seconds` as `Card-Seconds`.
fn in_capitals(unit: &str) -> String {
    let word = |it: &str| {
        let mut letters = it.chars();
        letters
            .next()
            .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
    };
    unit.split('-').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_api::item;
    use CostAndUsage as C;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn of(currency: &Currency) -> Of<'_> {
        Of { account: "acme", currency, contract: "contract/u", object: "ResidentPool/team-a/chat" }
    }

    /// What a row says of itself, in short.
    fn told(row: &Usage) -> Vec<&str> {
        [
            C::ChargeCategory,
            C::ChargeClass,
            C::ChargeFrequency,
            C::PricingCategory,
            C::CommitmentDiscountStatus,
            C::CommitmentDiscountQuantity,
            C::ConsumedQuantity,
            C::BilledCost,
            C::EffectiveCost,
            C::ListCost,
            C::PricingQuantity,
            C::ResourceId,
            C::BillingPeriodStart,
            C::ChargePeriodStart,
        ]
        .map(|it| row.get(it).unwrap_or("-"))
        .to_vec()
    }

    const INITIAL: &str = r#"{"months":1,"cards":6,"cardType":"ada","region":"cn","from":"2026-11-01T00:00:00Z","to":"2026-12-01T00:00:00Z"}"#;

    #[test]
    fn each_row_says_who_paid_what_and_when_it_counts() {
        let cny = Currency::find("CNY").unwrap();
        let of = of(&cny);
        let id = "contract/u/initial";
        let posted = at("2026-10-31T23:00:00Z");
        let order = item::read(id, posted.as_millisecond(), Some("contract/u"), INITIAL);
        let paid = Paid { at: posted, cash: 4_000_000, voucher: 282_800 };
        let bought = purchase(&of, id, &order, paid, 6, "Card-Hours");
        assert_eq!(
            told(&bought),
            [
                "Purchase",
                "-",
                "One-Time",
                "Standard",
                "-",
                "4320",
                "-",
                "42828.00",
                "0.00",
                "42828",
                "1",
                "contract/u",
                "2026-10-01T00:00:00Z",
                "2026-11-01T00:00:00Z"
            ]
        );
        assert_eq!(
            (bought.get(C::x_CashCost), bought.get(C::x_VoucherCost)),
            (Some("40000.00"), Some("2828.00"))
        );
        assert_eq!(bought.get(C::InvoiceId), Some("acme/CNY/2026-10"));

        // Another month's bill: a correction. In the same month it is none.
        for (back_at, class, month) in [
            ("2026-11-10T00:00:00Z", "Correction", "2026-11-01T00:00:00Z"),
            ("2026-10-31T23:30:00Z", "-", "2026-10-01T00:00:00Z"),
        ] {
            let paid = Paid { at: at(back_at), cash: -2_569_680, voucher: 0 };
            let back = refund(&of, "contract/u/refund/initial", &order, posted, paid, "Card-Hours");
            assert_eq!(
                told(&back),
                [
                    "Purchase",
                    class,
                    "One-Time",
                    "Standard",
                    "-",
                    "0",
                    "-",
                    "-25696.80",
                    "0.00",
                    "-25696.8",
                    "-1",
                    "contract/u",
                    month,
                    "2026-11-01T00:00:00Z"
                ]
            );
            assert_eq!(back.get(C::ListUnitPrice), Some("25696.80"), "a price is never negative");
        }

        let period = Period { start: at("2026-11-02T00:00:00Z"), end: at("2026-11-03T00:00:00Z") };
        let part =
            |spent, amount, unit_seconds| Portion { period, spent, amount: Money(amount), unit_seconds };
        assert_eq!(
            told(&portion(&of, &order, &part(Spent::Used, 95_173, 345_600), "Card-Hours")),
            [
                "Usage",
                "-",
                "Usage-Based",
                "Committed",
                "Used",
                "96",
                "96",
                "0.00",
                "951.73",
                "951.73",
                "1",
                "ResidentPool/team-a/chat",
                "2026-11-01T00:00:00Z",
                "2026-11-02T00:00:00Z"
            ]
        );
        assert_eq!(
            told(&portion(&of, &order, &part(Spent::Unused, 47_587, 172_800), "Card-Hours")),
            [
                "Usage",
                "-",
                "Usage-Based",
                "Committed",
                "Unused",
                "48",
                "-",
                "0.00",
                "475.87",
                "475.87",
                "1",
                "contract/u",
                "2026-11-01T00:00:00Z",
                "2026-11-02T00:00:00Z"
            ]
        );
    }

    #[test]
    fn what_is_used_by_the_second_has_its_price() {
        let cny = Currency::find("CNY").unwrap();
        let of = Of { object: "ServerlessEndpoint/team-a/llm", ..of(&cny) };
        let detail =
            r#"{"day":"2026-11-30","region":"cn","cardType":"ada","cardSeconds":7,"perSecond":"0.0041"}"#;
        let id = "contract/u/usage/2026-11-30/gpu/2026-11-01T00:00:00Z";
        let posted = at("2026-12-01T00:06:00Z");
        let item = item::read(id, posted.as_millisecond(), Some("contract/u"), detail);
        let row = usage(&of, id, &item, Paid { at: posted, cash: 3, voucher: 0 });
        assert_eq!(
            told(&row),
            [
                "Usage",
                "-",
                "Usage-Based",
                "Standard",
                "-",
                "-",
                "7",
                "0.03",
                "0.03",
                "0.0287",
                "7",
                "ServerlessEndpoint/team-a/llm",
                "2026-12-01T00:00:00Z",
                "2026-11-30T00:00:00Z"
            ]
        );
        assert_eq!(row.get(C::PricingUnit), Some("Card-Seconds"));
        assert_eq!(row.get(C::SkuPriceId), Some("cn/ServerlessEndpoint/ada/use"));
        // A line of no price that is known is one of its amount.
        let other = item::read("contract/u/what", 0, Some("contract/u"), "{}");
        let row = usage(&of, "contract/u/what", &other, Paid { at: posted, cash: 3, voucher: 0 });
        assert_eq!((row.get(C::PricingQuantity), row.get(C::ListCost)), (Some("1"), Some("0.03")));
    }

    #[test]
    fn a_commitment_is_pending_active_expired_or_cancelled() {
        let cny = Currency::find("CNY").unwrap();
        let of = of(&cny);
        let item = item::read("contract/u/initial", 0, Some("contract/u"), INITIAL);
        let ordered_at = at("2026-10-31T23:00:00.5Z");
        for (now, left, status) in [
            ("2026-10-31T23:30:00Z", None, "Pending"),
            ("2026-11-01T00:00:00Z", None, "Active"),
            ("2026-12-01T00:00:00Z", None, "Expired"),
            ("2026-12-01T00:00:00Z", Some("2026-11-10T00:00:00Z"), "Canceled"),
        ] {
            let whole = Period { start: item.from, end: item.to };
            let left_at = left.map(at);
            let term = Term {
                id: "i",
                item: &item,
                price: 1,
                units: 6,
                unit: "Card-Hours",
                ordered_at,
                left_at,
                whole,
            };
            let row = commitment(&of, &term, at(now));
            assert_eq!(row.get(ContractCommitment::ContractCommitmentLifecycleStatus), Some(status), "{now}");
            let updated = left.unwrap_or("2026-10-31T23:00:00Z");
            assert_eq!(row.get(ContractCommitment::ContractCommitmentLastUpdated), Some(updated));
            assert_eq!(row.get(ContractCommitment::ContractCommitmentQuantity), Some("4320"));
        }
    }
}
