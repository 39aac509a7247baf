//! Command line and environment, read once.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::limits::LimitOptions;
use super::notify::NotifyOptions;
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
    Operator(Box<OperatorOptions>),
    /// Serves the requests of all endpoints. Several may run: each endpoint's slots are handed out by one of them.
    Gateway(Box<GatewayOptions>),
    /// Prints the CustomResourceDefinitions.
    Crds(CrdsOptions),
    /// Looks into a ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
}

/// What to do with a ledger.
#[derive(Subcommand, Debug)]
pub enum LedgerCommand {
    /// Checks it whole: every transfer is replayed and compared with the balances, and the chain with what it ties together.
    Verify(LedgerOptions),
}

/// Options of `tenure ledger`.
#[derive(Args, Debug)]
pub struct LedgerOptions {
    /// The ledger: `sqlite:PATH` or `postgres://...`.
    #[arg(long, env = "TENURE_LEDGER")]
    pub ledger: String,
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
    /// Where bills, quotes and exports are read (`kubectl tenure bill`), by who has a token that the API server knows and the right to.
    /// On the loopback `kubectl port-forward` reaches it and nobody else; it speaks no TLS.
    #[arg(long, env = "TENURE_READ_ADDRESS", default_value_t = SocketAddr::from(([127, 0, 0, 1], names::READ_PORT)))]
    pub read_address: SocketAddr,
    /// How logs are written. RUST_LOG filters them.
    #[arg(long, env = "TENURE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// The ledger: `sqlite:PATH` or `postgres://...`. It is made when it is not there, and checked whole whenever this process
    /// begins to lead.
    #[arg(long, env = "TENURE_LEDGER", default_value = "sqlite:tenure-ledger.db")]
    pub ledger: String,
    /// A file with more marks on nodes that mean that they go away: docs/node-notices.md.
    #[arg(long, env = "TENURE_NODE_MARKS", value_name = "FILE")]
    pub node_marks: Option<PathBuf>,
    /// For tests only: a file with a token; who has it can move the clock forward by `PUT /dev/clock`, and contracts age with it.
    #[arg(long, env = "TENURE_DEV_CLOCK", value_name = "TOKEN_FILE")]
    pub dev_clock: Option<PathBuf>,
    /// The gateways' link ports, `host:port` each, comma separated. A name may have many addresses. Absent: no gateway.
    #[arg(long, env = "TENURE_GATEWAYS", value_delimiter = ',', value_parser = host_and_port,
        requires_all = ["gateway_certificate", "gateway_key", "gateway_ca"])]
    pub gateways: Vec<String>,
    /// The certificate that gateways know this operator by, PEM.
    #[arg(long, env = "TENURE_GATEWAY_CERTIFICATE")]
    pub gateway_certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "TENURE_GATEWAY_KEY")]
    pub gateway_key: Option<PathBuf>,
    /// Who signs the gateways' certificates, PEM.
    #[arg(long, env = "TENURE_GATEWAY_CA")]
    pub gateway_ca: Option<PathBuf>,
    /// Endpoints are called at ENDPOINT.NAMESPACE.DOMAIN. Absent: no URL is shown.
    #[arg(long, env = "TENURE_DOMAIN")]
    pub domain: Option<String>,
    /// How endpoints are called.
    #[arg(long, env = "TENURE_GATEWAY_URL_SCHEME", value_enum, default_value_t = UrlScheme::Http)]
    pub gateway_url_scheme: UrlScheme,
    /// How owners are told.
    #[command(flatten)]
    pub notify: NotifyOptions,
}

/// How endpoints are called.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlScheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

impl UrlScheme {
    /// As it stands in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            UrlScheme::Http => "http",
            UrlScheme::Https => "https",
        }
    }
}

/// `host:port`, as it is looked up later.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let (host, port) = text.trim().rsplit_once(':').ok_or("write host:port")?;
    let valid = !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0);
    valid
        .then(|| format!("{host}:{port}"))
        .ok_or_else(|| "write host:port, with a port from 1 to 65535".to_owned())
}

/// Options of `tenure gateway`.
#[derive(Args, Debug)]
pub struct GatewayOptions {
    /// This gateway among all of them: unique, and the same after a restart. Absent: the host's name.
    #[arg(long, env = "TENURE_REPLICA")]
    pub replica: Option<String>,
    /// Endpoints are called at ENDPOINT.NAMESPACE.DOMAIN, or at /NAMESPACE/ENDPOINT/ of any other host.
    #[arg(long, env = "TENURE_DOMAIN")]
    pub domain: String,
    /// Where requests come in: HTTP/1.1, and HTTP/2 by prior knowledge.
    #[arg(long, env = "TENURE_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// The same with TLS.
    #[arg(long, env = "TENURE_LISTEN_TLS", requires_all = ["certificate", "key"])]
    pub listen_tls: Option<SocketAddr>,
    /// The certificate that clients see, PEM; read again when it changes.
    #[arg(long, env = "TENURE_CERTIFICATE", requires = "listen_tls")]
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "TENURE_KEY", requires = "listen_tls")]
    pub key: Option<PathBuf>,
    /// Where the leader and other gateways come in, by mTLS.
    #[arg(long, env = "TENURE_LINK_LISTEN", default_value = "127.0.0.1:8001")]
    pub link_listen: SocketAddr,
    /// The certificate that they know this gateway by, PEM, for the name `tenure-gateway`.
    #[arg(long, env = "TENURE_LINK_CERTIFICATE")]
    pub link_certificate: PathBuf,
    /// Its key, PEM.
    #[arg(long, env = "TENURE_LINK_KEY")]
    pub link_key: PathBuf,
    /// Who signs the certificates of operators and gateways, PEM.
    #[arg(long, env = "TENURE_LINK_CA")]
    pub link_ca: PathBuf,
    /// Where the last table is kept. Absent: a gateway that is started while nobody leads serves nothing.
    #[arg(long, env = "TENURE_TABLE")]
    pub table: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "TENURE_PROBES_LISTEN", default_value = "127.0.0.1:8002")]
    pub probes_listen: SocketAddr,
    /// Where each request is written down as a line of JSON: a file that is added to, or `-` for standard output. Absent: nowhere.
    #[arg(long, env = "TENURE_ACCESS_LOG", value_name = "FILE")]
    pub access_log: Option<PathBuf>,
    /// When told to stop: seconds in which it takes requests as before, so that load balancers can look elsewhere.
    #[arg(long, env = "TENURE_LEAVE_SECONDS", default_value_t = 5)]
    pub leave_seconds: u64,
    /// And after that: seconds for requests to end.
    #[arg(long, env = "TENURE_DRAIN_SECONDS", default_value_t = 300)]
    pub drain_seconds: u64,
    /// How much of everything.
    #[command(flatten)]
    pub limits: LimitOptions,
    /// Threads.
    #[arg(long, env = "TENURE_THREADS", default_value = "2")]
    pub threads: NonZeroUsize,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<OperatorOptions, String> {
        let all = ["tenure", "operator"].iter().chain(arguments);
        match Options::try_parse_from(all).map_err(|it| it.to_string())?.command {
            Command::Operator(options) => Ok(*options),
            Command::Gateway(_) | Command::Crds(_) | Command::Ledger(_) => Err("another command".to_owned()),
        }
    }

    const FILES: [&str; 6] = ["--gateway-certificate", "c", "--gateway-key", "k", "--gateway-ca", "a"];

    #[test]
    fn gateways_are_hosts_with_ports_and_need_a_certificate() {
        for (gateways, expected) in [
            ("gw:9443", Ok(vec!["gw:9443"])),
            ("gw-0.gw:9443,[fd00::1]:9443", Ok(vec!["gw-0.gw:9443", "[fd00::1]:9443"])),
            ("gw", Err("write host:port")),
            ("gw:0", Err("with a port from 1 to 65535")),
            (":9443", Err("with a port from 1 to 65535")),
        ] {
            let found = parse(&[&FILES[..], &["--gateways", gateways]].concat());
            match (found, expected) {
                (Ok(options), Ok(expected)) => assert_eq!(options.gateways, expected),
                (Err(text), Err(words)) => assert!(text.contains(words), "{text}"),
                (found, expected) => panic!("{gateways}: {found:?} instead of {expected:?}"),
            }
        }
        assert!(parse(&["--gateways", "gw:9443"]).unwrap_err().contains("--gateway-certificate"));
        let none = parse(&[]).unwrap();
        assert_eq!((none.gateways.len(), none.gateway_url_scheme), (0, UrlScheme::Http));
    }
}
