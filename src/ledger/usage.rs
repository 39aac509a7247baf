//! Usage lines, many in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::book::{Kind, Row, cash, legs, sales, voucher};
use super::contracts::{all_known, contracts_by_id};
use super::orders::already;
use super::work::{Entry, Work, holds, rows, rows_by_id};
use super::{At, ChargeIn, Done, Error, Ledger, LineKind};

impl Ledger {
    /// Charges usage, vouchers first and cash without limit, all lines or none. A line whose id is there already, also earlier
    /// in the same list, is left out, whatever it says.
    pub async fn charge(&self, at: At, charges: &[ChargeIn]) -> Result<Vec<Done>, Error> {
        for charge in charges {
            charge.check()?;
        }
        let (mut work, []) = Work::begin(self, at, []).await?;
        let done = enter_all(&mut work, charges).await?;
        work.commit().await?;
        Ok(done)
    }
}

/// Enters all lines that are not there yet.
pub(super) async fn enter_all(work: &mut Work<'_>, charges: &[ChargeIn]) -> Result<Vec<Done>, Error> {
    let ids: Vec<&str> = charges.iter().map(|it| it.id.as_str()).collect();
    let legs: Vec<String> =
        ids.iter().flat_map(|id| [format!("{id}/voucher"), format!("{id}/cash")]).collect();
    let contracts: BTreeSet<&str> = charges.iter().map(|it| it.contract.as_str()).collect();
    let accounts =
        charges.iter().flat_map(|it| [voucher(&it.account), cash(&it.account), sales(&it.currency)]);
    let known = work.ask("contracts", contracts_by_id(&contracts)).await?;
    all_known(&contracts, &known)?;
    let earlier = rows(&work.ask("transfers", rows_by_id(&legs)).await?)?;
    let earlier: BTreeMap<Cow<'_, str>, Row<'_>> =
        earlier.into_iter().map(|it| (it.id.clone(), it)).collect();
    if let Some(order) = rows(&work.ask("transfers", holds(&ids)).await?)?.first() {
        return Err(Error::Taken(order.order_id.to_string()));
    }
    work.read_balances(&accounts.collect()).await?;
    let mut seen = BTreeSet::new();
    let mut done = Vec::with_capacity(charges.len());
    for (charge, legs) in charges.iter().zip(legs.chunks(2)) {
        let there = legs.iter().find_map(|it| earlier.get(it.as_str()));
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
    for (leg, debit, amount) in legs(&charge.account, in_vouchers, in_cash) {
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
