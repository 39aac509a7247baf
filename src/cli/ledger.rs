//! `kubectl tenure ledger`: its check, and its exports as files.

mod csv_file;
mod parquet_file;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::read_api::{ReadApi, Told, query};
use csv_file::CsvFile;
use parquet_file::ParquetFile;

/// How a file is written.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Commas, and a line of names.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// The whole ledger is checked by the operator; in words.
pub async fn verify(api: &ReadApi) -> Result<Value, String> {
    api.value(http::Method::GET, "/v1/ledger/verify", Vec::new()).await
}

/// What a check found, as people read it.
pub fn draw(report: &Value) -> String {
    let number = |name: &str| report.get(name).and_then(Value::as_i64).unwrap_or_default();
    let accounts = report.get("accounts").and_then(Value::as_object).into_iter().flatten();
    let accounts: Vec<String> = accounts.map(|(currency, count)| format!("{count} in {currency}")).collect();
    format!(
        "the ledger adds up: {} transfers, {} open holds, {} spans of use, accounts: {}; term {}, chain {}\n",
        number("transfers"),
        number("openHolds"),
        number("spans"),
        if accounts.is_empty() { "none".to_owned() } else { accounts.join(", ") },
        number("term"),
        report.get("chain").and_then(Value::as_str).unwrap_or_default(),
    )
}

/// What is exported.
pub struct Export<'a> {
    /// Of one account; all of them without.
    pub account: Option<&'a str>,
    /// Of one month; all of them without.
    pub month: Option<&'a str>,
    /// How.
    pub format: Format,
    /// Where Cost and Usage goes; Contract Commitment goes beside it.
    pub file: &'a Path,
}

/// Writes both datasets; the files, with how many rows. Neither is there before both are whole.
pub async fn export(api: &ReadApi, what: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, String> {
    let datasets = [("cost-and-usage", what.file.to_owned()), ("contract-commitment", beside(what.file))];
    let mut parts: Vec<Part> = Vec::new();
    for (dataset, file) in datasets {
        let mut part = Part { path: part_of(&file), file, rows: 0 };
        part.rows = fetch(api, dataset, what, &part.path).await?;
        parts.push(part);
    }
    let mut files = Vec::new();
    for part in &parts {
        std::fs::rename(&part.path, &part.file)
            .map_err(|it| format!("write {}: {it}", part.file.display()))?;
        files.push((part.file.clone(), part.rows));
    }
    Ok(files)
}

/// A file that is not whole yet; gone with this.
struct Part {
    path: PathBuf,
    file: PathBuf,
    rows: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// `bill.csv` has `bill-contract-commitment.csv` beside it.
fn beside(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = match file.extension() {
        Some(extension) => format!("{stem}-contract-commitment.{}", extension.to_string_lossy()),
        None => format!("{stem}-contract-commitment"),
    };
    file.with_file_name(name)
}

fn part_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

/// A file that rows are written to.
enum Writer {
    Csv(Box<CsvFile>),
    Parquet(Box<ParquetFile>),
}

impl Writer {
    fn new(format: Format, path: &Path, columns: &[(String, String)]) -> Result<Writer, String> {
        Ok(match format {
            Format::Csv => Writer::Csv(Box::new(CsvFile::new(path, columns)?)),
            Format::Parquet => Writer::Parquet(Box::new(ParquetFile::new(path, columns)?)),
        })
    }

    fn write(&mut self, row: Vec<Option<String>>) -> Result<(), String> {
        match self {
            Writer::Csv(file) => file.write(&row),
            Writer::Parquet(file) => file.write(row),
        }
    }

    fn close(self) -> Result<(), String> {
        match self {
            Writer::Csv(file) => file.close(),
            Writer::Parquet(file) => file.close(),
        }
    }
}

/// Writes what the operator tells of a dataset to a file; how many rows.
async fn fetch(api: &ReadApi, dataset: &str, what: &Export<'_>, path: &Path) -> Result<u64, String> {
    let asked = query(&[("account", what.account), ("month", what.month)]);
    let mut lines =
        api.ask(http::Method::GET, &format!("/v1/ledger/export/{dataset}{asked}"), Vec::new()).await?;
    let Told::Columns(columns) = lines.told().await? else { return Err("this is no export".to_owned()) };
    let mut writer = Writer::new(what.format, path, &columns)?;
    let mut rows = 0;
    loop {
        match lines.told().await? {
            Told::Row(row) if row.len() == columns.len() => {
                writer.write(row)?;
                rows += 1;
            }
            Told::End(end) if end.get("rows").and_then(Value::as_u64) == Some(rows) => {
                writer.close()?;
                return Ok(rows);
            }
            Told::Row(_) | Told::End(_) | Told::Columns(_) | Told::Line(_) | Told::Error(_) => {
                return Err(format!("the export broke off after {rows} rows"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_file_is_beside_the_first() {
        for (file, expected) in [
            ("bill.csv", "bill-contract-commitment.csv"),
            ("/tmp/2026.11/all.parquet", "/tmp/2026.11/all-contract-commitment.parquet"),
            ("bill", "bill-contract-commitment"),
        ] {
            assert_eq!(beside(Path::new(file)), Path::new(expected));
        }
    }
}
