//! The worker of the end-to-end tests: a server that says what it is doing. It speaks HTTP/1.1, and HTTP/2 by prior knowledge.
//! Called as `pause` it is the program that holds a pod's namespaces.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | 200 and one line: pod, node, requests open now (this one counts) and most at once so far |
//! | `GET /slow?seconds=N` | the same line after N seconds |
//! | `GET /most` | the same line; not counted itself |
//! | `GET /healthz` | 200 once it has loaded (environment `LOAD_SECONDS`), 503 before; not counted |
//! | `GET /stream?chunks=N&gap_ms=M` | N lines, one every M ms |
//! | `GET /events?count=N&gap_ms=M` | the same as server-sent events |
//! | `GET /ws` | a WebSocket that echoes messages |
//! | `POST /echo` | the request's body as it comes, then trailers: `echo-bytes`, and `echo-trailers`: the request's |
//! | any path, gRPC | the request's messages as they come, then `grpc-status: 0` |
//! | `GET /v1/models`, `POST /v1/chat/completions` | as OpenAI's API: it says again what the last message said, also as a stream |
//! | `GET /hang` | none, for ever |
//! | `GET /crash` | none: it exits 1 |
//!
//! A request is open from its head until its answer is sent or its connection is gone. While the worker loads, everything but
//! `/crash` answers 503. On SIGTERM it takes no new connection, finishes the requests it has, and exits 0. Environment: `PORT`
//! (8080), `LOAD_SECONDS` (0), `POD_NAME` (else the host name), `NODE_NAME`.
//!
//! All is done in one thread: a request that has ended is so before its last byte leaves, and who has read that byte never
//! finds it counted.

use std::convert::Infallible;
use std::io::Cursor;
use std::net::Ipv4Addr;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a new connection may say nothing.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// The longest WebSocket message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Requests that are open now, and the most there ever were.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

type Answer = Response<Counted>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let name = std::env::args().next().unwrap_or_default();
    if name.ends_with("pause") {
        return hold().await;
    }
    let load = Duration::from_secs(variable("LOAD_SECONDS").and_then(|it| it.parse().ok()).unwrap_or(0));
    let port: u16 = variable("PORT").and_then(|it| it.parse().ok()).unwrap_or(8080);
    let worker =
        Worker { ready: Instant::now() + load, ending: CancellationToken::new(), tasks: TaskTracker::new() };
    let mut told = Told::new();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.expect("the port is free");
    println!("listening on {port}, ready in {} s", load.as_secs());
    loop {
        tokio::select! {
            biased;
            () = told.hears_the_end() => break,
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                worker.tasks.spawn(worker.clone().connection(stream));
            },
        }
    }
    println!("ending: {} requests are open", OPEN.load(SeqCst));
    // Whoever connected before SIGTERM is still served.
    let listener = listener.into_std().expect("the listener is left");
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            worker.tasks.spawn(worker.clone().connection(stream));
        }
    }
    drop(listener);
    worker.ending.cancel();
    worker.tasks.close();
    worker.tasks.wait().await;
    println!("ended");
}

/// What `pause` does: it waits, and is the parent of whoever has lost his own.
async fn hold() {
    let mut told = Told::new();
    let mut ended = signal(SignalKind::child()).expect("signals can be heard");
    loop {
        tokio::select! {
            () = told.hears_the_end() => return,
            _ = ended.recv() => while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {},
        }
    }
}

/// Hears SIGTERM and SIGINT: process 1 has no handlers by default.
struct Told {
    terminate: Signal,
    interrupt: Signal,
}

impl Told {
    fn new() -> Told {
        let hear = |kind| signal(kind).expect("signals can be heard");
        Told { terminate: hear(SignalKind::terminate()), interrupt: hear(SignalKind::interrupt()) }
    }

    async fn hears_the_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Worker {
    ready: Instant,
    ending: CancellationToken,
    /// Connections and WebSockets: what it waits for before it ends.
    tasks: TaskTracker,
}

impl Worker {
    /// Serves one connection: to its end, or until its requests are answered once the worker ends.
    async fn connection(self, mut stream: TcpStream) {
        stream.set_nodelay(true).ok();
        let mut first = [0; 3];
        if !matches!(timeout(FIRST_BYTES_WITHIN, stream.read_exact(&mut first)).await, Ok(Ok(_))) {
            return;
        }
        let (reads, writes) = stream.into_split();
        let io = TokioIo::new(tokio::io::join(Cursor::new(first).chain(reads), writes));
        let ending = self.ending.clone();
        let service = service_fn(move |request| {
            let worker = self.clone();
            async move { Ok::<_, Infallible>(worker.answer(request).await) }
        });
        // Polled before it is told to end: hyper would close a connection on which it has read nothing.
        if first == *b"PRI" {
            let mut serving = pin!(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
            tokio::select! {
                biased;
                _ = serving.as_mut() => return,
                () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            serving.await.ok();
        } else {
            let mut serving = pin!(http1::Builder::new().serve_connection(io, service).with_upgrades());
            tokio::select! {
                biased;
                _ = serving.as_mut() => return,
                () = ending.cancelled() => serving.as_mut().graceful_shutdown(),
            }
            serving.await.ok();
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let loaded = Instant::now() >= self.ready;
        match path.as_str() {
            "/crash" => std::process::exit(1),
            _ if !loaded => return words(StatusCode::SERVICE_UNAVAILABLE, "loading\n", None),
            "/healthz" => return words(StatusCode::OK, "ok\n", None),
            "/most" => return words(StatusCode::OK, line(), None),
            _ => (),
        }
        let open = Open::new();
        if request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
        {
            return grpc(request.into_body(), open);
        }
        let query = request.uri().query().unwrap_or_default();
        let gap = Duration::from_millis(number(query, "gap_ms").unwrap_or(0));
        let hold = number(query, "seconds").map(Duration::try_from_secs_f64);
        let (chunks, count) = (number::<u64>(query, "chunks"), number::<u64>(query, "count"));
        match path.as_str() {
            "/echo" => return echo(request.into_body(), open),
            "/ws" => return self.socket(request, open),
            "/hang" => return std::future::pending().await,
            "/v1/chat/completions" => return chat(request.into_body(), gap, open).await,
            _ => (),
        }
        // A connection is only good for the next request when the body of this one is read.
        if read(request.into_body()).await.is_none() {
            return words(StatusCode::BAD_REQUEST, "the body broke off\n", Some(open));
        }
        match (path.as_str(), hold, chunks, count) {
            ("/", ..) => words(StatusCode::OK, line(), Some(open)),
            ("/slow", Some(Ok(hold)), ..) => {
                sleep(hold).await;
                words(StatusCode::OK, line(), Some(open))
            }
            ("/stream", _, Some(chunks), _) => {
                pieces("text/plain", gap, (0..chunks).map(|at| format!("chunk {at}\n")), open)
            }
            ("/events", _, _, Some(count)) => pieces(
                "text/event-stream",
                gap,
                (0..count).map(|at| format!("id: {at}\ndata: event {at}\n\n")),
                open,
            ),
            ("/v1/models", ..) => {
                let list = r#"{"object":"list","data":[{"id":"echo","object":"model","created":0,"owned_by":"tenure"}]}"#;
                full(StatusCode::OK, "application/json", list.to_owned(), Some(open))
            }
            ("/slow" | "/stream" | "/events", ..) => {
                let usage = "usage: /slow?seconds=N, /stream?chunks=N&gap_ms=M, /events?count=N&gap_ms=M\n";
                words(StatusCode::BAD_REQUEST, usage, Some(open))
            }
            _ => words(StatusCode::NOT_FOUND, "unknown: e2e/worker/worker.rs has the list\n", Some(open)),
        }
    }

    /// Switches to WebSocket (RFC 6455, 4.2.2).
    fn socket(self, request: Request<Incoming>, open: Open) -> Answer {
        let Some(key) = request.headers().get("sec-websocket-key").cloned() else {
            return words(StatusCode::BAD_REQUEST, "usage: a WebSocket's handshake\n", Some(open));
        };
        let text = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
        let accept = base64(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &text).as_ref());
        self.tasks.spawn(async move {
            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                converse(TokioIo::new(upgraded)).await.ok();
            }
            drop(open);
        });
        let mut answer = words(StatusCode::SWITCHING_PROTOCOLS, "", None);
        let headers = answer.headers_mut();
        headers.clear();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            "sec-websocket-accept",
            HeaderValue::from_str(&accept).expect("base64 is a header's value"),
        );
        answer
    }
}

/// A request that is open; until it is dropped.
struct Open;

impl Open {
    fn new() -> Open {
        let open = OPEN.fetch_add(1, SeqCst) + 1;
        MOST.fetch_max(open, SeqCst);
        Open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, SeqCst);
    }
}

/// A body whose request is open until hyper has taken its last piece, or has lost its connection.
struct Counted {
    body: UnsyncBoxBody<Bytes, hyper::Error>,
    _open: Option<Open>,
}

impl Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What it is doing.
fn line() -> String {
    let pod = variable("POD_NAME").or_else(|| variable("HOSTNAME"));
    let or_none = |it: Option<String>| it.unwrap_or_else(|| "-".to_owned());
    let (pod, node) = (or_none(pod), or_none(variable("NODE_NAME")));
    format!("pod={pod} node={node} open={} most={}\n", OPEN.load(SeqCst), MOST.load(SeqCst))
}

/// A number of a query.
fn number<T: FromStr>(query: &str, name: &str) -> Option<T> {
    let pairs = query.split('&').filter_map(|it| it.split_once('='));
    pairs.filter(|(it, _)| *it == name).find_map(|(_, value)| value.parse().ok())
}

fn words(status: StatusCode, text: impl Into<String>, open: Option<Open>) -> Answer {
    full(status, "text/plain", text.into(), open)
}

fn full(status: StatusCode, kind: &'static str, text: String, open: Option<Open>) -> Answer {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    typed(status, kind, Counted { body, _open: open })
}

fn typed(status: StatusCode, kind: &'static str, body: Counted) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn streamed(
    kind: &'static str,
    frames: impl Stream<Item = Result<Frame<Bytes>, hyper::Error>> + Send + 'static,
    open: Open,
) -> Answer {
    let body = BodyExt::boxed_unsync(StreamBody::new(frames));
    typed(StatusCode::OK, kind, Counted { body, _open: Some(open) })
}

/// Text in pieces, with a gap before each but the first.
fn pieces(
    kind: &'static str,
    gap: Duration,
    texts: impl Iterator<Item = String> + Send + 'static,
    open: Open,
) -> Answer {
    let frames = stream::iter(texts.enumerate()).then(move |(at, text)| async move {
        if at > 0 && !gap.is_zero() {
            sleep(gap).await;
        }
        Ok(Frame::data(Bytes::from(text)))
    });
    streamed(kind, frames, open)
}

/// All of a body, or `None` if it breaks off.
async fn read(body: Incoming) -> Option<Bytes> {
    Some(body.collect().await.ok()?.to_bytes())
}

/// The body as it comes, then trailers.
fn echo(body: Incoming, open: Open) -> Answer {
    let seen = (BodyStream::new(body), 0, Vec::new(), false);
    let frames = stream::try_unfold(seen, |(mut body, mut bytes, mut trailers, ended)| async move {
        if ended {
            return Ok(None);
        }
        while let Some(frame) = body.try_next().await? {
            match frame.into_data() {
                Ok(data) => {
                    bytes += data.len();
                    return Ok(Some((Frame::data(data), (body, bytes, trailers, false))));
                }
                Err(frame) => {
                    for (name, value) in &frame.into_trailers().unwrap_or_default() {
                        trailers.push(format!("{name}={}", value.to_str().unwrap_or("?")));
                    }
                }
            }
        }
        let mut last = HeaderMap::new();
        last.insert("echo-bytes", HeaderValue::from(bytes));
        let said = HeaderValue::from_str(&trailers.join(" "));
        last.insert("echo-trailers", said.expect("it is made of headers' values"));
        Ok(Some((Frame::trailers(last), (body, bytes, trailers, true))))
    });
    let mut answer = streamed("application/octet-stream", frames, open);
    // HTTP/1 only sends those that are announced.
    answer.headers_mut().insert(TRAILER, HeaderValue::from_static("echo-bytes, echo-trailers"));
    answer
}

/// The messages as they come: they are framed in the body, and the body is not looked into.
fn grpc(body: Incoming, open: Open) -> Answer {
    let data = BodyStream::new(body).try_filter_map(|it| async { Ok(it.into_data().ok().map(Frame::data)) });
    let mut last = HeaderMap::new();
    last.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = data.chain(stream::once(async { Ok(Frame::trailers(last)) }));
    streamed("application/grpc", frames, open)
}

/// A chat's answer: what its last message said.
async fn chat(body: Incoming, gap: Duration, open: Open) -> Answer {
    let asked = read(body).await.and_then(|it| serde_json::from_slice::<serde_json::Value>(&it).ok());
    let last = asked.as_ref().and_then(|it| it["messages"].as_array()?.last()?["content"].as_str());
    let (Some(asked), Some(said)) = (&asked, last) else {
        let error = r#"{"error":{"message":"no messages","type":"invalid_request_error","param":"messages","code":null}}"#;
        return full(StatusCode::BAD_REQUEST, "application/json", error.to_owned(), Some(open));
    };
    let object = |kind: &str, choice: serde_json::Value| serde_json::json!({"id": "chatcmpl-1", "object": kind, "created": 0, "model": "echo", "choices": [choice]});
    if asked["stream"].as_bool() != Some(true) {
        let message = serde_json::json!({"role": "assistant", "content": said});
        let mut whole = object(
            "chat.completion",
            serde_json::json!({"index": 0, "message": message, "finish_reason": "stop"}),
        );
        whole["usage"] = serde_json::json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
        return full(StatusCode::OK, "application/json", whole.to_string(), Some(open));
    }
    let piece = |delta: serde_json::Value, reason: Option<&str>| {
        let choice = serde_json::json!({"index": 0, "delta": delta, "finish_reason": reason});
        format!("data: {}\n\n", object("chat.completion.chunk", choice))
    };
    let mut events = vec![piece(serde_json::json!({"role": "assistant", "content": ""}), None)];
    events.extend(said.split_inclusive(' ').map(|it| piece(serde_json::json!({"content": it}), None)));
    events.push(piece(serde_json::json!({}), Some("stop")));
    events.push("data: [DONE]\n\n".to_owned());
    pieces("text/event-stream", gap, events.into_iter(), open)
}

/// Echoes a WebSocket's frames (RFC 6455, 5.2) until the client closes it.
async fn converse(mut socket: TokioIo<Upgraded>) -> std::io::Result<()> {
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;
    loop {
        let [first, second] = socket.read_u16().await?.to_be_bytes();
        let length = match second & 0x7f {
            126 => u64::from(socket.read_u16().await?),
            127 => socket.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 || length > MESSAGE_BYTES_MAX {
            return Err(std::io::Error::other("a frame without a mask, or too long"));
        }
        let mut mask = [0; 4];
        socket.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        socket.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        let kind = first & 0x0f;
        if kind == PONG {
            continue;
        }
        let mut frame = vec![if kind == PING { first & 0xf0 | PONG } else { first }];
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..126), _) => frame.push(short),
            (_, Ok(middle)) => {
                frame.push(126);
                frame.extend(middle.to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(payload);
        socket.write_all(&frame).await?;
        socket.flush().await?;
        if kind == CLOSE {
            return socket.shutdown().await;
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = three.iter().fold(0, |sum, it| sum << 8 | usize::from(*it)) << (8 * (3 - three.len()));
        let digit =
            |at: usize| if at <= three.len() { char::from(DIGITS[bits >> (18 - 6 * at) & 63]) } else { '=' };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}
