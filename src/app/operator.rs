//! `tenure operator`: watches always, leads when it holds the Lease, and leaves in order when it is told to.

use std::sync::Arc;
use std::time::Duration;

use k8s_controller::LeaderElection;
use prometheus::{IntGauge, Registry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::config::OperatorOptions;
use super::health::{self, Health};
use super::{clock, dev_clock, marks, telemetry};
use crate::api::names;
use crate::cluster::{self, Cluster};
use crate::controllers::{self, Clocks, Context, Settings, Urls};
use crate::link::tls;
use crate::read_api::{self, ReadApi};

/// What is under way when it is told to stop may take this long.
const LEAVE_WITHIN: Duration = Duration::from_secs(25);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime did not start.
    #[error("start runtime: {0}")]
    Start(#[source] std::io::Error),
    /// No connection to an API server.
    #[error(transparent)]
    Connect(#[from] cluster::Error),
    /// The address of the probes is taken, say.
    #[error("listen on {0}: {1}")]
    Listen(std::net::SocketAddr, #[source] std::io::Error),
    /// Certificate, key or authority for the lines to the gateways.
    #[error("load the certificate for gateways: {0}")]
    Identity(#[from] tls::Error),
    /// Metrics collide.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The ledger can't be opened, or does not add up.
    #[error("open the ledger: {0}")]
    Ledger(#[from] crate::ledger::Error),
    /// Email or webhooks can't be set up.
    #[error("set up notices: {0}")]
    Notify(#[from] super::notify::Error),
    /// The token of --dev-clock can't be read.
    #[error("read {0}: {1}")]
    Token(std::path::PathBuf, #[source] std::io::Error),
    /// The file of --node-marks can't be read, or makes no sense.
    #[error("read --node-marks {0}")]
    Marks(String),
    /// Somebody else leads now; the process ends, so that nothing it has begun outlives the lease.
    #[error("the lease is lost")]
    LeaseLost,
}

/// Runs until it is told to stop.
pub fn run(options: OperatorOptions) -> Result<(), Error> {
    telemetry::start(options.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    runtime.block_on(operate(options))
}

async fn operate(options: OperatorOptions) -> Result<(), Error> {
    let identity = options.identity.unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id()));
    let dial = match (options.gateway_certificate, options.gateway_key, options.gateway_ca) {
        (Some(certificate), Some(key), Some(ca)) if !options.gateways.is_empty() => {
            Some(Arc::new(tls::Identity::load(&certificate, &key, &ca)?))
        }
        _ => None,
    };
    let marks = marks::read(options.node_marks.as_deref()).map_err(Error::Marks)?;
    let urls = Urls { domain: options.domain, scheme: options.gateway_url_scheme.as_str().to_owned() };
    let (senders, allowed) = (options.notify.senders()?, options.notify.allowed());
    let registry = Registry::new();
    let leads = IntGauge::new("tenure_leads", "1 while this process holds the lease")?;
    registry.register(Box::new(leads.clone()))?;
    let health = Health::new();
    let listener = TcpListener::bind(options.listen).await.map_err(|it| Error::Listen(options.listen, it))?;
    let reads = TcpListener::bind(options.read_address)
        .await
        .map_err(|it| Error::Listen(options.read_address, it))?;
    let probes = health::routes(health.clone(), registry.clone());

    let stop = CancellationToken::new();
    tokio::spawn(wait_for_signal(stop.clone()));

    let cluster = Cluster::connect(options.kubeconfig, &identity, &registry).await?;
    let caches = cluster.watch();
    let election =
        LeaderElection::new(cluster.client.clone(), &options.lease_namespace, names::LEASE, &identity);
    let clocks = Clocks { now: clock::now, of_api_server: clock::of_api_server };
    let settings = Settings { clocks, marks, gateways: options.gateways, urls, senders, allowed };
    let context = Arc::new(Context::new(cluster, caches, settings, &registry)?);
    let routes = match &options.dev_clock {
        None => probes,
        Some(file) => {
            let token = std::fs::read_to_string(file).map_err(|it| Error::Token(file.clone(), it))?;
            tokio::spawn(dev_clock::be_loud());
            let context = context.clone();
            let moved = Arc::new(move || context.caches.changes.everything());
            probes.merge(dev_clock::routes(token.trim().to_owned(), moved))
        }
    };
    tokio::spawn(axum::serve(listener, routes).into_future());

    // A standby has its caches ready too: it takes over without a first list.
    tokio::select! {
        () = context.caches.ready() => health.set_ready(),
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(identity, "caches are complete; waiting for the lease");
    let read_api = {
        let health = health.clone();
        let (url, namespace) = (options.ledger.clone(), options.lease_namespace.clone());
        ReadApi::new(context.clone(), url, namespace, move || health.leads())
    };
    tokio::spawn(read_api::serve(reads, read_api::routes(read_api)));
    let work = {
        let (health, stop) = (health.clone(), stop.clone());
        async move {
            // Nothing is done before it is known what is bought.
            context.money.lead(&options.ledger, clock::now()).await?;
            leads.set(1);
            health.set_leads();
            tracing::info!("leading");
            let beat = Arc::new(move |which| health.beat(which));
            let fenced = context.money.fenced.clone();
            tokio::select! {
                () = controllers::run(context, dial, beat, stop) => Ok(()),
                () = fenced.cancelled() => Err(Error::LeaseLost),
            }
        }
    };
    let leading = election.with_lease(work);
    tokio::pin!(leading);
    tokio::select! {
        done = &mut leading => return done.ok_or(Error::LeaseLost)?,
        () = stop.cancelled() => (),
    }
    if !health.leads() {
        return Ok(());
    }
    // Passes under way come to their end, then the lease is given back at once.
    if tokio::time::timeout(LEAVE_WITHIN, leading).await.is_err() {
        tracing::warn!("stopped before the passes under way had ended");
    }
    Ok(())
}

/// Cancels `stop` on SIGTERM or SIGINT.
pub(super) async fn wait_for_signal(stop: CancellationToken) {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
            tracing::info!("told to stop");
            stop.cancel();
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "signals can't be heard"),
    }
}

pub(super) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "tenure".to_owned(), |it| it.trim().to_owned())
}
