//! WebSocket and other protocols that begin as HTTP: after the worker's 101, bytes are copied both ways and mean nothing to us.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::gateway::admit::Slot;
use crate::gateway::exchange::Clocks;
use crate::gateway::linger::until_closed;

/// A worker's end of a tunnel.
pub struct Far {
    /// The connection.
    pub stream: TcpStream,
    /// What the worker has said on it already.
    pub read: Bytes,
    /// Its slot lives as long as the tunnel.
    pub slot: Slot,
}

/// Copies until both sides have ended, a clock stops it, or the gateway does.
pub async fn tunnel(client: OnUpgrade, far: Far, clocks: Clocks, cut: CancellationToken) {
    let Far { mut stream, read, slot } = far;
    if let Ok(client) = client.await {
        let moved = Arc::new(Moved::default());
        let (client_reads, mut client_writes) = tokio::io::split(TokioIo::new(client));
        let (worker_reads, worker_writes) = stream.split();
        let both = async {
            client_writes.write_all(&read).await?;
            client_writes.flush().await?;
            tokio::try_join!(
                copy(client_reads, worker_writes, &moved),
                copy(worker_reads, client_writes, &moved)
            )
        };
        tokio::select! {
            result = both => if let Err(error) = result {
                tracing::debug!(%error, "a tunnel broke");
            },
            () = too_long(&moved, clocks) => (),
            () = cut.cancelled() => (),
        }
    }
    // The worker is done when it says so.
    let wait = clocks.drain().max(Duration::from_secs(30));
    let _ = tokio::time::timeout(wait, until_closed(stream)).await;
    drop(slot);
}

/// How much has moved, in both directions.
#[derive(Default)]
struct Moved(AtomicU64);

async fn copy<R, W>(mut from: R, mut to: W, moved: &Moved) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        moved.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends when nothing has moved for the idle time, or the total time is over.
async fn too_long(moved: &Moved, clocks: Clocks) {
    let mut before = moved.0.load(Ordering::Relaxed);
    loop {
        let idle = clocks.idle().map(|it| Instant::now() + it);
        let Some(next) = idle.into_iter().chain(clocks.total()).min() else {
            return std::future::pending().await;
        };
        sleep_until(next).await;
        let now = moved.0.load(Ordering::Relaxed);
        if clocks.total().is_some_and(|it| it <= next) || now == before {
            return;
        }
        before = now;
    }
}
