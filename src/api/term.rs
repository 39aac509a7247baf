//! Terms and renewals, shared by pools and groups.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long something is bought for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Term {
    /// Calendar months, 1 to 12.
    #[schemars(range(min = 1, max = 12))]
    pub months: i32,
}

/// Renewal without being asked.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AutoRenew {
    /// Renew 24 hours before expiry?
    #[serde(default)]
    pub enabled: bool,
    /// For how many months each time, 1 to 12.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 12))]
    pub months: i32,
}

/// One renewal.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Renewal {
    /// For how many months, 1 to 12.
    #[schemars(range(min = 1, max = 12))]
    pub months: i32,
}

pub(super) fn one() -> i32 {
    1
}

/// What an order is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// The first one.
    Initial,
    /// More cards or disk, until the term ends.
    Expansion,
    /// A renewal by hand.
    Manual,
    /// A renewal without being asked.
    Auto,
}

/// What was paid.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Paid {
    /// In money.
    pub cash: String,
    /// In vouchers.
    pub voucher: String,
    /// ISO 4217 code.
    pub currency: String,
}

/// Refund of an order that has begun: max(0, cash − consumed); consumed = day price × started days × factor.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refund {
    /// Days in which a used day costs more.
    #[serde(default = "thirty")]
    #[schemars(range(min = 0, max = 3650))]
    pub early_days: i32,
    /// What a used day costs in them, in day prices.
    #[serde(default = "early_factor")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = super::rules::amount())]
    pub early_factor: String,
}

fn thirty() -> i32 {
    30
}

fn early_factor() -> String {
    "1.2".to_owned()
}
