//! The gateway's limits on the command line. What they add up to is in docs/gateway.md.

use std::time::Duration;

use clap::Args;

use crate::gateway::limits::Limits;

/// Limits of a gateway's HTTP side; each has a default that is right for most.
#[derive(Args, Debug)]
pub struct LimitOptions {
    /// Connections of clients, all listeners together. Who comes then waits in the kernel.
    #[arg(long, env = "TENURE_CONNECTIONS_MAX", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    connections_max: u32,
    /// Headers of a request; at most 256.
    #[arg(long, env = "TENURE_HEADERS_MAX", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=256))]
    headers_max: u16,
    /// Bytes of a request's head.
    #[arg(long, env = "TENURE_HEAD_BYTES_MAX", default_value_t = 32 * 1024, value_parser = clap::value_parser!(u32).range(1024..=1_048_576))]
    head_bytes_max: u32,
    /// Seconds for a TLS handshake, and for a head from its first byte to its last.
    #[arg(long, env = "TENURE_HEAD_SECONDS_MAX", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    head_seconds_max: u64,
    /// Seconds after which a connection without a request is closed.
    #[arg(long, env = "TENURE_KEEP_ALIVE_SECONDS", default_value_t = 75, value_parser = clap::value_parser!(u64).range(1..))]
    keep_alive_seconds: u64,
    /// Seconds between two pieces of a request's body, and for a client to take what it is sent.
    #[arg(long, env = "TENURE_BODY_SECONDS_MAX", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    body_seconds_max: u64,
    /// Streams of one HTTP/2 connection.
    #[arg(long, env = "TENURE_STREAMS_MAX", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    streams_max: u32,
    /// Seconds in which a worker must take a connection.
    #[arg(long, env = "TENURE_CONNECT_SECONDS_MAX", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    connect_seconds_max: u64,
    /// Connections to one worker that are kept for the next request.
    #[arg(long, env = "TENURE_IDLE_CONNECTIONS_MAX", default_value_t = 64)]
    idle_connections_max: usize,
}

impl LimitOptions {
    /// The limits, with this many seconds for requests to end at a stop.
    pub fn limits(&self, drain_seconds: u64) -> Limits {
        Limits {
            connections: usize::try_from(self.connections_max).unwrap_or(usize::MAX),
            headers: usize::from(self.headers_max),
            head_bytes: usize::try_from(self.head_bytes_max).unwrap_or(usize::MAX),
            head_timeout: Duration::from_secs(self.head_seconds_max),
            keep_alive_timeout: Duration::from_secs(self.keep_alive_seconds),
            body_timeout: Duration::from_secs(self.body_seconds_max),
            streams: self.streams_max,
            connect_timeout: Duration::from_secs(self.connect_seconds_max),
            idle_per_worker: self.idle_connections_max,
            drain: Duration::from_secs(drain_seconds),
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        limits: LimitOptions,
    }

    #[test]
    fn what_is_not_said_is_as_the_gateway_has_it() {
        let said = Alone::parse_from(["x"]).limits.limits(300);
        assert_eq!(format!("{said:?}"), format!("{:?}", Limits::default()));
    }
}
