//! The data plane: requests come in, get a slot, go to a worker, and their answers come back.
//!
//! It knows a table of routes and no Kubernetes. The life of a request, in `life.rs`, is: the head is checked, the endpoint
//! found, the key checked, a slot got (or waited for), the request forwarded, the answer passed on; every refusal on the way
//! is a line of the table in `refuse.rs`.
//!
//! From the client's socket to the worker's: `server` accepts, `edge` with `head` lets only well-formed requests through to
//! hyper, `life` decides, `forward` sends on a connection of `pool`, `exchange` streams until the worker is done, `linger`
//! waits for workers whose client has left.

pub mod admit;
mod alarm;
mod answer;
pub mod certificate;
mod edge;
mod exchange;
mod forward;
mod head;
mod headers;
mod keys;
mod life;
pub mod limits;
mod linger;
pub mod metrics;
mod overdue;
mod pool;
pub mod refuse;
pub mod server;
mod tunnel;
mod upload;

#[cfg(test)]
mod tests;
