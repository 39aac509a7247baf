//! Every write, each guarded by a resourceVersion or a UID where a stale view could do harm.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Cluster;
use super::slim::{SlimNode, SlimPod, Taint};
use crate::api::names;

/// How a write ended that somebody else may have come before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else wrote first (409): look again.
    #[error("somebody else wrote first")]
    Conflict,
    /// It is there already (409).
    #[error("it exists already")]
    AlreadyExists,
    /// It is gone (404).
    #[error("it is gone")]
    NotFound,
    /// The API server refused it for good (403, 422): a policy, a quota, a rule.
    #[error("{0}")]
    Refused(String),
    /// Anything else; later it may go.
    #[error("{0}")]
    Unavailable(kube::Error),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) if status.is_already_exists() => Error::AlreadyExists,
            kube::Error::Api(status) if status.code == 409 => Error::Conflict,
            kube::Error::Api(status) if status.code == 404 => Error::NotFound,
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
                Error::Refused(status.message.clone())
            }
            other => Error::Unavailable(other),
        }
    }
}

/// Which budget forbids an eviction: the API server names it in the causes, not in the message.
fn blocked(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|it| &it.causes).map(|it| it.message.as_str());
    [status.message.as_str()].into_iter().chain(causes).collect::<Vec<_>>().join(" ")
}

/// How an eviction ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It is on its way out.
    Leaving,
    /// A PodDisruptionBudget forbids it for now, in the API server's words.
    Blocked(String),
    /// It is gone already.
    Gone,
}

/// What changes in a node besides its shares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Labels; `None` removes.
    pub labels: BTreeMap<&'static str, Option<String>>,
    /// Annotations; `None` removes.
    pub annotations: BTreeMap<&'static str, Option<String>>,
    /// All taints.
    pub taints: Option<Vec<Taint>>,
    /// Cordoned?
    pub unschedulable: Option<bool>,
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

impl Cluster {
    /// Writes shares (capacity and allocatable alike: simulated nodes don't copy one to the other), with labels and
    /// annotations, in one patch that fails when anybody wrote to the node since. Returns the node as it is then.
    pub async fn write_shares(
        &self,
        node: &str,
        resource_version: &str,
        shares: &BTreeMap<String, Option<u32>>,
        change: &NodeChange,
    ) -> Result<SlimNode, Error> {
        let counts: BTreeMap<&String, Option<String>> =
            shares.iter().map(|(name, it)| (name, it.map(|it| it.to_string()))).collect();
        let patch = json!({
            "metadata": {"resourceVersion": resource_version, "labels": change.labels, "annotations": change.annotations},
            "status": {"capacity": counts, "allocatable": counts},
        });
        Ok(Api::<SlimNode>::all(self.client.clone())
            .patch_status(node, &merge(), &Patch::Merge(patch))
            .await?)
    }

    /// Writes labels, annotations, taints and the cordon of a node, in one guarded patch.
    pub async fn write_node(
        &self,
        node: &str,
        resource_version: &str,
        change: &NodeChange,
    ) -> Result<SlimNode, Error> {
        let mut spec = serde_json::Map::new();
        if let Some(taints) = &change.taints {
            spec.insert("taints".to_owned(), json!(taints));
        }
        if let Some(unschedulable) = change.unschedulable {
            spec.insert("unschedulable".to_owned(), if unschedulable { json!(true) } else { Value::Null });
        }
        let patch = json!({
            "metadata": {"resourceVersion": resource_version, "labels": change.labels, "annotations": change.annotations},
            "spec": spec,
        });
        Ok(Api::<SlimNode>::all(self.client.clone()).patch(node, &merge(), &Patch::Merge(patch)).await?)
    }

    /// Writes conditions of a node beside those that are there: type, and whether it holds.
    pub async fn write_node_conditions(
        &self,
        node: &str,
        conditions: &[(&str, bool)],
        message: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let now = now.round(jiff::Unit::Second).unwrap_or(now).to_string();
        let condition = |(kind, holds): &(&str, bool)| {
            json!({
                "type": kind,
                "status": if *holds { "True" } else { "False" },
                "reason": if *holds { "TenureNotice" } else { "TenureNoNotice" },
                "message": message,
                "lastTransitionTime": now,
                "lastHeartbeatTime": now,
            })
        };
        let patch = json!({"status": {"conditions": conditions.iter().map(condition).collect::<Vec<_>>()}});
        Api::<SlimNode>::all(self.client.clone())
            .patch_status(node, &merge(), &Patch::Strategic(patch))
            .await?;
        Ok(())
    }

    /// Creates a pod.
    pub async fn create_pod(&self, pod: &Pod) -> Result<(), Error> {
        let api = Api::<Pod>::namespaced(self.client.clone(), pod.namespace().as_deref().unwrap_or_default());
        api.create(
            &PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() },
            pod,
        )
        .await?;
        Ok(())
    }

    /// Deletes just this pod, with its own grace. That it is gone already is as good.
    pub async fn delete_pod(&self, pod: &SlimPod) -> Result<(), Error> {
        self.delete::<Pod>(&pod.metadata).await
    }

    /// Deletes just this pod, with so many seconds to end. That it is gone already is as good.
    pub async fn delete_pod_within(&self, pod: &SlimPod, grace_seconds: i64) -> Result<(), Error> {
        let grace = u32::try_from(grace_seconds).unwrap_or(1).max(1);
        self.delete_as::<Pod>(&pod.metadata, DeleteParams::background().grace_period(grace)).await
    }

    /// Deletes just this object (by its UID), not one of the same name that came after it.
    pub async fn delete<K>(&self, meta: &ObjectMeta) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.delete_as::<K>(meta, DeleteParams::background()).await
    }

    async fn delete_as<K>(&self, meta: &ObjectMeta, how: DeleteParams) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        let only = Preconditions { uid: meta.uid.clone(), resource_version: None };
        match api
            .delete(meta.name.as_deref().unwrap_or_default(), &how.preconditions(only))
            .await
            .map_err(Error::from)
        {
            Ok(_) | Err(Error::NotFound | Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks that a pod leave, as far as its PodDisruptionBudgets allow. Typed by hand: kube's own evict sends its
    /// options under a name that Kubernetes does not read.
    pub async fn evict(&self, pod: &SlimPod) -> Result<Evicted, Error> {
        let api = Api::<Pod>::namespaced(
            self.client.clone(),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let name = pod.metadata.name.clone().unwrap_or_default();
        let eviction = Eviction {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: pod.metadata.namespace.clone(),
                ..ObjectMeta::default()
            },
            delete_options: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions {
                preconditions: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Preconditions {
                    uid: pod.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..Default::default()
            }),
        };
        match api
            .create_subresource::<Eviction, kube::core::Status>(
                "eviction",
                &name,
                &PostParams::default(),
                &eviction,
            )
            .await
        {
            Ok(_) => Ok(Evicted::Leaving),
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(Evicted::Blocked(blocked(&status))),
            // Two budgets for one pod are a 500: nobody can evict it until one of them goes.
            Err(kube::Error::Api(status)) if status.code == 500 => {
                Ok(Evicted::Blocked(status.message.clone()))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Evicted::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a finalizer off an object, unless somebody wrote to it since.
    pub async fn remove_finalizer<K>(&self, meta: &ObjectMeta, finalizer: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|it| *it != finalizer).collect();
        match self.patch_meta::<K>(meta, json!({"finalizers": left})).await {
            Ok(()) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts a finalizer on an object, unless somebody wrote to it since.
    pub async fn add_finalizer<K>(&self, meta: &ObjectMeta, finalizer: &str) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let all: Vec<&str> =
            meta.finalizers.iter().flatten().map(String::as_str).chain([finalizer]).collect();
        self.patch_meta::<K>(meta, json!({"finalizers": all})).await
    }

    /// Adds a finalizer and an annotation at once, unless somebody wrote to the object since.
    pub async fn guard<K>(
        &self,
        meta: &ObjectMeta,
        finalizer: &str,
        name: &str,
        value: &str,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let all: Vec<&str> =
            meta.finalizers.iter().flatten().map(String::as_str).chain([finalizer]).collect();
        self.patch_meta::<K>(meta, json!({"finalizers": all, "annotations": {name: value}})).await
    }

    /// Writes an annotation, unless somebody wrote to the object since.
    pub async fn annotate<K>(&self, meta: &ObjectMeta, name: &str, value: Option<&str>) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        self.patch_meta::<K>(meta, json!({"annotations": {name: value}})).await
    }

    async fn patch_meta<K>(&self, meta: &ObjectMeta, mut change: Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        change["resourceVersion"] = json!(meta.resource_version);
        change["uid"] = json!(meta.uid);
        let api = Api::<K>::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        api.patch_metadata(
            meta.name.as_deref().unwrap_or_default(),
            &merge(),
            &Patch::Merge(json!({"metadata": change})),
        )
        .await?;
        Ok(())
    }

    /// Writes a status of a namespaced object. One process writes it, so it is not guarded by a resourceVersion; the UID
    /// keeps it from an object of the same name that came after.
    pub async fn write_status<K>(&self, object: &K, status: &Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let url = format!(
            "{}/{}/status?fieldManager={}",
            K::url_path(&(), object.meta().namespace.as_deref()),
            object.meta().name.as_deref().unwrap_or_default(),
            names::FIELD_MANAGER,
        );
        let body = json!({"metadata": {"uid": object.meta().uid}, "status": status});
        let request = http::Request::patch(url)
            .header("content-type", "application/merge-patch+json")
            .extension("patch_status")
            .body(serde_json::to_vec(&body).unwrap_or_default());
        let request = request.map_err(|it| Error::Refused(it.to_string()))?;
        match self.client.request::<Value>(request).await.map_err(Error::from) {
            Ok(_) | Err(Error::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Applies an object of ours (server-side apply); only what we state is ours.
    pub async fn apply<K>(&self, namespace: &str, name: &str, object: &Value) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::apply(names::FIELD_MANAGER).force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Reads one object itself; `None` when it is not there.
    pub async fn read<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        Ok(Api::<K>::namespaced(self.client.clone(), namespace).get_opt(name).await?)
    }

    /// Creates a claim for a disk; one that is there already is kept as it is.
    pub async fn create_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let api = Api::<PersistentVolumeClaim>::namespaced(
            self.client.clone(),
            claim.namespace().as_deref().unwrap_or_default(),
        );
        match api.create(&PostParams::default(), claim).await.map_err(Error::from) {
            Ok(_) | Err(Error::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
