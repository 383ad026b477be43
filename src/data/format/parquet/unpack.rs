//! From rows to samples.

use std::io;
use std::path::{Path, PathBuf};

use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::RowGroupMetaData;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::Source;
use super::cell::Cell;
use super::columns::Columns;
use super::read::Chunk;
use crate::data::broken::{Broken, Kind};
use crate::data::format::members::Entry;
use crate::data::format::table;
use crate::data::store::{Appended, Joined, Span, Spool, Store};

/// Rows that are in memory at once, with the pages that hold them.
const ROWS: usize = 32;

/// Why a row group is not unpacked to its end.
pub(super) enum Stop {
    Damage(ParquetError),
    /// The temporary file.
    Spool(io::Error),
}

impl From<ParquetError> for Stop {
    fn from(error: ParquetError) -> Self {
        Self::Damage(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Spool(error)
    }
}

/// Collects the samples of a file.
pub(super) struct Unpacker<'a> {
    columns: &'a Columns,
    out: Appended,
    entries: Vec<Entry>,
    /// Samples whose image is a file, and the path of that.
    paths: Vec<(usize, Box<[u8]>)>,
}

impl<'a> Unpacker<'a> {
    /// # Errors
    /// Those of the temporary file.
    pub(super) fn new(columns: &'a Columns, spool: &Spool) -> io::Result<Self> {
        Ok(Self { columns, out: Appended::new(spool)?, entries: Vec::new(), paths: Vec::new() })
    }

    /// How many were unpacked.
    pub(super) fn rows(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Adds the rows of a row group, up to the first that cannot be decoded.
    pub(super) fn row_group(&mut self, source: &Source, group: &RowGroupMetaData) -> Result<(), Stop> {
        let open = |column| Chunk::open(source, group, column);
        let mut chunks = self.columns.read.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut left = usize::try_from(group.num_rows()).map_err(ParquetError::from)?;
        while left > 0 {
            let rows = left.min(ROWS);
            let read = chunks.iter_mut().map(|chunk| Ok(chunk.read(rows)?.into_iter()));
            let mut batch = read.collect::<Result<Vec<_>, ParquetError>>()?;
            for _ in 0..rows {
                let row: Vec<Cell> = batch.iter_mut().map(|cells| cells.next().unwrap_or(Cell::Null)).collect();
                self.row(&row)?;
            }
            left -= rows;
        }
        Ok(())
    }

    fn row(&mut self, row: &[Cell]) -> io::Result<()> {
        let number = self.entries.len();
        let Columns { read, image, path, caption, key, label, .. } = self.columns;
        let cell = |place: &Option<usize>| place.map(|place| &row[place]);
        let mut entry = Entry { key: self.key(cell(key), cell(path), number), ..Entry::default() };
        match (cell(image), cell(path)) {
            (Some(Cell::Bytes(bytes)), _) => entry.image = self.out.add(bytes.data())?,
            (_, Some(Cell::Bytes(path))) => self.paths.push((number, path.data().into())),
            _ => {
                let detail = format!("the column `{}` is null", self.columns.image_name());
                entry.flaw = Some(Box::new(Broken { kind: Kind::MissingImage, detail }));
            }
        }
        match cell(caption) {
            Some(Cell::Bytes(text)) => entry.txt = self.out.add(text.data())?,
            Some(Cell::List(texts)) => {
                let added = texts.iter().map(|text| self.out.add(text.data()));
                let mut spans = added.collect::<io::Result<Vec<Option<Span>>>>()?.into_iter().flatten();
                entry.txt = spans.next();
                entry.more_txt = spans.collect();
            }
            // A null caption counts as empty; without a span it would count as missing.
            Some(_) => entry.txt = self.out.add(b"")?,
            None => {}
        }
        if let Some(number) = cell(label).and_then(number_of) {
            entry.cls = self.out.add(number.as_bytes())?;
        }
        let fields = read.iter().zip(row).filter(|(column, _)| column.is_field());
        let record: Map<String, Value> =
            fields.filter_map(|(column, cell)| Some((column.name.clone(), value_of(cell)?))).collect();
        entry.json = self.out.add(Value::Object(record).to_string().as_bytes())?;
        self.entries.push(entry);
        Ok(())
    }

    /// The key of a sample: that of the file, else the path of its image, else its number.
    fn key(&self, key: Option<&Cell>, path: Option<&Cell>, number: usize) -> Box<[u8]> {
        let path = path.filter(|_| self.columns.needs_files());
        match (key, key.and_then(number_of), path) {
            (Some(Cell::Bytes(key)), _, _) if !key.is_empty() => key.data().into(),
            (_, Some(key), _) => key.into_bytes().into(),
            (_, _, Some(Cell::Bytes(path))) => path.data().into(),
            _ => format!("{number:06}").into_bytes().into(),
        }
    }

    /// The samples, once the files of those that are paths were found; these start in `folder`.
    ///
    /// # Errors
    /// Those of the temporary file.
    pub(super) fn finish(mut self, folder: Option<&Path>) -> io::Result<(Store, Vec<Entry>)> {
        let mut joined = Joined::default();
        let find = |(entry, path): &(usize, Box<[u8]>)| -> (usize, Result<(PathBuf, u64), Broken>) {
            let missing = || Broken { kind: Kind::MissingImage, detail: table::NOT_ON_DISK.to_owned() };
            (*entry, folder.ok_or_else(missing).and_then(|folder| table::find(folder, path)))
        };
        for (entry, found) in self.paths.par_iter().map(find).collect::<Vec<_>>() {
            match found {
                Ok((path, len)) => self.entries[entry].image = joined.add_file(path, len),
                Err(broken) => self.entries[entry].flaw = Some(Box::new(broken)),
            }
        }
        Ok((joined.with_unpacked(self.out.finish()?), self.entries))
    }
}

fn number_of(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Int(number) => Some(number.to_string()),
        Cell::Unsigned(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field of the row's record; `None` for text that is not UTF-8.
fn value_of(cell: &Cell) -> Option<Value> {
    let text = |bytes: &ByteArray| std::str::from_utf8(bytes.data()).ok().map(Value::from);
    Some(match cell {
        Cell::Null => Value::Null,
        Cell::Bytes(bytes) => text(bytes)?,
        Cell::Bool(value) => Value::from(*value),
        Cell::Int(number) => Value::from(*number),
        Cell::Unsigned(number) => Value::from(*number),
        Cell::Float(number) => Value::from(*number),
        Cell::List(list) => Value::Array(list.iter().filter_map(text).collect()),
    })
}
