//! The integration tests: one binary.
mod manifests;
mod support;
mod tidy;
