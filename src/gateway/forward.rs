//! From a request that may go to a worker to the worker's answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HOST, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version, response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout_at};

use crate::gateway::access::Note;
use crate::gateway::admit::Slot;
use crate::gateway::answer::Answer;
use crate::gateway::edge::Connection;
use crate::gateway::exchange::{Clocks, Exchange, Sent, total_deadline};
use crate::gateway::headers::{self, RequestIds};
use crate::gateway::metrics::OfEndpoint;
use crate::gateway::pool::{Pool, Protocol};
use crate::gateway::refuse::{REASON_HEADER, Reason, is_grpc};
use crate::gateway::server::{Backend, Gateway};
use crate::gateway::tunnel::{Far, tunnel};
use crate::gateway::upload::Upload;
use crate::link::message::Route;

/// A request as a worker gets it.
pub struct Parcel {
    /// In a box: it goes through many hands.
    request: Box<Request<Upload>>,
    protocol: Protocol,
    /// The client's end of the tunnel, if the request asks for one.
    switch: Option<OnUpgrade>,
}

/// Makes a client's request into what the worker gets.
pub fn pack(
    request: Request<Incoming>,
    host: Option<HeaderValue>,
    prefix: usize,
    connection: &Connection,
    ids: &RequestIds,
) -> Result<Parcel, Reason> {
    let (mut parts, body) = request.into_parts();
    let protocol = match parts.version {
        Version::HTTP_2 if is_grpc(&parts.headers) => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let wants = headers::wants_upgrade(&parts.headers, parts.version);
    let upgrade = if wants { headers::upgrade(&parts.headers) } else { None };
    let on_demand = parts.headers.contains_key(EXPECT);
    let switch = upgrade.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    parts.extensions.clear();
    let (prefix, path) = split_path(&parts.uri, prefix)?;
    headers::to_worker(&mut parts.headers, host, prefix.as_deref(), connection, ids);
    if let (Some(protocol), true) = (upgrade, switch.is_some()) {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    address(&mut parts, path, protocol)?;
    let request = Box::new(Request::from_parts(parts, Upload::new(body, on_demand)));
    Ok(Parcel { request, protocol, switch })
}

/// What of the path names the endpoint, and what goes to the worker.
fn split_path(uri: &Uri, prefix: usize) -> Result<(Option<String>, PathAndQuery), Reason> {
    let whole = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    if prefix == 0 {
        return Ok((None, whole));
    }
    let (prefix, rest) = whole.as_str().split_at_checked(prefix).ok_or(Reason::BadPath)?;
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let rest = PathAndQuery::from_maybe_shared(Bytes::from(format!("{slash}{rest}")));
    Ok((Some(prefix.to_owned()), rest.map_err(|_| Reason::BadPath)?))
}

/// HTTP/1 has host and path in two places, HTTP/2 in one.
fn address(parts: &mut Parts, path: PathAndQuery, protocol: Protocol) -> Result<(), Reason> {
    match protocol {
        Protocol::Http1 => {
            parts.version = Version::HTTP_11;
            parts.uri = Uri::from(path);
        }
        Protocol::Http2 => {
            let host = parts.headers.remove(HOST).ok_or(Reason::BadRequest)?;
            let uri = Uri::builder().scheme(Scheme::HTTP).authority(host.as_bytes()).path_and_query(path);
            parts.uri = uri.build().map_err(|_| Reason::BadRequest)?;
        }
    }
    Ok(())
}

/// Gets a slot, sends the request, and waits for the answer's head. While no worker has seen the request it tries others.
pub async fn forward<B: Backend>(
    gateway: &Gateway<B>,
    connection: &Connection,
    route: &Arc<Route>,
    parcel: Parcel,
    arrived: Instant,
    counters: &OfEndpoint,
    mut note: Option<&mut Note>,
) -> Result<Response<Answer>, Reason> {
    let Parcel { mut request, protocol, switch } = parcel;
    for _ in 0..gateway.limits.attempts {
        let admitted = match total_deadline(route, arrived) {
            Some(total) => timeout_at(total, admit(gateway, route, &mut request))
                .await
                .unwrap_or(Err(Reason::TotalTimeout)),
            None => admit(gateway, route, &mut request).await,
        };
        let slot = match admitted {
            Err(Reason::BadRequest) => return Err(connection.violation().unwrap_or(Reason::BadRequest)),
            admitted => admitted?,
        };
        let now = Instant::now();
        counters.waited(now.saturating_duration_since(arrived));
        if let Some(note) = &mut note {
            note.sent(slot.worker.address, request.headers(), now);
        }
        let clocks = Clocks::new(route, arrived, now, gateway.limits.body_timeout);
        // In a box, so that a request that waits for its slot does not carry the size of what comes then.
        match Box::pin(send(&gateway.pool, slot, protocol, request, clocks)).await {
            Sent::Answered(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                return Box::pin(switch_over(response, switch, gateway, clocks)).await;
            }
            Sent::Answered(response) => return Ok(pass_on(response)),
            Sent::Untouched(slot, unsent) => {
                slot.unreachable();
                request = unsent;
            }
            Sent::Failed(Reason::BadRequest) => {
                return Err(connection.violation().unwrap_or(Reason::BadRequest));
            }
            Sent::Failed(reason) => return Err(reason),
        }
    }
    Err(Reason::Unreachable)
}

/// Waits for a slot, and for the client to leave or to break a rule.
async fn admit<B: Backend>(
    gateway: &Gateway<B>,
    route: &Arc<Route>,
    request: &mut Request<Upload>,
) -> Result<Slot, Reason> {
    let mut admitted = pin!(gateway.backend.admit(route));
    let mut waits = false;
    poll_fn(|context| match admitted.as_mut().poll(context) {
        Poll::Pending => {
            if !std::mem::replace(&mut waits, true) {
                headers::move_out(request);
            }
            request.body_mut().poll_ahead(context).map(|_| Err(Reason::BadRequest))
        }
        Poll::Ready(admitted) => Poll::Ready(admitted),
    })
    .await
}

/// Sends the request on a connection that waits, or on a new one. It comes back only if the worker takes no connection.
async fn send(
    pool: &Arc<Pool>,
    mut slot: Slot,
    protocol: Protocol,
    mut request: Box<Request<Upload>>,
    clocks: Clocks,
) -> Sent {
    loop {
        let waiting = pool.take(&slot.worker, protocol);
        let is_new = waiting.is_none();
        let line = match waiting {
            Some(line) => line,
            None => match Box::pin(pool.connect(&slot.worker, protocol)).await {
                Ok(line) => line,
                Err(error) => {
                    tracing::debug!(worker = %slot.worker.id, %error, "connect to a worker");
                    return Sent::Untouched(slot, request);
                }
            },
        };
        match Exchange::run(pool.clone(), line, slot, request, clocks).await {
            // It was closed while it waited; the worker may still be well.
            Sent::Untouched(same, unsent) if !is_new => (slot, request) = (same, unsent),
            sent => return sent,
        }
    }
}

/// Makes a worker's answer into what the client gets.
fn pass_on(response: Response<Box<Exchange>>) -> Response<Answer> {
    let (mut parts, exchange) = response.into_parts();
    own(&mut parts);
    Response::from_parts(parts, Answer::worker(exchange))
}

/// Takes out of an answer's head what is not the worker's to say.
fn own(parts: &mut response::Parts) {
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(REASON_HEADER);
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
}

/// The worker speaks another protocol from here on: bytes are copied both ways.
async fn switch_over<B: Backend>(
    response: Response<Box<Exchange>>,
    switch: Option<OnUpgrade>,
    gateway: &Gateway<B>,
    clocks: Clocks,
) -> Result<Response<Answer>, Reason> {
    let (mut parts, exchange) = response.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    own(&mut parts);
    let (Some(client), Some(protocol)) = (switch, protocol) else { return Err(Reason::WorkerBroke) };
    let (stream, read, slot) = exchange.into_tunnel().await.ok_or(Reason::WorkerBroke)?;
    parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol);
    let far = Far { stream, read, slot };
    gateway.tasks.spawn(tunnel(client, far, clocks, gateway.cut.clone()));
    Ok(Response::from_parts(parts, Answer::empty()))
}
