//! Least privilege: what the operator asked the API server for while the stories ran, held against what its roles grant.
//!
//! `TENURE_AUDIT=1 e2e/test` runs all stories against an API server that writes an audit log, and then this. A call that was forbidden
//! is a right that is missing; a right that nobody used goes, unless it stands in `RARE` with its reason.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::OPERATOR;

/// Where the roles are written.
const ROLES: [&str; 2] = ["operator.yaml", "lease.yaml"];

/// Rights that only paths use which no story takes, with the reason for each.
const RARE: &[(&str, &str)] = &[
    (
        " secrets get",
        "keys of callers (auth.keysSecretName): read for a route, and no story's endpoint has keys",
    ),
    // Server-side apply is a patch; the API server asks for create itself when there is nothing yet, and logs no call for that.
    ("networking.k8s.io networkpolicies create", "the first apply of an isolated group's policy"),
    ("policy poddisruptionbudgets create", "the first apply of an endpoint's budget"),
    // Asked for by the admission plugin OwnerReferencesPermissionEnforcement, which a cluster may have on.
    ("tenure.dev dedicatedgroups/finalizers update", "NetworkPolicies are owned by their group"),
    ("tenure.dev serverlessendpoints/finalizers update", "workers are owned by their endpoint"),
    ("tenure.dev spotservers/finalizers update", "pods and disks are owned by their spot server"),
];

/// A right: `GROUP RESOURCE VERB`.
fn rights() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in ROLES {
        let path = format!("{}/config/rbac/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|it| panic!("{path}: {it}"));
        for document in text.split("\n---") {
            let role: Value = serde_saphyr::from_str(document).unwrap_or_else(|it| panic!("{path}: {it}"));
            for rule in role["rules"].as_array().unwrap_or(&Vec::new()) {
                found.extend(of_rule(rule));
            }
        }
    }
    found
}

fn of_rule(rule: &Value) -> Vec<String> {
    let words = |field: &str| -> Vec<String> {
        let list = rule[field].as_array().unwrap_or_else(|| panic!("a rule without {field}: {rule}"));
        list.iter().map(|it| it.as_str().expect("a text").to_owned()).collect()
    };
    let mut found = Vec::new();
    for group in words("apiGroups") {
        for resource in words("resources") {
            for verb in words("verbs") {
                assert!(
                    ![&group, &resource, &verb].contains(&&"*".to_owned()),
                    "a right for everything: {rule}"
                );
                found.push(format!("{group} {resource} {verb}"));
            }
        }
    }
    found
}

/// The right that a line of the audit log asked for, and whether it was refused for want of it; none for what is not the operator's.
fn call(line: &str) -> Option<(String, bool)> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    if text("/user/username") != OPERATOR || event.get("impersonatedUser").is_some() {
        return None;
    }
    // What is no resource (/version, /readyz) is everybody's.
    let resource = text("/objectRef/resource");
    if resource.is_empty() {
        return None;
    }
    let subresource = text("/objectRef/subresource");
    let slash = if subresource.is_empty() { "" } else { "/" };
    let right = format!("{} {resource}{slash}{subresource} {}", text("/objectRef/apiGroup"), text("/verb"));
    // An admission policy answers 422 or 403 too; only the authorizer says this.
    let forbidden = text("/annotations/authorization.k8s.io~1decision") == "forbid";
    Some((right, forbidden))
}

#[test]
fn a_line_of_the_audit_log_is_a_right() {
    let line = |user: &str, subresource: &str, decision: &str| {
        format!(
            r#"{{"user":{{"username":"{user}"}},"verb":"patch","objectRef":{{"resource":"nodes"{subresource}}},"annotations":{{"authorization.k8s.io/decision":"{decision}"}}}}"#
        )
    };
    assert_eq!(call(&line(OPERATOR, "", "allow")), Some((" nodes patch".to_owned(), false)));
    let status = r#","subresource":"status""#;
    assert_eq!(call(&line(OPERATOR, status, "forbid")), Some((" nodes/status patch".to_owned(), true)));
    assert_eq!(call(&line("admin", "", "allow")), None);
    assert_eq!(call("no JSON"), None);
    assert!(rights().contains(" nodes/status patch"));
    let leases = "coordination.k8s.io leases get";
    assert!(rights().contains(leases), "the Role of the lease counts too");
}

#[test]
fn the_operator_has_the_rights_that_it_uses_and_no_others() {
    if std::env::var("TENURE_AUDIT").unwrap_or_default().is_empty() {
        eprintln!("skipped: `TENURE_AUDIT=1 e2e/test` has an audit log");
        return;
    }
    let log = format!("{}/log/audit", std::env::var("TENURE_STATE").expect("e2e/cluster/enter sets it"));
    let log = std::fs::read_to_string(&log).unwrap_or_else(|it| panic!("{log}: {it}"));
    let calls: Vec<(String, bool)> = log.lines().filter_map(call).collect();
    assert!(calls.len() > 1_000, "only {} calls: did the stories run before this?", calls.len());
    let granted = rights();
    let used: BTreeSet<&String> = calls.iter().map(|it| &it.0).collect();
    let rare: BTreeSet<&str> = RARE.iter().map(|it| it.0).collect();
    let mut faults = Vec::new();
    for forbidden in calls.iter().filter(|it| it.1).map(|it| &it.0).collect::<BTreeSet<_>>() {
        faults.push(format!("forbidden, and asked for: {forbidden}"));
    }
    for right in used.iter().filter(|it| !granted.contains(**it)) {
        faults.push(format!("used, and granted by somebody else than our roles: {right}"));
    }
    for right in granted.iter().filter(|it| !used.contains(it) && !rare.contains(it.as_str())) {
        faults.push(format!("granted, and not used by any story: {right}"));
    }
    for right in rare.iter().filter(|it| !granted.contains(**it)) {
        faults.push(format!("listed as rare, and not granted: {right}"));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
