//! Requests that two readers could understand as two: every one gets 400 (or 431), and the worker sees nothing of it.

use std::time::Duration;

use crate::gateway::limits::Limits;
use crate::gateway::tests::route;
use crate::gateway::tests::world::{World, counting};

const HOST: &str = "Host: chat.rp.gpu.test\r\n";
const GOOD: &str = "GET / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n";

fn corpus() -> Vec<(&'static str, u16, String)> {
    let get = |headers: &str| format!("GET / HTTP/1.1\r\n{HOST}{headers}\r\n");
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{HOST}{headers}\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let absolute = |uri: &str| format!("GET {uri} HTTP/1.1\r\n{HOST}\r\n");
    vec![
        ("CL and TE", 400, post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("TE and CL", 400, post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        ("two CL", 400, post("Content-Length: 1\r\nContent-Length: 2\r\n", "ab")),
        ("two equal CL", 400, post("Content-Length: 1\r\nContent-Length: 1\r\n", "a")),
        ("CL +5", 400, post("Content-Length: +5\r\n", "hello")),
        ("CL -5", 400, post("Content-Length: -5\r\n", "hello")),
        ("CL 1, 1", 400, post("Content-Length: 1, 1\r\n", "a")),
        ("CL 0x5", 400, post("Content-Length: 0x5\r\n", "hello")),
        ("empty CL", 400, post("Content-Length: \r\n", "")),
        ("huge CL", 400, post("Content-Length: 99999999999999999999\r\n", "")),
        ("TE before colon", 400, post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        ("CL before colon", 400, post("Content-Length\t: 5\r\n", "hello")),
        ("TE xchunked", 400, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n")),
        ("TE chunked, identity", 400, post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("TE identity", 400, post("Transfer-Encoding: identity\r\n", "")),
        ("TE gzip, chunked", 400, post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n")),
        ("two TE", 400, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("TE with vertical tab", 400, post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n")),
        ("HTTP/1.0 TE", 400, format!("POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("obs-fold", 400, get("X: a\r\n b\r\n")),
        ("obs-fold with tab", 400, get("X: a\r\n\tb\r\n")),
        ("obs-fold at the start", 400, format!("GET / HTTP/1.1\r\n X: a\r\n{HOST}\r\n")),
        ("bare LF in a head", 400, get("X: a\nY: b\r\n")),
        ("bare LF only", 400, "GET / HTTP/1.1\nHost: chat.rp.gpu.test\n\n".to_owned()),
        ("bare LF at the end", 400, format!("GET / HTTP/1.1\r\n{HOST}\n")),
        ("bare CR", 400, get("X: a\rY: b\r\n")),
        ("NUL in a value", 400, get("X: a\0b\r\n")),
        ("NUL in a name", 400, get("X\0: a\r\n")),
        ("control byte", 400, get("X: a\x01b\r\n")),
        ("DEL", 400, get("X: a\x7fb\r\n")),
        ("no name", 400, get(": a\r\n")),
        ("no colon", 400, get("Xa\r\n")),
        ("space in a name", 400, get("X y: a\r\n")),
        ("two Host", 400, get("Host: evil\r\n")),
        ("two equal Host", 400, get(HOST)),
        ("no Host", 400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("empty Host", 400, "GET / HTTP/1.1\r\nHost: \r\n\r\n".to_owned()),
        ("list in Host", 400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned()),
        ("user in Host", 400, "GET / HTTP/1.1\r\nHost: u@chat.rp.gpu.test\r\n\r\n".to_owned()),
        ("another host in the URI", 400, absolute("http://evil.rp.gpu.test/")),
        ("user in the URI", 400, absolute("http://u@chat.rp.gpu.test/")),
        ("another port in the URI", 400, absolute("http://chat.rp.gpu.test:81/")),
        ("another scheme", 400, absolute("ftp://chat.rp.gpu.test/")),
        ("no slash", 400, absolute("rp/chat")),
        ("fragment", 400, absolute("/#x")),
        ("two spaces", 400, format!("GET  / HTTP/1.1\r\n{HOST}\r\n")),
        ("tab in the line", 400, format!("GET\t/ HTTP/1.1\r\n{HOST}\r\n")),
        ("HTTP/1.2", 400, format!("GET / HTTP/1.2\r\n{HOST}\r\n")),
        ("HTTP/0.9", 400, "GET /\r\n\r\n".to_owned()),
        ("CONNECT", 400, format!("CONNECT chat.rp.gpu.test:80 HTTP/1.1\r\n{HOST}\r\n")),
        ("our own word", 400, format!("REFUSED / HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")),
        ("two empty lines before", 400, format!("\r\n\r\n{GOOD}")),
        ("bare LF before", 400, format!("\n{GOOD}")),
        ("chunk: no digits", 400, chunked("\r\nabc\r\n0\r\n\r\n")),
        ("chunk: 0x3", 400, chunked("0x3\r\nabc\r\n0\r\n\r\n")),
        ("chunk: -1", 400, chunked("-1\r\nabc\r\n0\r\n\r\n")),
        ("chunk: space after the size", 400, chunked("3 \r\nabc\r\n0\r\n\r\n")),
        ("chunk: too many digits", 400, chunked("10000000000000003\r\nabc\r\n0\r\n\r\n")),
        ("chunk: LF after the size", 400, chunked("3\nabc\r\n0\r\n\r\n")),
        ("chunk: LF in an extension", 400, chunked("3;x\nabc\r\n0\r\n\r\n")),
        ("chunk: CR in an extension", 400, chunked("3;x\ry\r\nabc\r\n0\r\n\r\n")),
        ("chunk: long extension", 400, chunked(&format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(2000)))),
        ("chunk: longer than it says", 400, chunked("3\r\nabcd\r\n0\r\n\r\n")),
        ("chunk: LF after the data", 400, chunked("3\r\nabc\n0\r\n\r\n")),
        ("trailer: LF", 400, chunked("0\r\nx: y\n\r\n")),
        ("trailer: folded", 400, chunked("0\r\nx: y\r\n z\r\n\r\n")),
        ("trailer: framing", 400, chunked("0\r\nContent-Length: 3\r\n\r\n")),
        ("path: encoded dots", 400, "GET /rp/%2e%2e/chat/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        ("path: encoded slash", 400, "GET /rp%2fchat/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        ("path: dots", 400, "GET /rp/../chat/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        ("path: empty", 400, "GET //rp/chat/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        ("200 headers", 431, get(&"X: a\r\n".repeat(200))),
        ("101 headers", 431, get(&"X: a\r\n".repeat(100))),
        ("64 KB header", 431, get(&format!("X: {}\r\n", "a".repeat(64 * 1024)))),
        ("2 MB header", 431, get(&format!("X: {}\r\n", "a".repeat(2 * 1024 * 1024)))),
        ("33 KB of headers", 431, get(&format!("X: {}\r\n", "a".repeat(1024)).repeat(33))),
    ]
}

#[tokio::test]
async fn ambiguous_requests_get_400_and_reach_nobody() {
    let (worker, heads) = counting().await;
    let world = World::new(&[worker]).await;
    for (name, status, request) in corpus() {
        let client = world.client().await;
        // The answer comes, and the connection ends, before all of a big one is read.
        let (mut reads, mut writes) = client.stream.into_split();
        let whole = format!("{request}{GOOD}");
        let writing = tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writes, whole.as_bytes()).await;
            writes
        });
        let closes = !name.starts_with("path");
        let mut answer = Vec::new();
        while !answer.ends_with(b"}\n") || closes {
            match tokio::io::AsyncReadExt::read_buf(&mut reads, &mut answer).await {
                Ok(1..) => (),
                Ok(0) | Err(_) => break,
            }
            if !closes && answer.windows(5).any(|it| it == b"hello") {
                break;
            }
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer:?}");
        if closes {
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{name}: one answer, then the end: {answer:?}");
            assert!(answer.to_lowercase().contains("connection: close"), "{name}: {answer:?}");
            assert_eq!(*heads.lock().unwrap(), Vec::<String>::new(), "{name}");
        }
        writing.await.unwrap();
        heads.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn what_was_pipelined_before_a_bad_request_is_answered_in_order() {
    let (worker, heads) = counting().await;
    let world = World::new(&[worker]).await;
    let mut client = world.client().await;
    client.say(&format!("{GOOD}{GOOD}GET / HTTP/1.1\r\n\r\n{GOOD}")).await;
    let answers = client.hear_all().await;
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"]);
    assert_eq!(heads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_behind_an_upgrade_that_is_not_granted_is_checked_too() {
    let (worker, heads) = counting().await;
    let world = World::new(&[worker]).await;
    let upgrade = format!("GET / HTTP/1.1\r\n{HOST}Connection: upgrade\r\nUpgrade: foo\r\n\r\n");
    let mut client = world.client().await;
    client.say(&format!("{upgrade}{GOOD}GET / HTTP/1.1\r\nHost: a\nHost: b\r\n\r\n")).await;
    let answers = client.hear_all().await;
    let statuses: Vec<_> =
        answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "400"]);
    assert_eq!(heads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_chunk_that_turns_out_bad_cuts_the_request() {
    let (worker, _) = counting().await;
    let world = World::new(&[worker]).await;
    let mut client = world.client().await;
    client.say(&format!("POST / HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")).await;
    world.until(1, 0).await;
    client.say("zzz\r\n").await;
    // The worker may have answered before; then that answer stands. Nothing is read after it.
    let answers = client.hear_all().await;
    assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    world.until(0, 0).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_gets_408() {
    let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(&[], route(), limits).await;
    let mut client = world.client().await;
    client.say("GET / HT").await;
    let answer = client.hear_all().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (worker, _) = counting().await;
    let limits = Limits { keep_alive_timeout: Duration::from_millis(50), ..Limits::default() };
    let world = World::with(&[worker], route(), limits).await;
    let mut client = world.client().await;
    client.say(GOOD).await;
    assert!(client.hear_all().await.ends_with("hello"));
}
