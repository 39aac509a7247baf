//! A price from an HTTP address: one GET, with an end to its time and its length. What is no price is an error in words.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rust_decimal::Decimal;
use tokio_rustls::rustls::crypto::ring;

use crate::domain::market::price;

/// From the first packet to the last byte.
const WITHIN: Duration = Duration::from_secs(10);
/// A connection must be there after this.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A price has a few bytes; this is more than anybody needs around it.
const MOST_BYTES: usize = 4_096;

type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Reads feeds; made when the first one is read.
#[derive(Default)]
pub(super) struct Client(OnceLock<Result<Http, String>>);

impl Client {
    /// The price at an address.
    pub(super) async fn read(&self, url: &str) -> Result<Decimal, String> {
        let http = self.0.get_or_init(connect).as_ref().map_err(Clone::clone)?;
        tokio::time::timeout(WITHIN, get(http, url))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())))
    }
}

/// Roots are the system's. Without any, http is still possible.
fn connect() -> Result<Http, String> {
    let mut tcp = HttpConnector::new();
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

async fn get(http: &Http, url: &str) -> Result<Decimal, String> {
    let request = Request::builder()
        .method(Method::GET)
        .uri(url)
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
    let shown = || String::from_utf8_lossy(body).chars().take(60).collect::<String>();
    let no_price = || {
        format!(
            "`{}` is no price: it must be a number above zero, such as 2.10, or JSON such as {{\"price\": \"2.10\"}}",
            shown()
        )
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
        let found = Client::default().read(&url).await;
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
            assert!(why.contains("is no price"), "{body}: {why}");
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
        let found = Client::default().read(&url).await.unwrap_err();
        assert!(found.contains("refused"), "{found}");
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
        assert_eq!(Client::default().read(&url).await, Err("no answer within 10 s".to_owned()));
        silent.abort();
    }
}
