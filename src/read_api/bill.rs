//! A bill: the lines of the ledger of one account and month, by contract, and proof that they are all.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Broken, Out};
use super::item::{self, Item};
use super::month::Month;
use crate::domain::money::{Currency, Money};
use crate::ledger::{Ledger, LineKind, LineOrder, StatementLine};

/// A line as it is told. Amounts are what is to be paid: refunds are negative.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BillLine {
    id: String,
    contract: String,
    object: Option<String>,
    kind: &'static str,
    #[serde(flatten)]
    item: Item,
    billed_at: String,
    currency: String,
    amount: String,
    cash: String,
    voucher: String,
}

/// What lines of one currency come to.
#[derive(Default)]
struct Sums {
    cash: i64,
    voucher: i64,
}

/// Tells the lines; what they come to.
pub(super) async fn tell(
    ledger: &Ledger,
    account: &str,
    is_known: bool,
    month: Month,
    out: &mut Out,
) -> Result<Value, Broken> {
    let mut snapshot = ledger.snapshot().await?;
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
    let mut count = 0_u64;
    let mut lines = snapshot.lines(Some(account), month.interval(), LineOrder::Contract)?;
    while let Some(line) = lines.next().await? {
        let Some((line, cash, voucher)) = billed(line)? else { continue };
        let sum = sums.entry(line.currency.clone()).or_default();
        sum.cash = sum.cash.saturating_add(cash);
        sum.voucher = sum.voucher.saturating_add(voucher);
        count += 1;
        out.tell(&json!({"line": line})).await?;
    }
    drop(lines);
    if count == 0 && !is_known {
        return Err(Broken::Wrong(format!(
            "there is no Account {account}, and nothing was billed to it in {month}"
        )));
    }
    let mut totals = Vec::new();
    for (code, sum) in &sums {
        let amount = sum.cash.saturating_add(sum.voucher);
        let billed = snapshot.billed(Some(account), code, month.interval()).await?;
        if amount != billed {
            let message = format!("the lines come to {amount} {code} and the ledger has billed {billed}");
            return Err(Broken::Wrong(message));
        }
        let currency = known(code)?;
        totals.push(json!({
            "currency": code,
            "amount": Money(amount).text(&currency),
            "cash": Money(sum.cash).text(&currency),
            "voucher": Money(sum.voucher).text(&currency),
        }));
    }
    let period = month.period();
    Ok(json!({
        "account": account, "month": month.to_string(), "from": period.start, "to": period.end, "lines": count, "totals": totals,
    }))
}

/// A line as a bill tells it, with what it adds to be paid in money and vouchers; a payment is no line of a bill.
fn billed(line: StatementLine) -> Result<Option<(BillLine, i64, i64)>, Broken> {
    let StatementLine { account: _, object, line } = line;
    let kind = match line.kind {
        LineKind::Payment => return Ok(None),
        LineKind::Order => "order",
        LineKind::Usage => "usage",
        LineKind::Refund => "refund",
    };
    let currency = known(&line.currency)?;
    let (cash, voucher) = (-line.cash, -line.voucher);
    let text = |it: i64| Money(it).text(&currency);
    let billed_at = jiff::Timestamp::from_millisecond(line.at_ms).unwrap_or_default();
    let told = BillLine {
        item: item::read(&line.id, line.at_ms, line.contract.as_deref(), &line.detail),
        id: line.id,
        contract: line.contract.unwrap_or_default(),
        object,
        kind,
        billed_at: billed_at.to_string(),
        currency: line.currency,
        amount: text(cash.saturating_add(voucher)),
        cash: text(cash),
        voucher: text(voucher),
    };
    Ok(Some((told, cash, voucher)))
}

pub(super) fn known(code: &str) -> Result<Currency, Broken> {
    Currency::find(code)
        .ok_or_else(|| Broken::Wrong(format!("the ledger has a currency `{code}` that is not of ISO 4217")))
}
