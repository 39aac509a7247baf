//! The worker of the end-to-end tests: an HTTP server that says what it is doing, in one file and on std alone. Called as
//! `pause` it is the program that holds a pod's namespaces.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | 200 and one line: pod, node, requests open now (this one counts) and most at once so far |
//! | `GET /slow?seconds=N` | the same line after N seconds |
//! | `GET /healthz` | 200 once it has loaded (environment `LOAD_SECONDS`), 503 before |
//! | `GET /crash` | none: it exits 1 |
//!
//! While it loads, everything but `/crash` answers 503. On SIGTERM it takes no new connection, finishes the requests it
//! has, and exits 0. Environment: `PORT` (8080), `LOAD_SECONDS` (0), `POD_NAME` (else the host name), `NODE_NAME`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Requests that are answered now, and the most there ever were; `/healthz` does not count.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// Connections that must be served before it may end: new ones, and those with a request.
static BUSY: AtomicUsize = AtomicUsize::new(0);
static ENDING: AtomicBool = AtomicBool::new(false);

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    signals::block();
    if name.ends_with("pause") {
        signals::wait();
        return;
    }
    let began = Instant::now();
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(or);
    let load = Duration::from_secs(number("LOAD_SECONDS", 0));
    let port = number("PORT", 8080) as u16;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
    println!("listening on {port}, ready in {} s", load.as_secs());

    let accepting = std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // The connection that wakes us is the last in the line, so whoever connected before SIGTERM is still served.
            if ENDING.load(SeqCst) && connection.peer_addr().is_ok_and(|it| it.ip().is_loopback()) {
                return;
            }
            BUSY.fetch_add(1, SeqCst);
            std::thread::spawn(move || serve(connection, began + load));
        }
    });

    signals::wait();
    println!("ending: {} requests are open", OPEN.load(SeqCst));
    ENDING.store(true, SeqCst);
    let _wake = TcpStream::connect((Ipv4Addr::LOCALHOST, port));
    accepting.join().ok();
    while BUSY.load(SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("ended");
}

/// Answers the requests of one connection, which is busy until its first answer is out.
fn serve(connection: TcpStream, ready: Instant) {
    let mut busy = Busy(true);
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok();
    connection.set_nodelay(true).ok();
    let Ok(mut out) = connection.try_clone() else { return };
    let mut lines = BufReader::new(connection);
    while let Some((path, keep)) = request(&mut lines) {
        busy.set(true);
        let (status, body) = answer(&path, ready);
        let keep = keep && !ENDING.load(SeqCst);
        let more = if keep { "keep-alive" } else { "close" };
        let text = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {more}\r\n\r\n{body}", body.len());
        if out.write_all(text.as_bytes()).is_err() || !keep {
            return;
        }
        busy.set(false);
        lines.get_ref().set_read_timeout(None).ok();
    }
}

/// Reads one request with its body; its path, and whether the connection may stay.
fn request(lines: &mut BufReader<TcpStream>) -> Option<(String, bool)> {
    let mut first = String::new();
    lines.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let path = first.split_whitespace().nth(1)?.to_owned();
    let (mut keep, mut length) = (first.trim_end().ends_with("HTTP/1.1"), 0);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim().to_ascii_lowercase();
        match line.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().ok()?,
            Some(("connection", value)) if value.trim() == "close" => keep = false,
            // A body of unknown length is not read: the connection ends with the answer.
            Some(("transfer-encoding", _)) => keep = false,
            Some(_) => (),
        }
    }
    std::io::copy(&mut lines.take(length), &mut std::io::sink()).ok()?;
    Some((path, keep))
}

fn answer(path: &str, ready: Instant) -> (&'static str, String) {
    let loaded = Instant::now() >= ready;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match path {
        "/crash" => std::process::exit(1),
        _ if !loaded => ("503 Service Unavailable", "loading\n".to_owned()),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/" => ("200 OK", counted(Duration::ZERO)),
        "/slow" => match query.strip_prefix("seconds=").and_then(|it| it.parse().ok()).map(Duration::try_from_secs_f64) {
            Some(Ok(hold)) => ("200 OK", counted(hold)),
            _ => ("400 Bad Request", "usage: /slow?seconds=N\n".to_owned()),
        },
        _ => ("404 Not Found", "unknown: try /, /slow?seconds=N, /healthz, /crash\n".to_owned()),
    }
}

/// Counts as open for so long, then says what it saw.
fn counted(hold: Duration) -> String {
    let open = OPEN.fetch_add(1, SeqCst) + 1;
    MOST.fetch_max(open, SeqCst);
    std::thread::sleep(hold);
    let variable = |name: &str, or: &str| std::env::var(name).or_else(|_| std::env::var(or)).unwrap_or_else(|_| "-".to_owned());
    let open = OPEN.fetch_sub(1, SeqCst);
    format!("pod={} node={} open={open} most={}\n", variable("POD_NAME", "HOSTNAME"), variable("NODE_NAME", ""), MOST.load(SeqCst))
}

/// Is this connection one that must be served before the end?
struct Busy(bool);

impl Busy {
    fn set(&mut self, busy: bool) {
        match (self.0, busy) {
            (false, true) => _ = BUSY.fetch_add(1, SeqCst),
            (true, false) => _ = BUSY.fetch_sub(1, SeqCst),
            _ => (),
        }
        self.0 = busy;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// std has no signals. This fixture asks libc for them; the product itself forbids `unsafe`.
mod signals {
    /// glibc's `sigset_t` is 128 bytes on Linux.
    #[repr(C, align(8))]
    struct Set([u8; 128]);

    const INTERRUPT: i32 = 2;
    const TERMINATE: i32 = 15;
    const CHILD: i32 = 17;
    const SIG_BLOCK: i32 = 0;
    const SIG_IGN: usize = 1;

    unsafe extern "C" {
        fn sigemptyset(set: *mut Set) -> i32;
        fn sigaddset(set: *mut Set, signal: i32) -> i32;
        fn pthread_sigmask(how: i32, set: *const Set, old: *mut Set) -> i32;
        fn sigwait(set: *const Set, signal: *mut i32) -> i32;
        fn signal(signal: i32, handler: usize) -> usize;
    }

    fn set() -> Set {
        let mut set = Set([0; 128]);
        // SAFETY: the set is ours and as large as libc's.
        unsafe {
            sigemptyset(&mut set);
            sigaddset(&mut set, INTERRUPT);
            sigaddset(&mut set, TERMINATE);
        }
        set
    }

    /// Keeps SIGINT and SIGTERM for `wait`, in this thread and in those it starts. The kernel drops signals that process 1
    /// has no handler for, but never blocked ones. Children end by themselves, so that `pause` may be everybody's parent.
    pub fn block() {
        // SAFETY: libc reads the set and writes nothing; SIG_IGN is no pointer.
        unsafe {
            pthread_sigmask(SIG_BLOCK, &set(), std::ptr::null_mut());
            signal(CHILD, SIG_IGN);
        }
    }

    /// Waits for SIGINT or SIGTERM.
    pub fn wait() {
        let mut which = 0;
        // SAFETY: both are ours; libc writes the signal's number.
        unsafe { sigwait(&set(), &mut which) };
    }
}
