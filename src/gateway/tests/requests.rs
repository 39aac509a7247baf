//! Requests that are well-formed, through all that may happen to them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::certificate::Certificate;
use crate::gateway::keys::tests::key;
use crate::gateway::limits::Limits;
use crate::gateway::server::Listener;
use crate::gateway::tests::route;
use crate::gateway::tests::world::{Talk, World, counting, empty, http2_client, soon, worker};
use crate::link::message::{Route, Serving};

const GET: &str = "GET /v1/models?a=b HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-sum\r\n\r\n";

#[tokio::test]
async fn one_connection_carries_many_requests_over_one_connection_to_the_worker() {
    let (address, heads) = counting().await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        client.say(GET).await;
        assert!(client.hear("hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
        world.until(0, 0).await;
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 3);
    assert!(
        heads[0].starts_with("GET /v1/models?a=b HTTP/1.1\r\nhost: chat.rp.gpu.test\r\n"),
        "{}",
        heads[0]
    );
    assert!(heads[0].contains("x-forwarded-for: 127.0.0.1\r\n"), "{}", heads[0]);
}

#[tokio::test]
async fn a_path_names_an_endpoint_and_is_taken_off() {
    let (address, heads) = counting().await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    for (path, forwarded) in [("/rp/chat/v1/x?q", "/v1/x?q"), ("/rp/chat", "/"), ("/rp/chat?q", "/?q")] {
        client.say(&format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).await;
        client.hear("hello").await;
        let head = heads.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("x-forwarded-prefix: /rp/chat\r\n"), "{head}");
    }
    let mut client = world.client().await;
    client.say("GET /rp/chat/x HTTP/1.0\r\n\r\n").await;
    assert!(client.hear_all().await.ends_with("hello"));
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && head.contains("\r\nhost: gpu.test\r\n"), "{head}");
}

#[tokio::test]
async fn refusals() {
    let refused = async |route: Route, request: &str, status: &str, reason: &str| {
        let (address, heads) = counting().await;
        let world = World::with(&[address], route, Limits::default()).await;
        let mut client = world.client().await;
        client.say(request).await;
        let answer = client.hear("}\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(&format!("tenure-reason: {reason}\r\n")), "{answer}");
        assert!(heads.lock().unwrap().is_empty());
    };
    refused(route(), &GET.replace("chat", "other"), "404", "unknown").await;
    refused(route(), "GET / HTTP/1.1\r\nHost: gpu.test\r\n\r\n", "404", "unknown").await;
    refused(Route { serving: Serving::Stopped, ..route() }, GET, "503", "stopped").await;
    refused(Route { serving: Serving::NoCard, ..route() }, GET, "503", "no-card").await;
    let keyed = || Route { keys: Some(vec![key("a", "secret", 0)]), ..route() };
    refused(keyed(), GET, "401", "bad-key").await;
    let (address, heads) = counting().await;
    let world = World::with(&[address], keyed(), Limits::default()).await;
    let mut client = world.client().await;
    client.say(&GET.replace("\r\n\r\n", "\r\nAuthorization: Bearer secret\r\n\r\n")).await;
    client.hear("hello").await;
    assert!(!heads.lock().unwrap()[0].contains("secret"), "the key is the gateway's");
}

#[tokio::test]
async fn chunks_stream_both_ways_and_trailers_follow() {
    let address = worker(|mut talk| async move {
        talk.hear("\r\n\r\n").await;
        talk.hear("3\r\none\r\n").await;
        talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-done\r\n\r\n3\r\neno\r\n")
            .await;
        talk.hear("3\r\ntwo\r\n").await;
        let end = talk.hear("\r\n\r\n").await;
        assert!(end.contains("x-sum: 6"), "{end}");
        talk.say("3\r\nowt\r\n0\r\nx-done: yes\r\n\r\n").await;
        talk.hear_all().await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(CHUNKED).await;
    client.say("3\r\none\r\n").await;
    client.hear("eno\r\n").await;
    client.say("3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n").await;
    client.hear("owt\r\n").await;
    assert_eq!(client.hear("\r\n\r\n").await, "0\r\nx-done: yes\r\n\r\n");
    world.until(0, 0).await;
}

#[tokio::test]
async fn events_come_one_by_one() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<()>(1);
    let go = Arc::new(tokio::sync::Mutex::new(receiver));
    let address = worker(move |mut talk| {
        let go = go.clone();
        async move {
            talk.hear("\r\n\r\n").await;
            talk.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").await;
            while go.lock().await.recv().await.is_some() {
                talk.say("data: x\n\n").await;
            }
        }
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(GET).await;
    client.hear("\r\n\r\n").await;
    for _ in 0..3 {
        sender.send(()).await.unwrap();
        client.hear("data: x\n\n").await;
    }
    drop(sender);
    client.hear("0\r\n\r\n").await;
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let (address, heads) = counting().await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    let post = "POST / HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    client.say(&post.replace("HOST", "chat.rp.gpu.test")).await;
    client.hear("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.say("body").await;
    client.hear("hello").await;
    assert!(!heads.lock().unwrap()[0].contains("expect"));
    let mut client = world.client().await;
    client.say(&post.replace("HOST", "nobody.rp.gpu.test")).await;
    assert!(client.hear_all().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn an_upgrade_is_a_tunnel_and_its_slot_lives_until_both_ends_are_closed() {
    let address = worker(|mut talk| async move {
        let head = talk.hear("\r\n\r\n").await;
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        talk.say(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nearly\n",
        )
        .await;
        let line = talk.hear("\n").await;
        talk.say(&format!("echo {line}")).await;
        assert_eq!(talk.hear_all().await, "");
        talk.say("bye\n").await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(&GET.replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")).await;
    let head = client.hear("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
    client.hear("early\n").await;
    client.say("not HTTP\n").await;
    client.hear("echo not HTTP\n").await;
    world.until(1, 0).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert_eq!(client.hear_all().await, "bye\n");
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_worker_that_takes_no_connection_is_passed_over() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (address, _) = counting().await;
    let world = World::new(&[gone, address]).await;
    let mut client = world.client().await;
    client.say(GET).await;
    client.hear("hello").await;
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_worker_that_breaks_off_before_its_answer_is_a_502_and_is_not_asked_again() {
    let times = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = times.clone();
    let address = worker(move |mut talk| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move {
            talk.hear("\r\n\r\n").await;
        }
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(GET).await;
    let answer = client.hear("}\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("\"code\":\"worker-broke\""), "{answer}");
    assert_eq!(times.load(std::sync::atomic::Ordering::Relaxed), 1);
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_worker_that_breaks_off_in_its_answer_breaks_off_the_client() {
    let address = worker(|mut talk| async move {
        talk.hear("\r\n\r\n").await;
        talk.say("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(GET).await;
    assert!(client.hear_all().await.ends_with("half"));
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_connection_that_the_worker_closed_while_it_waited_costs_nothing() {
    let address = worker(|mut talk| async move {
        talk.hear("\r\n\r\n").await;
        talk.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    for _ in 0..3 {
        client.say(GET).await;
        client.hear("hello").await;
        world.until(0, 0).await;
    }
}

#[tokio::test]
async fn a_stop_lets_a_request_end() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let go = Arc::new(std::sync::Mutex::new(Some(receiver)));
    let address = worker(move |mut talk| {
        let go = go.lock().unwrap().take();
        async move {
            talk.hear("\r\n\r\n").await;
            go.unwrap().await.unwrap();
            talk.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
            talk.hear_all().await;
        }
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    let mut idle = world.client().await;
    client.say(GET).await;
    world.until(1, 0).await;
    world.stop.cancel();
    assert_eq!(idle.hear_all().await, "", "a connection without a request is closed at once");
    drop(idle);
    sender.send(()).unwrap();
    let answer = client.hear_all().await;
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("hello"), "{answer}");
    drop(client);
    soon("the end", world.serving).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_end() {
    let address = worker(|mut talk| async move {
        talk.hear_all().await;
    })
    .await;
    let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
    let world = World::with(&[address], route(), limits).await;
    let mut client = world.client().await;
    client.say(GET).await;
    world.until(1, 0).await;
    world.stop.cancel();
    assert_eq!(client.hear_all().await, "");
    soon("the end", world.serving).await.unwrap();
}

#[tokio::test]
async fn http2_without_tls() {
    let (address, heads) = counting().await;
    let world = World::new(&[address]).await;
    let mut sender = http2_client(TcpStream::connect(world.address).await.unwrap()).await;
    let request = Request::get("http://chat.rp.gpu.test/x").body(empty()).unwrap();
    let response = soon("an answer", sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert!(heads.lock().unwrap()[0].starts_with("GET /x HTTP/1.1\r\n"));
    let request = Request::get("http://chat.rp.gpu.test/x").header("host", "evil").body(empty()).unwrap();
    assert_eq!(soon("an answer", sender.send_request(request)).await.unwrap().status(), 400);
    assert_eq!(heads.lock().unwrap().len(), 1);
}

/// A gRPC server that says back what it hears, and its status in trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<Incoming>, hyper::Error> {
    assert_eq!(request.version(), http::Version::HTTP_2);
    assert_eq!(request.uri().authority().map(http::uri::Authority::as_str), Some("chat.rp.gpu.test"));
    assert_eq!(request.headers()["te"], "trailers");
    Ok(Response::new(request.into_body()))
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(echo)));
        }
    });
    let world = World::new(&[address]).await;
    let mut sender = http2_client(TcpStream::connect(world.address).await.unwrap()).await;
    for _ in 0..2 {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let frames = [Ok(Frame::data(Bytes::from_static(b"message"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let request = Request::post("http://chat.rp.gpu.test/pkg.Service/Call")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let response = soon("an answer", sender.send_request(request.body(body).unwrap())).await.unwrap();
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
        world.until(0, 0).await;
    }
    let request = Request::post("http://nobody.rp.gpu.test/x").header("content-type", "application/grpc");
    let response = soon("an answer", sender.send_request(request.body(empty()).unwrap())).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["grpc-status"]),
        (200, &"12".parse().unwrap())
    );
}

#[tokio::test]
async fn tls_speaks_what_the_client_asks_for_and_follows_its_files() {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider};

    let folder = std::env::temp_dir().join(format!("tenure-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&certificate, include_str!("tls.crt")).unwrap();
    std::fs::write(&key, include_str!("tls.key")).unwrap();
    let loaded = Certificate::load(certificate.clone(), key.clone()).unwrap();

    let (address, _) = counting().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let world =
        World::on(&[address], route(), Limits::default(), Listener::Tls(listener, loaded.clone()), at);

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(include_bytes!("tls.crt")).unwrap()).unwrap();
    for (protocol, is_http2) in [("h2", true), ("http/1.1", false)] {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("chat.rp.gpu.test").unwrap();
        let stream = connector.connect(name, TcpStream::connect(at).await.unwrap()).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        if is_http2 {
            let request = Request::get("https://chat.rp.gpu.test/x").body(empty()).unwrap();
            let answer = soon("an answer", http2_client(stream).await.send_request(request)).await.unwrap();
            assert_eq!(answer.status(), 200);
        } else {
            let mut talk = Talk::new(stream);
            talk.say(GET).await;
            talk.hear("hello").await;
        }
    }
    drop(world);

    let before = loaded.current();
    assert!(!loaded.reload().unwrap(), "nothing is new");
    std::fs::write(&key, "no key").unwrap();
    assert!(loaded.reload().is_err());
    assert!(Arc::ptr_eq(&before, &loaded.current()), "the old one stays");
    std::fs::write(&key, include_str!("tls.key")).unwrap();
    assert!(loaded.reload().unwrap());
    assert!(!Arc::ptr_eq(&before, &loaded.current()));
    std::fs::remove_dir_all(&folder).unwrap();
}
