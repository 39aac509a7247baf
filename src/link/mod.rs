//! What the operator and the gateways say to each other: messages, framing and the mTLS under both.
//!
//! Three conversations, all of length-prefixed JSON frames: the leader tells each gateway its routes and hears their demand
//! (`ToGateway`, `FromGateway`); each gateway asks the owner of an endpoint for slots (`ToOwner`, `FromOwner`).

pub mod frame;
pub mod message;
pub mod tls;
