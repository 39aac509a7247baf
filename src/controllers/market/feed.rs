//! A price from an HTTP address: one GET, with an end to its time and its length. What is no price is an error in words, which does
//! not say what was answered. The address that was looked at is the one that is connected to (`notify::addresses`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;
use ipnet::IpNet;
use rust_decimal::Decimal;
use tokio_rustls::rustls::crypto::ring;
use tower::Service;

use crate::domain::market::price;
use crate::notify::addresses::{is_allowed, refused};

/// From the first packet to the last byte.
const WITHIN: Duration = Duration::from_secs(10);
/// A connection must be there after this.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A price has a few bytes; this is more than anybody needs around it.
const MOST_BYTES: usize = 4_096;

type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Empty<Bytes>>;

/// Reads feeds.
pub(super) struct Client {
    /// Made when the first one is read.
    http: OnceLock<Result<Http, String>>,
    /// Networks that would be refused otherwise.
    allowed: Arc<[IpNet]>,
}

impl Client {
    /// `allowed`: networks that would be refused otherwise.
    pub(super) fn new(allowed: Vec<IpNet>) -> Client {
        Client { http: OnceLock::new(), allowed: allowed.into() }
    }

    /// The price at an address.
    pub(super) async fn read(&self, url: &str) -> Result<Decimal, String> {
        let uri: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
        // What is an address already is not looked up.
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse() {
            check(&self.allowed, address)?;
        }
        let http = self.http.get_or_init(|| connect(self.allowed.clone())).as_ref().map_err(Clone::clone)?;
        tokio::time::timeout(WITHIN, get(http, uri))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())))
    }
}

/// May a feed be there?
fn check(allowed: &[IpNet], address: IpAddr) -> Result<(), String> {
    match refused(address) {
        Some(why) if !is_allowed(allowed, address) => Err(format!(
            "{address} {why}: feeds are read there only when the operator's --notify-allow names it"
        )),
        Some(_) | None => Ok(()),
    }
}

/// Looks names up, and refuses those that mean an address that may not be read.
#[derive(Clone)]
struct Resolver(Arc<[IpNet]>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            for address in &found {
                check(&allowed, address.ip()).map_err(io::Error::other)?;
            }
            Ok(found.into_iter())
        })
    }
}

/// Roots are the system's. Without any, http is still possible.
fn connect(allowed: Arc<[IpNet]>) -> Result<Http, String> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver(allowed));
    tcp.set_connect_timeout(Some(CONNECT_WITHIN));
    tcp.enforce_http(false);
    let builder = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(ring::default_provider())
        .map_err(|it| format!("the system's certificates can't be read: {it}"))?;
    let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
    // A connection a minute is not worth keeping.
    let mut client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    Ok(client.pool_max_idle_per_host(0).build(connector))
}

async fn get(http: &Http, uri: Uri) -> Result<Decimal, String> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(uri)
        .header(header::USER_AGENT, "tenure")
        .header(header::ACCEPT, "application/json, text/plain")
        .body(Empty::new())
        .map_err(|it| it.to_string())?;
    let response = http.request(request).await.map_err(|it| with_causes(&it))?;
    // A redirect is not followed: the address is what the market says.
    if response.status() != http::StatusCode::OK {
        return Err(format!("it answers {}", response.status()));
    }
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await;
    let body = body.map_err(|it| match it.downcast_ref::<http_body_util::LengthLimitError>() {
        Some(_) => format!("its answer has more than {MOST_BYTES} bytes"),
        None => with_causes(&*it),
    })?;
    read(&body.to_bytes())
}

/// `2.10`, or `{"price": "2.10"}` with whatever else.
fn read(body: &[u8]) -> Result<Decimal, String> {
    let no_price = || {
        "its answer is no price: it must be a number above zero, such as 2.10, or JSON such as {\"price\": \"2.10\"}"
            .to_owned()
    };
    let text = std::str::from_utf8(body).map_err(|_| no_price())?.trim();
    if !text.starts_with('{') {
        return price::read(text).ok_or_else(no_price);
    }
    let object: serde_json::Value = serde_json::from_str(text).map_err(|_| no_price())?;
    object.get("price").and_then(|it| it.as_str()).and_then(price::read).ok_or_else(no_price)
}

/// hyper's errors say little; what is behind them does.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// One that may read from this machine.
    fn client() -> Client {
        Client::new(vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()])
    }

    /// Serves one answer, and says what becomes of it.
    async fn served(answer: &str) -> Result<Decimal, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ada", listener.local_addr().unwrap());
        let answer = answer.to_owned();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 1_024];
            let read = socket.read(&mut head).await.unwrap();
            assert!(head[..read].starts_with(b"GET /ada HTTP/1.1\r\n"));
            socket.write_all(answer.as_bytes()).await.ok();
            socket.shutdown().await.ok();
        });
        let found = client().read(&url).await;
        server.await.unwrap();
        found
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn only_what_is_a_price_is_one() {
        for (body, price) in
            [("2.10\n", "2.10"), ("3", "3"), (r#"{"price": "2.10", "at": "2026-11-25T00:00:00Z"}"#, "2.10")]
        {
            assert_eq!(served(&ok(body)).await, Ok(price.parse().unwrap()), "{body}");
        }
        for body in [
            "",
            "free",
            "-1",
            "0",
            "0.00",
            "+2",
            "1e3",
            "2,10",
            "{",
            r#"{"price": 2.10}"#,
            r#"{"cost": "2"}"#,
        ] {
            let why = served(&ok(body)).await.unwrap_err();
            assert!(why.starts_with("its answer is no price: it must be"), "{body}: {why}");
        }
    }

    #[tokio::test]
    async fn a_feed_that_does_not_answer_as_it_should_says_how() {
        let long = "x".repeat(MOST_BYTES + 1);
        for (answer, why) in [
            ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".to_owned(), "it answers 500"),
            ("HTTP/1.1 302 Found\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n".to_owned(), "it answers 302"),
            (ok(&long), "more than 4096 bytes"),
            ("not HTTP at all\r\n\r\n".to_owned(), "invalid HTTP"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n2.1".to_owned(), "end of file"),
        ] {
            let found = served(&answer).await.unwrap_err();
            assert!(found.contains(why), "{found}");
        }
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", nobody.local_addr().unwrap());
        drop(nobody);
        let found = client().read(&url).await.unwrap_err();
        assert!(found.contains("refused"), "{found}");
    }

    #[tokio::test]
    async fn what_only_this_machine_may_reach_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
            let found = Client::new(Vec::new()).read(&format!("http://{host}:{port}/")).await.unwrap_err();
            assert!(found.contains("only when the operator's --notify-allow names it"), "{host}: {found}");
        }
        assert!(futures::FutureExt::now_or_never(listener.accept()).is_none(), "nobody was connected to");
    }

    #[tokio::test]
    async fn what_a_feed_answers_is_not_shown() {
        for body in ["secret", r#"{"price": "secret"}"#, r#"{"secret": 1}"#] {
            let why = served(&ok(body)).await.unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_that_says_nothing_is_left_after_a_while() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let silent = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
            drop(socket);
        });
        assert_eq!(client().read(&url).await, Err("no answer within 10 s".to_owned()));
        silent.abort();
    }
}
