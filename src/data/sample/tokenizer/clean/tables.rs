//! The tables and patterns of ftfy (`ftfy.json`).

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use regex::bytes::Regex as BytesRegex;
use serde::Deserialize;

use crate::data::store::embedded;

/// The name of the encoding that most mojibake comes from.
pub(super) const WINDOWS_1252: &str = "sloppy-windows-1252";

#[derive(Deserialize)]
struct File {
    /// Sequences of letters that sensible text does not have.
    bad: String,
    /// Bytes of UTF-8 in which a space stands for 0xA0.
    altered: String,
    /// Bytes of UTF-8 some of which have been lost.
    lossy: String,
    ligatures: HashMap<char, String>,
    /// Names, and the letters of the bytes 0x80 to 0xFF and 0x1A.
    encodings: Vec<(String, String)>,
    first_of_2: String,
    first_of_3: String,
    first_of_4: String,
    continuation: String,
    continuation_strict: String,
}

pub(super) struct Encoding {
    pub name: String,
    pub bytes: HashMap<char, u8>,
}

impl Encoding {
    /// The bytes that were read in this encoding, if it has all letters of `text`.
    pub(super) fn bytes_of(&self, text: &str) -> Option<Vec<u8>> {
        let byte = |letter: char| match letter {
            '\0'..='\u{19}' | '\u{1B}'..='\u{7F}' => Some(letter as u8),
            _ => self.bytes.get(&letter).copied(),
        };
        text.chars().map(byte).collect()
    }
}

pub(super) struct Tables {
    pub bad: Regex,
    pub altered: BytesRegex,
    pub lossy: BytesRegex,
    pub entity: Regex,
    pub escape: Regex,
    pub ligatures: HashMap<char, String>,
    pub encodings: Vec<Encoding>,
    /// The letters of the bytes 0x80 to 0xFF in Windows-1252.
    pub windows_1252: Vec<char>,
    /// Letters of the first bytes of a character of 2, 3 and 4 bytes of UTF-8, sorted.
    pub firsts: [Vec<char>; 3],
    pub continuation: Vec<char>,
    pub continuation_strict: Vec<char>,
}

pub(super) static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let file: File = serde_json::from_slice(embedded::FTFY).expect("the file in this repository is JSON");
    let text = |pattern: &str| Regex::new(pattern).expect("the patterns in this repository are sound");
    let bytes = |pattern: &str| BytesRegex::new(pattern).expect("the patterns in this repository are sound");
    let sorted = |text: &str| text.chars().collect::<Vec<char>>();
    let encoding = |(name, letters): &(String, String)| Encoding {
        name: name.clone(),
        bytes: letters.chars().zip((0x80..=0xFF).chain([0x1A])).collect(),
    };
    let windows = file.encodings.iter().find(|(name, _)| name == WINDOWS_1252);
    Tables {
        bad: text(&file.bad),
        altered: bytes(&file.altered),
        lossy: bytes(&file.lossy),
        entity: text("&#?[0-9A-Za-z]{1,24};"),
        escape: text(r"\x1B\[[\d;]*[A-Za-z]"),
        ligatures: file.ligatures,
        encodings: file.encodings.iter().map(encoding).collect(),
        windows_1252: windows.map(|(_, letters)| letters.chars().take(128).collect()).unwrap_or_default(),
        firsts: [&file.first_of_2, &file.first_of_3, &file.first_of_4].map(|text| sorted(text)),
        continuation: sorted(&file.continuation),
        continuation_strict: sorted(&file.continuation_strict),
    }
});

/// The letter of a byte in Windows-1252; undefined ones are those of Latin-1.
pub(super) fn windows_1252(byte: u8) -> char {
    let own = usize::from(byte).checked_sub(0x80).and_then(|at| TABLES.windows_1252.get(at));
    own.copied().unwrap_or(byte.into())
}
