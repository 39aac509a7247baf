//! A row of the book, what it does to balances, and the chain that ties it to all rows before. Pure: both who writes and who
//! replays use just this.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};

use super::{Error, LineKind};

/// What is on an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Funds {
    /// Credits − debits.
    pub posted: i64,
    /// What open holds will debit.
    pub held: i64,
}

impl Funds {
    /// What is left when all holds are posted.
    pub fn available(self) -> i64 {
        self.posted.saturating_sub(self.held)
    }
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Done at once.
    Transfer,
    /// Set aside.
    Hold,
    /// A hold becomes a transfer.
    Post,
    /// A hold ends, and nothing else.
    Void,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Transfer, Kind::Hold, Kind::Post, Kind::Void];

    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Transfer => "transfer",
            Kind::Hold => "hold",
            Kind::Post => "post",
            Kind::Void => "void",
        }
    }
}

/// A row of the book, all but its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub seq: i64,
    pub id: Cow<'a, str>,
    pub kind: Kind,
    pub of: Option<Cow<'a, str>>,
    pub order_id: Cow<'a, str>,
    pub contract: Option<Cow<'a, str>>,
    pub debit: Cow<'a, str>,
    pub credit: Cow<'a, str>,
    pub amount: i64,
    pub currency: Cow<'a, str>,
    pub at_ms: i64,
    pub epoch: i64,
    pub detail: Cow<'a, str>,
}

/// An account of the book: of a customer, in money.
pub(super) fn cash(account: &str) -> String {
    format!("{account}:cash")
}

/// The legs of what a customer pays: `voucher` and `cash`, each with its account and amount. One of zero is left out; but what costs
/// nothing leaves a row too, in cash.
pub(super) fn legs(
    account: &str,
    in_vouchers: i64,
    in_cash: i64,
) -> impl Iterator<Item = (&'static str, String, i64)> {
    let is_free = in_vouchers == 0 && in_cash == 0;
    let both = [("voucher", voucher(account), in_vouchers), ("cash", cash(account), in_cash)];
    both.into_iter().filter(move |(leg, _, amount)| *amount != 0 || (*leg == "cash" && is_free))
}

/// An account of the book: of a customer, in vouchers.
pub(super) fn voucher(account: &str) -> String {
    format!("{account}:voucher")
}

/// An account of the book: what we earned.
pub(super) fn sales(currency: &str) -> String {
    format!("sales:{currency}")
}

/// An account of the book: where money comes from.
pub(super) fn bank(currency: &str) -> String {
    format!("bank:{currency}")
}

/// An account of the book: where vouchers come from.
pub(super) fn vouchers(currency: &str) -> String {
    format!("vouchers:{currency}")
}

impl Row<'_> {
    /// The chain up to and with this row: SHA-256 of the chain before it and all fields, each with its length, so that no two
    /// rows are written alike.
    pub(super) fn chain(&self, before: &str) -> String {
        let mut context = Context::new(&SHA256);
        let mut text = |it: Option<&str>| match it {
            Some(it) => {
                context.update(&(it.len() as u64).to_be_bytes());
                context.update(it.as_bytes());
            }
            None => context.update(&u64::MAX.to_be_bytes()),
        };
        text(Some(before));
        text(Some(&self.id));
        text(Some(self.kind.word()));
        text(self.of.as_deref());
        text(Some(&self.order_id));
        text(self.contract.as_deref());
        text(Some(&self.debit));
        text(Some(&self.credit));
        text(Some(&self.currency));
        text(Some(&self.detail));
        for number in [self.seq, self.amount, self.at_ms, self.epoch] {
            context.update(&number.to_be_bytes());
        }
        hex(context.finish().as_ref())
    }

    /// Which attempt at its order a row of a hold is: ids are `ORDER/ATTEMPT/LEG`.
    pub(super) fn attempt(&self) -> u32 {
        let id = self.of.as_deref().unwrap_or(&self.id);
        let rest = id.strip_prefix(self.order_id.as_ref()).and_then(|it| it.strip_prefix('/'));
        rest.and_then(|it| it.split('/').next()).and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    /// Whose row it is: the customer's account without `:cash` or `:voucher`, and whether it is the leg in vouchers.
    pub(super) fn customer(&self) -> (&str, bool) {
        let account = match self.purpose() {
            LineKind::Payment | LineKind::Refund => &self.credit,
            LineKind::Order | LineKind::Usage => &self.debit,
        };
        match account.strip_suffix(":voucher") {
            Some(customer) => (customer, true),
            None => (account.strip_suffix(":cash").unwrap_or(account), false),
        }
    }

    /// What the row is about. The accounts say it: customers have no colon in their names and currencies are capitals.
    pub(super) fn purpose(&self) -> LineKind {
        let is = |account: &str, prefix: &str| account.strip_prefix(prefix) == Some(self.currency.as_ref());
        match self.kind {
            Kind::Hold | Kind::Post | Kind::Void => LineKind::Order,
            Kind::Transfer if is(&self.debit, "sales:") => LineKind::Refund,
            Kind::Transfer if is(&self.credit, "sales:") => LineKind::Usage,
            Kind::Transfer => LineKind::Payment,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let digit = |it: u8| char::from(b"0123456789abcdef"[usize::from(it & 15)]);
    bytes.iter().flat_map(|it| [digit(it >> 4), digit(*it)]).collect()
}

/// Balances by account and currency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Book(pub BTreeMap<String, BTreeMap<String, Funds>>);

impl Book {
    /// What is on an account.
    pub(super) fn funds(&self, account: &str, currency: &str) -> Funds {
        self.0.get(account).and_then(|it| it.get(currency)).copied().unwrap_or_default()
    }

    /// Says what is on an account.
    pub(super) fn set(&mut self, account: &str, currency: &str, funds: Funds) {
        self.0.entry(account.to_owned()).or_default().insert(currency.to_owned(), funds);
    }

    /// What a row does to the accounts that it names. On an error the book is of no use any more.
    pub(super) fn apply(&mut self, row: &Row<'_>) -> Result<(), Error> {
        let (moved, held) = match row.kind {
            Kind::Transfer => (row.amount, 0),
            Kind::Hold => (0, row.amount),
            Kind::Post => (row.amount, -row.amount),
            Kind::Void => (0, -row.amount),
        };
        self.change(&row.debit, &row.currency, |it| {
            Some(Funds { posted: it.posted.checked_sub(moved)?, held: it.held.checked_add(held)? })
        })?;
        self.change(&row.credit, &row.currency, |it| {
            Some(Funds { posted: it.posted.checked_add(moved)?, ..it })
        })
    }

    /// Changes what is on an account, unless it would overflow.
    fn change(
        &mut self,
        account: &str,
        currency: &str,
        how: impl Fn(Funds) -> Option<Funds>,
    ) -> Result<(), Error> {
        let known = self.0.get_mut(account).and_then(|it| it.get_mut(currency));
        let funds = known.as_deref().copied().unwrap_or_default();
        let funds = how(funds).ok_or_else(|| Error::Overflow(account.to_owned()))?;
        match known {
            Some(known) => *known = funds,
            None => self.set(account, currency, funds),
        }
        Ok(())
    }
}
