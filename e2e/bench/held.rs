//! Holds requests at a gateway, opens the worker that they wait for, and says how long it took until they were answered.
//!
//! `held GATEWAY PROBES WORKER HOST PID COUNT`: the gateway's address for requests and for its probes, where the worker listens (this
//! program plays it), the Host of the endpoint, the gateway's process, and how many requests. Prints one line: milliseconds from
//! the probe's first good answer to the first and to the last answer, and the kilobytes that the gateway took for each request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [gateway, probes, worker, host, pid, count] = &words[..] else {
        eprintln!("usage: held GATEWAY PROBES WORKER HOST PID COUNT");
        std::process::exit(2);
    };
    let count: u32 = count.parse().expect("COUNT is a number");
    let (open, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceCell::new()));
    let listener = TcpListener::bind(worker).await.expect("the worker's address is free");
    tokio::spawn(play_worker(listener, open.clone(), opened.clone()));

    let before_kb = resident_kb(pid);
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(gateway).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("a socket");
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the gateway reads");
        clients.push(stream);
    }
    while queued(probes).await != count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let held_kb = resident_kb(pid);

    open.store(true, Ordering::Relaxed);
    let answers: Vec<_> = clients.into_iter().map(|it| tokio::spawn(answered(it))).collect();
    let mut times = Vec::new();
    for answer in answers {
        times.push(answer.await.expect("it does not panic"));
    }
    times.sort_unstable();
    let since = *opened.get().expect("it was opened before anybody was answered");
    let milliseconds = |at: &Instant| at.duration_since(since).as_secs_f64() * 1e3;
    let each_kb = f64::from(held_kb.saturating_sub(before_kb)) / f64::from(count);
    let (first, last) = (milliseconds(&times[0]), milliseconds(&times[times.len() - 1]));
    println!("{first:.2} {last:.2} {each_kb:.1}");
}

/// When the answer was there.
async fn answered(mut stream: TcpStream) -> Instant {
    let mut read = [0; 1024];
    let length = stream.read(&mut read).await.expect("the gateway answers");
    let at = Instant::now();
    let answer = String::from_utf8_lossy(&read[..length]);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    at
}

async fn play_worker(listener: TcpListener, open: Arc<AtomicBool>, opened: Arc<OnceCell<Instant>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let (open, opened) = (open.clone(), opened.clone());
        tokio::spawn(async move {
            let mut read = [0; 4096];
            while let Ok(1..) = stream.read(&mut read).await {
                let answer: &[u8] = if !read.starts_with(b"GET /healthz ") {
                    b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"
                } else if open.load(Ordering::Relaxed) {
                    opened.get_or_init(async || Instant::now()).await;
                    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
                } else {
                    b"HTTP/1.1 503 Loading\r\ncontent-length: 0\r\n\r\n"
                };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// How many requests wait, as the gateway counts.
async fn queued(probes: &str) -> u32 {
    let mut stream = TcpStream::connect(probes).await.expect("the gateway's probes answer");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("it answers");
    let lines = text.lines().filter(|it| it.starts_with("tenure_gateway_requests_queued{"));
    lines.filter_map(|it| it.rsplit(' ').next()?.parse::<u32>().ok()).sum()
}

fn resident_kb(pid: &str) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the gateway runs");
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).expect("Linux says it");
    line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number of kB")
}
