//! Pod templates inside contracts: the typed schema, bounded so that CEL can afford to look into it, and what it may not carry.

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

/// The schema of a pod template: Kubernetes' own, without descriptions, every list and map bounded, with the rules.
///
/// # Panics
/// Never: the schema of a Kubernetes type is an object.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut value = generator.subschema_for::<k8s_openapi::api::core::v1::PodTemplateSpec>().to_value();
    bound(&mut value);
    if let Some(pod) = value.pointer_mut("/properties/spec") {
        if let Some(pod) = pod.as_object_mut() {
            pod.insert("required".to_owned(), json!(["containers"]));
            pod.insert("x-kubernetes-validations".to_owned(), rules(POD_RULES));
        }
        if let Some(containers) = pod.pointer_mut("/properties/containers").and_then(Value::as_object_mut) {
            containers.insert("minItems".to_owned(), json!(1));
        }
        // What the rules look into is bounded more tightly: CEL is charged for the longest text that could be there.
        for (path, key, most) in [
            ("/properties/tolerations", "maxItems", 16),
            ("/properties/tolerations/items/properties/key", "maxLength", 317),
            ("/properties/nodeSelector", "maxProperties", 16),
            ("/properties/containers", "maxItems", 16),
            ("/properties/initContainers", "maxItems", 16),
            ("/properties/serviceAccountName", "maxLength", 253),
        ] {
            if let Some(field) = pod.pointer_mut(path).and_then(Value::as_object_mut) {
                field.insert(key.to_owned(), json!(most));
            }
        }
        for list in ["containers", "initContainers"] {
            for (path, key, most) in [
                ("env", "maxItems", 256),
                ("env/items/properties/name", "maxLength", 256),
                ("resources/properties/limits", "maxProperties", 16),
                ("resources/properties/requests", "maxProperties", 16),
            ] {
                let path = format!("/properties/{list}/items/properties/{path}");
                if let Some(field) = pod.pointer_mut(&path).and_then(Value::as_object_mut) {
                    field.insert(key.to_owned(), json!(most));
                }
            }
            if let Some(item) = pod.pointer_mut(&format!("/properties/{list}/items")).and_then(Value::as_object_mut) {
                item.insert("x-kubernetes-validations".to_owned(), rules(CONTAINER_RULES));
            }
        }
    }
    if let Some(meta) = value.pointer_mut("/properties/metadata").and_then(Value::as_object_mut) {
        let text = || json!({"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": 4096}});
        // Kubernetes prunes all else of a template's metadata in a custom resource unless it is named here.
        meta.insert("properties".to_owned(), json!({"labels": text(), "annotations": text()}));
        meta.insert("x-kubernetes-validations".to_owned(), rules(METADATA_RULES));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("required".to_owned(), json!(["spec"]));
        object.insert("description".to_owned(), json!("The pod template of a worker. Its first container gets the cards."));
    }
    Schema::try_from(value).unwrap_or_default()
}

/// A rule and what it says.
type Rule = (&'static str, &'static str);

const POD_RULES: &[Rule] = &[
    ("!has(self.nodeName)", "leave nodeName out: Tenure's contracts and the scheduler decide where a worker runs"),
    ("!has(self.schedulerName) || self.schedulerName == 'default-scheduler'", "leave schedulerName out: only the default scheduler keeps the contract"),
    ("!has(self.hostNetwork) || !self.hostNetwork", "hostNetwork is not allowed: a worker has its own network"),
    ("!has(self.hostPID) || !self.hostPID", "hostPID is not allowed: a worker sees its own processes only"),
    ("!has(self.hostIPC) || !self.hostIPC", "hostIPC is not allowed"),
    ("!has(self.priorityClassName) || self.priorityClassName == ''", "leave priorityClassName out: the contract decides who comes first"),
    ("!has(self.priority)", "leave priority out: the contract decides who comes first"),
    ("!has(self.volumes) || self.volumes.all(v, !has(v.hostPath))", "hostPath volumes are not allowed: use an emptyDir, a PersistentVolumeClaim or a ConfigMap"),
    ("!has(self.nodeSelector) || self.nodeSelector.all(k, !k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/'))", "nodeSelector may not name labels of tenure.dev: the contract places the worker"),
    ("!has(self.tolerations) || self.tolerations.all(t, has(t.key) && t.key != '' && !t.key.startsWith('tenure.dev/') && !t.key.contains('.tenure.dev/'))", "tolerations must name a key, and not one of tenure.dev: the contract adds its own"),
    ("!has(self.resourceClaims)", "resourceClaims are not allowed: cards come from the contract (workers.gpus or the machine type)"),
    ("!has(self.ephemeralContainers)", "ephemeralContainers can't be in a template; use kubectl debug on a worker"),
    ("!has(self.restartPolicy) || self.restartPolicy == 'Always'", "restartPolicy must be Always, or left out: a worker runs until the contract ends it"),
    ("!has(self.resources)", "give resources per container, not for the pod"),
    ("!has(self.serviceAccountName) || self.serviceAccountName.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')", "serviceAccountName must be the name of a ServiceAccount of this namespace"),
];

const CONTAINER_RULES: &[Rule] = &[
    ("!has(self.securityContext) || !has(self.securityContext.privileged) || !self.securityContext.privileged", "privileged containers are not allowed: they reach every card of the node"),
    ("!has(self.env) || self.env.all(e, !(e.name in ['NVIDIA_VISIBLE_DEVICES', 'CUDA_VISIBLE_DEVICES']))", "env may not set NVIDIA_VISIBLE_DEVICES or CUDA_VISIBLE_DEVICES: it takes cards without asking for them"),
    ("!has(self.ports) || self.ports.all(p, !has(p.hostPort) || p.hostPort == 0)", "hostPort is not allowed: workers share their nodes"),
    ("!has(self.resources) || !has(self.resources.limits) || self.resources.limits.all(k, !k.endsWith('/cards') && !k.contains('tenure.dev/'))", "resources may not name those of tenure.dev: the contract adds them"),
    ("!has(self.resources) || !has(self.resources.requests) || self.resources.requests.all(k, !k.endsWith('/cards') && !k.contains('tenure.dev/'))", "resources may not name those of tenure.dev: the contract adds them"),
    ("!has(self.resources) || !has(self.resources.claims)", "resources.claims are not allowed: cards come from the contract"),
];

const METADATA_RULES: &[Rule] = &[
    ("!has(self.labels) || self.labels.all(k, !k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/'))", "labels of tenure.dev are set by the operator"),
    ("!has(self.annotations) || self.annotations.all(k, !k.startsWith('tenure.dev/') || k == 'tenure.dev/test')", "annotations of tenure.dev are set by the operator"),
];

fn rules(list: &[Rule]) -> Value {
    list.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

/// Drops descriptions and bounds every list, map and text.
fn bound(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("description");
            match map.get("type").and_then(Value::as_str) {
                Some("array") => {
                    map.entry("maxItems").or_insert(json!(64));
                }
                Some("object") if map.contains_key("additionalProperties") => {
                    map.entry("maxProperties").or_insert(json!(64));
                }
                _ => (),
            }
            map.values_mut().for_each(bound);
        }
        Value::Array(list) => list.iter_mut().for_each(bound),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}
