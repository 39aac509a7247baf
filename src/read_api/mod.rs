//! The operator's read API: what is billed, what something would cost, whether the ledger adds up, and exports of it. It writes
//! nothing.
//!
//! It listens on the loopback only, where `kubectl port-forward` ends. Each request carries a bearer token: whose it is, and what that
//! user may do, the API server says (`access`), in the words of RBAC. The ledger is read through connections of its own, so that a
//! long read makes no purchase wait. `item` makes of a line of the ledger what people read, `bill` and `export` tell lines
//! (`answer` says how), `focus` has the columns and `commitments` the rows of what is paid in advance.

mod access;
mod answer;
mod bill;
mod commitments;
mod export;
mod focus;
mod item;
mod month;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Semaphore};

use crate::api::names;
use crate::cluster::access::Deed;
use crate::controllers::Context;
use crate::controllers::quote::{self, Document};
use crate::ledger::Ledger;
use access::Access;
use answer::Refused;
use month::Month;
pub use serve::serve;

/// Requests under way. With two each to the API server, there is room for them beside all that the operator asks of it.
const REQUESTS_MAX: usize = 8;
/// Bills and exports under way: each holds a connection to the ledger, and there must be one left for quotes.
const STREAMS_MAX: usize = 2;
/// A request that is no bill or export.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A check of the whole ledger: 500,000 transfers take a second.
const VERIFY_WITHIN: Duration = Duration::from_mins(5);
/// Manifests that a quote is asked for.
const BODY_BYTES: usize = 4 * 1024 * 1024;
/// How many of them.
const DOCUMENTS_MAX: usize = 256;

/// What requests are answered from.
pub struct ReadApi {
    context: Arc<Context>,
    /// The ledger's address.
    url: String,
    lease_namespace: String,
    /// Does this process lead?
    leads: Box<dyn Fn() -> bool + Send + Sync>,
    ledger: Mutex<Option<Ledger>>,
    access: Access,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    checks: Semaphore,
}

impl ReadApi {
    /// What requests are answered from: the caches, and the ledger at this address.
    pub fn new(
        context: Arc<Context>,
        url: String,
        lease_namespace: String,
        leads: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Arc<ReadApi> {
        Arc::new(ReadApi {
            context,
            url,
            lease_namespace,
            leads: Box::new(leads),
            ledger: Mutex::new(None),
            access: Access::default(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            checks: Semaphore::new(1),
        })
    }

    /// The ledger, if it can be read here. A file is read only by who leads: another one may be an old copy.
    async fn ledger(&self) -> Result<Ledger, Refused> {
        if self.url.starts_with("sqlite:") && !(self.leads)() {
            return Err(self.elsewhere("the ledger is a file of the operator that leads").await);
        }
        let mut known = self.ledger.lock().await;
        if let Some(ledger) = known.as_ref() {
            return Ok(ledger.clone());
        }
        match Ledger::open_to_read(&self.url).await {
            Ok(ledger) => Ok(known.insert(ledger).clone()),
            Err(error) => {
                drop(known);
                Err(self.elsewhere(&format!("the ledger can't be read here: {error}")).await)
            }
        }
    }

    async fn elsewhere(&self, why: &str) -> Refused {
        let holder = self.context.cluster.holder(&self.lease_namespace, names::LEASE).await;
        let who = match holder {
            Ok(Some(holder)) => format!("{holder} leads: ask there"),
            Ok(None) => "nobody leads now: try again".to_owned(),
            Err(error) => format!("who leads is not known: {error}"),
        };
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, format!("{why}; {who}"))
    }
}

type Api = State<Arc<ReadApi>>;

/// The routes.
pub fn routes(api: Arc<ReadApi>) -> Router {
    Router::new()
        .route("/v1/accounts/{account}/bill", get(tell_bill))
        .route("/v1/ledger/export/{dataset}", get(tell_export))
        .route("/v1/ledger/verify", get(verify))
        .route("/v1/quote", post(tell_quote))
        .fallback(|| async { Refused::new(StatusCode::NOT_FOUND, "there is no such path").into_response() })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn_with_state(api.clone(), limit))
        .with_state(api)
}

/// So many requests at once, and each has so long until its answer begins.
async fn limit(State(api): Api, request: Request, next: Next) -> Response {
    let Ok(_permit) = api.requests.try_acquire() else {
        return Refused::busy().into_response();
    };
    let patience = if request.uri().path() == "/v1/ledger/verify" { VERIFY_WITHIN } else { ANSWER_WITHIN };
    match tokio::time::timeout(patience, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Refused::new(StatusCode::GATEWAY_TIMEOUT, "it took too long: try again").into_response(),
    }
}

/// Which time, and whose.
#[derive(Deserialize, Debug, Default)]
struct Of {
    month: Option<String>,
    account: Option<String>,
}

impl Of {
    fn month(&self) -> Result<Option<Month>, Refused> {
        let bad = |it| Refused::new(StatusCode::BAD_REQUEST, it);
        self.month.as_deref().map(Month::parse).transpose().map_err(bad)
    }
}

fn of_account(subresource: &'static str, account: &str) -> Deed {
    let (namespace, name) = (String::new(), account.to_owned());
    Deed { verb: "get", resource: "accounts", subresource, namespace, name }
}

async fn tell_bill(
    State(api): Api,
    Path(account): Path<String>,
    Query(of): Query<Of>,
    headers: axum::http::HeaderMap,
) -> Result<Response, Refused> {
    api.access.check(&api.context.cluster, &headers, &[of_account("bill", &account)]).await?;
    let now = (api.context.now)();
    let month = of.month()?.unwrap_or_else(|| Month::of(now));
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| Refused::busy())?;
    let ledger = api.ledger().await?;
    let is_known = api.context.caches.accounts.get("", &account).is_some();
    Ok(answer::stream(permit, move |mut out| async move {
        let end = bill::tell(&ledger, &account, is_known, month, &mut out).await;
        (out, end)
    }))
}

async fn tell_export(
    State(api): Api,
    Path(dataset): Path<String>,
    Query(of): Query<Of>,
    headers: axum::http::HeaderMap,
) -> Result<Response, Refused> {
    // Without a name it is all accounts.
    let whose = of_account("ledger", of.account.as_deref().unwrap_or_default());
    api.access.check(&api.context.cluster, &headers, &[whose]).await?;
    let dataset = export::Dataset::parse(&dataset)
        .ok_or_else(|| Refused::new(StatusCode::NOT_FOUND, "there is no such dataset"))?;
    let month = of.month()?;
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| Refused::busy())?;
    let (ledger, now) = (api.ledger().await?, (api.context.now)());
    Ok(answer::stream(permit, move |mut out| async move {
        let end = export::tell(&ledger, dataset, of.account.as_deref(), month, now, &mut out).await;
        (out, end)
    }))
}

async fn verify(State(api): Api, headers: axum::http::HeaderMap) -> Result<Response, Refused> {
    api.access.check(&api.context.cluster, &headers, &[of_account("ledger", "")]).await?;
    let _permit = api.checks.try_acquire().map_err(|_| Refused::busy())?;
    let report = api.ledger().await?.verify().await.map_err(|error| match error {
        crate::ledger::Error::Differs(_) => Refused::new(StatusCode::CONFLICT, error.to_string()),
        other => Refused::unavailable(&other),
    })?;
    let accounts = &report.accounts;
    let answer = json!({
        "addsUp": true,
        "transfers": report.transfers,
        "openHolds": report.open_holds,
        "spans": report.spans,
        "accounts": accounts,
        "term": report.epoch,
        "chain": report.chain,
    });
    Ok(axum::Json(answer).into_response())
}

/// What a quote is asked for.
#[derive(Deserialize)]
struct Manifests {
    /// Where a manifest without a namespace belongs.
    namespace: String,
    documents: Vec<Value>,
}

async fn tell_quote(
    State(api): Api,
    headers: axum::http::HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, Refused> {
    let caller = api.access.caller(&api.context.cluster, &headers).await?;
    let bad = |it: String| Refused::new(StatusCode::UNPROCESSABLE_ENTITY, it);
    let manifests: Manifests = serde_json::from_slice(&body).map_err(|it| bad(it.to_string()))?;
    if manifests.documents.len() > DOCUMENTS_MAX {
        return Err(bad(format!("more than {DOCUMENTS_MAX} manifests: ask for a part of them")));
    }
    let mut documents = Vec::new();
    let mut costs_nothing = Vec::new();
    for manifest in manifests.documents {
        let text = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let what = format!("{}/{}", text("/kind"), text("/metadata/name"));
        match Document::parse(manifest, &manifests.namespace).map_err(|it| bad(it.to_string()))? {
            Some(document) => documents.push(document),
            None => costs_nothing.push(what),
        }
    }
    for document in &documents {
        let (namespace, _) = document.name();
        let (_, resource) = document.kind();
        // To create it can't be restricted to a name.
        let deed = Deed { verb: "create", resource, subresource: "", namespace, name: String::new() };
        api.access.may(&api.context.cluster, &headers, &caller, &deed).await?;
    }
    let ledger = api.ledger().await?;
    let mut quotes = Vec::with_capacity(documents.len());
    for document in &documents {
        let quote = quote::quote(&api.context, &ledger, document).await;
        quotes.push(quote.map_err(|error| match error {
            quote::Error::Invalid(_) | quote::Error::Problem(..) => bad(error.to_string()),
            quote::Error::Ledger(error) => Refused::unavailable(&error),
        })?);
    }
    let totals = quote::totals(&quotes).map_err(|it| bad(it.to_string()))?;
    let total = match totals.len() {
        0 => Some("0".to_owned()),
        1 => totals.values().next().cloned(),
        _ => None,
    };
    let answer =
        json!({"documents": quotes, "costsNothing": costs_nothing, "totals": totals, "total": total});
    Ok(axum::Json(answer).into_response())
}
