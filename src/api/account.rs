//! Account: who pays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules;

/// Who pays. A namespace belongs to an account by its label tenure.dev/account.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "tenure.dev",
    version = "v1alpha1",
    kind = "Account",
    plural = "accounts",
    shortname = "acct",
    category = "tenure",
    derive = "PartialEq",
    status = "AccountStatus",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Currency", type_ = "string", json_path = ".spec.currency"),
    printcolumn(name = "Balance", type_ = "string", json_path = ".status.balance"),
    printcolumn(name = "This Month", type_ = "string", json_path = ".status.thisMonth"),
    printcolumn(name = "Arrears", type_ = "boolean", json_path = ".status.arrears"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("!(self.metadata.name in ['bank', 'sales', 'vouchers'])").message("bank, sales and vouchers are accounts of the ledger itself: choose another name"),
    validation = Rule::new("size(self.metadata.name) <= 63").message("the name must have at most 63 characters: namespaces carry it as a label")
)]
#[serde(rename_all = "camelCase")]
pub struct AccountSpec {
    /// ISO 4217 code. Fixed.
    #[schemars(length(max = 3))]
    #[x_kube(validation = rules::currency(), validation = rules::fixed("currency can't be changed: make another Account"))]
    pub currency: String,
    /// How it pays.
    #[serde(default)]
    pub mode: AccountMode,
    /// How far below zero the balance may go.
    #[serde(default = "zero")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = rules::amount())]
    pub credit_limit: String,
    /// Most cards of a type that may be held at once; a type that is absent has no limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cardType".into()]))]
    pub quotas: Vec<Quota>,
    /// Who is told; a target that can't be reached never makes the account unready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub notify: Vec<Notify>,
}

fn zero() -> String {
    "0".to_owned()
}

/// How an account pays.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccountMode {
    /// No balance, only a bill.
    #[default]
    Chargeback,
    /// Spends a balance.
    Prepaid,
}

/// Most cards of a type.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// The card type.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = rules::object_name())]
    pub card_type: String,
    /// Cards.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cards: i32,
}

/// Who is told.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.email) != has(self.webhook)").message("give exactly one of email and webhook"))]
pub struct Notify {
    /// An email address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 254))]
    #[x_kube(validation = Rule::new("self.matches('^[^@ ]+@[^@ ]+$')").message("must be an email address such as gpu-owners@acme.example"))]
    pub email: Option<String>,
    /// An HTTP endpoint that takes CloudEvents 1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// An HTTP endpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretName) && self.secretName != ''").message("name a Secret of the operator's namespace in secretName: webhooks are always signed"))]
pub struct Webhook {
    /// Its address. http only into networks that the operator's --notify-allow names.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^ ]+$')").message("must be an http or https URL"))]
    pub url: String,
    /// A Secret in the operator's namespace. Each entry is a key that signs, `whsec_` and 24 to 64 bytes in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::optional_object_name())]
    pub secret_name: String,
}

/// How the account stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccountStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is there to spend, without credit: posted, less what is held for orders and what workers have used so far. Only of one that is prepaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<String>,
    /// Is the balance below what the credit limit allows?
    #[serde(default)]
    pub arrears: bool,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrears_since: Option<Time>,
    /// What was billed in this month (UTC) so far, and what workers have used that is not billed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub this_month: Option<String>,
    /// Ready, Notified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
