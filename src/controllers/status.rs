//! The one status write of a pass: only when something differs, and without leaving behind what no longer holds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Context, Error};

/// Writes `new` over `old` when they differ.
pub async fn write<K, S>(context: &Context, object: &K, old: Option<&S>, new: &S) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let old = old.map_or(Value::Null, |it| serde_json::to_value(it).unwrap_or_default());
    let new = serde_json::to_value(new).unwrap_or_default();
    match difference(&old, &new) {
        None => Ok(()),
        Some(patch) => context.cluster.write_status(object, &patch).await.map_err(Error::WriteStatus),
    }
}

/// Puts a change of Ready on the object as an Event, where `kubectl describe` shows it.
pub async fn tell<K>(context: &Context, object: &K, before: Option<&[Condition]>, ready: Option<&Condition>)
where
    K: Resource<DynamicType = ()>,
{
    let Some(ready) = ready else { return };
    let same = before
        .into_iter()
        .flatten()
        .any(|it| it.type_ == ready.type_ && it.reason == ready.reason && it.status == ready.status);
    if !same && ready.status != "Unknown" {
        context
            .cluster
            .tell(
                &object.object_ref(&()),
                ready.status == "False" && is_bad(&ready.reason),
                &ready.reason,
                &ready.message,
            )
            .await;
    }
}

/// Is this something that its owner should look at, rather than a step on the way?
fn is_bad(reason: &str) -> bool {
    !["Progressing", "Pending", "Deleting", "Stopped", "Idle", "Draining"].contains(&reason)
}

/// The merge patch that makes `new` of `old`: fields that are gone are nulls, lists are whole. `None` when nothing differs.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        if let Some(changed) = difference(before.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), changed);
        }
    }
    for key in before.keys().filter(|it| !after.contains_key(*it)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_written_and_what_is_gone_is_removed() {
        for (old, new, patch) in [
            (json!({"a": 1}), json!({"a": 1}), None),
            (json!({"a": 1, "b": 2}), json!({"a": 1}), Some(json!({"b": null}))),
            (json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1, "y": 3}}), Some(json!({"a": {"y": 3}}))),
            (json!({"a": [1, 2]}), json!({"a": [1]}), Some(json!({"a": [1]}))),
            (Value::Null, json!({"a": {}}), Some(json!({"a": {}}))),
        ] {
            assert_eq!(difference(&old, &new), patch, "{old} {new}");
        }
    }
}
