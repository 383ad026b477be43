//! Tables of images and captions in text form (CSV, TSV), as OpenCLIP reads them: the first line names the columns, one
//! column has the paths of images, and another the captions.
//!
//! Each row is a sample. Its `.txt` is the caption; its `.json` is the whole row, so that `--caption-key` can name any
//! column. A row with more fields than the header is broken, and so is one that ends before its caption, or whose
//! quotation mark took other rows: its caption would be wrong, and no one would notice.
//!
//! | file | what it does |
//! |---|---|
//! | `quotes` | quotation marks without an end |

mod quotes;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use rayon::prelude::*;

use self::quotes::{Taken, merged_rows, rows};
use super::members::{Entry, MAX_MEMBER, printable};
use super::sniff::sniff;
use super::tar;
use super::{Indexed, Naming};
use crate::data::broken::{Broken, Kind};
use crate::data::error::{DataError, Result};
use crate::data::store::{Joined, Store};
use crate::data::text::{self, count, list_some};

/// Names of columns with paths of images, in order of preference; OpenCLIP's comes first. In upper or lower case.
pub(super) const IMAGES: [&str; 10] =
    ["filepath", "file_path", "image_path", "filename", "file_name", "path", "image", "file", "img", "image_file"];
/// Names of columns with captions.
const CAPTIONS: [&str; 5] = ["title", "caption", "text", "txt", "captions"];
/// Why a table at an address cannot be used.
pub(super) const NOT_ON_DISK: &str = "the images of a table are read only from disk; download the table and its images, \
                                      or put them into tar archives";
const SEPARATORS: [u8; 4] = *b"\t,;|";

/// Which columns are what.
struct Columns {
    separator: u8,
    names: Vec<String>,
    image: usize,
    caption: Option<usize>,
}

impl Columns {
    /// From the beginning of a table; `None` if no separator gives a column of images.
    fn find(head: &[u8], image_key: Option<&str>) -> Option<Self> {
        SEPARATORS.iter().find_map(|&separator| {
            let names = header(head, separator)?;
            let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
            let image = match image_key {
                Some(key) => place(key),
                None => IMAGES.iter().find_map(|wanted| place(wanted)),
            };
            // A single column is not a table: any text could begin with the word.
            let image = image.filter(|_| names.len() > 1)?;
            let caption = CAPTIONS.iter().find_map(|wanted| place(wanted));
            Some(Self { separator, names, image, caption })
        })
    }
}

/// The names in the first row.
fn header(head: &[u8], separator: u8) -> Option<Vec<String>> {
    let mut first = ByteRecord::new();
    let read = reader(separator).from_reader(head).read_byte_record(&mut first);
    let names = first.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned());
    (read.ok()?).then(|| names.collect())
}

fn reader(separator: u8) -> csv::ReaderBuilder {
    let mut reader = csv::ReaderBuilder::new();
    reader.delimiter(separator).has_headers(false).flexible(true);
    reader
}

/// Whether a file with this beginning is a table: by its name, or by a column of images.
pub(super) fn is_table(path: &Path, head: &[u8], image_key: Option<&str>) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    let by_name = matches!(extension.as_deref(), Some("csv" | "tsv"));
    if by_name {
        return !tar::is_start(head) && !sniff(head).is_some_and(|found| found.sure);
    }
    text::beginning(head).is_some() && Columns::find(head, image_key).is_some()
}

/// Indexes the table in `bytes`. A path that is not absolute is looked for in the table's folder, then in the working
/// directory.
///
/// # Errors
/// A table without a column of images, or one that is not UTF-8.
pub(super) fn open(path: &Path, bytes: &[u8], image_key: Option<&str>) -> Result<(Store, Indexed)> {
    let problem = |problem: String| DataError::Table { path: path.to_owned(), problem };
    if let Some(encoding) = text::wide_encoding(bytes) {
        return Err(problem(format!("it is {encoding}; save it as UTF-8")));
    }
    let columns = Columns::find(bytes, image_key).ok_or_else(|| problem(no_images(bytes, image_key)))?;
    let (rows, unclosed) = rows(bytes, columns.separator).map_err(|error| problem(error.to_string()))?;
    if rows.is_empty() {
        return Err(problem("it has no rows, only the line with the names of the columns".to_owned()));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let found: Vec<Result<(PathBuf, u64), Broken>> =
        rows.par_iter().map(|row| find(folder, row.get(columns.image).unwrap_or_default())).collect();
    let (mut joined, mut entries) = (Joined::default(), Vec::with_capacity(rows.len()));
    let (mut lost, mut notes) = (0, Vec::new());
    for (number, (row, image)) in rows.iter().zip(found).enumerate() {
        let mut entry = Entry { key: row.get(columns.image).unwrap_or_default().into(), ..Entry::default() };
        let taken = match &unclosed {
            Some(taken) if number + 1 == rows.len() => Some(taken.clone()),
            _ => Taken::within(&columns, folder, row),
        };
        if let Some(taken) = &taken {
            lost += taken.rows;
            notes.extend(taken.note());
        }
        let flaw = taken.as_ref().map(Taken::broken).or_else(|| wrong_length(&columns, row));
        let caption = columns.caption.filter(|_| flaw.is_none()).and_then(|caption| row.get(caption));
        match image {
            Ok((path, len)) => entry.image = joined.add_file(path, len),
            Err(broken) => entry.flaw = Some(Box::new(broken)),
        }
        entry.flaw = flaw.map(Box::new).or(entry.flaw);
        entry.txt = caption.and_then(|caption| joined.add_text(caption));
        entry.json = joined.add_text(&record(&columns.names, row));
        entries.push(entry);
    }
    if notes.is_empty() {
        notes.extend(merged_rows(&rows));
    }
    Ok((
        Store::Joined(joined),
        Indexed { entries, naming: Naming::Columns, extensions: columns.names, lost, notes, ..Indexed::default() },
    ))
}

/// What is wrong with the number of fields of a row. Blank fields after the last column are none: some programs end
/// each line with separators.
fn wrong_length(columns: &Columns, row: &ByteRecord) -> Option<Broken> {
    let names = columns.names.len();
    let fields = row.iter().rposition(|field| !field.trim_ascii().is_empty()).map_or(0, |last| last + 1);
    let line = row.position().map_or(0, csv::Position::line);
    let sizes = |fields: usize| {
        format!("line {line} has {}, and the header {}", count(fields as u64, "field"), count(names as u64, "column"))
    };
    if fields > names {
        let separator = char::from(columns.separator).escape_default();
        let detail = format!(
            "{}: captions that contain `{separator}` must be in quotation marks, which begin right after the separator",
            sizes(fields)
        );
        return Some(Broken { kind: Kind::BadRecord, detail });
    }
    let caption = columns.caption.filter(|&caption| caption >= row.len())?;
    let detail = format!("{}, so that it has no `{}`", sizes(row.len()), columns.names[caption]);
    Some(Broken { kind: Kind::MissingCaption, detail })
}

fn no_images(bytes: &[u8], image_key: Option<&str>) -> String {
    let looked_for = image_key.map_or_else(|| IMAGES.join(", "), |key| format!("`{key}`"));
    let widest = SEPARATORS.iter().filter_map(|&separator| header(bytes, separator)).max_by_key(Vec::len);
    let names = list_some(widest.unwrap_or_default().into_iter().map(|name| format!("`{}`", text::shorten(&name))));
    format!(
        "no column with the paths of images; looked for {looked_for}; its first line, which must name the columns, has \
         {names}. --image-key names another column; captions with addresses instead of files are downloaded with img2dataset"
    )
}

/// An image's file, and its length.
pub(super) fn find(folder: &Path, name: &[u8]) -> Result<(PathBuf, u64), Broken> {
    let missing = |detail: String| Broken { kind: Kind::MissingImage, detail };
    let text = std::str::from_utf8(name)
        .map_err(|_| missing(format!("the path {} is not UTF-8; save the table as UTF-8", printable(name))))?;
    if text.trim().is_empty() {
        return Err(missing("the row has no path".to_owned()));
    }
    if text.contains("://") {
        let shown = text::shorten(text);
        return Err(missing(format!("{shown} is an address. Only files are read here; img2dataset downloads images")));
    }
    // As a user sees the path, so that an error names it.
    let places = [folder.join(text), PathBuf::from(text)];
    let mut error = None;
    for path in &places {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > MAX_MEMBER && metadata.is_file() => {
                let detail = format!("{text} has {} bytes; more than {MAX_MEMBER} are not read", metadata.len());
                return Err(Broken { kind: Kind::UnreadMember, detail });
            }
            Ok(metadata) if metadata.is_file() => return Ok((path.clone(), metadata.len())),
            Ok(_) => drop(error.get_or_insert_with(|| "it is not a file".to_owned())),
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => drop(error.get_or_insert_with(|| why.to_string())),
        }
    }
    let [beside, here] = places.map(|path| text::shorten(&path.display().to_string()).into_owned());
    Err(missing(match error {
        Some(error) => format!("{}: {error}", text::shorten(text)),
        None if beside == here => format!("there is no file {here}"),
        None => format!("there is no file {beside}, and none at {here} in the working directory"),
    }))
}

/// A row as a JSON object of texts. Bytes that are not UTF-8 stay as they are, so that an error can say so.
fn record(names: &[String], row: &ByteRecord) -> Vec<u8> {
    let mut record = vec![b'{'];
    for (number, (name, field)) in names.iter().zip(row).enumerate() {
        record.extend_from_slice(if number == 0 { b"\"" } else { b",\"" });
        escape(name.as_bytes(), &mut record);
        record.extend_from_slice(b"\":\"");
        escape(field, &mut record);
        record.push(b'"');
    }
    record.push(b'}');
    record
}

/// Adds what stands between the quotes of a JSON string.
fn escape(text: &[u8], out: &mut Vec<u8>) {
    for chunk in text.utf8_chunks() {
        let quoted = serde_json::Value::from(chunk.valid()).to_string();
        let inner = quoted.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"'));
        out.extend_from_slice(inner.unwrap_or_default().as_bytes());
        out.extend_from_slice(chunk.invalid());
    }
}
