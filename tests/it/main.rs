//! The integration tests: one binary.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

mod argocd;
mod caller;
mod catalogue;
mod faults;
mod gateway;
mod gateway_access;
mod gateway_process;
mod groups;
mod install;
mod ledger;
mod manifests;
mod market;
mod metering;
mod money;
mod node_notices;
mod notify;
mod operator;
mod policies;
mod read_api;
mod real_nodes;
mod rights;
mod stories;
mod support;
mod tidy;
mod world;
