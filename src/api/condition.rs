//! Conditions: every word that a user reads in one is an enum here.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The type of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// All is as it was bought; a function of the others.
    Ready,
    /// All cards of a pool are locked.
    CardsLocked,
    /// All orders that were asked for are paid.
    Paid,
    /// The term ends soon, or has ended.
    ExpiringSoon,
    /// All machines of a group are there and usable.
    MachinesReady,
    /// A spot server has its card and runs.
    Placed,
    /// There are cards for all workers that are wanted.
    CardsAvailable,
    /// All workers that are wanted are ready.
    WorkersReady,
    /// What the object names exists and fits.
    ReferencesResolved,
    /// What the account's targets were sent has arrived.
    Notified,
    /// A spot server has been told that it will be reclaimed.
    ReclaimNotice,
    /// The price of a market is as new as it should be.
    PriceCurrent,
    /// Whoever pays for an endpoint does so.
    Funded,
}

/// Why a condition is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// As it should be.
    AsBought,
    /// Valid, and all that it names exists.
    Valid,
    /// Running.
    Running,
    /// Stopped, as its state says.
    Stopped,
    /// Scaled to zero.
    Idle,
    /// On its way.
    Progressing,
    /// Not yet decided.
    Pending,
    /// Being deleted.
    Deleting,
    /// The object can't be used as it is; the message says why.
    Invalid,
    /// The card type does not exist.
    UnknownCardType,
    /// The machine type is not in the tariff.
    UnknownMachineType,
    /// The pool or group does not exist.
    UnknownPlacement,
    /// No tariff for the region.
    NoTariff,
    /// The tariff has no price for this.
    NoPrice,
    /// No market for the card type.
    NoMarket,
    /// The namespace names no account.
    NoAccount,
    /// The account does not exist.
    UnknownAccount,
    /// The account pays in another currency than the tariff asks.
    OtherCurrency,
    /// The account's quota does not suffice.
    QuotaExceeded,
    /// Not enough free cards.
    Shortage,
    /// No whole machine is free.
    SoldOut,
    /// The purchase was refused (`onShortage: Fail`).
    Refused,
    /// The bid is below the price.
    PriceAboveBid,
    /// The pool has no room for all instances.
    PoolWithoutRoom,
    /// The group is not of use `Inference`.
    GroupNotInference,
    /// The group or pool is not usable yet.
    PlacementNotReady,
    /// Sold cards are away or faulty.
    Degraded,
    /// A machine is being emptied.
    Draining,
    /// Machines to give back must be named.
    NameMachines,
    /// A prepaid machine stays until its term ends.
    BoundByTerm,
    /// A machine that is paid by the hour is converted when an hour of it is charged.
    NoHourCharged,
    /// Two card types match the same node.
    Conflict,
    /// Workers do not get ready.
    NotReady,
    /// Endpoints are still bound.
    StillBound,
    /// Workers end by themselves, one after the other, before they are ready.
    CrashLoop,
    /// The Secret with the keys of callers is missing, or not as it should be.
    KeysInvalid,
    /// The account's balance and credit do not suffice.
    InsufficientFunds,
    /// The term has ended.
    Expired,
    /// The term ends soon.
    Expiring,
    /// The term does not end soon.
    NotExpiring,
    /// It was not renewed in time.
    Released,
    /// The ledger can't be reached: nothing is bought meanwhile.
    LedgerUnavailable,
    /// The object says that it is bought, and the ledger knows nothing of it.
    LedgerMismatch,
    /// Counted in the ledger.
    Counted,
    /// What was sent has arrived.
    Delivered,
    /// A notice did not arrive; it is tried again for a while.
    Undelivered,
    /// The account is in arrears: what is not prepaid ends, and nothing begins.
    Arrears,
    /// The account is not in arrears.
    NoArrears,
    /// Spot servers have their notice for it, and their cards come.
    Reclaiming,
    /// Nobody has told the server to go.
    NoNotice,
    /// Its notice has ended: its cards went back.
    Reclaimed,
    /// The address of a price can't be read.
    FeedFailed,
}

impl Type {
    /// As it stands in `type`.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }
}

impl Reason {
    /// As it stands in `reason`.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }
}

/// The conditions of one status while they are made.
#[derive(Debug)]
pub struct Conditions<'a> {
    before: &'a [Condition],
    generation: Option<i64>,
    now: Timestamp,
    list: Vec<Condition>,
}

impl<'a> Conditions<'a> {
    /// Starts from what the object says now, so that a condition that does not change keeps its time.
    pub fn new(before: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Conditions<'a> {
        Conditions { before, generation, now, list: Vec::new() }
    }

    /// States a condition: `None` is `Unknown`.
    pub fn set(
        &mut self,
        kind: Type,
        holds: Option<bool>,
        reason: Reason,
        message: impl Into<String>,
    ) -> &mut Self {
        let status = match holds {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let type_ = kind.as_str();
        let same = self.before.iter().find(|it| it.type_ == type_ && it.status == status);
        self.list.push(Condition {
            last_transition_time: same.map_or(Time(self.now), |it| it.last_transition_time.clone()),
            message: message.into(),
            observed_generation: self.generation,
            reason: reason.as_str(),
            status: status.to_owned(),
            type_,
        });
        self
    }

    /// The list, in the order of their types.
    pub fn done(mut self) -> Vec<Condition> {
        self.list.sort_by(|a, b| a.type_.cmp(&b.type_));
        self.list
    }
}

/// Does the condition hold?
pub fn holds(conditions: &[Condition], kind: Type) -> bool {
    conditions.iter().any(|it| it.type_ == kind.as_str() && it.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut first = Conditions::new(&[], Some(1), at(10));
        first.set(Type::Ready, Some(false), Reason::Pending, "no cards");
        let first = first.done();
        let mut second = Conditions::new(&first, Some(2), at(20));
        second.set(Type::Ready, Some(false), Reason::Shortage, "still none");
        let second = second.done();
        assert_eq!(second[0].last_transition_time, Time(at(10)));
        assert_eq!(second[0].observed_generation, Some(2));
        let mut third = Conditions::new(&second, Some(2), at(30));
        third.set(Type::Ready, Some(true), Reason::AsBought, "");
        assert_eq!(third.done()[0].last_transition_time, Time(at(30)));
    }
}
