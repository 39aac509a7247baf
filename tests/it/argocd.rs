//! What Argo CD is told (config/argocd): the health checks are run as Argo CD runs them, and its settings name every kind.

use mlua::{Lua, LuaSerdeExt, Table};
use serde_json::{Value, json};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/argocd");

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("{FOLDER}/{file}")).unwrap_or_else(|it| panic!("{file}: {it}"))
}

/// What a health check says of an object.
fn health(script: &str, object: &Value) -> (String, String) {
    // Argo CD gives a script no library that reaches outside.
    let lua = Lua::new_with(mlua::StdLib::TABLE | mlua::StdLib::STRING, mlua::LuaOptions::new())
        .expect("Lua starts");
    // As Argo CD does: a field that is null is not there.
    let options = mlua::SerializeOptions::new().serialize_none_to_null(false).serialize_unit_to_null(false);
    let object = lua.to_value_with(object, options).expect("JSON is Lua");
    lua.globals().set("obj", object).expect("it is set");
    let found: Table = lua.load(script).eval().unwrap_or_else(|it| panic!("the script fails: {it}"));
    (found.get("status").expect("a status"), found.get("message").expect("a message"))
}

/// An object with this condition Ready.
fn with(kind: &str, status: &str, reason: &str) -> Value {
    json!({
        "apiVersion": "tenure.dev/v1alpha1", "kind": kind,
        "metadata": {"name": "a", "generation": 2},
        "status": {"conditions": [
            {"type": "CardsLocked", "status": "True", "reason": "AsBought", "observedGeneration": 2},
            {"type": "Ready", "status": status, "reason": reason, "message": "why", "observedGeneration": 2},
        ]},
    })
}

const KINDS: [&str; 9] = [
    "CardType",
    "Tariff",
    "SpotMarket",
    "Account",
    "Payment",
    "ResidentPool",
    "DedicatedGroup",
    "SpotServer",
    "ServerlessEndpoint",
];

#[test]
fn health_is_what_a_reader_of_the_condition_would_say() {
    const CASES: &[(&str, &str, &str, &str)] = &[
        ("CardType", "True", "Valid", "Healthy"),
        ("CardType", "False", "Conflict", "Degraded"),
        ("Tariff", "False", "Invalid", "Degraded"),
        ("SpotMarket", "False", "UnknownCardType", "Degraded"),
        ("Account", "True", "Valid", "Healthy"),
        ("Payment", "True", "Counted", "Healthy"),
        ("Payment", "False", "LedgerUnavailable", "Progressing"),
        ("ResidentPool", "True", "AsBought", "Healthy"),
        ("ResidentPool", "True", "Expiring", "Healthy"),
        ("ResidentPool", "Unknown", "LedgerUnavailable", "Progressing"),
        ("ResidentPool", "False", "Shortage", "Progressing"),
        ("ResidentPool", "False", "Refused", "Degraded"),
        ("ResidentPool", "False", "InsufficientFunds", "Degraded"),
        ("ResidentPool", "False", "Expired", "Degraded"),
        ("DedicatedGroup", "True", "Running", "Healthy"),
        ("DedicatedGroup", "False", "SoldOut", "Progressing"),
        ("DedicatedGroup", "False", "Draining", "Progressing"),
        ("DedicatedGroup", "False", "Degraded", "Degraded"),
        ("SpotServer", "True", "Running", "Healthy"),
        ("SpotServer", "False", "PriceAboveBid", "Progressing"),
        ("ServerlessEndpoint", "True", "Running", "Healthy"),
        ("ServerlessEndpoint", "True", "Idle", "Healthy"),
        ("ServerlessEndpoint", "True", "Stopped", "Suspended"),
        ("ServerlessEndpoint", "False", "NotReady", "Progressing"),
        ("ServerlessEndpoint", "False", "PlacementNotReady", "Progressing"),
        ("ServerlessEndpoint", "False", "CrashLoop", "Degraded"),
        ("ServerlessEndpoint", "False", "UnknownPlacement", "Degraded"),
    ];
    let script = read("settings/health.lua");
    for (kind, status, reason, expected) in CASES {
        let (found, message) = health(&script, &with(kind, status, reason));
        assert_eq!(found, *expected, "{kind} Ready={status} {reason}");
        assert_eq!(message, format!("{reason}: why"));
    }
}

#[test]
fn yesterdays_word_is_not_todays() {
    let script = read("settings/health.lua");
    let of = |change: &dyn Fn(&mut Value)| {
        let mut object = with("ResidentPool", "True", "AsBought");
        change(&mut object);
        health(&script, &object).0
    };
    assert_eq!(of(&|_| ()), "Healthy");
    assert_eq!(
        of(&|it| it["metadata"]["generation"] = json!(3)),
        "Progressing",
        "its change was not looked at"
    );
    assert_eq!(of(&|it| it["metadata"]["deletionTimestamp"] = json!("2026-11-25T00:00:00Z")), "Progressing");
    assert_eq!(of(&|it| it["status"] = json!({})), "Progressing", "no conditions yet");
    assert_eq!(of(&|it| it["status"] = Value::Null), "Progressing", "no status yet");
    // A degraded object that is changed is looked at again before it counts as mended or not.
    let mut degraded = with("ResidentPool", "False", "Refused");
    degraded["metadata"]["generation"] = json!(3);
    assert_eq!(health(&script, &degraded).0, "Progressing");
}

#[test]
fn every_reason_has_a_health() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/condition.rs"))
        .expect("it is there");
    let (_, after) = source.split_once("pub enum Reason {").expect("the enum is there");
    let (body, _) = after.split_once("\n}").expect("it ends");
    let reasons: Vec<&str> = body
        .lines()
        .map(str::trim)
        .filter(|it| !it.starts_with("//") && !it.is_empty())
        .map(|it| it.trim_end_matches(','))
        .collect();
    assert!(reasons.len() > 30, "{reasons:?}");
    let script = read("settings/health.lua");
    for reason in reasons {
        let (_, message) = health(&script, &with("ResidentPool", "False", reason));
        assert!(
            !message.contains("does not know"),
            "{reason} is missing in config/argocd/settings/health.lua"
        );
    }
    let (status, message) = health(&script, &with("ResidentPool", "False", "SomethingNew"));
    assert!(status == "Degraded" && message.contains("does not know"), "{status} {message}");
}

#[test]
fn the_settings_name_every_kind_and_only_files_that_are_there() {
    let settings: Value = serde_saphyr::from_str(&read("settings/kustomization.yaml")).expect("YAML");
    let files = settings["configMapGenerator"][0]["files"].as_array().expect("a list").clone();
    let files: Vec<&str> = files.iter().map(|it| it.as_str().expect("a text")).collect();
    for kind in KINDS {
        let key = format!("resource.customizations.health.tenure.dev_{kind}=health.lua");
        assert!(files.contains(&key.as_str()), "{key} is missing");
    }
    for line in files {
        let (key, file) = line.split_once('=').expect("KEY=FILE");
        let content = read(&format!("settings/{file}"));
        if key.contains("ignoreDifferences") {
            let rule: Value = serde_saphyr::from_str(&content).expect("YAML");
            assert!(rule["jqPathExpressions"].as_array().is_some_and(|it| !it.is_empty()), "{file}");
        }
    }
}

#[test]
fn an_application_is_as_healthy_as_argo_cd_says() {
    let script = read("settings/application.lua");
    for (object, expected) in [
        (json!({"metadata": {}}), "Progressing"),
        (json!({"metadata": {}, "status": {"health": {"status": "Degraded", "message": "x"}}}), "Degraded"),
        (json!({"metadata": {}, "status": {"health": {"status": "Healthy"}}}), "Healthy"),
    ] {
        assert_eq!(health(&script, &object).0, expected);
    }
}
