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
    let table =
        b"filepath,title\nmissing.png,a cat\nhttps://x.org/1.jpg,a cat\n,a cat\na.png\n\xFF.png,a cat\na.png,caf\xE9\n";
    let found = rows("t.csv", table, None).unwrap();
    for (row, words) in [(0, "there is no file /"), (1, "is an address. Only"), (2, "has no path"), (4, "not UTF-8")] {
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
        let (rows, lost, flaw, notes) = end(&format!("filepath,title\na.png,a \"big\" cat\na.png,\"big cat\n{rest}"));
        assert_eq!((rows, lost), (2, taken as u64));
        assert!(flaw.starts_with("bad record: line 3: a quotation mark") && flaw.contains("never closed"), "{flaw}");
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
        assert!(found[0][3].contains("takes rows up to the next mark, which are lost: about 3 samples"), "{found:?}");
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
