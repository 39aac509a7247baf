//! `kubectl tenure bill`: what an account was billed in a month, line by line as the operator tells it.

use std::fmt::Write as _;
use std::io::Write;

use serde::Deserialize;
use serde_json::Value;

use super::read_api::{ReadApi, Told, query};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    contract: String,
    object: Option<String>,
    purpose: String,
    from: String,
    to: String,
    quantity: String,
    unit: String,
    unit_price: Option<String>,
    price_per: Option<String>,
    currency: String,
    amount: String,
    cash: String,
    voucher: String,
}

#[derive(Deserialize)]
struct End {
    account: String,
    month: String,
    lines: u64,
    totals: Vec<Total>,
}

#[derive(Deserialize)]
struct Total {
    currency: String,
    amount: String,
    cash: String,
    voucher: String,
}

/// Asks for a bill, and writes it as it comes: a table, or one JSON document.
pub async fn write(
    api: &ReadApi,
    account: &str,
    month: Option<&str>,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), String> {
    // The name stands in the path: a slash would be another path.
    if account.is_empty() || account.contains(['/', '?', '#', '%']) {
        return Err(format!("`{account}` is no name of an Account"));
    }
    let path = format!("/v1/accounts/{account}/bill{}", query(&[("month", month)]));
    let mut lines = api.ask(http::Method::GET, &path, Vec::new()).await?;
    let failed = |it: std::io::Error| format!("write: {it}");
    let mut contract = None;
    let mut is_first = true;
    if as_json {
        write!(out, "{{\"lines\":[").map_err(failed)?;
    }
    loop {
        match lines.told().await? {
            Told::Line(line) if as_json => {
                let comma = if is_first { "" } else { "," };
                write!(out, "{comma}\n{line}").map_err(failed)?;
                is_first = false;
            }
            Told::Line(line) => {
                let line: Line = serde_json::from_value(*line).map_err(|it| it.to_string())?;
                if contract.as_ref() != Some(&line.contract) {
                    let object = line.object.as_deref().unwrap_or("of no contract");
                    writeln!(out, "{object} ({})", line.contract).map_err(failed)?;
                }
                write!(out, "{}", row(&line)).map_err(failed)?;
                contract = Some(line.contract);
            }
            Told::End(end) if as_json => {
                let end = as_object(&end)?;
                return writeln!(out, "\n],{end}").map_err(failed);
            }
            Told::End(end) => {
                let end: End = serde_json::from_value(end).map_err(|it| it.to_string())?;
                return write!(out, "{}", totals(&end)).map_err(failed);
            }
            Told::Columns(_) | Told::Row(_) | Told::Error(_) => return Err("this is no bill".to_owned()),
        }
    }
}

/// What stands beside the lines: all that the end says, without its own braces; how many they are is known by then.
fn as_object(end: &Value) -> Result<String, String> {
    let mut end = end.as_object().cloned().ok_or("this is no bill")?;
    end.remove("lines");
    Ok(Value::Object(end).to_string().trim_start_matches('{').to_owned())
}

fn row(line: &Line) -> String {
    let price = match (&line.unit_price, &line.price_per) {
        (Some(price), Some(per)) => format!(" at {price} per {per}"),
        (Some(price), None) => format!(" at {price}"),
        (None, _) => String::new(),
    };
    let quantity = format!("{} {}{price}", line.quantity, line.unit);
    let paid = if line.voucher.trim_start_matches('-').trim_matches(['0', '.']).is_empty() {
        String::new()
    } else {
        format!("  ({} in cash, {} in vouchers)", line.cash, line.voucher)
    };
    format!(
        "  {} to {}  {:40}  {quantity:36}  {:>14} {}{paid}\n",
        line.from, line.to, line.purpose, line.amount, line.currency
    )
}

fn totals(end: &End) -> String {
    let mut text = String::new();
    if end.lines == 0 {
        text = format!("nothing was billed to {} in {}\n", end.account, end.month);
    }
    for it in &end.totals {
        let Total { currency, amount, cash, voucher } = it;
        let (account, month) = (&end.account, &end.month);
        let _ = writeln!(
            text,
            "billed to {account} in {month}: {amount} {currency}: {cash} in cash, {voucher} in vouchers"
        );
    }
    text
}
