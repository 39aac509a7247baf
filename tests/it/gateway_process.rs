//! The real gateway binary as a process of the tests, and what an operator has to be told to find it.
//!
//! Gateways are numbered, and their ports follow from their numbers: stories run one at a time.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;

use crate::operator::{last_lines, probe, scratch};
use crate::support::until;

/// Endpoints are hosts below it.
pub const DOMAIN: &str = "tenure.test";

/// A running gateway; killed when it is dropped.
pub struct Gateway {
    child: Child,
    number: u16,
    log: PathBuf,
    table: PathBuf,
}

/// Ports of a gateway: requests, the link, probes, requests by TLS.
fn ports(number: u16) -> [u16; 4] {
    let first = 19_000 + 10 * number;
    [first, first + 1, first + 2, first + 3]
}

/// Certificates by which operators and gateways know each other. Made once per run.
fn certificates() -> PathBuf {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    ONCE.get_or_init(|| {
        let folder = scratch("gateway-certificates");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/gateway-certificates");
        let status = Command::new(script).arg(&folder).status().expect("bash runs");
        assert!(status.success(), "the certificates are written");
        folder
    })
    .clone()
}

/// Pairs of an option and a file of the certificates.
fn files(pairs: [(&str, &str); 3]) -> Vec<String> {
    let file = |name: &str| certificates().join(name).display().to_string();
    pairs.into_iter().flat_map(|(option, name)| [option.to_owned(), file(name)]).collect()
}

/// What an operator is told of the first so many gateways.
pub fn operator_arguments(gateways: u16) -> Vec<String> {
    let links: Vec<String> = (0..gateways).map(|it| format!("127.0.0.1:{}", ports(it)[1])).collect();
    let mut arguments = files([
        ("--gateway-certificate", "operator.crt"),
        ("--gateway-key", "operator.key"),
        ("--gateway-ca", "ca.crt"),
    ]);
    arguments.extend(["--domain", DOMAIN, "--gateways"].map(str::to_owned));
    arguments.push(links.join(","));
    arguments
}

/// Where it keeps its table.
fn table(story: &str, number: u16) -> PathBuf {
    scratch(&format!("gateway-{story}-{number}.table"))
}

/// What a gateway is told to serve clients by TLS as well, with `tls.crt` and `tls.key` of a folder.
pub fn tls_arguments(number: u16, folder: &Path) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    let listen = format!("127.0.0.1:{}", ports(number)[3]);
    ["--listen-tls", &listen, "--certificate", &file("tls.crt"), "--key", &file("tls.key")]
        .map(str::to_owned)
        .to_vec()
}

impl Gateway {
    /// Starts one that knows nothing of an earlier run, with more on its command line.
    pub fn start_new(story: &str, number: u16, arguments: &[String]) -> Gateway {
        std::fs::remove_file(table(story, number)).ok();
        Gateway::start_with(story, number, arguments)
    }

    /// Starts one. It is ready when it knows its routes, from a leader or from its table.
    pub fn start(story: &str, number: u16) -> Gateway {
        Gateway::start_with(story, number, &[])
    }

    fn start_with(story: &str, number: u16, arguments: &[String]) -> Gateway {
        let log = scratch(&format!("gateway-{story}-{number}.log"));
        // One that is started anew goes on in the same log.
        let out = File::options().create(true).append(true).open(&log).expect("the log is created");
        let [listen, link, probes, _] = ports(number).map(|it| format!("127.0.0.1:{it}"));
        let child = Command::new(env!("CARGO_BIN_EXE_tenure"))
            .args(["gateway", "--replica", &format!("gateway-{number}"), "--domain", DOMAIN])
            .args(["--listen", &listen, "--link-listen", &link, "--probes-listen", &probes])
            .args(["--leave-seconds", "1", "--table"])
            .arg(table(story, number))
            .args(files([
                ("--link-certificate", "gateway.crt"),
                ("--link-key", "gateway.key"),
                ("--link-ca", "ca.crt"),
            ]))
            .args(arguments)
            .env("RUST_LOG", "info,tenure=debug")
            .stdout(out.try_clone().expect("a file"))
            .stderr(out)
            .spawn()
            .expect("the gateway starts");
        Gateway { child, number, log, table: table(story, number) }
    }

    /// Waits until it knows its routes.
    pub fn ready(&self) {
        until("the gateway to be ready", || probe(ports(self.number)[2], "/readyz").map(drop));
    }

    /// Where requests go.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], ports(self.number)[0]))
    }

    /// Where requests by TLS go, if it was told to serve them.
    pub fn tls_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], ports(self.number)[3]))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("it logs")
    }

    /// What it keeps on disk.
    pub fn kept(&self) -> String {
        std::fs::read_to_string(&self.table).expect("it keeps its table")
    }

    /// Its metrics.
    pub fn metrics(&self) -> String {
        probe(ports(self.number)[2], "/metrics").unwrap_or_else(|it| panic!("the gateway's metrics: {it}"))
    }

    /// SIGTERM.
    pub fn tell_to_stop(&self) {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "the gateway runs");
    }

    /// Waits until it has ended by itself; how.
    pub fn ended(mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("-- the last lines of gateway {} {}", self.number, last_lines(&self.log));
        }
    }
}
