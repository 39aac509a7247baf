//! The integration tests: one binary.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed expectation is what a test reports")]

mod caller;
mod faults;
mod gateway;
mod gateway_process;
mod ledger;
mod manifests;
mod market;
mod metering;
mod money;
mod operator;
mod policies;
mod real_nodes;
mod stories;
mod support;
mod tidy;
mod world;
