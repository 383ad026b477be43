//! The values of a column, a few rows at a time.

use std::sync::Arc;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::{ParquetError, Result};
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::serialized_reader::SerializedPageReader;

use super::cell::Cell;
use super::columns::{Column, Kind};
use super::number::{decimal, decimal_of_bytes, half};
use super::pages::Pages;
use super::{Source, plain};
use crate::data::format::as_written;

/// A column of a row group.
pub(super) struct Chunk<'a> {
    column: &'a Column,
    reader: ColumnReader,
    /// The definition level of a value that is there.
    full: i16,
}

impl<'a> Chunk<'a> {
    pub(super) fn open(source: &Source, group: &RowGroupMetaData, column: &'a Column) -> Result<Self> {
        let chunk = group.column(column.leaf);
        if let Some(path) = chunk.file_path() {
            return Err(ParquetError::General(format!("the column `{}` is in another file, {path}", column.name)));
        }
        let rows = usize::try_from(group.num_rows())?;
        let pages = SerializedPageReader::new(Arc::new(source.clone()), chunk, rows, None)?;
        let of = chunk.column_descr_ptr();
        let full = of.max_def_level();
        let pages = Pages::new(pages, of.clone(), rows);
        Ok(Self { column, reader: get_column_reader(of, Box::new(pages)), full })
    }

    /// The next `rows` values.
    pub(super) fn read(&mut self, rows: usize) -> Result<Vec<Cell>> {
        let Self { column, reader, full } = self;
        let (full, kind) = (*full, column.kind);
        let read = match reader {
            ColumnReader::BoolColumnReader(reader) => cells(reader, rows, full, Cell::Bool),
            ColumnReader::Int32ColumnReader(reader) => cells(reader, rows, full, |value| match kind {
                Kind::Unsigned => Cell::Unsigned(u64::from(value as u32)),
                _ => integer(kind, value.into()),
            }),
            ColumnReader::Int64ColumnReader(reader) => cells(reader, rows, full, |value| integer(kind, value)),
            ColumnReader::FloatColumnReader(reader) => {
                cells(reader, rows, full, |value| Cell::Float(as_written(value)))
            }
            ColumnReader::DoubleColumnReader(reader) => cells(reader, rows, full, Cell::Float),
            ColumnReader::ByteArrayColumnReader(reader) if column.is_list => lists(reader, rows, full),
            ColumnReader::ByteArrayColumnReader(reader) => cells(reader, rows, full, |value| match kind {
                Kind::Decimal(scale) => decimal_of_bytes(value.data(), scale),
                _ => Cell::Bytes(value),
            }),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => cells(reader, rows, full, |value| match kind {
                Kind::Decimal(scale) => decimal_of_bytes(value.data(), scale),
                _ => half(value.data()),
            }),
            ColumnReader::Int96ColumnReader(_) => {
                Err(ParquetError::General("it has another type in this row group".to_owned()))
            }
        };
        let wrong = match read {
            Ok(cells) if cells.len() == rows => return Ok(cells),
            Ok(_) => "it has too few values".to_owned(),
            Err(error) => plain(&error),
        };
        Err(ParquetError::General(format!("the column `{}`: {wrong}", column.name)))
    }
}

fn integer(kind: Kind, value: i64) -> Cell {
    match kind {
        Kind::Unsigned => Cell::Unsigned(value as u64),
        Kind::Decimal(scale) => decimal(value.into(), scale),
        _ => Cell::Int(value),
    }
}

/// The next `rows` values; `full` is the definition level of one that is there.
pub(super) fn cells<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    full: i16,
    make: impl Fn(T::T) -> Cell,
) -> Result<Vec<Cell>> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    reader.read_records(rows, Some(&mut levels), None, &mut values)?;
    let mut values = values.into_iter().map(make);
    if full == 0 {
        return Ok(values.collect());
    }
    let cell = |level: i16| if level == full { values.next().unwrap_or(Cell::Null) } else { Cell::Null };
    Ok(levels.into_iter().map(cell).collect())
}

/// Each row's list; nulls in it are left out, and a list without values is null.
fn lists<T: DataType<T = ByteArray>>(reader: &mut ColumnReaderImpl<T>, rows: usize, full: i16) -> Result<Vec<Cell>> {
    let (mut levels, mut starts, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(rows, Some(&mut levels), Some(&mut starts), &mut values)?;
    let mut values = values.into_iter();
    let mut cells = Vec::with_capacity(rows);
    for (at, start) in starts.iter().enumerate() {
        if *start == 0 {
            cells.push(Cell::Null);
        }
        let has_value = full == 0 || levels.get(at) == Some(&full);
        if let (Some(value), Some(cell)) = (has_value.then(|| values.next()).flatten(), cells.last_mut()) {
            match cell {
                Cell::List(list) => list.push(value),
                cell => *cell = Cell::List(vec![value]),
            }
        }
    }
    Ok(cells)
}
