//! SpotServer: bid for what is left over.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// A server on cards that nobody else has bought. It runs while its bid is at least the price and cards exist; the first
/// hour is protected.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "SpotServer",
    plural = "spotservers",
    namespaced,
    shortname = "spot",
    category = "tenure",
    derive = "PartialEq",
    status = "SpotServerStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Machine", type_ = "string", json_path = ".spec.machineType"),
    printcolumn(name = "Bid", type_ = "string", json_path = ".spec.bid"),
    printcolumn(name = "Price", type_ = "string", json_path = ".status.price"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?$')").message("the name must be a DNS label of at most 52 characters: its pod and disk are named after it")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::fixed_text("region", "region can't be changed: make another server"))]
#[x_kube(validation = Rule::new("self.template.spec.containers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, m.mountPath != '/data' && m.mountPath != '/data/'))").message("leave /data free in volumeMounts: the server's own disk is mounted there"))]
pub struct SpotServerSpec {
    /// Region, for tariff and market; absent: the default tariff. Fixed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub region: String,
    /// Machine type, from the tariff's spot.machineTypes. Fixed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::fixed("machineType can't be changed: make another server"))]
    pub machine_type: String,
    /// Most to pay, per card-hour. Fixed.
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::positive_amount(), validation = rules::fixed("bid can't be changed: make another server"))]
    pub bid: String,
    /// Its disk, mounted at /data. Fixed.
    #[x_kube(validation = rules::fixed("disk can't be changed: make another server"))]
    pub disk: SpotDisk,
    /// Does it get a public address? Fixed.
    #[serde(default)]
    #[x_kube(validation = rules::fixed("publicAddress can't be changed: make another server"))]
    pub public_address: bool,
    /// Its pod; the disk is mounted at /data.
    #[schemars(schema_with = "super::template::schema")]
    pub template: PodTemplateSpec,
}

/// The disk of a spot server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SpotDisk {
    /// Size, GB.
    #[serde(rename = "sizeGB")]
    #[schemars(range(min = 1, max = 32_768))]
    pub size_gb: i32,
    /// Is a snapshot taken before it is reclaimed?
    #[serde(default)]
    pub snapshots: bool,
    /// Storage class; absent = the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub storage_class_name: Option<String>,
    /// The snapshot to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rules::object_name())]
    pub restore_from: Option<String>,
}

/// How the server is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SpotServerStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the server is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<SpotPhase>,
    /// The node with its cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The list price per card-hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<String>,
    /// When its pod was first ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Until when neither price nor shortage touches it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected_until: Option<Time>,
    /// Its last notice, until it runs anew or the notice is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<Reclaim>,
    /// Ready, Placed, Paid, ReclaimNotice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A notice that a server is reclaimed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Reclaim {
    /// Why.
    pub reason: ReclaimReason,
    /// When its owner was told.
    pub noticed_at: Time,
    /// Until when it runs.
    pub reclaim_at: Time,
}

/// Why a server is reclaimed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReclaimReason {
    /// The price is above its bid.
    PriceAboveBid,
    /// A purchase needs its cards.
    Shortage,
    /// Its account is in arrears.
    Arrears,
}

/// Where a server is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpotPhase {
    /// Waits for cards or for a lower price.
    Pending,
    /// In its first hour.
    Protected,
    /// Runs.
    Running,
    /// Has its notice, or is being shut down.
    Reclaiming,
    /// Its cards went back. It starts anew when its bid, its account and the free cards allow it.
    Reclaimed,
    /// Can't run as it is.
    Failed,
}
