//! SpotMarket: where the list price of a card type comes from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;

/// Where the list price of a card type comes from.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "SpotMarket",
    plural = "spotmarkets",
    shortname = "sm",
    category = "tenure",
    derive = "PartialEq",
    status = "SpotMarketStatus",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.cardType"),
    printcolumn(name = "Price", type_ = "string", json_path = ".status.price"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.freeCards"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.running"),
    printcolumn(name = "Reclaiming", type_ = "integer", json_path = ".status.reclaiming"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::fixed_text("region", "region can't be changed: make another SpotMarket"))]
pub struct SpotMarketSpec {
    /// The card type. Fixed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name(), validation = rules::fixed("cardType can't be changed: make another SpotMarket"))]
    pub card_type: String,
    /// The region. Fixed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub region: String,
    /// Where the price comes from.
    pub price: Price,
}

/// Exactly one of fixed, inventory and feed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.fixed) ? 1 : 0) + (has(self.inventory) ? 1 : 0) + (has(self.feed) ? 1 : 0) == 1").message("give exactly one of fixed, inventory and feed"))]
pub struct Price {
    /// Always this, per card-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::positive_amount())]
    pub fixed: Option<String>,
    /// Rises as free cards run out: floor + (ceiling - floor) * (1 - free / all cards of the type).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventoryPrice>,
    /// Read from an HTTP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<FeedPrice>,
}

/// A price that rises as free cards run out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!isQuantity(self.floor) || !isQuantity(self.ceiling) || quantity(self.floor).compareTo(quantity(self.ceiling)) <= 0").message("floor can't be above ceiling: the price rises from floor to ceiling as cards run out"))]
pub struct InventoryPrice {
    /// With all cards free, per card-hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::positive_amount())]
    pub floor: String,
    /// With no card free, per card-hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::positive_amount())]
    pub ceiling: String,
    /// How often it is set, seconds.
    #[serde(default = "sixty")]
    #[schemars(range(min = 10, max = 86_400))]
    pub every_seconds: i32,
}

/// A price from an HTTP address.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FeedPrice {
    /// The address. It answers with a number such as 2.10, or with JSON such as {"price": "2.10"}.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ ]+$')").message("must be an http or https URL"))]
    pub url: String,
    /// How often it is read, seconds.
    #[serde(default = "sixty")]
    #[schemars(range(min = 10, max = 86_400))]
    pub every_seconds: i32,
}

fn sixty() -> i32 {
    60
}

/// How the market stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpotMarketStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The list price per card-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// Since when this is the price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Shared cards that no pod uses.
    #[serde(default)]
    pub free_cards: i32,
    /// Servers that have their cards.
    #[serde(default)]
    pub running: i32,
    /// Servers among them that have their notice.
    #[serde(default)]
    pub reclaiming: i32,
    /// Ready; with a feed PriceCurrent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
