//! A row of the book, what it does to balances, and the chain that ties it to all rows before. Pure: both who writes and who
//! replays use just this.

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
pub(super) struct Row {
    pub seq: i64,
    pub id: String,
    pub kind: Kind,
    pub of: Option<String>,
    pub order_id: String,
    pub contract: Option<String>,
    pub debit: String,
    pub credit: String,
    pub amount: i64,
    pub currency: String,
    pub at_ms: i64,
    pub epoch: i64,
    pub detail: String,
}

/// An account of the book: of a customer, in money.
pub(super) fn cash(account: &str) -> String {
    format!("{account}:cash")
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

impl Row {
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
        let rest = id.strip_prefix(&self.order_id).and_then(|it| it.strip_prefix('/'));
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
        let is = |account: &str, prefix: &str| account.strip_prefix(prefix) == Some(self.currency.as_str());
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
        if let Some(known) = self.0.get_mut(account).and_then(|it| it.get_mut(currency)) {
            *known = funds;
        } else {
            self.0.entry(account.to_owned()).or_default().insert(currency.to_owned(), funds);
        }
    }

    /// What a row does to the accounts that it names. On an error the book is of no use any more.
    pub(super) fn apply(&mut self, row: &Row) -> Result<(), Error> {
        let overflow = |account: &str| Error::Overflow(account.to_owned());
        let (moved, held) = match row.kind {
            Kind::Transfer => (row.amount, 0),
            Kind::Hold => (0, row.amount),
            Kind::Post => (row.amount, -row.amount),
            Kind::Void => (0, -row.amount),
        };
        let debit = self.funds(&row.debit, &row.currency);
        let posted = debit.posted.checked_sub(moved).ok_or_else(|| overflow(&row.debit))?;
        let held = debit.held.checked_add(held).ok_or_else(|| overflow(&row.debit))?;
        self.set(&row.debit, &row.currency, Funds { posted, held });
        let credit = self.funds(&row.credit, &row.currency);
        let posted = credit.posted.checked_add(moved).ok_or_else(|| overflow(&row.credit))?;
        self.set(&row.credit, &row.currency, Funds { posted, ..credit });
        Ok(())
    }
}
