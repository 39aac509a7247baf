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
        let held = self.hold_all(at, std::slice::from_ref(order)).await?;
        held.into_iter().next().ok_or_else(|| Error::NoHold(order.id.clone()))
    }

    /// Holds the prices of several orders of one contract and payer: all or none. Each as in `hold`.
    pub async fn hold_all(&self, at: At, orders: &[OrderIn]) -> Result<Vec<Held>, Error> {
        let Some(first) = orders.first() else { return Ok(Vec::new()) };
        for order in orders {
            order.check()?;
            if (&order.contract, &order.account, &order.currency)
                != (&first.contract, &first.account, &first.currency)
            {
                let reason = "must have the contract, account and currency of the others";
                return Err(Error::Invalid { field: "order", value: order.id.clone(), reason });
            }
        }
        let ids: Vec<&str> = orders.iter().map(|it| it.id.as_str()).collect();
        let contract = BTreeSet::from([first.contract.as_str()]);
        let others: Vec<String> = ids.iter().flat_map(|id| legs_of(id)).collect();
        let accounts =
            BTreeSet::from([voucher(&first.account), cash(&first.account), sales(&first.currency)]);
        let questions =
            [holds(&ids), contracts_by_id(&contract), rows_by_id(&others), balances_of(&accounts)];
        let (mut work, [earlier, known, others, balances]) = Work::begin(self, at, questions).await?;
        let earlier = attempts(&rows(&earlier)?);
        let others = rows(&others)?;
        work.know(&balances)?;
        let mut held = Vec::with_capacity(orders.len());
        let mut needed_before = 0_i64;
        for (place, order) in orders.iter().enumerate() {
            let attempts = || earlier.iter().filter(|it| it.id == order.id);
            let again = orders[..place].iter().any(|it| it.id == order.id);
            if let Some(standing) = attempts().find(|it| it.state != OrderState::Voided) {
                held.push(Held { done: Done::AlreadyThere, order: standing.clone() });
                continue;
            }
            must_be_open(&order.contract, &known)?;
            let own = legs_of(&order.id);
            if again || others.iter().any(|it| own.contains(&it.id.to_string())) {
                return Err(Error::Taken(order.id.clone()));
            }
            let attempt = u32::try_from(attempts().count()).unwrap_or(u32::MAX);
            let row =
                price(&work, order, attempt, at).map_err(|it| of_all(it, needed_before, &orders[place..]))?;
            needed_before = needed_before.saturating_add(row.cash);
            for (leg, debit, amount) in legs(&order.account, row.voucher, row.cash) {
                work.enter(Entry {
                    id: format!("{}/{}/{leg}", order.id, row.attempt),
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
            held.push(Held { done: Done::New, order: row });
        }
        work.commit().await?;
        Ok(held)
    }

    /// The order is fulfilled: what is held for it becomes ours. One that is posted already is returned as it is.
    pub async fn post(&self, at: At, order_id: &str) -> Result<Held, Error> {
        let posted = self.post_all(at, &[order_id]).await?;
        posted.into_iter().next().ok_or_else(|| Error::NoHold(order_id.to_owned()))
    }

    /// Several orders are fulfilled: all or none. Each as in `post`.
    pub async fn post_all(&self, at: At, order_ids: &[&str]) -> Result<Vec<Held>, Error> {
        for id in order_ids {
            entry::check_text("order", id)?;
        }
        let (mut work, [rows]) = Work::begin(self, at, [holds(order_ids)]).await?;
        let rows = self::rows(&rows)?;
        let attempts = attempts(&rows);
        let mut posted = Vec::with_capacity(order_ids.len());
        let mut ended = Vec::new();
        for id in order_ids {
            let standing = attempts.iter().find(|it| it.id == *id && it.state != OrderState::Voided);
            let Some(order) = standing else { return Err(Error::NoHold((*id).to_owned())) };
            let mut order = order.clone();
            let done = match order.state {
                OrderState::Posted => Done::AlreadyThere,
                OrderState::Held | OrderState::Voided => {
                    ended.push((order.id.clone(), order.attempt));
                    (order.state, order.posted_at_ms) = (OrderState::Posted, Some(at.ms));
                    Done::New
                }
            };
            posted.push(Held { done, order });
        }
        end(&mut work, &rows, &ended, Kind::Post).await?;
        work.commit().await?;
        Ok(posted)
    }

    /// The order is given up: nothing is held for it any more. That it was given up already, or never held, is as good.
    pub async fn void(&self, at: At, order_id: &str) -> Result<(), Error> {
        self.void_all(at, &[order_id]).await
    }

    /// Several orders are given up: all or none. Each as in `void`.
    pub async fn void_all(&self, at: At, order_ids: &[&str]) -> Result<(), Error> {
        for id in order_ids {
            entry::check_text("order", id)?;
        }
        let (mut work, [rows]) = Work::begin(self, at, [holds(order_ids)]).await?;
        let rows = self::rows(&rows)?;
        let mut ended = Vec::new();
        for order in attempts(&rows).into_iter().filter(|it| it.state != OrderState::Voided) {
            if order.state == OrderState::Posted {
                return Err(Error::Posted(order.id));
            }
            ended.push((order.id, order.attempt));
        }
        end(&mut work, &rows, &ended, Kind::Void).await?;
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

/// What an order's id would be in other rows.
fn legs_of(id: &str) -> [String; 3] {
    [id.to_owned(), format!("{id}/voucher"), format!("{id}/cash")]
}

/// Why there is not enough for all: what is needed is what the orders before this one need, and this one, and those after it.
fn of_all(error: Error, before: i64, from_here: &[OrderIn]) -> Error {
    match error {
        Error::NotEnough { available, needed } => {
            let after = from_here.iter().skip(1).fold(0_i64, |sum, it| sum.saturating_add(it.price));
            Error::NotEnough {
                available: available.saturating_add(before),
                needed: before.saturating_add(needed).saturating_add(after),
            }
        }
        other => other,
    }
}

/// Ends all legs of these attempts at orders.
async fn end(
    work: &mut Work<'_>,
    rows: &[Row<'_>],
    attempts: &[(String, u32)],
    kind: Kind,
) -> Result<(), Error> {
    let is_meant = |it: &&Row<'_>| {
        let of = |(order, attempt): &(String, u32)| it.order_id == *order && it.attempt() == *attempt;
        it.kind == Kind::Hold && attempts.iter().any(of)
    };
    let legs: Vec<&Row<'_>> = rows.iter().filter(is_meant).collect();
    if legs.is_empty() {
        return Ok(());
    }
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
