//! A story's own world: nodes, card type, tariff, account and namespace that no other story touches; and a witness that
//! sees every state of its nodes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::operator::{self, Operator};
use crate::support::{field, k, kubectl, must_apply, until, until_field};

/// One story at a time: they share the one allocator of the cluster.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits until no story runs, and lets none begin meanwhile: for who must not meet an operator.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A story's world. All its objects are called by its name: namespace, card type, tariff, region, account, market.
pub struct World {
    /// Its name.
    pub name: &'static str,
    witness: Witness,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// A world with so many nodes of 8 cards, `NAME-0` and so on, in zones a and b by turns.
    pub fn new(name: &'static str, nodes: usize) -> World {
        let turn = turn();
        operator::install();
        let world = World { name, witness: Witness::start(name), _turn: turn };
        world.apply(CATALOGUE);
        for at in 0..nodes {
            world.add_node(at);
        }
        world
    }

    /// Applies manifests in which `@` stands for the world's name.
    pub fn apply(&self, yaml: &str) {
        must_apply(&yaml.replace('@', self.name));
    }

    /// kubectl in the world's namespace, with `@` for its name.
    pub fn k(&self, words: &str) -> String {
        let words = format!("-n @ {words}").replace('@', self.name);
        k(&words).unwrap_or_else(|it| panic!("kubectl {words}: {it}"))
    }

    /// Changes the spec of an object by a merge patch.
    pub fn patch(&self, object: &str, patch: &str) {
        let patch = patch.replace('@', self.name);
        kubectl(&["-n", self.name, "patch", object, "--type", "merge", "-p", &patch])
            .unwrap_or_else(|it| panic!("patch {object}: {it}"));
    }

    /// Adds a simulated node with 8 cards.
    pub fn add_node(&self, at: usize) {
        let zone = if at.is_multiple_of(2) { "zone-a" } else { "zone-b" };
        self.apply(&NODE.replace("NODE", &format!("@-{at}")).replace("ZONE", zone));
        // A node is born with a taint that the node controller takes away when it is ready.
        until_field(
            &format!("node/{}-{at}", self.name),
            ".status.conditions[?(@.type==\"Ready\")].status",
            "True",
        );
    }

    /// A field of an object of the world's namespace.
    pub fn field(&self, object: &str, path: &str) -> String {
        field(&format!("-n {} {object}", self.name), path)
    }

    /// Waits until a field of an object of the world's namespace has this value.
    pub fn until(&self, object: &str, path: &str, value: &str) {
        until_field(&format!("-n {} {object}", self.name), path, value);
    }

    /// Waits until an object's condition Ready is True.
    pub fn ready(&self, object: &str) {
        self.until(object, READY, "True");
    }

    /// Waits until all of these objects' conditions Ready are True.
    pub fn all_ready(&self, objects: &[&str]) {
        let words = ["-n", self.name, "wait", "--for=condition=Ready", "--timeout=120s"];
        let words: Vec<&str> = words.iter().chain(objects).copied().collect();
        kubectl(&words).unwrap_or_else(|it| panic!("{objects:?} are not all Ready: {it}"));
    }

    /// Waits until an object is not Ready for this reason; the message.
    pub fn not_ready(&self, object: &str, reason: &str) -> String {
        until(&format!("{object} to be not ready: {reason}"), || {
            let found = self.field(
                object,
                "range .status.conditions[?(@.type==\"Ready\")]}{.status} {.reason} {.message}{end",
            );
            match found.strip_prefix(&format!("False {reason} ")) {
                Some(message) => Ok(message.to_owned()),
                None => Err(format!("`{found}`")),
            }
        })
    }

    /// The cards of a node's share, by the beginning of its resource's name: `resident`, `dedicated`, `spot`, `shared`, `held`.
    pub fn share(&self, node: usize, kind: &str) -> u32 {
        self.capacities().get(&format!("{}-{node}", self.name)).map_or(0, |it| cards(it, kind))
    }

    /// A share's cards over the first so many nodes.
    pub fn shares(&self, nodes: usize, kind: &str) -> u32 {
        let capacities = self.capacities();
        (0..nodes)
            .filter_map(|it| capacities.get(&format!("{}-{it}", self.name)))
            .map(|it| cards(it, kind))
            .sum()
    }

    /// Each node's capacity, read at once.
    fn capacities(&self) -> HashMap<String, Capacity> {
        let selector = format!("tenure.test/cards={}", self.name);
        let template = "jsonpath={range .items[*]}{.metadata.name} {.status.capacity}{\"\\n\"}{end}";
        let list = kubectl(&["get", "nodes", "-l", &selector, "-o", template])
            .unwrap_or_else(|it| panic!("nodes: {it}"));
        let node = |line: &str| {
            let (name, capacity) = line.split_once(' ')?;
            Some((name.to_owned(), serde_json::from_str(capacity).ok()?))
        };
        list.lines().filter_map(node).collect()
    }

    /// Waits until the share has so many cards over the first so many nodes.
    pub fn until_shares(&self, nodes: usize, kind: &str, cards: u32) {
        until(&format!("{cards} {kind} cards"), || match self.shares(nodes, kind) {
            found if found == cards => Ok(()),
            found => Err(format!("{found}")),
        });
    }

    /// The names of the pods of the namespace that are not on their way out, with their phase.
    pub fn pods(&self) -> Vec<String> {
        let template = "go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}}:{{.status.phase}},{{end}}{{end}}";
        let list = kubectl(&["-n", self.name, "get", "pods", "--sort-by", ".metadata.name", "-o", template])
            .unwrap_or_else(|it| panic!("pods: {it}"));
        list.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect()
    }

    /// Waits until just these pods are there and run.
    pub fn until_running(&self, names: &[&str]) {
        let expected: Vec<String> = names.iter().map(|it| format!("{it}:Running")).collect();
        until(&format!("the pods {names:?}"), || match self.pods() {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }

    /// Everything is given back: no contract, pod, claim or policy is left, and all cards of the first nodes are shared.
    pub fn until_empty(&self, nodes: usize) {
        until("everything to be given back", || {
            let kinds = "residentpools,dedicatedgroups,spotservers,serverlessendpoints,pods,persistentvolumeclaims,networkpolicies";
            let left = self.k(&format!("get {kinds} -o name"));
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        until("all cards to be shared again", || {
            let shared = self.shares(nodes, "shared") as usize;
            if shared == nodes * 8 { Ok(()) } else { Err(shared.to_string()) }
        });
    }

    /// Starts an operator and waits until it leads.
    pub fn operator(&self) -> Operator {
        let operator = Operator::start(self.name);
        operator.leads();
        operator
    }
}

/// What a node has, by resource.
type Capacity = HashMap<String, String>;

fn cards(capacity: &Capacity, kind: &str) -> u32 {
    let domain = format!("{kind}.tenure.dev/");
    let ours = capacity.iter().filter(|(name, _)| name.starts_with(&domain));
    ours.map(|(_, count)| count.parse::<u32>().unwrap_or(0)).sum()
}

/// The condition Ready's status.
pub const READY: &str = ".status.conditions[?(@.type==\"Ready\")].status";

const CATALOGUE: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: CardType
metadata: {name: "@"}
spec:
  displayName: A card
  resourceName: nvidia.com/gpu
  nodeSelector: {tenure.test/cards: "@"}
  perCard: {cpu: "8", memory: 64Gi, gpuMemory: 48Gi, disk: 60Gi}
---
apiVersion: tenure.dev/v1alpha1
kind: Tariff
metadata: {name: "@"}
spec:
  region: "@"
  currency: EUR
  resident: {diskPerGBMonth: "1", cards: [{cardType: "@", perMonth: "100"}]}
  dedicated:
    diskPerGBMonth: "1"
    machineTypes: [{name: m8, cardType: "@", cards: 8, perMonth: "1000", perHour: "2"}]
    earlyRelease: Refund
  serverless: {cards: [{cardType: "@", perSecond: "0.01"}]}
  spot: {machineTypes: [{name: s1, cardType: "@", cards: 1, cpu: "8", memory: 32Gi}]}
---
apiVersion: tenure.dev/v1alpha1
kind: SpotMarket
metadata: {name: "@"}
spec: {cardType: "@", region: "@", price: {fixed: "2"}}
---
apiVersion: tenure.dev/v1alpha1
kind: Account
metadata: {name: "@"}
spec: {currency: EUR}
---
apiVersion: v1
kind: Namespace
metadata: {name: "@", labels: {tenure.dev/account: "@"}}
"#;

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: NODE
  annotations: {kwok.x-k8s.io/node: fake, node.alpha.kubernetes.io/ttl: "0"}
  labels: {tenure.test/cards: "@", kubernetes.io/hostname: NODE, kubernetes.io/os: linux, kubernetes.io/arch: amd64, topology.kubernetes.io/zone: ZONE}
status:
  capacity: {cpu: "64", memory: 512Gi, ephemeral-storage: 1Ti, pods: "110", nvidia.com/gpu: "8"}
  allocatable: {cpu: "64", memory: 512Gi, ephemeral-storage: 1Ti, pods: "110", nvidia.com/gpu: "8"}
"#;

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for words in ["get tenure", "get pods -o wide", "get events --sort-by .lastTimestamp"] {
                eprintln!(
                    "-- kubectl {words}\n{}",
                    k(&format!("-n {} {words}", self.name)).unwrap_or_else(|it| it)
                );
            }
            let nodes = format!("get nodes -l tenure.test/cards={} -o yaml", self.name);
            eprintln!("-- {nodes}\n{}", k(&nodes).unwrap_or_else(|it| it));
        }
        // With an operator, or nothing would let go of finalizers.
        let sweeper = std::panic::catch_unwind(|| Operator::start("sweeper"));
        k(&format!("delete namespace {} --ignore-not-found --timeout=120s", self.name)).ok();
        drop(sweeper);
        k(&format!("delete cardtype,tariff,spotmarket,account {} --ignore-not-found", self.name)).ok();
        k(&format!("delete nodes -l tenure.test/cards={}", self.name)).ok();
        if !std::thread::panicking() {
            self.witness.testify();
        }
    }
}

/// Sees every state of the world's nodes that the API server shows, and remembers where one sold more than it had.
struct Witness {
    watch: Child,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    states: usize,
    oversold: Vec<String>,
}

impl Witness {
    fn start(world: &str) -> Witness {
        let template = r#"go-template={{.metadata.name}}{{range $name, $count := .status.capacity}} {{$name}}={{$count}}{{end}}{{"\n"}}"#;
        let mut watch = Command::new("kubectl")
            .args(["get", "nodes", "--watch", "-l", &format!("tenure.test/cards={world}"), "-o", template])
            .stdout(Stdio::piped())
            .spawn()
            .expect("kubectl is on PATH inside e2e/cluster/enter");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
        let notes = seen.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.states += 1;
                let count = |wanted: &dyn Fn(&str) -> bool| -> u32 {
                    let pairs = line.split(' ').filter_map(|it| it.split_once('='));
                    pairs.filter(|(name, _)| wanted(name)).filter_map(|(_, it)| it.parse::<u32>().ok()).sum()
                };
                // A node whose physical cards went may still have them in its book: what may not happen is that it grows.
                if count(&|it| it.contains(".tenure.dev/")) > 8 {
                    notes.oversold.push(line.clone());
                }
            }
        });
        Witness { watch, seen }
    }

    fn testify(&mut self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.states > 0, "the witness saw nothing");
        assert!(seen.oversold.is_empty(), "sold more cards than there are: {:?}", seen.oversold);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.watch.kill().ok();
        self.watch.wait().ok();
    }
}
