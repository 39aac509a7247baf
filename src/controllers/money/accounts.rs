//! How accounts stand, and payments: each counts once.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use kube::ResourceExt;

use super::Money;
use crate::api::account::AccountMode;
use crate::api::condition::Reason;
use crate::api::payment::PaymentKind;
use crate::api::{Account, Payment};
use crate::controllers::Context;
use crate::controllers::facts::Problem;
use crate::domain::money::calendar::calendar_month;
use crate::domain::money::{self, Currency, arrears};
use crate::ledger::{Counted, Error, PaymentIn};

/// What an account's status shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::controllers) struct Summary {
    /// What can be spent, without credit.
    pub(in crate::controllers) balance: money::Money,
    /// What was billed since the month began.
    pub(in crate::controllers) this_month: money::Money,
    month_began: Timestamp,
    /// False while use may count twice in it: then it may be more than it says, and nobody is in arrears by it who was not before.
    pub(in crate::controllers) is_sure: bool,
}

/// How far below zero an account may go.
pub(in crate::controllers) fn credit_limit(
    account: &Account,
    currency: &Currency,
) -> Result<money::Money, Problem> {
    money::Money::parse(&account.spec.credit_limit, currency).map_err(|it| {
        Problem::new(Reason::Invalid, format!("creditLimit of Account {}: {it}", account.name_any()))
    })
}

/// Is the account below what it may owe?
pub(in crate::controllers) fn in_arrears(account: &Account, summary: &Summary, limit: money::Money) -> bool {
    match account.spec.mode {
        AccountMode::Chargeback => false,
        AccountMode::Prepaid => arrears::in_arrears(summary.balance, limit, false),
    }
}

/// Reads how all accounts stand, before anything is decided by it.
pub(in crate::controllers) async fn read_all(context: &Context) {
    for account in context.caches.accounts.all() {
        if let Err(error) = context.money.summary(&account, (context.now)()).await {
            tracing::warn!(%error, account = account.name_any(), "an account was not read");
        }
    }
}

impl Money {
    /// What an account had when it was last read, what it has used meanwhile included.
    pub(in crate::controllers) fn last_balance(&self, account: &Account) -> Option<money::Money> {
        let balances = self.balances.lock().unwrap_or_else(PoisonError::into_inner);
        let read = balances.get(&account.name_any())?;
        read.checked_sub(self.accrued(&account.name_any(), &account.spec.currency))
    }

    /// Since when an account is in arrears, as the ledger knows; `None` when it is not.
    pub(in crate::controllers) fn arrears_since(&self, account: &str) -> Option<Timestamp> {
        self.arrears.lock().unwrap_or_else(PoisonError::into_inner).get(account).copied()
    }

    /// Notes in the ledger that an account is in arrears, or is not any more. True when that was news.
    pub(in crate::controllers) async fn note_arrears(
        &self,
        account: &str,
        owes: bool,
        now: Timestamp,
    ) -> Result<bool, Error> {
        if self.arrears_since(account).is_some() == owes {
            return Ok(false);
        }
        let ledger = self.ledger()?;
        let at = self.at(now);
        let written = if owes {
            ledger.begin_arrears(at, account).await
        } else {
            ledger.end_arrears(at, account).await
        };
        written.map_err(|it| self.seen(it))?;
        let mut arrears = self.arrears.lock().unwrap_or_else(PoisonError::into_inner);
        if owes {
            arrears.insert(account.to_owned(), now);
        } else {
            arrears.remove(account);
        }
        Ok(true)
    }

    /// How an account stands.
    pub(in crate::controllers) async fn summary(
        &self,
        account: &Account,
        now: Timestamp,
    ) -> Result<Summary, Error> {
        let name = account.name_any();
        let month_began = calendar_month(now).start;
        // What is read is kept, what is used meanwhile comes on top.
        let currency = &account.spec.currency;
        let writes = self.writes.load(Ordering::SeqCst);
        let was_sure = !self.unsure.load(Ordering::SeqCst);
        let accrued = self.accrued(&name, currency).0;
        // What is charged between reading both counts twice.
        let is_sure = || {
            was_sure && !self.unsure.load(Ordering::SeqCst) && writes == self.writes.load(Ordering::SeqCst)
        };
        let with_use = |it: Summary| Summary {
            balance: money::Money(it.balance.0.saturating_sub(accrued)),
            this_month: money::Money(it.this_month.0.saturating_add(accrued)),
            is_sure: is_sure(),
            ..it
        };
        let known = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(known) = known.filter(|it| it.month_began == month_began) {
            return Ok(with_use(known));
        }
        let balance = self.ledger()?.balance(&name, currency).await?;
        let billed = self.ledger()?.billed(&name, currency, month_began.as_millisecond()).await?;
        let summary = Summary {
            balance: money::Money(balance.cash.available() + balance.voucher.available()),
            this_month: money::Money(billed),
            month_began,
            is_sure: true,
        };
        self.balances.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), summary.balance);
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if is_sure() {
            accounts.insert(name, summary.clone());
        }
        Ok(with_use(summary))
    }

    /// Counts a payment: once per name, for ever. True when it was news.
    pub(in crate::controllers) async fn count(
        &self,
        payment: &Payment,
        account: &Account,
        now: Timestamp,
    ) -> Result<bool, Problem> {
        let name = payment.name_any();
        let invalid = |it: String| Problem::new(Reason::Invalid, it);
        let currency = Currency::find(&account.spec.currency)
            .ok_or_else(|| invalid(format!("`{}` is no currency of ISO 4217", account.spec.currency)))?;
        let amount = money::Money::parse(&payment.spec.amount, &currency)
            .map_err(|it| invalid(format!("amount: {it}")))?;
        let this = Counted {
            name: name.clone(),
            account: account.name_any(),
            amount: amount.0,
            voucher: payment.spec.kind == PaymentKind::Voucher,
        };
        let before = self.counted.lock().unwrap_or_else(PoisonError::into_inner).get(&name).cloned();
        if let Some(before) = before {
            let message = "a Payment of this name was counted before, with another account, amount or kind: that one stays; give this one a name of its own";
            return if before == this { Ok(false) } else { Err(Problem::new(Reason::Conflict, message)) };
        }
        let paid = PaymentIn {
            name: name.clone(),
            account: account.name_any(),
            currency: currency.code().to_owned(),
            amount: amount.0,
            voucher: payment.spec.kind == PaymentKind::Voucher,
            reference: payment.spec.reference.clone(),
        };
        let ledger = self.ledger().map_err(|it| super::unavailable(&it))?;
        ledger.pay(self.at(now), &paid).await.map_err(|it| super::unavailable(&self.seen(it)))?;
        // Also one that was there already is news: the answer to an earlier try was lost.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).insert(name, this);
        self.touched();
        Ok(true)
    }
}
