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
            ("/properties/volumes/items/properties/name", "maxLength", 63),
            ("/properties/terminationGracePeriodSeconds", "minimum", 0),
            ("/properties/terminationGracePeriodSeconds", "maximum", 86_400),
        ] {
            if let Some(field) = pod.pointer_mut(path).and_then(Value::as_object_mut) {
                field.insert(key.to_owned(), json!(most));
            }
        }
        if let Some(affinity) = pod.pointer_mut("/properties/affinity") {
            stay_at_home(affinity);
        }
        let source = "/properties/volumes/items/properties/ephemeral/properties/volumeClaimTemplate/properties/spec/properties/dataSourceRef";
        if let Some(source) = pod.pointer_mut(source).and_then(Value::as_object_mut) {
            source.insert("x-kubernetes-validations".to_owned(), rules(SOURCE_RULES));
        }
        // The pod would be refused for two of the same name; here it is said where it is written.
        for list in ["containers", "initContainers", "volumes"] {
            if let Some(list) = pod.pointer_mut(&format!("/properties/{list}")).and_then(Value::as_object_mut)
            {
                list.insert("x-kubernetes-list-type".to_owned(), json!("map"));
                list.insert("x-kubernetes-list-map-keys".to_owned(), json!(["name"]));
            }
        }
        for list in ["containers", "initContainers"] {
            for (path, key, most) in [
                ("env", "maxItems", 256),
                ("env/items/properties/name", "maxLength", 256),
                ("name", "maxLength", 63),
                ("image", "minLength", 1),
                ("volumeMounts/items/properties/mountPath", "maxLength", 1024),
                ("resources/properties/limits", "maxProperties", 16),
                ("resources/properties/requests", "maxProperties", 16),
            ] {
                let path = format!("/properties/{list}/items/properties/{path}");
                if let Some(field) = pod.pointer_mut(&path).and_then(Value::as_object_mut) {
                    field.insert(key.to_owned(), json!(most));
                }
            }
            if let Some(item) =
                pod.pointer_mut(&format!("/properties/{list}/items")).and_then(Value::as_object_mut)
            {
                item.insert("required".to_owned(), json!(["name", "image"]));
                item.insert("x-kubernetes-validations".to_owned(), rules(CONTAINER_RULES));
            }
        }
    }
    if let Some(meta) = value.pointer_mut("/properties/metadata").and_then(Value::as_object_mut) {
        let text = |most: u32| json!({"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": most}});
        // Kubernetes prunes all else of a template's metadata in a custom resource unless it is named here.
        meta.insert("properties".to_owned(), json!({"labels": text(63), "annotations": text(4096)}));
        meta.insert("x-kubernetes-validations".to_owned(), rules(METADATA_RULES));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("required".to_owned(), json!(["spec"]));
        object.insert(
            "description".to_owned(),
            json!("The pod template of a worker. Its first container gets the cards."),
        );
    }
    Schema::try_from(value).unwrap_or_default()
}

/// A rule and what it says.
type Rule = (&'static str, &'static str);

const POD_RULES: &[Rule] = &[
    (
        "!has(self.nodeName)",
        "leave nodeName out: Tenure's contracts and the scheduler decide where a worker runs",
    ),
    (
        "!has(self.schedulerName) || self.schedulerName == 'default-scheduler'",
        "leave schedulerName out: only the default scheduler keeps the contract",
    ),
    ("!has(self.hostNetwork) || !self.hostNetwork", "leave hostNetwork out: a worker has its own network"),
    ("!has(self.hostPID) || !self.hostPID", "leave hostPID out: a worker sees its own processes only"),
    ("!has(self.hostIPC) || !self.hostIPC", "leave hostIPC out: a worker shares no memory with its node"),
    (
        "!has(self.priorityClassName) || self.priorityClassName == ''",
        "leave priorityClassName out: the contract decides who comes first",
    ),
    ("!has(self.priority)", "leave priority out: the contract decides who comes first"),
    (
        "!has(self.volumes) || self.volumes.all(v, !has(v.hostPath))",
        "leave hostPath volumes out: use an emptyDir, a PersistentVolumeClaim or a ConfigMap",
    ),
    (
        "!has(self.nodeSelector) || self.nodeSelector.all(k, !k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/'))",
        "leave labels of tenure.dev out of nodeSelector: the contract places the worker",
    ),
    (
        "!has(self.tolerations) || self.tolerations.all(t, has(t.key) && t.key != '' && !t.key.startsWith('tenure.dev/') && !t.key.contains('.tenure.dev/'))",
        "tolerations must name a key, and not one of tenure.dev: the contract adds its own",
    ),
    (
        "!has(self.resourceClaims)",
        "leave resourceClaims out: cards come from the contract (workers.gpus or the machine type)",
    ),
    ("!has(self.ephemeralContainers)", "leave ephemeralContainers out: use kubectl debug on a worker"),
    (
        "!has(self.restartPolicy) || self.restartPolicy == 'Always'",
        "restartPolicy must be Always, or left out: a worker runs until the contract ends it",
    ),
    (
        "!has(self.activeDeadlineSeconds)",
        "leave activeDeadlineSeconds out: a worker runs until the contract ends it",
    ),
    ("!has(self.schedulingGates)", "leave schedulingGates out: a worker with a gate never starts"),
    ("!has(self.schedulingGroup)", "leave schedulingGroup out: the contract decides which workers start"),
    (
        "!has(self.volumes) || self.volumes.all(v, !v.name.startsWith('tenure-'))",
        "names of volumes may not begin with tenure-: the contract adds its own under such names",
    ),
    ("!has(self.resources)", "give resources per container, not for the pod"),
    (
        "!has(self.serviceAccountName) || self.serviceAccountName.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "serviceAccountName must be the name of a ServiceAccount of this namespace",
    ),
];

const CONTAINER_RULES: &[Rule] = &[
    (
        "!has(self.securityContext) || !has(self.securityContext.privileged) || !self.securityContext.privileged",
        "leave privileged out: it reaches every card of the node",
    ),
    (
        "!has(self.env) || self.env.all(e, !(e.name in ['NVIDIA_VISIBLE_DEVICES', 'AMD_VISIBLE_DEVICES', 'ASCEND_VISIBLE_DEVICES', 'HABANA_VISIBLE_DEVICES', 'MTHREADS_VISIBLE_DEVICES']))",
        "leave NVIDIA_VISIBLE_DEVICES and its like out of env: it takes cards without asking for them",
    ),
    (
        "self.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "the name of a container must be lower-case letters, digits and `-`, such as main",
    ),
    (
        "!has(self.ports) || self.ports.all(p, !has(p.hostPort) || p.hostPort == 0)",
        "leave hostPort out: workers share their nodes",
    ),
    (
        "!has(self.resources) || !has(self.resources.limits) || self.resources.limits.all(k, !k.endsWith('/cards') && !k.contains('tenure.dev/'))",
        "leave resources of tenure.dev out: the contract adds them",
    ),
    (
        "!has(self.resources) || !has(self.resources.requests) || self.resources.requests.all(k, !k.endsWith('/cards') && !k.contains('tenure.dev/'))",
        "leave resources of tenure.dev out: the contract adds them",
    ),
    // The card types are not known here, the usual makers are; the operator refuses the resource of the card type itself.
    (
        "!has(self.resources) || !has(self.resources.limits) || self.resources.limits.all(k, !k.startsWith('nvidia.com/') && !k.startsWith('amd.com/') && !k.startsWith('gpu.intel.com/') && !k.startsWith('huawei.com/') && !k.startsWith('habana.ai/'))",
        "leave cards out of resources: workers.gpus (or the machine type) says how many, and the contract adds them",
    ),
    (
        "!has(self.resources) || !has(self.resources.requests) || self.resources.requests.all(k, !k.startsWith('nvidia.com/') && !k.startsWith('amd.com/') && !k.startsWith('gpu.intel.com/') && !k.startsWith('huawei.com/') && !k.startsWith('habana.ai/'))",
        "leave cards out of resources: workers.gpus (or the machine type) says how many, and the contract adds them",
    ),
    (
        "!has(self.resources) || !has(self.resources.claims)",
        "leave resources.claims out: cards come from the contract",
    ),
];

const METADATA_RULES: &[Rule] = &[
    (
        "!has(self.labels) || self.labels.all(k, !k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/'))",
        "leave labels of tenure.dev out: the operator sets them",
    ),
    (
        "!has(self.annotations) || self.annotations.all(k, k == 'tenure.dev/test' || (!k.startsWith('tenure.dev/') && !k.contains('.tenure.dev/')))",
        "leave annotations of tenure.dev out: the operator sets them",
    ),
    (
        "!has(self.annotations) || self.annotations.all(k, !k.startsWith('cdi.k8s.io/'))",
        "leave annotations of cdi.k8s.io out: they take devices without asking for them",
    ),
];

const EXPRESSION_RULES: &[Rule] = &[(
    "!self.key.startsWith('tenure.dev/') && !self.key.contains('.tenure.dev/')",
    "leave labels of tenure.dev out of affinity: the contract places the worker",
)];

const TERM_RULES: &[Rule] = &[(
    "!has(self.namespaces) && !has(self.namespaceSelector)",
    "affinity may not look into other namespaces: leave namespaces and namespaceSelector out",
)];

const SOURCE_RULES: &[Rule] =
    &[("!has(self.namespace)", "a volume's source must be of the same namespace: leave namespace out")];

/// Affinity names neither our labels nor another namespace, wherever in it a term stands.
fn stay_at_home(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("type").and_then(Value::as_str) == Some("array") {
                map.insert("maxItems".to_owned(), json!(16));
            }
            let found = match map.get("properties").and_then(Value::as_object) {
                Some(it) if it.contains_key("namespaceSelector") => Some(TERM_RULES),
                Some(it) if it.contains_key("operator") => Some(EXPRESSION_RULES),
                _ => None,
            };
            map.values_mut().for_each(stay_at_home);
            if let Some(found) = found {
                map.insert("x-kubernetes-validations".to_owned(), rules(found));
            }
            if found == Some(EXPRESSION_RULES)
                && let Some(key) =
                    map.get_mut("properties").and_then(|it| it.get_mut("key")).and_then(Value::as_object_mut)
            {
                key.insert("maxLength".to_owned(), json!(317));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(stay_at_home),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

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
