//! The lines between gateways: this one asks owners for slots, and answers who asks it.
//!
//! Each gateway keeps one line to each other one. Who opens a line tells on it all that counts (`Endpoint::line_up`), so a line
//! that was down for a while has missed nothing.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::table::Endpoints;
use crate::domain::slots::Holder;
use crate::link::frame;
use crate::link::message::{EndpointKey, FromOwner, Greeting, NotGranted, ToOwner};
use crate::link::tls::Identity;

/// A line says something at least this often.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A line on which nothing came for so long is down; and a gateway without a line for so long is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Waits between two tries to connect: from, to.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Keeps a line to every other gateway, for ever.
pub async fn keep_lines(gateway: Arc<Endpoints>, identity: Identity) {
    let mut replicas = gateway.replicas();
    let mut lines: HashMap<String, (String, AbortHandle)> = HashMap::new();
    loop {
        let wanted: BTreeMap<String, String> = replicas.borrow_and_update().clone();
        lines.retain(|replica, (address, line)| {
            let keep = wanted.get(replica) == Some(address);
            if !keep {
                line.abort();
            }
            keep
        });
        for (replica, address) in wanted {
            if *replica != *gateway.shared.me && !lines.contains_key(&replica) {
                let line = keep_line(gateway.clone(), identity.clone(), replica.clone(), address.clone());
                lines.insert(replica, (address, tokio::spawn(line).abort_handle()));
            }
        }
        if replicas.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_line(gateway: Arc<Endpoints>, identity: Identity, replica: String, address: String) {
    let mut wait = RETRY.0;
    loop {
        match in_time(identity.connect(&address)).await {
            Ok(stream) => {
                let began = tokio::time::Instant::now();
                let ended = line(&gateway, stream, &replica).await;
                tracing::info!(
                    replica,
                    ended = ended.err().map(|it| it.to_string()),
                    "line to gateway is down"
                );
                if began.elapsed() > RETRY.1 {
                    wait = RETRY.0;
                }
            }
            Err(error) => tracing::debug!(replica, address, %error, "no line to gateway"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
}

/// Closes a line out when it ends, also when its task is aborted.
struct Out<'a> {
    gateway: &'a Endpoints,
    replica: &'a str,
    number: u64,
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.gateway.shared.lines.closed_out(self.replica, self.number);
    }
}

/// Asks the gateway at the other end, until the line is down.
pub async fn line<S>(gateway: &Endpoints, stream: S, replica: &str) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut from, mut to) = tokio::io::split(stream);
    frame::write(&mut to, &Greeting::Gateway { replica: gateway.shared.me.to_string() }).await?;
    let (send, mut messages) = unbounded_channel();
    let number = gateway.shared.lines.opened_out(replica, send);
    let _out = Out { gateway, replica, number };
    let now_ms = gateway.now_ms();
    for endpoint in gateway.all() {
        endpoint.line_up(replica, now_ms);
    }
    tracing::info!(replica, "line to gateway is up");
    let listening = async {
        while let Some(answer) = next::<FromOwner>(&mut from).await? {
            let key = match &answer {
                FromOwner::Granted { endpoint, .. } | FromOwner::Refused { endpoint, .. } => endpoint,
                FromOwner::Pong => continue,
            };
            match (gateway.find(key), &answer) {
                (Some(endpoint), _) => endpoint.answered(replica, &answer, gateway.now_ms()),
                (None, FromOwner::Granted { endpoint, worker, .. }) => {
                    let (endpoint, worker) = (endpoint.clone(), worker.clone());
                    let release = ToOwner::Release { endpoint, worker, unreachable: false };
                    gateway.shared.lines.ask(replica, release);
                }
                (None, _) => (),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = listening => ended,
        ended = speak(&mut to, &mut messages, Some(&ToOwner::Ping)) => ended,
    }
}

/// Answers the gateway at the other end, until the line is down; what it holds is given back when it stays away.
pub async fn serve<S>(gateway: Arc<Endpoints>, stream: S, replica: String) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let (send, mut messages) = unbounded_channel();
    let holder = Holder::from(replica.as_str());
    let number = gateway.shared.lines.opened_back(&replica, send);
    // A line that is down may not have been noticed yet.
    for endpoint in gateway.all() {
        endpoint.lost(&holder);
    }
    let listening = async {
        while let Some(message) = next::<ToOwner>(&mut from).await? {
            asked(&gateway, &holder, &message);
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = listening => ended,
        ended = speak(&mut to, &mut messages, None::<&FromOwner>) => ended,
    };
    if gateway.shared.lines.closed_back(&replica, number) {
        for endpoint in gateway.all() {
            endpoint.lost(&holder);
        }
        // One that was silent for so long has had its time.
        if !ended.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::TimedOut) {
            tokio::time::sleep(SILENCE_MAX).await;
        }
        if !gateway.shared.lines.has_back(&replica) {
            tracing::warn!(replica, "gateway is gone; what it had in workers counts as ended");
            for endpoint in gateway.all() {
                endpoint.gone(&holder);
            }
        }
    }
    ended
}

fn asked(gateway: &Endpoints, holder: &Holder, message: &ToOwner) {
    let now_ms = gateway.now_ms();
    let find = |key: &EndpointKey| gateway.find(key);
    match message {
        ToOwner::Ping => gateway.shared.lines.answer(holder, FromOwner::Pong),
        ToOwner::Owns { endpoint, epoch } => {
            if let Some(it) = find(endpoint) {
                it.owned_by(holder, *epoch, now_ms);
            }
        }
        ToOwner::Acquire { endpoint, epoch, ticket, .. } => match find(endpoint) {
            Some(it) => it.asked(holder, message, now_ms),
            None => gateway.shared.lines.answer(
                holder,
                FromOwner::Refused {
                    endpoint: endpoint.clone(),
                    epoch: *epoch,
                    ticket: *ticket,
                    why: NotGranted::NotOwner { known: 0 },
                },
            ),
        },
        ToOwner::Holds { endpoint, .. }
        | ToOwner::Cancel { endpoint, .. }
        | ToOwner::Release { endpoint, .. } => {
            if let Some(it) = find(endpoint) {
                it.asked(holder, message, now_ms);
            }
        }
    }
}

/// The next message; an error when nothing comes for too long.
pub(super) async fn next<T: serde::de::DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    in_time(frame::read(from)).await
}

/// The line's own patience with whatever it does.
pub(super) async fn in_time<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(SILENCE_MAX, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends what comes, all that is there in one write, and the ping (if there is one) when nothing does.
async fn speak<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    messages: &mut UnboundedReceiver<T>,
    ping: Option<&T>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        let mut bytes = Vec::new();
        tokio::select! {
            count = messages.recv_many(&mut batch, 256) => {
                if count == 0 {
                    return Ok(());
                }
                for message in batch.drain(..) {
                    bytes.extend(frame::encode(&message)?);
                }
            }
            () = tokio::time::sleep(PING_EVERY), if ping.is_some() => bytes.extend(frame::encode(&ping)?),
        }
        in_time(async {
            to.write_all(&bytes).await?;
            to.flush().await
        })
        .await?;
    }
}

/// Forgets gateways that a new owner waits for and that don't come, for ever.
pub async fn forget_absent(gateway: Arc<Endpoints>) {
    let silence_ms = u64::try_from(SILENCE_MAX.as_millis()).unwrap_or(u64::MAX);
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let Some(until) = gateway.now_ms().checked_sub(silence_ms) else { continue };
        for endpoint in gateway.all() {
            for holder in endpoint.overdue(until) {
                tracing::warn!(endpoint = %endpoint.key(), holder = &*holder, "gateway does not say what it holds; it counts as gone");
                endpoint.gone(&holder);
            }
        }
    }
}
