//! The ledger as the controllers use it: who leads it, what each contract has bought, what each account has.
//!
//! What is read is kept until this process writes: nobody else does, the ledger's fence sees to that. `standing` makes a contract's
//! lease of its orders, `orders` is what pools and machines do alike, `machines` are the hours of machines, `accounts` says how accounts
//! and payments stand; `meter` and `known` keep what workers have used, `metering` writes it down, `billing` makes lines of it; `outbox` keeps
//! what owners are told. What to buy, and when, is the contract's own business (`pool/order.rs`, `group/order.rs`).

pub(super) mod accounts;
mod billing;
mod known;
pub(super) mod machines;
pub(super) mod meter;
pub(super) mod metering;
pub(super) mod orders;
mod outbox;
pub(super) mod sku;
mod standing;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

pub(super) use standing::{Detail, Held, List, MachineBought, Paid, Part, PoolBought, Standing, What, anew};

use super::facts::Problem;
use crate::api::condition::Reason;
use crate::ledger::{At, Counted, Error, Ledger, OrderIn, RefundIn};

/// The ledger, and what is known of it.
#[derive(Default)]
pub struct Money {
    ledger: OnceLock<Ledger>,
    /// This term of leadership; a later one fences it off.
    epoch: AtomicI64,
    /// Contracts by the UID of their object.
    standings: Mutex<HashMap<String, Arc<Standing>>>,
    /// UIDs of objects of whose contract a write may or may not have come through: it is read before anything else.
    doubtful: Mutex<HashSet<String>>,
    /// Payments that are counted, by name.
    counted: Mutex<HashMap<String, Counted>>,
    /// How accounts stand, until the next write.
    accounts: Mutex<HashMap<String, accounts::Summary>>,
    /// What each account had when it was last read.
    balances: Mutex<HashMap<String, crate::domain::money::Money>>,
    /// Accounts in arrears, and since when.
    arrears: Mutex<HashMap<String, Timestamp>>,
    /// How many writes there were: what was read before one is not kept after it.
    writes: AtomicU64,
    /// May use be in the ledger that still counts as not billed? What an account has may look less than it is meanwhile.
    unsure: AtomicBool,
    /// Has anything been written since it was last asked?
    changed: AtomicBool,
    /// What is metered.
    pub(super) meter: meter::Meter,
    /// What owners are told.
    pub(super) outbox: outbox::Outbox,
    /// What is known of machines by the hour.
    hourly: Mutex<machines::Known>,
    /// Somebody else leads the ledger: nothing may be done any more.
    pub fenced: CancellationToken,
}

impl Money {
    /// Opens the ledger, takes over its lead, and reads what all open contracts have bought.
    pub async fn lead(&self, url: &str, now: Timestamp) -> Result<(), Error> {
        let ledger = Ledger::open(url).await?;
        let epoch = ledger.lead().await?;
        self.epoch.store(epoch, Ordering::Relaxed);
        let counted = ledger.payments().await?.into_iter().map(|it| (it.name.clone(), it)).collect();
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        self.outbox.load(ledger.notice_ids().await?);
        let contracts = ledger.contracts().await?;
        let (spans, billed) = (ledger.unbilled_spans().await?, ledger.billed_until().await?);
        let prices = ledger.prices().await?;
        self.load_hour_prices(&prices);
        let since = |it: i64| Timestamp::from_millisecond(it).unwrap_or(Timestamp::MAX);
        let arrears = ledger.arrears().await?.into_iter().map(|(account, it)| (account, since(it))).collect();
        *self.arrears.lock().unwrap_or_else(PoisonError::into_inner) = arrears;
        self.meter.load(&contracts, spans, &billed, prices);
        self.meter.sum_up();
        // What is metered orders nothing.
        for contract in contracts.into_iter().filter(|it| !meter::is_metered(&it.object)) {
            let uid = contract.uid.clone();
            match Standing::read(&ledger, contract).await {
                Ok(standing) => drop(self.standings().insert(uid, Arc::new(standing))),
                // One contract that this version can't read keeps what it has, and must not stop the others.
                Err(Error::Invalid { value, .. }) => tracing::error!(order = value, "an order can't be read"),
                Err(error) => return Err(error),
            }
        }
        tracing::info!(epoch, contracts = self.standings().len(), %now, "leads the ledger");
        self.ledger.set(ledger).ok();
        Ok(())
    }

    /// What the contract of an object has bought; `None` when the ledger knows none.
    pub(super) fn standing(&self, uid: Option<&str>) -> Option<Arc<Standing>> {
        self.standings().get(uid?).cloned()
    }

    /// Has anything been written since this was last asked?
    pub(super) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::Relaxed)
    }

    /// What the catalogue shows is another one now.
    pub(super) fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Is it unknown whether the last write for this contract came through?
    pub(super) fn is_doubtful(&self, uid: &str) -> bool {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }

    /// Reads a contract anew.
    pub(super) async fn refresh(&self, standing: &Standing) -> Result<Arc<Standing>, Error> {
        self.keep(Standing::read(self.ledger()?, standing.contract.clone()).await?);
        let uid = &standing.contract.uid;
        self.standing(Some(uid)).ok_or_else(|| Error::NoContract(standing.contract.id.clone()))
    }

    /// Has the object had a contract that is closed by now?
    pub(super) async fn is_closed(&self, uid: &str) -> Result<bool, Error> {
        let contract = self.ledger()?.contract_of(uid).await?;
        Ok(contract.is_some_and(|it| it.closed_at_ms.is_some()))
    }

    /// Opens the contract of an object. One that was restored from a backup names its former contract, and takes it over when
    /// that is still open and of the same object. False when there is nothing to take over, and the object `must_adopt` because
    /// it has been bought.
    pub(super) async fn open(
        &self,
        former: Option<&str>,
        must_adopt: bool,
        object: &str,
        uid: &str,
        now: Timestamp,
    ) -> Result<bool, Error> {
        if self.standing(Some(uid)).is_some() {
            return Ok(true);
        }
        let at = self.at(now);
        let own = contract_id(uid);
        let former = former.filter(|it| *it != own);
        let adopted = match former {
            Some(former) => match self.ledger()?.adopt_contract(at, former, object, uid).await {
                Ok(contract) => Some(contract),
                Err(Error::NoContract(_) | Error::Closed(_) | Error::OtherObject { .. }) => None,
                Err(error) => return Err(self.seen(error)),
            },
            None => None,
        };
        let contract = match adopted {
            Some(contract) => {
                self.standings().retain(|_, it| it.contract.id != contract.id);
                contract
            }
            None if must_adopt => return Ok(false),
            None => self.ledger()?.open_contract(at, &own, object, uid).await.map_err(|it| self.seen(it))?,
        };
        // One that was adopted, or opened by who led before, may have orders.
        let standing = if former.is_some() || contract.opened_at_ms != at.ms {
            Standing::read(self.ledger()?, contract).await?
        } else {
            Standing::new(contract)
        };
        self.keep(standing);
        Ok(true)
    }

    /// Holds the prices of orders: all or none.
    pub(super) async fn hold(
        &self,
        standing: &Standing,
        orders: &[OrderIn],
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        let held = self.ledger()?.hold_all(self.at(now), orders).await;
        let held = self.sure(&mut write, standing, held).await?;
        self.keep(standing.with(held.into_iter().map(|it| it.order))?);
        write.is_known = true;
        Ok(())
    }

    /// Pays orders whose prices are held: all or none.
    pub(super) async fn post(
        &self,
        standing: &Standing,
        orders: &[&str],
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        let posted = self.ledger()?.post_all(self.at(now), orders).await;
        let posted = self.sure(&mut write, standing, posted).await?;
        self.keep(standing.with(posted.into_iter().map(|it| it.order))?);
        write.is_known = true;
        Ok(())
    }

    /// Gives up orders whose prices are held: all or none.
    pub(super) async fn void(
        &self,
        standing: &Standing,
        orders: &[&str],
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut write = self.begin(standing);
        let voided = self.ledger()?.void_all(self.at(now), orders).await;
        self.sure(&mut write, standing, voided).await?;
        self.keep(standing.without(orders));
        write.is_known = true;
        Ok(())
    }

    /// Pays back, and closes the contract with the last of them.
    pub(super) async fn close(
        &self,
        standing: &Standing,
        refunds: &[RefundIn],
        now: Timestamp,
    ) -> Result<(), Error> {
        for refund in refunds {
            self.ledger()?.refund(self.at(now), refund).await.map_err(|it| self.seen(it))?;
        }
        self.tell_of_refunds(&standing.contract, refunds, now).await?;
        self.ledger()?
            .close_contract(self.at(now), &standing.contract.id)
            .await
            .map_err(|it| self.seen(it))?;
        self.standings().remove(&standing.contract.uid);
        self.forget_hours(&standing.contract.id);
        self.touched();
        Ok(())
    }

    fn begin(&self, standing: &Standing) -> Write<'_> {
        Write { money: self, uid: standing.contract.uid.clone(), is_known: false }
    }

    /// After a failure nobody knows whether it was written: the contract is read anew, now or before its next step.
    async fn sure<T>(
        &self,
        write: &mut Write<'_>,
        standing: &Standing,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        match &done {
            Ok(_) => (),
            Err(Error::NotEnough { .. }) => {
                write.is_known = true;
                if self.unsure.load(Ordering::SeqCst) {
                    return Err(Error::Unsure);
                }
            }
            Err(_) => write.is_known = self.refresh(standing).await.is_ok(),
        }
        done.map_err(|it| self.seen(it))
    }

    fn keep(&self, standing: Standing) {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).remove(&standing.contract.uid);
        self.standings().insert(standing.contract.uid.clone(), Arc::new(standing));
        self.touched();
    }

    /// Accounts stand otherwise now.
    fn touched(&self) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.changed.store(true, Ordering::Relaxed);
    }

    fn ledger(&self) -> Result<&Ledger, Error> {
        self.ledger.get().ok_or(Error::Fenced { epoch: 0 })
    }

    fn at(&self, now: Timestamp) -> At {
        At { ms: now.as_millisecond(), epoch: self.epoch.load(Ordering::Relaxed) }
    }

    /// Who is fenced off stops at once.
    fn seen(&self, error: Error) -> Error {
        if let Error::Fenced { epoch } = &error {
            tracing::error!(epoch, "somebody else leads the ledger: this process ends");
            self.fenced.cancel();
        }
        error
    }

    fn standings(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Standing>>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write for a contract. While it is not known how it ended, and it may be dropped half-way, the contract is in doubt.
struct Write<'m> {
    money: &'m Money,
    uid: String,
    is_known: bool,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            let uid = std::mem::take(&mut self.uid);
            self.money.doubtful.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
        }
    }
}

/// A contract's id: a function of the object that it was made for, so that it is minted once whoever does it.
pub(super) fn contract_id(uid: &str) -> String {
    format!("contract/{uid}")
}

/// What the owner of a contract reads when the ledger does not answer.
pub(super) fn unavailable(error: &Error) -> Problem {
    let message =
        format!("the ledger does not answer, so nothing is bought meanwhile; what runs stays: {error}");
    Problem::new(Reason::LedgerUnavailable, message)
}

/// What use of a pool's cards is called among the prices, by the pool's UID: it is paid in advance, and costs nothing.
pub fn resident_sku(pool: &str) -> String {
    sku::Sku::Resident { pool: pool.to_owned() }.text()
}
