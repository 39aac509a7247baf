//! Nodes that go away, on the real cluster with simulated nodes: what is moved, who is asked to leave, who must, and the way
//! back.

use std::process::Command;

use crate::stories::{BOUND, ELASTIC, GROUP, POOL};
use crate::support::{k, kubectl, until};
use crate::world::World;

/// RFC 3339, so many seconds from now.
pub fn in_seconds(seconds: u32) -> String {
    let output = Command::new("date")
        .args(["-u", "-d", &format!("+{seconds} seconds"), "+%Y-%m-%dT%H:%M:%SZ"])
        .output();
    String::from_utf8_lossy(&output.expect("date runs").stdout).trim().to_owned()
}

/// Says that a node goes away.
pub fn announce(node: &str, when: &str) {
    k(&format!("annotate node {node} --overwrite tenure.dev/reclaim-at={when}")).expect("anybody may say so");
}

/// Takes it back.
pub fn withdraw(node: &str) {
    k(&format!("annotate node {node} tenure.dev/reclaim-at-")).expect("and take it back");
}

fn cordoned(node: &str) -> String {
    k(&format!("get node {node} -o jsonpath={{.spec.unschedulable}}")).expect("it is there")
}

pub fn until_condition(node: &str, kind: &str, status: &str) {
    until(&format!("{node} to say {kind}: {status}"), || {
        let path = format!("{{.status.conditions[?(@.type==\"{kind}\")].status}}");
        match k(&format!("get node {node} -o jsonpath={path}"))? {
            found if found == status => Ok(()),
            found => Err(format!("`{found}`")),
        }
    });
}

/// Events of a reason about a node or in the world's namespace.
fn events(namespace: &str, object: &str, reason: &str) -> String {
    let selector = format!("involvedObject.name={object},reason={reason}");
    k(&format!("-n {namespace} get events --field-selector {selector} -o jsonpath={{.items[*].message}}"))
        .unwrap_or_default()
}

impl World {
    /// The nodes of running pods with this label, one for each.
    fn nodes_of(&self, label: &str) -> Vec<String> {
        let words = ["-n", self.name, "get", "pods", "--field-selector", "status.phase=Running", "-l", label];
        let template = "jsonpath={range .items[*]}{.spec.nodeName},{end}";
        let list =
            kubectl(&[&words[..], &["-o", template]].concat()).unwrap_or_else(|it| panic!("pods: {it}"));
        list.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect()
    }
}

#[test]
fn what_runs_on_a_node_that_goes_away_moves_while_there_is_time() {
    let world = World::new("leaves", 3);
    let _operator = world.operator();
    world.apply(POOL);
    world.apply(BOUND);
    world.apply(ELASTIC);
    world.all_ready(&["rp/chat", "sep/bound", "sep/llm"]);
    let bound_on = world.nodes_of("tenure.dev/endpoint=bound");
    let pool_on = &bound_on[0];
    assert!(bound_on.iter().all(|it| it == pool_on), "six cards fit on one node");
    announce(pool_on, &in_seconds(3600));
    until("its instances to run elsewhere", || {
        let on = world.nodes_of("tenure.dev/endpoint=bound");
        if on.len() == 4 && !on.contains(pool_on) { Ok(()) } else { Err(format!("{on:?}")) }
    });
    until_condition(pool_on, "Drained", "True");
    until_condition(pool_on, "MaintenancePlanned", "True");
    assert_eq!(cordoned(pool_on), "true");
    assert!(events("default", pool_on, "ReclaimNotice").contains("tenure.dev/reclaim-at says so"));
    // Its cards are had twice until the node is gone.
    world.until_shares(3, "resident", 12);
    world.ready("rp/chat");
    // No new work: not even by whoever uncordons it by hand.
    k(&format!("uncordon {pool_on}")).unwrap();
    world.patch("sep/llm", r#"{"spec": {"workers": {"active": 6}}}"#);
    until("six workers elsewhere", || {
        let on = world.nodes_of("tenure.dev/endpoint=llm");
        if on.len() == 6 && !on.contains(pool_on) { Ok(()) } else { Err(format!("{on:?}")) }
    });

    withdraw(pool_on);
    world.until_shares(3, "resident", 6);
    until_condition(pool_on, "MaintenancePlanned", "False");
    until("the node to take work again", || match cordoned(pool_on).as_str() {
        "" => Ok(()),
        found => Err(found.to_owned()),
    });
    assert!(events("default", pool_on, "ReclaimWithdrawn").contains("the node stays"));
    let noted = k(&format!("get node {pool_on} -o jsonpath={{.metadata.annotations}}")).unwrap();
    assert!(!noted.contains("tenure.dev/notice") && !noted.contains("tenure.dev/drained-for"), "{noted}");
    world.ready("sep/bound");
}

const STUBBORN: &str = r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {namespace: "@", name: never}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: job}}}
---
apiVersion: v1
kind: Pod
metadata: {namespace: "@", name: job, labels: {tenure.dev/group: train, app: job}}
spec:
  terminationGracePeriodSeconds: 5
  containers: [{name: main, image: "localhost/worker:1", resources: {limits: {nvidia.com/gpu: 4}}}]
---
apiVersion: v1
kind: Pod
metadata: {namespace: "@", name: willing, labels: {tenure.dev/group: train, app: other}}
spec:
  terminationGracePeriodSeconds: 5
  containers: [{name: main, image: "localhost/worker:1", resources: {limits: {nvidia.com/gpu: 2}}}]
"#;

#[test]
fn a_budget_that_never_allows_is_overrun_only_when_its_grace_must_begin() {
    let world = World::new("stubborn", 1);
    let _operator = world.operator();
    world.apply(GROUP);
    world.ready("dg/train");
    world.apply(STUBBORN);
    world.until("pod/job", ".status.phase", "Running");
    world.until("pod/willing", ".status.phase", "Running");
    // A taint of somebody who does not say when: who can leave leaves, who can't stays, and it is said who blocks.
    kubectl(&["taint", "node", "stubborn-0", "remediator.kubernetes.azure.com/unschedulable=:NoSchedule"])
        .unwrap();
    until("the willing one to leave", || match world.pods() {
        pods if pods == ["job:Running"] => Ok(()),
        pods => Err(format!("{pods:?}")),
    });
    let told = |object: &str, namespace: &str| {
        until(&format!("{object} to say what blocks"), || match events(namespace, object, "DrainBlocked") {
            none if none.is_empty() => Err("nothing".to_owned()),
            words => Ok(words),
        })
    };
    for (object, namespace) in [("stubborn-0", "default"), ("job", "stubborn"), ("train", "stubborn")] {
        let words = told(object, namespace);
        assert!(words.contains("pod stubborn/job can't leave yet"), "{words}");
        assert!(words.contains("disruption budget never"), "{words}");
        assert!(words.contains("There is no deadline"), "{words}");
    }
    assert!(world.not_ready("dg/train", "Degraded").contains("base-0 can't be used: the node goes away"));
    // Now there is one, sooner than the other notice ends: its five seconds of grace begin in time, and not before.
    let deadline = in_seconds(20);
    announce("stubborn-0", &deadline);
    until("the budget to be overrun", || match world.k("get pods -o name") {
        none if none.is_empty() => Ok(()),
        pods => Err(pods),
    });
    let forced = until("it to be said", || match events("default", "stubborn-0", "DrainForced") {
        none if none.is_empty() => Err("nothing".to_owned()),
        words => Ok(words),
    });
    assert!(
        forced.contains("pod stubborn/job is deleted with 5 s to end") || forced.contains("with 4 s"),
        "{forced}"
    );
    until_condition("stubborn-0", "Drained", "True");
    kubectl(&["taint", "node", "stubborn-0", "remediator.kubernetes.azure.com/unschedulable-"]).unwrap();
    withdraw("stubborn-0");
    world.ready("dg/train");
}
