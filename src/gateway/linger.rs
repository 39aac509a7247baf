//! A slot ends when the worker is done with the request, not when the client has had enough.
//!
//! A request that is cut off half-way leaves its worker working. We close our half of the connection, which tells the worker,
//! and keep the slot until it closes its half, which tells us; or for as long as a worker that has to go may take.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::gateway::admit::Slot;
use crate::gateway::pool::{Line, Voice};

/// A slot is kept at least so long while its worker does not close.
const LEAST: Duration = Duration::from_secs(30);

/// Keeps the slot of a request that was cut off until the worker is done with it.
pub fn linger(line: Line, slot: Slot, drain: Duration) {
    // Without a runtime the process ends, and with it all its slots.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let wait = drain.max(LEAST);
        let done = timeout(wait, async {
            let stream = match line.voice {
                Voice::Http1 { sender, driver, .. } => {
                    drop(sender);
                    Some(driver.into_parts().io.into_inner())
                }
                Voice::Http2 { sender, driver } => {
                    drop(sender);
                    driver.await.ok().flatten()
                }
            };
            if let Some(stream) = stream {
                until_closed(stream).await;
            }
        });
        if done.await.is_err() {
            tracing::warn!(worker = %slot.worker.id, "a worker did not end a request that was cut off; its slot is given back");
        }
        drop(slot);
    });
}

/// Closes our half, and waits for the other's end.
pub async fn until_closed(mut stream: TcpStream) {
    // An error here is an end too.
    let _ = stream.shutdown().await;
    let mut waste = vec![0; 16 * 1024];
    while let Ok(1..) = stream.read(&mut waste).await {}
}
