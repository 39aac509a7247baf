//! What a spot server says of itself.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Input, notices};
use crate::api::condition::{Conditions, Reason, Type};
use crate::api::spot::{Reclaim, SpotPhase};
use crate::api::{SpotServer, SpotServerStatus};
use crate::cluster::slim::SlimPod;
use crate::controllers::Context;
use crate::controllers::facts::Problem;
use crate::controllers::pool::{in_words, is_leaving};
use crate::domain::allocate::{Holding, Outcome};
use crate::domain::market::{Cause, Notice};

/// What a pass has found out.
pub(super) struct Facts<'a> {
    pub(super) input: Result<&'a Input, &'a Problem>,
    pub(super) outcome: Option<&'a Outcome>,
    pub(super) pod: Option<&'a SlimPod>,
    pub(super) notice: Option<&'a Notice>,
}

/// The status.
pub(super) fn status(context: &Context, server: &SpotServer, facts: &Facts) -> SpotServerStatus {
    let before = server.status.clone().unwrap_or_default();
    let now = (context.now)();
    let Facts { input, outcome, pod, notice } = facts;
    let holding = outcome.and_then(|it| it.holdings.first());
    let ready = pod.is_some_and(|it| it.is_ready() && it.metadata.deletion_timestamp.is_none());
    let started_at = before.started_at.clone().or_else(|| ready.then_some(Time(now)));
    let protected_until = input.ok().map(|it| Time(it.protected_until)).or(before.protected_until);
    let protected = protected_until.as_ref().is_some_and(|it| it.0 > now);
    let notice = notice.filter(|it| !it.is_over() || holding.is_none());

    let (placed, why) = placed(facts, holding);
    let mut conditions = Conditions::new(&before.conditions, server.metadata.generation, now);
    conditions.set(Type::Placed, Some(placed), why.reason, why.message.clone());
    let (holds, reason, message) = match (placed, ready) {
        _ if is_leaving(server) => {
            (false, Reason::Deleting, "its cards go back when its pod is gone".to_owned())
        }
        (true, true) => (true, Reason::Running, why.message),
        (true, false) => (false, Reason::Progressing, "its pod is not ready yet".to_owned()),
        (false, _) => (false, why.reason, why.message),
    };
    conditions.set(Type::Ready, Some(holds), reason, message);
    tell_notice(&mut conditions, notice, input.ok());
    if let Ok(input) = input {
        tell_paid(&mut conditions, input);
    }
    SpotServerStatus {
        observed_generation: server.metadata.generation,
        phase: Some(match (placed, protected, notice) {
            (_, _, Some(notice)) if notice.is_over() => SpotPhase::Reclaimed,
            (_, _, Some(_)) => SpotPhase::Reclaiming,
            (true, true, None) => SpotPhase::Protected,
            (true, false, None) => SpotPhase::Running,
            (false, _, None) => SpotPhase::Pending,
        }),
        node: holding.map(|it| it.node.clone()),
        price: input.ok().map(|it| it.price.text.clone()),
        started_at,
        protected_until,
        reclaim: notice.map(|it| Reclaim {
            reason: notices::reason(it.cause),
            noticed_at: Time(it.noticed_at),
            reclaim_at: Time(it.reclaim_at),
        }),
        conditions: conditions.done(),
    }
}

/// Has it its cards, or why not?
fn placed(facts: &Facts, holding: Option<&Holding>) -> (bool, Problem) {
    let input = match (facts.input, holding) {
        (Err(problem), _) => return (false, problem.clone()),
        (Ok(_), Some(holding)) if holding.in_place => {
            return (true, Problem::new(Reason::AsBought, format!("has its cards on {}", holding.node)));
        }
        (Ok(_), Some(holding)) => {
            return (
                false,
                Problem::new(Reason::Degraded, format!("its cards on {} are away", holding.node)),
            );
        }
        (Ok(input), None) => input,
    };
    let waits = if input.arrears.is_some() {
        let why = notices::in_words(Cause::Arrears, Some(input));
        Problem::new(Reason::Arrears, format!("it does not start while {why}"))
    } else if input.bid < input.price.price {
        let message = format!("the price is {} and the bid {}", input.price.text, input.bid);
        Problem::new(Reason::PriceAboveBid, message)
    } else {
        let shortage = facts.outcome.and_then(|it| it.shortage.as_ref());
        shortage.map_or_else(
            || Problem::new(Reason::Pending, "cards are being found"),
            |short| in_words(short, &input.card_type.name_any()),
        )
    };
    (false, waits)
}

/// Has its owner been told that it goes?
fn tell_notice(conditions: &mut Conditions, notice: Option<&Notice>, input: Option<&Input>) {
    match notice {
        None => {
            conditions.set(Type::ReclaimNotice, Some(false), Reason::NoNotice, "nobody has told it to go")
        }
        Some(notice) if notice.is_over() => {
            let why = notices::in_words(notice.cause, None);
            let message = format!("its cards went back, since {why}; it starts anew when that is over");
            conditions.set(Type::ReclaimNotice, Some(false), Reason::Reclaimed, message)
        }
        Some(notice) => {
            let reason = match notice.cause {
                Cause::Arrears => Reason::Arrears,
                Cause::PriceAboveBid => Reason::PriceAboveBid,
                Cause::Shortage => Reason::Shortage,
            };
            conditions.set(Type::ReclaimNotice, Some(true), reason, notices::told(notice, input))
        }
    };
}

/// Does its account pay?
fn tell_paid(conditions: &mut Conditions, input: &Input) {
    let account = input.account.name_any();
    let (paid, reason, message) = if input.arrears.is_some() {
        (false, Reason::Arrears, notices::in_words(Cause::Arrears, Some(input)))
    } else {
        (true, Reason::NoArrears, format!("Account {account} is not in arrears"))
    };
    conditions.set(Type::Paid, Some(paid), reason, message);
}
