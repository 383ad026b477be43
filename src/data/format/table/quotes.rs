//! Quotation marks without an end, which make one row of several.

use std::io::Read;
use std::path::Path;

use csv::ByteRecord;

use super::super::damage::samples_lost;
use super::super::members::printable;
use super::super::notes::NoteKind;
use super::{Columns, find, reader};
use crate::data::broken::{Broken, Kind};
use crate::data::text::{self, count};

/// A row with a quotation mark at the beginning of a field that took other rows.
#[derive(Clone)]
pub(super) struct Taken {
    /// The line on which the row begins, from 1.
    line: u64,
    /// How many rows after that one it took.
    pub(super) rows: u64,
    /// Whether it is still open at the end of the table.
    at_end: bool,
}

impl Taken {
    /// If a line within the fields of `row` names an image, all of them were rows.
    pub(super) fn within(columns: &Columns, folder: &Path, row: &ByteRecord) -> Option<Self> {
        let is_row = |line: &[u8]| {
            let mut fields = ByteRecord::new();
            let is_read = reader(columns.separator).from_reader(line).read_byte_record(&mut fields);
            is_read.is_ok() && fields.get(columns.image).is_some_and(|image| find(folder, image).is_ok())
        };
        let more = || row.iter().flat_map(|field| lines(field).skip(1));
        let line = row.position().map_or(0, csv::Position::line);
        more().any(is_row).then(|| Self { line, rows: more().count() as u64, at_end: false })
    }

    pub(super) fn broken(&self) -> Broken {
        let Self { line, rows, at_end } = self;
        let mark = format!("line {line}: a quotation mark at the beginning of a field");
        let detail = match (at_end, rows) {
            (true, 0) => format!("{mark} is never closed"),
            (true, _) => format!("{mark} is never closed; it takes the {} after it", count(*rows, "line")),
            (false, _) => format!("{mark} takes the {} after it, up to the next mark", count(*rows, "row")),
        };
        Broken { kind: Kind::BadRecord, detail }
    }

    pub(super) fn note(&self) -> Option<(NoteKind, String)> {
        let what = match self.at_end {
            true => "is never closed, so the rest of the table is lost",
            false => "takes rows up to the next mark, which are lost",
        };
        let text = format!(
            "line {}: a quotation mark at the beginning of a field {what}{}; close it, or double each mark that is a \
             part of the text and put the whole field in marks",
            self.line,
            samples_lost(self.rows)
        );
        (self.rows > 0).then_some((NoteKind::Lost, text))
    }
}

/// The first line of a field, and those after it that are not blank.
fn lines(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = field.split(|byte| matches!(byte, b'\n' | b'\r')).enumerate();
    lines.filter(|(number, line)| *number == 0 || !line.trim_ascii().is_empty()).map(|(_, line)| line)
}

/// The rows after the header, and whether the last one has a quotation mark without an end.
pub(super) fn rows(bytes: &[u8], separator: u8) -> csv::Result<(Vec<ByteRecord>, Option<Taken>)> {
    // One more row, which is a row of its own unless a quotation mark is open.
    const SENTINEL: &[u8] = b"\n.";
    let records = reader(separator).from_reader(bytes.chain(SENTINEL)).into_byte_records().skip(1);
    let mut rows = records.collect::<csv::Result<Vec<ByteRecord>>>()?;
    let Some(last) = rows.last() else { return Ok((rows, None)) };
    if last.len() == 1 && last.get(0) == Some(b".") {
        rows.pop();
        return Ok((rows, None));
    }
    let field = last.get(last.len().saturating_sub(1)).unwrap_or_default();
    let field = field.strip_suffix(SENTINEL).unwrap_or(field);
    let taken = lines(field).skip(1).count() as u64;
    let line = last.position().map_or(0, csv::Position::line);
    Ok((rows, Some(Taken { line, rows: taken, at_end: true })))
}

/// Captions of more lines than this are unusual.
const MANY_LINES: usize = 10;

/// A note about rows that a quotation mark may have merged with others up to the next mark.
pub(super) fn merged_rows(rows: &[ByteRecord]) -> Option<(NoteKind, String)> {
    let merged: Vec<&ByteRecord> =
        rows.iter().filter(|row| row.iter().any(|field| lines(field).count() > MANY_LINES)).collect();
    let key = printable(merged.first()?.get(0).unwrap_or_default());
    let text = format!(
        "{} {} a field of many lines, such as the row of `{}`: a quotation mark at the beginning of a field and \
         without an end takes all rows up to the next one; double the marks that are part of the text",
        count(merged.len() as u64, "row"),
        if merged.len() == 1 { "has" } else { "have" },
        text::shorten(&key)
    );
    Some((NoteKind::Quotes, text))
}
