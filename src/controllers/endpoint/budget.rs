//! The PodDisruptionBudget of an endpoint: whoever drains nodes takes one of its workers at a time.
//!
//! `minAvailable` is an integer, one less than what is wanted: the disruption controller takes `workers.active` (the scale
//! subresource) for the number of pods, which for an endpoint that scales is another number, so percentages and
//! `maxUnavailable` would be of the wrong one. With one wanted worker it would be 0 and protect nothing, and 1 would hold up
//! every drain for good: below two there is none.

use std::sync::PoisonError;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api::{ServerlessEndpoint, names};
use crate::cluster::read::ContractRef;
use crate::controllers::pool::is_leaving;
use crate::controllers::{Context, Error};

/// Writes, changes or deletes it, if it is not as it should be.
pub(super) async fn keep(
    context: &Context,
    contract: &ContractRef,
    endpoint: &ServerlessEndpoint,
    wanted: u32,
) -> Result<(), Error> {
    if is_leaving(endpoint) {
        return Ok(());
    }
    let stay = wanted.saturating_sub(1);
    let known = budgets(context).get(contract).copied();
    if known == Some(stay) {
        return Ok(());
    }
    let name = name(endpoint);
    // It is not watched: who has just begun to lead looks once, and so does who is about to delete.
    if known.is_none() || stay == 0 {
        let there = context
            .cluster
            .read::<PodDisruptionBudget>(&contract.namespace, &name)
            .await
            .map_err(Error::Apply)?;
        if let Some(there) = there {
            if !is_ours(&there, endpoint) {
                tracing::warn!(
                    ?contract,
                    name,
                    "somebody else's PodDisruptionBudget has our name; it is left alone"
                );
                budgets(context).insert(contract.clone(), stay);
                return Ok(());
            }
            if stay == 0 {
                context.cluster.delete::<PodDisruptionBudget>(&there.metadata).await.map_err(Error::Apply)?;
            } else if min_available(&there) == i32::try_from(stay).ok() {
                budgets(context).insert(contract.clone(), stay);
                return Ok(());
            }
        }
    }
    if stay > 0 {
        let budget = build(endpoint, stay);
        context
            .cluster
            .apply::<PodDisruptionBudget>(&contract.namespace, &name, &budget)
            .await
            .map_err(Error::Apply)?;
    }
    budgets(context).insert(contract.clone(), stay);
    Ok(())
}

/// The endpoint is gone, and its budget goes with it.
pub(super) fn forget(context: &Context, contract: &ContractRef) {
    budgets(context).remove(contract);
}

fn budgets(context: &Context) -> std::sync::MutexGuard<'_, std::collections::HashMap<ContractRef, u32>> {
    context.budgets.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(endpoint: &ServerlessEndpoint) -> String {
    format!("{}-workers", endpoint.name_any())
}

fn is_ours(budget: &PodDisruptionBudget, endpoint: &ServerlessEndpoint) -> bool {
    budget
        .metadata
        .owner_references
        .iter()
        .flatten()
        .any(|it| Some(&it.uid) == endpoint.metadata.uid.as_ref())
}

fn min_available(budget: &PodDisruptionBudget) -> Option<i32> {
    match budget.spec.as_ref()?.min_available.as_ref()? {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(_) => None,
    }
}

fn build(endpoint: &ServerlessEndpoint, stay: u32) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name(endpoint), "namespace": endpoint.namespace(), "ownerReferences": endpoint.controller_owner_ref(&()).map(|it| vec![it])},
        "spec": {
            "minAvailable": stay,
            "selector": {"matchLabels": {names::ENDPOINT: endpoint.name_any()}},
            // A worker that is not ready serves nobody: it may go at any time.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    })
}
