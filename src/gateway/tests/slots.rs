//! A slot ends when the worker is done with its request: not earlier because the client has left, and not later.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc;

use crate::gateway::limits::Limits;
use crate::gateway::tests::route;
use crate::gateway::tests::world::{World, counting, empty, http2_client, soon, worker};
use crate::link::message::Route;

const GET: &str = "GET / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n";

/// A worker that is no part of our runtime: it reads a head, says what it says, and then works until it is told to end. What
/// it does when its client is gone is that it does not look.
pub fn stubborn(says: &'static str) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(says.as_bytes()).unwrap();
        let _ = receiver.recv();
    });
    (address, sender)
}

#[tokio::test]
async fn a_worker_that_works_on_keeps_the_slot_of_a_client_that_left() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    for says in ["", half] {
        let (address, end) = stubborn(says);
        let world = World::new(&[address]).await;
        let mut client = world.client().await;
        client.say(GET).await;
        if !says.is_empty() {
            client.hear("half").await;
        }
        world.until(1, 0).await;
        drop(client);
        // Who comes next has to wait, however long the other one is gone.
        let mut next = world.client().await;
        next.say(GET).await;
        world.until(1, 1).await;
        let mut seen = world.gateway.backend.seen.clone();
        seen.mark_unchanged();
        end.send(()).unwrap();
        // The first change is the worker's end: until then nothing was given back.
        soon("the worker's end", seen.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_closes_when_its_client_leaves_frees_the_slot() {
    let address = worker(|mut talk| async move {
        talk.hear_all().await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say(GET).await;
    world.until(1, 0).await;
    drop(client);
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_takes_nothing() {
    let (address, end) = stubborn("");
    let world = World::new(&[address]).await;
    let mut first = world.client().await;
    first.say(GET).await;
    world.until(1, 0).await;
    let post = "POST / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\nContent-Length: 4\r\n\r\nbody";
    for request in [GET, post] {
        let mut second = world.client().await;
        second.say(request).await;
        world.until(1, 1).await;
        drop(second);
        world.until(1, 0).await;
    }
    drop(first);
    end.send(()).unwrap();
    world.until(0, 0).await;
}

async fn times_out(route: Route, says: &'static str, expected: &str) {
    let (address, end) = stubborn(says);
    let world = World::with(&[address], route, Limits::default()).await;
    let mut client = world.client().await;
    client.say(GET).await;
    let answer = client.hear(expected).await;
    if says.is_empty() {
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    } else {
        assert_eq!(client.hear_all().await, "", "the rest does not come");
    }
    // The client has its answer; the worker still works.
    world.until(1, 0).await;
    end.send(()).unwrap();
    world.until(0, 0).await;
}

#[tokio::test]
async fn clocks() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    times_out(Route { first_byte_timeout_ms: 20, ..route() }, "", "first-byte-timeout").await;
    times_out(Route { total_timeout_ms: 20, ..route() }, "", "total-timeout").await;
    times_out(Route { idle_timeout_ms: 20, ..route() }, half, "half").await;
    times_out(Route { total_timeout_ms: 300, ..route() }, half, "half").await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_does_not_free_the_slot_before_the_worker_closes() {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let go = std::sync::Mutex::new(Some(receiver));
    let address = worker(move |mut talk| {
        let go = go.lock().unwrap().take();
        async move {
            talk.hear("\r\n\r\n").await;
            talk.say("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
            if let Some(go) = go {
                let _ = go.await;
            }
        }
    })
    .await;
    let world = World::new(&[address]).await;
    let mut client = world.client().await;
    client.say("POST / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\nContent-Length: 1000000\r\n\r\nxxx").await;
    client.hear("big").await;
    drop(client);
    world.until(1, 0).await;
    sender.send(()).unwrap();
    world.until(0, 0).await;
}

#[tokio::test]
async fn what_was_read_while_a_request_waited_goes_to_the_worker_in_order() {
    let address = worker(|mut talk| async move {
        let head = talk.hear("\r\n\r\n").await;
        if head.starts_with("POST") {
            talk.hear("3\r\none\r\n").await;
            assert_eq!(talk.hear("0\r\n\r\n").await, "3\r\ntwo\r\n0\r\n\r\n");
        } else {
            assert_eq!(talk.hear_all().await, "");
        }
        talk.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    })
    .await;
    let world = World::new(&[address]).await;
    let mut first = world.client().await;
    first.say(GET).await;
    world.until(1, 0).await;
    let mut second = world.client().await;
    let head = "POST / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    second.say(&format!("{head}3\r\none\r\n")).await;
    world.until(1, 1).await;
    drop(first);
    second.say("3\r\ntwo\r\n0\r\n\r\n").await;
    second.hear("hello").await;
    world.until(0, 0).await;
}

#[tokio::test]
async fn no_worker_gets_more_than_its_slots() {
    let (address, heads) = counting().await;
    let world = World::new(&[address]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = world.client().await;
        clients.push(tokio::spawn(async move {
            for _ in 0..50 {
                client.say(GET).await;
                client.hear("hello").await;
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(heads.lock().unwrap().len(), 400);
    world.until(0, 0).await;
}

/// A worker that never ends its answer before its client closes.
async fn endless() -> SocketAddr {
    worker(|mut talk| async move {
        talk.hear("\r\n\r\n").await;
        talk.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        let (mut reads, mut writes) = talk.stream.split();
        let write = async {
            while tokio::io::AsyncWriteExt::write_all(&mut writes, chunk.as_bytes()).await.is_ok() {}
        };
        tokio::select! {
            _ = tokio::io::AsyncReadExt::read_u8(&mut reads) => (),
            () = write => (),
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_no_slot_for_good() {
    let idle = Route { idle_timeout_ms: 50, ..route() };
    for route in [idle, Route { total_timeout_ms: 50, ..route() }] {
        let world = World::with(&[endless().await], route, Limits::default()).await;
        let mut client = world.client().await;
        client.say(GET).await;
        client.hear("\r\n\r\n").await;
        world.until(0, 0).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_cut_and_its_connection_goes_on() {
    let route = Route { idle_timeout_ms: 50, ..route() };
    let world = World::with(&[endless().await], route, Limits::default()).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let mut sender = http2_client(stream).await;
    for _ in 0..2 {
        let request = http::Request::get("http://chat.rp.gpu.test/x").body(empty()).unwrap();
        let response = soon("an answer", sender.send_request(request)).await.unwrap();
        world.until(0, 0).await;
        drop(response);
    }
}

#[tokio::test]
async fn a_stream_that_its_client_resets_frees_the_slot_when_the_worker_closes() {
    let (address, end) = stubborn("");
    let world = World::new(&[address]).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let mut sender = http2_client(stream).await;
    let request = || http::Request::get("http://chat.rp.gpu.test/x").body(empty()).unwrap();
    let first = tokio::spawn(sender.send_request(request()));
    world.until(1, 0).await;
    let _second = tokio::spawn(sender.send_request(request()));
    world.until(1, 1).await;
    first.abort();
    let mut seen = world.gateway.backend.seen.clone();
    seen.mark_unchanged();
    end.send(()).unwrap();
    soon("the worker's end", seen.changed()).await.unwrap();
}
