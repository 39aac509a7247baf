//! Reads what a client sends before hyper does, and says how much of it hyper may see.
//!
//! hyper is a good parser and a poor border guard: it takes Content-Length beside Transfer-Encoding, bare line feeds, two Hosts
//! or none. What it takes we would forward, and the worker may read it differently. So every head on an HTTP/1 connection is
//! checked here, with the framing of the bodies between them. Bytes in, a verdict out; sockets are `edge.rs`'s.

use crate::gateway::limits::Limits;
use crate::gateway::refuse::Reason;

/// A chunk's size and extensions, or a trailer section's last line, are no longer than this.
const MOST_CHUNK_LINE_BYTES: usize = 1024;
/// More digits than this no chunk's size has: 2^60 bytes.
const MOST_CHUNK_DIGITS: usize = 15;

/// What follows in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A head, perhaps after one empty line.
    Head { after_blank: bool },
    /// So many bytes of a body.
    Body(u64),
    /// A chunk's size.
    ChunkSize,
    /// So many bytes of a chunk, and the line end behind it.
    Chunk(u64),
    /// Trailers, or the empty line.
    Trailers,
    /// Another protocol perhaps: the answer decides.
    Undecided,
    /// Another protocol.
    Through,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Good so far.
    Good,
    /// They break a rule, before hyper has seen anything of the request.
    Refuse(Reason),
    /// They break a rule in the middle of a body of which hyper has seen the head.
    Cut(Reason),
}

/// How far the stream is understood.
#[derive(Debug)]
pub struct Checker {
    state: State,
    /// Does the request whose body is being read ask for another protocol?
    upgrade: bool,
    /// So many bytes of an unfinished head have been looked at.
    scanned: usize,
    most_head_bytes: usize,
    most_headers: usize,
}

impl Checker {
    /// At the start of a connection.
    pub fn new(limits: &Limits) -> Checker {
        Checker {
            state: State::Head { after_blank: false },
            upgrade: false,
            scanned: 0,
            most_head_bytes: limits.head_bytes,
            most_headers: limits.headers,
        }
    }

    /// Nothing is checked from here on.
    pub fn pass_through(&mut self) {
        self.state = State::Through;
    }

    /// Does the stream stand still until it is known whether it becomes another protocol?
    pub fn is_undecided(&self) -> bool {
        self.state == State::Undecided
    }

    /// It stays HTTP.
    pub fn stays(&mut self) {
        self.state = State::Head { after_blank: false };
    }

    /// Is nothing checked any more?
    pub fn is_through(&self) -> bool {
        self.state == State::Through
    }

    /// Is it between two requests?
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Looks at `bytes`, all that has come and was not released before: so many of them may be released. What is not, is to
    /// be shown again with what comes next.
    pub fn advance(&mut self, bytes: &[u8]) -> (usize, Verdict) {
        let mut at = 0;
        // Where the request begins whose end has not been seen, if hyper has seen nothing of it.
        let mut begun = None;
        loop {
            if self.is_between() {
                begun = Some(at);
            }
            match self.step(&bytes[at..]) {
                Ok(Some(step)) => at += step,
                Ok(None) => return (at, Verdict::Good),
                Err(reason) => match begun {
                    Some(begun) => return (begun, Verdict::Refuse(reason)),
                    None => return (at, Verdict::Cut(reason)),
                },
            }
        }
    }

    /// The next piece's length, or `None` if it is not all there.
    fn step(&mut self, rest: &[u8]) -> Result<Option<usize>, Reason> {
        match self.state {
            State::Head { after_blank } => self.head(rest, after_blank),
            State::Body(left) => Ok(take(left, rest).inspect(|step| match left - *step as u64 {
                0 => self.ended(),
                left => self.state = State::Body(left),
            })),
            State::ChunkSize => {
                let Some(line) = line(rest, MOST_CHUNK_LINE_BYTES)? else { return Ok(None) };
                let size = chunk_size(&rest[..line - 2]).ok_or(Reason::BadRequest)?;
                self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                Ok(Some(line))
            }
            State::Chunk(0) => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(Some(2))
                }
                [] | [b'\r'] => Ok(None),
                _ => Err(Reason::BadRequest),
            },
            State::Chunk(left) => Ok(take(left, rest).inspect(|step| {
                self.state = State::Chunk(left - *step as u64);
            })),
            State::Trailers => self.trailers(rest),
            State::Undecided => Ok(None),
            State::Through => Ok(take(u64::MAX, rest)),
        }
    }

    fn head(&mut self, rest: &[u8], after_blank: bool) -> Result<Option<usize>, Reason> {
        match rest {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if after_blank => return Err(Reason::BadRequest),
            [b'\r', b'\n', ..] => {
                self.state = State::Head { after_blank: true };
                return Ok(Some(2));
            }
            _ => (),
        }
        let Some(end) = self.section(rest)? else { return Ok(None) };
        let framing = framing(&rest[..end], self.most_headers)?;
        self.upgrade = framing.upgrade;
        match framing.body {
            Body::Length(0) => self.ended(),
            Body::Length(length) => self.state = State::Body(length),
            Body::Chunked => self.state = State::ChunkSize,
        }
        Ok(Some(end))
    }

    fn trailers(&mut self, rest: &[u8]) -> Result<Option<usize>, Reason> {
        let end = match rest {
            [b'\r', b'\n', ..] => 2,
            [] | [b'\r'] => return Ok(None),
            _ => match self.section(rest)? {
                Some(end) => {
                    check_trailers(&rest[..end], self.most_headers)?;
                    end
                }
                None => return Ok(None),
            },
        };
        self.ended();
        Ok(Some(end))
    }

    /// The request has been read to its end.
    fn ended(&mut self) {
        self.state = if self.upgrade { State::Undecided } else { State::Head { after_blank: false } };
        self.upgrade = false;
    }

    /// Finds the empty line that ends a section of fields. Lines end with CR LF and in no other way.
    fn section(&mut self, rest: &[u8]) -> Result<Option<usize>, Reason> {
        let from = self.scanned.min(rest.len());
        for (at, byte) in rest.iter().enumerate().skip(from) {
            match byte {
                b'\n' if at == 0 || rest[at - 1] != b'\r' => return Err(Reason::BadRequest),
                b'\n' if at >= 3 && rest[at - 3..at] == *b"\r\n\r" => {
                    self.scanned = 0;
                    return if at < self.most_head_bytes {
                        Ok(Some(at + 1))
                    } else {
                        Err(Reason::HeadTooLarge)
                    };
                }
                b'\n' | b'\t' | b' '..=b'~' | 0x80.. => (),
                b'\r' if rest.get(at + 1).is_none_or(|it| *it == b'\n') => (),
                0..=0x1f | 0x7f => return Err(Reason::BadRequest),
            }
        }
        // A carriage return at the end is looked at again, with what follows it.
        self.scanned = rest.len().saturating_sub(1);
        if rest.len() >= self.most_head_bytes { Err(Reason::HeadTooLarge) } else { Ok(None) }
    }
}

/// Of `left` bytes, those that are there.
fn take(left: u64, rest: &[u8]) -> Option<usize> {
    let step = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    (step > 0).then_some(step)
}

/// The length of the line at the start, its end included.
fn line(rest: &[u8], most: usize) -> Result<Option<usize>, Reason> {
    for (at, byte) in rest.iter().enumerate().take(most) {
        match byte {
            b'\n' if at > 0 && rest[at - 1] == b'\r' => return Ok(Some(at + 1)),
            b'\r' if rest.get(at + 1).is_none_or(|it| *it == b'\n') => (),
            b'\t' | b' '..=b'~' | 0x80.. => (),
            _ => return Err(Reason::BadRequest),
        }
    }
    if rest.len() >= most { Err(Reason::BadRequest) } else { Ok(None) }
}

/// The size of a chunk, from its line without the line end. Extensions are allowed and mean nothing.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|it| it.is_ascii_hexdigit()).count();
    let follows = line.get(digits);
    if digits == 0 || digits > MOST_CHUNK_DIGITS || follows.is_some_and(|it| *it != b';') {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

enum Body {
    Length(u64),
    Chunked,
}

struct Framing {
    body: Body,
    upgrade: bool,
}

/// The framing fields of a head, each counted.
#[derive(Default)]
struct Fields<'a> {
    length: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    upgrade: bool,
}

/// What a head says about what follows it, or why it is refused.
fn framing(head: &[u8], most_headers: usize) -> Result<Framing, Reason> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let room = headers.len().min(most_headers);
    let mut request = httparse::Request::new(&mut headers[..room]);
    match request.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => (),
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeadTooLarge),
        Ok(_) | Err(_) => return Err(Reason::BadRequest),
    }
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Reason::BadRequest);
    };
    let fields = fields(request.headers)?;
    check_target(method, path, version, fields.host)?;
    let body = match (fields.length, fields.encoding) {
        (None, None) => Body::Length(0),
        (Some(length), None) => Body::Length(decimal(length).ok_or(Reason::BadRequest)?),
        (None, Some(encoding)) if version == 1 && encoding.eq_ignore_ascii_case(b"chunked") => Body::Chunked,
        (None | Some(_), Some(_)) => return Err(Reason::BadRequest),
    };
    Ok(Framing { body, upgrade: fields.upgrade && version == 1 })
}

fn fields<'a>(headers: &[httparse::Header<'a>]) -> Result<Fields<'a>, Reason> {
    let mut fields = Fields::default();
    for header in headers {
        let field = match header.name.len() {
            4 if header.name.eq_ignore_ascii_case("host") => &mut fields.host,
            14 if header.name.eq_ignore_ascii_case("content-length") => &mut fields.length,
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => &mut fields.encoding,
            7 if header.name.eq_ignore_ascii_case("upgrade") => {
                fields.upgrade = true;
                continue;
            }
            _ => continue,
        };
        if field.replace(header.value).is_some() {
            return Err(Reason::BadRequest);
        }
    }
    Ok(fields)
}

/// The request line and `Host` must name one and the same host.
fn check_target(method: &str, path: &str, version: u8, host: Option<&[u8]>) -> Result<(), Reason> {
    let host = match host {
        Some(host) if is_host(host) => Some(host),
        None if version == 0 => None,
        Some(_) | None => return Err(Reason::BadRequest),
    };
    if method == "CONNECT" || path.contains('#') {
        return Err(Reason::BadRequest);
    }
    if path.starts_with('/') || path == "*" {
        return Ok(());
    }
    let (scheme, rest) = path.split_once("://").ok_or(Reason::BadRequest)?;
    let authority = rest.split(['/', '?']).next().unwrap_or_default().as_bytes();
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if known && is_host(authority) && host.is_none_or(|it| it.eq_ignore_ascii_case(authority)) {
        Ok(())
    } else {
        Err(Reason::BadRequest)
    }
}

/// A name or address, perhaps with a port; no user, no list.
pub fn is_host(host: &[u8]) -> bool {
    let good = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= 300 && host.iter().all(good)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |sum, it| sum * 10 + u64::from(it - b'0')))
}

fn check_trailers(section: &[u8], most_headers: usize) -> Result<(), Reason> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let room = headers.len().min(most_headers);
    let parsed = match httparse::parse_headers(section, &mut headers[..room]) {
        Ok(httparse::Status::Complete((length, parsed))) if length == section.len() => parsed,
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::HeadTooLarge),
        Ok(_) | Err(_) => return Err(Reason::BadRequest),
    };
    let frames = |it: &httparse::Header| {
        let name = it.name;
        ["content-length", "transfer-encoding", "host"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    if parsed.iter().any(frames) { Err(Reason::BadRequest) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows the stream to a checker in pieces of every size: `released` bytes, then the verdict.
    fn check(stream: &str, released: usize, expected: Verdict) {
        let whole = Checker::new(&Limits::default()).advance(stream.as_bytes());
        assert_eq!(whole, (released, expected), "{stream:?}");
        for size in [1, 2, 3, 7] {
            let mut checker = Checker::new(&Limits::default());
            let (mut held, mut seen, mut verdict) = (Vec::new(), 0, Verdict::Good);
            for piece in stream.as_bytes().chunks(size) {
                held.extend_from_slice(piece);
                let (step, said) = checker.advance(&held);
                held.drain(..step);
                seen += step;
                verdict = said;
                if said != Verdict::Good {
                    break;
                }
            }
            match (expected, verdict) {
                // In pieces, the head is gone before the body turns out bad.
                (Verdict::Refuse(expected), Verdict::Cut(found)) => assert_eq!(found, expected),
                (expected, found) => assert_eq!((found, seen), (expected, released), "{stream:?} by {size}"),
            }
        }
    }

    #[test]
    fn good_streams_pass_whole() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n";
        let trailers = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nx: y\r\n\r\n";
        let absolute = "GET http://A:80/x HTTP/1.1\r\nHost: a:80\r\n\r\n";
        let old = "GET / HTTP/1.0\r\n\r\n";
        let all = [get, post, chunked, trailers, absolute, old, post, chunked, trailers, get].concat();
        for stream in [get, post, chunked, trailers, absolute, old, &all, &format!("{post}\r\n{get}")] {
            check(stream, stream.len(), Verdict::Good);
        }
        check("GET / HTTP/1.1\r\nHost: a", 0, Verdict::Good);
        check(&format!("{get}GET"), get.len(), Verdict::Good);
    }

    #[test]
    fn what_comes_before_a_bad_request_is_released() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        check(&format!("{get}GET / HTTP/1.1\r\n\r\n"), get.len(), Verdict::Refuse(Reason::BadRequest));
        check(&format!("{get}GET / HTTP/1.1\n"), get.len(), Verdict::Refuse(Reason::BadRequest));
    }

    #[test]
    fn nothing_passes_while_a_protocol_is_undecided() {
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n";
        let stream = format!("{upgrade}GET / HTTP/1.1\r\n\r\n");
        check(&stream, upgrade.len(), Verdict::Good);
        let mut checker = Checker::new(&Limits::default());
        checker.advance(upgrade.as_bytes());
        assert!(checker.is_undecided());
        checker.stays();
        assert_eq!(checker.advance(b"GET / HTTP/1.1\r\n\r\n"), (0, Verdict::Refuse(Reason::BadRequest)));
    }
}
