//! The route of an endpoint, as gateways need it: a function from what is known of it to the message.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::api::{ServerlessEndpoint, names};
use crate::cluster::slim::SlimPod;
use crate::controllers::pool::{count, is_leaving};
use crate::link::message::{EndpointKey, Key, Limit, Probe, Route, Serving, Worker};

/// What a route is made from.
pub(in crate::controllers) struct Facts<'a> {
    /// The endpoint.
    pub endpoint: &'a ServerlessEndpoint,
    /// Its pods, and whether the node of each is gone.
    pub pods: &'a [(Arc<SlimPod>, bool)],
    /// Does its state let it run? `None`: that can't be told.
    pub runs: Option<bool>,
    /// Is it valid, and what it is bound to ready?
    pub usable: bool,
    /// For one that is bound: instances that it has.
    pub instances: Option<u32>,
    /// The allocator has no room for a first worker.
    pub no_card: bool,
    /// Its workers end by themselves, one after the other.
    pub crashing: bool,
    /// Who may call; `None` = anybody.
    pub keys: Option<Vec<Key>>,
}

/// How an endpoint is called between processes.
pub(in crate::controllers) fn key_of(endpoint: &ServerlessEndpoint) -> EndpointKey {
    EndpointKey { namespace: endpoint.namespace().unwrap_or_default(), name: endpoint.name_any() }
}

/// The route, without its owner.
pub(in crate::controllers) fn build(facts: &Facts) -> Route {
    let endpoint = facts.endpoint;
    let spec = &endpoint.spec;
    let queue = spec.queue.clone().unwrap_or_default();
    let timeouts = spec.timeouts.clone().unwrap_or_default();
    let concurrency = count(spec.workers.concurrency).max(1);
    let ms = |seconds: i32| u64::from(count(seconds)) * 1_000;
    Route {
        endpoint: key_of(endpoint),
        owner: String::new(),
        epoch: 0,
        serving: serving(facts),
        concurrency,
        limit: match facts.instances {
            Some(instances) => Limit::AtOnce { requests: instances.saturating_mul(concurrency) },
            None => Limit::Queue { depth: count(queue.depth) },
        },
        queue_timeout_ms: ms(queue.timeout_seconds),
        first_byte_timeout_ms: ms(timeouts.first_byte_seconds),
        idle_timeout_ms: ms(timeouts.idle_seconds),
        total_timeout_ms: ms(timeouts.total_seconds),
        drain_ms: ms(timeouts.drain_seconds),
        keys: facts.keys.clone(),
        probe: probe(&spec.template),
        workers: workers(facts),
    }
}

/// Checks in declared order: what its owner says comes first, then what serves, then why nothing does.
fn serving(facts: &Facts) -> Serving {
    let ready = facts.pods.iter().any(|(pod, gone)| is_open(pod, *gone) && !pod.is_over() && pod.is_ready());
    // Also the card of one that is on its way out will be there in a moment.
    let any = facts.pods.iter().any(|(pod, gone)| !gone && !pod.is_over() && !ended(pod));
    match () {
        () if is_leaving(facts.endpoint) => Serving::Unavailable,
        () if facts.runs == Some(false) => Serving::Stopped,
        // What can't be understood is left as it is: running workers serve on.
        () if ready => Serving::Yes,
        () if facts.runs.is_none() || !facts.usable => Serving::Unavailable,
        () if facts.crashing => Serving::Crashing,
        () if facts.no_card && !any => Serving::NoCard,
        () => Serving::Yes,
    }
}

/// May it get new requests?
fn is_open(pod: &SlimPod, node_gone: bool) -> bool {
    !node_gone
        && pod.metadata.deletion_timestamp.is_none()
        && !pod.annotations().contains_key(names::CLOSING_SINCE)
}

fn workers(facts: &Facts) -> Vec<Worker> {
    let port = u16::try_from(facts.endpoint.spec.port).unwrap_or(0);
    let mut pods: Vec<&(Arc<SlimPod>, bool)> =
        facts.pods.iter().filter(|(pod, _)| !pod.is_over() && !ended(pod)).collect();
    pods.sort_by_key(|(pod, _)| (pod.metadata.creation_timestamp.clone(), pod.name_any()));
    pods.into_iter()
        .filter_map(|(pod, node_gone)| {
            let ip: IpAddr = pod.status.pod_ip.as_ref()?.parse().ok()?;
            Some(Worker {
                id: pod.metadata.uid.clone()?,
                name: pod.name_any(),
                address: SocketAddr::new(ip, port),
                closing: !is_open(pod, *node_gone),
            })
        })
        .collect()
}

/// Does nothing of it run any more? One that the kubelet has not begun with has not ended.
fn ended(pod: &SlimPod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.has_ended()
}

/// As the first container's readinessProbe says, if a gateway can ask that way.
fn probe(template: &PodTemplateSpec) -> Probe {
    let first = template.spec.as_ref().and_then(|it| it.containers.first());
    let Some((container, get)) =
        first.and_then(|it| Some((it, it.readiness_probe.as_ref()?.http_get.as_ref()?)))
    else {
        return Probe::Connect;
    };
    // Gateways ask in plain HTTP.
    if get.scheme.as_deref().is_some_and(|it| !it.eq_ignore_ascii_case("http")) {
        return Probe::Connect;
    }
    let port = match &get.port {
        IntOrString::Int(port) => Some(*port),
        IntOrString::String(name) => name.parse().ok().or_else(|| named(container, name)),
    };
    match port.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0) {
        Some(port) => {
            let path = get.path.clone().unwrap_or_default();
            Probe::Get { port, path: if path.starts_with('/') { path } else { format!("/{path}") } }
        }
        None => Probe::Connect,
    }
}

fn named(container: &Container, name: &str) -> Option<i32> {
    container.ports.iter().flatten().find(|it| it.name.as_deref() == Some(name)).map(|it| it.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn endpoint(change: &Value) -> ServerlessEndpoint {
        let mut object = json!({
            "apiVersion": "tenure.dev/v1alpha1", "kind": "ServerlessEndpoint",
            "metadata": {"namespace": "a", "name": "llm"},
            "spec": {
                "placement": {"serverless": {"cardType": "ada"}},
                "workers": {"active": 0, "max": 4, "concurrency": 8},
                "template": {"spec": {"containers": [{"name": "main"}]}},
            },
        });
        merge(&mut object, change);
        serde_json::from_value(object).unwrap()
    }

    fn merge(into: &mut Value, change: &Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change.clone(),
        }
    }

    fn pod(number: u32, change: &Value) -> (Arc<SlimPod>, bool) {
        let mut object = json!({
            "metadata": {"namespace": "a", "name": format!("llm-{number}"), "uid": format!("u{number}"), "creationTimestamp": format!("2026-11-23T00:00:0{}Z", 9 - number)},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "podIP": format!("10.0.0.{number}"), "conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut object, change);
        (Arc::new(serde_json::from_value(object).unwrap()), false)
    }

    fn facts<'a>(endpoint: &'a ServerlessEndpoint, pods: &'a [(Arc<SlimPod>, bool)]) -> Facts<'a> {
        Facts {
            endpoint,
            pods,
            runs: Some(true),
            usable: true,
            instances: None,
            no_card: false,
            crashing: false,
            keys: None,
        }
    }

    /// What it is, the endpoint, its pods, what else is so, and what follows.
    type Case<'a> = (&'a str, &'a ServerlessEndpoint, &'a [(Arc<SlimPod>, bool)], fn(&mut Facts), Serving);

    #[test]
    fn why_an_endpoint_serves_or_not() {
        let plain = endpoint(&json!({}));
        let deleted = endpoint(&json!({"metadata": {"deletionTimestamp": "2026-11-23T00:00:00Z"}}));
        let ready = [pod(1, &json!({}))];
        let over = [pod(1, &json!({"status": {"phase": "Failed"}}))];
        let starting = [pod(1, &json!({"status": {"conditions": []}}))];
        let closing =
            [pod(1, &json!({"metadata": {"annotations": {(names::CLOSING_SINCE): "2026-11-23T00:00:00Z"}}}))];
        let cases: [Case; 15] = [
            ("idle", &plain, &[], |_| (), Serving::Yes),
            ("running", &plain, &ready, |_| (), Serving::Yes),
            ("being deleted", &deleted, &ready, |_| (), Serving::Unavailable),
            ("stopped", &plain, &ready, |it| it.runs = Some(false), Serving::Stopped),
            ("bad schedule", &plain, &[], |it| it.runs = None, Serving::Unavailable),
            ("bad schedule, but running", &plain, &ready, |it| it.runs = None, Serving::Yes),
            ("invalid", &plain, &[], |it| it.usable = false, Serving::Unavailable),
            ("invalid, but running", &plain, &ready, |it| it.usable = false, Serving::Yes),
            (
                "invalid and stopped",
                &plain,
                &[],
                |it| (it.usable, it.runs) = (false, Some(false)),
                Serving::Stopped,
            ),
            ("no card", &plain, &[], |it| it.no_card = true, Serving::NoCard),
            ("no card for one more", &plain, &starting, |it| it.no_card = true, Serving::Yes),
            ("no card until the last one has gone", &plain, &closing, |it| it.no_card = true, Serving::Yes),
            ("no card, and the last one has ended", &plain, &over, |it| it.no_card = true, Serving::NoCard),
            ("crashing", &plain, &starting, |it| it.crashing = true, Serving::Crashing),
            ("one crashes, another runs", &plain, &ready, |it| it.crashing = true, Serving::Yes),
        ];
        for (what, endpoint, pods, change, expected) in cases {
            let mut facts = facts(endpoint, pods);
            change(&mut facts);
            assert_eq!(build(&facts).serving, expected, "{what}");
        }
    }

    #[test]
    fn limits_and_clocks_are_as_written_or_the_defaults() {
        let plain = endpoint(&json!({}));
        let route = build(&facts(&plain, &[]));
        assert_eq!((route.concurrency, route.limit), (8, Limit::Queue { depth: 100 }));
        let clocks = |it: &Route| {
            (
                it.queue_timeout_ms,
                it.first_byte_timeout_ms,
                it.idle_timeout_ms,
                it.total_timeout_ms,
                it.drain_ms,
            )
        };
        assert_eq!(clocks(&route), (60_000, 600_000, 60_000, 0, 30_000));
        let given = endpoint(&json!({"spec": {
            "queue": {"depth": 3, "timeoutSeconds": 1},
            "timeouts": {"firstByteSeconds": 2, "idleSeconds": 3, "totalSeconds": 4, "drainSeconds": 0},
        }}));
        let route = build(&facts(&given, &[]));
        assert_eq!(route.limit, Limit::Queue { depth: 3 });
        assert_eq!(clocks(&route), (1_000, 2_000, 3_000, 4_000, 0));
        let bound = build(&Facts { instances: Some(3), ..facts(&plain, &[]) });
        assert_eq!(bound.limit, Limit::AtOnce { requests: 24 });
        assert_eq!(build(&Facts { keys: Some(vec![]), ..facts(&plain, &[]) }).keys, Some(vec![]));
    }

    #[test]
    fn workers_have_an_address_and_come_oldest_first() {
        let plain = endpoint(&json!({"spec": {"port": 9000}}));
        let mut pods = vec![
            pod(1, &json!({})),
            pod(2, &json!({"metadata": {"annotations": {(names::CLOSING_SINCE): "2026-11-23T00:00:00Z"}}})),
            pod(
                3,
                &json!({"metadata": {"deletionTimestamp": "2026-11-23T00:00:00Z"}, "status": {"containerStatuses": [{"state": {"running": {}}}]}}),
            ),
            pod(4, &json!({"status": {"podIP": null}})),
            pod(5, &json!({"status": {"phase": "Failed"}})),
            pod(6, &json!({"status": {"podIP": "fd00::6"}})),
            pod(
                7,
                &json!({"metadata": {"deletionTimestamp": "2026-11-23T00:00:00Z"}, "status": {"containerStatuses": [{"state": {"terminated": {}}}]}}),
            ),
            pod(8, &json!({})),
        ];
        pods[7].1 = true;
        let route = build(&facts(&plain, &pods));
        let workers: Vec<(&str, String, bool)> =
            route.workers.iter().map(|it| (it.id.as_str(), it.address.to_string(), it.closing)).collect();
        assert_eq!(
            workers
                .iter()
                .map(|(id, address, closing)| (*id, address.as_str(), *closing))
                .collect::<Vec<_>>(),
            [
                ("u8", "10.0.0.8:9000", true),
                ("u6", "[fd00::6]:9000", false),
                ("u3", "10.0.0.3:9000", true),
                ("u2", "10.0.0.2:9000", true),
                ("u1", "10.0.0.1:9000", false),
            ]
        );
    }

    #[test]
    fn a_worker_is_asked_as_its_template_says() {
        let get = |port: u16, path: &str| Probe::Get { port, path: path.to_owned() };
        for (container, expected) in [
            (json!({"name": "m"}), Probe::Connect),
            (json!({"name": "m", "readinessProbe": {"tcpSocket": {"port": 1}}}), Probe::Connect),
            (
                json!({"name": "m", "readinessProbe": {"httpGet": {"port": 81, "path": "/healthz?x=1"}}}),
                get(81, "/healthz?x=1"),
            ),
            (json!({"name": "m", "readinessProbe": {"httpGet": {"port": 81}}}), get(81, "/")),
            (json!({"name": "m", "readinessProbe": {"httpGet": {"port": 81, "path": "up"}}}), get(81, "/up")),
            (
                json!({"name": "m", "ports": [{"name": "web", "containerPort": 82}], "readinessProbe": {"httpGet": {"port": "web"}}}),
                get(82, "/"),
            ),
            (json!({"name": "m", "readinessProbe": {"httpGet": {"port": "web"}}}), Probe::Connect),
            (
                json!({"name": "m", "readinessProbe": {"httpGet": {"port": 81, "scheme": "HTTPS"}}}),
                Probe::Connect,
            ),
            (json!({"name": "m", "readinessProbe": {"httpGet": {"port": 99999}}}), Probe::Connect),
        ] {
            let template = serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap();
            assert_eq!(probe(&template), expected, "{container}");
        }
    }
}
