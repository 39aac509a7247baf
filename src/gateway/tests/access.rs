//! What the access log says of requests, and what it never says.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use serde_json::{Value, json};

use crate::gateway::access::AccessLog;
use crate::gateway::keys::tests::key;
use crate::gateway::tests::route;
use crate::gateway::tests::slots::stubborn;
use crate::gateway::tests::world::{World, counting, empty, http2_client, soon};
use crate::link::message::Route;

/// What is written can be read.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

fn epoch() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Waits for so many lines, in the order in which requests ended.
async fn lines(log: &AccessLog, paper: &Paper, number: usize) -> Vec<Value> {
    let read = || paper.text().lines().map(|it| serde_json::from_str(it).unwrap()).collect::<Vec<Value>>();
    let waiting = async {
        while read().len() < number {
            log.flush(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
    };
    soon("a line", waiting).await;
    read()
}

/// Takes out of a line what differs each time; it must be a number.
fn times(line: &mut Value, names: &[&str]) {
    for name in names {
        let time = line[name].take();
        assert!(time.as_f64().is_some_and(|it| it >= 0.0), "{name}: {time} in {line}");
    }
}

#[tokio::test]
async fn a_line_says_what_was_asked_and_answered_and_no_secret() {
    let paper = Paper::default();
    let log = AccessLog::start(paper.clone(), 100, epoch, &Registry::new()).unwrap();
    let (address, _) = counting().await;
    let keys = Some(vec![key("a", "secret-key", 0)]);
    let world = World::writing(&[address], Route { keys, ..route() }, log.clone()).await;
    let mut client = world.client().await;
    let head = "GET /v1/models?token=secret-query HTTP/1.1\r\nHost: chat.rp.gpu.test\r\nUser-Agent: me\r\nx-request-id: mine\r\n\
        Cookie: secret-cookie\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    client.say(&format!("{head}Authorization: Bearer secret-key\r\n\r\n")).await;
    client.hear("hello").await;
    client.say(&format!("{head}x-api-key: secret-wrong\r\n\r\n")).await;
    client.hear("bad-key").await;
    // A bad request: nothing of it is believed. And one for nobody, with what may be a password.
    client.say("GET /secret HTTP/1.1\r\nHost: secret\r\nHost: secret\r\n\r\n").await;
    client.hear_all().await;
    let mut http2 = http2_client(tokio::net::TcpStream::connect(world.address).await.unwrap()).await;
    let request = http::Request::get("http://me:secret@nobody.rp.gpu.test/x").body(empty()).unwrap();
    soon("an answer", http2.send_request(request)).await.unwrap();

    let mut found = lines(&log, &paper, 4).await;
    let common = json!({
        "start_time": "1970-01-01T00:00:00Z", "downstream_remote_address": "127.0.0.1", "protocol": "HTTP/1.1",
        "method": "GET", "authority": "chat.rp.gpu.test", "path": "/v1/models", "user_agent": "me", "request_id": "mine",
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "namespace": "rp", "endpoint": "chat", "upstream_host": null,
        "complete": true, "queue_ms": null, "first_byte_ms": null, "duration_ms": null,
    });
    let with = |more: Value| {
        let mut line = common.clone();
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    times(&mut found[0], &["queue_ms", "first_byte_ms", "duration_ms"]);
    let upstream = address.to_string();
    let expected = with(json!({
        "upstream_host": upstream, "response_code": 200, "response_code_details": "via_upstream", "bytes_sent": 5,
    }));
    assert_eq!(found[0], expected);
    times(&mut found[1], &["first_byte_ms", "duration_ms"]);
    let sent = found[1]["bytes_sent"].take();
    assert!(sent.as_u64() > Some(20), "{sent}");
    let expected =
        with(json!({"response_code": 401, "response_code_details": "bad-key", "bytes_sent": null}));
    assert_eq!(found[1], expected);
    for (line, code, details, authority) in [
        (&found[2], 400, "bad-request", json!(null)),
        (&found[3], 400, "bad-request", json!("nobody.rp.gpu.test")),
    ] {
        assert_eq!(
            (&line["response_code"], &line["response_code_details"], &line["authority"]),
            (&json!(code), &json!(details), &authority),
            "{line}"
        );
    }
    assert!(!paper.text().contains("secret"), "{}", paper.text());
}

#[tokio::test]
async fn a_client_that_leaves_and_an_answer_that_breaks_off_are_written_down_too() {
    let paper = Paper::default();
    let log = AccessLog::start(paper.clone(), 100, epoch, &Registry::new()).unwrap();
    let (address, end) = stubborn("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
    let world = World::writing(&[address], route(), log.clone()).await;
    let get = "GET / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n";
    let mut first = world.client().await;
    first.say(get).await;
    first.hear("half").await;
    let mut second = world.client().await;
    second.say(get).await;
    world.until(1, 1).await;
    drop(second);
    drop((lines(&log, &paper, 1).await, first));
    let said: Vec<Value> = lines(&log, &paper, 2)
        .await
        .iter()
        .map(|it| json!([it["response_code"], it["response_code_details"], it["complete"], it["bytes_sent"]]))
        .collect();
    assert_eq!(said, [json!([499, "client-left", false, 0]), json!([200, "via_upstream", false, 4])]);
    end.send(()).unwrap();
}

/// Takes nothing until it is told to.
struct Stuck(mpsc::Receiver<()>, Paper);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_does_not_read_the_log_holds_no_request_up() {
    let paper = Paper::default();
    let (go_on, told) = mpsc::channel();
    let registry = Registry::new();
    let log = AccessLog::start(Stuck(told, paper.clone()), 1, epoch, &registry).unwrap();
    let (address, _) = counting().await;
    let world = World::writing(&[address], route(), log.clone()).await;
    let mut client = world.client().await;
    for _ in 0..12 {
        client.say("GET / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n").await;
        client.hear("hello").await;
        world.until(0, 0).await;
    }
    let dropped = || {
        let family = registry.gather().remove(0);
        family.get_metric()[0].get_counter().get_value()
    };
    assert!(dropped() > 0.0);
    drop(go_on);
    let waiting = async {
        while dropped() + f64::from(u32::try_from(paper.text().lines().count()).unwrap()) < 12.0 {
            log.flush(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
    };
    soon("all other lines", waiting).await;
}
