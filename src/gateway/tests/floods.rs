//! Floods of HTTP/2 frames: who sends them loses the connection, and nobody else hears of it. No slot is lost to them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::gateway::tests::world::{World, counting, soon, worker};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// Types of frames, flags and codes of RFC 9113.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const ENHANCE_YOUR_CALM: u32 = 0xb;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / ` of the endpoint: three entries of HPACK's static table, and a literal `:authority`.
fn head() -> Vec<u8> {
    let host = b"chat.rp.gpu.test";
    [&[0x82, 0x86, 0x84, 0x41, u8::try_from(host.len()).unwrap()], &host[..]].concat()
}

/// Sends all that, and reads until the gateway ends the connection: the code of its GOAWAY.
async fn flood(world: &World, frames: Vec<u8>) -> u32 {
    let client = world.client().await;
    let (mut reads, mut writes) = client.stream.into_split();
    let writing = tokio::spawn(async move {
        let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        writes.write_all(&greeting).await.ok();
        // It may well be cut off in the middle.
        writes.write_all(&frames).await.ok();
        writes
    });
    let mut heard = Vec::new();
    while let Ok(1..) = soon("the end of the connection", reads.read_buf(&mut heard)).await {}
    drop(writing.await.unwrap());
    let mut rest = &heard[..];
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        if *kind == GOAWAY && payload.len() >= 8 {
            return u32::from_be_bytes(payload[4..8].try_into().unwrap());
        }
        rest = payload.get(length..).unwrap_or_default();
    }
    panic!("it was ended without a GOAWAY: {} bytes", heard.len());
}

/// Nothing of it is left in a worker, and the next client is served.
async fn check_unharmed(world: &World) {
    world.until(0, 0).await;
    let mut client = world.client().await;
    client.say("GET / HTTP/1.1\r\nHost: chat.rp.gpu.test\r\n\r\n").await;
    assert!(client.hear("hello").await.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(client);
    world.until(0, 0).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_again_and_again_end_the_connection() {
    let (worker, _) = counting().await;
    let world = World::new(&[worker]).await;
    let pair = |at: u32| {
        let stream = 2 * at + 1;
        [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head()), frame(RST_STREAM, 0, stream, &CANCEL)]
            .concat()
    };
    let code = flood(&world, (0..20_000).flat_map(pair).collect()).await;
    assert_eq!(code, ENHANCE_YOUR_CALM);
    check_unharmed(&world).await;
}

#[tokio::test]
async fn a_head_that_never_ends_ends_the_connection() {
    let (worker, heads) = counting().await;
    let world = World::new(&[worker]).await;
    // Each brings one more header, of a few bytes or of none.
    for more in [&b"\x00\x01x\x01y"[..], b""] {
        let begin = frame(HEADERS, END_STREAM, 1, &head());
        let endless = std::iter::repeat_n(frame(CONTINUATION, 0, 1, more), 100_000).flatten();
        let code = flood(&world, begin.into_iter().chain(endless).collect()).await;
        assert_eq!(code, ENHANCE_YOUR_CALM, "{more:?}");
        check_unharmed(&world).await;
    }
    assert_eq!(heads.lock().unwrap().len(), 2, "no worker saw any of it");
}

#[tokio::test]
async fn errors_that_we_have_to_answer_end_the_connection() {
    let (worker, _) = counting().await;
    let world = World::new(&[worker]).await;
    // A body for a stream that is closed already, again and again: each would be answered by a reset.
    let begin =
        [frame(HEADERS, END_STREAM | END_HEADERS, 1, &head()), frame(RST_STREAM, 0, 1, &CANCEL)].concat();
    let again = |at: u32| {
        // Without `:method`: malformed, and answered by a reset.
        frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 3, &[0x86, 0x84])
    };
    let code = flood(&world, begin.into_iter().chain((0..20_000).flat_map(again)).collect()).await;
    assert_eq!(code, ENHANCE_YOUR_CALM);
    check_unharmed(&world).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_written_to_without_end() {
    // A worker whose answer has no end, until it hears that nobody wants it.
    let worker = worker(|mut talk| async move {
        talk.hear("\r\n\r\n").await;
        talk.say("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
        let block = vec![0; 64 * 1024];
        let (mut reads, mut writes) = talk.stream.into_split();
        let mut byte = [0];
        tokio::select! {
            () = async { while writes.write_all(&block).await.is_ok() {} } => (),
            _ = reads.read(&mut byte) => (),
        }
    })
    .await;
    let world = World::new(&[worker]).await;
    let mut client = world.client().await;
    // No window at all: not a byte of a body may be sent.
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &head());
    client.stream.write_all(&[PREFACE, &no_window, &request].concat()).await.unwrap();
    world.until(1, 0).await;
    // It hears the head, and then nothing but what keeps the connection alive.
    let mut heard = Vec::new();
    while !kinds(&heard).contains(&HEADERS) {
        soon("the head of the answer", client.stream.read_buf(&mut heard)).await.unwrap();
    }
    assert!(!kinds(&heard).contains(&DATA), "a body without a window: {:?}", kinds(&heard));
    drop(client);
    world.until(0, 0).await;
}

/// The types of the frames that came whole.
fn kinds(heard: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = heard;
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let Some(after) = payload.get(length..) else { break };
        kinds.push(*kind);
        rest = after;
    }
    kinds
}
