//! What all that is prepaid does with its orders, pools and machines alike: open the contract, say which sum is missing, make refunds.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::standing::{Paid, Standing, refund_id};
use super::{accounts, contract_id, unavailable};
use crate::api::account::AccountMode;
use crate::api::condition::Reason;
use crate::api::{Account, names};
use crate::controllers::facts::Problem;
use crate::controllers::pool::is_leaving;
use crate::controllers::{Context, Error};
use crate::domain::money::refund::refund;
use crate::domain::money::{Currency, Money};
use crate::ledger::{self, OrderIn, RefundIn};

/// A purchase that lacks money is tried again after this, if nothing is heard of money before.
pub(in crate::controllers) const TRY_AGAIN: Duration = Duration::from_mins(1);

/// What must be left of an account's cash; `None` = no limit.
pub(in crate::controllers) fn least(account: &Account, currency: &Currency) -> Result<Option<i64>, Problem> {
    match account.spec.mode {
        AccountMode::Chargeback => Ok(None),
        AccountMode::Prepaid => accounts::credit_limit(account, currency).map(|it| Some(-it.0)),
    }
}

/// Which sum is missing for orders of one payer, if the ledger says that there is not enough. `what`: what costs so much.
pub(in crate::controllers) fn not_enough(
    error: &ledger::Error,
    what: &str,
    orders: &[OrderIn],
    currency: &Currency,
) -> Option<Problem> {
    let (ledger::Error::NotEnough { available, needed }, Some(first)) = (error, orders.first()) else {
        return None;
    };
    let text = |it: i64| Money(it).text(currency);
    let price = orders.iter().fold(0_i64, |sum, it| sum.saturating_add(it.price));
    let message = format!(
        "{what} costs {} {code} and Account {} has {} {code} for it, credit included: add a Payment of {} {code} or more",
        text(price),
        first.account,
        text(available - first.least.unwrap_or(0) + price - needed),
        text(needed - available + first.least.unwrap_or(0)),
        code = first.currency,
    );
    Some(Problem::new(Reason::InsufficientFunds, message))
}

/// Opens the contract of an object, before it claims any card. `is_bought`: the object says that it has bought something.
pub(in crate::controllers) async fn open<K>(
    context: &Context,
    object: &K,
    is_bought: bool,
    what: &str,
    now: Timestamp,
) -> Result<(), Problem>
where
    K: Resource<DynamicType = ()>,
{
    let uid = object.uid().unwrap_or_default();
    let restored = object.annotations().get(names::CONTRACT).map(String::as_str);
    let is_restored = restored.is_some_and(|it| it != contract_id(&uid));
    let unknown = || {
        let message = format!(
            "the {what} is bought, and the ledger knows nothing of it: was another ledger configured, or an old backup restored? What it has stays; nothing is bought until the ledger is back"
        );
        Err(Problem::new(Reason::LedgerMismatch, message))
    };
    if is_bought && !is_restored {
        return unknown();
    }
    if is_leaving(object) {
        return Ok(());
    }
    let name = format!("{}/{}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
    match context.money.open(restored, is_bought, &name, &uid, now).await {
        Ok(false) => unknown(),
        Ok(true) => {
            context.caches.changes.cards_changed.notify_one();
            Ok(())
        }
        Err(error) => Err(unavailable(&error)),
    }
}

/// What an order returns that is left at this moment. `gives`: does it give anything back, or is it bound until its end?
pub(in crate::controllers) fn refund_of(
    standing: &Standing,
    paid: &Paid<'_>,
    left_at: Timestamp,
    gives: bool,
) -> Result<RefundIn, Error> {
    let amount = |it: String| Error::Amount(it);
    let row = paid.row;
    let currency =
        Currency::find(&row.currency).ok_or_else(|| amount(format!("{} is no currency", row.currency)))?;
    let back = if gives {
        refund(&paid.order, left_at, &paid.refund_rule(), &currency).map_err(|it| amount(it.to_string()))?
    } else {
        Money(0)
    };
    Ok(RefundIn {
        id: refund_id(&standing.contract.id, &row.id),
        contract: standing.contract.id.clone(),
        account: row.account.clone(),
        currency: row.currency.clone(),
        amount: back.0,
        detail: serde_json::json!({"of": row.id, "leftAt": left_at}).to_string(),
        close: false,
    })
}
