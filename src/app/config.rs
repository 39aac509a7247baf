//! Command line and environment, read once.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::names;

/// Sells or shares out the GPU capacity of a Kubernetes cluster under four contracts.
#[derive(Parser, Debug)]
#[command(version)]
pub struct Options {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Runs the controllers. Several may run: one leads.
    Operator(OperatorOptions),
    /// Prints the CustomResourceDefinitions.
    Crds(CrdsOptions),
}

/// Options of `tenure operator`.
#[derive(Args, Debug)]
pub struct OperatorOptions {
    /// A kubeconfig file; absent: KUBECONFIG, ~/.kube/config, or the pod's own service account.
    #[arg(long, env = "TENURE_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Lease that decides who leads.
    #[arg(long, env = "TENURE_LEASE_NAMESPACE", default_value = names::OPERATOR_NAMESPACE)]
    pub lease_namespace: String,
    /// This process among those that may lead; must be unique. Absent: the host's name and the process id.
    #[arg(long, env = "TENURE_IDENTITY")]
    pub identity: Option<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "TENURE_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// How logs are written. RUST_LOG filters them.
    #[arg(long, env = "TENURE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How logs are written.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Options of `tenure crds`.
#[derive(Args, Debug)]
pub struct CrdsOptions {
    /// Write one file each into this folder, instead of to standard output.
    #[arg(long)]
    pub output_dir: Option<PathBuf>,
}
