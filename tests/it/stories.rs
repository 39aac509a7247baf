//! What users live through, on the real cluster with the real operator and simulated nodes.

use crate::operator::{Operator, Start};
use crate::support::{field, k, kubectl, kubectl_with, must_apply, until, until_field};
use crate::world::{READY, World};

pub const POOL: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: ResidentPool
metadata: {namespace: "@", name: chat}
spec: {region: "@", cardType: "@", cards: 6, diskPerCardGB: 40, term: {months: 1}}
"#;

pub const BOUND: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: ServerlessEndpoint
metadata: {namespace: "@", name: bound}
spec:
  placement: {residentPool: {name: chat, instances: 4, diskGB: 30}}
  workers: {gpus: 1, concurrency: 8}
  template: {spec: {containers: [{name: main, image: "localhost/worker:1"}]}}
"#;

pub const ELASTIC: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: ServerlessEndpoint
metadata: {namespace: "@", name: llm}
spec:
  placement: {serverless: {cardType: "@", region: "@"}}
  workers: {active: 2, max: 8, gpus: 1, concurrency: 8}
  template: {spec: {containers: [{name: main, image: "localhost/worker:1"}]}}
"#;

pub const GROUP: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: DedicatedGroup
metadata: {namespace: "@", name: train}
spec:
  region: "@"
  machineSets: [{name: base, machineType: m8, count: 1, billing: Postpaid}]
"#;

/// A pod of the group.
pub const GROUP_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {namespace: "@", name: job, labels: {tenure.dev/group: train, app: job}}
spec: {containers: [{name: main, image: "localhost/worker:1", resources: {limits: {nvidia.com/gpu: 4}}}]}
"#;

pub const SPOT: &str = r#"
apiVersion: tenure.dev/v1alpha1
kind: SpotServer
metadata: {namespace: "@", name: render}
spec:
  region: "@"
  machineType: s1
  bid: "2.50"
  disk: {sizeGB: 20}
  template: {spec: {containers: [{name: main, image: "localhost/worker:1"}]}}
"#;

// Inventory and nodes.

#[test]
fn nodes_come_and_go() {
    let world = World::new("inventory", 1);
    let _operator = world.operator();
    world.until_shares(1, "shared", 8);
    until_field("cardtype/inventory", ".status.cards.total", "8");
    let taints = "{.spec.taints[*].key}{.spec.taints[*].effect}";
    until("both taints", || {
        let found = k(&format!("get node inventory-0 -o jsonpath={taints}"))?;
        if found.contains("NoSchedule") && found.contains("NoExecute") { Ok(()) } else { Err(found) }
    });
    world.add_node(1);
    world.until_shares(2, "shared", 16);
    until_field("cardtype/inventory", ".status.nodes", "2");
    k("delete node inventory-1").unwrap();
    until_field("cardtype/inventory", ".status.cards.total", "8");

    // A second card type that matches the same nodes makes both say so, and nothing is sold there.
    let twin = "apiVersion: tenure.dev/v1alpha1\nkind: CardType\nmetadata: {name: inventory-twin}\nspec: {resourceName: nvidia.com/gpu, nodeSelector: {tenure.test/cards: inventory}, perCard: {cpu: \"1\", memory: 1Gi, gpuMemory: 1Gi, disk: 1Gi}}";
    must_apply(twin);
    for name in ["inventory", "inventory-twin"] {
        until_field(
            &format!("cardtype/{name}"),
            ".status.conditions[?(@.type==\"Ready\")].reason",
            "Conflict",
        );
    }
    k("delete cardtype inventory-twin").unwrap();
    until_field("cardtype/inventory", READY, "True");

    // No card type any more: the node is given up, and is as it was before.
    k("delete cardtype inventory").unwrap();
    until("the node to be given up", || {
        let node = k("get node inventory-0 -o json")?;
        if node.contains("tenure.dev") { Err("it still carries our marks".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn foreign_pods_keep_their_cards() {
    let world = World::new("foreign", 1);
    // It uses two cards before the node is managed: bound by the scheduler as any other pod.
    world.apply(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "@", "name": "old"}, "spec": {
            "nodeSelector": {"tenure.test/cards": "@"},
            "containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "2"}}}]}}"#,
    );
    world.until("pod/old", ".status.phase", "Running");
    let _operator = world.operator();
    world.until_shares(1, "shared", 6);
    assert_eq!(world.share(0, "held"), 2, "cards under a foreign pod are nobody's to sell");
    let effects = || {
        k("get node foreign-0 -o jsonpath={.spec.taints[?(@.key==\"tenure.dev/managed\")].effect}").unwrap()
    };
    assert_eq!(effects(), "NoSchedule", "nobody is thrown out");
    world.apply(&POOL.replace("cards: 6", "cards: 7"));
    assert!(world.not_ready("rp/chat", "Refused").contains("7 more foreign cards are needed and 6 are free"));
    world.k("delete pod old");
    world.until_shares(1, "shared", 8);
    until("NoExecute", || if effects() == "NoSchedule NoExecute" { Ok(()) } else { Err(effects()) });
}

#[test]
fn cards_come_with_cpu_and_memory() {
    let world = World::new("room", 1);
    // A pod without cards takes half of the node's CPU before it is managed: four cards have none to go with them.
    world.apply(
        r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "@", "name": "cpu"}, "spec": {
            "nodeSelector": {"tenure.test/cards": "@"},
            "containers": [{"name": "main", "image": "x", "resources": {"requests": {"cpu": "32"}}}]}}"#,
    );
    world.until("pod/cpu", ".status.phase", "Running");
    let _operator = world.operator();
    world.until_shares(1, "shared", 4);
    assert_eq!(world.share(0, "held"), 4);
    world.k("delete pod cpu");
    world.until_shares(1, "shared", 8);
}

// Pools.

#[test]
fn a_pool_is_bought_used_expanded_and_given_back() {
    let world = World::new("pool", 2);
    let _operator = world.operator();
    world.apply(POOL);
    world.ready("rp/chat");
    assert_eq!(world.shares(2, "resident"), 6);
    assert_eq!(world.share(0, "resident"), 6, "a pool is packed into few nodes");
    assert_eq!(world.field("rp/chat", ".status.bought.cards"), "6");

    world.apply(BOUND);
    world.until_running(&["bound-1", "bound-2", "bound-3", "bound-4"]);
    world.ready("sep/bound");
    assert_eq!(world.field("sep/bound", ".status.ready"), "4/4");
    world.until("rp/chat", ".status.cards.bound", "4");
    assert_eq!(world.field("rp/chat", ".status.diskGB.free"), "120");
    let limits = world.field("pod/bound-1", ".spec.containers[0].resources.limits.ephemeral-storage");
    assert_eq!(limits, "30G", "an instance's disk is its limit");

    // More instances than fit: those that fit run on, and the endpoint says what is left.
    world.patch("sep/bound", r#"{"spec": {"placement": {"residentPool": {"instances": 9}}}}"#);
    assert!(world.not_ready("sep/bound", "PoolWithoutRoom").contains("room for 6 of 9 instances"));
    world.patch("rp/chat", r#"{"spec": {"cards": 9}}"#);
    world.ready("sep/bound");
    assert_eq!(world.shares(2, "resident"), 9);

    // Bound, it can't be deleted; unbound it goes, and every card comes back.
    let refusal = kubectl(&["-n", "pool", "delete", "rp/chat"]).unwrap_err();
    assert!(refusal.contains("resident instances"), "{refusal}");
    world.k("delete sep bound");
    until("the pool to be free", || k("-n pool delete rp/chat --timeout=60s"));
    world.until_empty(2);
}

#[test]
fn a_purchase_that_does_not_fit_fails_or_waits() {
    let world = World::new("shortage", 1);
    let _operator = world.operator();
    world.apply(&POOL.replace("cards: 6", "cards: 9"));
    let message = world.not_ready("rp/chat", "Refused");
    assert!(message.contains("9 more shortage cards are needed and 8 are free"), "{message}");
    assert_eq!(world.field("rp/chat", ".status.phase"), "Failed");
    assert_eq!(world.shares(1, "resident"), 0, "nothing is half bought");
    // A changed spec is a new try.
    world.patch("rp/chat", r#"{"spec": {"cards": 3}}"#);
    world.ready("rp/chat");

    world.apply(&POOL.replace("name: chat", "name: later").replace("term:", "onShortage: Wait, term:"));
    assert!(
        world.not_ready("rp/later", "Shortage").contains("6 more shortage cards are needed and 5 are free")
    );
    world.add_node(1);
    world.ready("rp/later");
    // An expansion that does not fit is refused, and what is bought stays.
    world.patch("rp/chat", r#"{"spec": {"cards": 30}}"#);
    world.not_ready("rp/chat", "Refused");
    assert_eq!(world.field("rp/chat", ".status.cards.locked"), "3");
    assert_eq!(world.field("rp/chat", ".status.phase"), "Active");
    // 30 typed for 3 can be taken back.
    world.patch("rp/chat", r#"{"spec": {"cards": 3}}"#);
    world.ready("rp/chat");
}

#[test]
fn what_a_contract_names_must_be_there() {
    let world = World::new("names", 1);
    let _operator = world.operator();
    let pool = |name: &str, from: &str, to: &str| {
        world.apply(&POOL.replace("name: chat", &format!("name: {name}")).replace(from, to));
    };
    pool("typo", "cardType: \"@\"", "cardType: adda");
    assert!(world.not_ready("rp/typo", "UnknownCardType").contains("the CardType adda does not exist"));
    pool("region", "region: \"@\"", "region: nowhere");
    assert!(world.not_ready("rp/region", "NoTariff").contains("nowhere"));
    must_apply(
        "apiVersion: tenure.dev/v1alpha1\nkind: Account\nmetadata: {name: names-usd}\nspec: {currency: USD, quotas: [{cardType: names, cards: 4}]}",
    );
    k("label namespace names tenure.dev/account=names-usd --overwrite").unwrap();
    pool("currency", "x", "x");
    assert!(world.not_ready("rp/currency", "OtherCurrency").contains("USD"));
    k("label namespace names tenure.dev/account- --overwrite").unwrap();
    world.not_ready("rp/currency", "NoAccount");
    k("label namespace names tenure.dev/account=gone --overwrite").unwrap();
    world.not_ready("rp/currency", "UnknownAccount");
    k("patch account names --type merge -p {\"spec\":{\"quotas\":[{\"cardType\":\"names\",\"cards\":4}]}}")
        .unwrap();
    k("label namespace names tenure.dev/account=names --overwrite").unwrap();
    assert!(world.not_ready("rp/currency", "Refused").contains("quota is 4 names cards"));
    world.patch("rp/currency", r#"{"spec": {"cards": 4}}"#);
    world.ready("rp/currency");
    world.apply(&BOUND.replace("name: chat", "name: nobody"));
    world.not_ready("sep/bound", "UnknownPlacement");
    // The words are on the object as an Event too, where `kubectl describe` shows them.
    until("the Event", || {
        let found =
            world.k("get events --field-selector involvedObject.name=typo -o jsonpath={.items[*].message}");
        if found.contains("the CardType adda does not exist") { Ok(()) } else { Err(found) }
    });
    k("delete account names-usd").unwrap();
}

// Endpoints.

#[test]
fn an_elastic_endpoint_scales_stops_starts_and_rolls() {
    let world = World::new("elastic", 1);
    let _operator = world.operator();
    world.apply(ELASTIC);
    world.until_running(&["llm-1", "llm-2"]);
    world.ready("sep/llm");
    world.k("scale sep/llm --replicas=3");
    world.until_running(&["llm-1", "llm-2", "llm-3"]);
    assert_eq!(world.field("sep/llm", ".status.selector"), "tenure.dev/endpoint=llm");

    // Stopped: the workers end, the endpoint is there and Ready, and costs no card.
    world.patch("sep/llm", r#"{"spec": {"state": "Stopped"}}"#);
    world.until("sep/llm", ".status.phase", "Stopped");
    world.until_running(&[]);
    assert_eq!(world.field("sep/llm", READY), "True");
    until("the cards to be free", || match field("cardtype/elastic", ".status.cards.free").as_str() {
        "8" => Ok(()),
        other => Err(other.to_owned()),
    });
    world.patch("sep/llm", r#"{"spec": {"state": "Running"}}"#);
    world.until("sep/llm", ".status.ready", "3/3");

    // A template that never gets ready takes one worker and leaves the rest.
    world.patch(
        "sep/llm",
        r#"{"spec": {"template": {"metadata": {"annotations": {"tenure.dev/test": "never-ready"}}}}}"#,
    );
    world.until("sep/llm", ".status.ready", "2/3");
    world.not_ready("sep/llm", "Progressing");
    assert_eq!(world.field("sep/llm", ".status.workers.ready"), "2", "the last good workers stay");
    // The old template is back: so are the workers.
    kubectl(&[
        "-n",
        "elastic",
        "patch",
        "sep/llm",
        "--type",
        "json",
        "-p",
        r#"[{"op": "remove", "path": "/spec/template/metadata"}]"#,
    ])
    .unwrap();
    world.until("sep/llm", ".status.ready", "3/3");
    // A good one takes over all of them.
    let before = world.field("sep/llm", ".status.revision");
    world.patch("sep/llm", r#"{"spec": {"template": {"metadata": {"labels": {"version": "2"}}}}}"#);
    until("three workers of the new template", || {
        let list = world.k("get pods -l version=2 -o jsonpath={.items[*].status.phase}");
        if list == "Running Running Running" && world.pods().len() == 3 { Ok(()) } else { Err(list) }
    });
    assert_ne!(world.field("sep/llm", ".status.revision"), before);

    // More than there are cards for: what fits runs, and the endpoint says what is missing.
    world.patch("sep/llm", r#"{"spec": {"workers": {"active": 9, "max": 9}}}"#);
    world.until("sep/llm", ".status.ready", "8/9");
    assert!(world.not_ready("sep/llm", "Shortage").contains("1 more elastic cards"));
    world.k("delete sep llm");
    world.until_empty(1);
}

#[test]
fn a_schedule_starts_and_stops() {
    let world = World::new("schedule", 1);
    let _operator = world.operator();
    let endpoint = |state: &str| {
        ELASTIC.replacen("spec:\n", &format!("spec:\n  state: Scheduled\n  schedule: {{timeZone: Asia/Shanghai, rules: [{{at: \"* * * * *\", state: {state}}}]}}\n"), 1)
    };
    world.apply(&endpoint("Running"));
    world.until_running(&["llm-1", "llm-2"]);
    world.apply(&endpoint("Stopped"));
    world.until_running(&[]);
    world.until("sep/llm", ".status.phase", "Stopped");
}

// Groups.

#[test]
fn a_group_has_machines_of_its_own() {
    let world = World::new("group", 2);
    let _operator = world.operator();
    // Before the group is there its pod waits.
    world.apply(GROUP);
    world.apply(GROUP_POD);
    world.ready("dg/train");
    world.until_running(&["job"]);
    assert_eq!(world.field("dg/train", ".status.ready"), "1/1");
    assert_eq!(world.shares(2, "dedicated"), 8, "the whole machine");
    let node = world.field("dg/train", ".status.machines[0].node");
    assert_eq!(world.field("pod/job", ".spec.nodeName"), node);
    assert_eq!(
        world.field("networkpolicy/tenure-train", ".spec.podSelector.matchLabels.tenure\\.dev/group"),
        "train"
    );
    world.patch("dg/train", r#"{"spec": {"network": "Open"}}"#);
    until("the policy to go", || {
        match world.field("networkpolicy/tenure-train", ".metadata.name").as_str() {
            "" => Ok(()),
            _ => Err("it is there".to_owned()),
        }
    });

    // Sold out: the second machine is there, the third is not; nothing is half bought.
    world.patch("dg/train", r#"{"spec": {"machineSets": [{"name": "base", "machineType": "m8", "count": 3, "billing": "Postpaid"}]}}"#);
    assert!(world.not_ready("dg/train", "Refused").contains("sold out"));
    assert_eq!(world.shares(2, "dedicated"), 8);
    world.patch("dg/train", r#"{"spec": {"machineSets": [{"name": "base", "machineType": "m8", "count": 2, "billing": "Postpaid"}]}}"#);
    world.ready("dg/train");
    assert_eq!(world.shares(2, "dedicated"), 16);

    // Smaller: which one must be named; a named one is emptied first.
    world.patch("dg/train", r#"{"spec": {"machineSets": [{"name": "base", "machineType": "m8", "count": 1, "billing": "Postpaid"}]}}"#);
    world.not_ready("dg/train", "NameMachines");
    let first = world.field("dg/train", ".status.machines[0].name");
    world.patch("dg/train", &format!(r#"{{"spec": {{"release": ["{first}"]}}}}"#));
    world.ready("dg/train");
    until("one machine to go back", || match world.shares(2, "dedicated") {
        8 => Ok(()),
        other => Err(other.to_string()),
    });
    until("the cordon to be taken away", || {
        let cordoned = k("get nodes -l tenure.test/cards=group -o jsonpath={.items[*].spec.unschedulable}")?;
        if cordoned.is_empty() { Ok(()) } else { Err(cordoned) }
    });

    world.k("delete dg train");
    world.k("delete pod job --ignore-not-found");
    world.until_empty(2);
}

#[test]
fn a_machine_is_emptied_and_restarted() {
    let world = World::new("drain", 1);
    let _operator = world.operator();
    world.apply(GROUP);
    world.ready("dg/train");
    world.apply(GROUP_POD);
    world.until_running(&["job"]);
    world.apply(
        r#"{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"namespace": "@", "name": "keep"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "job"}}}}"#,
    );
    world.until("pdb/keep", ".status.currentHealthy", "1");
    world.patch("dg/train", r#"{"spec": {"drain": ["base-0"]}}"#);
    world.until("dg/train", ".status.machines[0].phase", "Draining");
    until("the blocker to be named", || {
        let found = world.field("dg/train", ".status.machines[0].drain.blockedBy");
        if found.contains("drain/job") && found.contains("keep") { Ok(()) } else { Err(found) }
    });
    assert_eq!(field("node/drain-0", ".spec.unschedulable"), "true");
    world.until_running(&["job"]);
    world.k("delete pdb keep");
    world.until("dg/train", ".status.machines[0].phase", "Drained");
    world.until_running(&[]);
    // Its cards stay the group's; nobody else gets them.
    assert_eq!(world.share(0, "dedicated"), 8);
    world.patch("dg/train", r#"{"spec": {"drain": []}}"#);
    world.until("dg/train", ".status.machines[0].phase", "Running");
    assert_eq!(field("node/drain-0", ".spec.unschedulable"), "");
}

#[test]
fn an_inference_group_runs_endpoints_only() {
    let world = World::new("serve", 1);
    let _operator = world.operator();
    world.apply(
        &GROUP
            .replace("name: train", "name: serve")
            .replace("machineSets", "usage: Inference\n  machineSets"),
    );
    world.ready("dg/serve");
    world.apply(&BOUND.replace(
        "residentPool: {name: chat, instances: 4, diskGB: 30}",
        "dedicatedGroup: {name: serve, instances: 2}",
    ));
    world.until_running(&["bound-1", "bound-2"]);
    world.ready("sep/bound");
    world.until("dg/serve", ".status.machines[0].pods", "2");
    until("the refusal of a pod", || {
        let pod = GROUP_POD.replace("dev/group: train", "dev/group: serve").replace('@', "serve");
        match kubectl_with(&["create", "--dry-run=server", "-f", "-"], &pod) {
            Err(words) if words.contains("endpoints") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    world.k("delete sep bound");
    world.k("delete dg serve");
    world.until_empty(1);
}

// Spot.

#[test]
fn a_spot_server_runs_while_the_bid_suffices() {
    let world = World::new("spot", 1);
    let _operator = world.operator();
    world.apply(SPOT);
    world.ready("spot/render");
    assert_eq!(world.share(0, "spot"), 1);
    assert_eq!(world.field("pvc/render-data", ".status.phase"), "Bound");
    assert_eq!(world.field("spot/render", ".status.phase"), "Protected");
    assert_eq!(world.field("spot/render", ".status.price"), "2");
    world.apply(&SPOT.replace("name: render", "name: cheap").replace("2.50", "1.99"));
    assert!(world.not_ready("spot/cheap", "PriceAboveBid").contains("the price is 2 and the bid 1.99"));
    assert_eq!(world.share(0, "spot"), 1);
    world.k("delete spot --all");
    world.until_empty(1);
}

// Cards and nodes that fail.

#[test]
fn a_faulty_card_is_replaced() {
    let world = World::new("faulty", 2);
    let _operator = world.operator();
    world.apply(POOL);
    world.ready("rp/chat");
    let healthy = |node: &str, cards: &str| {
        let patch = format!(r#"{{"status": {{"allocatable": {{"nvidia.com/gpu": "{cards}"}}}}}}"#);
        kubectl(&["patch", "node", node, "--subresource=status", "--type", "merge", "-p", &patch]).unwrap();
    };
    // Two of eight: the shared ones go first.
    healthy("faulty-0", "6");
    until("the shared cards to go", || {
        if world.share(0, "shared") == 0 { Ok(()) } else { Err(world.share(0, "shared").to_string()) }
    });
    assert_eq!(world.share(0, "resident"), 6);
    until_field("cardtype/faulty", ".status.cards.faulty", "2");
    // One more: a card of the pool is replaced on the other node.
    healthy("faulty-0", "5");
    world.until_shares(2, "resident", 6);
    until("a replacement", || {
        if world.share(1, "resident") == 1 { Ok(()) } else { Err(world.share(1, "resident").to_string()) }
    });
    world.ready("rp/chat");
    healthy("faulty-0", "8");
    until("all cards to be in order", || match world.shares(2, "resident") + world.shares(2, "shared") {
        16 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_node_that_goes_takes_no_card_with_it() {
    let world = World::new("lost", 1);
    let _operator = world.operator();
    world.apply(POOL);
    world.apply(BOUND);
    world.ready("sep/bound");
    // No other node: the pool is degraded and waits.
    k("delete node lost-0").unwrap();
    assert!(world.not_ready("rp/chat", "Degraded").contains("6 of 6 bought cards can't be used"));
    assert_eq!(world.field("rp/chat", ".status.bought.cards"), "6");
    // The same node comes back, made anew, without shares or book.
    world.add_node(0);
    world.ready("rp/chat");
    assert_eq!(world.share(0, "resident"), 6);
    until("four running workers", || {
        let running = world.pods().iter().filter(|it| it.ends_with(":Running")).count();
        if running == 4 { Ok(()) } else { Err(format!("{:?}", world.pods())) }
    });
    world.ready("sep/bound");
    // With another node the cards are replaced there at once.
    world.add_node(1);
    k("delete node lost-0").unwrap();
    until("the cards on the other node", || {
        if world.share(1, "resident") == 6 { Ok(()) } else { Err(world.share(1, "resident").to_string()) }
    });
    world.ready("rp/chat");
    world.ready("sep/bound");
}

#[test]
fn shares_that_somebody_zeroed_are_written_again() {
    let world = World::new("zeroed", 1);
    let _operator = world.operator();
    world.apply(POOL);
    world.apply(BOUND);
    world.ready("sep/bound");
    let uids = || world.k("get pods -o jsonpath={.items[*].metadata.uid}");
    let before = uids();
    let resource = k("get node zeroed-0 -o json")
        .unwrap()
        .lines()
        .find_map(|it| {
            Some(it.trim().strip_prefix('"')?.split('"').next()?.to_owned())
                .filter(|it| it.starts_with("resident."))
        })
        .unwrap();
    // As a kubelet without its device checkpoint does.
    let zero = format!(
        r#"{{"status": {{"capacity": {{"{resource}": "0", "shared.tenure.dev/cards": "0"}}, "allocatable": {{"{resource}": "0", "shared.tenure.dev/cards": "0"}}}}}}"#
    );
    kubectl(&["patch", "node", "zeroed-0", "--subresource=status", "--type", "merge", "-p", &zero]).unwrap();
    until("the shares to be back", || match (world.share(0, "resident"), world.share(0, "shared")) {
        (6, 2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // And with the physical cards away for a while.
    let cards = |count: &str| {
        format!(
            r#"{{"status": {{"capacity": {{"nvidia.com/gpu": "{count}", "{resource}": "0"}}, "allocatable": {{"nvidia.com/gpu": "{count}", "{resource}": "0"}}}}}}"#
        )
    };
    kubectl(&["patch", "node", "zeroed-0", "--subresource=status", "--type", "merge", "-p", &cards("0")])
        .unwrap();
    world.not_ready("rp/chat", "Degraded");
    let back = r#"{"status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "8"}}}"#;
    kubectl(&["patch", "node", "zeroed-0", "--subresource=status", "--type", "merge", "-p", back]).unwrap();
    world.ready("rp/chat");
    assert_eq!((world.share(0, "resident"), uids()), (6, before), "no pod was touched");
}

#[test]
fn a_pod_that_was_forced_away_keeps_its_card_in_quarantine() {
    let world = World::new("forced", 1);
    let _operator = world.operator();
    world.apply(
        &ELASTIC
            .replacen(
                "{spec: {containers",
                "{metadata: {annotations: {tenure.dev/test: stuck}}, spec: {containers",
                1,
            )
            .replace("active: 2", "active: 1"),
    );
    world.until_running(&["llm-1"]);
    world.ready("sep/llm");
    world.patch("sep/llm", r#"{"spec": {"state": "Stopped"}}"#);
    until("the worker to be on its way out", || {
        if world.field("pod/llm-1", ".metadata.deletionTimestamp").is_empty() {
            Err("it is not".to_owned())
        } else {
            Ok(())
        }
    });
    // Force deletes the object at once, if no finalizer holds it; the kubelet of this node never reports its end.
    k("-n forced delete pod llm-1 --force --grace-period=0 --wait=false").unwrap();
    world.apply(&POOL.replace("cards: 6", "cards: 8").replace("term:", "onShortage: Wait, term:"));
    assert!(world.not_ready("rp/chat", "Shortage").contains("8 more forced cards are needed and 7 are free"));
    assert_eq!(world.field("pod/llm-1", ".metadata.finalizers[0]"), "tenure.dev/metering");
    // The kubelet reports: the card is free, and the pool gets all eight.
    let ended = r#"{"status": {"phase": "Succeeded", "containerStatuses": [{"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]}}"#;
    kubectl(&[
        "-n",
        "forced",
        "patch",
        "pod",
        "llm-1",
        "--subresource=status",
        "--type",
        "merge",
        "-p",
        ended,
    ])
    .unwrap();
    world.ready("rp/chat");
    assert_eq!(world.share(0, "resident"), 8);
}

// The operator itself.

#[test]
fn one_leads_and_hands_over() {
    let world = World::new("lease", 1);
    let first = Operator::with("lease", &Start { identity: "first", ..Start::default() });
    first.leads();
    let second = Operator::with("lease", &Start { identity: "second", ..Start::default() });
    assert!(second.get("/metrics").unwrap().lines().any(|it| it == "tenure_leads 0"));
    assert_eq!(second.get("/healthz").unwrap(), "ok\n");
    world.apply(POOL);
    world.ready("rp/chat");
    assert!(first.stop().success(), "it ends in order");
    second.leads();
    world.apply(BOUND);
    world.ready("sep/bound");
    until("the cards to be counted", || match second.get("/metrics") {
        Ok(it) if it.contains("tenure_cards{card_type=\"lease\",state=\"resident\"} 6") => Ok(()),
        other => other.and(Err("not yet".to_owned())),
    });
}

#[test]
fn two_that_both_lead_sell_no_card_twice() {
    let world = World::new("twins", 2);
    k("create namespace tenure-other").ok();
    must_apply(&OTHER_LEASE.replace("NAMESPACE", "tenure-other"));
    let mut one = Operator::with("twins", &Start { identity: "one", ..Start::default() });
    let mut other = Operator::with(
        "twins",
        &Start { identity: "other", lease_namespace: "tenure-other", ..Start::default() },
    );
    one.leads();
    other.leads();
    for round in 0..3 {
        world.apply(GROUP);
        world.apply(SPOT);
        world.apply(ELASTIC);
        for contract in ["dg/train", "spot/render", "sep/llm"] {
            world.ready(contract);
        }
        assert_eq!((world.shares(2, "dedicated"), world.shares(2, "spot")), (8, 1), "round {round}");
        assert_eq!(world.pods().len(), 1 + 2, "round {round}: {:?}", world.pods());
        world.k("delete sep,spot,dg --all");
        world.until_empty(2);
    }
    // Who has led the ledger last leads it: the other one ends itself as soon as it would write.
    world.apply(POOL);
    world.ready("rp/chat");
    world.apply(BOUND);
    world.ready("sep/bound");
    assert_eq!(world.shares(2, "resident"), 6);
    world.k("delete sep --all");
    until("the pool to be free", || k("-n twins delete rp/chat --timeout=60s"));
    world.until_empty(2);
    until("one of them to be left", || match (one.is_gone(), other.is_gone()) {
        (true, false) | (false, true) => Ok(()),
        both => Err(format!("{both:?} are gone")),
    });
    k("delete namespace tenure-other --wait=false").unwrap();
}

/// The right to a lease in another namespace, for an operator that shall believe that it leads.
const OTHER_LEASE: &str = r"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: lease, namespace: NAMESPACE}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: lease, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: lease}
subjects: [{kind: ServiceAccount, name: tenure-operator, namespace: tenure-system}]
";
