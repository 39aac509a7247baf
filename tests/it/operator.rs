//! The real operator binary as a process of the tests, with the operator's own rights.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::support::{k, kubectl, until};

/// A running operator; killed when it is dropped.
pub struct Operator {
    child: Child,
    /// The port of its probes.
    pub port: u16,
    log: PathBuf,
}

/// How to start one.
pub struct Start<'a> {
    /// Its identity. A process that is started again with the same one need not wait for the lease.
    pub identity: &'a str,
    /// Where its lease is: operators with different namespaces both lead.
    pub lease_namespace: &'a str,
    /// Its kubeconfig; absent: the API server itself, as the operator's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// Its ledger; absent: the one that all stories share.
    pub ledger: Option<PathBuf>,
    /// What else stands on its command line.
    pub arguments: Vec<String>,
}

impl Default for Start<'_> {
    fn default() -> Self {
        Start {
            identity: "test",
            lease_namespace: "tenure-system",
            kubeconfig: None,
            ledger: None,
            arguments: Vec::new(),
        }
    }
}

/// What every test on the cluster needs: kinds, rights, policies. Once per run.
pub fn install() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cluster");
        kubectl(&["apply", "--server-side", "--force-conflicts", "-k", config])
            .expect("config/cluster applies");
        k("wait --for=condition=Established crd --all --timeout=60s").expect("the kinds are served");
    });
}

/// A file of this run, apart from that of another one against another cluster at the same time.
pub fn scratch(name: &str) -> PathBuf {
    let cluster = std::env::var("TENURE_CLUSTER").unwrap_or_default();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(cluster);
    std::fs::create_dir_all(&folder).expect("a folder under target/ can be made");
    folder.join(name)
}

/// A kubeconfig with the rights of the operator's ServiceAccount. Made once per run.
pub fn kubeconfig() -> PathBuf {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    ONCE.get_or_init(|| {
        install();
        let path = scratch("operator.kubeconfig");
        let status = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/operator-kubeconfig"))
            .arg(&path)
            .status()
            .expect("bash runs");
        assert!(status.success(), "the kubeconfig is written");
        path
    })
    .clone()
}

impl Operator {
    /// Starts one and waits until it is ready.
    pub fn start(story: &str) -> Operator {
        Operator::with(story, &Start::default())
    }

    /// Starts one in a certain way and waits until it is ready.
    pub fn with(story: &str, start: &Start) -> Operator {
        static PORT: AtomicU16 = AtomicU16::new(18_100);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let kubeconfig = start.kubeconfig.clone().unwrap_or_else(kubeconfig);
        let ledger = start.ledger.clone().unwrap_or_else(|| scratch("ledger.db"));
        let name = format!("operator-{story}-{}.log", NUMBER.fetch_add(1, Ordering::Relaxed));
        let log = scratch(&name);
        let out = File::create(&log).expect("the log is created");
        let child = Command::new(env!("CARGO_BIN_EXE_tenure"))
            .args(["operator", "--identity", start.identity, "--lease-namespace", start.lease_namespace])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--read-address", &read_address(port)])
            .args(["--ledger", &format!("sqlite:{}", ledger.display())])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(&start.arguments)
            .env("RUST_LOG", "info,tenure=debug")
            .stdout(out.try_clone().expect("a file"))
            .stderr(out)
            .spawn()
            .expect("the operator starts");
        let operator = Operator { child, port, log };
        until("the operator to be ready", || operator.get("/readyz").map(drop));
        operator
    }

    /// Waits until it holds the lease.
    pub fn leads(&self) {
        until("the operator to lead", || match self.get("/metrics") {
            Ok(metrics) if metrics.lines().any(|it| it == "tenure_leads 1") => Ok(()),
            other => Err(format!("{:?}", other.map(|_| "no lease"))),
        });
    }

    /// The body of a probe's answer; an answer other than 200 is an error.
    pub fn get(&self, path: &str) -> Result<String, String> {
        probe(self.port, path)
    }

    /// SIGTERM; how it ended.
    pub fn stop(mut self) -> std::process::ExitStatus {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill runs");
        self.child.wait().expect("it ends")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ended by itself, or been killed by somebody?
    pub fn is_gone(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_some()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("-- the operator's last lines {}", last_lines(&self.log));
        }
    }
}

/// Where the read API is of the operator with this port for probes.
pub fn read_address(port: u16) -> String {
    format!("127.0.0.1:{}", port + 1_000)
}

/// The body of the answer on a port for probes; an answer other than 200 is an error.
pub fn probe(port: u16, path: &str) -> Result<String, String> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let output =
        Command::new("curl").args(["-fsS", "--max-time", "5", &url]).output().map_err(|it| it.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// How a log ends, and where it is.
pub fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("({}):\n{}", log.display(), lines[lines.len().saturating_sub(40)..].join("\n"))
}
