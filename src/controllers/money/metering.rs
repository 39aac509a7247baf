//! Writes down what is metered, and bills it: one loop in the leader, so that nothing of this is done twice at once.
//!
//! What passes have seen is written at once, as much as there is in one transaction. Every minute all workers that live are
//! confirmed. A UTC day is billed when nothing of it can come out otherwise any more (`domain::money::metering`), and the last one
//! when the endpoint and all its pods are gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::meter::{Meter, Name, object_of};
use super::{Money, contract_id};
use crate::cluster::read::{Caches, Kind};
use crate::controllers::{Context, Loop, TICK, endpoint, spot};
use crate::domain::money::calendar::whole_second;
use crate::ledger::{Error, UsageIn};

/// Workers that live are confirmed this often.
const CONFIRM_EVERY: SignedDuration = SignedDuration::from_secs(60);
/// Endpoints billed in one transaction: some thousands of rows.
const BILLED_AT_ONCE: usize = 500;
/// A ledger that did not answer is asked again after this, doubled each time, at most `MOST_PATIENCE`.
const PATIENCE: Duration = Duration::from_millis(500);
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// Meters until it is told to stop.
pub(in crate::controllers) async fn run(
    context: Arc<Context>,
    beat: Arc<impl Fn(Loop)>,
    stop: CancellationToken,
) {
    let meter = &context.money.meter;
    // Also what is gone is looked at once: its pods may have ended while nobody led.
    for it in meter.names() {
        context.caches.changes.contract(it.kind, &it.namespace, &it.name);
    }
    let mut tick = tokio::time::interval(TICK);
    let mut clock = Clock { confirmed: Timestamp::MIN, billed: None };
    let mut patience = PATIENCE;
    loop {
        beat(Loop::Metering);
        tokio::select! {
            () = stop.cancelled() => break,
            () = meter.news.notified() => (),
            _ = tick.tick() => (),
        }
        match round(&context, &mut clock).await {
            Ok(()) => patience = PATIENCE,
            Err(error) => {
                tracing::warn!(%error, "what is metered could not be written; it is kept and tried again");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(patience) => meter.news.notify_one(),
                }
                patience = (patience * 2).min(MOST_PATIENCE);
            }
        }
    }
    // What is not written now, the next leader sees itself.
    write(&context, false).await.ok();
}

/// When something was last done.
struct Clock {
    confirmed: Timestamp,
    billed: Option<Instant>,
}

async fn round(context: &Context, clock: &mut Clock) -> Result<(), Error> {
    let (caches, money) = (&context.caches, &context.money);
    let now = (context.now)();
    // The clock may have been moved.
    let confirms = now.duration_since(clock.confirmed) >= CONFIRM_EVERY;
    write(context, confirms).await?;
    if confirms {
        clock.confirmed = now;
    }
    if confirms || clock.billed.is_none_or(|it| it.elapsed() >= TICK) {
        clock.billed = Some(Instant::now());
        money.bill_usage(now, |name, uid| is_gone(caches, name, uid)).await?;
    }
    if confirms {
        // What is used changes how accounts stand.
        let changed = money.meter.sum_up();
        money.changed.fetch_or(changed, Ordering::Relaxed);
    }
    Ok(())
}

/// Writes what is not in the ledger yet, and confirms workers that live.
async fn write(context: &Context, confirms: bool) -> Result<(), Error> {
    let money = &context.money;
    let alive = if confirms { alive(&context.caches, &money.meter) } else { Vec::new() };
    for it in money.write_usage(alive, (context.now)()).await? {
        // Its pod may go now.
        context.caches.changes.contract(it.kind, &it.namespace, &it.name);
    }
    Ok(())
}

/// The running spans of workers and servers that live, and of disks that are there.
fn alive(caches: &Caches, meter: &Meter) -> Vec<String> {
    let mut ids = Vec::new();
    for (name, spans) in meter.running() {
        let alive = match name.kind {
            Kind::Spot => spot::alive(caches, &name),
            Kind::Endpoint | Kind::Pool | Kind::Group => endpoint::alive(caches, &name),
        };
        ids.extend(spans.into_iter().filter(|(_, it)| alive.contains(it)).map(|(id, _)| id));
    }
    ids
}

/// Is neither the endpoint or server there nor any pod of it?
fn is_gone(caches: &Caches, name: &Name, uid: &str) -> bool {
    let Name { kind, namespace, name } = name;
    let of_uid = |it: Option<&String>| it.is_some_and(|it| it == uid);
    let (there, label) = match kind {
        Kind::Spot => {
            let there = caches.spots.get(namespace, name).is_some_and(|it| of_uid(it.metadata.uid.as_ref()));
            (there || caches.spots.unreadable().iter().any(|it| of_uid(it.uid.as_ref())), "spot")
        }
        Kind::Endpoint | Kind::Pool | Kind::Group => {
            let there = caches.endpoints.get(namespace, name);
            let there = there.is_some_and(|it| of_uid(it.metadata.uid.as_ref()));
            (there || caches.endpoints.unreadable().iter().any(|it| of_uid(it.uid.as_ref())), "endpoint")
        }
    };
    let pods = caches.pods.under(&format!("{label}/{namespace}/{name}"));
    let owners = || pods.iter().flat_map(|it| it.metadata.owner_references.iter().flatten());
    !there && !owners().any(|it| it.uid == uid)
}

impl Money {
    /// Writes what is not in the ledger yet, in one transaction, and that these spans last. Endpoints whose workers have ended with it.
    pub(super) async fn write_usage(&self, alive: Vec<String>, now: Timestamp) -> Result<Vec<Name>, Error> {
        let at = self.at(now);
        let mut pending = self.meter.pending();
        for (name, uid) in &pending.contracts {
            let opened = self.ledger()?.open_contract(at, &contract_id(uid), &object_of(name), uid).await;
            let contract = opened.map_err(|it| self.seen(it))?;
            self.meter.opened(name, uid, contract.closed_at_ms.is_some());
        }
        if !pending.contracts.is_empty() {
            // What has still no contract has made news again.
            pending = self.meter.pending();
        }
        let until = whole_second(now);
        pending.measured.confirmed = (!alive.is_empty()).then(|| (until.as_millisecond(), alive));
        if pending.measured.is_empty() {
            return Ok(Vec::new());
        }
        self.ledger()?.measure(at, &pending.measured).await.map_err(|it| self.seen(it))?;
        if let Some((_, ids)) = &pending.measured.confirmed {
            self.meter.confirmed(ids, until);
        }
        Ok(self.meter.written(&pending))
    }

    /// Bills all that can be billed. `is_gone`: nothing of an endpoint is there any more.
    pub(super) async fn bill_usage(
        &self,
        now: Timestamp,
        is_gone: impl Fn(&Name, &str) -> bool,
    ) -> Result<(), Error> {
        for some in self.meter.due(now, is_gone).chunks(BILLED_AT_ONCE) {
            let billed = some.iter().flat_map(|it| &it.billed);
            let usage = UsageIn {
                charges: some.iter().flat_map(|it| it.charges.iter().cloned()).collect(),
                billed: billed.map(|(id, at)| (id.clone(), at.as_millisecond())).collect(),
                closed: some.iter().filter(|it| it.closes).map(|it| contract_id(&it.uid)).collect(),
            };
            // From here on it may count twice, until it is known to be written and counts as billed.
            let ledger = self.ledger()?;
            let was_unsure = self.unsure.swap(true, Ordering::SeqCst);
            let charged = ledger.charge_usage(self.at(now), &usage).await;
            if let Err(error) = charged {
                self.unsure.store(was_unsure || may_be_written(&error), Ordering::SeqCst);
                return Err(self.seen(error));
            }
            tracing::info!(lines = usage.charges.len(), closed = usage.closed.len(), "usage is billed");
            self.meter.billed(some);
            self.meter.sum_up();
            self.touched();
        }
        self.unsure.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// Is it unknown whether a write that ended so came through? Only a commit's answer can be lost.
fn may_be_written(error: &Error) -> bool {
    matches!(error, Error::Commit(_))
}
