//! Text files from any program: byte order marks, any line ending, UTF-8 or a clear error.
//!
//! | for | use |
//! |---|---|
//! | a whole file (TOML, JSON, a vocabulary) | [`read`] |
//! | a list, one entry per line (class names, templates) | [`read_lines`] |
//! | bytes in memory (a member of a shard) | [`decode`] |
//! | the first bytes of a file of any kind | `beginning` |
//! | the lines of a text | [`lines`] |
//! | text, a list or a number in a message | [`shorten`], `list_some`, `count` |
//! | text to be compared with other text | [`compose`] |

use std::borrow::Cow;
use std::path::Path;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::error::{DataError, Result, TextError};

/// What [`read_lines`] does with a blank line. Blank lines at the end of a file are always dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blank {
    /// Keeps it as an empty string, so that the lines after it keep their numbers.
    Keep,
    /// Leaves it out.
    Drop,
    /// Returns an error that names the line.
    Refuse,
}

/// UTF-8's byte order mark.
pub(crate) const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// Reads a text file, without its byte order mark.
///
/// # Errors
/// [`DataError::Read`]; [`DataError::Text`] for what [`decode`] refuses, and for a file of zero bytes alone.
pub fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let wrong = |source| DataError::Text { path: path.to_owned(), source };
    // After a power cut, a file that was just written may have its length, but no data.
    if !bytes.is_empty() && bytes.iter().all(|&byte| byte == 0) {
        return Err(wrong(TextError::Zeros(bytes.len())));
    }
    Ok(decode(&bytes).map_err(wrong)?.to_owned())
}

/// Reads a list: the lines of a file, trimmed and composed (see [`compose`]).
///
/// # Errors
/// As [`read`]; a blank line with [`Blank::Refuse`]; a file without text.
pub fn read_lines(path: &Path, blank: Blank) -> Result<Vec<String>> {
    let wrong = |source| DataError::Text { path: path.to_owned(), source };
    let text = read(path)?;
    let mut found: Vec<String> = lines(&text).map(|line| compose(strip_bom(line).trim()).into_owned()).collect();
    let used = found.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    found.truncate(used);
    if found.is_empty() {
        return Err(wrong(TextError::NoLines));
    }
    match (blank, found.iter().position(String::is_empty)) {
        (Blank::Refuse, Some(at)) => Err(wrong(TextError::BlankLine(at + 1))),
        (Blank::Drop, Some(_)) => {
            found.retain(|line| !line.is_empty());
            Ok(found)
        }
        _ => Ok(found),
    }
}

/// Bytes as text, without the byte order mark.
///
/// # Errors
/// Bytes that are not UTF-8: [`TextError::Encoding`] or [`TextError::NotUtf8`].
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    if let Some(encoding) = wide_encoding(bytes) {
        return Err(TextError::Encoding(encoding));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(strip_bom(text)),
        Err(why) => {
            let at = why.valid_up_to();
            // The part before the error is valid.
            let before = std::str::from_utf8(&bytes[..at]).unwrap_or_default();
            let line = lines(before).count().max(1) + usize::from(before.ends_with(['\n', '\r']));
            Err(TextError::NotUtf8 { line, byte: bytes[at] })
        }
    }
}

/// The lines of a text, which end in `\n`, `\r\n` or `\r`, as in Python. Other separators, such as U+2028, do not end a
/// line.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(end) = rest.find(['\n', '\r']) else { return Some(std::mem::take(&mut rest)) };
        let line = &rest[..end];
        let width = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[end + width..];
        Some(line)
    })
}

/// A text for a message: cut if it is longer than a line or two.
pub fn shorten(text: &str) -> Cow<'_, str> {
    const MAX_SHOWN: usize = 160;
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The first few of a list, for a message.
pub(crate) fn list_some(items: impl Iterator<Item = String>) -> String {
    const MAX_SHOWN: usize = 8;
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "nothing".to_owned(),
        n if n <= MAX_SHOWN => all.join(", "),
        n => format!("{} and {} more", all[..MAX_SHOWN].join(", "), n - MAX_SHOWN),
    }
}

/// A number and what it counts, for a message: `1 shard`, `2 shards`.
pub(crate) fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// A text in composed form (NFC). Names and text from macOS may have `é` as `e` and a combining accent, which looks the
/// same but is not equal.
pub fn compose(text: &str) -> Cow<'_, str> {
    match text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.nfc().collect()),
    }
}

/// The text at the start of a file, without byte order mark and leading white space; `None` if `head` is not text.
/// `head` may end in the middle of a character.
pub(crate) fn beginning(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    let text = strip_bom(text).trim_start();
    let is_control = |c: char| c.is_control() && !c.is_whitespace();
    (!text.is_empty() && !text.contains(is_control)).then_some(text)
}

pub(crate) fn strip_bom(text: &str) -> &str {
    text.trim_start_matches('\u{FEFF}')
}

/// UTF-16 or UTF-32, recognised by the byte order mark or by the zeros.
pub(crate) fn wide_encoding(bytes: &[u8]) -> Option<&'static str> {
    /// Bytes to look at if there is no mark.
    const PROBE_BYTES: usize = 64;
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Some("UTF-32"),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Some("UTF-16"),
        _ => {
            // Latin letters in UTF-16: exactly every other byte is 0.
            let start = &bytes[..bytes.len().min(PROBE_BYTES) & !1];
            let zeros = |from: usize| start.iter().skip(from).step_by(2).filter(|&&byte| byte == 0).count();
            let all = start.len() / 2;
            let latin = all >= 2 && matches!((zeros(0), zeros(1)), (0, n) | (n, 0) if n == all);
            latin.then_some("UTF-16")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(bytes: &[u8], blank: Blank) -> Result<Vec<String>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_lines(file.path(), blank).map_err(|error| error.to_string())
    }

    #[test]
    fn lists_are_read_whatever_editor_wrote_them() {
        for bytes in
            ["red\nblue\n", "red\r\nblue", "red\rblue\r", "\u{FEFF}red\r\n blue \r\n\r\n", "red\n\u{FEFF}blue\n\n\n"]
        {
            assert_eq!(list(bytes.as_bytes(), Blank::Refuse).unwrap(), ["red", "blue"], "{bytes:?}");
        }
        assert_eq!(list("cafe\u{301}\n".as_bytes(), Blank::Drop).unwrap(), ["caf\u{e9}"]);
        assert_eq!(list("a\u{2028}b\u{85}c\n".as_bytes(), Blank::Drop).unwrap(), ["a\u{2028}b\u{85}c"]);
    }

    #[test]
    fn the_caller_decides_what_a_blank_line_is() {
        let text = b"red\n  \nblue\n\n";
        assert_eq!(list(text, Blank::Keep).unwrap(), ["red", "", "blue"]);
        assert_eq!(list(text, Blank::Drop).unwrap(), ["red", "blue"]);
        assert!(list(text, Blank::Refuse).unwrap_err().contains("line 2 is blank"));
        for blank in [Blank::Keep, Blank::Drop, Blank::Refuse] {
            assert!(list(b"\xEF\xBB\xBF\n \n", blank).unwrap_err().contains("no lines"));
        }
    }

    #[test]
    fn other_encodings_are_errors_that_name_them_or_the_line() {
        for latin1 in [&b"red\nblue\ncaf\xE9\n"[..], b"red\r\nblue\r\n\xE9t\xE9\r\n", b"red\rblue\r\xE9"] {
            let error = list(latin1, Blank::Keep).unwrap_err();
            assert!(error.contains("line 3 is not UTF-8 (byte 0xE9)"), "{error}");
        }
        assert_eq!(decode(b"\xE9"), Err(TextError::NotUtf8 { line: 1, byte: 0xE9 }));
        let wide = |text: &str, unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        for text in ["\u{FEFF}red\nblue", "red\nblue"] {
            for bytes in [wide(text, u16::to_le_bytes), wide(text, u16::to_be_bytes)] {
                assert_eq!(decode(&bytes), Err(TextError::Encoding("UTF-16")), "{text:?}");
            }
        }
        assert_eq!(decode(b"\xFF\xFE\0\0r\0\0\0"), Err(TextError::Encoding("UTF-32")));
        assert!(list(&[0; 99], Blank::Keep).unwrap_err().contains("holds 99 zero bytes"));
        // Zeros alone do not mean another encoding.
        assert_eq!(decode(b"a\0b").unwrap(), "a\0b");
        assert_eq!(decode(b"\0\0\0\0").unwrap(), "\0\0\0\0");
    }

    #[test]
    fn the_beginning_of_a_text_may_be_cut_inside_a_character() {
        let text = "\u{FEFF}\n caf\u{e9}".as_bytes();
        assert_eq!(beginning(text), Some("caf\u{e9}"));
        assert_eq!(beginning(&text[..text.len() - 1]), Some("caf"));
        for other in [&b""[..], b" \n", b"a\0b", b"caf\xE9 au lait"] {
            assert_eq!(beginning(other), None, "{other:?}");
        }
    }

    #[test]
    fn text_in_composed_form_is_not_copied() {
        assert!(matches!(compose("plain"), Cow::Borrowed(_)) && matches!(compose("caf\u{e9}"), Cow::Borrowed(_)));
        assert_eq!(compose("e\u{301}"), "\u{e9}");
    }

    #[test]
    fn long_texts_are_shortened_for_messages() {
        assert_eq!(shorten("short"), "short");
        let long = "\u{E9}".repeat(500);
        assert_eq!(shorten(&long), format!("{}...", "\u{E9}".repeat(160)));
    }
}
