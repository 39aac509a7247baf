//! Owners are told outside of the cluster too: a loop of the leader writes down what passes have seen (`money/outbox`), says where
//! it goes (`Account.spec.notify`), and sends it until it is there or given up.
//!
//! At least once: a try is written down after it, so who dies between sends the same id again. How it is sent is in `notify`.

pub(super) mod content;
mod measure;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use prometheus::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Context, Loop, TICK};
use crate::api::Account;
use crate::api::account::Notify as Target;
use crate::api::condition::{Conditions, Reason, Type};
use crate::ledger::{Delivery, DeliveryState, Error};
use crate::notify::email::Mailer;
use crate::notify::webhook::Webhooks;
use crate::notify::{Letter, Undelivered};
use measure::Measures;

/// Tries at one delivery: with the waits between them three days.
const ATTEMPTS_MAX: u32 = 20;
/// The first wait; each is three times the one before.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// But none is longer.
const WAIT_MAX: Duration = Duration::from_hours(6);
/// Targets that are written to at once.
const TARGETS_AT_ONCE: usize = 8;
/// Deliveries tried in one round: the loop must come round in time, also when nobody answers.
const DELIVERIES_AT_ONCE: usize = 64;
/// Of them to one target: at a time, one after the other.
const LETTERS_TO_ONE: usize = 8;
/// Old notices are looked for this often.
const FORGET_EVERY: Duration = Duration::from_hours(1);
/// A ledger that did not answer is asked again after this, doubled each time, at most `MOST_PATIENCE`.
const PATIENCE: Duration = Duration::from_millis(500);
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// What sends.
pub struct Senders {
    /// Email; `None` without a mail server.
    pub mailer: Option<Mailer>,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// The time that others have too: signatures are good for minutes.
    pub real_now: fn() -> Timestamp,
}

/// What is on its way to whom, and how that goes.
pub struct Notices {
    senders: Senders,
    measures: Measures,
    /// Accounts and targets of which the last try failed, and how.
    trouble: Mutex<BTreeMap<(String, String), String>>,
}

impl Notices {
    /// Registers its metrics.
    pub(super) fn new(senders: Senders, registry: &Registry) -> prometheus::Result<Notices> {
        Ok(Notices { senders, measures: Measures::new(registry)?, trouble: Mutex::default() })
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A target as the ledger keeps it.
fn name(target: &Target) -> String {
    match (&target.email, &target.webhook) {
        (Some(email), _) => format!("email:{email}"),
        (None, Some(webhook)) => format!("webhook:{}", webhook.url),
        (None, None) => "nobody".to_owned(),
    }
}

/// A target as others may read it: a webhook's path is often its secret. `entries`: of the account's `spec.notify`.
fn shown(entries: &[Target], target: &str) -> String {
    let place = match target.strip_prefix("webhook:").map(str::parse::<http::Uri>) {
        None => target.to_owned(),
        Some(Ok(uri)) if uri.scheme().is_some() && uri.host().is_some() => {
            format!("webhook:{}://{}", uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default())
        }
        Some(_) => "webhook".to_owned(),
    };
    match entries.iter().position(|it| name(it) == target) {
        Some(at) => format!("spec.notify[{at}] {place}"),
        None => place,
    }
}

fn targets(account: &Account) -> BTreeSet<String> {
    account.spec.notify.iter().map(name).collect()
}

/// How long to wait after so many tries.
fn wait(attempts: u32) -> Duration {
    let times = 3_u32.checked_pow(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(times).min(WAIT_MAX)
}

/// Says whether all its targets can be reached. It is not part of Ready: what is sold does not depend on a mail server.
pub(super) fn report(context: &Context, account: &Account, conditions: &mut Conditions<'_>) {
    if account.spec.notify.is_empty() {
        return;
    }
    let trouble = context.notices.trouble();
    let of = |target: &Target| {
        let name = name(target);
        if target.email.is_some() && context.notices.senders.mailer.is_none() {
            return Some(format!("{}: {NO_MAIL_SERVER}", shown(&account.spec.notify, &name)));
        }
        let why = trouble.get(&(account.name_any(), name.clone()))?;
        Some(format!("{}: {why}", shown(&account.spec.notify, &name)))
    };
    let failing: Vec<String> = account.spec.notify.iter().filter_map(of).collect();
    if failing.is_empty() {
        conditions.set(Type::Notified, Some(true), Reason::Delivered, "what was sent has arrived");
    } else {
        conditions.set(Type::Notified, Some(false), Reason::Undelivered, failing.join("; "));
    }
}

const NO_MAIL_SERVER: &str = "the operator has no mail server: start it with --smtp";

/// A delivery that is not there yet, and when it is tried again.
struct Waiting {
    delivery: Delivery,
    due: Instant,
}

/// Tells owners until it is told to stop.
pub(super) async fn run(context: Arc<Context>, beat: Arc<impl Fn(Loop)>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    let mut waiting: Option<Vec<Waiting>> = None;
    let mut forgotten: Option<Instant> = None;
    let mut patience = PATIENCE;
    loop {
        beat(Loop::Notices);
        let next = waiting.iter().flatten().map(|it| it.due).min();
        tokio::select! {
            () = stop.cancelled() => break,
            () = context.money.outbox.news.notified() => (),
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => (),
            _ = tick.tick() => (),
        }
        let done = tokio::select! {
            () = stop.cancelled() => break,
            done = round(&context, &mut waiting, &mut forgotten) => done,
        };
        match done {
            Ok(()) => patience = PATIENCE,
            Err(error) => {
                tracing::warn!(%error, "what owners are told could not be written; it is kept and tried again");
                // What is on its way is read anew.
                waiting = None;
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(patience) => (),
                }
                patience = (patience * 2).min(MOST_PATIENCE);
            }
        }
    }
}

async fn round(
    context: &Context,
    waiting: &mut Option<Vec<Waiting>>,
    forgotten: &mut Option<Instant>,
) -> Result<(), Error> {
    let (money, now) = (&context.money, (context.now)());
    money.write_notices(now).await?;
    let addressed = money.address_notices(now, |account| find_targets(context, account)).await?;
    if waiting.is_none() {
        *waiting = Some(load(context, money.deliveries().await?));
    } else {
        let new = addressed.into_iter().flat_map(|(row, targets)| {
            let delivery = move |target| Delivery {
                notice: row.notice.id.clone(),
                account: row.notice.account.clone(),
                target,
                state: DeliveryState::Waiting,
                attempts: 0,
                error: None,
                at_ms: now.as_millisecond(),
            };
            targets.into_iter().map(delivery)
        });
        let new = new.map(|delivery| Waiting { delivery, due: Instant::now() });
        waiting.get_or_insert_default().extend(new);
    }
    let all = waiting.get_or_insert_default();
    send_due(context, all).await?;
    context.notices.measures.waiting(all.len());
    context.notices.measures.expiries(&context.caches, now);
    if forgotten.is_none_or(|it| it.elapsed() >= FORGET_EVERY) {
        money.forget_notices(now).await?;
        *forgotten = Some(Instant::now());
    }
    Ok(())
}

/// Who of an account is told; `None` when nobody can say now.
fn find_targets(context: &Context, account: &str) -> Option<BTreeSet<String>> {
    let accounts = &context.caches.accounts;
    let is_unreadable = || accounts.unreadable().iter().any(|it| it.name.as_deref() == Some(account));
    match accounts.get("", account) {
        Some(found) => Some(targets(&found)),
        None if is_unreadable() => None,
        None => Some(BTreeSet::new()),
    }
}

/// Takes over what the ledger has: what waits is tried at once, and what failed last is said.
fn load(context: &Context, all: Vec<Delivery>) -> Vec<Waiting> {
    let mut trouble = BTreeMap::new();
    for it in &all {
        let place = (it.account.clone(), it.target.clone());
        match (it.state, &it.error) {
            (DeliveryState::Waiting, None) | (DeliveryState::Dropped, _) => (),
            (DeliveryState::Waiting, Some(error)) => drop(trouble.insert(place, error.clone())),
            (DeliveryState::Failed, error) => {
                drop(trouble.insert(place, error.clone().unwrap_or_default()));
            }
            (DeliveryState::Sent, _) => drop(trouble.remove(&place)),
        }
    }
    *context.notices.trouble() = trouble;
    context.money.accounts_changed();
    let waits = |it: &Delivery| it.state == DeliveryState::Waiting;
    context.notices.measures.failed(all.iter().filter(|it| it.state == DeliveryState::Failed).count());
    let waiting = all.into_iter().filter(waits);
    waiting.map(|delivery| Waiting { delivery, due: Instant::now() }).collect()
}

/// Tries what is due: some targets at once, each one's letters one after the other, those first that were tried least. A target
/// that fails is left alone for this round.
async fn send_due(context: &Context, all: &mut Vec<Waiting>) -> Result<(), Error> {
    let now = Instant::now();
    let (mut due, later): (Vec<Waiting>, Vec<Waiting>) = all.drain(..).partition(|it| it.due <= now);
    *all = later;
    due.sort_by_key(|it| (it.delivery.attempts, it.delivery.at_ms));
    if due.len() > DELIVERIES_AT_ONCE {
        all.extend(due.split_off(DELIVERIES_AT_ONCE));
    }
    let mut by_target: BTreeMap<(String, String), Vec<Waiting>> = BTreeMap::new();
    for it in due {
        let place = (it.delivery.account.clone(), it.delivery.target.clone());
        let of_target = by_target.entry(place).or_default();
        if of_target.len() < LETTERS_TO_ONE { of_target.push(it) } else { all.push(it) }
    }
    let sent = futures::stream::iter(by_target.into_values().map(|of_target| send_all(context, of_target)));
    let sent: Vec<_> = sent.buffer_unordered(TARGETS_AT_ONCE).collect().await;
    for left in sent {
        all.extend(left?);
    }
    Ok(())
}

/// Tries letters to one target until one fails; those that still wait.
async fn send_all(context: &Context, of_target: Vec<Waiting>) -> Result<Vec<Waiting>, Error> {
    let mut left = Vec::new();
    let mut of_target = of_target.into_iter();
    for Waiting { mut delivery, .. } in of_target.by_ref() {
        let outcome = attempt(context, &delivery).await?;
        note(context, &mut delivery, outcome).await;
        context.money.mark(&delivery, (context.now)()).await?;
        if delivery.state == DeliveryState::Waiting {
            let due = Instant::now() + wait(delivery.attempts);
            left.push(Waiting { delivery, due });
            break;
        }
    }
    left.extend(of_target);
    Ok(left)
}

/// How a try ended.
enum Outcome {
    Sent,
    /// Nobody wants it there any more.
    Dropped,
    Undelivered(Undelivered),
}

async fn attempt(context: &Context, delivery: &Delivery) -> Result<Outcome, Error> {
    let account = context.caches.accounts.get("", &delivery.account);
    if account.is_none() && find_targets(context, &delivery.account).is_none() {
        return Ok(Outcome::Undelivered(Undelivered::for_now("the Account can't be read")));
    }
    let wanted = account.as_ref().and_then(|it| it.spec.notify.iter().find(|it| name(it) == delivery.target));
    let (Some(target), Some(row)) = (wanted, context.money.notice(&delivery.notice).await?) else {
        return Ok(Outcome::Dropped);
    };
    let sent = match content::letter(&row) {
        Some(letter) => send(context, target, &letter).await,
        None => Err(Undelivered::for_good("another version of the operator wrote this notice")),
    };
    Ok(sent.map_or_else(Outcome::Undelivered, |()| Outcome::Sent))
}

async fn send(context: &Context, target: &Target, letter: &Letter) -> Result<(), Undelivered> {
    let senders = &context.notices.senders;
    match (&target.email, &target.webhook) {
        (Some(email), _) => match &senders.mailer {
            Some(mailer) => mailer.send(letter, email).await,
            None => Err(Undelivered::for_now(NO_MAIL_SERVER)),
        },
        (None, Some(webhook)) => {
            let keys = secrets::read(&context.cluster, &webhook.secret_name).await?;
            senders.webhooks.send(letter, &webhook.url, &keys, (senders.real_now)()).await
        }
        (None, None) => Err(Undelivered::for_good("it names neither an email address nor a webhook")),
    }
}

/// What follows from a try, for the delivery and for what the account says.
async fn note(context: &Context, delivery: &mut Delivery, outcome: Outcome) {
    let place = (delivery.account.clone(), delivery.target.clone());
    let attempts = delivery.attempts.saturating_add(1);
    let (state, word, error) = match outcome {
        Outcome::Dropped => (DeliveryState::Dropped, "dropped", None),
        Outcome::Sent => (DeliveryState::Sent, "sent", None),
        Outcome::Undelivered(it) if it.is_final || attempts >= ATTEMPTS_MAX => {
            (DeliveryState::Failed, "failed", Some(it.message))
        }
        Outcome::Undelivered(it) => (DeliveryState::Waiting, "again", Some(it.message)),
    };
    let channel = if delivery.target.starts_with("email:") { "email" } else { "webhook" };
    context.notices.measures.tried(channel, word);
    let before = match &error {
        Some(error) => context.notices.trouble().insert(place, error.clone()),
        None => context.notices.trouble().remove(&place),
    };
    if before != error {
        context.money.accounts_changed();
    }
    if let Some(error) = &error
        && (before.is_none() || state == DeliveryState::Failed)
    {
        let account = context.caches.accounts.get("", &delivery.account);
        let entries = account.as_ref().map_or(&[][..], |it| &it.spec.notify);
        let target = shown(entries, &delivery.target);
        tracing::warn!(notice = delivery.notice, target, attempts, error, "a notice did not arrive");
        let end = if state == DeliveryState::Failed { "given up" } else { "tried again" };
        let message = format!("{target}: {error}; {end}");
        if let Some(account) = account {
            context
                .cluster
                .tell(&account.object_ref(&()), true, &Reason::Undelivered.as_str(), &message)
                .await;
        }
    }
    if state == DeliveryState::Failed {
        context.notices.measures.one_failed();
    }
    (delivery.state, delivery.attempts, delivery.error) = (state, attempts, error);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_webhook_only_its_host_is_shown() {
        let entries: Vec<Target> = serde_json::from_value(serde_json::json!([
            {"email": "owners@a.example"},
            {"webhook": {"url": "https://hooks.a.example:8443/T0/secret?key=secret", "secretName": "hook"}},
            {"webhook": {"url": "https://user:secret@b.example/", "secretName": "hook"}},
            {"webhook": {"url": "secret", "secretName": "hook"}},
            {"webhook": {"url": "https://secret secret", "secretName": "hook"}},
        ]))
        .unwrap();
        let found: Vec<String> = entries.iter().map(|it| shown(&entries, &name(it))).collect();
        assert_eq!(
            found,
            [
                "spec.notify[0] email:owners@a.example",
                "spec.notify[1] webhook:https://hooks.a.example",
                "spec.notify[2] webhook:https://b.example",
                "spec.notify[3] webhook",
                "spec.notify[4] webhook",
            ]
        );
        assert_eq!(shown(&[], "webhook:https://a.example/secret"), "webhook:https://a.example");
    }

    #[test]
    fn it_is_tried_ever_less_for_three_days() {
        let waits: Vec<u64> = (1..ATTEMPTS_MAX).map(|it| wait(it).as_secs()).collect();
        assert_eq!(waits[..6], [1, 3, 9, 27, 81, 243]);
        assert_eq!(waits.last(), Some(&WAIT_MAX.as_secs()));
        let hours = waits.iter().sum::<u64>() / 3_600;
        assert!((60..84).contains(&hours), "{hours}");
        assert_eq!(wait(u32::MAX), WAIT_MAX);
    }
}
