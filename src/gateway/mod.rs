//! The data plane: requests come in, get a slot, go to a worker, and their answers come back.
//!
//! It knows a table of routes and no Kubernetes. The life of a request, in `life.rs`, is: the head is checked, the endpoint
//! found, the key checked, a slot got (or waited for), the request forwarded, the answer passed on; every refusal on the way
//! is a line of the table in `refuse.rs`.
//!
//! From the client's socket to the worker's: `server` accepts, `edge` with `head` lets only well-formed requests through to
//! hyper, `life` decides, `forward` sends on a connection of `pool`, `exchange` streams until the worker is done, `linger`
//! waits for workers whose client has left. `access` writes down each request, if somebody wants that.
//!
//! Where slots come from: `table` holds the endpoints as `leader` tells them (`disk` keeps them), `endpoint` is one of them with
//! its owner's slots, `peers` are the lines to other gateways (`lines` says which are up), `probe` asks workers whether they are
//! ready, and `patience` waits.

pub mod access;
pub mod admit;
mod alarm;
mod answer;
pub mod certificate;
pub mod disk;
mod edge;
pub mod endpoint;
mod exchange;
mod forward;
pub mod gauges;
mod head;
mod headers;
mod keys;
pub mod leader;
mod life;
pub mod limits;
pub mod lines;
mod linger;
pub mod metrics;
mod overdue;
mod patience;
pub mod peers;
mod pool;
pub mod probe;
pub mod refuse;
pub mod server;
pub mod table;
mod tunnel;
mod upload;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
