//! What a file that is not an archive is, by its first bytes.

use crate::data::text;

/// A kind of file that flipk does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Completes "it is ...".
    pub(crate) what: String,
    /// Whether this is certain: by a magic number, which text does not have.
    pub(crate) sure: bool,
}

/// With the feature, only a Parquet file inside a compressed one is refused.
const PARQUET: &str = match cfg!(feature = "parquet") {
    true => "a Parquet file; unpack it first",
    false => "a Parquet file; build flipk with the feature `parquet` to read it",
};

/// Magic numbers and what they mean.
const MARKS: &[(&[u8], &str)] = &[
    // These two only within another compressed file, which is unpacked.
    (b"\x1F\x8B", "compressed with gzip once more; unpack it first (gunzip)"),
    (b"\x28\xB5\x2F\xFD", "compressed with zstd once more; unpack it first (unzstd)"),
    (b"BZh", "compressed with bzip2; unpack it first (bunzip2)"),
    (b"\xFD7zXZ\0", "compressed with xz; unpack it first (unxz)"),
    (b"\x04\x22\x4D\x18", "compressed with lz4; unpack it first (unlz4)"),
    (b"LZIP", "compressed with lzip; unpack it first (lzip -d)"),
    (b"]\0\0", "compressed with lzma; unpack it first (unlzma)"),
    (b"\x1F\x9D", "compressed with compress; unpack it first (uncompress)"),
    (b"7z\xBC\xAF\x27\x1C", "a 7-Zip archive; unpack it and pack it as .tar"),
    (b"Rar!\x1A\x07", "a RAR archive; unpack it and pack it as .tar"),
    (b"PAR1", PARQUET),
    (b"ARROW1", "an Arrow file, which holds a table; pack its samples as .tar"),
    (b"\x89HDF\r\n\x1A\n", "an HDF5 file; pack its samples as .tar"),
    (b"\x93NUMPY", "a NumPy array; pack its samples as .tar"),
    (b"SQLite format 3\0", "an SQLite database; pack its samples as .tar"),
    (b"\xFF\xD8\xFF", "a single JPEG image; pack images and captions as .tar"),
    (b"\x89PNG\r\n\x1A\n", "a single PNG image; pack images and captions as .tar"),
    (b"GIF8", "a single GIF image; pack images and captions as .tar"),
    (b"%PDF-", "a PDF document"),
    (b"\x7FELF", "a program"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself; `git lfs pull` fetches it"),
];

/// The kind of a file, by its first few KiB, if it is known.
pub(crate) fn sniff(head: &[u8]) -> Option<Found> {
    let sure = |what: &str| Some(Found { what: what.to_owned(), sure: true });
    if let Some((_, what)) = MARKS.iter().find(|(mark, _)| head.starts_with(mark)) {
        return sure(what);
    }
    let has = |part: &[u8]| memchr::memmem::find(head, part).is_some();
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return sure(match (has(b"data.pkl"), has(b".npy")) {
            (true, _) => "a file of PyTorch (a zip with pickled Python objects), not a data set",
            (_, true) => "a NumPy .npz file; pack its samples as .tar",
            _ => "a zip archive; unpack it and pack it as .tar",
        });
    }
    // Pickle protocols 2 to 5, with any opcode that a pickle begins with.
    if matches!(head, [0x80, 2..=5, b'}' | b']' | b'(' | b'c' | b'\x95' | b'\x8A', ..]) {
        return sure("a pickle of Python objects (such as an old .pt or a .pkl), not a data set");
    }
    if head.get(4..8) == Some(b"ftyp") {
        return sure("a video or an image (MP4, HEIC or AVIF); pack images and captions as .tar");
    }
    if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        return sure("a single WebP image; pack images and captions as .tar");
    }
    if head.get(16..20) == Some(&0xBEEF_C0DE_u32.to_le_bytes()) {
        return sure("an LMDB database; pack its samples as .tar");
    }
    let length = head.first_chunk().map_or(u64::MAX, |length| u64::from_le_bytes(*length));
    if length < 1 << 30 && head.get(8) == Some(&b'{') {
        return sure("a safetensors file, which holds weights");
    }
    as_text(head).map(|what| Found { what, sure: false })
}

fn as_text(head: &[u8]) -> Option<String> {
    let text = text::beginning(head)?;
    let start: String = text.chars().take(2000).collect::<String>().to_ascii_lowercase();
    let title = |tag: &str, close: &str| {
        let (from, to) = (start.find(tag)? + tag.len(), start.find(close)?);
        text.get(from..to).map(|title| format!(" (`{}`)", title.trim().escape_debug()))
    };
    if start.starts_with("<!doctype html") || start.starts_with("<html") || start.contains("<html") {
        let title = title("<title>", "</title>").unwrap_or_default();
        return Some(format!("an HTML page{title}: most likely a server's error page that was saved as the file"));
    }
    if start.starts_with("<?xml") || start.starts_with("<error>") {
        let code = title("<code>", "</code>").unwrap_or_default();
        return Some(format!("an XML document{code}: most likely a server's error that was saved as the file"));
    }
    if start.starts_with(['{', '[']) {
        return Some("JSON text; img2dataset makes .tar shards from lists of addresses and captions".to_owned());
    }
    let mut lines = text.lines().filter(|line| !line.is_empty());
    let (first, second) = (lines.next().unwrap_or_default(), lines.next());
    for (separator, name) in [('\t', "TSV"), (',', "CSV"), (';', "CSV")] {
        if first.contains(separator) && second.is_some_and(|line| line.contains(separator)) {
            return Some(format!(
                "a table in text form ({name}) without a column with the paths of images; img2dataset makes .tar shards \
                 from a list of addresses and captions"
            ));
        }
    }
    Some(format!("text (it begins `{}`)", first.chars().take(60).collect::<String>().escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::append;

    fn what(head: &[u8]) -> String {
        sniff(head).map_or_else(String::new, |found| found.what)
    }

    #[test]
    fn kinds_of_files_are_named_by_their_first_bytes() {
        let cases: [(&[u8], &str); 20] = [
            (b"BZh91AY&SY", "bzip2"),
            (b"\xFD7zXZ\0\0\x04", "xz"),
            (b"\x28\xB5\x2F\xFD\x04", "zstd"),
            (b"\x04\x22\x4D\x18d", "lz4"),
            (b"PK\x03\x04....archive/data.pkl", "PyTorch"),
            (b"PK\x03\x04....images/1.jpg", "zip archive"),
            (b"\x80\x02}q\x01", "pickle"),
            (b"PAR1\x15\x04", "Parquet"),
            (b"\xFF\xD8\xFF\xE0", "JPEG"),
            (b"\0\0\0\x20ftypisom", "video"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
            (b"<!DOCTYPE html><html><head><title>403 Forbidden</title>", "HTML page (`403 Forbidden`)"),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", "XML document (`AccessDenied`)"),
            (b"{\"url\": \"x\"}\n", "JSON"),
            (b"\xEF\xBB\xBFimage,caption\r\na.jpg,a cat\r\n", "CSV"),
            (b"image;caption\na.jpg;a cat\n", "CSV"),
            (b"image\tcaption\na.jpg\ta cat, sitting\n", "TSV"),
            (b"hello there\nno table\n", "text (it begins `hello there`)"),
            (b"\x40\0\0\0\0\0\0\0{\"w\":", "safetensors"),
            (&[7, 0xFE, 3, 0xFF, 0], ""),
        ];
        for (head, expected) in cases {
            let what = what(head);
            assert!(what.contains(expected) && what.is_empty() == expected.is_empty(), "{expected}: {what}");
        }
    }

    #[test]
    fn an_archive_is_not_taken_for_another_kind() {
        let mut archive = Vec::new();
        append(&mut archive, "a, b.txt", b"one, two\n");
        assert_eq!(sniff(&archive), None);
    }
}
