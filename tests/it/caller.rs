//! Who calls endpoints in the stories of the gateway: single requests, many at once, and streams that the story holds in its
//! hand. In the clear by HTTP/1.1 (gRPC by HTTP/2), by TLS what both sides agree on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};
use futures::SinkExt;
use futures::channel::mpsc;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, TE, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Calls one endpoint at one address. Each request has a connection of its own.
#[derive(Clone)]
pub struct Caller {
    /// A gateway, or a worker.
    pub address: SocketAddr,
    /// The endpoint's host.
    pub host: String,
    /// The key that each request has, if any.
    pub key: Option<String>,
    /// By TLS, whom it trusts and what it offers; absent: in the clear.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a client sees of a connection by TLS.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// What both sides have agreed on by ALPN; empty: nothing.
    pub protocol: String,
    /// The server's certificate.
    pub certificate: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answered {
    /// The status, and the reason if the gateway refused: `200`, `429 at-capacity`.
    pub fn what(&self) -> String {
        let reason = self.headers.get("tenure-reason").and_then(|it| it.to_str().ok());
        let status = self.status.as_u16();
        reason.map_or_else(|| status.to_string(), |it| format!("{status} {it}"))
    }
}

fn text(error: impl std::error::Error) -> String {
    let source = error.source().map(|it| format!(": {it}")).unwrap_or_default();
    format!("{error}{source}")
}

impl Caller {
    /// Calls this host at this address, in the clear and without a key.
    pub fn new(address: SocketAddr, host: String) -> Caller {
        Caller { address, host, key: None, tls: None }
    }

    /// The head of an answer to a GET; the body is still to be read.
    pub async fn open(&self, path: &str) -> Result<Response<Incoming>, String> {
        let request = Request::get(path).header(HOST, &self.host).header(CONNECTION, "close");
        self.send(request.body(Empty::<Bytes>::new()).expect("the request is well-formed")).await
    }

    /// A connection, and what was agreed on if it is by TLS.
    async fn connect(&self) -> Result<(Box<dyn Stream>, Handshake), String> {
        let stream = TcpStream::connect(self.address).await.map_err(|it| format!("connect: {it}"))?;
        let Some(tls) = &self.tls else { return Ok((Box::new(stream), Handshake::default())) };
        let name = ServerName::try_from(self.host.clone()).map_err(text)?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|it| format!("TLS: {it}"))?;
        let agreed = stream.get_ref().1;
        let protocol = String::from_utf8_lossy(agreed.alpn_protocol().unwrap_or_default()).into_owned();
        let certificate = agreed.peer_certificates().and_then(|it| it.first()).map(|it| it.to_vec());
        let handshake = Handshake { protocol, certificate: certificate.unwrap_or_default() };
        Ok((Box::new(stream), handshake))
    }

    /// What a client sees who connects now.
    pub async fn handshake(&self) -> Result<Handshake, String> {
        Ok(self.connect().await?.1)
    }

    async fn send(&self, mut request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
        self.show_key(request.headers_mut());
        let (stream, handshake) = self.connect().await?;
        let no_answer = |it: hyper::Error| format!("no answer: {}", text(it));
        if handshake.protocol == "h2" {
            let uri = format!("https://{}{}", self.host, request.uri());
            *request.uri_mut() = uri.parse().map_err(text)?;
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(CONNECTION);
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
            tokio::spawn(connection);
            return sender.send_request(request).await.map_err(no_answer);
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(no_answer)
    }

    fn show_key(&self, headers: &mut HeaderMap) {
        if let Some(key) = &self.key {
            let value = format!("Bearer {key}").parse().expect("a key is plain text");
            headers.insert(AUTHORIZATION, value);
        }
    }

    /// The whole answer to a GET.
    pub async fn get(&self, path: &str) -> Result<Answered, String> {
        let (head, body) = self.open(path).await?.into_parts();
        let body = body.collect().await.map_err(|it| format!("half an answer: {}", text(it)))?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answered { status: head.status, headers: head.headers, body })
    }

    /// A WebSocket.
    pub async fn socket(&self) -> Result<Socket, String> {
        let request = Request::get("/ws")
            .header(HOST, &self.host)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let request = request.body(Empty::new()).expect("the request is well-formed");
        let answer = self.send(request).await?;
        let accept = answer.headers().get("sec-websocket-accept").map(|it| it.as_bytes().to_vec());
        // The example of RFC 6455, 1.3.
        if accept.as_deref() != Some(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            return Err(format!("no WebSocket: {answer:?}"));
        }
        Ok(Socket(TokioIo::new(hyper::upgrade::on(answer).await.map_err(text)?)))
    }

    /// A bidirectional gRPC call.
    pub async fn grpc(&self) -> Result<Grpc, String> {
        let (stream, handshake) = self.connect().await?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        if self.tls.is_some() && handshake.protocol != "h2" {
            return Err(format!("gRPC by {handshake:?}"));
        }
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(text)?;
        tokio::spawn(connection);
        let (say, said) = mpsc::channel(1);
        let mut request = Request::post(format!("{scheme}://{}/test.Echo/Stream", self.host))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(StreamBody::new(said))
            .expect("the request is well-formed");
        self.show_key(request.headers_mut());
        let answer = sender.send_request(request).await.map_err(text)?;
        if answer.status() != StatusCode::OK || answer.headers().contains_key("grpc-status") {
            return Err(format!("refused: {answer:?}"));
        }
        Ok(Grpc { say, answer: answer.into_body() })
    }
}

/// A WebSocket, as a client has it.
pub struct Socket(TokioIo<Upgraded>);

impl Socket {
    /// Sends a short text and waits for the frame that comes back.
    pub async fn echo(&mut self, words: &str) -> Result<String, String> {
        self.frame(0x81, words.as_bytes()).await.map_err(text)
    }

    /// Closes it as the protocol wants.
    pub async fn close(mut self) -> Result<(), String> {
        self.frame(0x88, &1000_u16.to_be_bytes()).await.map_err(text)?;
        match self.0.read(&mut [0; 1]).await {
            Ok(0) => Ok(()),
            other => Err(format!("more after the end: {other:?}")),
        }
    }

    async fn frame(&mut self, first: u8, payload: &[u8]) -> std::io::Result<String> {
        let length = u8::try_from(payload.len()).ok().filter(|it| *it < 126).expect("a short message");
        // A mask of zeros is one.
        let frame = [&[first, 0x80 | length, 0, 0, 0, 0][..], payload].concat();
        self.0.write_all(&frame).await?;
        self.0.flush().await?;
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await?;
        let mut body = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut body).await?;
        assert_eq!(head[0], first, "the same kind of frame comes back");
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

/// A bidirectional gRPC call, as a client has it.
pub struct Grpc {
    say: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
    answer: Incoming,
}

impl Grpc {
    /// Sends a message and waits for it to come back.
    pub async fn echo(&mut self, words: &str) -> Result<String, String> {
        let length = u32::try_from(words.len()).expect("a short message");
        let message = [&[0][..], &length.to_be_bytes(), words.as_bytes()].concat();
        let whole = message.len();
        self.say.send(Ok(Frame::data(message.into()))).await.map_err(text)?;
        let mut back = Vec::new();
        while back.len() < whole {
            let frame = self.answer.frame().await.ok_or("the answer has ended")?.map_err(text)?;
            back.extend(frame.into_data().map_err(|it| format!("no data: {it:?}"))?);
        }
        let mut back = Bytes::from(back);
        back.advance(5);
        Ok(String::from_utf8_lossy(&back).into_owned())
    }

    /// Has nothing more to say; the status that the answer ends with.
    pub async fn end(mut self) -> Result<String, String> {
        self.say.close_channel();
        let frame = self.answer.frame().await.ok_or("no trailers")?.map_err(text)?;
        let trailers = frame.into_trailers().map_err(|it| format!("no trailers: {it:?}"))?;
        Ok(trailers.get("grpc-status").and_then(|it| it.to_str().ok()).unwrap_or("none").to_owned())
    }
}

/// What came of many requests: how often which answer, or which failure.
pub type Tally = BTreeMap<String, usize>;

/// Callers that ask the same again and again until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    /// So many callers at once.
    pub fn start(runtime: &Runtime, callers: usize, caller: &Caller, path: &'static str) -> Load {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::new())));
        let one = || {
            let (caller, stop, tally) = (caller.clone(), stop.clone(), tally.clone());
            runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let what = caller.get(path).await.map_or_else(|it| it, |it| it.what());
                    let refused = what != "200";
                    *tally.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
                    if refused {
                        // Who is refused does not ask again at once: the machine has two cores.
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                }
            })
        };
        let callers = (0..callers).map(|_| one()).collect();
        Load { stop, tally, callers }
    }

    /// What came of it so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there are so many more answers of this kind.
    pub fn until_more(&self, what: &str, more: usize) {
        let count = |tally: &Tally| tally.get(what).copied().unwrap_or(0);
        let before = count(&self.tally());
        crate::support::until(&format!("{more} more answers `{what}`"), || {
            let tally = self.tally();
            if count(&tally) >= before + more { Ok(()) } else { Err(format!("{tally:?}")) }
        });
    }

    /// Lets every request that is open come to its end; what came of all of them.
    pub fn stop(self, runtime: &Runtime) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            runtime.block_on(caller).expect("a caller ends");
        }
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
