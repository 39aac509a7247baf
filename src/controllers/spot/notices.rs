//! The notice of a spot server: an annotation of ours on the server, so that who leads next goes on with it, and on its pod, where
//! a downward API volume shows it to the processes. What to do when is decided in `domain::market::notice`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::Input;
use crate::api::spot::ReclaimReason;
use crate::api::{SpotServer, names};
use crate::cluster::slim::SlimPod;
use crate::cluster::write;
use crate::controllers::pool::{generation, is_leaving};
use crate::controllers::{Context, Error};
use crate::domain::allocate::Outcome;
use crate::domain::market::notice::{self, Now, Step};
use crate::domain::market::{Cause, Notice};

/// What stands in the annotation.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    reason: ReclaimReason,
    noticed_at: Timestamp,
    reclaim_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reclaimed_at: Option<Timestamp>,
}

/// The notice that stands on a server.
pub(super) fn of(server: &SpotServer) -> Option<Notice> {
    let text = server.annotations().get(names::RECLAIM)?;
    let it: Written = serde_json::from_str(text).ok()?;
    Some(Notice {
        cause: match it.reason {
            ReclaimReason::PriceAboveBid => Cause::PriceAboveBid,
            ReclaimReason::Shortage => Cause::Shortage,
            ReclaimReason::Arrears => Cause::Arrears,
        },
        noticed_at: it.noticed_at,
        reclaim_at: it.reclaim_at,
        reclaimed_at: it.reclaimed_at,
    })
}

/// Has it been told to go, and has not gone yet?
pub(in crate::controllers) fn is_noticed(server: &SpotServer) -> bool {
    of(server).is_some_and(|it| !it.is_over())
}

/// The word for a cause.
pub(super) fn reason(cause: Cause) -> ReclaimReason {
    match cause {
        Cause::PriceAboveBid => ReclaimReason::PriceAboveBid,
        Cause::Shortage => ReclaimReason::Shortage,
        Cause::Arrears => ReclaimReason::Arrears,
    }
}

/// Why, in words.
pub(super) fn in_words(cause: Cause, input: Option<&Input>) -> String {
    match (cause, input) {
        (Cause::PriceAboveBid, Some(it)) => {
            format!("the price {} is above the bid {}", it.price.text, it.bid.normalize())
        }
        (Cause::PriceAboveBid, None) => "the price is above the bid".to_owned(),
        (Cause::Shortage, _) => "a purchase needs its cards".to_owned(),
        (Cause::Arrears, Some(it)) => {
            format!("Account {} is in arrears: add a Payment", it.account.name_any())
        }
        (Cause::Arrears, None) => "its account is in arrears: add a Payment".to_owned(),
    }
}

/// Is the cause gone since the allocator decided by it? Who has paid meanwhile is not shut down.
fn is_gone(cause: Cause, input: &Input) -> bool {
    match cause {
        Cause::Arrears => input.arrears.is_none(),
        Cause::PriceAboveBid => input.bid >= input.price.price,
        Cause::Shortage => false,
    }
}

/// Gives, withdraws or carries out its notice. The notice that stands then.
pub(super) async fn advance(
    context: &Context,
    server: &SpotServer,
    input: Option<&Input>,
    outcome: Option<&Outcome>,
    pod: Option<&SlimPod>,
) -> Result<Option<Notice>, Error> {
    let stands = of(server);
    // What can't be understood, and what the allocator has not looked at, is left as it is.
    let (Some(input), Some(outcome)) = (input, outcome) else { return Ok(stands) };
    if is_leaving(server) || outcome.version != generation(server) {
        return Ok(stands);
    }
    let now = Now {
        at: (context.now)(),
        cause: outcome.cause,
        is_outdated: outcome.cause.is_some_and(|it| is_gone(it, input)),
        has_cards: !outcome.holdings.is_empty(),
        pod: match pod {
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => notice::Pod::Leaving,
            Some(_) => notice::Pod::There,
            None => notice::Pod::None,
        },
        notice_minutes: input.notice_minutes,
        grace_ends: input.arrears.map(|it| it.grace_ends),
    };
    let step = notice::step(stands.as_ref(), &now);
    match step {
        Step::Stay | Step::Ask => {
            if step == Step::Ask {
                context.caches.changes.cards_changed.notify_one();
            }
            if let Some(pod) = pod {
                show(context, pod, stands.filter(|it| !it.is_over()).as_ref()).await?;
            }
            Ok(stands)
        }
        Step::Give(notice) => {
            write(context, server, Some(&notice)).await?;
            tell(context, server, "ReclaimNotice", &told(&notice, Some(input))).await;
            if let Some(pod) = pod {
                show(context, pod, Some(&notice)).await?;
            }
            Ok(Some(notice))
        }
        Step::Withdraw => {
            write(context, server, None).await?;
            let why = "the notice is withdrawn, its cause is gone: the server runs on";
            context.cluster.tell(&server.object_ref(&()), false, "NoticeWithdrawn", why).await;
            if let Some(pod) = pod {
                show(context, pod, None).await?;
            }
            Ok(None)
        }
        Step::Reclaim => {
            if let (Some(notice), Some(pod)) = (&stands, pod) {
                let why = in_words(notice.cause, Some(input));
                let message = format!("the notice has ended, and the server is shut down: {why}");
                context.cluster.delete_pod(pod).await.map_err(Error::Apply)?;
                tell(context, server, "Reclaiming", &message).await;
            }
            context.caches.changes.cards_changed.notify_one();
            Ok(stands)
        }
        Step::Record(notice) => {
            write(context, server, Some(&notice)).await?;
            let why = in_words(notice.cause, Some(input));
            tell(context, server, "Reclaimed", &format!("its cards went back: {why}")).await;
            Ok(Some(notice))
        }
        // The pod is created when the annotation is seen to be gone.
        Step::Forget => {
            write(context, server, None).await?;
            Ok(stands)
        }
    }
}

/// What its owner reads.
pub(super) fn told(notice: &Notice, input: Option<&Input>) -> String {
    let at = notice.reclaim_at.strftime("%Y-%m-%dT%H:%M:%SZ");
    format!("the server is shut down at {at}: {}", in_words(notice.cause, input))
}

async fn tell(context: &Context, server: &SpotServer, reason: &str, message: &str) {
    context.cluster.tell(&server.object_ref(&()), true, reason, message).await;
}

fn text(notice: &Notice) -> String {
    let Notice { cause, noticed_at, reclaim_at, reclaimed_at } = *notice;
    let it = Written { reason: reason(cause), noticed_at, reclaim_at, reclaimed_at };
    serde_json::to_string(&it).unwrap_or_default()
}

async fn write(context: &Context, server: &SpotServer, notice: Option<&Notice>) -> Result<(), Error> {
    let text = notice.map(text);
    let written =
        context.cluster.annotate::<SpotServer>(&server.metadata, names::RECLAIM, text.as_deref()).await;
    written.map_err(Error::Apply)
}

/// Shows it to the processes of the pod.
async fn show(context: &Context, pod: &SlimPod, notice: Option<&Notice>) -> Result<(), Error> {
    let text = notice.map(text);
    if pod.annotations().get(names::RECLAIM) == text.as_ref() {
        return Ok(());
    }
    match context.cluster.annotate::<Pod>(&pod.metadata, names::RECLAIM, text.as_deref()).await {
        // It is shown with the next look.
        Ok(()) | Err(write::Error::NotFound | write::Error::Conflict) => Ok(()),
        Err(error) => Err(Error::Apply(error)),
    }
}
