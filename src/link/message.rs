//! The messages. Operators and gateways of two versions speak to each other while one replaces the other: a field that is added has a
//! serde default, and none changes its meaning.
//!
//! An endpoint's *owner* is the one gateway that hands out its slots; the leader names it with an epoch that only grows. Who
//! hears of a higher epoch, from whomever, obeys it at once: what a lower one granted from then on is void.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An endpoint: namespace and name.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for EndpointKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.namespace, self.name)
    }
}

/// The first message on a line to a gateway: who has connected.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The leader. It leads since then, milliseconds since 1970: of two that both think they lead the later one counts.
    Leader {
        /// Since when.
        since_ms: u64,
    },
    /// Another gateway, by the name of the replica.
    Gateway {
        /// Its name.
        replica: String,
    },
}

/// The leader to a gateway.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum ToGateway {
    /// All there is. What is not in it is gone.
    Snapshot(Table),
    /// What has changed since the last snapshot or delta.
    Delta {
        /// New or changed routes, whole.
        changed: Vec<Route>,
        /// Routes that are gone.
        removed: Vec<EndpointKey>,
        /// The gateways, if they changed.
        replicas: Option<BTreeMap<String, String>>,
    },
    /// Nothing is new; the line is alive.
    Ping,
}

/// All that a gateway knows. It keeps the last one on disk.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Gateways: name of the replica → address of its link port (`host:port`).
    pub replicas: BTreeMap<String, String>,
    /// Routes, in the order of their keys.
    pub routes: Vec<Route>,
}

/// A gateway to the leader.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum FromGateway {
    /// The first message.
    Hello {
        /// The replica's name: unique among the gateways, the same after a restart.
        replica: String,
        /// The highest epoch that it has heard of: the leader's next ones are higher.
        epoch_seen: u64,
    },
    /// What the endpoints that it owns have to do. Sent when it changes, and all of it at once and then every second: a new
    /// leader learns from it who owns what, and leaves that as it is.
    Demand(Vec<Demand>),
    /// It stops: its endpoints need another owner. It finishes what it has.
    Leaving,
}

/// What an endpoint has to do, as its owner sees it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// The epoch in which the sender owns it.
    pub epoch: u64,
    /// Requests in workers, of all gateways.
    pub in_flight: u32,
    /// Requests that wait for a slot, of all gateways.
    pub queued: u32,
    /// Requests that ended since the endpoint was adopted, of all gateways.
    pub served: u64,
    /// Its workers.
    pub workers: Vec<WorkerDemand>,
}

/// A worker, as the owner of its endpoint sees it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct WorkerDemand {
    /// Its pod's UID.
    pub id: String,
    /// Requests in it, of all gateways.
    pub busy: u32,
    /// Has its probe answered?
    pub ready: bool,
    /// Has the owner heard that it takes no new requests?
    pub closing: bool,
}

/// One endpoint, as gateways know it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The endpoint.
    pub endpoint: EndpointKey,
    /// The replica that hands out its slots; empty when there is none.
    pub owner: String,
    /// Since which epoch.
    pub epoch: u64,
    /// Does it serve, or why not?
    pub serving: Serving,
    /// Hard limit of requests in one worker.
    pub concurrency: u32,
    /// Which requests may wait.
    pub limit: Limit,
    /// Longest wait for a slot, milliseconds.
    pub queue_timeout_ms: u64,
    /// Until the first byte of the answer, milliseconds; 0 = no limit.
    pub first_byte_timeout_ms: u64,
    /// Between two bytes, milliseconds; 0 = no limit.
    pub idle_timeout_ms: u64,
    /// In all, milliseconds; 0 = no limit.
    pub total_timeout_ms: u64,
    /// For requests in flight when a worker or a gateway has to go, milliseconds.
    pub drain_ms: u64,
    /// Who may call; `None` = anybody.
    pub keys: Option<Vec<Key>>,
    /// How a new worker is asked whether it is ready.
    pub probe: Probe,
    /// Its workers, the oldest first.
    pub workers: Vec<Worker>,
}

/// Does an endpoint serve?
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It does, or will when a request wakes it.
    Yes,
    /// Its state says so. A request never wakes it.
    Stopped,
    /// It is not valid, what it is bound to is not ready, or it is being deleted.
    Unavailable,
    /// It has no worker, and there is no card to start one on.
    NoCard,
    /// Its workers end by themselves, one after the other, before they are ready.
    Crashing,
}

/// Which requests may wait for a slot.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// At most so many wait.
    Queue {
        /// Waiting requests.
        depth: u32,
    },
    /// At most so many are there at once, those in workers included: what is bought.
    AtOnce {
        /// Requests.
        requests: u32,
    },
}

/// A key with which an endpoint may be called.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name, for metrics and limits.
    pub name: String,
    /// SHA-256 of the key, hex.
    pub sha256: String,
    /// Most requests a second, per gateway and key; 0 = no limit.
    pub requests_per_second: u32,
}

/// How a worker is asked whether it is ready.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It accepts a connection on the endpoint's port.
    Connect,
    /// It answers this with 200 to 399, as a readinessProbe of its template says.
    Get {
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
    },
}

/// A worker.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its pod's UID.
    pub id: String,
    /// Its pod's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// It takes no new requests.
    pub closing: bool,
}

/// A gateway to the owner of endpoints.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum ToOwner {
    /// It accepts this owner: the requests of this endpoint that it has in workers, all of them, by worker. Before this it
    /// may ask for no slot of the endpoint in this epoch. The owner takes it once on each line: later ones could lack a grant
    /// that is on its way.
    Holds {
        /// The endpoint.
        endpoint: EndpointKey,
        /// The epoch that it accepts.
        epoch: u64,
        /// Worker's id → requests.
        holds: BTreeMap<String, u32>,
    },
    /// A request wants a slot.
    Acquire {
        /// The endpoint.
        endpoint: EndpointKey,
        /// The epoch it speaks of.
        epoch: u64,
        /// Its number, unique on this connection.
        ticket: u64,
        /// How long it has waited already, milliseconds: that is its place in the queue.
        waited_ms: u64,
        /// Another owner has let it in already.
        again: bool,
    },
    /// The request no longer wants a slot. Crosses a grant perhaps; then the slot is given back by `Release`.
    Cancel {
        /// The endpoint.
        endpoint: EndpointKey,
        /// Its number.
        ticket: u64,
    },
    /// A request has left its worker.
    Release {
        /// The endpoint.
        endpoint: EndpointKey,
        /// The worker.
        worker: String,
        /// The worker did not take the connection.
        unreachable: bool,
    },
    /// The sender owns this endpoint, so that who has not heard it from the leader hears it too.
    Owns {
        /// The endpoint.
        endpoint: EndpointKey,
        /// Since which epoch.
        epoch: u64,
    },
    /// The line is alive.
    Ping,
}

/// The owner's answer.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub enum FromOwner {
    /// The request may go to this worker.
    Granted {
        /// The endpoint.
        endpoint: EndpointKey,
        /// In which epoch.
        epoch: u64,
        /// The request.
        ticket: u64,
        /// The worker's id.
        worker: String,
        /// Where it listens: the asking one may not have heard of it yet.
        address: SocketAddr,
    },
    /// It may not.
    Refused {
        /// The endpoint.
        endpoint: EndpointKey,
        /// The epoch in which it asked: that of an older question is no answer to a newer one.
        epoch: u64,
        /// The request.
        ticket: u64,
        /// Why.
        why: NotGranted,
    },
    /// The answer to a ping.
    Pong,
}

/// Why a request gets no slot.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGranted {
    /// The queue is full, or all that is bought is in use.
    Full,
    /// The asked one does not own the endpoint (any more, or yet), or has not been told what the asking one holds.
    NotOwner {
        /// The epoch that the asked one knows.
        known: u64,
    },
    /// The endpoint does not serve.
    NotServing(Serving),
}
