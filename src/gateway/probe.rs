//! Asks workers whether they are ready. The owner of an endpoint does this itself, as soon as a worker has an address: that
//! decides where requests go, and is quicker than the news of the pod's Ready condition.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::endpoint::Endpoint;
use crate::domain::slots::WorkerId;
use crate::link::message::Probe;

/// A worker that does not answer within this is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A worker that is ready is asked this often whether it still is.
const STILL_READY: Duration = Duration::from_secs(1);
/// And is closed after so many answers in a row that say otherwise.
const FAILURES_MAX: u32 = 3;

/// Asks one worker until nobody wants to know any more.
pub async fn watch(endpoint: Arc<Endpoint>, worker: WorkerId, address: SocketAddr, probe: Probe) {
    let began = Instant::now();
    let mut failures = 0;
    loop {
        let ready = timeout(ANSWER_WITHIN, ask(address, &probe)).await.unwrap_or(false);
        failures = if ready { 0 } else { failures + 1 };
        let was = endpoint.is_open(&worker);
        let open = ready || (was && failures < FAILURES_MAX);
        if !endpoint.probed(&worker, open) {
            return;
        }
        let wait = if open { STILL_READY } else { between(began.elapsed()) };
        tokio::select! {
            () = tokio::time::sleep(wait) => (),
            () = endpoint.suspected() => (),
        }
    }
}

/// A worker that is about to be ready is asked often; one that takes minutes to load, less so.
fn between(since: Duration) -> Duration {
    match since.as_secs() {
        0..5 => Duration::from_millis(20),
        5..60 => Duration::from_millis(100),
        _ => Duration::from_millis(500),
    }
}

async fn ask(address: SocketAddr, probe: &Probe) -> bool {
    match probe {
        Probe::Connect => TcpStream::connect(address).await.is_ok(),
        Probe::Get { port, path } => {
            get(SocketAddr::new(address.ip(), *port), path).await.is_some_and(|it| (200..400).contains(&it))
        }
    }
}

/// The status of the answer to a GET.
async fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "tenure-gateway-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .ok()?;
    let mut answer = pin!(sender.send_request(request));
    // The answer's head is all that is wanted: what is left is dropped with the connection. The connection may end first, with
    // the answer in its hands.
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    Some(answer.ok()?.status().as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers once, and closes at once, as servers do that are asked to.
    async fn check(answer: &'static str, expected: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = [0; 1024];
            assert!(stream.read(&mut read).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let probe = Probe::Get { port: address.port(), path: "/healthz".to_owned() };
        assert_eq!(tokio::join!(serving, ask(address, &probe)).1, expected, "{answer}");
    }

    #[tokio::test]
    async fn a_worker_is_ready_when_it_says_so() {
        check("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n", true).await;
        check("HTTP/1.1 302 Found\r\nlocation: /\r\nconnection: close\r\n\r\n", true).await;
        check("HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n", false).await;
        check("", false).await;
    }
}
