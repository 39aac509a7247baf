//! Stories of the gateway: an operator, gateways as processes of their own, and the test worker in containers on the two real
//! nodes. What a story asserts about requests in a worker the worker itself has counted.
//!
//! They are skipped, with a word about it, where there are no real nodes.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt;
use tokio::runtime::Runtime;

use crate::caller::{Answered, Caller, Load, Tally};
use crate::gateway_process::{DOMAIN, Gateway, operator_arguments};
use crate::node_notices::{announce, in_seconds, until_condition, withdraw};
use crate::operator::{Operator, Start};
use crate::real_nodes;
use crate::support::{k, kubectl, until};
use crate::world::World;

/// The real nodes' cards, with CPU enough that a worker is not throttled until its probes fail.
const CARDS: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: CardType
metadata: {name: test}
spec:
  displayName: Test card
  resourceName: nvidia.com/gpu
  nodeSelector: {nvidia.com/gpu.product: NVIDIA-TEST}
  perCard: {cpu: 400m, memory: 128Mi, gpuMemory: 1Gi, disk: 20Gi}
---
apiVersion: tenure.dev/v1alpha1
kind: Tariff
metadata: {name: "@"}
spec:
  region: "@"
  currency: EUR
  resident: {diskPerGBMonth: "1", cards: [{cardType: test, perMonth: "1"}]}
  serverless: {cards: [{cardType: test, perSecond: "0.01"}]}
"#;

const POOL: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: ResidentPool
metadata: {namespace: "@", name: cards}
spec: {region: "@", cardType: test, cards: 2, diskPerCardGB: 10, term: {months: 1}, onShortage: Wait}
"#;

/// Where an endpoint's workers run.
pub const SHARED: &str = r#"{serverless: {cardType: test, region: "@"}}"#;
const IN_POOL: &str = "{residentPool: {name: cards, instances: 2, diskGB: 10}}";

/// An endpoint `llm`.
pub fn endpoint(placement: &str, workers: &str, load_seconds: u32) -> String {
    format!(
        r#"
apiVersion: tenure.dev/v1alpha1
kind: ServerlessEndpoint
metadata: {{namespace: "@", name: llm}}
spec:
  placement: {placement}
  workers: {workers}
  scaling: {{idleSeconds: 2, scaleDownDelaySeconds: 2}}
  timeouts: {{drainSeconds: 60}}
  template:
    spec:
      terminationGracePeriodSeconds: 60
      containers:
      - name: main
        image: localhost/worker:1
        imagePullPolicy: Never
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
        env:
        - {{name: LOAD_SECONDS, value: "{load_seconds}"}}
        - {{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
"#
    )
}

/// An operator that knows the first so many gateways, and leads.
fn start_operator(name: &str, gateways: u16) -> Operator {
    let start = Start { arguments: operator_arguments(gateways), ..Start::default() };
    let operator = Operator::with(name, &start);
    operator.leads();
    operator
}

/// What a story plays in. Fields are dropped in this order: the world is swept when nobody uses it any more.
pub struct Scene {
    pub runtime: Runtime,
    pub gateways: Vec<Option<Gateway>>,
    pub operator: Option<Operator>,
    pub world: World,
}

impl Scene {
    /// So many gateways and an operator that knows them; `None` where there are no real nodes.
    pub fn new(name: &'static str, gateways: u16) -> Option<Scene> {
        Scene::with(name, gateways, &[])
    }

    /// The same, with more on the gateways' command line.
    pub fn with(name: &'static str, gateways: u16, arguments: &[String]) -> Option<Scene> {
        if !real_nodes::are_there() {
            return None;
        }
        // The simulated node is only what the world's witness looks at.
        let world = World::new(name, 1);
        k("annotate node real-0 real-1 tenure.dev/reclaim-at-").expect("neither of them goes away");
        k("uncordon real-0 real-1").expect("the nodes take work");
        world.apply(CARDS);
        let number = gateways;
        let gateways: Vec<Gateway> =
            (0..gateways).map(|it| Gateway::start_new(name, it, arguments)).collect();
        let operator = start_operator(name, number);
        for gateway in &gateways {
            gateway.ready();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime starts");
        Some(Scene {
            runtime,
            gateways: gateways.into_iter().map(Some).collect(),
            operator: Some(operator),
            world,
        })
    }

    /// Calls the endpoint through a gateway.
    pub fn caller(&self, gateway: usize) -> Caller {
        let gateway = self.gateways[gateway].as_ref().expect("the gateway runs");
        Caller::new(gateway.address(), format!("llm.{}.{DOMAIN}", self.world.name))
    }

    pub fn get(&self, path: &str) -> Result<Answered, String> {
        self.runtime.block_on(self.caller(0).get(path))
    }

    /// Asks a worker itself.
    pub fn ask(&self, worker: &Worker, path: &str) -> Result<String, String> {
        let caller = Caller::new(worker.address, "worker".to_owned());
        Ok(self.runtime.block_on(caller.get(path))?.body)
    }

    /// The number of a worker's line that stands behind this word: `open`, `most`.
    pub fn count(&self, worker: &Worker, word: &str) -> usize {
        let line = self.ask(worker, "/most").unwrap_or_else(|it| panic!("worker {}: {it}", worker.name));
        let numbers = line.split_whitespace().filter_map(|it| it.split_once('='));
        let found = numbers.filter(|(name, _)| *name == word).find_map(|(_, it)| it.parse().ok());
        found.unwrap_or_else(|| panic!("no {word} in `{line}`"))
    }

    /// The workers that have an address and have not ended, by name.
    pub fn workers(&self) -> Vec<Worker> {
        const COLUMNS: &str = "jsonpath={range .items[*]}{.metadata.name}|{.status.podIP}|{.status.phase}|\
            {.status.conditions[?(@.type=='Ready')].status}|{.metadata.annotations.tenure\\.dev/closing-since}\
            {.metadata.deletionTimestamp}|{.metadata.labels.tenure\\.dev/revision}|{.spec.nodeName}{'\\n'}{end}";
        let pods = ["get", "pods", "-l", "tenure.dev/endpoint=llm", "--sort-by", ".metadata.name"];
        let list = kubectl(&[&["-n", self.world.name][..], &pods, &["-o", COLUMNS]].concat())
            .unwrap_or_else(|it| panic!("pods: {it}"));
        let worker = |line: &str| match line.split('|').collect::<Vec<_>>()[..] {
            [name, address, "Running", ready, closing, revision, node] => Some(Worker {
                // The world's simulated node has free cards too, of another type.
                name: if node.starts_with("real-") { name.to_owned() } else { panic!("{name} is on {node}") },
                address: SocketAddr::new(address.parse().ok()?, 8080),
                ready: ready == "True",
                closing: !closing.is_empty(),
                revision: revision.to_owned(),
            }),
            _ => None,
        };
        list.lines().filter_map(worker).collect()
    }

    /// Waits until just so many workers are there, and all of them are ready and take requests.
    pub fn until_ready(&self, number: usize) -> Vec<Worker> {
        until(&format!("{number} ready workers"), || {
            let workers = self.workers();
            let good = workers.iter().filter(|it| it.ready && !it.closing).count();
            if good == number && workers.len() == number { Ok(workers) } else { Err(format!("{workers:?}")) }
        })
    }

    /// Applies another template, and waits until there are as many workers of it as of the old one.
    fn roll_out(&self, version: u32, surge: u32, old: &[Worker]) -> Vec<Worker> {
        let env = format!(
            r#"[{{"name": "LOAD_SECONDS", "value": "1"}}, {{"name": "VERSION", "value": "{version}"}}]"#
        );
        let patch = format!(
            r#"[{{"op": "replace", "path": "/spec/template/spec/containers/0/env", "value": {env}}},
                {{"op": "add", "path": "/spec/rollout", "value": {{"surge": {surge}}}}}]"#
        );
        kubectl(&["-n", self.world.name, "patch", "sep/llm", "--type", "json", "-p", &patch])
            .unwrap_or_else(|it| panic!("patch: {it}"));
        until("all workers to be new ones", || {
            let found = self.until_ready(old.len());
            let new = found.iter().all(|it| old.iter().all(|old| old.revision != it.revision));
            if new { Ok(found) } else { Err(format!("{found:?}")) }
        })
    }

    /// Waits until no worker is left, not even as an object.
    pub fn until_none(&self) {
        until("no worker to be left", || match self.world.k("get pods -o name") {
            none if none.is_empty() => Ok(()),
            pods => Err(pods),
        });
    }

    /// Waits until these workers have so many requests open, by their own count.
    pub fn until_open(&self, workers: &[Worker], number: usize) {
        until(&format!("{number} open requests"), || {
            let open: Vec<usize> = workers.iter().map(|it| self.count(it, "open")).collect();
            if open.iter().sum::<usize>() == number { Ok(()) } else { Err(format!("{open:?}")) }
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.world.k("delete serverlessendpoint --all --timeout=90s");
            self.world.k("delete residentpool --all --timeout=60s");
        }
        // Only now: a card type that is used stays. After a failure the next story finds it as it is.
        k("delete cardtype test --ignore-not-found --wait=false").ok();
    }
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    name: String,
    address: SocketAddr,
    ready: bool,
    closing: bool,
    revision: String,
}

/// Sees every state of an endpoint's pods, and remembers how many of them held a card at once: from the node that they got
/// until their containers had ended.
struct Census {
    watch: Child,
    seen: Arc<Mutex<(usize, Vec<String>)>>,
}

impl Census {
    fn start(scene: &Scene) -> Census {
        let template = "go-template={{.type}} {{.object.metadata.name}} {{with .object.spec.nodeName}}{{.}}{{else}}-{{end}} \
            {{.object.status.phase}} {{range .object.status.containerStatuses}}{{range $state, $_ := .state}}{{$state}}{{end}}{{end}}\n";
        let mut watch = Command::new("kubectl")
            .args(["-n", scene.world.name, "get", "pods", "-l", "tenure.dev/endpoint=llm"])
            .args(["--watch", "--output-watch-events", "-o", template])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl is on PATH inside e2e/cluster/enter");
        let seen = Arc::new(Mutex::new((0, Vec::new())));
        let lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
        let notes = seen.clone();
        std::thread::spawn(move || {
            let mut holding = HashSet::new();
            for line in lines.map_while(Result::ok) {
                match line.split(' ').collect::<Vec<_>>()[..] {
                    [_, _, "-", ..] => (),
                    ["DELETED", name, ..]
                    | [_, name, _, "Succeeded" | "Failed", ..]
                    | [_, name, _, _, "terminated", ..] => _ = holding.remove(name),
                    [_, name, ..] => _ = holding.insert(name.to_owned()),
                    _ => (),
                }
                let mut seen = notes.lock().unwrap_or_else(PoisonError::into_inner);
                seen.0 = holding.len().max(seen.0);
                seen.1.push(format!("{line}: {}", holding.len()));
            }
        });
        Census { watch, seen }
    }

    /// The most that held a card at once was this many.
    fn testify(&self, most: usize) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(seen.0, most, "workers that held a card at once:\n{}", seen.1.join("\n"));
    }
}

impl Drop for Census {
    fn drop(&mut self) {
        self.watch.kill().ok();
        self.watch.wait().ok();
    }
}

/// Which answers came, without how often.
pub fn kinds(tally: &Tally) -> Vec<&str> {
    tally.keys().map(String::as_str).collect()
}

#[test]
fn an_endpoint_goes_from_nothing_to_its_most_workers_and_back() {
    let Some(scene) = Scene::new("gw-zero", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 0, max: 4, concurrency: 1}", 1));
    scene.world.until("sep/llm", ".status.phase", "Idle");
    assert_eq!(scene.world.pods(), Vec::<String>::new());
    let census = Census::start(&scene);

    // The first request waits until a worker has been started and has loaded.
    let first = scene.get("/").expect("an answer");
    assert_eq!(first.what(), "200", "{first:?}");
    assert!(first.body.starts_with("pod=llm-"), "{first:?}");

    // More than the workers can take at once: as many workers as there may be, and each has one request at a time.
    let load = Load::start(&scene.runtime, 12, &scene.caller(0), "/slow?seconds=0.3");
    let workers = scene.until_ready(4);
    load.until_more("200", 40);
    for worker in &workers {
        assert_eq!(scene.count(worker, "most"), 1, "{worker:?}");
    }
    let tally = load.stop(&scene.runtime);
    assert_eq!(kinds(&tally), ["200"], "{tally:?}");
    census.testify(4);
    let metrics = scene.gateways[0].as_ref().expect("the gateway runs").metrics();
    let answered = format!("endpoint=\"llm\",namespace=\"gw-zero\",reason=\"\"}} {}", tally["200"] + 1);
    assert!(metrics.contains(&answered), "not {answered} in\n{metrics}");

    scene.until_none();
    scene.world.until("sep/llm", ".status.phase", "Idle");
}

#[test]
fn a_resident_endpoint_takes_just_what_is_bought() {
    let Some(scene) = Scene::new("gw-full", 1) else { return };
    scene.world.apply(POOL);
    scene.world.apply(&endpoint(IN_POOL, "{concurrency: 3}", 0));
    let workers = scene.until_ready(2);
    let caller = scene.caller(0);
    until("the endpoint to answer", || match scene.get("/")?.what() {
        it if it == "200" => Ok(()),
        other => Err(other),
    });
    scene.until_open(&workers, 0);

    // Two workers with three requests each: of fifty at once, six are let in and the others are refused.
    let call = || {
        let caller = caller.clone();
        scene.runtime.spawn(async move { caller.get("/hang").await.map(|it| it.what()) })
    };
    let mut calls: Vec<_> = (0..50).map(|_| call()).collect();
    until("all others to be refused", || match calls.iter().filter(|it| it.is_finished()).count() {
        44 => Ok(()),
        number => Err(number.to_string()),
    });
    scene.until_open(&workers, 6);
    let (refused, mut held): (Vec<_>, Vec<_>) =
        calls.drain(..).partition(tokio::task::JoinHandle::is_finished);
    for call in refused {
        let what = scene.runtime.block_on(call).expect("a call ends");
        assert_eq!(what.as_deref(), Ok("429 at-capacity"));
    }
    let answer = scene.get("/").expect("an answer");
    assert_eq!(answer.what(), "429 at-capacity");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");

    // One caller gives up: as soon as the worker has heard of it, one more is let in, and no second one.
    held.pop().expect("six are held").abort();
    until("one more to be let in", || match scene.get("/")?.what() {
        it if it == "200" => Ok(()),
        other => Err(other),
    });
    held.push(call());
    scene.until_open(&workers, 6);
    assert_eq!(scene.get("/").expect("an answer").what(), "429 at-capacity");
    for worker in &workers {
        assert_eq!(scene.count(worker, "most"), 3, "{worker:?}");
    }
    for call in held {
        assert!(!call.is_finished(), "nobody was thrown out");
        call.abort();
    }
}

#[test]
fn a_stop_under_load_loses_no_request() {
    let Some(scene) = Scene::new("gw-stop", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 2}", 0));
    scene.until_ready(2);
    let load = Load::start(&scene.runtime, 8, &scene.caller(0), "/slow?seconds=0.3");
    load.until_more("200", 20);

    scene.world.patch("sep/llm", r#"{"spec": {"state": "Stopped"}}"#);
    load.until_more("503 stopped", 5);
    scene.until_none();
    scene.world.until("sep/llm", ".status.phase", "Stopped");
    scene.world.patch("sep/llm", r#"{"spec": {"state": "Running"}}"#);
    load.until_more("200", 20);

    let tally = load.stop(&scene.runtime);
    assert_eq!(kinds(&tally), ["200", "503 stopped"], "{tally:?}");
}

#[test]
fn a_rollout_under_load_loses_no_request_and_stays_within_its_cards() {
    let Some(scene) = Scene::new("gw-rollout", 1) else { return };
    scene.world.apply(POOL);
    scene.world.apply(&endpoint(IN_POOL, "{concurrency: 2}", 1));
    let mut workers = scene.until_ready(2);
    let census = Census::start(&scene);
    // As many as are bought: one that is let in before another has left would be refused.
    let load = Load::start(&scene.runtime, 4, &scene.caller(0), "/slow?seconds=0.3");
    load.until_more("200", 20);

    // With a surge there are no more cards either: workers are replaced in place.
    for (version, surge) in [(2, 0), (3, 1)] {
        workers = scene.roll_out(version, surge, &workers);
        load.until_more("200", 20);
        census.testify(2);
        for worker in &workers {
            assert!(scene.count(worker, "most") <= 2, "{worker:?}");
        }
    }
    let tally = load.stop(&scene.runtime);
    assert_eq!(kinds(&tally), ["200"], "{tally:?}");
}

#[test]
fn a_node_that_goes_away_under_load_loses_no_request() {
    let Some(scene) = Scene::new("gw-notice", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 1, max: 1, concurrency: 2}", 1));
    let first = scene.until_ready(1).remove(0);
    let node = scene.world.field(&format!("pod/{}", first.name), ".spec.nodeName");
    let load = Load::start(&scene.runtime, 1, &scene.caller(0), "/slow?seconds=0.3");
    load.until_more("200", 20);
    // A long request: its worker is closed under it, and waits for its end.
    let caller = scene.caller(0);
    let long = scene.runtime.spawn(async move { caller.get("/slow?seconds=8").await });
    scene.until_open(std::slice::from_ref(&first), 2);

    announce(&node, &in_seconds(600));
    let second = until("another worker elsewhere", || {
        let workers = scene.workers();
        match workers.iter().position(|it| it.ready && it.name != first.name) {
            Some(at) => Ok(workers.into_iter().nth(at).expect("it is there")),
            None => Err(format!("{workers:?}")),
        }
    });
    assert_ne!(scene.world.field(&format!("pod/{}", second.name), ".spec.nodeName"), node);
    scene.until_ready(1);
    load.until_more("200", 20);
    until_condition(&node, "Drained", "True");
    let answer = scene.runtime.block_on(long).expect("it was not stopped").expect("it was answered");
    assert_eq!(answer.status, 200);
    let tally = load.stop(&scene.runtime);
    assert_eq!(kinds(&tally), ["200"], "{tally:?}");

    // The node stays after all.
    withdraw(&node);
    until_condition(&node, "MaintenancePlanned", "False");
}

#[test]
fn a_surge_on_shared_cards_goes_as_far_as_asked_and_as_there_are_cards() {
    let Some(scene) = Scene::new("gw-surge", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 2}", 1));
    let workers = scene.until_ready(2);
    let load = Load::start(&scene.runtime, 4, &scene.caller(0), "/slow?seconds=0.3");
    load.until_more("200", 20);

    // Two workers, and one ahead. Those that are closed and still at work count: they have their cards.
    let census = Census::start(&scene);
    scene.roll_out(2, 1, &workers);
    census.testify(3);
    drop(census);
    load.until_more("200", 20);

    // Three workers and two ahead would be five; there are four cards.
    scene.world.patch("sep/llm", r#"{"spec": {"workers": {"active": 3, "max": 3}}}"#);
    let workers = scene.until_ready(3);
    let census = Census::start(&scene);
    let workers = scene.roll_out(3, 2, &workers);
    census.testify(4);
    load.until_more("200", 20);
    for worker in &workers {
        assert!(scene.count(worker, "most") <= 2, "{worker:?}");
    }
    let tally = load.stop(&scene.runtime);
    assert_eq!(kinds(&tally), ["200"], "{tally:?}");
}

#[test]
fn open_streams_outlive_the_end_of_their_workers() {
    let Some(scene) = Scene::new("gw-streams", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 3, max: 3, concurrency: 1}", 0));
    let workers = scene.until_ready(3);
    let caller = scene.caller(0);
    let run = &scene.runtime;
    let mut socket = run.block_on(caller.socket()).expect("a WebSocket");
    let mut grpc = run.block_on(caller.grpc()).expect("a gRPC call");
    let events = run.block_on(caller.open("/events?count=150&gap_ms=100")).expect("server-sent events");
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let events =
        run.spawn(async move { events.into_body().collect().await.map(http_body_util::Collected::to_bytes) });
    let mut echo = |words: &str| {
        assert_eq!(run.block_on(socket.echo(words)).as_deref(), Ok(words));
        assert_eq!(run.block_on(grpc.echo(words)).as_deref(), Ok(words));
    };
    echo("before");
    scene.until_open(&workers, 3);

    // One worker is enough from now on. All three have a request, so two of them are closed and wait for it.
    scene.world.patch("sep/llm", r#"{"spec": {"workers": {"active": 1, "max": 1}}}"#);
    until("two workers to be closed", || match scene.workers() {
        workers if workers.iter().filter(|it| it.closing).count() == 2 => Ok(()),
        workers => Err(format!("{workers:?}")),
    });
    echo("while it is closed");
    scene.until_open(&workers, 3);

    let events = run.block_on(events).expect("the reader ends").expect("no event is lost");
    let events = String::from_utf8(events.to_vec()).expect("text");
    assert_eq!(events.matches("data: event ").count(), 150);
    echo("after the events have ended");
    run.block_on(socket.close()).expect("the WebSocket ends as it should");
    assert_eq!(run.block_on(grpc.end()).as_deref(), Ok("0"));
    scene.until_ready(1);
    assert_eq!(scene.get("/").expect("an answer").what(), "200");
}

#[test]
fn a_gateway_that_dies_breaks_its_own_streams_alone() {
    let Some(mut scene) = Scene::new("gw-two", 2) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 3}", 0));
    let workers = scene.until_ready(2);

    // Each of the two dies in its turn, so one of them has handed out the slots.
    for dies in [0, 1] {
        let stays = 1 - dies;
        let through =
            [dies, stays].map(|it| Load::start(&scene.runtime, 5, &scene.caller(it), "/slow?seconds=0.2"));
        for load in &through {
            load.until_more("200", 10);
        }
        scene.gateways[dies].take().expect("it runs").kill();
        through[1].until_more("200", 40);
        let gateway = Gateway::start(scene.world.name, u16::try_from(dies).expect("small"));
        gateway.ready();
        scene.gateways[dies] = Some(gateway);
        for load in &through {
            load.until_more("200", 10);
        }
        let [dead, alive] = through.map(|it| it.stop(&scene.runtime));
        assert_eq!(kinds(&alive), ["200"], "through gateway {stays}: {alive:?}");
        assert!(dead.len() > 1, "gateway {dies} did not die under load: {dead:?}");
        for worker in &workers {
            assert_eq!(scene.count(worker, "most"), 3, "{worker:?}");
        }
        scene.until_open(&workers, 0);
    }
}

#[test]
fn requests_are_served_and_held_while_nobody_leads() {
    let Some(mut scene) = Scene::new("gw-alone", 2) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 3}", 0));
    let cold = endpoint(SHARED, "{active: 0, max: 1}", 0).replace("name: llm}", "name: cold}");
    scene.world.apply(&cold);
    scene.world.until("sep/cold", ".status.phase", "Idle");
    let workers = scene.until_ready(2);
    let through = [0, 1].map(|it| Load::start(&scene.runtime, 5, &scene.caller(it), "/slow?seconds=0.2"));

    // The operator dies. Nobody notices; and a gateway that is started anew serves what it served before.
    drop(scene.operator.take());
    for load in &through {
        load.until_more("200", 20);
    }
    scene.gateways[0].take().expect("it runs").kill();
    let gateway = Gateway::start(scene.world.name, 0);
    gateway.ready();
    scene.gateways[0] = Some(gateway);
    for load in &through {
        load.until_more("200", 20);
    }
    let [_, alive] = through.map(|it| it.stop(&scene.runtime));
    assert_eq!(kinds(&alive), ["200"], "{alive:?}");
    for worker in &workers {
        assert_eq!(scene.count(worker, "most"), 3, "{worker:?}");
    }

    // A request that needs a worker waits for an operator, and gets one.
    let caller = Caller { host: format!("cold.gw-alone.{DOMAIN}"), ..scene.caller(1) };
    let held = scene.runtime.spawn(async move { caller.get("/").await });
    let waits = "tenure_gateway_requests_queued{endpoint=\"cold\",namespace=\"gw-alone\"} 1";
    until("the request to wait", || {
        let metrics = scene.gateways[1].as_ref().expect("it runs").metrics();
        if metrics.contains(waits) { Ok(()) } else { Err(metrics) }
    });
    scene.operator = Some(start_operator("gw-alone", 2));
    let answer = scene.runtime.block_on(held).expect("the task ends").expect("an answer");
    assert_eq!(answer.what(), "200", "{answer:?}");
}

#[test]
fn a_gateway_that_is_told_to_stop_loses_no_request() {
    let Some(mut scene) = Scene::new("gw-leave", 2) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 3}", 0));
    let workers = scene.until_ready(2);
    let mut socket = scene.runtime.block_on(scene.caller(0).socket()).expect("a WebSocket");
    let through = [0, 1].map(|it| Load::start(&scene.runtime, 4, &scene.caller(it), "/slow?seconds=0.2"));
    for load in &through {
        load.until_more("200", 10);
    }
    let gateway = scene.gateways[0].take().expect("it runs");
    gateway.tell_to_stop();
    until("the gateway to take no more connections", || {
        let refused = through[0].tally().keys().any(|it| it.starts_with("connect: "));
        if refused { Ok(()) } else { Err(format!("{:?}", through[0].tally())) }
    });
    // What is open is finished, however long it takes.
    assert_eq!(scene.runtime.block_on(socket.echo("still here")).as_deref(), Ok("still here"));
    through[1].until_more("200", 20);
    scene.runtime.block_on(socket.close()).expect("the WebSocket ends as it should");
    assert!(gateway.ended().success(), "it ends when its last request has ended");

    let [left, stays] = through.map(|it| it.stop(&scene.runtime));
    assert_eq!(kinds(&stays), ["200"], "{stays:?}");
    assert!(kinds(&left).iter().all(|it| *it == "200" || it.starts_with("connect: ")), "{left:?}");
    for worker in &workers {
        assert!(scene.count(worker, "most") <= 3, "{worker:?}");
    }
    scene.until_open(&workers, 0);
}

#[test]
fn clients_that_others_wrote_get_what_they_expect() {
    let Some(scene) = Scene::new("gw-clients", 1) else { return };
    scene.world.apply(&endpoint(SHARED, "{active: 2, max: 2, concurrency: 50}", 0));
    scene.until_ready(2);
    // A refusal to look at: an endpoint that is stopped.
    let stopped = endpoint(SHARED, "{active: 0, max: 1}", 0).replace("name: llm}", "name: stopped}");
    scene.world.apply(&stopped.replace("spec:\n  placement", "spec:\n  state: Stopped\n  placement"));
    scene.world.until("sep/stopped", ".status.phase", "Stopped");
    let address = scene.caller(0).address.to_string();
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/clients/run"))
        .args([&address, DOMAIN, scene.world.name, "llm", "stopped"])
        .output()
        .expect("bash runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}
