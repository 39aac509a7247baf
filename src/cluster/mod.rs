//! The only folder that talks to the API server. It reads, writes and waits; it decides nothing.

pub mod access;
pub mod events;
pub mod read;
pub mod slim;
pub mod table;
pub mod write;

use std::path::PathBuf;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use prometheus::{IntCounterVec, Opts, Registry};
use tower::limit::ConcurrencyLimitLayer;
use tower::util::MapRequestLayer;

/// Requests under way at once. Watches do not count: a permit ends with the response's headers.
const REQUESTS_MAX: usize = 128;

/// The clients for one API server.
#[derive(Clone)]
pub struct Cluster {
    /// For requests: bounded in number and time, and never repeated by the client itself (a blocked eviction is a 429).
    pub client: Client,
    /// For watches: no read timeout, the watcher has its own.
    watches: Client,
    events: events::Events,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig can't be read.
    #[error("read kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// There is none, and this is no pod.
    #[error("find a cluster: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    /// The client can't be made of it.
    #[error("make a client: {0}")]
    Client(#[from] kube::Error),
    /// The metrics can't be registered.
    #[error("register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Cluster {
    /// Connects with a kubeconfig, or as `kubectl` in this environment would, or as the pod that this is.
    pub async fn connect(
        kubeconfig: Option<PathBuf>,
        identity: &str,
        registry: &Registry,
    ) -> Result<Cluster, Error> {
        let mut config = match kubeconfig {
            Some(path) => {
                Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default())
                    .await?
            }
            None => Config::infer().await?,
        };
        config.default_retry = false;
        let requests = IntCounterVec::new(
            Opts::new(
                "tenure_api_requests_total",
                "Requests to the API server, by what the client calls the operation",
            ),
            &["operation"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        let counted = move |request: http::Request<kube::client::Body>| {
            let operation = request.extensions().get::<&'static str>().copied().unwrap_or("other");
            requests.with_label_values(&[operation]).inc();
            request
        };
        let watches = ClientBuilder::try_from(config.clone())?
            .with_layer(&MapRequestLayer::new(counted.clone()))
            .build();
        config.read_timeout = Some(Duration::from_secs(30));
        let client = ClientBuilder::try_from(config)?
            .with_layer(&MapRequestLayer::new(counted))
            .with_layer(&ConcurrencyLimitLayer::new(REQUESTS_MAX))
            .build();
        let events = events::Events::new(client.clone(), identity);
        Ok(Cluster { client, watches, events })
    }
}
