//! Files with a vector per row: a column of lists of floats, such as embeddings.

use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::DataType;
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::SchemaDescriptor;

use super::cell::Cell;
use super::pages::{MAX_IN_LISTS, Pages};
use super::read::cells;
use super::{Source, plain};
use crate::data::broken::confined;
use crate::data::store::OpenFile;

/// A file with a column of vectors, and two of texts that may be there.
pub(crate) struct Vectors {
    source: Source,
    footer: ParquetMetaData,
    vectors: usize,
    texts: [Option<usize>; 2],
    /// The next row group.
    group: usize,
    /// What is left of the current one.
    open: Option<Open>,
}

/// A row group that is being read.
struct Open {
    left: usize,
    vectors: ColumnReader,
    /// With the definition level of a text that is there.
    texts: [Option<(ColumnReader, i16)>; 2],
}

/// The texts of both columns, and vectors one after another.
pub(crate) type Found = ([Vec<Option<String>>; 2], Vec<f32>);

impl Vectors {
    /// Opens `path`, if it has a column `vectors` of lists of floats; a column of texts is the first of its names that
    /// the file has.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(crate) fn open(path: &Path, vectors: &str, texts: [&[&str]; 2]) -> Result<Option<Self>, String> {
        let source = Source::new(OpenFile::open(path).map_err(|error| error.to_string())?);
        let footer = source.footer()?;
        let schema = footer.file_metadata().schema_descr();
        let is_float = |leaf: usize| {
            let column = schema.column(leaf);
            matches!(column.physical_type(), Physical::FLOAT | Physical::DOUBLE) && column.max_rep_level() == 1
        };
        let Some(vectors) = leaf(schema, vectors).filter(|&leaf| is_float(leaf)) else { return Ok(None) };
        let is_text = |leaf: &usize| {
            let column = schema.column(*leaf);
            column.physical_type() == Physical::BYTE_ARRAY && column.max_rep_level() == 0
        };
        let texts = texts.map(|names| names.iter().find_map(|name| leaf(schema, name).filter(is_text)));
        Ok(Some(Self { source, footer, vectors, texts, group: 0, open: None }))
    }

    /// All rows of the file.
    pub(crate) fn len(&self) -> u64 {
        u64::try_from(self.footer.file_metadata().num_rows()).unwrap_or(0)
    }

    /// The next rows, at most `most`; `None` at the end.
    ///
    /// # Errors
    /// Damage, null values, and vectors that are not of one length, which is `width` if that is known.
    pub(crate) fn next(&mut self, most: usize, width: &mut Option<usize>) -> Result<Option<Found>, String> {
        let read = confined(|| Ok(self.read(most, width)));
        let read = read.map_err(|panic| panic.detail)?;
        match (read, self.source.failure()) {
            (_, Some(error)) => Err(error.to_string()),
            (read, None) => read.map_err(|error| plain(&error)),
        }
    }

    fn read(&mut self, most: usize, width: &mut Option<usize>) -> ParquetResult<Option<Found>> {
        while self.open.as_ref().is_none_or(|open| open.left == 0) {
            let Some(group) = self.footer.row_groups().get(self.group) else { return Ok(None) };
            self.group += 1;
            let text = |leaf: Option<usize>| {
                let open = |leaf| {
                    let full = group.column(leaf).column_descr().max_def_level();
                    Ok::<_, ParquetError>((column(&self.source, group, leaf)?, full))
                };
                leaf.map(open).transpose()
            };
            self.open = Some(Open {
                left: usize::try_from(group.num_rows())?,
                vectors: column(&self.source, group, self.vectors)?,
                texts: [text(self.texts[0])?, text(self.texts[1])?],
            });
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        let rows = open.left.min(most);
        open.left -= rows;
        let found = match &mut open.vectors {
            ColumnReader::FloatColumnReader(reader) => lists(reader, rows, width, |value| value)?,
            ColumnReader::DoubleColumnReader(reader) => lists(reader, rows, width, |value| value as f32)?,
            _ => return Err(wrong("the column has another type in this row group")),
        };
        let [first, second] = &mut open.texts;
        Ok(Some(([texts(first, rows)?, texts(second, rows)?], found)))
    }
}

/// The next `rows` texts of a column, or as many that are not there.
fn texts(column: &mut Option<(ColumnReader, i16)>, rows: usize) -> ParquetResult<Vec<Option<String>>> {
    let found = match column {
        Some((ColumnReader::ByteArrayColumnReader(reader), full)) => cells(reader, rows, *full, Cell::Bytes)?,
        _ => (0..rows).map(|_| Cell::Null).collect(),
    };
    if found.len() != rows {
        return Err(wrong("a column of texts has too few rows"));
    }
    let text = |cell| match cell {
        Cell::Bytes(text) => Some(String::from_utf8_lossy(text.data()).into_owned()),
        _ => None,
    };
    Ok(found.into_iter().map(text).collect())
}

/// The first column of values in the column `name` of the table.
fn leaf(schema: &SchemaDescriptor, name: &str) -> Option<usize> {
    schema.columns().iter().position(|column| column.path().parts().first().is_some_and(|first| first == name))
}

fn column(source: &Source, group: &RowGroupMetaData, leaf: usize) -> ParquetResult<ColumnReader> {
    let chunk = group.column(leaf);
    let rows = usize::try_from(group.num_rows())?;
    if chunk.column_descr().max_rep_level() > 0 && usize::try_from(chunk.num_values())? > MAX_IN_LISTS {
        let limit = format!("a row group has more than {MAX_IN_LISTS} numbers; write smaller ones");
        return Err(wrong(&limit));
    }
    let pages = SerializedPageReader::new(Arc::new(source.clone()), chunk, rows, None)?;
    let of = chunk.column_descr_ptr();
    let pages = Pages::new(pages, of.clone(), rows);
    Ok(get_column_reader(of, Box::new(pages)))
}

fn wrong(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}

/// The values of `rows` lists of one length.
fn lists<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    width: &mut Option<usize>,
    value: impl Fn(T::T) -> f32,
) -> ParquetResult<Vec<f32>> {
    let (mut levels, mut starts, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(rows, Some(&mut levels), Some(&mut starts), &mut values)?;
    if starts.iter().filter(|&&start| start == 0).count() != rows {
        return Err(wrong("the column of vectors has too few rows"));
    }
    // A null, or an empty list, has levels and no value.
    let of = *width.get_or_insert(values.len() / rows.max(1));
    let are_equal = starts.iter().enumerate().all(|(at, &start)| (start == 0) == (at % of.max(1) == 0));
    if values.len() != starts.len() || values.len() != rows * of || !are_equal {
        return Err(wrong(&format!("a vector is null, has nulls in it, or does not have {of} numbers as the others")));
    }
    Ok(values.into_iter().map(value).collect())
}
