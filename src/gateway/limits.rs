//! How much of everything one gateway takes.
//!
//! What clients can make us hold is the product of these; docs/gateway.md adds it up.

use std::time::Duration;

/// The limits of a gateway's HTTP side.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections of clients, all listeners together. Who comes then waits in the kernel.
    pub connections: usize,
    /// Headers of a request, and of a trailer section; at most 256.
    pub headers: usize,
    /// Bytes of a request's head, HTTP/1.
    pub head_bytes: usize,
    /// Bytes of a request's header list, HTTP/2.
    pub header_list_bytes: u32,
    /// What is buffered of one HTTP/1 connection in each direction.
    pub buffer_bytes: usize,
    /// For a TLS handshake, and for a head from its first byte to its last.
    pub head_timeout: Duration,
    /// A connection without a request is closed after this.
    pub keep_alive_timeout: Duration,
    /// Between two pieces of a request's body, while we want more; and for a client to take what we write.
    pub body_timeout: Duration,
    /// Streams of one HTTP/2 connection.
    pub streams: u32,
    /// Bytes in flight of one HTTP/2 stream.
    pub stream_window_bytes: u32,
    /// Bytes in flight of one HTTP/2 connection.
    pub connection_window_bytes: u32,
    /// Streams that were reset before we looked at them, and streams that we reset for the client's errors.
    pub resets: usize,
    /// An HTTP/2 connection on which nothing moves is asked whether it lives; no answer in the same time closes it.
    pub ping_interval: Duration,
    /// For a worker to take a connection.
    pub connect_timeout: Duration,
    /// Workers that a request tries, while it has been sent to none.
    pub attempts: u32,
    /// Connections to one worker that are kept for the next request.
    pub idle_per_worker: usize,
    /// For how long they are kept. Servers close after 5 s without saying so (uvicorn does): this must be less.
    pub idle_worker_timeout: Duration,
    /// At a stop, for requests to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            headers: 100,
            head_bytes: 32 * 1024,
            header_list_bytes: 16 * 1024,
            buffer_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_mins(1),
            streams: 200,
            stream_window_bytes: 64 * 1024,
            connection_window_bytes: 1024 * 1024,
            resets: 100,
            ping_interval: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(2),
            attempts: 3,
            idle_per_worker: 64,
            idle_worker_timeout: Duration::from_secs(4),
            drain: Duration::from_mins(5),
        }
    }
}
