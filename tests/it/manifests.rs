//! Manifests against the real API server: the good ones apply, the bad ones are refused in words that say what to do.
//!
//! The cases are tables in `manifests/`: `create.txt` (new objects), `states.txt` and `update.txt` (changes of objects
//! whose status says what is bought). A case is a line; add one for each rule.

// Why: a panic is how a test fails, also in what tests share.
#![allow(clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{field, k, kubectl, kubectl_with, until};

const CREATE: &str = include_str!("manifests/create.txt");
const STATES: &str = include_str!("manifests/states.txt");
const UPDATE: &str = include_str!("manifests/update.txt");

/// A good manifest of each kind.
const GOOD: &[(&str, &str)] = &[
    ("pool", include_str!("manifests/good/pool.yaml")),
    ("group", include_str!("manifests/good/group.yaml")),
    ("inference", include_str!("manifests/good/inference.yaml")),
    ("spot", include_str!("manifests/good/spot.yaml")),
    ("endpoint", include_str!("manifests/good/endpoint.yaml")),
    ("card-type", include_str!("manifests/good/card-type.yaml")),
    ("tariff", include_str!("manifests/good/tariff.yaml")),
    ("market", include_str!("manifests/good/market.yaml")),
    ("account", include_str!("manifests/good/account.yaml")),
    ("payment", include_str!("manifests/good/payment.yaml")),
];

/// The samples, in the order in which a reader applies them.
const SAMPLES: &[(&str, &str)] = &[
    ("00-platform.yaml", include_str!("../../config/samples/00-platform.yaml")),
    ("catalogue/card-types.yaml", include_str!("../../config/samples/catalogue/card-types.yaml")),
    ("catalogue/tariffs.yaml", include_str!("../../config/samples/catalogue/tariffs.yaml")),
    ("10-resident-pool.yaml", include_str!("../../config/samples/10-resident-pool.yaml")),
    ("20-dedicated-group.yaml", include_str!("../../config/samples/20-dedicated-group.yaml")),
    ("30-spot-server.yaml", include_str!("../../config/samples/30-spot-server.yaml")),
    ("40-serverless-endpoint.yaml", include_str!("../../config/samples/40-serverless-endpoint.yaml")),
];

/// Kinds, their plural and short name, and whether they stand in a namespace.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("Account", "accounts", "acct", false),
    ("CardType", "cardtypes", "ct", false),
    ("DedicatedGroup", "dedicatedgroups", "dg", true),
    ("Payment", "payments", "pay", false),
    ("ResidentPool", "residentpools", "rp", true),
    ("ServerlessEndpoint", "serverlessendpoints", "sep", true),
    ("SpotMarket", "spotmarkets", "sm", false),
    ("SpotServer", "spotservers", "spot", true),
    ("Tariff", "tariffs", "tf", false),
];

/// The committed definitions are installed, once per run.
fn installed() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        // Another run may be at the same; it writes the same.
        let files: Vec<String> = KINDS.iter().map(|it| format!("-f crds/{}.yaml", it.1)).collect();
        until("the definitions are applied", || {
            k(&format!("apply --server-side --force-conflicts {}", files.join(" ")))
        });
        k("wait --for=condition=Established --timeout=60s crd --all").expect("they are established");
    });
}

// ---- the language of the tables ----

/// A line of a table.
struct Row<'a> {
    of: &'a str,
    what: &'a str,
    change: &'a str,
    last: &'a str,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    let lines = table.lines().filter(|it| !it.is_empty() && !it.starts_with('#'));
    let row = |line| {
        let columns: Vec<&str> = str::split(line, " |").map(str::trim).collect();
        let [of, what, change, last] = columns[..] else { panic!("a line has four columns: {line}") };
        Row { of, what, change, last }
    };
    lines.map(row).collect()
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|it| panic!("not YAML: {it}\n{text}"))
}

fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn good(name: &str) -> Value {
    let (_, manifest) =
        GOOD.iter().find(|it| it.0 == name).unwrap_or_else(|| panic!("there is no good {name}"));
    yaml(manifest)
}

/// Makes the changes of a line: `/path = YAML`, `/path x N = YAML` with `#` for the number, `- /path`; joined by ` ; `.
fn change(object: &mut Value, changes: &str) {
    for one in changes.split(" ; ") {
        if let Some(path) = one.strip_prefix("- ") {
            let (parent, last) = path.rsplit_once('/').expect("a path begins with /");
            let parent = object
                .pointer_mut(parent)
                .and_then(Value::as_object_mut)
                .unwrap_or_else(|| panic!("{path}: no such field"));
            parent.remove(last).unwrap_or_else(|| panic!("{path}: no such field"));
            continue;
        }
        let (place, value) = one.split_once(" = ").unwrap_or_else(|| panic!("not a change: {one}"));
        let (path, value) = match place.split_once(" x ") {
            None => (place, yaml(value)),
            Some((path, times)) => {
                let times: usize = times.parse().expect("a number of times");
                (path, (0..times).map(|it| yaml(&value.replace('#', &it.to_string()))).collect())
            }
        };
        put(object, path, value);
    }
}

fn put(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for word in path.split('/').skip(1) {
        at = match at {
            Value::Array(list) => {
                let index: usize = word.parse().expect("a list is indexed by numbers");
                if index == list.len() {
                    list.push(Value::Null);
                }
                &mut list[index]
            }
            other => {
                if other.is_null() {
                    *other = json!({});
                }
                other
                    .as_object_mut()
                    .unwrap_or_else(|| panic!("{path}: not an object"))
                    .entry(word)
                    .or_insert(Value::Null)
            }
        };
    }
    *at = value;
}

#[test]
fn a_change_is_what_its_line_says() {
    let mut object = yaml("{a: {b: 1, c: [x, y]}, d: 2}");
    change(&mut object, "/a/b = {e: 3} ; /a/c/2 = z ; - /d ; /f/g x 2 = \"v#\"");
    assert_eq!(object, yaml("{a: {b: {e: 3}, c: [x, y, z]}, f: {g: [v0, v1]}}"));
}

/// Does the answer say what the line expects? `None` if so.
fn fault(row: &Row, answer: &Result<String, String>) -> Option<String> {
    let fault = match (row.last, answer) {
        ("ok", Ok(_)) => return None,
        ("ok", Err(message)) => format!("is refused: {message}"),
        (words, Ok(_)) => format!("is not refused; expected: {words}"),
        (words, Err(message)) if message.contains(words) => return None,
        (words, Err(message)) => format!("is refused in other words: {message}\nexpected: {words}"),
    };
    Some(format!("{} | {}: {fault}", row.of, row.what))
}

/// Gives kubectl all objects in one call, each in a file of its own; its complaint names the file.
fn ask_all(purpose: &str, words: &[&str], objects: &[Value]) -> Vec<Result<String, String>> {
    let folder = format!("{}/manifests-{purpose}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    std::fs::create_dir_all(&folder).expect("a folder of its own");
    for (at, object) in objects.iter().enumerate() {
        std::fs::write(format!("{folder}/{at:04}.json"), object.to_string()).expect("a file is written");
    }
    let complaints = kubectl(&[words, &["-f", &folder]].concat()).err().unwrap_or_default();
    std::fs::remove_dir_all(&folder).ok();
    let about = |at: usize| complaints.lines().find(|it| it.contains(&format!("{folder}/{at:04}.json")));
    let answers: Vec<_> =
        (0..objects.len()).map(|at| about(at).map_or(Ok(String::new()), |it| Err(it.to_owned()))).collect();
    let told = answers.iter().filter(|it| it.is_err()).count();
    assert_eq!(told, complaints.lines().count(), "each complaint is about one file: {complaints}");
    answers
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} cases:\n\n{}", faults.len(), faults.join("\n\n"));
}

// ---- objects of a test's own ----

/// A namespace and cluster-scoped objects that no other test has; gone when it is dropped.
struct Own {
    name: String,
    made: Vec<(String, String)>,
}

impl Own {
    fn new(purpose: &str) -> Own {
        installed();
        let name = format!("manifests-{purpose}-{}", std::process::id());
        kubectl(&["create", "namespace", &name]).expect("a namespace of its own");
        Own { name, made: Vec::new() }
    }

    fn apply(&mut self, object: &Value) -> Result<String, String> {
        self.made.push((text(object, "/kind").to_owned(), text(object, "/metadata/name").to_owned()));
        self.apply_again(object)
    }

    fn apply_again(&self, object: &Value) -> Result<String, String> {
        kubectl_with(&["-n", &self.name, "apply", "-f", "-"], &object.to_string())
    }

    fn write_status(&self, kind: &str, name: &str, status: &str) {
        let patch = json!({"status": yaml(status)}).to_string();
        let words = [
            "-n",
            &self.name,
            "--as",
            crate::support::OPERATOR,
            "--as-group",
            "system:masters",
            "patch",
            kind,
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        kubectl(&words).unwrap_or_else(|it| panic!("status of {kind} {name}: {it}"));
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        for (kind, name) in self.made.iter().rev() {
            // An operator may have put its finalizer there. A policy may keep a Payment: then it stays, and pays nobody.
            let object = format!("-n {} {kind}/{name}", self.name);
            k(&format!("delete --ignore-not-found --wait=false {object}")).ok();
            if !field(&object, ".metadata.deletionTimestamp").is_empty() {
                k(&format!("patch {object} --type=merge -p {{\"metadata\":{{\"finalizers\":null}}}}")).ok();
            }
        }
        k(&format!("delete namespace {} --ignore-not-found --wait=false", self.name)).ok();
    }
}

// ---- new manifests ----

#[test]
fn a_bad_manifest_is_refused_in_words_that_say_what_to_do() {
    installed();
    let table = rows(CREATE);
    let made = |row: &Row| {
        let mut object = good(row.of);
        change(&mut object, row.change);
        object
    };
    let objects: Vec<Value> = table.iter().map(made).collect();
    let answers = ask_all("create", &["create", "--dry-run=server", "-n", "default"], &objects);
    let faults: Vec<String> =
        table.iter().zip(&answers).filter_map(|(row, answer)| fault(row, answer)).collect();
    assert_none(&faults);
    let refused = table.iter().filter(|it| it.last != "ok").count();
    assert!(refused >= 200, "{refused} cases are left");
}

#[test]
fn each_kind_has_bad_manifests_and_a_good_one() {
    let table = rows(CREATE);
    for (name, _) in GOOD {
        let (good, bad): (Vec<_>, Vec<_>) =
            table.iter().filter(|it| it.of == *name).partition(|it| it.last == "ok");
        assert!(!good.is_empty() && bad.len() > 5, "{name}: {} good and {} bad", good.len(), bad.len());
    }
}

// ---- changes ----

#[test]
fn a_change_is_refused_or_allowed_by_what_is_bought() {
    // An operator would put finalizers on these objects, and write their status.
    let _turn = crate::world::turn();
    let mut own = Own::new("update");
    let mut made = BTreeMap::new();
    for row in rows(STATES) {
        let mut object = good(row.what);
        change(&mut object, row.change);
        object["metadata"]["name"] = json!(format!("{}-{}", row.of.replace('/', "-"), std::process::id()));
        own.apply(&object).unwrap_or_else(|it| panic!("{}: {it}", row.of));
        if !row.last.is_empty() {
            own.write_status(text(&object, "/kind"), text(&object, "/metadata/name"), row.last);
        }
        made.insert(row.of, (object, row.last));
    }
    let table = rows(UPDATE);
    let changed = |row: &Row| {
        let mut object = made[row.of].0.clone();
        change(&mut object, row.change);
        object
    };
    let objects: Vec<Value> = table.iter().map(changed).collect();
    let words = ["-n", &own.name, "replace", "--dry-run=server"];
    let answers = ask_all("update", &words, &objects);
    let mut faults: Vec<String> = Vec::new();
    for ((row, object), answer) in table.iter().zip(&objects).zip(&answers) {
        let mut found = fault(row, answer);
        let (before, status) = &made[row.of];
        // An operator that runs in the cluster writes the status too: then it is written once more before the next try.
        for _ in 0..5 {
            if found.is_some() && !status.is_empty() {
                own.write_status(text(before, "/kind"), text(before, "/metadata/name"), status);
                found = fault(row, &kubectl_with(&[&words[..], &["-f", "-"]].concat(), &object.to_string()));
            }
        }
        faults.extend(found);
    }
    assert_none(&faults);
}

#[test]
fn status_is_not_written_with_the_spec_nor_the_spec_with_the_status() {
    let mut own = Own::new("status");
    let mut pool = good("pool");
    pool["status"] = json!({"bought": {"cards": 1, "diskPerCardGB": 10}});
    own.apply(&pool).expect("it applies");
    assert_eq!(field(&format!("-n {} rp/chat", own.name), ".status.bought.cards"), "");
    let patch = r#"{"spec": {"cards": 1}, "status": {"phase": "Active"}}"#;
    kubectl(&[
        "-n",
        &own.name,
        "--as",
        crate::support::OPERATOR,
        "--as-group",
        "system:masters",
        "patch",
        "rp",
        "chat",
        "--subresource=status",
        "--type=merge",
        "-p",
        patch,
    ])
    .expect("a status");
    assert_eq!(field(&format!("-n {} rp/chat", own.name), ".spec.cards"), "6");
}

#[test]
fn an_endpoint_scales_by_its_subresource() {
    let mut own = Own::new("scale");
    own.apply(&good("endpoint")).expect("it applies");
    let scale = |replicas| k(&format!("-n {} scale serverlessendpoint/llm --replicas={replicas}", own.name));
    scale(2).expect("within max");
    let object = format!("-n {} sep/llm", own.name);
    assert_eq!(field(&object, ".spec.workers.active"), "2");
    assert_eq!(field(&format!("--subresource=scale {object}"), ".spec.replicas"), "2");
    let refusal = scale(9).expect_err("above max");
    assert!(refusal.contains("active can't be more than max: raise max or lower active"), "{refusal}");
}

// ---- samples ----

/// The sample with names of the test's own, so that it neither meets another test's objects nor sells anybody's cards.
fn renamed(sample: &mut Value, own: &str) {
    match sample {
        Value::String(text) => {
            for word in ["ada", "hopper", "xpu", "acme", "team-a", "cn", "us", "eu", "ap", "NVIDIA", "XPU"] {
                if text == word || text.strip_prefix(word).is_some_and(|it| it.starts_with('-')) {
                    *text = if word == "team-a" {
                        own.to_owned()
                    } else {
                        text.replacen(word, &format!("{word}-{own}"), 1)
                    };
                    return;
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|it| renamed(it, own)),
        Value::Object(map) => {
            if map.get("default") == Some(&Value::Bool(true)) {
                map.insert("default".to_owned(), Value::Bool(false));
            }
            map.values_mut().for_each(|it| renamed(it, own));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => (),
    }
}

#[test]
fn the_samples_apply_and_applying_them_again_changes_nothing() {
    let mut own = Own::new("samples");
    let mut kinds = BTreeSet::new();
    for (file, sample) in SAMPLES {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(sample).unwrap_or_else(|it| panic!("{file}: {it}"));
        for mut object in objects {
            renamed(&mut object, &own.name.clone());
            let (kind, name) =
                (text(&object, "/kind").to_owned(), text(&object, "/metadata/name").to_owned());
            kinds.insert(kind.clone());
            if kind == "Pod" {
                // It would really take cards; and the group of the sample has no machine here.
                object["metadata"]["labels"]["tenure.dev/group"] = json!("later");
                let words = ["-n", &own.name, "create", "--dry-run=server", "-f", "-"];
                kubectl_with(&words, &object.to_string())
                    .unwrap_or_else(|it| panic!("{file}: {kind} {name}: {it}"));
                continue;
            }
            own.apply(&object).unwrap_or_else(|it| panic!("{file}: {kind} {name}: {it}"));
            let at = format!("-n {} {kind}/{name}", own.name);
            let generation = field(&at, ".metadata.generation");
            // An operator may write a status or finalizer between two looks; it does not do so for ever.
            until(&format!("{kind} {name} applied again is the same"), || {
                let before = field(&at, ".metadata.resourceVersion");
                let said = own.apply_again(&object)?;
                let after = field(&at, ".metadata.resourceVersion");
                if said.ends_with(" unchanged") && before == after {
                    Ok(())
                } else {
                    Err(format!("{said}: {before} became {after}"))
                }
            });
            assert_eq!(field(&at, ".metadata.generation"), generation, "{kind} {name}");
        }
    }
    for (kind, ..) in KINDS {
        assert!(kinds.contains(*kind), "there is no sample of a {kind}");
    }
}

// ---- definitions ----

fn served(plural: &str) -> Value {
    installed();
    let text =
        kubectl(&["get", "crd", &format!("{plural}.tenure.dev"), "-o", "json"]).expect("it is installed");
    serde_json::from_str(&text).expect("kubectl writes JSON")
}

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let rendered = tenure::api::crds::render().expect("they can be written");
    assert_eq!(rendered.len(), KINDS.len());
    for (name, text) in rendered {
        let committed = std::fs::read_to_string(format!("crds/{name}")).unwrap_or_default();
        assert!(committed == text, "crds/{name} is not what the types say: write it anew with `tenure crds`");
    }
}

#[test]
fn a_definition_is_small_and_has_all_that_kubectl_shows() {
    for (kind, plural, short, namespaced) in KINDS {
        let crd = served(plural);
        let size = crd.to_string().len();
        assert!(size < 150_000, "{kind} is served in {size} bytes");
        let at = |path: &str| crd.pointer(path).cloned().unwrap_or_default();
        assert_eq!(at("/spec/names/kind"), *kind);
        assert_eq!(at("/spec/names/shortNames"), json!([short]), "{kind}");
        assert_eq!(at("/spec/names/categories"), json!(["tenure"]), "{kind}");
        assert_eq!(at("/spec/scope"), if *namespaced { "Namespaced" } else { "Cluster" }, "{kind}");
        assert_eq!(at("/spec/versions/0/subresources/status"), json!({}), "{kind}");
        let columns = at("/spec/versions/0/additionalPrinterColumns");
        let names: Vec<&str> =
            columns.as_array().into_iter().flatten().filter_map(|it| it["name"].as_str()).collect();
        assert!(names.len() >= 4 && names.contains(&"Ready"), "{kind} shows {names:?}");
    }
    let listed = k("api-resources --api-group=tenure.dev --categories=tenure --no-headers -o name")
        .expect("kubectl lists kinds");
    assert_eq!(listed.lines().count(), KINDS.len(), "{listed}");
}

/// The paths of all properties without a description, pod templates left out; theirs is Kubernetes' own.
fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let text = property["description"].as_str().unwrap_or_default();
        let of_kubernetes = path == ".metadata";
        if text.is_empty() && !of_kubernetes {
            found.push(path.clone());
        }
        if path != ".spec.template" {
            undescribed(property, &path, found);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            undescribed(&schema[inner], &format!("{path}[]"), found);
        }
    }
}

#[test]
fn every_field_is_described() {
    for (kind, plural, ..) in KINDS {
        let crd = served(plural);
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let about = schema["description"].as_str().unwrap_or_default();
        assert!(!about.is_empty() && !about.contains("Auto-generated"), "{kind}: {about}");
        let mut found = Vec::new();
        undescribed(schema, "", &mut found);
        assert!(found.is_empty(), "{kind} says nothing of {found:?}");
    }
}

#[test]
fn kubectl_shows_a_pool_and_explains_it() {
    let mut own = Own::new("seen");
    own.apply(&good("pool")).expect("it applies");
    own.write_status("rp", "chat", "{bought: {cards: 6, diskPerCardGB: 40}, renewalsBought: 2}");
    let table = k(&format!("-n {} get rp,dg", own.name)).expect("kubectl lists pools");
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert!(header.starts_with(&["NAME", "PHASE", "TYPE", "CARDS", "LOCKED", "FREE"]), "{table}");
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert!(row.contains(&"ada") && row.contains(&"6"), "{table}");
    until("kubectl explains pools", || {
        let text = k("explain residentpool.spec.diskPerCardGB")?;
        if text.contains("10 to 60 in steps of 10") { Ok(()) } else { Err(text) }
    });
}
