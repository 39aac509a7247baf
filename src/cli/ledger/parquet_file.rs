//! Rows as Apache Parquet: texts, decimals of 38 digits with 12 of them after the point, and times in UTC. Written in groups of rows, so
//! that no more than one of them is in memory.

use std::fs::File;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use rust_decimal::Decimal;

/// Rows of a group.
const GROUP_ROWS: usize = 5_000;
/// Digits of a decimal, and those after the point.
const PRECISION: i32 = 38;
const SCALE: u32 = 12;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Text,
    Decimal,
    Time,
}

/// A file that is being written.
pub(super) struct ParquetFile {
    writer: SerializedFileWriter<File>,
    columns: Vec<(String, Holds)>,
    rows: Vec<Vec<Option<String>>>,
}

impl ParquetFile {
    pub(super) fn new(path: &Path, columns: &[(String, String)]) -> Result<ParquetFile, String> {
        let columns: Vec<(String, Holds)> = columns
            .iter()
            .map(|(name, holds)| {
                let holds = match holds.as_str() {
                    "text" => Holds::Text,
                    "decimal" => Holds::Decimal,
                    "time" => Holds::Time,
                    other => {
                        return Err(format!("column {name} holds `{other}`: use a newer kubectl tenure"));
                    }
                };
                Ok((name.clone(), holds))
            })
            .collect::<Result<_, String>>()?;
        let fields = columns.iter().map(|(name, holds)| field(name, *holds)).collect::<Result<_, _>>()?;
        let schema = Type::group_type_builder("focus").with_fields(fields).build().map_err(failed)?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let file = File::create(path).map_err(|it| format!("create {}: {it}", path.display()))?;
        let writer =
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        Ok(ParquetFile { writer, columns, rows: Vec::new() })
    }

    pub(super) fn write(&mut self, row: Vec<Option<String>>) -> Result<(), String> {
        self.rows.push(row);
        if self.rows.len() < GROUP_ROWS { Ok(()) } else { self.flush() }
    }

    pub(super) fn close(mut self) -> Result<(), String> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        self.writer.close().map_err(failed)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for (place, (name, holds)) in self.columns.iter().enumerate() {
            let cells: Vec<Option<&str>> = rows.iter().map(|it| it[place].as_deref()).collect();
            let there: Vec<i16> = cells.iter().map(|it| i16::from(it.is_some())).collect();
            let values = cells.iter().flatten().copied();
            let bad = |it: String| format!("column {name}: {it}");
            let mut column =
                group.next_column().map_err(failed)?.ok_or_else(|| bad("is not in the schema".to_owned()))?;
            match holds {
                Holds::Text => {
                    let values: Vec<ByteArray> =
                        values.map(|it| ByteArray::from(it.as_bytes().to_vec())).collect();
                    column.typed::<ByteArrayType>().write_batch(&values, Some(&there), None)
                }
                Holds::Decimal => {
                    let values = values.map(decimal).collect::<Result<Vec<_>, _>>().map_err(bad)?;
                    column.typed::<FixedLenByteArrayType>().write_batch(&values, Some(&there), None)
                }
                Holds::Time => {
                    let values = values.map(time).collect::<Result<Vec<_>, _>>().map_err(bad)?;
                    column.typed::<Int64Type>().write_batch(&values, Some(&there), None)
                }
            }
            .map_err(failed)?;
            column.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        Ok(())
    }
}

fn field(name: &str, holds: Holds) -> Result<TypePtr, String> {
    let (physical, logical) = match holds {
        Holds::Text => (Physical::BYTE_ARRAY, LogicalType::String),
        Holds::Decimal => (
            Physical::FIXED_LEN_BYTE_ARRAY,
            LogicalType::decimal(i32::try_from(SCALE).unwrap_or_default(), PRECISION),
        ),
        Holds::Time => (Physical::INT64, LogicalType::timestamp(true, TimeUnit::MILLIS)),
    };
    let mut field = Type::primitive_type_builder(name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(logical));
    if holds == Holds::Decimal {
        field = field
            .with_length(16)
            .with_precision(PRECISION)
            .with_scale(i32::try_from(SCALE).unwrap_or_default());
    }
    field.build().map(Arc::new).map_err(failed)
}

fn decimal(text: &str) -> Result<FixedLenByteArray, String> {
    let bad = || format!("`{text}` is no number of at most 12 digits after the point");
    let number = Decimal::from_str(text).map_err(|_| bad())?.normalize();
    let missing = SCALE.checked_sub(number.scale()).ok_or_else(bad)?;
    let whole =
        10_i128.checked_pow(missing).and_then(|it| number.mantissa().checked_mul(it)).ok_or_else(bad)?;
    Ok(FixedLenByteArray::from(whole.to_be_bytes().to_vec()))
}

fn time(text: &str) -> Result<i64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| format!("`{text}` is no time"))?;
    Ok(time.as_millisecond())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err has")]
fn failed(error: parquet::errors::ParquetError) -> String {
    format!("write: {error}")
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    #[test]
    fn rows_are_read_back_as_they_were_written() {
        let path = std::env::temp_dir().join(format!("tenure-parquet-{}.parquet", std::process::id()));
        let columns = [("Name", "text"), ("Cost", "decimal"), ("At", "time")];
        let columns = columns.map(|(name, holds)| (name.to_owned(), holds.to_owned()));
        let mut file = ParquetFile::new(&path, &columns).unwrap();
        // More than one group.
        let count = GROUP_ROWS + 1;
        for number in 0..count {
            let cost = (number % 2 == 0).then(|| format!("-{number}.0041"));
            let at = Some("2026-11-01T00:00:00.25Z".to_owned());
            file.write(vec![Some(format!("n{number}")), cost, at]).unwrap();
        }
        file.close().unwrap();
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.num_row_groups(), 2);
        let rows: Vec<String> =
            reader.get_row_iter(None).unwrap().map(|it| it.unwrap().to_string()).collect();
        std::fs::remove_file(&path).ok();
        assert_eq!(rows.len(), count);
        assert_eq!(rows[2], "{Name: \"n2\", Cost: -2.004100000000, At: 2026-11-01 00:00:00.250 +00:00}");
        assert_eq!(rows[1], "{Name: \"n1\", Cost: null, At: 2026-11-01 00:00:00.250 +00:00}");
    }

    #[test]
    fn a_decimal_is_exact_or_refused() {
        let read = |text: &str| decimal(text).map(|it| i128::from_be_bytes(it.data().try_into().unwrap()));
        for (text, expected) in [
            ("0", Some(0)),
            ("42828.00", Some(42_828_000_000_000_000)),
            ("-0.000000000001", Some(-1)),
            ("9223372036854775807", Some(9_223_372_036_854_775_807_000_000_000_000)),
            ("0.0000000000001", None),
            ("many", None),
            ("", None),
        ] {
            assert_eq!(read(text).ok(), expected, "{text}");
        }
    }
}
