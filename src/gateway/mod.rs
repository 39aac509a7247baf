//! The data plane: requests come in, get a slot, go to a worker, and their answers come back.
//!
//! It knows a table of routes and no Kubernetes. The life of a request, in `server.rs`, is: the head is checked, the endpoint
//! found, the key checked, a slot got (or waited for), the request forwarded, the answer passed on; every refusal on the way
//! is a line of the table in `refuse.rs`.

pub mod admit;
pub mod disk;
pub mod endpoint;
pub mod leader;
pub mod lines;
pub mod peers;
pub mod probe;
pub mod refuse;
#[cfg(test)]
mod simulation;
pub mod table;
