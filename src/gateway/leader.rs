//! The leader's line: it tells this gateway its routes, and hears what the endpoints have to do.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::peers::{self, in_time, next};
use super::table::Endpoints;
use crate::link::frame;
use crate::link::message::{Demand, FromGateway, Greeting, ToGateway};
use crate::link::tls::{self, Identity};

/// All demand is reported at least this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// And no more often than this, but the first change at once.
const GATHER: Duration = Duration::from_millis(10);

/// The lines that come in: the leader's, and those of other gateways.
pub struct Listener {
    gateway: Arc<Endpoints>,
    identity: Identity,
    /// The leader that has a line: since when it leads, and what ends its line.
    leader: Mutex<Option<(u64, CancellationToken)>>,
    /// This gateway stops.
    leaving: CancellationToken,
}

impl Listener {
    /// For this gateway.
    pub fn new(gateway: Arc<Endpoints>, identity: Identity, leaving: CancellationToken) -> Arc<Listener> {
        Arc::new(Listener { gateway, identity, leader: Mutex::default(), leaving })
    }

    /// Takes lines, for ever.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let it = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = it.take(stream).await {
                            tracing::info!(%from, %error, "a line is down");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't take lines");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn take(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = in_time(self.identity.accept(stream)).await?;
        let greeting = next::<Greeting>(&mut stream).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let name = match &greeting {
            Greeting::Gateway { .. } => tls::GATEWAY_NAME,
            Greeting::Leader { .. } => tls::OPERATOR_NAME,
        };
        tls::is_called(&stream, name)?;
        match greeting {
            Greeting::Gateway { replica } => peers::serve(self.gateway.clone(), stream, replica).await,
            Greeting::Leader { since_ms } => self.follow(stream, since_ms).await,
        }
    }

    /// Follows a leader, unless one that came later is there already.
    pub async fn follow<S: AsyncRead + AsyncWrite>(&self, stream: S, since_ms: u64) -> io::Result<()> {
        let replaced = CancellationToken::new();
        {
            let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((since, line)) = &*leader {
                if *since > since_ms && !line.is_cancelled() {
                    return Err(io::Error::other("another leader came later"));
                }
                line.cancel();
            }
            *leader = Some((since_ms, replaced.clone()));
        }
        // A line that has ended is in nobody's way.
        let _ended = replaced.clone().drop_guard();
        tracing::info!("the leader's line is up");
        let (mut from, mut to) = tokio::io::split(stream);
        let hello = FromGateway::Hello {
            replica: self.gateway.shared.me.to_string(),
            epoch_seen: self.gateway.epoch_seen(),
        };
        frame::write(&mut to, &hello).await?;
        let listening = async {
            while let Some(news) = next::<ToGateway>(&mut from).await? {
                self.gateway.hear(news);
            }
            Ok(())
        };
        tokio::select! {
            ended = listening => ended,
            ended = report(&self.gateway, &mut to, &self.leaving) => ended,
            () = replaced.cancelled() => Err(io::Error::other("another leader came later")),
        }
    }
}

/// Reports what endpoints have to do.
async fn report(
    gateway: &Endpoints,
    to: &mut (impl AsyncWrite + Unpin),
    leaving: &CancellationToken,
) -> io::Result<()> {
    let mut all_at = Instant::now();
    let mut said_leaving = false;
    loop {
        let all = tokio::select! {
            () = gateway.shared.demand_changed.notified() => false,
            () = tokio::time::sleep_until(all_at) => true,
            () = leaving.cancelled(), if !said_leaving => {
                said_leaving = true;
                frame::write(to, &FromGateway::Leaving).await?;
                continue;
            }
        };
        let changed = {
            let mut dirty = gateway.shared.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *dirty)
        };
        let demand: Vec<Demand> = if all {
            all_at = Instant::now() + REPORT_EVERY;
            gateway.all().iter().filter_map(|it| it.demand()).collect()
        } else {
            changed.iter().filter_map(|it| gateway.find(it)?.demand()).collect()
        };
        if all || !demand.is_empty() {
            frame::write(to, &FromGateway::Demand(demand)).await?;
        }
        tokio::time::sleep(GATHER).await;
    }
}
