//! The one status write of a pass: only when something differs, and without leaving behind what no longer holds.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{Context, Error};
use crate::cluster::read::ContractRef;

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

/// How long a contract may be on its way before its status says so: mostly it has arrived by then.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// When many are on their way at once, they say so one after the other: what the API server does meanwhile brings them on.
const SAY_EVERY: Duration = Duration::from_millis(100);
/// But none later than this.
const SAY_AT_LATEST: Duration = Duration::from_secs(10);

/// Contracts that are on their way without their status saying so yet.
#[derive(Default)]
pub struct Fresh {
    /// When it has to be said.
    due: HashMap<ContractRef, Instant>,
    /// Of all of them the last.
    last_due: Option<Instant>,
}

impl Fresh {
    /// How long until it has to be said that this one is on its way; `None` = now.
    pub(super) fn left(&mut self, contract: &ContractRef) -> Option<Duration> {
        let now = Instant::now();
        let next_turn = self.last_due.map_or(now, |it| it + SAY_EVERY);
        let due = *self.due.entry(contract.clone()).or_insert_with(|| {
            let due = next_turn.clamp(now + SAY_AFTER, now + SAY_AT_LATEST);
            self.last_due = Some(due);
            due
        });
        let left = due.checked_duration_since(now).filter(|it| !it.is_zero());
        if left.is_none() {
            self.due.remove(contract);
        }
        left
    }

    /// It is on its way no more.
    pub(super) fn arrived(&mut self, contract: &ContractRef) {
        self.due.remove(contract);
    }
}

/// Writes the status of a contract and tells of a change of Ready. Returns when to look again, if what is new is only that
/// the contract is on its way: that is said when it lasts.
pub async fn report<K, S>(
    context: &Context,
    contract: &ContractRef,
    object: &K,
    old: Option<&S>,
    new: &S,
    conditions: fn(&S) -> &Vec<Condition>,
) -> Result<Option<Duration>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    S: Serialize,
{
    let ready = |it: &S| conditions(it).iter().find(|it| it.type_ == "Ready").cloned();
    let is_under_way = ready(new).is_some_and(|it| is_under_way(&it.reason));
    let was_under_way = old.and_then(ready).is_some_and(|it| is_under_way_since(&it, object));
    if let Some(left) = context.still_fresh(contract, is_under_way && !was_under_way) {
        return Ok(Some(left));
    }
    let written = write(context, object, old, new).await;
    tell(context, object, old.map(|it| conditions(it).as_slice()), ready(new).as_ref()).await;
    written.map(|()| None)
}

fn is_under_way(reason: &str) -> bool {
    ["Pending", "Progressing"].contains(&reason)
}

/// Does the status say already that this very generation is on its way?
fn is_under_way_since<K: Resource>(ready: &Condition, object: &K) -> bool {
    is_under_way(&ready.reason) && ready.observed_generation == object.meta().generation
}

/// Puts a change of Ready on the object as an Event, where `kubectl describe` shows it. Steps on the way are not told, nor that a
/// new contract has come to what it asked for: its status says that.
pub async fn tell<K>(context: &Context, object: &K, before: Option<&[Condition]>, ready: Option<&Condition>)
where
    K: Resource<DynamicType = ()>,
{
    let Some(ready) = ready else { return };
    let was = before.into_iter().flatten().find(|it| it.type_ == ready.type_);
    let same = was.is_some_and(|it| it.reason == ready.reason && it.status == ready.status);
    let routine = ["Running", "AsBought"].contains(&ready.reason.as_str())
        && was.is_none_or(|it| is_under_way(&it.reason));
    if !same && !routine && ready.status != "Unknown" && !is_under_way(&ready.reason) {
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
    use crate::cluster::read::Kind;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn many_on_their_way_say_so_one_after_the_other_and_none_too_late() {
        let contract = |number: u32| ContractRef {
            kind: Kind::Endpoint,
            namespace: "a".to_owned(),
            name: number.to_string(),
        };
        let mut fresh = Fresh::default();
        let due: Vec<Duration> = (0..1000).map(|it| fresh.left(&contract(it)).unwrap()).collect();
        assert_eq!(due[..3], [1000, 1100, 1200].map(Duration::from_millis));
        assert_eq!(due.iter().max(), Some(&SAY_AT_LATEST));
        tokio::time::advance(SAY_AFTER).await;
        assert_eq!(fresh.left(&contract(0)), None, "now");
        assert_eq!(fresh.left(&contract(1)), Some(SAY_EVERY), "each keeps its turn");
        tokio::time::advance(SAY_AT_LATEST).await;
        fresh.arrived(&contract(1));
        assert_eq!(fresh.left(&contract(1)), Some(SAY_AFTER), "on its way anew, and no other is");
    }

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
