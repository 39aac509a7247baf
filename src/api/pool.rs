//! ResidentPool: cards locked by the month.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use super::term::{AutoRenew, OrderKind, Paid, Renewal, Term};

/// Cards of one type, locked for this namespace's endpoints and prepaid by the month. Expand only: cards and disk can
/// grow beyond what is bought, never shrink below it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "ResidentPool",
    plural = "residentpools",
    namespaced,
    shortname = "rp",
    category = "tenure",
    derive = "PartialEq",
    status = "ResidentPoolStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.cardType"),
    printcolumn(name = "Cards", type_ = "integer", json_path = ".spec.cards"),
    printcolumn(name = "Locked", type_ = "integer", json_path = ".status.cards.locked"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.cards.free"),
    printcolumn(name = "Disk Free", type_ = "integer", json_path = ".status.diskGB.free"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expiresAt"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.bought) || self.spec.cards == oldSelf.spec.cards || self.spec.cards >= oldSelf.status.bought.cards").message("spec.cards can't go below what is bought (status.bought.cards): a pool only grows; to leave, delete it"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.bought) || self.spec.diskPerCardGB == oldSelf.spec.diskPerCardGB || self.spec.diskPerCardGB >= oldSelf.status.bought.diskPerCardGB").message("spec.diskPerCardGB can't go below what is bought (status.bought.diskPerCardGB): a pool only grows"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.renewalsBought) || oldSelf.status.renewalsBought == 0 || !has(oldSelf.spec.renewals) || size(oldSelf.spec.renewals) < oldSelf.status.renewalsBought || (has(self.spec.renewals) && size(self.spec.renewals) >= oldSelf.status.renewalsBought && self.spec.renewals.slice(0, oldSelf.status.renewalsBought) == oldSelf.spec.renewals.slice(0, oldSelf.status.renewalsBought))").message("spec.renewals only grows: the first status.renewalsBought entries are ordered and can't be changed or removed; append a new one"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.bought) || self.spec.term == oldSelf.spec.term").message("spec.term is that of the first order, which is bought: to stay longer append to spec.renewals, such as {months: 1}"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase != 'Expired' || (self.spec.cards <= oldSelf.spec.cards && self.spec.diskPerCardGB <= oldSelf.spec.diskPerCardGB) || (has(self.spec.renewals) && size(self.spec.renewals) > (has(oldSelf.status.renewalsBought) ? oldSelf.status.renewalsBought : 0))").message("an expired pool must be renewed before it can be expanded: append to spec.renewals, such as {months: 1}"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || oldSelf.status.phase != 'Released' || self.spec == oldSelf.spec").message("this pool is released for good and can't be changed: delete it and make another one"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name must have at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::fixed_text("region", "region can't be changed: make another pool"))]
pub struct ResidentPoolSpec {
    /// Region, for the tariff; absent: the default tariff. Fixed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub region: String,
    /// Card type. Fixed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name(), validation = rules::fixed("cardType can't be changed: make another pool"))]
    pub card_type: String,
    /// Whole cards. Never below what is bought; a larger number that is not bought yet can be taken back.
    #[schemars(range(min = 1, max = 100_000))]
    pub cards: i32,
    /// Disk that goes with each card, GB: 10 to 60 in steps of 10. Never below what is bought.
    #[serde(rename = "diskPerCardGB")]
    #[x_kube(validation = Rule::new("self >= 10 && self <= 60 && self % 10 == 0").message("must be 10, 20, 30, 40, 50 or 60 (GB per card, in steps of 10)"))]
    pub disk_per_card_gb: i32,
    /// How long it is bought for.
    pub term: Term,
    /// Renewal without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_renew: Option<AutoRenew>,
    /// Renewals bought by hand, each once. The list only grows; entries not ordered yet can be taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 120))]
    pub renewals: Vec<Renewal>,
    /// What happens to a purchase that does not fit.
    #[serde(default)]
    pub on_shortage: OnShortage,
}

/// What happens to a purchase that does not fit.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnShortage {
    /// It is refused, and refunded.
    #[default]
    Fail,
    /// It waits, unpaid.
    Wait,
}

/// What the pool has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResidentPoolStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the pool is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PoolPhase>,
    /// What is bought and paid: from the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bought: Option<Bought>,
    /// Its cards.
    #[serde(default)]
    pub cards: PoolCards,
    /// Its disk.
    #[serde(default, rename = "diskGB")]
    pub disk_gb: PoolDisk,
    /// The endpoints bound to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<PoolEndpoint>,
    /// Where its cards are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeCards>,
    /// When it was bought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    /// When it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    /// When it is released for good, unless it is renewed before; only of an expired one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases_at: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    /// Its orders, the latest last: the last 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub orders: Vec<PoolOrder>,
    /// What all its orders cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid: Option<Paid>,
    /// How many entries of `spec.renewals` are ordered.
    #[serde(default)]
    pub renewals_bought: i32,
    /// Ready, CardsLocked, Paid, ExpiringSoon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a pool is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolPhase {
    /// Waits for cards.
    Pending,
    /// Its cards are locked.
    Active,
    /// Its term has ended; it can be renewed.
    Expired,
    /// Gone for good.
    Released,
    /// Its purchase was refused.
    Failed,
}

/// An order.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolOrder {
    /// What it was for.
    pub order: OrderKind,
    /// When what it pays for begins.
    pub from: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
    /// And ends.
    pub to: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
    /// Its price.
    pub price: String,
}

/// What is bought.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Bought {
    /// Cards.
    pub cards: i32,
    /// Disk per card, GB.
    #[serde(rename = "diskPerCardGB")]
    pub disk_per_card_gb: i32,
}

/// Cards of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolCards {
    /// Locked on nodes.
    pub locked: i32,
    /// Promised to instances of bound endpoints.
    pub bound: i32,
    /// Left for more.
    pub free: i32,
}

/// Disk of a pool, GB.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolDisk {
    /// Of all its cards.
    pub total: i32,
    /// Promised to instances of bound endpoints.
    pub bound: i32,
    /// Left for more.
    pub free: i32,
}

/// A bound endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolEndpoint {
    /// Its name.
    pub name: String,
    /// Instances that the pool has room for.
    pub instances: i32,
    /// Their cards.
    pub cards: i32,
    /// Their disk, GB.
    #[serde(rename = "diskGB")]
    pub disk_gb: i32,
}

/// Cards on a node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeCards {
    /// The node.
    pub name: String,
    /// Cards there.
    pub cards: i32,
}
