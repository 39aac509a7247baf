//! `kubectl tenure quote`: what applying manifests would cost now.

use std::fmt::Write;

use kube::api::{DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};

use super::read_api::ReadApi;

/// Kinds that are paid for, and what their resources are called.
const PAID_FOR: [(&str, &str); 4] = [
    ("ResidentPool", "residentpools"),
    ("DedicatedGroup", "dedicatedgroups"),
    ("SpotServer", "spotservers"),
    ("ServerlessEndpoint", "serverlessendpoints"),
];

/// The manifests in a file.
pub fn read(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|it| format!("read the manifests: {it}"))?;
    let documents: Vec<Value> = documents.into_iter().filter(|it| !it.is_null()).collect();
    if documents.is_empty() { Err("there is no manifest in it".to_owned()) } else { Ok(documents) }
}

/// The API server must accept them, as it would if they were applied: what it refuses has no price.
pub async fn check(client: &Client, namespace: &str, documents: &[Value]) -> Result<(), String> {
    for document in documents {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let Some((_, plural)) = PAID_FOR.iter().find(|(it, _)| *it == kind) else { continue };
        let Some(("tenure.dev", version)) = version.split_once('/') else { continue };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("tenure.dev", version, kind), plural);
        let namespace = Some(text("/metadata/namespace")).filter(|it| !it.is_empty()).unwrap_or(namespace);
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let params = PatchParams {
            dry_run: true,
            force: true,
            field_manager: Some("kubectl-tenure".to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let mut object = document.clone();
        object["metadata"]["namespace"] = json!(namespace);
        let tried = api.patch(name, &params, &Patch::Apply(&object)).await;
        tried.map_err(|it| format!("{kind} {namespace}/{name} can't be applied: {it}"))?;
    }
    Ok(())
}

/// Asks the operator.
pub async fn ask(api: &ReadApi, namespace: &str, documents: &[Value]) -> Result<Value, String> {
    let body = json!({"namespace": namespace, "documents": documents}).to_string();
    api.value(http::Method::POST, "/v1/quote", body.into_bytes()).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    documents: Vec<Quote>,
    costs_nothing: Vec<String>,
    totals: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Quote {
    kind: String,
    namespace: String,
    name: String,
    account: String,
    currency: String,
    orders: Vec<Order>,
    rates: Vec<Rate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Order {
    order: String,
    from: String,
    to: String,
    cards: u32,
    #[serde(rename = "diskPerCardGB")]
    disk_per_card_gb: u32,
    price: String,
}

#[derive(Deserialize)]
struct Rate {
    what: String,
    per: String,
    months: Option<u32>,
    price: String,
}

/// As people read it.
pub fn draw(answer: &Value) -> Result<String, String> {
    let answer: Answer = serde_json::from_value(answer.clone()).map_err(|it| it.to_string())?;
    let mut text = String::new();
    for it in &answer.documents {
        let _ = writeln!(text, "{} {}/{}, paid by {}", it.kind, it.namespace, it.name, it.account);
        for order in &it.orders {
            let what = format!("{} cards, {} GB each", order.cards, order.disk_per_card_gb);
            let _ = writeln!(
                text,
                "  {:24}  {} to {}  {what:24}  {:>14} {}",
                order.order, order.from, order.to, order.price, it.currency
            );
        }
        for rate in &it.rates {
            let per = match rate.months {
                Some(months) => format!("{} of {months} months", rate.per),
                None => rate.per.clone(),
            };
            let _ = writeln!(text, "  {}: {} {} for each {per}", rate.what, rate.price, it.currency);
        }
        if it.orders.is_empty() && it.rates.is_empty() {
            text.push_str("  nothing more\n");
        }
    }
    if !answer.costs_nothing.is_empty() {
        let _ = writeln!(text, "costs nothing: {}", answer.costs_nothing.join(", "));
    }
    for (currency, total) in &answer.totals {
        let _ = writeln!(text, "bought at once: {total} {currency}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_one_by_one() {
        let documents = read("kind: A\n---\n---\nkind: B\nspec: {n: 1}\n").unwrap();
        assert_eq!(documents, [json!({"kind": "A"}), json!({"kind": "B", "spec": {"n": 1}})]);
        assert_eq!(read("---\n").unwrap_err(), "there is no manifest in it");
        assert!(read("kind: [").unwrap_err().starts_with("read the manifests"));
    }

    #[test]
    fn a_quote_is_drawn() {
        let order = json!({"order": "initial", "months": 1, "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z",
            "cards": 6, "diskPerCardGB": 40, "price": "42828.00"});
        let rate = json!({"what": "a worker", "per": "second", "price": "0.0041"});
        let of = |kind: &str, orders: Vec<Value>, rates: Vec<Value>| {
            json!({"kind": kind, "namespace": "a", "name": "x", "account": "acme", "currency": "CNY", "total": "0",
                "orders": orders, "rates": rates})
        };
        let answer = json!({"documents": [of("ResidentPool", vec![order], vec![]), of("ServerlessEndpoint", vec![], vec![rate])],
            "costsNothing": ["Namespace/a"], "totals": {"CNY": "42828.00"}, "total": "42828.00"});
        let expected = "\
ResidentPool a/x, paid by acme
  initial                   2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z  6 cards, 40 GB each             42828.00 CNY
ServerlessEndpoint a/x, paid by acme
  a worker: 0.0041 CNY for each second
costs nothing: Namespace/a
bought at once: 42828.00 CNY
";
        assert_eq!(draw(&answer).unwrap(), expected);
    }
}
