//! What owners are told, as far as the ledger keeps it: each fact once, however often it is seen.
//!
//! Passes see facts again and again, and say so here; what is new is kept in memory until `controllers/notify` writes it, a moment
//! later. A process that dies before that sees the fact again when it comes back, since all but one of them last: what a refund
//! tells is written before its contract is closed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::sync::Notify;

use super::Money;
use crate::api::Account;
use crate::controllers::notify::content;
use crate::domain::money::{Currency, Money as Amount};
use crate::domain::notice::{ARREARS_BEGAN, ARREARS_ENDED, About, Notice, What};
use crate::ledger::{Contract, Delivery, Error, NoticeIn, NoticeRow, RefundIn};

/// How long a notice is kept: longer than any fact is told that lasts.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 400);

/// What is told.
#[derive(Default)]
pub(in crate::controllers) struct Outbox {
    state: Mutex<State>,
    /// There is something to write or to send.
    pub(in crate::controllers) news: Notify,
}

#[derive(Default)]
struct State {
    /// Ids of all that is in the ledger, or will be in a moment.
    known: HashSet<String>,
    /// What will be.
    pending: Vec<NoticeIn>,
    /// Accounts in arrears by their id, and since when, ms.
    arrears: HashMap<String, i64>,
}

impl Outbox {
    /// Takes over what the ledger has.
    pub(super) fn load(&self, ids: Vec<(String, String)>) {
        self.state().arrears = open_arrears(&ids);
        self.know(ids);
    }

    /// These are in the ledger, and no others but those that are to be written. What is known of arrears stays: they may have begun
    /// a moment ago.
    fn know(&self, ids: Vec<(String, String)>) {
        let mut state = self.state();
        let pending: Vec<String> = state.pending.iter().map(|it| it.id.clone()).collect();
        state.known = ids.into_iter().map(|(id, _)| id).chain(pending).collect();
    }

    fn add(&self, notice: &Notice) {
        let mut state = self.state();
        if state.known.insert(notice.id()) {
            state.pending.push(content::row(notice));
            self.news.notify_one();
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Arrears that have begun and not ended.
fn open_arrears(ids: &[(String, String)]) -> HashMap<String, i64> {
    let of = |wanted: &'static str| {
        ids.iter().filter(move |(_, kind)| kind == wanted).filter_map(move |(id, _)| {
            let (account, since) = id.split_once(&format!("/{wanted}/"))?;
            Some((account.to_owned(), since.parse::<i64>().ok()?))
        })
    };
    let ended: HashSet<(String, i64)> = of(ARREARS_ENDED).collect();
    of(ARREARS_BEGAN).filter(|it| !ended.contains(it)).collect()
}

impl Money {
    /// Says that something holds of which an owner is told; what was told already is not told again.
    pub(in crate::controllers) fn tell(&self, notice: &Notice) {
        self.outbox.add(notice);
    }

    /// Says whether an account is in arrears, and with which balance.
    pub(in crate::controllers) fn tell_of_arrears(
        &self,
        account: &Account,
        is_in: bool,
        balance: (Amount, &Currency),
        now: Timestamp,
    ) {
        let id = format!("account/{}", account.uid().unwrap_or_default());
        let since = self.outbox.state().arrears.get(&id).copied();
        let (what, open) = match (since, is_in) {
            (None, true) => {
                let since_ms = now.as_millisecond();
                let (balance, currency) = (balance.0.text(balance.1), balance.1.code().to_owned());
                (What::ArrearsBegan { since_ms, balance, currency }, Some(since_ms))
            }
            (Some(since_ms), false) => (What::ArrearsEnded { since_ms }, None),
            (None, false) | (Some(_), true) => return,
        };
        let about = About { id: id.clone(), object: format!("Account/{}", account.name_any()) };
        self.outbox.add(&Notice { account: account.name_any(), about, what });
        let mut state = self.outbox.state();
        match open {
            Some(since_ms) => state.arrears.insert(id, since_ms),
            None => state.arrears.remove(&id),
        };
    }

    /// Writes down that a contract was left and refunded: before it is closed, since nobody sees that fact again afterwards.
    pub(super) async fn tell_of_refunds(
        &self,
        contract: &Contract,
        refunds: &[RefundIn],
        now: Timestamp,
    ) -> Result<(), Error> {
        // All orders of a contract are mostly paid by one account.
        let payers: BTreeSet<(&str, &str)> =
            refunds.iter().map(|it| (it.account.as_str(), it.currency.as_str())).collect();
        let mut notices = Vec::new();
        for (account, currency) in payers {
            let Some(known) = Currency::find(currency) else { continue };
            let of_payer = refunds.iter().filter(|it| it.account == account && it.currency == currency);
            let sum = of_payer.fold(0_i64, |sum, it| sum.saturating_add(it.amount));
            let what = What::Refunded { amount: Amount(sum).text(&known), currency: currency.to_owned() };
            let about = About { id: contract.id.clone(), object: contract.object.clone() };
            notices.push(content::row(&Notice { account: account.to_owned(), about, what }));
        }
        if notices.is_empty() {
            return Ok(());
        }
        self.ledger()?.note(self.at(now), &notices).await.map_err(|it| self.seen(it))?;
        self.outbox.state().known.extend(notices.into_iter().map(|it| it.id));
        self.outbox.news.notify_one();
        Ok(())
    }

    /// Writes down what is new.
    pub(in crate::controllers) async fn write_notices(&self, now: Timestamp) -> Result<(), Error> {
        let pending = self.outbox.state().pending.clone();
        if pending.is_empty() {
            return Ok(());
        }
        self.ledger()?.note(self.at(now), &pending).await.map_err(|it| self.seen(it))?;
        // Meanwhile there may be more, behind these.
        self.outbox.state().pending.drain(..pending.len());
        Ok(())
    }

    /// Says where notices go that were written and not addressed yet. `targets`: of an account; `None` = nobody knows now.
    /// The new deliveries.
    pub(in crate::controllers) async fn address_notices(
        &self,
        now: Timestamp,
        targets: impl Fn(&str) -> Option<BTreeSet<String>>,
    ) -> Result<Vec<(NoticeRow, BTreeSet<String>)>, Error> {
        let rows = self.ledger()?.unaddressed().await?;
        let addressed: Vec<(NoticeRow, BTreeSet<String>)> =
            rows.into_iter().filter_map(|it| targets(&it.notice.account).map(|to| (it, to))).collect();
        if !addressed.is_empty() {
            let all: Vec<_> = addressed.iter().map(|(it, to)| (it.notice.id.clone(), to.clone())).collect();
            self.ledger()?.address(self.at(now), &all).await.map_err(|it| self.seen(it))?;
        }
        Ok(addressed)
    }

    /// All deliveries that are kept.
    pub(in crate::controllers) async fn deliveries(&self) -> Result<Vec<Delivery>, Error> {
        self.ledger()?.deliveries().await
    }

    /// What a notice says.
    pub(in crate::controllers) async fn notice(&self, id: &str) -> Result<Option<NoticeRow>, Error> {
        self.ledger()?.notice(id).await
    }

    /// Writes down how a delivery stands.
    pub(in crate::controllers) async fn mark(
        &self,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.ledger()?.mark(self.at(now), delivery).await.map_err(|it| self.seen(it))
    }

    /// Forgets what is old. Of arrears both is kept: without their end they would look as if they went on, and their end was news.
    pub(in crate::controllers) async fn forget_notices(&self, now: Timestamp) -> Result<(), Error> {
        let before = now.saturating_sub(KEPT).unwrap_or(Timestamp::MIN);
        let kept = [ARREARS_BEGAN, ARREARS_ENDED];
        let forgotten = self.ledger()?.forget_notices(self.at(now), before.as_millisecond(), kept).await;
        forgotten.map_err(|it| self.seen(it))?;
        self.outbox.know(self.ledger()?.notice_ids().await?);
        Ok(())
    }

    /// Accounts have something else to say.
    pub(in crate::controllers) fn accounts_changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrears_are_open_until_just_these_have_ended() {
        let id = |account: &str, kind: &str, since: i64| {
            (format!("account/{account}/{kind}/{since}"), kind.to_owned())
        };
        let ids = [
            id("a", ARREARS_BEGAN, 1),
            id("a", ARREARS_ENDED, 1),
            id("a", ARREARS_BEGAN, 5),
            id("b", ARREARS_BEGAN, 2),
            id("b", ARREARS_ENDED, 2),
            ("contract/u/expired/3".to_owned(), "expired".to_owned()),
        ];
        assert_eq!(open_arrears(&ids), HashMap::from([("account/a".to_owned(), 5)]));
    }
}
