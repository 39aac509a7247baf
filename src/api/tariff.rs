//! Tariff: the prices of one region in one currency.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use super::term::Refund;

/// Prices of one region in one currency. A change touches new orders only.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "Tariff",
    plural = "tariffs",
    shortname = "tf",
    category = "tenure",
    derive = "PartialEq",
    status = "TariffStatus",
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Currency", type_ = "string", json_path = ".spec.currency"),
    printcolumn(name = "Default", type_ = "boolean", json_path = ".spec.default"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TariffSpec {
    /// The region. Fixed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::place(), validation = rules::fixed("region can't be changed: make another Tariff"))]
    pub region: String,
    /// Used where a contract names no region.
    #[serde(default)]
    pub default: bool,
    /// ISO 4217 code. Fixed.
    #[schemars(length(max = 3))]
    #[x_kube(validation = rules::currency(), validation = rules::fixed("currency can't be changed: make another Tariff"))]
    pub currency: String,
    /// Prices of resident pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident: Option<ResidentTariff>,
    /// Prices of dedicated groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedicated: Option<DedicatedTariff>,
    /// Prices of serverless workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serverless: Option<ServerlessTariff>,
    /// Terms of spot servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot: Option<SpotTariff>,
}

/// Prices of resident pools.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ResidentTariff {
    /// A GB of disk for a month.
    #[serde(rename = "diskPerGBMonth")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub disk_per_gb_month: String,
    /// A card for a month, by type.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cardType".into()]))]
    pub cards: Vec<CardMonthPrice>,
    /// What leaving early returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// What happens to the cards of an expired pool.
    #[serde(default)]
    pub expired: ExpiredCards,
    /// Days in which an expired pool can be renewed.
    #[serde(default = "ninety")]
    #[schemars(range(min = 0, max = 3650))]
    pub retention_days: i32,
}

fn ninety() -> i32 {
    90
}

/// What happens to the cards of an expired pool.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiredCards {
    /// They are lent to spot and serverless.
    #[default]
    Lend,
    /// They are kept.
    Hold,
}

/// A card's price for a month.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CardMonthPrice {
    /// The card type.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// Its price.
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub per_month: String,
}

/// Prices of dedicated groups.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DedicatedTariff {
    /// A GB of system disk beyond the included ones, for a month.
    #[serde(rename = "diskPerGBMonth")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub disk_per_gb_month: String,
    /// System disk that costs nothing, GB.
    #[serde(default = "two_hundred", rename = "includedDiskGB")]
    #[schemars(range(min = 0, max = 2000))]
    pub included_disk_gb: i32,
    /// Machine types.
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub machine_types: Vec<DedicatedMachineType>,
    /// Terms of which fewer months are charged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["usage".into(), "months".into()]))]
    pub long_terms: Vec<LongTerm>,
    /// May a prepaid machine be given back before its term ends?
    #[serde(default)]
    pub early_release: EarlyRelease,
    /// What leaving early returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund>,
    /// Days in which an expired machine can be renewed.
    #[serde(default = "seven")]
    #[schemars(range(min = 0, max = 3650))]
    pub retention_days: i32,
}

fn two_hundred() -> i32 {
    200
}

fn seven() -> i32 {
    7
}

/// May a prepaid machine be given back early?
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EarlyRelease {
    /// Not before its term ends.
    #[default]
    Refuse,
    /// Yes, with a refund.
    Refund,
}

/// A whole machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.perMonth) || has(self.perHour)").message("give perMonth (prepaid), perHour (postpaid) or both: without a price nobody can buy the machine"))]
pub struct DedicatedMachineType {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The type of its cards.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// How many cards it has.
    #[schemars(range(min = 1, max = 1024))]
    pub cards: i32,
    /// Its price for a month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub per_month: Option<String>,
    /// Its price for an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub per_hour: Option<String>,
}

/// A long term of which fewer months are charged.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.chargedMonths <= self.months").message("chargedMonths can't be more than months: a long term costs less"))]
#[x_kube(validation = Rule::new("self.usage == 'Inference' ? self.months <= 11 : self.months in [1, 2, 3, 6, 12]").message("nobody can buy this term: use 1, 2, 3, 6 or 12 months for DevTraining, 1 to 11 for Inference"))]
pub struct LongTerm {
    /// For groups of this usage.
    pub usage: super::group::Usage,
    /// The term, months.
    #[schemars(range(min = 1, max = 12))]
    pub months: i32,
    /// What it costs, months.
    #[schemars(range(min = 1, max = 12))]
    pub charged_months: i32,
}

/// Prices of serverless workers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerlessTariff {
    /// A card for a second, by type.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cardType".into()]))]
    pub cards: Vec<CardSecondPrice>,
}

/// A card's price for a second.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CardSecondPrice {
    /// The card type.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// Its price.
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub per_second: String,
}

/// Terms of spot servers; the price itself is the SpotMarket's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpotTariff {
    /// Minutes after creation in which neither price nor shortage touches a server.
    #[serde(default = "sixty")]
    #[schemars(range(min = 0, max = 10_080))]
    pub protection_minutes: i32,
    /// Minutes between the notice and the reclaim.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 10_080))]
    pub notice_minutes: i32,
    /// Minutes on the recovery list in arrears.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 10_080))]
    pub arrears_grace_minutes: i32,
    /// Machine types.
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub machine_types: Vec<SpotMachineType>,
    /// A GB of disk for a month.
    #[serde(default = "zero", rename = "diskPerGBMonth")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub disk_per_gb_month: String,
    /// A public address for an hour.
    #[serde(default = "zero")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub public_address_per_hour: String,
}

fn sixty() -> i32 {
    60
}

fn thirty() -> i32 {
    30
}

fn five() -> i32 {
    5
}

fn zero() -> String {
    "0".to_owned()
}

/// A spot machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpotMachineType {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The type of its cards.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// How many cards it has.
    #[schemars(range(min = 1, max = 1024))]
    pub cards: i32,
    /// Its CPU.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("\"8\""))]
    pub cpu: Quantity,
    /// Its memory.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("32Gi"))]
    pub memory: Quantity,
}

/// How the tariff stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TariffStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
