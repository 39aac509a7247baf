//! What a request's and an answer's headers are made into on their way through.
//!
//! What belongs to one connection is taken out; what only the gateway may say (`x-forwarded-*`, `tenure-*`) is replaced,
//! whatever a client said; `traceparent` and all else passes untouched.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{
    CONNECTION, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{Request, Uri};

use crate::gateway::edge::Connection;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// Names a request in everybody's logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const HOP_BY_HOP: [HeaderName; 7] = [
    TRANSFER_ENCODING,
    UPGRADE,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HTTP2_SETTINGS,
];

/// Names for requests that have none: random at the start, counted from then on.
pub struct RequestIds {
    start: u64,
    next: AtomicU64,
}

impl RequestIds {
    /// A start that no other gateway has.
    pub fn new() -> RequestIds {
        let mut random = [0; 16];
        // Without randomness two gateways might give two requests one name in a log: no reason not to serve.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
        let half = |at: usize| random[at..at + 8].iter().fold(0, |sum, it| (sum << 8) | u64::from(*it));
        RequestIds { start: half(0), next: AtomicU64::new(half(8)) }
    }

    fn next(&self) -> HeaderValue {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 32];
        let bytes = self.start.to_be_bytes().into_iter().chain(number.to_be_bytes());
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }
}

/// Does a request want to change the protocol? `head.rs` asks the same question in its own words.
pub fn wants_upgrade(headers: &HeaderMap, version: http::Version) -> bool {
    version == http::Version::HTTP_11 && headers.contains_key(UPGRADE)
}

/// The protocol that a request asks for and that the worker may be asked for. HTTP/2 is not: we speak it ourselves.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let asked =
        headers.get_all(CONNECTION).iter().any(|it| tokens(it).any(|it| it.eq_ignore_ascii_case("upgrade")));
    (asked && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|it| !it.is_empty())
}

/// Takes out what belongs to one connection, also what `Connection` names (RFC 9110, 7.6.1). `TE: trailers` stays: gRPC wants it,
/// and we do pass trailers on.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> =
            headers.get_all(CONNECTION).iter().flat_map(tokens).filter_map(|it| it.parse().ok()).collect();
        headers.remove(CONNECTION);
        for name in named {
            // Who names these wants to have the request read in another way than we read it.
            if name != HOST && name != http::header::CONTENT_LENGTH && name != TE {
                headers.remove(name);
            }
        }
    }
    if headers.get(TE).is_some_and(|it| !it.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(TE);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The headers with which a worker gets a request.
pub fn to_worker(
    headers: &mut HeaderMap,
    host: Option<HeaderValue>,
    prefix: Option<&str>,
    connection: &Connection,
    ids: &RequestIds,
) {
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    let ours =
        |it: &&HeaderName| it.as_str().starts_with("tenure-") || it.as_str().starts_with("x-forwarded-");
    let ours: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    join_cookies(headers);
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host.clone());
        headers.insert(HOST, host);
    }
    headers.insert(FORWARDED_FOR, connection.address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(connection.scheme));
    headers.insert(FORWARDED, connection.forwarded.clone());
    if let Some(prefix) = prefix.and_then(|it| HeaderValue::from_str(it).ok()) {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
    headers.entry(REQUEST_ID).or_insert_with(|| ids.next());
}

/// A request that has to wait takes its head with it: as it came, its values are parts of the buffer that the head was read into,
/// and keep all of that.
pub fn move_out<B>(request: &mut Request<B>) {
    let path = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
    let length = path.len() + request.headers().values().map(HeaderValue::len).sum::<usize>();
    let mut all = Vec::with_capacity(length);
    all.extend_from_slice(path.as_bytes());
    for value in request.headers().values() {
        all.extend_from_slice(value.as_bytes());
    }
    let mut all = Bytes::from(all);
    let path = all.split_to(path.len());
    // What was good is good again; if it were not, it would stay where it is.
    let mut parts = request.uri().clone().into_parts();
    if let Ok(path) = PathAndQuery::from_maybe_shared(path) {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    for value in request.headers_mut().values_mut() {
        if let Ok(mut moved) = HeaderValue::from_maybe_shared(all.split_to(value.len())) {
            moved.set_sensitive(value.is_sensitive());
            *value = moved;
        }
    }
}

/// HTTP/2 may have cut the cookies into pieces; HTTP/1 has one header (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[&str]) -> HeaderMap {
        let pair = |it: &&str| {
            let (name, value) = it.split_once(": ").unwrap();
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in lines.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn check(lines: &[&str], expected: &[&str]) {
        let mut headers = map(lines);
        let connection = Connection::new([10, 0, 0, 7].into(), "https");
        let host = Some(HeaderValue::from_static("h"));
        to_worker(&mut headers, host, Some("/rp/chat"), &connection, &RequestIds::new());
        let always = [
            "host: h",
            "x-forwarded-host: h",
            "x-forwarded-for: 10.0.0.7",
            "x-forwarded-proto: https",
            "x-forwarded-prefix: /rp/chat",
            "forwarded: for=10.0.0.7;proto=https",
        ];
        if !lines.iter().any(|it| it.starts_with("x-request-id")) {
            assert_eq!(headers.remove(REQUEST_ID).unwrap().len(), 32);
        }
        assert_eq!(headers, map(&[&always, expected].concat()), "{lines:?}");
    }

    #[test]
    fn what_a_worker_gets() {
        check(&["accept: */*", "traceparent: 00-x"], &["accept: */*", "traceparent: 00-x"]);
        check(&["x-request-id: mine"], &["x-request-id: mine"]);
        check(&["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 2.2.2.2", "x-forwarded-port: 1"], &[]);
        check(&["forwarded: for=evil", "tenure-slot: 1", "expect: 100-continue"], &[]);
        check(
            &["connection: close, X-Hop,host, content-length", "x-hop: 1", "content-length: 3"],
            &["content-length: 3"],
        );
        check(&["keep-alive: 5", "proxy-connection: x", "transfer-encoding: chunked", "upgrade: x"], &[]);
        check(&["te: trailers", "trailer: x"], &["te: trailers", "trailer: x"]);
        check(&["te: gzip"], &[]);
        check(&["cookie: a=1", "cookie: b=2"], &["cookie: a=1; b=2"]);
    }

    #[test]
    fn what_waits_lets_go_of_what_it_was_read_into() {
        /// A buffer that says when nobody has a part of it any more.
        struct Buffer(&'static [u8], std::sync::mpsc::Sender<()>);
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                self.0
            }
        }
        impl Drop for Buffer {
            fn drop(&mut self) {
                self.1.send(()).ok();
            }
        }
        for (uri, version) in [("/a?b=c", http::Version::HTTP_11), ("http://h/a?b=c", http::Version::HTTP_2)]
        {
            let (sender, gone) = std::sync::mpsc::channel();
            let head = Bytes::from_owner(Buffer(b"/a?b=c one two  h", sender));
            let value = |from, to| HeaderValue::from_maybe_shared(head.slice(from..to)).unwrap();
            let mut request = Request::get(uri).version(version).body(()).unwrap();
            let mut parts = request.uri().clone().into_parts();
            parts.path_and_query = Some(PathAndQuery::from_maybe_shared(head.slice(0..6)).unwrap());
            *request.uri_mut() = Uri::from_parts(parts).unwrap();
            let mut secret = value(11, 14);
            secret.set_sensitive(true);
            for (name, value) in
                [("x-a", value(7, 10)), ("x-a", secret), ("x-empty", value(14, 14)), ("host", value(16, 17))]
            {
                request.headers_mut().append(name, value);
            }
            let before = (request.uri().clone(), request.headers().clone());
            move_out(&mut request);
            assert_eq!((request.uri(), request.headers()), (&before.0, &before.1));
            let secrets: Vec<bool> =
                request.headers().get_all("x-a").iter().map(HeaderValue::is_sensitive).collect();
            assert_eq!(secrets, [false, true]);
            drop((before, head));
            assert_eq!(gone.try_recv(), Ok(()), "{uri}");
        }
    }

    #[test]
    fn who_asks_for_another_protocol() {
        let asks = |lines: &[&str]| upgrade(&map(lines)).is_some();
        assert!(asks(&["connection: keep-alive, Upgrade", "upgrade: websocket"]));
        assert!(!asks(&["upgrade: websocket"]), "it has to be said twice");
        assert!(!asks(&["connection: upgrade, http2-settings", "upgrade: h2c"]));
    }
}
