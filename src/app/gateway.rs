//! `tenure gateway`: serves requests, with or without a leader.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::config::GatewayOptions;
use super::{health, operator, telemetry};
use crate::gateway::access::{self, AccessLog};
use crate::gateway::certificate::{self, Certificate};
use crate::gateway::gauges::Gauges;
use crate::gateway::leader::Listener as Link;
use crate::gateway::server::{Gateway, Listener};
use crate::gateway::table::Endpoints;
use crate::gateway::{disk, peers};
use crate::link::tls::{self, Identity};

/// At the end, for the access log to be written.
const ACCESS_LOG_WITHIN: Duration = Duration::from_secs(2);

/// Why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime did not start.
    #[error("start runtime: {0}")]
    Start(#[source] std::io::Error),
    /// An address is taken, say.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The certificate for clients.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// The certificate for the leader and other gateways.
    #[error("load the certificate of the link: {0}")]
    Identity(#[from] tls::Error),
    /// The access log.
    #[error("open the access log {}: {cause}", file.display())]
    AccessLog {
        /// Where it should be.
        file: PathBuf,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// Metrics collide.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs until it is told to stop.
pub fn run(options: GatewayOptions) -> Result<(), Error> {
    telemetry::start(options.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.get())
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    runtime.block_on(serve(options))
}

async fn serve(options: GatewayOptions) -> Result<(), Error> {
    let replica = options.replica.unwrap_or_else(operator::host_name);
    let identity = Identity::load(&options.link_certificate, &options.link_key, &options.link_ca)?;
    let endpoints = Endpoints::new(&replica);
    if let Some(file) = &options.table {
        match disk::load(file) {
            Ok(Some(table)) => {
                tracing::info!(routes = table.routes.len(), "serving what was served before");
                endpoints.replace(table);
            }
            Ok(None) => (),
            // Of another version, say. The leader tells it anew.
            Err(error) => {
                tracing::warn!(%error, file = %file.display(), "the kept table can't be read and is left aside");
            }
        }
        tokio::spawn(disk::keep(endpoints.clone(), file.clone()));
    }

    let registry = Registry::new();
    registry.register(Box::new(Gauges::new(endpoints.clone())?))?;
    let limits = options.limits.limits(options.drain_seconds);
    let access = options.access_log.as_deref().map(|it| access_log(it, &registry)).transpose()?;
    let gateway = Gateway::new(endpoints.clone(), options.domain, limits, access.clone(), &registry)?;
    let (leaving, stop) = (CancellationToken::new(), CancellationToken::new());

    let mut listeners = vec![Listener::Plain(bind(options.listen).await?)];
    if let (Some(address), Some(certificate), Some(key)) =
        (options.listen_tls, options.certificate, options.key)
    {
        let certificate = Certificate::load(certificate, key)?;
        tokio::spawn(certificate.clone().watch(stop.clone()));
        listeners.push(Listener::Tls(bind(address).await?, certificate));
    }
    let link = bind(options.link_listen).await?;
    tokio::spawn(Link::new(endpoints.clone(), identity.clone(), leaving.clone()).run(link));
    tokio::spawn(peers::keep_lines(endpoints.clone(), identity));
    tokio::spawn(peers::forget_absent(endpoints.clone()));
    let probes = bind(options.probes_listen).await?;
    tokio::spawn(axum::serve(probes, routes(endpoints, leaving.clone(), registry)).into_future());

    tracing::info!(replica, listen = %options.listen, link = %options.link_listen, "serving");
    let serving = tokio::spawn(gateway.serve(listeners, stop.clone()));
    let told = CancellationToken::new();
    tokio::spawn(operator::wait_for_signal(told.clone()));
    told.cancelled().await;
    // Its endpoints get another owner, and load balancers hear that it leaves, while it still takes requests.
    leaving.cancel();
    tokio::time::sleep(Duration::from_secs(options.leave_seconds)).await;
    stop.cancel();
    if let Err(error) = serving.await {
        tracing::error!(%error, "serving ended");
    }
    if let Some(access) = access {
        // Blocking is no harm any more.
        access.flush(ACCESS_LOG_WITHIN);
    }
    Ok(())
}

fn access_log(file: &Path, registry: &Registry) -> Result<AccessLog, Error> {
    let out: Box<dyn Write + Send> = if file == Path::new("-") {
        Box::new(std::io::stdout())
    } else {
        let opened = File::options().create(true).append(true).open(file);
        Box::new(opened.map_err(|cause| Error::AccessLog { file: file.to_owned(), cause })?)
    };
    Ok(AccessLog::start(out, access::MOST_WAITING, super::clock::now, registry)?)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|it| Error::Listen(address, it))
}

/// `/healthz`, `/readyz` and `/metrics`.
fn routes(endpoints: Arc<Endpoints>, leaving: CancellationToken, registry: Registry) -> Router {
    let readyz = move || async move {
        if leaving.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "it leaves\n")
        } else if !endpoints.knows_routes() {
            (StatusCode::SERVICE_UNAVAILABLE, "no leader has told it its routes yet\n")
        } else {
            (StatusCode::OK, "ok\n")
        }
    };
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || async move { health::metrics(&registry) }))
}
