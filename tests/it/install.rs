//! The chart, kustomize and the roles for people, against the real API server: what is rendered is taken by it, what makes no
//! sense is refused by the schema, and chart and kustomize are the same objects.
//!
//! That what they install runs is `e2e/install/run`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::operator::{install, scratch};
use crate::support::{k, kubectl, kubectl_with, until};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/tenure");
const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
const NAMESPACE: &str = "tenure-system";

/// Kinds of others that a test cluster does not serve.
const FOREIGN: [&str; 2] = ["monitoring.coreos.com/v1", "cert-manager.io/v1"];

/// Runs helm; what it says on standard output, or its complaint.
fn helm(words: &[&str]) -> Result<String, String> {
    let output = Command::new("helm").args(words).output().expect("helm is on PATH inside e2e/cluster/enter");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn template(words: &[&str]) -> String {
    helm(&[&["template", "tenure", CHART], words].concat())
        .unwrap_or_else(|it| panic!("helm {words:?}: {it}"))
}

/// The value sets of charts/tenure/ci.
fn value_sets() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(format!("{CHART}/ci")).expect("the folder is there");
    let mut files: Vec<PathBuf> = folder.map(|it| it.expect("it is readable").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// The objects of a stream of YAML documents.
fn objects(stream: &str) -> Vec<Value> {
    let documents = stream.split("\n---");
    let parse =
        |text: &str| serde_saphyr::from_str(text).unwrap_or_else(|it| panic!("not YAML: {it}\n{text}"));
    documents.map(parse).filter(|it: &Value| !it.is_null()).collect()
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn identity(object: &Value) -> String {
    format!(
        "{} {} {}/{}",
        text(object, "/apiVersion"),
        text(object, "/kind"),
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

#[test]
fn the_chart_passes_its_own_lint() {
    for values in value_sets() {
        let values = values.display().to_string();
        helm(&["lint", "--strict", CHART, "--values", &values]).unwrap_or_else(|it| panic!("{values}: {it}"));
    }
}

#[test]
fn what_the_chart_renders_is_taken_by_the_api_server() {
    install();
    for values in value_sets() {
        let values = values.display().to_string();
        let found = objects(&template(&["--values", &values]));
        let ours: Vec<&Value> =
            found.iter().filter(|it| !FOREIGN.contains(&text(it, "/apiVersion"))).collect();
        assert!(ours.len() > 10, "{values}: only {} objects", ours.len());
        let list = json!({"apiVersion": "v1", "kind": "List", "items": ours});
        let words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        kubectl_with(&words, &list.to_string()).unwrap_or_else(|it| panic!("{values}: {it}"));
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    const CASES: &[(&str, &str)] = &[
        ("operator.replicas=2", "/operator/replicas"),
        ("operator.replicas=0", "/operator/replicas"),
        ("operator.ledger.type=postgres", "/operator/ledger/postgres/secretName"),
        ("operator.ledger.type=mysql", "/operator/ledger/type"),
        ("operator.ledger.sqlite.accessMode=ReadWriteMany", "/operator/ledger/sqlite/accessMode"),
        ("operator.ledger.sqlite.size=large", "/operator/ledger/sqlite/size"),
        ("operator.terminationGracePeriodSeconds=10", "/operator/terminationGracePeriodSeconds"),
        ("operator.extraArgs=--x", "/operator/extraArgs"),
        ("operatr.replicas=1", "'operatr' not allowed"),
        ("gateway.replica=3", "'replica' not allowed"),
        ("gateway.replicas=0", "/gateway/replicas"),
        ("gateway.service.type=ExternalName", "/gateway/service/type"),
        ("gateway.service.port=70000", "/gateway/service/port"),
        ("gateway.podDisruptionBudget.maxUnavailable=0", "/gateway/podDisruptionBudget/maxUnavailable"),
        ("gateway.logFormat=xml", "/gateway/logFormat"),
        ("link.source=vault", "/link/source"),
        ("link.operatorSecretName=", "/link/operatorSecretName"),
        ("image.digest=latest", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("domain=GPU.example.com", "/domain"),
        ("policies.schedulers[0]=it's", "/policies/schedulers/0"),
        ("networkPolicy.enabled=maybe", "/networkPolicy/enabled"),
    ];
    for (set, says) in CASES {
        let words = ["template", "tenure", CHART, "--show-only", "templates/operator.yaml", "--set", set];
        match helm(&words) {
            Err(message) => assert!(message.contains(says), "{set}: another refusal: {message}"),
            Ok(_) => panic!("{set} was not refused"),
        }
    }
    // The honest twin of those about the ledger.
    let twin = "operator.ledger.type=postgres,operator.ledger.postgres.secretName=ledger,operator.replicas=2";
    template(&["--set", twin]);
}

/// As both install it, by what it is called; without Helm's own annotation.
fn comparable(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let plain = |mut it: Value| {
        if let Some(annotations) = it.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
            annotations.remove("helm.sh/resource-policy");
            if annotations.is_empty() {
                it["metadata"].as_object_mut().expect("an object").remove("annotations");
            }
        }
        as_decimals(&mut it);
        (identity(&it), it)
    };
    objects.into_iter().map(plain).collect()
}

/// 1000000 and 1000000.0 are the same number in YAML; who writes it last decides.
fn as_decimals(value: &mut Value) {
    match value {
        Value::Number(number) => *value = json!(number.as_f64()),
        Value::Array(items) => items.iter_mut().for_each(as_decimals),
        Value::Object(fields) => fields.values_mut().for_each(as_decimals),
        Value::Null | Value::Bool(_) | Value::String(_) => (),
    }
}

#[test]
fn chart_and_kustomize_are_the_same_objects() {
    let mut chart = comparable(objects(&template(&[])));
    let kustomize =
        comparable(objects(&kubectl(&["kustomize", &format!("{CONFIG}/default")]).expect("it renders")));
    // Keys are made by who installs.
    for end in ["gateway", "operator"] {
        chart
            .remove(&format!("v1 Secret {NAMESPACE}/tenure-link-{end}"))
            .expect("the chart makes certificates");
    }
    let names = |it: &BTreeMap<String, Value>| it.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&chart), names(&kustomize));
    for (name, object) in &chart {
        let other = &kustomize[name];
        assert!(object == other, "{name} is in the chart\n{object}\nand in config/default\n{other}");
    }
}

#[test]
fn what_config_has_of_the_chart_is_up_to_date() {
    let fresh = scratch("rendered");
    std::fs::remove_dir_all(&fresh).ok();
    let status = Command::new(format!("{CONFIG}/render")).arg(&fresh).status().expect("bash runs");
    assert!(status.success(), "config/render works");
    for name in ["ledger", "processes", "prometheus"] {
        let file = format!("{name}/{name}.yaml");
        let read = |folder: &Path| std::fs::read_to_string(folder.join(&file)).expect("it is there");
        assert!(
            read(&fresh) == read(Path::new(CONFIG)),
            "config/{file} is out of date: make render, and commit it"
        );
    }
}

#[test]
fn what_must_outlive_an_uninstall_is_kept() {
    let kept: Vec<String> = objects(&template(&[]))
        .iter()
        .filter(|it| text(it, "/metadata/annotations/helm.sh~1resource-policy") == "keep")
        .map(|it| text(it, "/kind").to_owned())
        .collect();
    let count = |kind: &str| kept.iter().filter(|it| *it == kind).count();
    assert_eq!(
        [count("CustomResourceDefinition"), count("Namespace"), count("PersistentVolumeClaim"), kept.len()],
        [9, 1, 1, 11]
    );
    // A release that lives in tenure-system does not take its own namespace over from who made it.
    let within = objects(&template(&["--namespace", NAMESPACE]));
    assert!(within.iter().all(|it| text(it, "/kind") != "Namespace"));
}

#[test]
fn the_pods_pass_pod_security_restricted() {
    install();
    let deployments = objects(&template(&[]));
    let deployments: Vec<&Value> =
        deployments.iter().filter(|it| text(it, "/kind") == "Deployment").collect();
    assert_eq!(deployments.len(), 2);
    for deployment in deployments {
        let mut pod = deployment["spec"]["template"].clone();
        let name = text(deployment, "/metadata/name");
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(format!("{name}-restricted"));
        pod["metadata"]["namespace"] = json!(NAMESPACE);
        // The gateway's is not there without the chart.
        pod["spec"]["serviceAccountName"] = json!("tenure-operator");
        let create = |pod: &Value| kubectl_with(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
        create(&pod).unwrap_or_else(|it| panic!("{name}: {it}"));
        // And it is looked at here.
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
        let refusal = create(&pod).expect_err("a pod that may gain privileges is refused");
        assert!(refusal.contains("violates PodSecurity"), "{refusal}");
    }
}

/// Who may do what: the user, the verb, the resource, the namespace (`-`: the cluster), and is it so?
const MAY: &[(&str, &str, &str, &str, bool)] = &[
    ("owner", "create", "residentpools.tenure.dev", "own", true),
    ("owner", "delete", "dedicatedgroups.tenure.dev", "own", true),
    ("owner", "update", "spotservers.tenure.dev", "own", true),
    ("owner", "patch", "serverlessendpoints.tenure.dev/scale", "own", true),
    ("owner", "patch", "residentpools.tenure.dev/status", "own", false),
    ("owner", "create", "residentpools.tenure.dev", "other", false),
    ("owner", "get", "residentpools.tenure.dev", "other", false),
    ("owner", "create", "cardtypes.tenure.dev", "-", false),
    ("owner", "update", "tariffs.tenure.dev", "-", false),
    ("owner", "update", "accounts.tenure.dev", "-", false),
    ("owner", "create", "payments.tenure.dev", "-", false),
    ("editor", "get", "residentpools.tenure.dev", "own", true),
    ("editor", "create", "residentpools.tenure.dev", "own", false),
    ("editor", "patch", "serverlessendpoints.tenure.dev/scale", "own", false),
    ("viewer", "list", "serverlessendpoints.tenure.dev", "own", true),
    ("viewer", "create", "serverlessendpoints.tenure.dev", "own", false),
    ("viewer", "list", "accounts.tenure.dev", "-", false),
    ("platform", "create", "cardtypes.tenure.dev", "-", true),
    ("platform", "update", "accounts.tenure.dev", "-", true),
    ("platform", "create", "payments.tenure.dev", "-", true),
    ("platform", "delete", "payments.tenure.dev", "-", false),
    ("platform", "delete", "residentpools.tenure.dev", "other", true),
    ("platform", "patch", "accounts.tenure.dev/status", "-", false),
];

#[test]
fn people_may_do_what_their_role_says_and_no_more() {
    install();
    let own = format!("install-roles-{}", std::process::id());
    let _swept = Swept(own.clone());
    k(&format!("create namespace {own}")).expect("the namespace is new");
    for (user, role) in [("owner", "admin"), ("editor", "edit"), ("viewer", "view")] {
        k(&format!("-n {own} create rolebinding {user} --clusterrole {role} --user {own}-{user}"))
            .expect("it is bound");
    }
    k(&format!("create clusterrolebinding {own} --clusterrole tenure-platform-admin --user {own}-platform"))
        .expect("it is bound");
    for (user, verb, resource, place, may) in MAY {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, format!("--subresource {subresource}")),
            None => (*resource, String::new()),
        };
        let place = match *place {
            "own" => format!("-n {own}"),
            "other" => "-n default".to_owned(),
            _ => String::new(),
        };
        let words = format!("auth can-i {verb} {resource} --as {own}-{user} {subresource} {place}");
        let expected = if *may { "yes" } else { "no" };
        // The controller manager gathers roles some time after they are there.
        until(&format!("`{words}` to be {expected}"), || {
            let said = k(&words).unwrap_or_else(|_| "no".to_owned());
            if said.contains(expected) { Ok(()) } else { Err(said) }
        });
    }
}

/// A namespace and a binding that go when they are dropped.
struct Swept(String);

impl Drop for Swept {
    fn drop(&mut self) {
        k(&format!("delete namespace,clusterrolebinding {} --ignore-not-found --wait=false", self.0)).ok();
    }
}

#[test]
fn alerts_are_of_metrics_that_exist_and_have_a_section() {
    let alerts = std::fs::read_to_string(format!("{CHART}/files/alerts.yaml")).expect("it is there");
    let alerts: Value = serde_saphyr::from_str(&alerts).expect("YAML");
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.md")).expect("it is there");
    let documented = ["operations", "gateway"].map(|it| {
        let file = format!("{}/docs/{it}.md", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(file).expect("it is there")
    });
    let alerts = alerts.as_array().expect("a list");
    assert!(!alerts.is_empty());
    for alert in alerts {
        let name = text(alert, "/alert");
        let expression = text(alert, "/expr");
        assert!(page.lines().any(|it| it == format!("## {name}")), "{name} has no section in docs/alerts.md");
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for metric in words.filter(|it| it.starts_with("tenure_")) {
            let row = format!("| `{metric}` |");
            assert!(documented.iter().any(|it| it.contains(&row)), "{name}: nobody has a metric {metric}");
        }
    }
    let sections = page.lines().filter(|it| it.starts_with("## ")).count();
    assert_eq!(sections, alerts.len(), "a section of docs/alerts.md has no alert");
}

#[test]
fn the_examples_for_argo_cd_name_what_is_there_and_are_taken_by_the_api_server() {
    install();
    let root = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| {
        std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_else(|it| panic!("{path}: {it}"))
    };
    let files = ["app-of-apps.yaml", "apps/0-tenure.yaml", "apps/1-catalogue.yaml", "apps/2-team-a.yaml"];
    for file in files {
        for application in objects(&read(&format!("config/argocd/{file}"))) {
            assert_eq!(text(&application, "/kind"), "Application", "{file}");
            let path = text(&application, "/spec/source/path");
            // The catalogue is the reader's own.
            assert!(path == "catalogue" || Path::new(root).join(path).is_dir(), "{file}: there is no {path}");
            if path == "charts/tenure" {
                let values = application.pointer("/spec/source/helm/valuesObject").expect("values");
                let at = scratch("argocd-values.json");
                std::fs::write(&at, values.to_string()).expect("it is written");
                template(&["--values", &at.display().to_string()]);
            }
        }
    }
    let contracts =
        read("config/argocd/team-a/contracts.yaml").replace("namespace: team-a", "namespace: default");
    kubectl_with(&["apply", "--dry-run=server", "-f", "-"], &contracts).expect("the contracts are valid");
}

#[test]
fn time_zones_are_in_the_program() {
    // The image has no /usr/share/zoneinfo, and schedules name zones.
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    assert!(zones.get("Asia/Shanghai").is_ok(), "jiff is built without tzdb-bundle-always");
}
