//! The access log: one line of JSON for each request, for who asks for it.
//!
//! A request never waits for it. What is known is put down as it becomes known, and when the answer's last byte has gone to hyper,
//! or nobody wants it any more, it goes to a thread of its own by a queue with room for so many; what finds no room is counted
//! and left out. Of what a client sends it shows only what cannot be a secret: no query, and of headers those below.

use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Version};
use jiff::Timestamp;
use prometheus::{IntCounter, Registry};
use serde::Serialize;
use tokio::time::Instant;

use crate::gateway::edge::{Connection, REFUSED};
use crate::gateway::headers::REQUEST_ID;
use crate::link::message::EndpointKey;

/// Lines that may wait to be written, each of some KB at most.
pub const MOST_WAITING: usize = 4096;
/// A text of a client's is cut after so many bytes.
const MOST_TEXT_BYTES: usize = 1024;
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// What a client that left before it had an answer is shown with, as nginx does.
const CLIENT_LEFT: (u16, &str) = (499, "client-left");

enum Message {
    Line(Box<Line>),
    /// All that came before is to be written, and then said so.
    Flush(SyncSender<()>),
}

/// Where the lines go.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    dropped: IntCounter,
    now: fn() -> Timestamp,
}

/// A line, as it is written. Names are those of Envoy's JSON logs where it has the same thing.
#[derive(Serialize)]
struct Line {
    start_time: Timestamp,
    downstream_remote_address: String,
    protocol: &'static str,
    method: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    trace_id: Option<String>,
    namespace: Option<String>,
    endpoint: Option<String>,
    upstream_host: Option<SocketAddr>,
    response_code: u16,
    response_code_details: &'static str,
    bytes_sent: u64,
    /// Did the answer come to its end?
    complete: bool,
    queue_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    duration_ms: f64,
}

/// What is known of a request so far. When it is dropped, the request is over.
pub struct Note {
    /// Until it is handed over.
    line: Option<Box<Line>>,
    arrived: Instant,
    log: AccessLog,
}

impl AccessLog {
    /// Begins to write to `out`, in a thread of its own, with room for so many lines that wait.
    pub fn start(
        out: impl Write + Send + 'static,
        room: usize,
        now: fn() -> Timestamp,
        registry: &Registry,
    ) -> Result<AccessLog, prometheus::Error> {
        let dropped = IntCounter::new(
            "tenure_gateway_access_log_dropped_total",
            "Lines of the access log that were left out: they came faster than they could be written.",
        )?;
        registry.register(Box::new(dropped.clone()))?;
        let (queue, lines) = sync_channel(room);
        let lost = dropped.clone();
        std::thread::spawn(move || write_all(BufWriter::new(out), &lines, &lost));
        Ok(AccessLog { queue, dropped, now })
    }

    /// A request has come.
    pub fn begin<B>(&self, connection: &Connection, request: &Request<B>, arrived: Instant) -> Box<Note> {
        // What hyper was given instead of a bad request says nothing of that one.
        let good = request.method().as_str() != REFUSED;
        let headers = request.headers();
        let host = request.uri().authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| headers.get(HOST).and_then(|it| it.to_str().ok()));
        // A password is no part of a host. Such a request is refused, but not before it is seen here.
        let host = host.and_then(|it| it.rsplit('@').next());
        let line = Line {
            start_time: (self.now)(),
            downstream_remote_address: connection.address.to_str().unwrap_or_default().to_owned(),
            protocol: protocol(request.version()),
            method: good.then(|| cut(request.method().as_str())),
            authority: host.filter(|_| good).map(cut),
            path: good.then(|| cut(request.uri().path())),
            user_agent: text(headers, &USER_AGENT),
            request_id: text(headers, &REQUEST_ID),
            trace_id: headers.get(&TRACE_PARENT).and_then(trace_id),
            namespace: None,
            endpoint: None,
            upstream_host: None,
            response_code: CLIENT_LEFT.0,
            response_code_details: CLIENT_LEFT.1,
            bytes_sent: 0,
            complete: false,
            queue_ms: None,
            first_byte_ms: None,
            duration_ms: 0.0,
        };
        Box::new(Note { line: Some(Box::new(line)), arrived, log: self.clone() })
    }

    /// Waits until what has come so far is written, but not for long.
    pub fn flush(&self, at_most: Duration) {
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        let began = Instant::now();
        while let Err(TrySendError::Full(again)) = self.queue.try_send(message) {
            if began.elapsed() > at_most {
                return;
            }
            message = again;
            std::thread::sleep(Duration::from_millis(10));
        }
        let (Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) =
            written.recv_timeout(at_most);
    }
}

impl Note {
    /// It is for this endpoint.
    pub fn endpoint(&mut self, endpoint: &EndpointKey) {
        if let Some(line) = &mut self.line {
            line.namespace = Some(endpoint.namespace.clone());
            line.endpoint = Some(endpoint.name.clone());
        }
    }

    /// It goes to a worker, with these headers.
    pub fn sent(&mut self, worker: SocketAddr, headers: &HeaderMap, now: Instant) {
        let waited = self.since(now);
        if let Some(line) = &mut self.line {
            line.upstream_host = Some(worker);
            line.queue_ms = Some(waited);
            line.request_id = text(headers, &REQUEST_ID);
        }
    }

    /// The head of its answer is there: the worker's, or ours for this reason.
    pub fn answered(&mut self, status: StatusCode, refused: Option<&'static str>) {
        let after = self.since(Instant::now());
        if let Some(line) = &mut self.line {
            line.response_code = status.as_u16();
            line.response_code_details = refused.unwrap_or("via_upstream");
            line.first_byte_ms = Some(after);
            // Nobody asks for the body of such an answer.
            line.complete = line.method.as_deref() == Some("HEAD");
        }
    }

    /// So much of its answer's body has gone to the client's connection.
    pub fn passed(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.bytes_sent += bytes as u64;
        }
    }

    /// The answer's body has come to its end.
    pub fn complete(&mut self) {
        if let Some(line) = &mut self.line {
            line.complete = true;
        }
    }

    /// Milliseconds from its arrival. Microseconds are exact enough, and shorter to read.
    fn since(&self, now: Instant) -> f64 {
        (now.saturating_duration_since(self.arrived).as_secs_f64() * 1e6).round() / 1e3
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let duration = self.since(Instant::now());
        let Some(mut line) = self.line.take() else { return };
        line.duration_ms = duration;
        if self.log.queue.try_send(Message::Line(line)).is_err() {
            self.log.dropped.inc();
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn cut(text: &str) -> String {
    let end = (0..=MOST_TEXT_BYTES.min(text.len())).rev().find(|it| text.is_char_boundary(*it)).unwrap_or(0);
    text[..end].to_owned()
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|it| cut(&String::from_utf8_lossy(it.as_bytes())))
}

/// The trace of a `traceparent`: `VERSION-TRACE-PARENT-FLAGS`, all in hex.
fn trace_id(header: &HeaderValue) -> Option<String> {
    let trace = header.to_str().ok()?.split('-').nth(1)?;
    (trace.len() == 32 && trace.bytes().all(|it| it.is_ascii_hexdigit())).then(|| trace.to_owned())
}

/// Writes until nobody can send any more. What has been written is flushed whenever nothing more waits.
fn write_all(mut out: BufWriter<impl Write>, lines: &Receiver<Message>, lost: &IntCounter) {
    let (mut well, mut bytes) = (true, Vec::new());
    loop {
        let message = match lines.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                well = told(&out.flush(), well);
                let Ok(message) = lines.recv() else { return };
                message
            }
        };
        match message {
            Message::Line(line) => {
                let written = write(&mut out, &mut bytes, &line);
                if written.is_err() {
                    lost.inc();
                }
                well = told(&written, well);
            }
            Message::Flush(done) => {
                well = told(&out.flush(), well);
                // Who has stopped waiting need not know.
                let _ = done.send(());
            }
        }
    }
}

/// Writes a line in one piece: on a disk that is full there are no halves of lines. `bytes` is only there to be used again.
fn write(out: &mut impl Write, bytes: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    bytes.clear();
    serde_json::to_writer(&mut *bytes, line)?;
    bytes.push(b'\n');
    out.write_all(bytes)
}

/// Says once that it can't be written, until it can again.
fn told(written: &io::Result<()>, was_well: bool) -> bool {
    if let (Err(error), true) = (written, was_well) {
        tracing::warn!(%error, "the access log is not written");
    }
    written.is_ok()
}
