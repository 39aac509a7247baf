//! The story on real nodes: containers that run, answer, finish what they began, and survive the restart of their kubelet.
//!
//! Simulated nodes can't show any of this. The test runs in the cluster's network, so a pod's address is reachable. It
//! needs two real nodes (`e2e/cluster/up 4 2`) and is skipped, with a word about it, where there are none: real nodes need
//! root.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::support::{field, k, kubectl, must_apply, until};
use crate::world::World;

/// The story's name, and its namespace.
const NAMESPACE: &str = "real-nodes";

/// Their cards. Most stories have nodes of their own; those on real ones take turns.
const CARD_TYPE: &str = include_str!("../../e2e/cluster/manifests/card-type-test.yaml");

const CONTRACT: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: Tariff
metadata: {name: "@"}
spec:
  region: "@"
  currency: EUR
  serverless: {cards: [{cardType: test, perSecond: "0.01"}]}
---
apiVersion: tenure.dev/v1alpha1
kind: ServerlessEndpoint
metadata: {namespace: "@", name: llm}
spec:
  placement: {serverless: {cardType: test, region: "@"}}
  workers: {active: 1, max: 1}
  template:
    spec:
      containers:
      - name: main
        image: localhost/worker:1
        imagePullPolicy: Never
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        env:
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
"#;

#[test]
fn a_worker_runs_moves_without_losing_a_request_and_survives_its_kubelet() {
    if !are_there() {
        return;
    }
    // The simulated node is only what the story's witness looks at.
    let world = World::new(NAMESPACE, 1);
    let _operator = world.operator();
    // A run that was cut off may have left a node cordoned.
    k("uncordon real-0 real-1").expect("the nodes take work");
    must_apply(CARD_TYPE);
    world.apply(CONTRACT);

    // It really runs, on a card of the contract, and says so itself.
    let worker = ready_worker();
    assert_eq!(
        field(&worker.object(), r".spec.containers[0].resources.limits.shared\.tenure\.dev/cards"),
        "1"
    );
    let answer = worker.get("/").expect("a ready worker answers");
    assert_eq!(answer, format!("pod={} node={} open=1 most=1", worker.name, worker.node));

    // It has to go while it answers a request: it takes no other, and finishes this one first.
    let (slow, first_node) = (worker.address.clone(), worker.node.clone());
    let request = std::thread::spawn(move || get(&slow, "/slow?seconds=10"));
    until("the slow request to be open", || {
        worker.get("/").and_then(|it| if it.contains("open=2") { Ok(()) } else { Err(it) })
    });
    k(&format!("cordon {first_node}")).expect("the node is cordoned");
    k(&format!("delete -n {NAMESPACE} pod {} --wait=false", worker.name)).expect("the worker is asked to go");
    until("the worker to take no more requests", || worker.get("/").map_or_else(|_| Ok(()), Err));
    assert!(!request.is_finished(), "the request ended before the worker was told to go: nothing is shown");
    let answer = request.join().expect("the request's thread ends").expect("a request in flight is finished");
    assert!(answer.starts_with(&format!("pod={}", worker.name)), "{answer}");

    // Its successor is on the other node.
    let moved = ready_worker();
    assert_ne!((&moved.node, &moved.uid), (&worker.node, &worker.uid));
    assert_ne!(moved.node, first_node);
    assert!(moved.get("/").is_ok_and(|it| it.contains(&format!("node={}", moved.node))));
    until("the first worker to be gone", || {
        let uid = field(&worker.object(), ".metadata.uid");
        if uid == worker.uid { Err("it is still there".to_owned()) } else { Ok(()) }
    });
    k(&format!("uncordon {first_node}")).expect("the node takes work again");

    // A kubelet that dies and comes back changes nothing: not the container, and not a card of the book.
    let before = Facts::of(&moved);
    assert_eq!(before.restarts, "0");
    restart_kubelet(&moved.node);
    assert_eq!(Facts::of(&moved), before);
    assert!(moved.get("/").is_ok(), "the worker answers as before");

    world.k("delete serverlessendpoint llm --timeout=60s");
    world.until_empty(1);
    k("delete cardtype test").expect("the card type goes");
    until("the nodes to be let go", || match k("get nodes -l tenure.dev/card-type=test -o name")? {
        none if none.is_empty() => Ok(()),
        nodes => Err(nodes),
    });
}

/// Are there two real nodes? If not, a story says that it is skipped, or fails where there should be.
pub fn are_there() -> bool {
    let there = !field("node/real-1", ".metadata.name").is_empty();
    if !there {
        let wanted = std::env::var("TENURE_REAL_NODES").is_ok_and(|it| it != "0");
        assert!(!wanted, "TENURE_REAL_NODES is set, but the cluster has no two real nodes");
        eprintln!("skipped: no real nodes; `e2e/cluster/up 4 2` makes two");
    }
    there
}

/// A worker that is ready.
struct Worker {
    name: String,
    uid: String,
    node: String,
    address: String,
}

impl Worker {
    fn object(&self) -> String {
        format!("-n {NAMESPACE} pod/{}", self.name)
    }

    fn get(&self, path: &str) -> Result<String, String> {
        get(&self.address, path)
    }
}

/// Waits for a worker that is Ready and not on its way out.
fn ready_worker() -> Worker {
    const COLUMNS: &str = "jsonpath={range .items[*]}{.metadata.name}|{.metadata.uid}|{.spec.nodeName}|{.status.podIP}|\
        {.status.conditions[?(@.type=='Ready')].status}|{.metadata.deletionTimestamp}{'\\n'}{end}";
    until("a ready worker", || {
        let pods =
            kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "tenure.dev/endpoint=llm", "-o", COLUMNS])?;
        let ready = pods.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
            [name, uid, node, address, "True", ""] => Some(Worker {
                name: name.to_owned(),
                uid: uid.to_owned(),
                node: node.to_owned(),
                address: address.to_owned(),
            }),
            _ => None,
        });
        ready.ok_or_else(|| {
            format!("pods `{pods}`, endpoint {}", field("-n real-nodes sep/llm", ".status.conditions"))
        })
    })
}

/// The body of a 200, or what came instead.
fn get(address: &str, path: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect((address, 8080)).map_err(|it| format!("connect {address}: {it}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|it| it.to_string())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
        .map_err(|it| format!("send: {it}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|it| format!("read: {it}, after `{answer}`"))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.trim_end().to_owned()),
        _ => Err(format!("`{answer}`")),
    }
}

/// What a restart of the kubelet may not change.
#[derive(Debug, PartialEq)]
struct Facts {
    uid: String,
    container: String,
    restarts: String,
    address: String,
    capacity: String,
    allocatable: String,
}

impl Facts {
    fn of(worker: &Worker) -> Self {
        let (pod, node) = (worker.object(), format!("node/{}", worker.node));
        Self {
            uid: field(&pod, ".metadata.uid"),
            container: field(&pod, ".status.containerStatuses[0].containerID"),
            restarts: field(&pod, ".status.containerStatuses[0].restartCount"),
            address: field(&pod, ".status.podIP"),
            capacity: field(&node, ".status.capacity"),
            allocatable: field(&node, ".status.allocatable"),
        }
    }
}

/// Kills a node's kubelet as a crash would, starts it again, and waits until it has reported its node.
fn restart_kubelet(node: &str) {
    const REPORTED: &str = ".status.conditions[?(@.type=='Ready')].lastHeartbeatTime";
    let state = std::env::var("TENURE_STATE").expect("e2e/cluster/enter sets it");
    let pid_file = format!("{state}/pid/kubelet-{node}");
    let pid = || std::fs::read_to_string(&pid_file).expect("the kubelet's pid is recorded").trim().to_owned();
    let (old, reported) = (pid(), field(&format!("node/{node}"), REPORTED));
    let run = |program: &str, words: &[&str]| {
        let output =
            Command::new(program).args(words).output().unwrap_or_else(|it| panic!("{program}: {it}"));
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("kill", &["-9", &old]);
    run("e2e/cluster/real-node", &[node]);
    assert_ne!(pid(), old, "the kubelet is a new process");
    until("the kubelet to report its node", || {
        let now = field(&format!("node/{node}"), REPORTED);
        if now == reported { Err(now) } else { Ok(()) }
    });
}
