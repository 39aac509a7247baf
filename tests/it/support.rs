//! What the tests on a real API server share. They speak to it as people do, through kubectl.
//!
//! `make test` sets KUBECONFIG by running the tests inside `e2e/cluster/enter`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Who the operator is to the API server.
pub const OPERATOR: &str = "system:serviceaccount:tenure-system:tenure-operator";

/// How long a test waits for anything. Kubernetes lets the pods of a node that is gone be for a minute.
const PATIENCE: Duration = Duration::from_secs(150);

/// Runs kubectl with these words; its output, or its complaint.
pub fn kubectl(words: &[&str]) -> Result<String, String> {
    kubectl_with(words, "")
}

/// Runs kubectl with these words, written as one text without quotes in it.
pub fn k(words: &str) -> Result<String, String> {
    kubectl(&words.split_whitespace().collect::<Vec<_>>())
}

/// Runs kubectl with something on its standard input.
pub fn kubectl_with(words: &[&str], input: &str) -> Result<String, String> {
    assert!(
        std::env::var_os("KUBECONFIG").is_some(),
        "this test needs a cluster: run `make test`, or `e2e/cluster/up` and then `e2e/cluster/enter cargo test`"
    );
    let mut child = Command::new("kubectl")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is on PATH inside e2e/cluster/enter");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).ok();
    let output = child.wait_with_output().expect("kubectl ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Applies manifests; what kubectl says.
pub fn apply(yaml: &str) -> Result<String, String> {
    kubectl_with(&["apply", "-f", "-"], yaml)
}

/// Applies manifests and expects it to succeed.
pub fn must_apply(yaml: &str) -> String {
    apply(yaml).unwrap_or_else(|it| panic!("not applied: {it}\n{yaml}"))
}

/// One field of an object, by JSONPath without braces: `field("-n a pod/x", ".spec.nodeName")`. Empty when it is absent.
pub fn field(object: &str, path: &str) -> String {
    let template = format!("jsonpath={{{path}}}");
    let mut words = vec!["get"];
    words.extend(object.split_whitespace());
    words.extend(["--ignore-not-found", "-o", &template]);
    kubectl(&words).unwrap_or_else(|it| panic!("get {object}: {it}"))
}

/// Waits until `look` finds what it looks for; what it last found instead is in the failure. For what `kubectl wait` can't say.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) if began.elapsed() > PATIENCE => {
                panic!("waited {PATIENCE:?} for {what}; found {instead}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Waits until the field has this value.
pub fn until_field(object: &str, path: &str, value: &str) {
    until(&format!("{object} {path} = {value}"), || {
        let found = field(object, path);
        if found == value { Ok(()) } else { Err(format!("`{found}`")) }
    });
}
