//! The integration tests: one binary.
mod faults;
mod manifests;
mod operator;
mod policies;
mod real_nodes;
mod stories;
mod support;
mod tidy;
mod world;
