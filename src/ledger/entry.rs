//! What goes into the ledger and what comes out of it, and which texts and amounts it accepts. No SQL.

use super::{Error, Funds};

/// When, and in whose term of leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Milliseconds since 1970, UTC.
    pub ms: i64,
    /// The epoch of the lease: a later one fences this one off.
    pub epoch: i64,
}

/// Whether a call was the first of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It is written now.
    New,
    /// It was there; nothing is written.
    AlreadyThere,
}

/// Money in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentIn {
    /// Its name; it counts once per name, for ever.
    pub name: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// In the currency's smallest unit, above zero.
    pub amount: i64,
    /// A voucher instead of money.
    pub voucher: bool,
    /// What to find it by, e.g. the bank's reference.
    pub reference: String,
}

/// An order whose price is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderIn {
    /// What it pays for: a function of contract, purpose and ordinal.
    pub id: String,
    /// The contract that it belongs to, which must be open.
    pub contract: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// In the currency's smallest unit.
    pub price: i64,
    /// What cash must be left, minus the credit limit for example; `None`: no limit.
    pub least: Option<i64>,
    /// Usage so far that is not charged yet.
    pub accrued: i64,
    /// JSON: what the bill shows.
    pub detail: String,
}

/// A line of usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChargeIn {
    /// What it charges for; counts once.
    pub id: String,
    /// The contract that it belongs to; it may be closed by now.
    pub contract: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// JSON: what the bill shows.
    pub detail: String,
}

/// Money back: from sales to cash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundIn {
    /// What it refunds; counts once.
    pub id: String,
    /// The contract that it belongs to.
    pub contract: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// In the currency's smallest unit; zero is recorded too.
    pub amount: i64,
    /// JSON: what the bill shows.
    pub detail: String,
    /// Close the contract in the same transaction.
    pub close: bool,
}

/// How an attempt at an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderState {
    /// Its price is held.
    Held,
    /// It is paid.
    Posted,
    /// It was given up; nothing is held.
    Voided,
}

/// One attempt at an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// What it pays for.
    pub id: String,
    /// How many attempts were voided before this one.
    pub attempt: u32,
    /// How it stands.
    pub state: OrderState,
    /// The contract that it belongs to.
    pub contract: String,
    /// The customer.
    pub account: String,
    /// Such as CNY.
    pub currency: String,
    /// What it costs: cash and voucher.
    pub price: i64,
    /// What is paid in money.
    pub cash: i64,
    /// What is paid with vouchers.
    pub voucher: i64,
    /// When it was held.
    pub held_at_ms: i64,
    /// When it was posted.
    pub posted_at_ms: Option<i64>,
    /// JSON: what the bill shows.
    pub detail: String,
}

/// An order that is held or posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Whether this call did it.
    pub done: Done,
    /// How the order stands now.
    pub order: OrderRow,
}

/// A contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Minted once.
    pub id: String,
    /// Whose it is, such as `ResidentPool/team-a/chat`.
    pub object: String,
    /// The object's uid; changes when a restored object adopts it.
    pub uid: String,
    /// When it was opened.
    pub opened_at_ms: i64,
    /// When it was closed.
    pub closed_at_ms: Option<i64>,
}

/// What a customer has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// Money.
    pub cash: Funds,
    /// Vouchers.
    pub voucher: Funds,
}

/// What a line of a bill is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// Money or a voucher in.
    Payment,
    /// An order that was posted.
    Order,
    /// Usage.
    Usage,
    /// Money back.
    Refund,
}

/// A line of a bill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is for: the id of the order, charge or refund, or `payment/NAME`.
    pub id: String,
    /// What it is about.
    pub kind: LineKind,
    /// When it was written.
    pub at_ms: i64,
    /// The contract that it belongs to; a payment has none.
    pub contract: Option<String>,
    /// Such as CNY.
    pub currency: String,
    /// What it adds to cash; charges are negative.
    pub cash: i64,
    /// What it adds to vouchers; charges are negative.
    pub voucher: i64,
    /// JSON: what the bill shows.
    pub detail: String,
}

/// How long ids, names and accounts may be: as long as a name in Kubernetes.
const TEXT_BYTES: usize = 253;
/// How long a detail may be: a line of a bill, not a document.
const DETAIL_BYTES: usize = 65_536;

fn invalid<T>(field: &'static str, value: &str, reason: &'static str) -> Result<T, Error> {
    Err(Error::Invalid { field, value: value.chars().take(TEXT_BYTES).collect(), reason })
}

/// An id, an object or a uid.
pub(super) fn check_text(field: &'static str, value: &str) -> Result<(), Error> {
    if value.is_empty() || value.len() > TEXT_BYTES || value.chars().any(char::is_control) {
        return invalid(field, value, "must have 1 to 253 bytes and no control characters");
    }
    Ok(())
}

/// A customer. Without colon, or `acme:cash` would be two things.
pub(super) fn check_account(value: &str) -> Result<(), Error> {
    check_text("account", value)?;
    if ["bank", "sales", "vouchers"].contains(&value) {
        return invalid("account", value, "is the name of an account of the book itself");
    }
    if value.contains(':') { invalid("account", value, "must have no colon") } else { Ok(()) }
}

/// A currency. Capitals, so that `bank:CNY` is nobody's `bank:cash`.
pub(super) fn check_currency(value: &str) -> Result<(), Error> {
    if value.len() == 3 && value.bytes().all(|it| it.is_ascii_uppercase()) {
        return Ok(());
    }
    invalid("currency", value, "must be three capital letters, such as CNY")
}

/// An amount of at least `least`.
pub(super) fn check_amount(field: &'static str, value: i64, least: i64) -> Result<(), Error> {
    if value >= least { Ok(()) } else { invalid(field, &value.to_string(), "must not be less") }
}

/// The text of a bill.
pub(super) fn check_detail(value: &str) -> Result<(), Error> {
    if value.len() > DETAIL_BYTES || serde_json::from_str::<serde::de::IgnoredAny>(value).is_err() {
        return invalid("detail", value, "must be JSON of at most 64 KiB");
    }
    Ok(())
}

/// What a line is for, and who pays it.
fn check_payer(contract: &str, account: &str, currency: &str) -> Result<(), Error> {
    check_text("contract", contract)?;
    check_account(account)?;
    check_currency(currency)
}

impl PaymentIn {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_text("name", &self.name)?;
        check_account(&self.account)?;
        check_currency(&self.currency)?;
        check_amount("amount", self.amount, 1)
    }
}

impl OrderIn {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_text("order", &self.id)?;
        check_payer(&self.contract, &self.account, &self.currency)?;
        check_amount("price", self.price, 0)?;
        check_amount("accrued", self.accrued, 0)?;
        check_detail(&self.detail)
    }
}

impl ChargeIn {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_text("charge", &self.id)?;
        check_payer(&self.contract, &self.account, &self.currency)?;
        check_amount("amount", self.amount, 0)?;
        check_detail(&self.detail)
    }
}

impl RefundIn {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_text("refund", &self.id)?;
        check_payer(&self.contract, &self.account, &self.currency)?;
        check_amount("amount", self.amount, 0)?;
        check_detail(&self.detail)
    }
}
