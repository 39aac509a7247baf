//! `kubectl tenure`: what one wants to see of a cluster and kubectl's columns can't show, and what the operator's read API tells.

pub mod bill;
pub mod cards;
pub mod ledger;
pub mod quote;
pub mod read_api;
