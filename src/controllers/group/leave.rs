//! What is settled before machines go back, and before the group goes: hours end, orders return what is left of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;

use super::hours::{charge, is_due};
use super::life::{Machine, View, is_bound, keeps, name_of};
use super::{Found, record};
use crate::api::DedicatedGroup;
use crate::cluster::read::Kind;
use crate::controllers::money::{Standing, orders};
use crate::controllers::{Context, Error};
use crate::domain::machines::Record;
use crate::domain::money::arrears::Keeps;
use crate::domain::money::machine::Stage;
use crate::ledger::{Measured, RefundIn};

/// Settles machines that end and are empty: their hours end, and what is prepaid is paid back. Only then they go back.
pub(super) async fn give_back(context: &Context, group: &DedicatedGroup, found: &Found) -> Result<(), Error> {
    let now = (context.now)();
    let Some(standing) = context.money.standing(group.metadata.uid.as_deref()) else { return Ok(()) };
    let nodes: BTreeSet<String> = found.nodes.keys().cloned().collect();
    let Ok(view) = View::of(group, &standing, &found.record, &nodes, now) else { return Ok(()) };
    let is_over = keeps(found.ordered.arrears, now) == Keeps::Nothing;
    let mut measured = Measured::default();
    let mut refunds = Vec::new();
    for it in &view.machines {
        let is_empty =
            !nodes.contains(&it.name) || found.drains.get(&it.name).is_some_and(|it| it.remaining == 0);
        if !is_empty {
            continue;
        }
        match (it.stage, it.open_use(), it.part.open_span()) {
            (Stage::Hourly, Some(open), Some(span)) if !it.is_live || is_over => {
                measured.ended.push((span.begun.id.clone(), open.ends(now).as_millisecond()));
            }
            (Stage::Term { .. }, ..) if !it.is_live => {
                for paid in it.paid.iter().filter(|it| it.refunded.is_none()) {
                    refunds.push(orders::refund_of(&standing, paid, now, !is_bound(paid))?);
                }
            }
            (_, _, _) => (),
        }
    }
    if measured.is_empty() && refunds.is_empty() {
        return Ok(());
    }
    if !measured.is_empty() {
        context.money.note_uses(&standing, &measured, now).await.map_err(Error::Ledger)?;
    }
    if !refunds.is_empty() {
        context.money.refund(&standing, &refunds, now).await.map_err(Error::Ledger)?;
    }
    let (namespace, name) = name_of(group);
    context.caches.changes.contract_after_cards(Kind::Group, &namespace, &name);
    Ok(())
}

/// Pays back what the owner has not used, and closes the contract: once, as of the moment in which the group was deleted.
pub(super) async fn settle(context: &Context, group: &DedicatedGroup) -> Result<(), Error> {
    let uid = group.uid().unwrap_or_default();
    let Some(standing) = context.money.standing(Some(&uid)) else {
        let said = group.status.iter().flat_map(|it| &it.machines).any(|it| it.expires_at.is_some());
        let is_settled = !said || context.money.is_closed(&uid).await.map_err(Error::Ledger)?;
        let why = "the ledger knows nothing of what this group has bought, so it can't be refunded";
        return if is_settled { Ok(()) } else { Err(Error::Amount(why.to_owned())) };
    };
    // Nothing may be left behind that is not known here.
    let mut standing = context.money.refresh(&standing).await.map_err(Error::Ledger)?;
    let left_at = group
        .metadata
        .deletion_timestamp
        .as_ref()
        .map_or_else(context.now, |it| (context.on_our_clock)(it.0));
    let now = (context.now)();
    let record = record::read(&context.caches, group);
    let look = |it: &Standing| -> Result<Vec<RefundIn>, Error> {
        let view = View::of(group, it, &record, &BTreeSet::new(), left_at);
        let view = view.map_err(|it| Error::Amount(it.message))?;
        let paid = view.machines.iter().flat_map(|it| &it.paid).filter(|it| it.refunded.is_none());
        // What is bound till its end returns nothing: the policy refuses to delete such a group, but with its namespace it goes.
        paid.map(|paid| orders::refund_of(it, paid, left_at, !is_bound(paid))).collect()
    };
    let held: Vec<String> = standing.machines().filter_map(|(_, it)| Some(it.held()?.id)).collect();
    if !held.is_empty() {
        context
            .money
            .void(&standing, &held.iter().map(String::as_str).collect::<Vec<_>>(), now)
            .await
            .map_err(Error::Ledger)?;
        standing = context.money.refresh(&standing).await.map_err(Error::Ledger)?;
    }
    standing = end_all(context, group, standing, &record, left_at, now).await?;
    let refunds = look(&standing)?;
    context.money.close(&standing, &refunds, now).await.map_err(Error::Ledger)
}

/// Ends all uses by the hour, and charges what is left of them.
async fn end_all(
    context: &Context,
    group: &DedicatedGroup,
    mut standing: Arc<Standing>,
    record: &Record,
    left_at: Timestamp,
    now: Timestamp,
) -> Result<Arc<Standing>, Error> {
    let nodes = BTreeSet::new();
    let uid = group.uid().unwrap_or_default();
    loop {
        let view = View::of(group, &standing, record, &nodes, now).map_err(|it| Error::Amount(it.message))?;
        let open = |it: &Machine<'_>| {
            let (open, span) = (it.open_use()?, it.part.open_span()?);
            let end = it.converted_at().unwrap_or_else(|| open.ends(left_at));
            Some((span.begun.id.clone(), end.as_millisecond()))
        };
        let ended: Vec<(String, i64)> = view.machines.iter().filter_map(open).collect();
        if !ended.is_empty() {
            let measured = Measured { ended, ..Measured::default() };
            context.money.note_uses(&standing, &measured, now).await.map_err(Error::Ledger)?;
        } else if view.machines.iter().flat_map(|it| &it.uses).any(|it| is_due(it, now)) {
            charge(context, group, &standing, &view, now).await.map_err(Error::Ledger)?;
        } else {
            return Ok(standing);
        }
        let fresh = context.money.standing(Some(&uid));
        standing = fresh.ok_or_else(|| Error::Amount("the contract is closed".to_owned()))?;
    }
}
