//! Usage lines, many in one transaction.

use std::collections::BTreeSet;

use super::book::{Kind, cash, sales, voucher};
use super::orders::already;
use super::work::{Entry, Work, by_id};
use super::{At, ChargeIn, Done, Error, Ledger, LineKind};

impl Ledger {
    /// Charges usage, vouchers first and cash without limit, all lines or none. A line whose id is there already, also earlier
    /// in the same list, is left out, whatever it says.
    pub async fn charge(&self, at: At, charges: &[ChargeIn]) -> Result<Vec<Done>, Error> {
        for charge in charges {
            charge.check()?;
        }
        let mut work = Work::begin(self, at).await?;
        let done = enter_all(&mut work, charges).await?;
        work.commit().await?;
        Ok(done)
    }
}

/// Enters all lines that are not there yet.
pub(super) async fn enter_all(work: &mut Work<'_>, charges: &[ChargeIn]) -> Result<Vec<Done>, Error> {
    work.known_contracts(charges.iter().map(|it| it.contract.as_str())).await?;
    let ids: Vec<&str> = charges.iter().map(|it| it.id.as_str()).collect();
    let legs: Vec<String> =
        ids.iter().flat_map(|id| [format!("{id}/voucher"), format!("{id}/cash")]).collect();
    let earlier = by_id(work.rows_by_id(&legs).await?);
    if let Some(order) = work.holds(&ids).await?.first() {
        return Err(Error::Taken(order.order_id.clone()));
    }
    let accounts =
        charges.iter().flat_map(|it| [voucher(&it.account), cash(&it.account), sales(&it.currency)]);
    work.read_balances(&accounts.collect()).await?;
    let mut seen = BTreeSet::new();
    let mut done = Vec::with_capacity(charges.len());
    for (charge, legs) in charges.iter().zip(legs.chunks(2)) {
        let there = legs.iter().find_map(|it| earlier.get(it));
        if let Some(row) = there {
            already(row, LineKind::Usage)?;
        }
        if there.is_some() || !seen.insert(&charge.id) {
            done.push(Done::AlreadyThere);
            continue;
        }
        enter(work, charge)?;
        done.push(Done::New);
    }
    Ok(done)
}

/// One line: what vouchers cover, and the rest in cash. A line of zero leaves a row in cash.
fn enter(work: &mut Work<'_>, charge: &ChargeIn) -> Result<(), Error> {
    let vouchers = work.book().funds(&voucher(&charge.account), &charge.currency).available().max(0);
    let in_vouchers = vouchers.min(charge.amount);
    let in_cash = charge.amount - in_vouchers;
    for (leg, debit, amount) in
        [("voucher", voucher(&charge.account), in_vouchers), ("cash", cash(&charge.account), in_cash)]
    {
        if amount == 0 && !(leg == "cash" && charge.amount == 0) {
            continue;
        }
        work.enter(Entry {
            id: format!("{}/{leg}", charge.id),
            kind: Kind::Transfer,
            of: None,
            order_id: &charge.id,
            contract: Some(&charge.contract),
            debit,
            credit: sales(&charge.currency),
            amount,
            currency: &charge.currency,
            detail: &charge.detail,
        })?;
    }
    Ok(())
}
