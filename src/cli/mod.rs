//! `kubectl tenure`: what one wants to see of a cluster and kubectl's columns can't show.

pub mod cards;
