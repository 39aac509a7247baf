//! The life of a request, once.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::domain::routes::{NoTarget, target};
use crate::gateway::access::Note;
use crate::gateway::answer::{Answer, Busy};
use crate::gateway::edge::{Connection, REFUSED};
use crate::gateway::forward::{Parcel, forward, pack};
use crate::gateway::head::is_host;
use crate::gateway::headers::wants_upgrade;
use crate::gateway::metrics::OfEndpoint;
use crate::gateway::refuse::{Reason, Style, answer};
use crate::gateway::server::{Backend, Gateway};
use crate::link::message::{EndpointKey, Route};

/// Why a request is refused, and when to come back if it is known better than the table knows it.
struct Refusal(Reason, Option<u32>);

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Refusal {
        Refusal(reason, None)
    }
}

/// What is known of a request when it has to be refused.
struct Case {
    style: Style,
    endpoint: Option<Arc<OfEndpoint>>,
    /// For the access log, if there is one.
    note: Option<Box<Note>>,
}

/// From a request to its answer. Whatever happens, there is one.
pub async fn live<B: Backend>(
    gateway: Arc<Gateway<B>>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let arrived = Instant::now();
    let busy = Busy::new(connection.clone());
    let undecided = wants_upgrade(request.headers(), request.version());
    let style = Style::of(request.headers(), request.uri().path());
    let note = gateway.access.as_ref().map(|it| it.begin(&connection, &request, arrived));
    let mut case = Case { style, endpoint: None, note };
    let answered = match prepare(&gateway, &connection, request, arrived, &mut case) {
        Ok(Prepared { route, parcel, counters }) => {
            let note = case.note.as_deref_mut();
            forward(&gateway, &connection, &route, parcel, arrived, &counters, note)
                .await
                .map_err(Refusal::from)
        }
        Err(refusal) => Err(refusal),
    };
    let (response, refused) = match answered {
        Ok(response) => {
            if let Some(endpoint) = &case.endpoint {
                endpoint.answered(response.status(), arrived.elapsed());
            }
            (response, None)
        }
        Err(Refusal(reason, retry_after_seconds)) => {
            case.endpoint.as_deref().unwrap_or(gateway.metrics.of_none()).refused(reason);
            (answer(reason, case.style, retry_after_seconds).map(Answer::words), Some(reason.row().code))
        }
    };
    if let Some(note) = &mut case.note {
        note.answered(response.status(), refused);
    }
    if undecided {
        connection.decide(response.status() == StatusCode::SWITCHING_PROTOCOLS);
    }
    Ok(response.map(|it| it.keep(busy, case.note)))
}

/// A request that may go to a worker.
struct Prepared {
    route: Arc<Route>,
    parcel: Parcel,
    counters: Arc<OfEndpoint>,
}

/// All that comes before the wait for a slot; each step may end it. It is not async: what is only needed here would be kept for
/// as long as the request waits.
fn prepare<B: Backend>(
    gateway: &Gateway<B>,
    connection: &Connection,
    mut request: Request<Incoming>,
    arrived: Instant,
    case: &mut Case,
) -> Result<Prepared, Refusal> {
    // HTTP/1.0 may name no host; the worker gets one in any case.
    let host = check(connection, &request)?.or_else(|| HeaderValue::from_str(&gateway.domain).ok());
    let (endpoint, prefix) = find_endpoint(gateway, host.as_ref(), request.uri().path())?;
    case.style = Style::of(request.headers(), request.uri().path().get(prefix..).unwrap_or_default());
    if let Some(note) = &mut case.note {
        note.endpoint(&endpoint);
    }
    let not_found = if gateway.backend.knows_routes() { Reason::Unknown } else { Reason::NoRoutes };
    let route = gateway.backend.find(&endpoint).ok_or(not_found)?;
    let counters = gateway.metrics.of(&endpoint);
    case.endpoint = Some(counters.clone());
    let now_ns = gateway.now_ns(arrived);
    gateway.rates.check(&route, request.headers_mut(), now_ns).map_err(|(why, when)| Refusal(why, when))?;
    if let Some(reason) = Reason::of_route(&route) {
        return Err(reason.into());
    }
    let parcel = pack(request, host, prefix, connection, &gateway.ids)?;
    Ok(Prepared { route, parcel, counters })
}

/// The host that the request names, in one way only. For HTTP/1, `head.rs` has checked the rest.
fn check(connection: &Connection, request: &Request<Incoming>) -> Result<Option<HeaderValue>, Reason> {
    if request.method().as_str() == REFUSED {
        return Err(connection.violation().unwrap_or(Reason::BadRequest));
    }
    let host = request.headers().get(HOST);
    if request.version() != Version::HTTP_2 {
        let authority = || request.uri().authority().and_then(|it| HeaderValue::from_str(it.as_str()).ok());
        return Ok(host.cloned().or_else(authority));
    }
    let authority = request.uri().authority().map(|it| it.as_str().as_bytes());
    let several = request.headers().get_all(HOST).iter().nth(1).is_some();
    let named = authority.or(host.map(HeaderValue::as_bytes)).ok_or(Reason::BadRequest)?;
    let other = host.is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(named));
    if several || other || !is_host(named) || request.method() == http::Method::CONNECT {
        return Err(Reason::BadRequest);
    }
    HeaderValue::from_bytes(named).map(Some).map_err(|_| Reason::BadRequest)
}

fn find_endpoint<B>(
    gateway: &Gateway<B>,
    host: Option<&HeaderValue>,
    path: &str,
) -> Result<(EndpointKey, usize), Reason> {
    let host = host.and_then(|it| it.to_str().ok()).unwrap_or_default();
    match target(&gateway.domain, host, path) {
        Ok(found) => Ok((EndpointKey { namespace: found.namespace, name: found.endpoint }, found.prefix)),
        Err(NoTarget::Unknown) => Err(Reason::Unknown),
        Err(NoTarget::Ambiguous) => Err(Reason::BadPath),
    }
}
