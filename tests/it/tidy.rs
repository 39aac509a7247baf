//! The import law. One crate gives us no compiler-checked layers, so a test checks them.

use std::{fs, path::Path};

/// A layer, and the layers it may name as `crate::<layer>`.
const LAYERS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("api", &[]),
    ("ledger", &["domain"]),
    ("cluster", &["api", "domain"]),
    ("controllers", &["api", "cluster", "domain", "ledger", "link", "notify"]),
    ("link", &["domain"]),
    ("notify", &["domain", "link"]),
    ("gateway", &["domain", "link"]),
    ("read_api", &["api", "cluster", "controllers", "domain", "ledger"]),
    ("cli", &["api", "cluster", "domain", "link"]),
];

/// Folders that may name every layer: they wire.
const WIRING: &[&str] = &["app", "bin"];

/// What the pure core may not name at all.
const IMPURE: &[&str] = &[
    "async fn",
    ".await",
    "tokio::",
    "kube::",
    "k8s_openapi::",
    "hyper::",
    "std::env",
    "std::fs",
    "std::net",
    "SystemTime",
    "Instant",
    "Timestamp::now",
    "rand::",
    "f32",
    "f64",
    "serde::",
];

#[test]
fn every_folder_is_a_layer() {
    for entry in fs::read_dir("src").expect("the sources are there") {
        let path = entry.expect("folder is readable").path();
        let name = path.file_name().and_then(|it| it.to_str()).unwrap_or_default().to_owned();
        let known = LAYERS.iter().any(|(layer, _)| *layer == name) || WIRING.contains(&name.as_str());
        assert!(!path.is_dir() || known, "src/{name} is no layer: say in LAYERS what it may import");
    }
}

#[test]
fn layers_import_only_downwards() {
    let mut faults = Vec::new();
    for (layer, allowed) in LAYERS {
        for (path, text) in rust_files(&Path::new("src").join(layer)) {
            for named in crate_paths(&text) {
                if named != *layer && !allowed.contains(&named.as_str()) {
                    faults.push(format!("{path}: {layer} may not import crate::{named}"));
                }
            }
            if *layer == "domain" {
                for word in IMPURE.iter().filter(|word| code(&text).contains(*word)) {
                    faults.push(format!("{path}: the pure core may not say `{word}`"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn rust_files(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("every layer has a folder") {
        let path = entry.expect("folder is readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            found.push((path.display().to_string(), text));
        }
    }
    found
}

/// The text without comment lines.
fn code(text: &str) -> String {
    text.lines().filter(|it| !it.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every `x` in `crate::x` and in `crate::{x, y::z}`.
fn crate_paths(text: &str) -> Vec<String> {
    let ident = |it: &str| -> String {
        it.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let text = code(text);
    let mut named = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.push(ident(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    named.push(ident(&group[start..i]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    named.push(ident(&group[start..i]));
                    start = i + 1;
                }
                _ => (),
            }
        }
    }
    named.retain(|it| !it.is_empty());
    named
}
