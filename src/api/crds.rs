//! The CustomResourceDefinitions as they are committed in `crds/`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// All definitions, in the order in which a reader meets the kinds.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        super::CardType::crd(),
        super::Tariff::crd(),
        super::SpotMarket::crd(),
        super::Account::crd(),
        super::Payment::crd(),
        super::ResidentPool::crd(),
        super::DedicatedGroup::crd(),
        super::SpotServer::crd(),
        super::ServerlessEndpoint::crd(),
    ]
}

/// File name and YAML text of each definition.
///
/// # Errors
/// When a definition can't be written as YAML, which would be a defect of ours.
pub fn render() -> Result<Vec<(String, String)>, String> {
    all()
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.spec.names.plural);
            let value = definition(&crd).map_err(|it| it.to_string())?;
            let text = serde_saphyr::to_string(&value).map_err(|it| it.to_string())?;
            Ok((name, format!("# Written by `tenure crds`; do not edit.\n{text}")))
        })
        .collect()
}

/// A definition as the API server shall have it.
fn definition(crd: &CustomResourceDefinition) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(crd)?;
    tidy(&mut value);
    // `kubectl explain KIND` shows the root's description; what the kind is stands at its spec.
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema")
        && let Some(text) = schema.pointer("/properties/spec/description").cloned()
    {
        schema["description"] = text;
    }
    Ok(value)
}

/// What the derive leaves that the API server warns of or that only costs space.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|it| it.starts_with("uint")) {
                map.remove("format");
            }
            // Kubernetes' own text of a quantity is 2.5 kB each time.
            if map.get("description").and_then(Value::as_str).is_some_and(|it| it.len() > 600) {
                map.remove("description");
            }
            // Where null is allowed, CEL's `has` is true of it; where it is not, the API server drops it.
            if map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            if let Some(Value::Array(list)) = map.get_mut("enum") {
                list.retain(|it| !it.is_null());
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_definitions_are_these() {
        for (name, text) in render().unwrap() {
            let committed = std::fs::read_to_string(format!("crds/{name}")).unwrap_or_default();
            assert!(committed == text, "crds/{name} is not what the types say; run `make crds`");
        }
    }

    #[test]
    fn each_is_small_enough_for_a_cluster() {
        for crd in all() {
            let size = definition(&crd).unwrap().to_string().len();
            assert!(size < 150_000, "{} has {size} bytes", crd.spec.names.kind);
        }
    }
}
