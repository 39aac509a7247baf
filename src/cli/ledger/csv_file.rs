//! Rows as CSV. What is not there is an empty cell: no value is an empty text. A decimal always has a point: who guesses at a column's
//! type by what is in it would take it for whole numbers.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// A file that is being written.
pub(super) struct CsvFile {
    writer: csv::Writer<BufWriter<File>>,
    is_decimal: Vec<bool>,
}

impl CsvFile {
    pub(super) fn new(path: &Path, columns: &[(String, String)]) -> Result<CsvFile, String> {
        let file = File::create(path).map_err(|it| format!("create {}: {it}", path.display()))?;
        let mut writer = csv::Writer::from_writer(BufWriter::new(file));
        writer.write_record(columns.iter().map(|(name, _)| name)).map_err(failed)?;
        Ok(CsvFile { writer, is_decimal: columns.iter().map(|(_, holds)| holds == "decimal").collect() })
    }

    pub(super) fn write(&mut self, row: &[Option<String>]) -> Result<(), String> {
        let cell = |(value, is_decimal): (&Option<String>, &bool)| match value {
            Some(value) if *is_decimal && !value.contains('.') => format!("{value}.0"),
            Some(value) => value.clone(),
            None => String::new(),
        };
        self.writer.write_record(row.iter().zip(&self.is_decimal).map(cell)).map_err(failed)
    }

    pub(super) fn close(self) -> Result<(), String> {
        let file = self.writer.into_inner().map_err(|it| format!("write: {it}"))?;
        let file = file.into_inner().map_err(|it| format!("write: {it}"))?;
        file.sync_all().map_err(|it| format!("write: {it}"))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err has")]
fn failed(error: csv::Error) -> String {
    format!("write: {error}")
}
