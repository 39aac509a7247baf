//! Builds the pod of a worker or server from its template: what the contract adds, and what the template may not exceed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, Pod, PodSpec, PodTemplateSpec, ResourceRequirements, Toleration,
};
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

/// The revision of a worker: 8 hex digits of its template, and of the cards and disk that it gets.
pub fn revision(template: &PodTemplateSpec, share: &Share, cards: u32, disk_bytes: Option<i64>) -> String {
    // FNV-1a: the same on every machine and in every version, which std's hasher does not promise.
    let text = serde_json::to_vec(&(template, share.resource(), cards, disk_bytes)).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
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
    if host
        || volumes
        || spec.node_name.is_some()
        || spec.priority_class_name.is_some()
        || spec.scheduler_name.as_deref().is_some_and(|it| it != "default-scheduler")
    {
        return invalid("the template may not use the host (network, PID, IPC, hostPath), nodeName, schedulerName or priorityClassName".to_owned());
    }
    let mut used = Size::default();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let privileged = container.security_context.as_ref().and_then(|it| it.privileged) == Some(true);
        if privileged || container.env.iter().flatten().any(|it| it.name == "NVIDIA_VISIBLE_DEVICES") {
            return invalid(format!(
                "container {} may neither be privileged nor set NVIDIA_VISIBLE_DEVICES",
                container.name
            ));
        }
        let named = container.resources.iter().flat_map(|it| it.limits.iter().chain(&it.requests).flatten());
        if let Some((name, _)) =
            named.clone().find(|(name, _)| name.contains("tenure.dev/") || *name == card_resource)
        {
            return invalid(format!(
                "container {} asks for {name}: the contract adds its cards itself, leave it out",
                container.name
            ));
        }
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|it| is_sidecar(it));
    for (at, container) in spec.containers.iter().chain(sidecars).enumerate() {
        let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
        if at > 0 && ["cpu", "memory"].iter().any(|it| limits.is_none_or(|limits| !limits.contains_key(*it)))
        {
            let message = format!(
                "container {} needs limits of cpu and memory: the first container gets all that the others leave",
                container.name
            );
            return invalid(message);
        }
        used = used.plus(&most(container)?);
    }
    let too_much = |it: &Size| {
        it.cpu_milli > size.cpu_milli
            || it.memory_bytes > size.memory_bytes
            || it.disk_bytes > size.disk_bytes
    };
    for before in spec.init_containers.iter().flatten() {
        // One that runs before the others may have all of it.
        let alone = most(before)?;
        if too_much(&alone) && !too_much(&used) {
            used = alone;
        }
    }
    if too_much(&used) {
        return invalid(format!(
            "the template asks for {}m CPU, {} bytes of memory and {} of disk; its cards come with {}m, {} and {} at most",
            used.cpu_milli,
            used.memory_bytes,
            used.disk_bytes,
            size.cpu_milli,
            size.memory_bytes,
            size.disk_bytes
        ));
    }
    Ok(())
}

/// Does it run beside the containers?
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a container may use: the larger of limit and request.
fn most(container: &Container) -> Result<Size, Problem> {
    let limits = asked(container, |it| it.limits.as_ref()).map_err(|it| Problem::new(Reason::Invalid, it))?;
    let requests =
        asked(container, |it| it.requests.as_ref()).map_err(|it| Problem::new(Reason::Invalid, it))?;
    Ok(Size {
        cpu_milli: limits.cpu_milli.max(requests.cpu_milli),
        memory_bytes: limits.memory_bytes.max(requests.memory_bytes),
        disk_bytes: limits.disk_bytes.max(requests.disk_bytes),
    })
}

type Amounts = BTreeMap<String, Quantity>;

fn asked(
    container: &Container,
    which: fn(&ResourceRequirements) -> Option<&Amounts>,
) -> Result<Size, String> {
    let amounts = container.resources.as_ref().and_then(which);
    let find = |name: &str| amounts.and_then(|it| it.get(name)).map_or("0", |it| it.0.as_str());
    let read = || {
        Ok(Size {
            cpu_milli: parse_milli(find("cpu"))?,
            memory_bytes: parse_whole(find("memory"))?,
            disk_bytes: parse_whole(find("ephemeral-storage"))?,
        })
    };
    read().map_err(|it: crate::domain::units::NotAQuantity| format!("container {}: {it}", container.name))
}

/// The pod.
pub fn build(worker: &Worker) -> Pod {
    let meta = worker.template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.extend(worker.labels.clone());
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.remove(names::CLOSING_SINCE);
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
    give_cards(&mut spec, worker);
    hide_cards(&mut spec);
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
fn give_cards(spec: &mut PodSpec, worker: &Worker) {
    let disk_bytes = worker.disk_bytes.unwrap_or(worker.size.disk_bytes);
    let all = Size { disk_bytes, ..worker.size };
    let mut left = all;
    let sidecars = spec.init_containers.iter().flatten().filter(|it| is_sidecar(it));
    for other in spec.containers.iter().skip(1).chain(sidecars) {
        left = left.less(&most(other).unwrap_or_default());
    }
    for before in spec.init_containers.iter_mut().flatten().filter(|it| !is_sidecar(it)) {
        limit(before, &all);
    }
    let Some(first) = spec.containers.first_mut() else { return };
    let resources = first.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    for (name, cards) in
        [(worker.card_resource.to_owned(), worker.cards), (worker.share.resource(), worker.cards)]
    {
        limits.insert(name, Quantity(cards.to_string()));
    }
    limit(first, &left);
}

/// The cards are the first container's. An image may ask for all of them by itself; this says none.
fn hide_cards(spec: &mut PodSpec) {
    for container in spec.containers.iter_mut().skip(1).chain(spec.init_containers.iter_mut().flatten()) {
        let void = EnvVar {
            name: "NVIDIA_VISIBLE_DEVICES".to_owned(),
            value: Some("void".to_owned()),
            value_from: None,
        };
        container.env.get_or_insert_default().push(void);
    }
}

/// Limits that a container does not state.
fn limit(container: &mut Container, left: &Size) {
    let limits = container.resources.get_or_insert_default().limits.get_or_insert_default();
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
            (
                json!({"name": "m", "resources": {"limits": {"nvidia.com/gpu": "1"}}}),
                Some("asks for nvidia.com/gpu"),
            ),
            (
                json!({"name": "m", "resources": {"limits": {"shared.tenure.dev/cards": "1"}}}),
                Some("asks for shared.tenure.dev/cards"),
            ),
            (
                json!({"name": "m", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}),
                Some("NVIDIA_VISIBLE_DEVICES"),
            ),
            (json!({"name": "m", "securityContext": {"privileged": true}}), Some("privileged")),
        ] {
            let found =
                validate(&template(json!({"spec": {"containers": [container]}})), "nvidia.com/gpu", &SIZE);
            match (found, wrong) {
                (Ok(()), None) => (),
                (Err(problem), Some(words)) => {
                    assert!(problem.message.contains(words), "{}", problem.message);
                }
                (found, wrong) => panic!("{found:?} instead of {wrong:?}"),
            }
        }
    }

    #[test]
    fn what_runs_beside_the_first_container_is_limited() {
        let check = |spec: serde_json::Value| {
            validate(&template(json!({"spec": spec})), "nvidia.com/gpu", &SIZE).map_err(|it| it.message)
        };
        let limits = json!({"limits": {"cpu": "500m", "memory": "4"}});
        assert!(
            check(json!({"containers": [{"name": "m"}, {"name": "s"}]}))
                .unwrap_err()
                .contains("container s needs limits")
        );
        assert_eq!(check(json!({"containers": [{"name": "m"}, {"name": "s", "resources": limits}]})), Ok(()));
        let sidecar = json!({"name": "s", "restartPolicy": "Always"});
        assert!(
            check(json!({"containers": [{"name": "m"}], "initContainers": [sidecar]}))
                .unwrap_err()
                .contains("container s needs limits")
        );
        let first = json!({"name": "i", "resources": {"limits": {"memory": "65"}}});
        assert!(
            check(json!({"containers": [{"name": "m"}], "initContainers": [first]}))
                .unwrap_err()
                .contains("65 bytes of memory")
        );
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
        let spec = pod.spec.unwrap();
        let side = spec.containers[1].env.as_ref().unwrap();
        assert_eq!(
            (side[0].name.as_str(), side[0].value.as_deref()),
            ("NVIDIA_VISIBLE_DEVICES", Some("void"))
        );
        let limits = spec.containers[0].resources.clone().unwrap().limits.unwrap();
        let expected = [
            ("cpu", "7500m"),
            ("ephemeral-storage", "60"),
            ("memory", "60"),
            ("nvidia.com/gpu", "1"),
            ("shared.tenure.dev/cards", "1"),
        ];
        let found: Vec<(&str, &str)> =
            limits.iter().map(|(name, it)| (name.as_str(), it.0.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(pod.metadata.finalizers.unwrap(), [names::METERING]);
    }

    #[test]
    fn a_revision_is_a_function_of_the_template() {
        let a = template(json!({"spec": {"containers": [{"name": "m", "image": "a"}]}}));
        let b = template(json!({"spec": {"containers": [{"name": "m", "image": "b"}]}}));
        let of = |template: &PodTemplateSpec| revision(template, &Share::Shared, 1, None);
        assert_eq!(of(&a), of(&a.clone()));
        assert_ne!(of(&a), of(&b));
        assert_ne!(of(&a), revision(&a, &Share::Shared, 2, None));
        assert_ne!(of(&a), revision(&a, &Share::Resident(crate::domain::book::Key::new("p", "1")), 1, None));
    }
}
