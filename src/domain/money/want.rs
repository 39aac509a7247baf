//! What to order next for something prepaid, one order at a time.

use jiff::Timestamp;

use super::calendar::{Period, after_days, after_seconds, whole_second};
use super::order::{quote_expansion, quote_term};
use super::price::charged_months;
use super::{Currency, Exact, Lease, LongTerm, Money, Order, PoolPrices, PoolSize, Purpose, State, TooMuch};

/// How often an auto-renewal is tried while it is not paid, seconds.
const AUTO_RENEWAL_RETRY_SECONDS: i64 = 3_600;

/// What its owner wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How large it shall be.
    pub size: PoolSize,
    /// The first term, months.
    pub term_months: u32,
    /// Renewals, months each. The list only grows; each entry is bought once.
    pub renewals: Vec<u32>,
    /// Months that are bought by themselves 24 h before expiry; `None` without auto-renewal.
    pub auto_renew_months: Option<u32>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Buy this. Its cash and voucher are zero: how it is paid is for the ledger to say.
    Order(Order),
    /// Nothing is to be bought now.
    Nothing,
}

/// What a term costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer<'a> {
    /// What the term is for.
    pub size: PoolSize,
    /// The price of a month of it.
    pub month: Exact,
    /// Long terms of which fewer months are charged.
    pub long_terms: &'a [LongTerm],
}

/// The next order of a pool. First its initial term; then the renewals that are not bought, in their order, before expiry
/// or after it; then, from 24 h before expiry and never after it, an auto-renewal; then, while it is active, an expansion. What is
/// there is kept before it grows: an expansion that waits for cards or money must not let the whole pool expire.
///
/// The lease is as of now: what should have changed by now gets no order before it has.
pub fn next_order(
    wanted: &Wanted,
    lease: &Lease,
    prices: &PoolPrices,
    now: Timestamp,
    currency: &Currency,
) -> Result<Next, TooMuch> {
    let offer = |size| Offer { size, month: prices.month(size), long_terms: &[] };
    let of_size = if lease.state == State::Requested { wanted.size } else { lease.size };
    if let Some(order) = next_term(wanted, lease, &offer(of_size), now, currency)? {
        return Ok(Next::Order(order));
    }
    match next_auto(wanted, lease, &offer(lease.size), now, currency)? {
        Next::Order(order) => Ok(Next::Order(order)),
        Next::Nothing => {
            let expansion = next_expansion(wanted, lease, prices, now, currency)?;
            Ok(expansion.map_or(Next::Nothing, Next::Order))
        }
    }
}

/// The next order of one machine: as that of a pool, but it does not grow, and long terms may cost less.
/// The size of what is wanted counts for nothing.
pub fn next_machine_order(
    wanted: &Wanted,
    lease: &Lease,
    month: &Exact,
    long_terms: &[LongTerm],
    now: Timestamp,
    currency: &Currency,
) -> Result<Next, TooMuch> {
    let offer = Offer { size: lease.size, month: month.clone(), long_terms };
    match next_term(wanted, lease, &offer, now, currency)? {
        Some(order) => Ok(Next::Order(order)),
        None => next_auto(wanted, lease, &offer, now, currency),
    }
}

/// The order of a term: the initial one, a renewal, or the conversion of what was paid by the hour, which begins in the second
/// of now. `None` when nothing can be bought any more, or for a term of no months.
pub fn term_order(
    purpose: Purpose,
    months: u32,
    offer: &Offer<'_>,
    lease: &Lease,
    now: Timestamp,
    currency: &Currency,
) -> Result<Option<Order>, TooMuch> {
    let Some(term) = lease.term(months, now).filter(|_| months > 0) else { return Ok(None) };
    let price = quote_term(&offer.month, charged_months(months, offer.long_terms), currency)?;
    let (cash, voucher) = (Money(0), Money(0));
    Ok(Some(Order { purpose, period: term.period, months, size: offer.size, price, cash, voucher }))
}

/// When to look again without a change of what is wanted: when the lease changes by itself or a reminder is due, when
/// auto-renewal begins, and every hour from then on until expiry.
pub fn look_again(wanted: &Wanted, lease: &Lease, now: Timestamp) -> Option<Timestamp> {
    let auto = match lease.state {
        State::Active { expires_at } if wanted.auto_renew_months.is_some() => {
            let opens = auto_renewal_opens(expires_at);
            let tried = (now.as_second() - opens.as_second()).div_euclid(AUTO_RENEWAL_RETRY_SECONDS) + 1;
            Some(after_seconds(opens, tried.max(0) * AUTO_RENEWAL_RETRY_SECONDS))
        }
        State::Requested
        | State::Active { .. }
        | State::Expired { .. }
        | State::Released { .. }
        | State::Ended { .. } => None,
    };
    lease.next(now).into_iter().chain(auto).min()
}

/// The initial term, or the next renewal of the list.
fn next_term(
    wanted: &Wanted,
    lease: &Lease,
    offer: &Offer<'_>,
    now: Timestamp,
    currency: &Currency,
) -> Result<Option<Order>, TooMuch> {
    let (purpose, months) = match lease.state {
        State::Requested => (Purpose::Initial, wanted.term_months),
        State::Active { expires_at: ends_at } | State::Expired { releases_at: ends_at, .. }
            if now < ends_at =>
        {
            let position = lease.renewals_bought;
            let entry = usize::try_from(position).ok().and_then(|it| wanted.renewals.get(it));
            let Some(months) = entry else { return Ok(None) };
            (Purpose::Manual { position }, *months)
        }
        State::Active { .. } | State::Expired { .. } | State::Released { .. } | State::Ended { .. } => {
            return Ok(None);
        }
    };
    term_order(purpose, months, offer, lease, now, currency)
}

/// More cards or disk from now until expiry. Both sizes are priced as the tariff is now.
fn next_expansion(
    wanted: &Wanted,
    lease: &Lease,
    prices: &PoolPrices,
    now: Timestamp,
    currency: &Currency,
) -> Result<Option<Order>, TooMuch> {
    let (State::Active { expires_at }, Some(anchor)) = (lease.state, lease.anchor) else { return Ok(None) };
    let (to, period) = (wanted.size, Period { start: whole_second(now), end: expires_at });
    if now >= expires_at || !to.is_larger_than(lease.size) {
        return Ok(None);
    }
    let (old, new) = (prices.month(lease.size), prices.month(to));
    let price = quote_expansion(&old, &new, anchor, period.start, period.end, currency)?;
    let (cash, voucher) = (Money(0), Money(0));
    let purpose = Purpose::Expansion { to };
    Ok(Some(Order { purpose, period, months: 0, size: to, price, cash, voucher }))
}

/// The auto-renewal, in the 24 h before expiry.
fn next_auto(
    wanted: &Wanted,
    lease: &Lease,
    offer: &Offer<'_>,
    now: Timestamp,
    currency: &Currency,
) -> Result<Next, TooMuch> {
    let (State::Active { expires_at }, Some(months)) = (lease.state, wanted.auto_renew_months) else {
        return Ok(Next::Nothing);
    };
    if now < auto_renewal_opens(expires_at) || now >= expires_at {
        return Ok(Next::Nothing);
    }
    let purpose = Purpose::Auto { old_expiry: expires_at };
    let order = term_order(purpose, months, offer, lease, now, currency)?;
    Ok(order.map_or(Next::Nothing, Next::Order))
}

fn auto_renewal_opens(expires_at: Timestamp) -> Timestamp {
    after_days(expires_at, -1)
}
