//! Each hole that a policy closes: what is refused, in which words, and that its honest twin goes through.
//!
//! Nodes here are objects of the API only, and no card type matches them, so it does not matter whether an operator runs;
//! the two tests that play the operator's part in a status take their turn with the stories.

use crate::operator::install;
use crate::support::{OPERATOR, field, k, kubectl, kubectl_with, must_apply, until};
use crate::world::World;

// Who asks.

const ADMIN: &[&str] = &[];
// With all rights, because kubectl reads what it patches; what the operator really may do is the last test's matter.
const TENURE: &[&str] = &["--as", OPERATOR, "--as-group", "system:masters"];
const ALICE: &[&str] = &["--as", "alice"];
const SCHEDULER: &[&str] = &["--as", "system:kube-scheduler"];

// Parts of pods.

const CARD: &str = "resources: {limits: {nvidia.com/gpu: 1}}";
const SHARE: &str = "resources: {limits: {shared.tenure.dev/cards: 1}}";
const VISIBLE: &str = "env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]";
const VOID: &str = "env: [{name: NVIDIA_VISIBLE_DEVICES, value: void}]";
const WILDCARD: &str = "tolerations: [{operator: Exists}]";
const MANAGED: &str = "tolerations: [{key: tenure.dev/managed, operator: Exists}]";
const OTHER: &str = "tolerations: [{key: other, operator: Exists}]";

/// A test's own namespace, and the name that its other objects begin with. All of it goes when it is dropped.
struct Place {
    name: String,
}

impl Place {
    fn new(test: &str) -> Place {
        install();
        let place = Place { name: format!("policy-{test}-{}", std::process::id()) };
        k(&format!("create namespace {}", place.name)).expect("the namespace is new");
        place
    }

    /// Applies manifests in which `@` stands for the place's name.
    fn apply(&self, yaml: &str) {
        must_apply(&yaml.replace('@', &self.name));
    }

    /// A pod's manifest; each part is a field of YAML's flow style, or empty.
    fn pod(&self, name: &str, meta: &str, spec: &str, container: &str) -> String {
        let comma = |it: &str| {
            if it.is_empty() { String::new() } else { format!(", {}", it.replace('@', &self.name)) }
        };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {}, name: {name}{}}}\nspec: {{containers: [{{name: main, image: \"localhost/worker:1\"{}}}]{}}}",
            self.name,
            comma(meta),
            comma(container),
            comma(spec)
        )
    }

    /// Words for kubectl, with `@` for the place's name; the last may have blanks in it.
    fn words<'a>(&self, who: &[&'a str], words: &'a str, last: &'a str) -> Vec<String> {
        let mut all: Vec<String> = who.iter().map(|it| (*it).to_owned()).collect();
        all.extend(words.split_whitespace().map(|it| it.replace('@', &self.name)));
        if !last.is_empty() {
            all.push(last.to_owned());
        }
        all
    }

    fn try_words(&self, who: &[&str], words: &str, last: &str) -> Result<String, String> {
        let all = self.words(who, words, last);
        kubectl(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// These words must work.
    fn can(&self, who: &[&str], words: &str, last: &str) -> String {
        until(words, || self.try_words(who, words, last))
    }

    /// These words must fail and say this. They are dry runs: a policy that is not seen yet does no harm.
    fn cannot(&self, who: &[&str], words: &str, last: &str, says: &str) {
        let dry = format!("--dry-run=server {words}");
        until(&format!("`{words} {last}` to be refused"), || said(self.try_words(who, &dry, last), says));
    }

    /// A node with 8 cards, that no card type matches. With `sold` its label and taint are there, as of a managed one.
    fn node(&self, sold: bool) -> String {
        self.apply(
            "apiVersion: v1\nkind: Node\nmetadata: {name: \"@\", labels: {policy-test: \"@\"}}\n\
             status: {capacity: {nvidia.com/gpu: 8, pods: 110}, allocatable: {nvidia.com/gpu: 8, pods: 110}}",
        );
        if sold {
            self.can(TENURE, "label node @ tenure.dev/card-resource=nvidia.com_gpu", "");
            self.can(TENURE, "taint node @ tenure.dev/managed=:NoSchedule", "");
        }
        self.name.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let name = &self.name;
        let free = r#"{"metadata":{"finalizers":null}}"#;
        for object in k(&format!("get pods,residentpools -n {name} -o name")).unwrap_or_default().lines() {
            kubectl(&[TENURE, &["-n", name, "patch", object, "--type=merge", "-p", free]].concat()).ok();
        }
        k(&format!("delete namespace,node,cardtype,clusterrole,clusterrolebinding {name} --ignore-not-found --wait=false")).ok();
    }
}

fn said(result: Result<String, String>, says: &str) -> Result<(), String> {
    match result {
        Err(message) if message.contains(says) => Ok(()),
        Err(message) => Err(format!("another refusal: {message}")),
        Ok(output) => Err(format!("no refusal: {output}")),
    }
}

/// Creates this for good.
fn make(who: &[&str], yaml: &str) {
    until("the object to be made", || kubectl_with(&[who, &["create", "-f", "-"]].concat(), yaml));
}

/// Creating this must fail and say this.
fn refused(who: &[&str], yaml: &str, says: &str) {
    until(&format!("a refusal of\n{yaml}\n"), || {
        said(kubectl_with(&[who, &["create", "--dry-run=server", "-f", "-"]].concat(), yaml), says)
    });
}

/// Creating this must work; what it is then, in JSON.
fn accepted(who: &[&str], yaml: &str) -> String {
    until(&format!("no refusal of\n{yaml}\n"), || {
        kubectl_with(&[who, &["create", "--dry-run=server", "-o", "json", "-f", "-"]].concat(), yaml)
    })
}

/// A patch that gives capacity and allocatable these shares.
fn shares(shares: &str) -> String {
    format!(r#"{{"status":{{"capacity":{shares},"allocatable":{shares}}}}}"#)
}

const STATUS: &str = "patch node @ --subresource=status --type=merge -p";

// A card is sold once.

#[test]
fn a_card_is_sold_once() {
    let place = Place::new("once");
    place.node(true);
    place.cannot(
        TENURE,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":"9"}"#),
        "would sell 9 cards but has 8 healthy ones of nvidia.com/gpu",
    );
    place.cannot(
        TENURE,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":6,"resident.tenure.dev/a-1":"3"}"#),
        "would sell 9 cards but has 8",
    );
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"6","resident.tenure.dev/a-1":"2"}"#));
    // Cards move from one share to another, and no third one comes of it.
    place.cannot(
        TENURE,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":"5","spot.tenure.dev/b-2":"2"}"#),
        "would sell 9 cards but has 8",
    );
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"4","spot.tenure.dev/b-2":"2"}"#));
    // More for pods than the node has is as bad.
    place.cannot(
        TENURE,
        STATUS,
        r#"{"status":{"allocatable":{"shared.tenure.dev/cards":"5"}}}"#,
        "(status.allocatable) than it has (status.capacity)",
    );
}

#[test]
fn a_node_without_its_label_sells_nothing() {
    let place = Place::new("unlabelled");
    place.node(false);
    place.cannot(
        TENURE,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":"1"}"#),
        "would sell 1 cards but has 0 healthy ones",
    );
    place.can(TENURE, "label node @ tenure.dev/card-resource=nvidia.com_gpu", "");
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"1"}"#));
}

#[test]
fn faulty_cards_stop_sales_but_neither_kubelet_nor_shrinking() {
    let place = Place::new("faulty");
    let name = place.node(true);
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"6","resident.tenure.dev/a-1":"2"}"#));
    let user = format!("system:node:{name}");
    let kubelet: &[&str] = &["--as", &user, "--as-group", "system:nodes", "--as-group", "system:masters"];
    // Three cards fail: the kubelet says so, and goes on to report.
    place.can(kubelet, STATUS, r#"{"status":{"allocatable":{"nvidia.com/gpu":"5"}}}"#);
    place.can(
        kubelet,
        STATUS,
        r#"{"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}]}}"#,
    );
    place.cannot(
        TENURE,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":"5","resident.tenure.dev/a-1":"3"}"#),
        "would sell 8 cards but has 5",
    );
    place.cannot(TENURE, STATUS, &shares(r#"{"held.tenure.dev/cards":"1"}"#), "would sell 9 cards but has 5");
    // Away from a share, even into what nobody can ask for, is always right.
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"4","held.tenure.dev/cards":"2"}"#));
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"2","held.tenure.dev/cards":"1"}"#));
    // A kubelet copies capacity to allocatable, and sets all to zero when its checkpoint is gone.
    place.can(ADMIN, STATUS, r#"{"status":{"allocatable":{"shared.tenure.dev/cards":"1"}}}"#);
    place.can(kubelet, STATUS, r#"{"status":{"allocatable":{"shared.tenure.dev/cards":"2"}}}"#);
    place.can(kubelet, STATUS, &shares(r#"{"nvidia.com/gpu":"0","shared.tenure.dev/cards":"0","resident.tenure.dev/a-1":"0","held.tenure.dev/cards":"0"}"#));
    place.cannot(kubelet, STATUS, &shares(r#"{"shared.tenure.dev/cards":"1"}"#), "denied request");
}

#[test]
fn only_tenure_gives_shares_labels_and_taints_to_a_node() {
    let place = Place::new("book");
    place.node(true);
    place.can(TENURE, STATUS, &shares(r#"{"shared.tenure.dev/cards":"4"}"#));
    place.cannot(
        ADMIN,
        STATUS,
        &shares(r#"{"shared.tenure.dev/cards":"5"}"#),
        "only Tenure gives cards to a share",
    );
    place.can(ADMIN, STATUS, &shares(r#"{"shared.tenure.dev/cards":"3"}"#));
    for change in
        ["tenure.dev/card-resource=cpu --overwrite", "tenure.dev/card-resource-", "tenure.dev/group=mine"]
    {
        place.cannot(
            ADMIN,
            &format!("label node @ {change}"),
            "",
            "labels tenure.dev/... of a node are Tenure's book",
        );
    }
    place.cannot(
        ADMIN,
        "annotate node @ tenure.dev/book={}",
        "",
        "only tenure.dev/reclaim-at is yours to set",
    );
    for change in ["tenure.dev/managed-", "tenure.dev/managed=x:NoExecute"] {
        place.cannot(
            ADMIN,
            &format!("taint node @ {change}"),
            "",
            "taints tenure.dev/... of a node are set by Tenure alone",
        );
    }
    // The status lets labels through as well.
    place.cannot(
        ADMIN,
        STATUS,
        r#"{"metadata":{"labels":{"tenure.dev/group":"mine"}}}"#,
        "labels tenure.dev/... of a node are Tenure's book",
    );
    place.cannot(
        ADMIN,
        "annotate node @ tenure.dev/notice={}",
        "",
        "only tenure.dev/reclaim-at is yours to set",
    );
    for time in ["2030-01-01T00:00:00Z", "2030-01-01T00:00:00.5+02:00"] {
        place.can(ADMIN, &format!("annotate node @ --overwrite tenure.dev/reclaim-at={time}"), "");
    }
    for time in ["tomorrow", "2030-01-01", "2030-13-01T00:00:00Z", "2030-01-01T00:00:00"] {
        let says = "tenure.dev/reclaim-at must be a time in RFC 3339, such as 2026-12-31T23:59:00Z";
        place.cannot(ADMIN, &format!("annotate node @ --overwrite tenure.dev/reclaim-at={time}"), "", says);
    }
    place.can(ADMIN, "annotate node @ tenure.dev/reclaim-at-", "");
    place.can(ADMIN, "label node @ rack=7", "");
    place.can(ADMIN, "taint node @ maintenance=soon:PreferNoSchedule", "");
}

#[test]
fn a_node_is_not_born_with_shares() {
    let place = Place::new("birth");
    let node = |meta: &str, spec: &str, capacity: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {}{meta}}}\nspec: {{{spec}}}\nstatus: {{capacity: {{nvidia.com/gpu: 8{capacity}}}, allocatable: {{nvidia.com/gpu: 8}}}}",
            place.name
        )
    };
    refused(ADMIN, &node("", "", ", shared.tenure.dev/cards: 8"), "denied request");
    refused(
        ADMIN,
        &node(", labels: {tenure.dev/card-resource: nvidia.com_gpu}", "", ""),
        "labels tenure.dev/... of a node",
    );
    refused(
        ADMIN,
        &node("", "taints: [{key: tenure.dev/managed, effect: NoSchedule}]", ""),
        "taints tenure.dev/... of a node",
    );
    accepted(ADMIN, &node("", "taints: [{key: other, effect: NoSchedule}]", ""));
}

// Who may use cards.

#[test]
fn cards_and_a_way_to_managed_nodes_do_not_go_together() {
    let place = Place::new("cards");
    let says = "may neither name its node nor tolerate tenure.dev/managed";
    for way in [WILDCARD, "nodeName: some-node", "tolerations: [{operator: Exists, effect: NoExecute}]"] {
        refused(ADMIN, &place.pod("p", "", way, CARD), says);
        // Part of a card is a card, and so is one that the first container asks for.
        refused(ADMIN, &place.pod("p", "", way, "resources: {limits: {nvidia.com/mig-1g.5gb: 1}}"), says);
        let init = format!("{way}, initContainers: [{{name: first, image: x, {CARD}}}]");
        refused(ADMIN, &place.pod("p", "", &init, ""), says);
        accepted(ADMIN, &place.pod("p", "", way, ""));
    }
    accepted(ADMIN, &place.pod("p", "", OTHER, CARD));
    accepted(TENURE, &place.pod("p", "", MANAGED, CARD));
}

#[test]
fn a_card_type_can_name_any_resource() {
    let place = Place::new("exotic");
    place.apply(
        "apiVersion: tenure.dev/v1alpha1\nkind: CardType\nmetadata: {name: \"@\"}\nspec:\n  resourceName: \"@.example/npu\"\n  \
         nodeSelector: {\"@\": none}\n  perCard: {cpu: 1, memory: 1Gi, gpuMemory: 1Gi, disk: 1Gi}",
    );
    let npu = format!("resources: {{limits: {{{}.example/npu: 1}}}}", place.name);
    refused(
        ADMIN,
        &place.pod("p", "", WILDCARD, &npu),
        "may neither name its node nor tolerate tenure.dev/managed",
    );
    accepted(ADMIN, &place.pod("p", "", OTHER, &npu));
    // Devices that are no cards are nobody's business here.
    accepted(ADMIN, &place.pod("p", "", WILDCARD, "resources: {limits: {devices.example/kvm: 1}}"));
}

#[test]
fn shares_are_asked_for_by_tenure_alone() {
    let place = Place::new("shares");
    refused(ADMIN, &place.pod("p", "", "", SHARE), "resources of tenure.dev are asked for by Tenure alone");
    refused(
        ADMIN,
        &place.pod("p", "labels: {tenure.dev/group: train}", "", SHARE),
        "resources of tenure.dev are asked for by Tenure alone",
    );
    accepted(TENURE, &place.pod("p", "", MANAGED, SHARE));
}

#[test]
fn a_toleration_added_later_counts_and_other_changes_do_not() {
    let place = Place::new("later");
    refused(ADMIN, &place.pod("p", "", WILDCARD, CARD), "may neither name its node");
    make(ADMIN, &place.pod("card", "", OTHER, CARD));
    let add = |it: &str| format!(r#"[{{"op":"add","path":"/spec/tolerations/-","value":{it}}}]"#);
    let patch = "-n @ patch pod card --type=json -p";
    place.cannot(ADMIN, patch, &add(r#"{"operator":"Exists"}"#), "may neither name its node nor tolerate");
    place.cannot(ADMIN, patch, &add(r#"{"key":"tenure.dev/managed","operator":"Exists"}"#), "denied request");
    place.can(ADMIN, patch, &add(r#"{"key":"another","operator":"Exists"}"#));
}

#[test]
fn foreign_pods_that_were_there_before_stay_undisturbed() {
    let place = Place::new("before");
    refused(ADMIN, &place.pod("p", "", WILDCARD, CARD), "may neither name its node");
    // Only Tenure could still make such a pod; to the policies it is one that nobody could make today.
    make(TENURE, &place.pod("old", "", WILDCARD, CARD));
    place.can(ADMIN, "-n @ label pod old team=x", "");
    place.can(ADMIN, "-n @ annotate pod old note=x", "");
    place.can(ADMIN, "-n @ patch pod old --type=merge -p", r#"{"spec":{"activeDeadlineSeconds":3600}}"#);
    place.can(
        ADMIN,
        "-n @ patch pod old --subresource=status --type=merge -p",
        r#"{"status":{"phase":"Running"}}"#,
    );
    place.can(ADMIN, "-n @ delete pod old --now --wait=false", "");
}

#[test]
fn the_taint_is_not_tolerated_by_name() {
    let place = Place::new("taint");
    refused(
        ADMIN,
        &place.pod("p", "", MANAGED, ""),
        "nodes with the taint tenure.dev/managed are sold: leave the toleration out",
    );
    accepted(TENURE, &place.pod("p", "", MANAGED, ""));
    accepted(ADMIN, &place.pod("p", "", OTHER, ""));
}

#[test]
fn customers_tolerate_by_name_only() {
    let place = Place::new("customer");
    accepted(ADMIN, &place.pod("p", "", WILDCARD, ""));
    place.can(ADMIN, "label namespace @ tenure.dev/account=acme", "");
    refused(
        ADMIN,
        &place.pod("p", "", WILDCARD, ""),
        "a toleration without a key also tolerates tenure.dev/managed",
    );
    accepted(ADMIN, &place.pod("p", "", OTHER, ""));
}

#[test]
fn cards_are_not_taken_by_an_environment_variable() {
    let place = Place::new("visible");
    let says = "NVIDIA_VISIBLE_DEVICES and its like take cards without asking";
    refused(ADMIN, &place.pod("p", "", WILDCARD, VISIBLE), says);
    refused(ADMIN, &place.pod("p", "", "nodeName: some-node", VISIBLE), says);
    refused(
        ADMIN,
        &place.pod(
            "p",
            "",
            WILDCARD,
            "env: [{name: NVIDIA_VISIBLE_DEVICES, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
        ),
        says,
    );
    accepted(ADMIN, &place.pod("p", "", WILDCARD, VOID));
    accepted(ADMIN, &place.pod("p", "", "", VISIBLE));
    // A worker that is looked into must not get more cards by it.
    make(TENURE, &place.pod("worker", "", MANAGED, CARD));
    let debug = |env: &str| {
        format!(r#"{{"spec":{{"ephemeralContainers":[{{"name":"look","image":"x","env":[{env}]}}]}}}}"#)
    };
    let patch = "-n @ patch pod worker --subresource=ephemeralcontainers --type=strategic -p";
    place.cannot(ADMIN, patch, &debug(r#"{"name":"NVIDIA_VISIBLE_DEVICES","value":"all"}"#), says);
    place.can(ADMIN, patch, &debug(r#"{"name":"TERM","value":"xterm"}"#));
    // Device plugins see all cards, where whoever runs the cluster put them.
    place.can(ADMIN, "label namespace @ tenure.dev/card-software=allowed", "");
    accepted(ADMIN, &place.pod("p", "", WILDCARD, VISIBLE));
}

#[test]
fn only_the_scheduler_binds() {
    let place = Place::new("bind");
    let node = place.node(true);
    make(ADMIN, &place.pod("p", "", "nodeSelector: {nowhere: nowhere}", ""));
    let binding = format!(
        r#"{{"apiVersion":"v1","kind":"Binding","metadata":{{"name":"p","namespace":"{0}"}},"target":{{"apiVersion":"v1","kind":"Node","name":"{node}"}}}}"#,
        place.name
    );
    for path in ["pods/p/binding", "bindings"] {
        let url = format!("/api/v1/namespaces/{}/{path}?dryRun=All", place.name);
        let bind =
            |who: &[&str]| kubectl_with(&[who, &["create", "--raw", &url, "-f", "-"]].concat(), &binding);
        until("a refusal of the binding", || {
            said(bind(ADMIN), "only kube-scheduler binds pods to nodes, not admin")
        });
        bind(SCHEDULER).expect("the scheduler binds");
    }
}

// The marks of workers.

#[test]
fn the_marks_of_workers_are_tenures() {
    let place = Place::new("marks");
    for label in ["endpoint", "spot-server", "revision"] {
        refused(
            ADMIN,
            &place.pod("p", &format!("labels: {{tenure.dev/{label}: x}}"), "", ""),
            "mark Tenure's own workers",
        );
    }
    refused(
        ADMIN,
        &place.pod("p", "annotations: {tenure.dev/promised-node: x}", "", ""),
        "tenure.dev/promised-node is set by Tenure alone",
    );
    refused(
        ADMIN,
        &place.pod("p", "annotations: {tenure.dev/closing-since: \"2026-11-23T00:00:00Z\"}", "", ""),
        "tenure.dev/closing-since is set by Tenure alone",
    );
    refused(
        ADMIN,
        &place.pod("p", "annotations: {tenure.dev/reclaim: x}", "", ""),
        "tenure.dev/reclaim is set by Tenure alone",
    );
    refused(
        ADMIN,
        &place.pod("p", "finalizers: [tenure.dev/metering]", "", ""),
        "the finalizer tenure.dev/metering is set by Tenure",
    );
    accepted(
        ADMIN,
        &place.pod("p", "labels: {tenure.example/endpoint: x}, finalizers: [other.example/x]", "", ""),
    );

    // Some owner that is really there, or the garbage collector would take the pod away.
    let owner = "kube-root-ca.crt";
    let uid = until("the namespace's first object", || {
        let uid = field(&format!("-n {} configmap/{owner}", place.name), ".metadata.uid");
        if uid.is_empty() { Err("none".to_owned()) } else { Ok(uid) }
    });
    let meta = format!(
        "labels: {{tenure.dev/endpoint: llm}}, finalizers: [tenure.dev/metering], \
         ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: {owner}, uid: {uid}, controller: true}}]"
    );
    make(TENURE, &place.pod("worker", &meta, MANAGED, CARD));
    place.cannot(ADMIN, "-n @ label pod worker tenure.dev/endpoint-", "", "mark Tenure's own workers");
    place.cannot(
        ADMIN,
        "-n @ label pod worker tenure.dev/endpoint=other --overwrite",
        "",
        "mark Tenure's own workers",
    );
    let free = r#"{"metadata":{"finalizers":null}}"#;
    for subresource in ["", "--subresource=status"] {
        place.cannot(
            ADMIN,
            &format!("-n @ patch pod worker {subresource} --type=merge -p"),
            free,
            "the finalizer tenure.dev/metering is set by Tenure",
        );
    }
    place.cannot(
        ADMIN,
        "-n @ patch pod worker --type=merge -p",
        r#"{"metadata":{"ownerReferences":null}}"#,
        "a worker belongs to its contract",
    );
    // A worker that is closed would be ended, and one that has to go would stay.
    place.cannot(
        ADMIN,
        "-n @ annotate pod worker tenure.dev/closing-since=2026-11-23T00:00:00Z",
        "",
        "to end a worker, delete it",
    );
    place.can(TENURE, "-n @ annotate pod worker tenure.dev/closing-since=2026-11-23T00:00:00Z", "");
    place.cannot(
        ADMIN,
        "-n @ annotate pod worker tenure.dev/closing-since-",
        "",
        "to end a worker, delete it",
    );
    place.can(ADMIN, "-n @ label pod worker team=x", "");
    place.can(
        ADMIN,
        "-n @ patch pod worker --subresource=status --type=merge -p",
        r#"{"status":{"phase":"Running"}}"#,
    );
    place.can(TENURE, "-n @ patch pod worker --type=merge -p", free);
}

// Groups.

const GROUP: &str = "labels: {tenure.dev/group: train}";

#[test]
fn a_pod_of_a_group_gets_its_place() {
    let place = Place::new("group");
    for spec in [
        "",
        "nodeSelector: {disk: fast}",
        "nodeSelector: {tenure.dev/group: train}",
        OTHER,
        MANAGED,
        WILDCARD,
    ] {
        let pod: serde_json::Value =
            serde_json::from_str(&accepted(ADMIN, &place.pod("p", GROUP, spec, CARD)))
                .expect("kubectl writes JSON");
        let selector = &pod["spec"]["nodeSelector"];
        assert_eq!(selector["tenure.dev/group"], "train", "{spec}");
        assert_eq!(selector["tenure.dev/group-namespace"], place.name.as_str(), "{spec}");
        assert_eq!(selector.get("disk").is_some(), spec.contains("disk"), "{spec}");
        let tolerations = pod["spec"]["tolerations"].as_array().expect("there are some");
        assert_eq!(
            tolerations.iter().filter(|it| it["key"] == "tenure.dev/managed").count(),
            1,
            "{spec}: once"
        );
    }
    // Its machines are its own, with all cards in them.
    accepted(ADMIN, &place.pod("p", GROUP, "", VISIBLE));
    accepted(
        TENURE,
        &place.pod("p", "labels: {tenure.dev/group: train, tenure.dev/endpoint: llm}", MANAGED, CARD),
    );
}

#[test]
fn a_pod_can_not_get_into_a_group_that_is_not_its_own() {
    let place = Place::new("forged");
    let forged = "nodeSelector: {tenure.dev/group: train, tenure.dev/group-namespace: team-b}";
    refused(ADMIN, &place.pod("p", GROUP, forged, CARD), "denied request");
    refused(ADMIN, &place.pod("p", GROUP, forged, ""), &format!("or make them train and {}", place.name));
    refused(
        ADMIN,
        &place.pod("p", GROUP, "nodeSelector: {tenure.dev/group: other}", ""),
        "runs on that group of its own namespace",
    );
    refused(
        ADMIN,
        &place.pod("p", "", &format!("{forged}, {MANAGED}"), ""),
        "nodes with the taint tenure.dev/managed are sold",
    );
    refused(
        ADMIN,
        &place.pod("p", "", &format!("{forged}, {WILDCARD}"), CARD),
        "may neither name its node nor tolerate",
    );
    refused(
        ADMIN,
        &place.pod("p", GROUP, "nodeName: some-node", ""),
        "a pod of a DedicatedGroup may not name its node",
    );
    make(ADMIN, &place.pod("p", GROUP, "", CARD));
    make(ADMIN, &place.pod("q", "", "", ""));
    for change in ["p tenure.dev/group=other --overwrite", "p tenure.dev/group-", "q tenure.dev/group=train"]
    {
        place.cannot(
            ADMIN,
            &format!("-n @ label pod {change}"),
            "",
            "a pod can't move from one DedicatedGroup to another",
        );
    }
}

#[test]
fn a_group_says_what_runs_on_it() {
    let place = Place::new("usage");
    let group = |name: &str, usage: &str| {
        place.apply(&format!(
            "apiVersion: tenure.dev/v1alpha1\nkind: DedicatedGroup\nmetadata: {{namespace: \"@\", name: {name}}}\n\
             spec: {{usage: {usage}, machineSets: [{{name: a, machineType: none, count: 1, billing: Postpaid}}]}}"
        ));
    };
    group("serve", "Inference");
    group("train", "DevTraining");
    let serve = "labels: {tenure.dev/group: serve}";
    refused(
        ADMIN,
        &place.pod("p", serve, "", ""),
        "the group serve is of usage Inference and takes endpoints only",
    );
    accepted(TENURE, &place.pod("p", serve, MANAGED, CARD));
    accepted(ADMIN, &place.pod("p", GROUP, "", ""));
    // A group that is not there yet is waited for.
    accepted(ADMIN, &place.pod("p", "labels: {tenure.dev/group: coming}", "", ""));
}

#[test]
fn a_group_that_has_ended_takes_no_pods() {
    // While this has its turn no operator runs that would write another phase.
    let _turn = World::new("policyphase", 1);
    let place = Place::new("phase");
    place.apply(
        "apiVersion: tenure.dev/v1alpha1\nkind: DedicatedGroup\nmetadata: {namespace: \"@\", name: train, finalizers: [test.example/stay]}\n\
         spec: {machineSets: [{name: a, machineType: none, count: 1, billing: Postpaid}]}",
    );
    for (phase, advice) in [("Expired", "renew it"), ("Failed", "use another group")] {
        let pod = place.pod("p", GROUP, "", "");
        until(&format!("a refusal by a group that is {phase}"), || {
            place.try_words(
                TENURE,
                "-n @ patch dg train --subresource=status --type=merge -p",
                &format!(r#"{{"status":{{"phase":"{phase}"}}}}"#),
            )?;
            let words = format!("the group train is {phase} and takes no new pods: {advice}");
            said(kubectl_with(&["create", "--dry-run=server", "-f", "-"], &pod), &words)
        });
    }
    place.can(ADMIN, "-n @ delete dg train --wait=false", "");
    refused(ADMIN, &place.pod("p", GROUP, "", ""), "the group train is Deleting and takes no new pods");
    place.can(
        ADMIN,
        "-n @ patch dg train --type=json -p",
        r#"[{"op":"remove","path":"/metadata/finalizers/0"}]"#,
    );
}

// DaemonSets.

#[test]
fn what_runs_on_every_node_runs_on_managed_ones() {
    let place = Place::new("daemons");
    let node = place.node(true);
    let daemons = |namespace: &str, spec: &str, container: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{namespace: {namespace}, name: {0}}}\nspec:\n  selector: {{matchLabels: {{app: {0}}}}}\n  \
             template: {{metadata: {{labels: {{app: {0}}}}}, spec: {{nodeSelector: {{policy-test: {0}}}, containers: [{{name: main, image: x, {container}}}]{spec}}}}}",
            place.name
        )
    };
    let tolerations = |yaml: &str| {
        let set: serde_json::Value =
            serde_json::from_str(&accepted(ADMIN, yaml)).expect("kubectl writes JSON");
        let all = set["spec"]["template"]["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        all.iter().map(|it| it["key"].as_str().unwrap_or("*").to_owned()).collect::<Vec<_>>().join(" ")
    };
    until("the toleration in a template", || {
        let found = tolerations(&daemons("kube-system", "", VISIBLE));
        if found == "tenure.dev/managed" { Ok(()) } else { Err(found) }
    });
    for (namespace, spec, container, expected) in [
        (
            place.name.as_str(),
            ", tolerations: [{key: other, operator: Exists}]",
            "",
            "other tenure.dev/managed",
        ),
        (
            &place.name,
            ", tolerations: [{key: tenure.dev/managed, operator: Exists}]",
            "",
            "tenure.dev/managed",
        ),
        (&place.name, ", tolerations: [{operator: Exists}]", "", "*"),
        // Whose pods would be refused there is left as it is.
        (&place.name, "", CARD, ""),
        (&place.name, "", VISIBLE, ""),
    ] {
        assert_eq!(
            tolerations(&daemons(namespace, spec, container)),
            expected,
            "{namespace} {spec} {container}"
        );
    }
    // A device plugin as it is shipped gets its pod on a node that is sold.
    must_apply(&daemons("kube-system", "", VISIBLE));
    let affinity = ".items[0].spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values[0]";
    let pods = format!("-n kube-system pods -l app={node}");
    let placed = until("a pod for the node", || {
        let found = k(&format!("get {pods} -o jsonpath={{{affinity}}}")).unwrap_or_default();
        if found.is_empty() { Err("none".to_owned()) } else { Ok(found) }
    });
    assert_eq!(placed, node);
    // Applied again, nothing changes: no rollout.
    must_apply(&daemons("kube-system", "", VISIBLE));
    assert_eq!(field(&format!("-n kube-system daemonset {node}"), ".metadata.generation"), "1");
    k(&format!("-n kube-system delete daemonset {node} --wait=false")).expect("it goes");
    // Customers' stay away.
    place.can(ADMIN, "label namespace @ tenure.dev/account=acme", "");
    until("no toleration in a customer's template", || {
        let found = tolerations(&daemons(&place.name, "", ""));
        if found.is_empty() { Ok(()) } else { Err(found) }
    });
}

// Contracts and records.

#[test]
fn a_payment_stays() {
    let place = Place::new("payment");
    // Its account is nowhere, so it counts for nobody; the object stays in the test's cluster.
    place.apply("apiVersion: tenure.dev/v1alpha1\nkind: Payment\nmetadata: {name: \"@\"}\nspec: {account: \"@\", amount: \"1\"}");
    place.cannot(ADMIN, "delete payment @", "", "a Payment is a record: it stays and can't be deleted");
    place.cannot(
        ADMIN,
        "patch payment @ --type=merge -p",
        r#"{"spec":{"amount":"2"}}"#,
        "it is a record; make another one",
    );
    place.can(ADMIN, "label payment @ year=2026", "");
}

const POOL: &str = "apiVersion: tenure.dev/v1alpha1\nkind: ResidentPool\nmetadata: {namespace: \"@\", name: chat}\n\
                    spec: {region: nowhere, cardType: nothing, cards: 2, diskPerCardGB: 20, term: {months: 1}}";

/// Says that so many instances are bound.
fn bind(place: &Place, instances: u32) -> Result<String, String> {
    let status = format!(
        r#"{{"status":{{"endpoints":[{{"name":"llm","instances":{instances},"cards":{instances},"diskGB":20}}]}}}}"#
    );
    place.try_words(TENURE, "-n @ patch rp chat --subresource=status --type=merge -p", &status)
}

#[test]
fn a_pool_with_bound_instances_is_not_deleted_but_goes_with_its_namespace() {
    let _turn = World::new("policypool", 1);
    let place = Place::new("pool");
    place.apply(POOL);
    until("a refusal to delete a bound pool", || {
        bind(&place, 2)?;
        said(
            place.try_words(ADMIN, "--dry-run=server -n @ delete rp chat", ""),
            "bring the resident instances to 0 first: endpoint llm has 2",
        )
    });
    until("an unbound pool to be deleted", || {
        bind(&place, 0)?;
        place.try_words(ADMIN, "--dry-run=server -n @ delete rp chat", "")
    });
    bind(&place, 2).expect("the operator writes the status");
    place.can(ADMIN, "delete namespace @ --wait=false", "");
    until("the namespace to go with its pool", || {
        // An operator that runs has put its finalizer there, and takes it off.
        if field(&format!("namespace {}", place.name), ".metadata.name").is_empty() {
            Ok(())
        } else {
            Err("it is still there".to_owned())
        }
    });
}

#[test]
fn what_tenure_notes_on_a_contract_is_its_own() {
    let place = Place::new("notes");
    for note in ["machines", "refused"] {
        let forged = POOL
            .replace("name: chat", &format!("name: chat, annotations: {{tenure.dev/{note}: \"1\"}}"))
            .replace('@', &place.name);
        refused(
            ADMIN,
            &forged,
            "the annotations tenure.dev/machines, tenure.dev/refused and tenure.dev/reclaim are Tenure's own",
        );
    }
    place.apply(POOL);
    place.cannot(
        ADMIN,
        "-n @ patch rp chat --subresource=status --type=merge -p",
        r#"{"status":{"phase":"Active"}}"#,
        "the status of a contract is what Tenure reports",
    );
    // A generation that is not this one: it refuses nothing.
    place.can(TENURE, "-n @ annotate rp chat tenure.dev/refused=0 --overwrite", "");
    place.can(
        TENURE,
        "-n @ patch rp chat --type=merge -p",
        r#"{"metadata":{"finalizers":["tenure.dev/cards"]}}"#,
    );
    for change in [
        "tenure.dev/refused=9 --overwrite",
        "tenure.dev/refused-",
        "tenure.dev/machines={}",
        "tenure.dev/reclaim={}",
    ] {
        place.cannot(
            ADMIN,
            &format!("-n @ annotate rp chat {change}"),
            "",
            "are Tenure's own: leave them as they are",
        );
    }
    place.cannot(
        ADMIN,
        "-n @ patch rp chat --type=merge -p",
        r#"{"metadata":{"finalizers":null}}"#,
        "the finalizer tenure.dev/cards stays until the contract's cards are back",
    );
    // What people do with manifests goes on to work: they state neither.
    place.apply(&POOL.replace("cards: 2", "cards: 3"));
    place.can(ADMIN, "-n @ annotate rp chat note=x", "");
    assert_eq!(field(&format!("-n {} rp/chat", place.name), ".metadata.finalizers[0]"), "tenure.dev/cards");
    place.can(TENURE, "-n @ patch rp chat --type=merge -p", r#"{"metadata":{"finalizers":null}}"#);
}

// Namespaces and rights.

#[test]
fn who_pays_is_said_by_who_keeps_the_accounts() {
    let place = Place::new("account");
    place.can(ADMIN, "create clusterrole @ --verb=get,create,patch,update --resource=namespaces", "");
    place.can(ADMIN, "create clusterrolebinding @ --clusterrole=@ --user=alice", "");
    let says = "only who may update Accounts sets, changes or removes them";
    place.cannot(ALICE, "label namespace @ tenure.dev/account=acme", "", says);
    place.can(ADMIN, "label namespace @ tenure.dev/account=acme", "");
    place.cannot(ALICE, "label namespace @ tenure.dev/account-", "", says);
    place.can(ALICE, "label namespace @ team=x", "");
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {}-2, labels: {{tenure.dev/card-software: allowed}}}}",
        place.name
    );
    refused(ALICE, &namespace, says);
}

#[test]
fn the_operator_may_do_what_it_does_and_no_more() {
    install();
    let may = |words: &str| {
        let words = format!("auth can-i --as {OPERATOR} {words}");
        k(&words).unwrap_or_else(|it| it).ends_with("yes")
    };
    for allowed in [
        "watch nodes",
        "patch nodes",
        "patch nodes --subresource=status",
        "watch pods -A",
        "create pods -A",
        "delete pods -A",
        "create pods --subresource=eviction -A",
        "watch namespaces",
        "create persistentvolumeclaims -A",
        "patch networkpolicies.networking.k8s.io -A",
        "create events.events.k8s.io -A",
        "patch poddisruptionbudgets.policy -A",
        "get secrets -A",
        "watch payments.tenure.dev",
        "patch residentpools.tenure.dev -A",
        "patch serverlessendpoints.tenure.dev --subresource=status -A",
        "patch accounts.tenure.dev --subresource=status",
        "update leases.coordination.k8s.io/tenure-operator -n tenure-system",
    ] {
        assert!(may(allowed), "the operator must be allowed to {allowed}");
    }
    for forbidden in [
        "list nodes",
        "delete nodes",
        "update nodes",
        "create pods --subresource=exec -A",
        "create pods --subresource=binding -A",
        "list secrets -A",
        "watch secrets -A",
        "patch namespaces",
        "delete persistentvolumeclaims -A",
        "create deployments.apps -A",
        "patch payments.tenure.dev",
        "delete residentpools.tenure.dev -A",
        "create residentpools.tenure.dev -A",
        "update leases.coordination.k8s.io/other -n tenure-system",
        "update leases.coordination.k8s.io -n kube-node-lease",
        "impersonate users",
        "patch validatingadmissionpolicies.admissionregistration.k8s.io",
    ] {
        assert!(!may(forbidden), "the operator must not be allowed to {forbidden}");
    }
}
