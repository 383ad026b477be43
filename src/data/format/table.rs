//! Tables of images and captions in text form (CSV, TSV), as OpenCLIP reads them: the first line names the columns, one
//! column has the paths of images, and another the captions.
//!
//! Each row is a sample. Its `.txt` is the caption; its `.json` is the whole row, so that `--caption-key` can name any
//! column. A row with more fields than the header is broken, and so is one that ends before its caption, or whose
//! quotation mark is never closed: its caption would be silently wrong.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use rayon::prelude::*;

use super::damage::samples_lost;
use super::members::{Entry, MAX_MEMBER, printable};
use super::notes::NoteKind;
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
            // A single column is no table: any text could begin with the word.
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
        entry.json = joined.add_text(record(&columns.names, row).as_bytes());
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

/// A row with a quotation mark at the beginning of a field that took other rows.
#[derive(Clone)]
struct Taken {
    /// The line on which the row begins, from 1.
    line: u64,
    /// How many rows after that one it took.
    rows: u64,
    /// Whether it is still open at the end of the table.
    at_end: bool,
}

impl Taken {
    /// If a line within the fields of `row` names an image, all of them were rows.
    fn within(columns: &Columns, folder: &Path, row: &ByteRecord) -> Option<Self> {
        let is_row = |line: &[u8]| {
            let mut fields = ByteRecord::new();
            let is_read = reader(columns.separator).from_reader(line).read_byte_record(&mut fields);
            is_read.is_ok() && fields.get(columns.image).is_some_and(|image| find(folder, image).is_ok())
        };
        let more = || row.iter().flat_map(|field| lines(field).skip(1));
        let line = row.position().map_or(0, csv::Position::line);
        more().any(is_row).then(|| Self { line, rows: more().count() as u64, at_end: false })
    }

    fn broken(&self) -> Broken {
        let Self { line, rows, at_end } = self;
        let mark = format!("line {line}: a quotation mark at the beginning of a field");
        let detail = match (at_end, rows) {
            (true, 0) => format!("{mark} is never closed"),
            (true, _) => format!("{mark} is never closed; it takes the {} after it", count(*rows, "line")),
            (false, _) => format!("{mark} takes the {} after it, up to the next mark", count(*rows, "row")),
        };
        Broken { kind: Kind::BadRecord, detail }
    }

    fn note(&self) -> Option<(NoteKind, String)> {
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
fn rows(bytes: &[u8], separator: u8) -> csv::Result<(Vec<ByteRecord>, Option<Taken>)> {
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
    let text = std::str::from_utf8(name).map_err(|_| missing(format!("the path {} is not UTF-8", printable(name))))?;
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

/// A row as a JSON object of texts. Columns that are not UTF-8 are left out.
fn record(names: &[String], row: &ByteRecord) -> String {
    let fields = names.iter().zip(row).filter_map(|(name, field)| {
        let field = std::str::from_utf8(field).ok()?;
        Some((name.clone(), serde_json::Value::from(field)))
    });
    serde_json::Value::Object(fields.collect()).to_string()
}

/// Captions of more lines than this are unusual.
const MANY_LINES: usize = 10;

/// A note about rows that a quotation mark may have merged with others up to the next mark.
fn merged_rows(rows: &[ByteRecord]) -> Option<(NoteKind, String)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::format::{Common, Shard};
    use crate::data::store::Location;

    /// The rows of a table next to the images `a.png` and `b c.png`: key, image, caption, and what is wrong.
    fn rows(name: &str, table: &[u8], image_key: Option<&str>) -> Result<Vec<[String; 4]>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), b"image a").unwrap();
        std::fs::write(folder.path().join("b c.png"), b"image b").unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, table).unwrap();
        let common = Common { image_key: image_key.map(str::to_owned), ..Common::default() };
        let (shard, report) = Shard::open(0, &Location::File(path), &common)?;
        let text = |span| String::from_utf8_lossy(&shard.part(span).unwrap().unwrap_or_default()).into_owned();
        let notes = report.notes.iter().map(|(_, note)| note.as_str()).collect::<String>();
        Ok(shard
            .samples
            .iter()
            .map(|entry| {
                let flaw = entry.flaw.as_ref().map_or(notes.clone(), |flaw| flaw.to_string());
                [printable(&entry.key), text(entry.image), text(entry.txt), flaw]
            })
            .collect())
    }

    #[test]
    fn tables_are_read_whatever_their_separator() {
        for (name, table) in [
            ("t.csv", "filepath\ttitle\na.png\ta cat\nb c.png\ta \"dog\"\n"),
            ("t.csv", "\u{FEFF}title,filepath\r\na cat,a.png\r\n\"a \"\"dog\"\"\",b c.png\r\n"),
            ("t.tsv", "id;Caption;Path\n1;a cat;a.png\n2;a \"dog\";b c.png"),
            ("no-extension", "image|text\na.png|a cat\nb c.png|a \"dog\"\n"),
        ] {
            let rows = rows(name, table.as_bytes(), None).unwrap();
            assert_eq!(rows[0], ["a.png", "image a", "a cat", ""], "{table}");
            assert_eq!(rows[1], ["b c.png", "image b", "a \"dog\"", ""], "{table}");
        }
        let named = rows("t.csv", b"picture,title,path\na.png,a cat,none\n", Some("picture")).unwrap();
        assert_eq!(named[0][..3], ["a.png", "image a", "a cat"]);
    }

    #[test]
    fn rows_without_an_image_are_broken_and_tables_without_a_column_are_errors() {
        let table = b"filepath,title\nmissing.png,a cat\nhttps://x.org/1.jpg,a cat\n,a cat\na.png\n\xFF.png,a cat\na.png,caf\xE9\n";
        let found = rows("t.csv", table, None).unwrap();
        for (row, words) in
            [(0, "there is no file /"), (1, "is an address. Only"), (2, "has no path"), (4, "not UTF-8")]
        {
            assert!(found[row][3].contains(words), "{:?}", found[row]);
        }
        assert!(found[0][3].ends_with("/missing.png, and none at missing.png in the working directory"), "{found:?}");
        let short = "missing caption: line 5 has 1 field, and the header 2 columns, so that it has no `title`";
        assert_eq!(found[3], ["a.png", "image a", "", short]);
        assert_eq!(found[5][1], "image a");
        // A file with a hole, which takes no room on the disk.
        let large = tempfile::NamedTempFile::new().unwrap();
        large.as_file().set_len(MAX_MEMBER + 1).unwrap();
        let table = format!("filepath,title\n{},a cat\n", large.path().display());
        let found = rows("t.csv", table.as_bytes(), None).unwrap();
        assert!(found[0][3].contains("has 1073741825 bytes; more than"), "{found:?}");
        let error = |table: &[u8], key| rows("t.csv", table, key).unwrap_err().to_string();
        let none = error(b"url,caption\nhttp://x.org/1.jpg,a cat\n", None);
        assert!(none.contains("looked for filepath") && none.contains("has `url`, `caption`"), "{none}");
        assert!(error(b"filepath,title\na.png,x\n", Some("picture")).contains("looked for `picture`"));
        assert!(error(b"filepath,title\n", None).contains("it has no rows"));
        let wide: Vec<u8> = "\u{FEFF}filepath,title\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(error(&wide, None).contains("UTF-16"));
    }

    #[test]
    fn compressed_tables_are_read() {
        use std::io::Write;
        let table = b"filepath,title\na.png,a cat\nb c.png,a dog\n";
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(table).unwrap();
        let gzip = packer.finish().unwrap();
        for (name, bytes) in [("t.csv.gz", &gzip), ("t.csv.zst", &zstd::encode_all(&table[..], 3).unwrap())] {
            let found = rows(name, bytes, None).unwrap();
            assert_eq!(found[1], ["b c.png", "image b", "a dog", ""], "{name}");
            let no_column = rows(name, bytes, Some("picture")).unwrap_err().to_string();
            assert!(no_column.contains("looked for `picture`"), "{no_column}");
        }
        let cut = rows("t.csv.gz", &gzip[..gzip.len() - 4], None).unwrap_err().to_string();
        assert!(cut.contains("cannot use the table") && cut.contains("its end cannot be unpacked (gzip: "), "{cut}");
    }

    #[test]
    fn rows_with_more_fields_than_the_header_are_broken() {
        let table =
            b"filepath,title\na.png,a cat, a dog\na.png, \"a cat, a dog\"\na.png,\"a cat, a dog\"\na.png,a cat,, \n";
        let found = rows("t.csv", table, None).unwrap();
        for (row, line) in [(0, 2), (1, 3)] {
            let start =
                format!("bad record: line {line} has 3 fields, and the header 2 columns: captions that contain `,`");
            assert!(found[row][3].starts_with(&start) && found[row][2].is_empty(), "{:?}", found[row]);
        }
        assert_eq!(found[2], ["a.png", "image a", "a cat, a dog", ""]);
        assert_eq!(found[3], ["a.png", "image a", "a cat", ""], "separators at the end of a line");
    }

    /// Number of rows, estimate of lost ones, the last row's flaw and the notes.
    fn end(table: &str) -> (usize, u64, String, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), b"image a").unwrap();
        let path = folder.path().join("t.csv");
        std::fs::write(&path, table).unwrap();
        let (shard, report) = Shard::open(0, &Location::File(path), &Common::default()).unwrap();
        let flaw = shard.samples.last().and_then(|entry| entry.flaw.as_ref());
        let notes = report.notes.iter().map(|(_, note)| note.as_str()).collect::<String>();
        (shard.samples.len(), shard.lost, flaw.map_or(String::new(), |flaw| flaw.to_string()), notes)
    }

    #[test]
    fn a_quotation_mark_that_is_open_at_the_end_costs_the_rows_it_took() {
        for taken in [0, 1, 3, 20] {
            let rest = "a.png,a cat\r\n".repeat(taken);
            let (rows, lost, flaw, notes) =
                end(&format!("filepath,title\na.png,a \"big\" cat\na.png,\"big cat\n{rest}"));
            assert_eq!((rows, lost), (2, taken as u64));
            assert!(
                flaw.starts_with("bad record: line 3: a quotation mark") && flaw.contains("never closed"),
                "{flaw}"
            );
            assert_eq!(notes.contains("the rest of the table is lost: about"), taken > 0, "{notes}");
        }
        for closed in ["\"big\ncat\"", "\"big\ncat\"\n", "\"a \"\"cat\"\"\"", "a \"cat\n", ".", "\"\"", "a\r\n\r\n"] {
            let found = end(&format!("filepath,title\na.png,b\na.png,{closed}"));
            assert_eq!(found, (2, 0, String::new(), String::new()), "{closed:?}");
        }
        let (rows, lost, _, notes) = end("filepath,title\n\"a.png,a cat\n");
        assert!((rows, lost) == (1, 0) && notes.is_empty(), "{notes}");
    }

    #[test]
    fn a_quotation_mark_that_takes_rows_up_to_the_next_costs_them() {
        for (columns, row) in [("filepath,title", "a.png,a cat"), ("title,filepath", "a cat,a.png")] {
            let marked = |text: &str| row.replace("a cat", text);
            let first = marked("\"big cat");
            let table = format!("{columns}\n{row}\n{first}\n{row}\r\n{row}\n{}\n", marked("\"small\" cat"));
            let found = rows("t.csv", table.as_bytes(), None).unwrap();
            assert_eq!(found.len(), 2);
            let words = "bad record: line 3: a quotation mark at the beginning of a field takes the 3 rows after it";
            assert!(found[1][3].starts_with(words), "{:?}", found[1]);
            assert!(
                found[0][3].contains("takes rows up to the next mark, which are lost: about 3 samples"),
                "{found:?}"
            );
        }
        let two_lines = rows("t.csv", b"filepath,title\na.png,\"a cat,\non a mat\"\n", None).unwrap();
        assert_eq!(two_lines, [["a.png", "image a", "a cat,\non a mat", ""]]);
    }

    #[test]
    fn fields_of_many_lines_are_noted() {
        let rest = "gone.png\ta cat\n".repeat(20);
        let table = format!("filepath\ttitle\na.png\t\"big\" cat\na.png\t\"big cat\n{rest}a.png\t\"small\" cat\n");
        let found = rows("t.csv", table.replace("a.png\t\"small", "gone.png\t\"small").as_bytes(), None).unwrap();
        assert_eq!((found.len(), &*found[0][2]), (2, "big cat"));
        assert!(found[1][3].contains("1 row has a field of many lines"), "{:?}", found[1]);
    }
}
