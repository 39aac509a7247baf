//! DedicatedGroup: machines of one's own.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;
use super::term::{AutoRenew, Renewal, Term};

/// Whole machines that no other account shares. Pods of this namespace use them by the label tenure.dev/group.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "DedicatedGroup",
    plural = "dedicatedgroups",
    namespaced,
    shortname = "dg",
    category = "tenure",
    derive = "PartialEq",
    status = "DedicatedGroupStatus",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Usage", type_ = "string", json_path = ".spec.usage"),
    printcolumn(name = "Machines", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.spec.usage != 'Inference' || self.metadata.name.matches('^[a-z][-a-z0-9]{2,22}[a-z0-9]$')").message("the name of an Inference group must have 4 to 24 characters: first a lower-case letter, then lower-case letters, digits and `-`, no `-` at the end"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name must have at most 63 characters")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::fixed_text("region", "region can't be changed: make another group"))]
#[x_kube(validation = Rule::new("self.usage != 'Inference' || self.machineSets.all(s, oldSelf.machineSets.all(o, o.name != s.name || o.billing == s.billing))").message("billing of an Inference group can't be changed: add another set"))]
#[x_kube(validation = Rule::new("self.usage != 'DevTraining' || self.machineSets.all(s, !has(s.term) || s.term.months in [1, 2, 3, 6, 12])").message("the term of a DevTraining set must be 1, 2, 3, 6 or 12 months"))]
#[x_kube(validation = Rule::new("self.usage != 'Inference' || self.machineSets.all(s, !has(s.term) || s.term.months <= 11)").message("the term of an Inference set must be 1 to 11 months"))]
pub struct DedicatedGroupSpec {
    /// Name for people: letters, digits, `-` and `_`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[-_A-Za-z0-9]*$')").message("must have letters, digits, `-` and `_` only"))]
    pub display_name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub description: String,
    /// What runs on it. Fixed.
    #[serde(default)]
    #[x_kube(validation = rules::fixed("usage can't be changed: make another group"))]
    pub usage: Usage,
    /// Region, for the tariff; absent: the default tariff. Fixed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub region: String,
    /// Zone of new machines; empty = any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::place())]
    pub zone: String,
    /// Who may reach its pods.
    #[serde(default)]
    pub network: Network,
    /// Sets of machines.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub machine_sets: Vec<MachineSet>,
    /// Machines to empty and keep unschedulable, e.g. [base-0]; remove to restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 80)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = machine_names())]
    pub drain: Vec<String>,
    /// Machines to give back when count goes down, e.g. [burst-1].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 80)))]
    #[x_kube(merge_strategy = ListMerge::Set, validation = machine_names())]
    pub release: Vec<String>,
}

fn machine_names() -> kube::core::Rule {
    kube::core::Rule::new("self.all(m, m.matches('^[a-z]([-a-z0-9]*[a-z0-9])?-(0|[1-9][0-9]*)$'))")
        .message("must name machines, such as base-0: status.machines lists them")
}

/// What runs on a group.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usage {
    /// Notebooks, training, TensorBoard; no endpoints.
    #[default]
    DevTraining,
    /// Endpoints only.
    Inference,
}

/// Who may reach a group's pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Pods of the same namespace (and Tenure's gateway), by a NetworkPolicy.
    #[default]
    Isolated,
    /// Everybody.
    Open,
}

/// How a machine is paid.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// By the term, in advance.
    Prepaid,
    /// By the hour.
    Postpaid,
}

/// Machines of one type.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.billing != 'Prepaid' || has(self.term)").message("a Prepaid set needs a term, such as {months: 1}"))]
#[x_kube(validation = Rule::new("self.billing != 'Postpaid' || !has(self.term)").message("a Postpaid set is paid by the hour: leave term out"))]
#[x_kube(validation = Rule::new("self.billing != 'Postpaid' || !has(self.autoRenew) || !self.autoRenew.enabled").message("a Postpaid set is paid by the hour and has nothing to renew: leave autoRenew out"))]
#[x_kube(validation = Rule::new("self.billing != 'Postpaid' || ((!has(self.renewals) || size(self.renewals) <= size(oldSelf.?renewals.orValue([]))) && (!has(self.machineRenewals) || size(self.machineRenewals) <= size(oldSelf.?machineRenewals.orValue([]))))").message("a Postpaid set is paid by the hour and has nothing to renew: leave renewals and machineRenewals as they are, or out of a new set").optional_old_self(true))]
#[x_kube(validation = Rule::new("self.machineType == oldSelf.machineType").message("machineType can't be changed: add another set"))]
#[x_kube(validation = Rule::new("self.systemDiskGB == oldSelf.systemDiskGB").message("systemDiskGB can't be changed: add another set"))]
#[x_kube(validation = Rule::new("!has(self.machineRenewals) || self.machineRenewals.all(r, r.machine.startsWith(self.name + '-') && r.machine.substring(size(self.name)).matches('^-(0|[1-9][0-9]*)$'))").message("machineRenewals must name machines of this set, such as base-0 in the set base: status.machines lists them"))]
pub struct MachineSet {
    /// Its name; machines are NAME-0, NAME-1, ...; a number is never used twice.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("must be lower-case letters, digits and `-`, first a letter, no `-` at the end"))]
    pub name: String,
    /// Machine type, from the tariff. Fixed.
    #[schemars(length(min = 1, max = 63))]
    pub machine_type: String,
    /// How many machines, 1 to 9999.
    #[schemars(range(min = 1, max = 9999))]
    pub count: i32,
    /// System disk, GB: 200 to 2000. Fixed.
    #[serde(default = "two_hundred", rename = "systemDiskGB")]
    #[schemars(range(min = 200, max = 2000))]
    pub system_disk_gb: i32,
    /// How they are paid. Postpaid → Prepaid converts now, Prepaid → Postpaid at expiry.
    pub billing: Billing,
    /// How long they are bought for (Prepaid).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<Term>,
    /// Renewal without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_renew: Option<AutoRenew>,
    /// Renewals of every machine of the set. The list only grows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 120))]
    pub renewals: Vec<Renewal>,
    /// Renewals of single machines. The list only grows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub machine_renewals: Vec<MachineRenewal>,
}

fn two_hundred() -> i32 {
    200
}

/// A renewal of one machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineRenewal {
    /// The machine, e.g. base-0.
    #[schemars(length(min = 1, max = 80))]
    pub machine: String,
    /// For how many months.
    #[schemars(range(min = 1, max = 12))]
    pub months: i32,
}

/// What the group has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DedicatedGroupStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the group is in its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<GroupPhase>,
    /// Machines that can be used / all machines, e.g. 1/2.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// Its machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<MachineStatus>,
    /// Until when prepaid machines keep the group from being deleted (`earlyRelease: Refuse`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_until: Option<Time>,
    /// Endpoints on an Inference group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<GroupEndpoint>,
    /// Ready, MachinesReady, Paid, ExpiringSoon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where a group is in its life.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPhase {
    /// Waits for its machines.
    Creating,
    /// Can be used.
    Running,
    /// Can't be used for now.
    Unavailable,
    /// Some of its machines can't be used.
    Abnormal,
    /// Its term has ended.
    Expired,
    /// Could not be created.
    Failed,
    /// Is being deleted.
    Deleting,
}

/// A machine.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// The node that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How it is.
    pub phase: MachinePhase,
    /// How it is paid.
    pub billing: Billing,
    /// When its term ends, or has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Pods of the group on it.
    pub pods: i32,
    /// While it is emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainStatus>,
}

/// How a machine is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachinePhase {
    /// Waits for a node.
    Pending,
    /// Can be used.
    Running,
    /// Is being emptied.
    Draining,
    /// Is empty and takes no pods.
    Drained,
    /// Its node or cards are away.
    Abnormal,
    /// Goes back when it is empty.
    Releasing,
    /// Its term has ended: a renewal brings it back, if there is a machine then.
    Expired,
    /// It was given back in arrears: it comes back when that is paid.
    Suspended,
    /// It was not renewed in time, and is released for good.
    Released,
}

/// How emptying a machine goes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DrainStatus {
    /// Pods still to leave.
    pub remaining: i32,
    /// The pod that can't leave, and what holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
}

/// An endpoint on the group.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GroupEndpoint {
    /// Its name.
    pub name: String,
    /// Its instances.
    pub instances: i32,
}
