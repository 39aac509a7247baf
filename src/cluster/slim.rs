//! Nodes and pods without what we never look at, decoded straight from the wire: 5,000 whole pods would take 190 MB.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::{Deserialize, Deserializer, Serialize};

/// A node.
#[derive(kube::Resource, Serialize, Deserialize, Clone, Debug, Default)]
#[resource(inherit = Node)]
pub struct SlimNode {
    /// Without managed fields.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    /// What an administrator says.
    #[serde(default)]
    pub spec: NodeSpec,
    /// What the kubelet says.
    #[serde(default)]
    pub status: NodeStatus,
}

/// What an administrator says of a node.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// Is it cordoned?
    #[serde(default)]
    pub unschedulable: bool,
    /// Its taints.
    #[serde(default)]
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
    /// When it was added; kept as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Time>,
}

/// What the kubelet says of a node.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct NodeStatus {
    /// What it has.
    #[serde(default)]
    pub capacity: BTreeMap<String, Quantity>,
    /// What pods can have of it.
    #[serde(default)]
    pub allocatable: BTreeMap<String, Quantity>,
    /// How it is.
    #[serde(default)]
    pub conditions: Vec<SlimCondition>,
}

/// A condition.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SlimCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// A message for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when it has this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

/// A pod.
#[derive(kube::Resource, Serialize, Deserialize, Clone, Debug, Default)]
#[resource(inherit = Pod)]
pub struct SlimPod {
    /// Without managed fields.
    #[serde(deserialize_with = "pod_meta")]
    pub metadata: ObjectMeta,
    /// What it asks for.
    #[serde(default)]
    pub spec: PodSpec,
    /// How it is.
    #[serde(default)]
    pub status: PodStatus,
}

/// What a pod asks for.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Where it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// How long it has to end, seconds. The API server fills in 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace_period_seconds: Option<i64>,
    /// What it tolerates.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Its containers.
    #[serde(default)]
    pub containers: Vec<SlimContainer>,
    /// Its init containers.
    #[serde(default)]
    pub init_containers: Vec<SlimContainer>,
}

/// A toleration.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Toleration {
    /// Key; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Equal or Exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Effect; absent = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// A container: what it asks for.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlimContainer {
    /// Its resources.
    #[serde(default)]
    pub resources: SlimResources,
}

/// Resources of a container.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlimResources {
    /// What it has at least. The API server fills in what only has a limit.
    #[serde(default)]
    pub requests: BTreeMap<String, Quantity>,
}

/// How a pod is.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed or Unknown.
    #[serde(default)]
    pub phase: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its address.
    #[serde(rename = "podIP", default, skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<String>,
    /// What its condition Ready says.
    #[serde(rename = "conditions", default, deserialize_with = "only_ready", skip_serializing)]
    pub ready: Readiness,
    /// Its containers.
    #[serde(default)]
    pub container_statuses: Vec<SlimContainerStatus>,
    /// Its init containers.
    #[serde(default)]
    pub init_container_statuses: Vec<SlimContainerStatus>,
}

/// Whether a pod is ready, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Is it?
    pub is_ready: bool,
    /// Since when it is or is not.
    pub since: Option<Timestamp>,
}

/// How a container is.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct SlimContainerStatus {
    /// How often the kubelet has started it again.
    #[serde(default)]
    pub restart_count: i32,
    /// What it does.
    #[serde(default)]
    pub state: SlimState,
    /// What it did before it was started again.
    #[serde(default)]
    pub last_state: LastState,
}

/// What a container does: it has ended when `terminated` is there.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct SlimState {
    /// It runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Began>,
    /// It has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Ended>,
}

/// How a container ended before it was started again.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct LastState {
    /// It has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Ended>,
}

/// The end of a container.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// When it had begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// The beginning of a container.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub struct Began {
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

impl SlimNode {
    /// Is its condition Ready true?
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
    }
}

impl SlimContainerStatus {
    /// When it last ended, if it does not run now.
    fn ended(&self) -> Option<Ended> {
        self.state.terminated.or(self.last_state.terminated).filter(|_| self.state.running.is_none())
    }
}

impl SlimPod {
    /// Is its condition Ready true?
    pub fn is_ready(&self) -> bool {
        self.status.ready.is_ready
    }

    /// Since when it is ready, if it is.
    pub fn ready_since(&self) -> Option<Timestamp> {
        self.status.ready.since.filter(|_| self.is_ready())
    }

    /// When the last of its containers ended that do not run now, as the kubelet says.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.status.container_statuses.iter().filter_map(|it| it.ended()?.finished_at).max()
    }

    /// When the first of its containers began, as far as the kubelet says: init containers too, and those that were started again
    /// once.
    pub fn began_at(&self) -> Option<Timestamp> {
        let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        let times = |it: &SlimContainerStatus| {
            let before = it.last_state.terminated.and_then(|it| it.started_at);
            let ended = it.state.terminated.and_then(|it| it.started_at);
            before.or(ended).or(it.state.running.and_then(|it| it.started_at))
        };
        all.filter_map(times).min()
    }

    /// Has one of its containers ended that is to be started again, so that it is not ready?
    pub fn is_crashed(&self) -> bool {
        !self.is_ready() && self.status.container_statuses.iter().any(|it| it.ended().is_some())
    }

    /// Has it run to its end?
    pub fn is_over(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// How often the kubelet has started one of its containers again.
    pub fn restarts(&self) -> i32 {
        self.status.container_statuses.iter().map(|it| it.restart_count).max().unwrap_or(0)
    }

    /// Has the kubelet said that nothing of it runs any more? A pod that no kubelet ever saw has nothing to end.
    pub fn has_ended(&self) -> bool {
        let mut all =
            self.status.container_statuses.iter().chain(&self.status.init_container_statuses).peekable();
        if all.peek().is_none() {
            return self.is_over() || self.spec.node_name.is_none();
        }
        all.all(|it| it.state.running.is_none() && (it.state.terminated.is_some() || self.is_over()))
    }

    /// When a container last ended that runs again by now, of a pod that is not ready.
    pub fn restarted_at(&self) -> Option<Timestamp> {
        let ends = self.status.container_statuses.iter().filter(|it| it.state.running.is_some());
        ends.filter_map(|it| it.last_state.terminated?.finished_at).max().filter(|_| !self.is_ready())
    }

    /// What it asks for of a resource, in whole units: the containers together, or an init container that asks for more.
    pub fn requests(&self, resource: &str) -> u32 {
        let asked = |it: &SlimContainer| {
            it.resources
                .requests
                .get(resource)
                .and_then(|it| crate::domain::units::parse_whole(&it.0).ok())
                .unwrap_or(0)
        };
        let together: i64 = self.spec.containers.iter().map(asked).sum();
        let most = self.spec.init_containers.iter().map(asked).max().unwrap_or(0);
        u32::try_from(together.max(most)).unwrap_or(0)
    }

    /// The names of what its containers ask for.
    pub fn resources(&self) -> impl Iterator<Item = &String> {
        self.spec
            .containers
            .iter()
            .chain(&self.spec.init_containers)
            .flat_map(|it| it.resources.requests.keys())
    }

    /// Does it tolerate this taint, for every effect or for this one?
    pub fn tolerates(&self, key: &str, effect: &str) -> bool {
        self.spec.tolerations.iter().any(|it| {
            let all = it.operator.as_deref() == Some("Exists") && it.key.as_deref().unwrap_or("").is_empty();
            (all || it.key.as_deref() == Some(key))
                && it.effect.as_deref().is_none_or(|it| it.is_empty() || it == effect)
        })
    }

    /// Is it run by the kubelet itself, or by a DaemonSet?
    pub fn is_part_of_node(&self) -> bool {
        let owner = |kind: &str| self.metadata.owner_references.iter().flatten().any(|it| it.kind == kind);
        owner("Node") || owner("DaemonSet")
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(name).map(String::as_str)
    }
}

/// Of five conditions of a pod one is ever looked at.
fn only_ready<'de, D: Deserializer<'de>>(from: D) -> Result<Readiness, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Condition {
        #[serde(rename = "type")]
        type_: String,
        status: String,
        #[serde(default)]
        last_transition_time: Option<Timestamp>,
    }
    let all = Option::<Vec<Condition>>::deserialize(from)?.unwrap_or_default();
    let ready = all.into_iter().find(|it| it.type_ == "Ready");
    Ok(ready.map_or_else(Readiness::default, |it| Readiness {
        is_ready: it.status == "True",
        since: it.last_transition_time,
    }))
}

/// A pod's metadata: of its labels only ours are looked at.
fn pod_meta<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    let mut meta = slim_meta(from)?;
    meta.labels =
        meta.labels.map(|it| it.into_iter().filter(|(key, _)| key.starts_with("tenure.dev/")).collect());
    Ok(meta)
}

/// Metadata without managed fields: they would be nine tenths of what is kept.
pub(super) fn slim_meta<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        annotations: Option<BTreeMap<String, String>>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        finalizers: Option<Vec<String>>,
        owner_references: Option<Vec<OwnerReference>>,
    }
    let meta = Meta::deserialize(from)?;
    // Of foreign annotations none is ever read, and some are large (kubectl's last-applied-configuration).
    let annotations =
        meta.annotations.map(|it| it.into_iter().filter(|(key, _)| key.starts_with("tenure.dev/")).collect());
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        labels: meta.labels,
        annotations,
        creation_timestamp: meta.creation_timestamp,
        deletion_timestamp: meta.deletion_timestamp,
        finalizers: meta.finalizers,
        owner_references: meta.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> SlimPod {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_pod_is_read_without_what_is_never_looked_at() {
        let pod = pod(serde_json::json!({
            "metadata": {"name": "a", "managedFields": [{"manager": "x"}], "annotations": {"big": "x", "tenure.dev/promised-node": "n"}},
            "spec": {"nodeName": "n", "containers": [
                {"name": "a", "resources": {"requests": {"nvidia.com/gpu": "2", "cpu": "1"}}},
                {"name": "b", "resources": {"requests": {"nvidia.com/gpu": "1"}}}],
                "initContainers": [{"name": "i", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]},
        }));
        assert_eq!(pod.requests("nvidia.com/gpu"), 3);
        assert!(pod.metadata.managed_fields.is_none());
        assert_eq!(pod.metadata.annotations.unwrap().len(), 1);
    }

    #[test]
    fn a_pod_has_ended_when_all_its_containers_have() {
        for (status, ended) in [
            (
                serde_json::json!({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}),
                false,
            ),
            (
                serde_json::json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {}}}, {"state": {"running": {}}}]}),
                false,
            ),
            (
                serde_json::json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}),
                true,
            ),
            (serde_json::json!({"phase": "Failed", "reason": "OutOfcpu"}), true),
            (
                serde_json::json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {}}}]}),
                false,
            ),
            (serde_json::json!({"phase": "Pending"}), false),
        ] {
            let pod = pod(serde_json::json!({"metadata": {}, "spec": {"nodeName": "n"}, "status": status}));
            assert_eq!(pod.has_ended(), ended, "{status}");
        }
        assert!(
            pod(serde_json::json!({"metadata": {}, "status": {"phase": "Pending"}})).has_ended(),
            "never bound"
        );
    }

    #[test]
    fn since_when_it_is_ready_and_when_it_ended() {
        let ready = |status: &str| {
            serde_json::json!([
                {"type": "ContainersReady", "status": "True", "lastTransitionTime": "2026-11-23T09:00:00Z"},
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-11-23T10:00:00Z"}])
        };
        let runs = serde_json::json!({"state": {"running": {"startedAt": "2026-11-23T09:00:00Z"}}});
        let ended =
            |at: &str| serde_json::json!({"state": {"terminated": {"exitCode": 0, "finishedAt": at}}});
        let crashed = serde_json::json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-11-23T11:00:00Z"}}});
        let again = serde_json::json!({
            "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-11-23T11:00:00Z"}}});
        let (ten, eleven) = (Some("2026-11-23T10:00:00Z"), Some("2026-11-23T11:00:00Z"));
        let both = vec![ended("2026-11-23T10:30:00Z"), ended("2026-11-23T11:00:00Z")];
        let waits = serde_json::json!({"state": {"waiting": {}}});
        for (conditions, containers, ready_since, ended_at, is_crashed, restarted_at) in [
            (ready("True"), vec![runs.clone()], ten, None, false, None),
            (ready("False"), vec![runs.clone()], None, None, false, None),
            (ready("False"), both, None, eleven, true, None),
            (ready("False"), vec![runs.clone(), crashed.clone()], None, eleven, true, None),
            (ready("False"), vec![again.clone()], None, None, false, eleven),
            (ready("True"), vec![again], ten, None, false, None),
            (ready("False"), vec![waits], None, None, false, None),
            (serde_json::json!(null), vec![], None, None, false, None),
        ] {
            let status = serde_json::json!({"conditions": conditions, "containerStatuses": containers});
            let pod = pod(serde_json::json!({"metadata": {}, "status": status}));
            let text = |it: Option<Timestamp>| it.map(|it| it.to_string());
            assert_eq!(text(pod.ready_since()).as_deref(), ready_since, "{status}");
            assert_eq!(text(pod.ended_at()).as_deref(), ended_at, "{status}");
            assert_eq!(pod.is_crashed(), is_crashed, "{status}");
            assert_eq!(text(pod.restarted_at()).as_deref(), restarted_at, "{status}");
        }
    }

    #[test]
    fn a_wildcard_tolerates_everything() {
        for (toleration, tolerates) in [
            (serde_json::json!({"operator": "Exists"}), true),
            (
                serde_json::json!({"key": "tenure.dev/managed", "operator": "Exists", "effect": "NoExecute"}),
                true,
            ),
            (
                serde_json::json!({"key": "tenure.dev/managed", "operator": "Exists", "effect": "NoSchedule"}),
                false,
            ),
            (serde_json::json!({"key": "other", "operator": "Exists"}), false),
        ] {
            let pod = pod(serde_json::json!({"metadata": {}, "spec": {"tolerations": [toleration]}}));
            assert_eq!(pod.tolerates("tenure.dev/managed", "NoExecute"), tolerates, "{toleration}");
        }
    }
}
