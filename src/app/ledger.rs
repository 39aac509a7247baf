//! `tenure ledger`: looks into a ledger from outside.

use std::io::Write;
use std::path::Path;

use super::config::LedgerCommand;
use crate::ledger::{Ledger, Report};

/// Does what it is told.
pub(super) fn run(command: &LedgerCommand) -> Result<(), String> {
    let LedgerCommand::Verify(options) = command;
    // A path that is mistyped is not the place of a new ledger.
    if let Some(path) = options.ledger.strip_prefix("sqlite:")
        && !Path::new(path.trim_start_matches("//")).exists()
    {
        return Err(format!("there is no ledger {path}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|it| format!("start runtime: {it}"))?;
    let report = runtime.block_on(async {
        let ledger = Ledger::open(&options.ledger).await?;
        let report = ledger.verify().await;
        ledger.close().await;
        report
    });
    let report = report.map_err(|it| it.to_string())?;
    writeln!(std::io::stdout(), "{}", in_words(&report)).map_err(|it| it.to_string())
}

fn in_words(report: &Report) -> String {
    let accounts: Vec<String> =
        report.accounts.iter().map(|(currency, count)| format!("{count} in {currency}")).collect();
    format!(
        "the ledger adds up: {} transfers, {} open holds, {} spans of use, accounts: {}; term {}, chain {}",
        report.transfers,
        report.open_holds,
        report.spans,
        if accounts.is_empty() { "none".to_owned() } else { accounts.join(", ") },
        report.epoch,
        report.chain
    )
}
