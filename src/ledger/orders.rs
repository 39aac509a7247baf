//! Payments, orders and refunds: one transaction each.

use std::collections::BTreeSet;

use super::book::{Kind, Row, bank, cash, legs, sales, voucher, vouchers};
use super::contracts::{all_known, contracts_by_id, must_be_open};
use super::work::{Entry, Work, balances_of, holds, rows, rows_by_id};
use super::{
    At, Done, Error, Held, Ledger, LineKind, OrderIn, OrderRow, OrderState, PaymentIn, RefundIn, entry,
};

impl Ledger {
    /// Money or a voucher in. Counts once per name, for ever; a second one of the same name is no-op, whatever it says.
    pub async fn pay(&self, at: At, payment: &PaymentIn) -> Result<Done, Error> {
        payment.check()?;
        let id = format!("payment/{}", payment.name);
        let currency = &payment.currency;
        let (debit, credit) = if payment.voucher {
            (vouchers(currency), voucher(&payment.account))
        } else {
            (bank(currency), cash(&payment.account))
        };
        let accounts = BTreeSet::from([debit.clone(), credit.clone()]);
        let questions = [rows_by_id(std::slice::from_ref(&id)), balances_of(&accounts)];
        let (mut work, [earlier, balances]) = Work::begin(self, at, questions).await?;
        if let Some(row) = rows(&earlier)?.first() {
            already(row, LineKind::Payment)?;
            work.commit().await?;
            return Ok(Done::AlreadyThere);
        }
        work.know(&balances)?;
        let detail = serde_json::json!({"reference": payment.reference}).to_string();
        work.enter(Entry {
            id: id.clone(),
            kind: Kind::Transfer,
            of: None,
            order_id: &id,
            contract: None,
            debit,
            credit,
            amount: payment.amount,
            currency,
            detail: &detail,
        })?;
        work.commit().await?;
        Ok(Done::New)
    }

    /// Holds an order's price: vouchers first, then cash, which may not go below `least`. An order that is held or posted already
    /// is returned as it is.
    pub async fn hold(&self, at: At, order: &OrderIn) -> Result<Held, Error> {
        order.check()?;
        let contract = BTreeSet::from([order.contract.as_str()]);
        let others = [order.id.clone(), format!("{}/voucher", order.id), format!("{}/cash", order.id)];
        let accounts =
            BTreeSet::from([voucher(&order.account), cash(&order.account), sales(&order.currency)]);
        let questions =
            [holds(&[&order.id]), contracts_by_id(&contract), rows_by_id(&others), balances_of(&accounts)];
        let (mut work, [earlier, known, others, balances]) = Work::begin(self, at, questions).await?;
        let attempts = attempts(&rows(&earlier)?);
        if let Some(standing) = attempts.iter().find(|it| it.state != OrderState::Voided) {
            work.commit().await?;
            return Ok(Held { done: Done::AlreadyThere, order: standing.clone() });
        }
        must_be_open(&order.contract, &known)?;
        if !others.is_empty() {
            return Err(Error::Taken(order.id.clone()));
        }
        work.know(&balances)?;
        let held = price(&work, order, u32::try_from(attempts.len()).unwrap_or(u32::MAX), at)?;
        for (leg, debit, amount) in legs(&order.account, held.voucher, held.cash) {
            work.enter(Entry {
                id: format!("{}/{}/{leg}", order.id, held.attempt),
                kind: Kind::Hold,
                of: None,
                order_id: &order.id,
                contract: Some(&order.contract),
                debit,
                credit: sales(&order.currency),
                amount,
                currency: &order.currency,
                detail: &order.detail,
            })?;
        }
        work.commit().await?;
        Ok(Held { done: Done::New, order: held })
    }

    /// The order is fulfilled: what is held for it becomes ours. One that is posted already is returned as it is.
    pub async fn post(&self, at: At, order_id: &str) -> Result<Held, Error> {
        entry::check_text("order", order_id)?;
        let (mut work, [rows]) = Work::begin(self, at, [holds(&[order_id])]).await?;
        let rows = self::rows(&rows)?;
        let standing = attempts(&rows).into_iter().find(|it| it.state != OrderState::Voided);
        let Some(mut order) = standing else { return Err(Error::NoHold(order_id.to_owned())) };
        if order.state == OrderState::Posted {
            work.commit().await?;
            return Ok(Held { done: Done::AlreadyThere, order });
        }
        end(&mut work, &rows, order.attempt, Kind::Post).await?;
        work.commit().await?;
        (order.state, order.posted_at_ms) = (OrderState::Posted, Some(at.ms));
        Ok(Held { done: Done::New, order })
    }

    /// The order is given up: nothing is held for it any more. That it was given up already, or never held, is as good.
    pub async fn void(&self, at: At, order_id: &str) -> Result<(), Error> {
        entry::check_text("order", order_id)?;
        let (mut work, [rows]) = Work::begin(self, at, [holds(&[order_id])]).await?;
        let rows = self::rows(&rows)?;
        if let Some(order) = attempts(&rows).into_iter().find(|it| it.state != OrderState::Voided) {
            if order.state == OrderState::Posted {
                return Err(Error::Posted(order_id.to_owned()));
            }
            end(&mut work, &rows, order.attempt, Kind::Void).await?;
        }
        work.commit().await
    }

    /// Money back, and the end of the contract if it says so: both or neither.
    pub async fn refund(&self, at: At, refund: &RefundIn) -> Result<Done, Error> {
        refund.check()?;
        let id = format!("{}/cash", refund.id);
        let contract = BTreeSet::from([refund.contract.as_str()]);
        let (debit, credit) = (sales(&refund.currency), cash(&refund.account));
        let accounts = BTreeSet::from([debit.clone(), credit.clone()]);
        let questions = [
            contracts_by_id(&contract),
            rows_by_id(std::slice::from_ref(&id)),
            holds(&[&refund.id]),
            balances_of(&accounts),
        ];
        let (mut work, [known, earlier, orders, balances]) = Work::begin(self, at, questions).await?;
        all_known(&contract, &known)?;
        let done = if let Some(row) = rows(&earlier)?.first() {
            already(row, LineKind::Refund)?;
            Done::AlreadyThere
        } else {
            if !orders.is_empty() {
                return Err(Error::Taken(refund.id.clone()));
            }
            work.know(&balances)?;
            work.enter(Entry {
                id: id.clone(),
                kind: Kind::Transfer,
                of: None,
                order_id: &refund.id,
                contract: Some(&refund.contract),
                debit,
                credit,
                amount: refund.amount,
                currency: &refund.currency,
                detail: &refund.detail,
            })?;
            Done::New
        };
        if refund.close {
            work.close_contract(&refund.contract).await?;
        }
        work.commit().await?;
        Ok(done)
    }
}

/// What a new attempt would hold, or why there is not enough for it.
fn price(work: &Work<'_>, order: &OrderIn, attempt: u32, at: At) -> Result<OrderRow, Error> {
    let funds = work.book().funds(&cash(&order.account), &order.currency);
    let vouchers = work.book().funds(&voucher(&order.account), &order.currency).available().max(0);
    let voucher = vouchers.min(order.price);
    let needed = order.price - voucher;
    if let Some(least) = order.least {
        let overflow = || Error::Overflow(cash(&order.account));
        let available = funds.posted.checked_sub(funds.held).and_then(|it| it.checked_sub(order.accrued));
        let available = available.ok_or_else(overflow)?;
        if available.checked_sub(needed).ok_or_else(overflow)? < least {
            return Err(Error::NotEnough { available, needed });
        }
    }
    Ok(OrderRow {
        id: order.id.clone(),
        attempt,
        state: OrderState::Held,
        contract: order.contract.clone(),
        account: order.account.clone(),
        currency: order.currency.clone(),
        price: order.price,
        cash: needed,
        voucher,
        held_at_ms: at.ms,
        posted_at_ms: None,
        detail: order.detail.clone(),
    })
}

/// Ends all legs of an attempt.
async fn end(work: &mut Work<'_>, rows: &[Row<'_>], attempt: u32, kind: Kind) -> Result<(), Error> {
    let legs: Vec<&Row<'_>> =
        rows.iter().filter(|it| it.kind == Kind::Hold && it.attempt() == attempt).collect();
    let accounts = legs.iter().flat_map(|it| [it.debit.to_string(), it.credit.to_string()]).collect();
    work.read_balances(&accounts).await?;
    for leg in legs {
        work.enter(Entry {
            id: format!("{}/{}", leg.id, kind.word()),
            kind,
            of: Some(leg.id.to_string()),
            order_id: &leg.order_id,
            contract: leg.contract.as_deref(),
            debit: leg.debit.to_string(),
            credit: leg.credit.to_string(),
            amount: leg.amount,
            currency: &leg.currency,
            detail: &leg.detail,
        })?;
    }
    Ok(())
}

/// Whether a row that has an id is what the id stands for.
pub(super) fn already(row: &Row<'_>, purpose: LineKind) -> Result<(), Error> {
    if row.purpose() == purpose { Ok(()) } else { Err(Error::Taken(row.order_id.to_string())) }
}

/// The attempts at orders, from the rows of their holds, in the order in which they were posted, or held if they weren't.
pub(super) fn attempts(rows: &[Row<'_>]) -> Vec<OrderRow> {
    let mut orders: Vec<(i64, OrderRow)> = Vec::new();
    for row in rows {
        let attempt = row.attempt();
        let place = orders.iter().rposition(|(_, it)| it.id == row.order_id && it.attempt == attempt);
        let place = place.unwrap_or_else(|| {
            let (account, _) = row.customer();
            let order = OrderRow {
                id: row.order_id.to_string(),
                attempt,
                state: OrderState::Held,
                contract: row.contract.as_deref().unwrap_or_default().to_owned(),
                account: account.to_owned(),
                currency: row.currency.to_string(),
                price: 0,
                cash: 0,
                voucher: 0,
                held_at_ms: row.at_ms,
                posted_at_ms: None,
                detail: row.detail.to_string(),
            };
            orders.push((row.seq, order));
            orders.len() - 1
        });
        let (seq, order) = &mut orders[place];
        match row.kind {
            Kind::Hold => {
                order.price = order.price.saturating_add(row.amount);
                let (_, in_vouchers) = row.customer();
                if in_vouchers { order.voucher = row.amount } else { order.cash = row.amount }
            }
            Kind::Post => {
                (order.state, order.posted_at_ms) = (OrderState::Posted, Some(row.at_ms));
                *seq = row.seq;
            }
            Kind::Void => order.state = OrderState::Voided,
            Kind::Transfer => {}
        }
    }
    orders.sort_by_key(|(seq, _)| *seq);
    orders.into_iter().map(|(_, order)| order).collect()
}
