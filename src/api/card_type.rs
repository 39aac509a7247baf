//! CardType: what counts as a card of one type, and what of the machine goes with it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;

/// A type of GPU card: the nodes that have it, the extended resource that counts it, and what goes with one card.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "CardType",
    plural = "cardtypes",
    shortname = "ct",
    category = "tenure",
    derive = "PartialEq",
    status = "CardTypeStatus",
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Cards", type_ = "integer", json_path = ".status.cards.total"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.cards.free"),
    printcolumn(name = "Resident", type_ = "integer", json_path = ".status.cards.resident"),
    printcolumn(name = "Dedicated", type_ = "integer", json_path = ".status.cards.dedicated"),
    printcolumn(name = "Spot", type_ = "integer", json_path = ".status.cards.spot"),
    printcolumn(name = "Held", type_ = "integer", json_path = ".status.cards.held"),
    printcolumn(name = "Faulty", type_ = "integer", json_path = ".status.cards.faulty"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name must have at most 63 characters: nodes carry it as a label")
)]
#[serde(rename_all = "camelCase")]
pub struct CardTypeSpec {
    /// Name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub display_name: String,
    /// The extended resource that counts these cards on a node, e.g. nvidia.com/gpu. Fixed.
    #[schemars(length(max = 120))]
    #[x_kube(
        validation = rules::fixed("resourceName can't be changed: make another CardType"),
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')").message("must be an extended resource with a domain, such as nvidia.com/gpu"),
        validation = Rule::new("!self.matches('(^|[.])(tenure[.]dev|kubernetes[.]io)/') && !self.startsWith('requests.')").message("must be the device plugin's resource, such as nvidia.com/gpu; names under tenure.dev, kubernetes.io and requests. are not cards")
    )]
    pub resource_name: String,
    /// Labels of the nodes that have these cards. A node must match one CardType only.
    #[schemars(extend("maxProperties" = 16, "minProperties" = 1, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(
        validation = Rule::new("self.all(k, !k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/'))").message("must name labels that say which cards a node has, such as nvidia.com/gpu.product; those of tenure.dev are set by the operator"),
        validation = Rule::new("self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$') && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))").message("must be labels as nodes can have them, such as nvidia.com/gpu.product: NVIDIA-L20")
    )]
    pub node_selector: BTreeMap<String, String>,
    /// What goes with one card, at most.
    pub per_card: PerCard,
}

/// The part of a machine that goes with one card.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PerCard {
    /// CPU.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("\"8\""))]
    pub cpu: Quantity,
    /// Memory.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("64Gi"))]
    pub memory: Quantity,
    /// Memory of the card itself.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("48Gi"))]
    pub gpu_memory: Quantity,
    /// Local disk.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = rules::positive_quantity("60Gi"))]
    pub disk: Quantity,
}

/// What there is of the type.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CardTypeStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Managed nodes of the type.
    #[serde(default)]
    pub nodes: i32,
    /// Cards, each in exactly one of these (`free` is a part of `shared`).
    #[serde(default)]
    pub cards: CardCounts,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Cards by what they are used for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CardCounts {
    /// Physical cards.
    pub total: i32,
    /// Locked for pools.
    pub resident: i32,
    /// Of machines given to groups.
    pub dedicated: i32,
    /// Of spot servers.
    pub spot: i32,
    /// For serverless workers.
    pub shared: i32,
    /// On their way, quarantined, or without CPU, memory or disk to go with them.
    pub held: i32,
    /// Not healthy.
    pub faulty: i32,
    /// Shared cards that no pod uses.
    pub free: i32,
}
