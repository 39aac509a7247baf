//! Builds the pod of a worker or server from its template: what the contract adds, and what the template may not exceed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodTemplateSpec, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;

use super::facts::Problem;
use crate::api::condition::Reason;
use crate::api::names;
use crate::domain::book::Share;
use crate::domain::units::{Size, parse_milli, parse_whole};

/// What a contract adds to a template.
pub struct Worker<'a> {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The contract.
    pub owner: OwnerReference,
    /// Labels that say whose it is.
    pub labels: BTreeMap<String, String>,
    /// The physical resource.
    pub card_resource: &'a str,
    /// The share that it asks for.
    pub share: Share,
    /// Cards.
    pub cards: u32,
    /// All that it may use: cards × perCard, or the machine type.
    pub size: Size,
    /// Its disk's limit in bytes; `None` = that of `size`.
    pub disk_bytes: Option<i64>,
    /// Node labels that it must have.
    pub node_selector: BTreeMap<String, String>,
    /// The node that it is promised: preferred, not forced; the scheduler has the last word.
    pub promised_node: Option<String>,
    /// The template.
    pub template: &'a PodTemplateSpec,
}

/// The revision of a template: 8 hex digits of its contents.
pub fn revision(template: &PodTemplateSpec) -> String {
    // FNV-1a: the same on every machine and in every version, which std's hasher does not promise.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// Does the template stay within what comes with its cards? What the API server's rules check is checked again: they may
/// be absent.
pub fn validate(template: &PodTemplateSpec, card_resource: &str, size: &Size) -> Result<(), Problem> {
    let invalid = |message: String| Err(Problem::new(Reason::Invalid, message));
    let Some(spec) = template.spec.as_ref().filter(|it| !it.containers.is_empty()) else {
        return invalid("template.spec.containers must have at least one container".to_owned());
    };
    let host = [spec.host_network, spec.host_pid, spec.host_ipc].contains(&Some(true));
    let volumes = spec.volumes.iter().flatten().any(|it| it.host_path.is_some());
    if host || volumes || spec.node_name.is_some() || spec.priority_class_name.is_some() || spec.scheduler_name.as_deref().is_some_and(|it| it != "default-scheduler") {
        return invalid("the template may not use the host (network, PID, IPC, hostPath), nodeName, schedulerName or priorityClassName".to_owned());
    }
    let mut used = Size::default();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let privileged = container.security_context.as_ref().and_then(|it| it.privileged) == Some(true);
        if privileged || container.env.iter().flatten().any(|it| it.name == "NVIDIA_VISIBLE_DEVICES") {
            return invalid(format!("container {} may neither be privileged nor set NVIDIA_VISIBLE_DEVICES", container.name));
        }
        let named = container.resources.iter().flat_map(|it| it.limits.iter().chain(&it.requests).flatten());
        if let Some((name, _)) = named.clone().find(|(name, _)| name.contains("tenure.dev/") || *name == card_resource) {
            return invalid(format!("container {} asks for {name}: the contract adds its cards itself, leave it out", container.name));
        }
    }
    for container in &spec.containers {
        let most = asked(container, |it| it.limits.as_ref()).map_err(|it| Problem::new(Reason::Invalid, it))?;
        let least = asked(container, |it| it.requests.as_ref()).map_err(|it| Problem::new(Reason::Invalid, it))?;
        used = used.plus(&Size {
            cpu_milli: most.cpu_milli.max(least.cpu_milli),
            memory_bytes: most.memory_bytes.max(least.memory_bytes),
            disk_bytes: most.disk_bytes.max(least.disk_bytes),
        });
    }
    if used.cpu_milli > size.cpu_milli || used.memory_bytes > size.memory_bytes || used.disk_bytes > size.disk_bytes {
        return invalid(format!(
            "the template asks for {}m CPU, {} bytes of memory and {} of disk; its cards come with {}m, {} and {} at most",
            used.cpu_milli, used.memory_bytes, used.disk_bytes, size.cpu_milli, size.memory_bytes, size.disk_bytes
        ));
    }
    Ok(())
}

type Amounts = BTreeMap<String, Quantity>;

fn asked(container: &Container, which: fn(&ResourceRequirements) -> Option<&Amounts>) -> Result<Size, String> {
    let amounts = container.resources.as_ref().and_then(which);
    let find = |name: &str| amounts.and_then(|it| it.get(name)).map_or("0", |it| it.0.as_str());
    let read = || {
        Ok(Size { cpu_milli: parse_milli(find("cpu"))?, memory_bytes: parse_whole(find("memory"))?, disk_bytes: parse_whole(find("ephemeral-storage"))? })
    };
    read().map_err(|it: crate::domain::units::NotAQuantity| format!("container {}: {it}", container.name))
}

/// The pod.
pub fn build(worker: &Worker) -> Pod {
    let meta = worker.template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.extend(worker.labels.clone());
    let mut annotations = meta.annotations.unwrap_or_default();
    if let Some(node) = &worker.promised_node {
        annotations.insert(names::PROMISED_NODE.to_owned(), node.clone());
    }
    let mut spec = worker.template.spec.clone().unwrap_or_default();
    spec.tolerations.get_or_insert_default().push(Toleration {
        key: Some(names::TAINT.to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    });
    spec.node_selector.get_or_insert_default().extend(worker.node_selector.clone());
    give_cards(&mut spec.containers, worker);
    if let Some(node) = &worker.promised_node {
        let term = json!({"weight": 100, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}});
        if let Ok(term) = serde_json::from_value(term) {
            let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
            affinity.preferred_during_scheduling_ignored_during_execution.get_or_insert_default().push(term);
        }
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(worker.name.clone()),
            namespace: Some(worker.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            finalizers: Some(vec![names::METERING.to_owned()]),
            owner_references: Some(vec![worker.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The first container gets the cards, and what of the machine goes with them as far as the template does not say.
fn give_cards(containers: &mut [Container], worker: &Worker) {
    let disk_bytes = worker.disk_bytes.unwrap_or(worker.size.disk_bytes);
    let mut left = Size { disk_bytes, ..worker.size };
    for other in containers.iter().skip(1) {
        left = left.less(&asked(other, |it| it.limits.as_ref().or(it.requests.as_ref())).unwrap_or_default());
    }
    let Some(first) = containers.first_mut() else { return };
    let resources = first.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    for (name, cards) in [(worker.card_resource.to_owned(), worker.cards), (worker.share.resource(), worker.cards)] {
        limits.insert(name, Quantity(cards.to_string()));
    }
    for (name, amount) in [
        ("cpu", format!("{}m", left.cpu_milli)),
        ("memory", left.memory_bytes.to_string()),
        ("ephemeral-storage", left.disk_bytes.to_string()),
    ] {
        // A limit that is absent is all that is left; the API server makes the request of the limit.
        limits.entry(name.to_owned()).or_insert(Quantity(amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(json: serde_json::Value) -> PodTemplateSpec {
        serde_json::from_value(json).unwrap()
    }

    const SIZE: Size = Size { cpu_milli: 8_000, memory_bytes: 64, disk_bytes: 60 };

    #[test]
    fn a_template_stays_within_its_cards() {
        for (container, wrong) in [
            (json!({"name": "m", "resources": {"limits": {"cpu": "8", "memory": "64"}}}), None),
            (json!({"name": "m", "resources": {"limits": {"cpu": "9"}}}), Some("9000m CPU")),
            (json!({"name": "m", "resources": {"requests": {"memory": "65"}}}), Some("65 bytes of memory")),
            (json!({"name": "m", "resources": {"limits": {"nvidia.com/gpu": "1"}}}), Some("asks for nvidia.com/gpu")),
            (json!({"name": "m", "resources": {"limits": {"shared.tenure.dev/cards": "1"}}}), Some("asks for shared.tenure.dev/cards")),
            (json!({"name": "m", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}), Some("NVIDIA_VISIBLE_DEVICES")),
            (json!({"name": "m", "securityContext": {"privileged": true}}), Some("privileged")),
        ] {
            let found = validate(&template(json!({"spec": {"containers": [container]}})), "nvidia.com/gpu", &SIZE);
            match (found, wrong) {
                (Ok(()), None) => (),
                (Err(problem), Some(words)) => assert!(problem.message.contains(words), "{}", problem.message),
                (found, wrong) => panic!("{found:?} instead of {wrong:?}"),
            }
        }
    }

    #[test]
    fn the_first_container_gets_cards_and_the_rest_of_the_machine() {
        let template = template(json!({"spec": {"containers": [
            {"name": "main"},
            {"name": "side", "resources": {"limits": {"cpu": "500m", "memory": "4"}}}]}}));
        let pod = build(&Worker {
            name: "llm-1".to_owned(),
            namespace: "a".to_owned(),
            owner: OwnerReference::default(),
            labels: BTreeMap::new(),
            card_resource: "nvidia.com/gpu",
            share: Share::Shared,
            cards: 1,
            size: SIZE,
            disk_bytes: None,
            node_selector: BTreeMap::new(),
            promised_node: Some("gpu-1".to_owned()),
            template: &template,
        });
        let limits = pod.spec.unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
        let expected = [("cpu", "7500m"), ("ephemeral-storage", "60"), ("memory", "60"), ("nvidia.com/gpu", "1"), ("shared.tenure.dev/cards", "1")];
        let found: Vec<(&str, &str)> = limits.iter().map(|(name, it)| (name.as_str(), it.0.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(pod.metadata.finalizers.unwrap(), [names::METERING]);
    }

    #[test]
    fn a_revision_is_a_function_of_the_template() {
        let a = template(json!({"spec": {"containers": [{"name": "m", "image": "a"}]}}));
        let b = template(json!({"spec": {"containers": [{"name": "m", "image": "b"}]}}));
        assert_eq!(revision(&a), revision(&a.clone()));
        assert_ne!(revision(&a), revision(&b));
    }
}
