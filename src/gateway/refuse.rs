//! Every reason for which the gateway itself answers, in one table: status, headers, body.
//!
//! 429 is the customer's limit, 503 with `Retry-After` is ours, 503 without says that trying again is no use.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::link::message::{Route, Serving};

/// Says which line of the table it was.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("tenure-reason");

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No endpoint has this host or path.
    Unknown,
    /// The endpoint's state says so.
    Stopped,
    /// The endpoint can't serve as it is.
    Unavailable,
    /// There is no worker, and no card to start one on.
    NoCard,
    /// Its workers end before they are ready.
    Crashing,
    /// The queue is full.
    QueueFull,
    /// All that is bought is in use.
    AtCapacity,
    /// It waited as long as it may.
    QueueTimeout,
    /// The gateway that hands out the endpoint's slots can't be reached, and there is nobody to name another.
    NoOwner,
    /// This gateway knows no routes yet: no leader has told it any, and it has kept none.
    NoRoutes,
    /// The endpoint wants a key, and there is none or another.
    BadKey,
    /// The key's requests for this second are used up.
    KeyRate,
    /// Two readers could understand two different requests.
    BadRequest,
    /// The names in the path are written so that two readers could understand two things.
    BadPath,
    /// Too many headers, or too long ones.
    HeadTooLarge,
    /// The head did not arrive in time.
    HeadTimeout,
    /// The body stopped arriving.
    BodyTimeout,
    /// No worker took the connection.
    Unreachable,
    /// The worker closed the connection or answered something that is not HTTP.
    WorkerBroke,
    /// The worker did not begin to answer in time.
    FirstByteTimeout,
    /// The request took longer than it may in all.
    TotalTimeout,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// In `tenure-reason`, bodies and metrics.
    pub code: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// `Retry-After`, seconds.
    pub retry_after_seconds: Option<u32>,
    /// gRPC status.
    pub grpc: u8,
    /// Is the connection closed, since nobody knows where the next request on it would begin?
    pub closes: bool,
    /// What the caller reads.
    pub message: &'static str,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 21] = [
        Reason::Unknown,
        Reason::Stopped,
        Reason::Unavailable,
        Reason::NoCard,
        Reason::Crashing,
        Reason::QueueFull,
        Reason::AtCapacity,
        Reason::QueueTimeout,
        Reason::NoOwner,
        Reason::NoRoutes,
        Reason::BadKey,
        Reason::KeyRate,
        Reason::BadRequest,
        Reason::BadPath,
        Reason::HeadTooLarge,
        Reason::HeadTimeout,
        Reason::BodyTimeout,
        Reason::Unreachable,
        Reason::WorkerBroke,
        Reason::FirstByteTimeout,
        Reason::TotalTimeout,
    ];

    /// Why an endpoint that serves like this refuses requests. Without a card for another worker, or while workers crash, it
    /// still answers with those that it has.
    pub fn of_serving(serving: Serving, has_workers: bool) -> Option<Reason> {
        match serving {
            Serving::Stopped => Some(Reason::Stopped),
            Serving::Unavailable => Some(Reason::Unavailable),
            Serving::NoCard if !has_workers => Some(Reason::NoCard),
            Serving::Crashing if !has_workers => Some(Reason::Crashing),
            Serving::Yes | Serving::NoCard | Serving::Crashing => None,
        }
    }

    /// Why this route refuses requests.
    pub fn of_route(route: &Route) -> Option<Reason> {
        Reason::of_serving(route.serving, !route.workers.is_empty())
    }

    /// Its line.
    #[rustfmt::skip]
    #[allow(clippy::too_many_lines, reason = "it is a table")]
    pub fn row(self) -> Row {
        let (code, status, retry, grpc, closes, message) = match self {
            Reason::Unknown => ("unknown", 404, None, 12, false, "no endpoint has this host or path"),
            Reason::Stopped => ("stopped", 503, None, 14, false, "the endpoint is stopped; start it with state: Running"),
            Reason::Unavailable => ("unavailable", 503, None, 14, false, "the endpoint can't serve; its conditions say why"),
            Reason::NoCard => ("no-card", 503, Some(30), 14, false, "no card is free to start a worker on"),
            Reason::Crashing => ("crashing", 503, Some(30), 14, false, "the endpoint's workers end before they are ready"),
            Reason::QueueFull => ("queue-full", 429, Some(1), 8, false, "the endpoint's queue is full"),
            Reason::AtCapacity => ("at-capacity", 429, Some(1), 8, false, "all that is bought is in use"),
            Reason::QueueTimeout => ("queue-timeout", 503, Some(5), 14, false, "no worker was free in time"),
            Reason::NoOwner => ("no-owner", 503, Some(2), 14, false, "nobody hands out the endpoint's slots at the moment"),
            Reason::NoRoutes => ("no-routes", 503, Some(1), 14, false, "this gateway has just started and knows no endpoint yet"),
            Reason::BadKey => ("bad-key", 401, None, 16, false, "send a key of the endpoint: Authorization: Bearer KEY, or x-api-key: KEY"),
            Reason::KeyRate => ("key-rate", 429, Some(1), 8, false, "the key's requests for this second are used up"),
            Reason::BadRequest => ("bad-request", 400, None, 3, true, "the request is not well-formed HTTP"),
            Reason::BadPath => ("bad-path", 400, None, 3, false, "write namespace and endpoint plainly: /NAMESPACE/ENDPOINT/"),
            Reason::HeadTooLarge => ("head-too-large", 431, None, 8, true, "the head has more headers, or is longer, than this gateway takes"),
            Reason::HeadTimeout => ("head-timeout", 408, None, 4, true, "the request's head did not arrive in time"),
            Reason::BodyTimeout => ("body-timeout", 408, None, 4, true, "the request's body stopped arriving"),
            Reason::Unreachable => ("unreachable", 503, Some(1), 14, false, "no worker took the connection"),
            Reason::WorkerBroke => ("worker-broke", 502, None, 14, false, "the worker broke off before it answered"),
            Reason::FirstByteTimeout => ("first-byte-timeout", 504, None, 4, false, "the worker did not begin to answer in time"),
            Reason::TotalTimeout => ("total-timeout", 504, None, 4, false, "the request took longer than it may"),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Row { code, status, retry_after_seconds: retry, grpc, closes, message }
    }
}

/// In which words the caller expects an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `{"reason", "message"}`.
    Plain,
    /// As OpenAI's API says it, since clients of that read the body.
    OpenAi,
    /// Trailers only.
    Grpc,
}

impl Style {
    /// The style for a request with these headers, that reaches the worker with this path.
    pub fn of(headers: &HeaderMap, path: &str) -> Style {
        if is_grpc(headers) {
            Style::Grpc
        } else if path.starts_with("/v1/") {
            Style::OpenAi
        } else {
            Style::Plain
        }
    }
}

/// Is it gRPC?
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"application/grpc"))
}

/// The answer for a reason. `retry_after_seconds` is said instead of the table's when the gateway knows better.
pub fn answer(reason: Reason, style: Style, retry_after_seconds: Option<u32>) -> Response<Bytes> {
    let row = reason.row();
    let body = match style {
        Style::Grpc => Bytes::new(),
        Style::Plain => format!("{{\"reason\":\"{}\",\"message\":\"{}\"}}\n", row.code, row.message).into(),
        Style::OpenAi => openai(&row),
    };
    let mut response = Response::new(body);
    let length = response.body().len();
    let headers = response.headers_mut();
    headers.insert(REASON_HEADER, HeaderValue::from_static(row.code));
    if row.retry_after_seconds.is_some() {
        let seconds = retry_after_seconds.or(row.retry_after_seconds).unwrap_or(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if row.closes && style != Style::Grpc {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if row.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if style == Style::Grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(row.grpc)));
        headers.insert("grpc-message", HeaderValue::from_static(row.message));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        *response.status_mut() = row.status;
    }
    response
}

fn openai(row: &Row) -> Bytes {
    let kind = match row.status.as_u16() {
        401 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let (code, message) = (row.code, row.message);
    let error = format!(
        "{{\"error\":{{\"message\":\"{message}\",\"type\":\"{kind}\",\"param\":null,\"code\":\"{code}\"}}}}\n"
    );
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "ALL is in order");
            let row = reason.row();
            assert!(row.code.bytes().all(|it| it.is_ascii_lowercase() || it == b'-'), "{}", row.code);
            assert!(
                !row.message.contains(['"', '\\', '%']),
                "{}: goes into JSON and grpc-message as it is",
                row.code
            );
            let plain = answer(reason, Style::Plain, None);
            let value: serde_json::Value = serde_json::from_slice(plain.body()).unwrap();
            assert_eq!(value["reason"], row.code);
            assert_eq!(value["message"], row.message);
            assert_eq!(plain.headers()[REASON_HEADER], row.code);
            assert_eq!(plain.headers().contains_key(RETRY_AFTER), row.retry_after_seconds.is_some());
            let openai = answer(reason, Style::OpenAi, None);
            assert_eq!(openai.status(), plain.status());
            let value: serde_json::Value = serde_json::from_slice(openai.body()).unwrap();
            assert_eq!(value["error"]["code"], row.code);
            assert!(value["error"]["param"].is_null());
            let grpc = answer(reason, Style::Grpc, None);
            assert_eq!(grpc.status(), StatusCode::OK);
            assert!(grpc.body().is_empty());
            assert_eq!(grpc.headers()["grpc-status"], row.grpc.to_string().as_str());
            match row.status.as_u16() {
                429 => assert!(row.retry_after_seconds.is_some(), "{}: when to come back", row.code),
                400 | 401 | 404 | 408 | 431 | 502 | 503 | 504 => (),
                other => panic!("{}: {other} is in no class of the table", row.code),
            }
        }
    }

    #[test]
    fn style_follows_what_the_worker_would_see() {
        let mut headers = HeaderMap::new();
        assert_eq!(Style::of(&headers, "/x"), Style::Plain);
        assert_eq!(Style::of(&headers, "/v1/chat/completions"), Style::OpenAi);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        assert_eq!(Style::of(&headers, "/v1/x"), Style::Grpc);
    }
}
