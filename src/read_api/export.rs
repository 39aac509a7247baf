//! Exports, row by row: FOCUS' Cost and Usage and Contract Commitment. The last line says how many rows it were; without it the export
//! is not whole.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Broken, Out};
use super::bill::known;
use super::commitments::Commitments;
use super::focus::{self, Column, ContractCommitment, CostAndUsage, Of, Paid, Row};
use super::item;
use super::month::Month;
use crate::domain::money::Period;
use crate::ledger::{Interval, Ledger, LineKind, LineOrder, Snapshot, StatementLine};

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dataset {
    CostAndUsage,
    ContractCommitment,
}

impl Dataset {
    pub(super) fn parse(text: &str) -> Option<Dataset> {
        match text {
            "cost-and-usage" => Some(Dataset::CostAndUsage),
            "contract-commitment" => Some(Dataset::ContractCommitment),
            _ => None,
        }
    }
}

/// The time that is exported: a month, or all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(Option<Period>);

impl Span {
    pub(super) fn contains(self, at: Timestamp) -> bool {
        self.0.is_none_or(|it| it.contains(at))
    }

    pub(super) fn meets(self, from: Timestamp, to: Timestamp) -> bool {
        self.0.is_none_or(|it| from < it.end && it.start < to)
    }
}

impl Out {
    pub(super) async fn tell_row<C: Column>(&mut self, row: &Row<C>) -> Result<(), Broken> {
        #[derive(Serialize)]
        #[serde(bound = "")]
        struct Line<'a, C: Column> {
            row: &'a Row<C>,
        }
        self.tell(&Line { row }).await
    }
}

/// Tells a dataset.
pub(super) async fn tell(
    ledger: &Ledger,
    dataset: Dataset,
    account: Option<&str>,
    month: Option<Month>,
    now: Timestamp,
    out: &mut Out,
) -> Result<Value, Broken> {
    let columns = match dataset {
        Dataset::CostAndUsage => CostAndUsage::COLUMNS,
        Dataset::ContractCommitment => ContractCommitment::COLUMNS,
    };
    out.tell(&json!({"columns": columns})).await?;
    let mut snapshot = ledger.snapshot().await?;
    let span = Span(month.map(Month::period));
    let interval = month.map_or(Interval { from_ms: i64::MIN, until_ms: i64::MAX }, Month::interval);
    let rows = match dataset {
        Dataset::CostAndUsage => costs(&mut snapshot, account, span, interval, now, out).await?,
        Dataset::ContractCommitment => {
            let mut rows = 0;
            for contract in snapshot.ordered_contracts().await? {
                let contract = Commitments::read(&mut snapshot, contract, now).await?;
                rows += contract.tell_commitments(account, span, now, out).await?;
            }
            rows
        }
    };
    Ok(json!({"rows": rows}))
}

/// Tells Cost and Usage: what was used, in the order of the ledger; then what was paid in advance, contract by contract. All of it
/// together is what the ledger has billed.
async fn costs(
    snapshot: &mut Snapshot,
    account: Option<&str>,
    span: Span,
    interval: Interval,
    now: Timestamp,
    out: &mut Out,
) -> Result<u64, Broken> {
    let mut billed: BTreeMap<String, i64> = BTreeMap::new();
    let mut rows = 0;
    let mut lines = snapshot.lines(account, interval, LineOrder::Written)?;
    while let Some(StatementLine { account, object, line }) = lines.next().await? {
        match line.kind {
            LineKind::Usage => (),
            // These are told with their contract.
            LineKind::Payment | LineKind::Order | LineKind::Refund => continue,
        }
        let currency = known(&line.currency)?;
        let contract = line.contract.as_deref().unwrap_or_default();
        let of = Of {
            account: &account,
            currency: &currency,
            contract,
            object: object.as_deref().unwrap_or_default(),
        };
        let at = Timestamp::from_millisecond(line.at_ms).unwrap_or_default();
        let paid = Paid { at, cash: -line.cash, voucher: -line.voucher };
        let sum = billed.entry(line.currency.clone()).or_default();
        *sum = sum.saturating_add(paid.cash).saturating_add(paid.voucher);
        rows += 1;
        let item = item::read(&line.id, line.at_ms, line.contract.as_deref(), &line.detail);
        out.tell_row(&focus::usage(&of, &line.id, &item, paid)).await?;
    }
    drop(lines);
    for contract in snapshot.ordered_contracts().await? {
        let contract = Commitments::read(snapshot, contract, now).await?;
        rows += contract.tell_costs(account, span, &mut billed, out).await?;
    }
    for (code, sum) in &billed {
        let in_ledger = snapshot.billed(account, code, interval).await?;
        if *sum != in_ledger {
            let message = format!("the rows come to {sum} {code} and the ledger has billed {in_ledger}");
            return Err(Broken::Wrong(message));
        }
    }
    Ok(rows)
}
