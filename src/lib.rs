//! Tenure: a Kubernetes operator that sells or shares out GPU capacity under four contracts.
//!
//! The map: `domain` decides and is pure; `api` is what users write and read; `cluster` talks to the API server;
//! `controllers` are thin shells around `domain`; `ledger` is the book of what was paid; `gateway` serves requests; `link` is
//! what operator and gateways say to each other; `notify` sends email and webhooks; `read_api` tells who may know what is billed; `app`
//! wires a process. ARCHITECTURE.md says what must always hold.
#![forbid(unsafe_code)]

pub mod api;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod controllers;
pub mod domain;
pub mod gateway;
pub mod ledger;
pub mod link;
pub mod notify;
pub mod read_api;
