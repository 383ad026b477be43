//! What `fix_text` of the Python package ftfy 6.3 does to a text: it undoes mojibake and entities, and makes plain what
//! has several forms. Its tables and patterns are in `ftfy.json`.

use std::borrow::Cow;

use regex::Captures;
use unicode_normalization::UnicodeNormalization;

use super::html;
use super::tables::{TABLES, windows_1252};

/// Rounds of repairs after which a text is left as it is: each undoes one layer, and texts have a few.
const MAX_ROUNDS: usize = 100;

/// Repairs a text, line by line.
pub(super) fn fix_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut unescape = true;
    for line in text.split_inclusive('\n') {
        // Where there are tags, entities belong to them.
        unescape = unescape && !line.contains('<');
        let mut line = line.to_owned();
        for _ in 0..MAX_ROUNDS {
            let fixed = round(&line, unescape);
            if fixed == line {
                break;
            }
            line = fixed;
        }
        out.push_str(&line);
    }
    out
}

fn round(text: &str, unescape: bool) -> String {
    let text = match unescape && text.contains('&') {
        true => TABLES.entity.replace_all(text, |found: &Captures<'_>| entity(&found[0])),
        false => Cow::Borrowed(text),
    };
    let text = fix_encoding(&text);
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' if letters.peek() == Some(&'\n') => {}
            letter => narrow(letter, &mut plain),
        }
    }
    let text = match plain.contains('\u{1B}') {
        true => TABLES.escape.replace_all(&plain, "").into_owned(),
        false => plain,
    };
    text.chars().filter(|&letter| !is_control(letter)).nfc().collect()
}

/// An entity with `;`; a name may be in capitals.
fn entity(text: &str) -> String {
    if let Some(shown) = html::named(text) {
        return shown.to_owned();
    }
    let unescaped = html::unescape(text);
    if text.starts_with("&#") {
        return if unescaped.contains(';') { text.to_owned() } else { unescaped.into_owned() };
    }
    let lower = text.to_ascii_lowercase();
    match html::named(&lower) {
        Some(shown) if unescaped == text && lower.to_ascii_uppercase() == text => shown.to_uppercase(),
        _ => text.to_owned(),
    }
}

/// Adds the usual form of a letter: of a control character the letter of Windows-1252, of a ligature its letters, of
/// other widths the plain one, straight quotes, and one kind of line break.
fn narrow(letter: char, out: &mut String) {
    match letter {
        '\0'..='\u{7F}' => out.push(if letter == '\r' { '\n' } else { letter }),
        '\u{80}'..='\u{9F}' => match windows_1252(letter as u8) {
            shown if shown == letter => out.push(letter),
            shown => narrow(shown, out),
        },
        '\u{2BC}' | '\u{2018}'..='\u{201B}' => out.push('\''),
        '\u{201C}'..='\u{201F}' => out.push('"'),
        '\u{2028}' | '\u{2029}' => out.push('\n'),
        '\u{3000}' => out.push(' '),
        '\u{FF01}'..='\u{FFEF}' => out.extend([letter].into_iter().nfkc()),
        _ => match TABLES.ligatures.get(&letter) {
            // The apostrophe in one of them is made straight, too.
            Some(letters) => letters.chars().for_each(|letter| narrow(letter, out)),
            None => out.push(letter),
        },
    }
}

fn is_control(letter: char) -> bool {
    matches!(letter,
        '\0'..='\u{8}' | '\u{B}' | '\u{E}'..='\u{1F}' | '\u{7F}' | '\u{206A}'..='\u{206F}' | '\u{FEFF}'
        | '\u{FFF9}'..='\u{FFFC}')
}

/// Undoes mojibake, as long as there is some.
fn fix_encoding(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for _ in 0..MAX_ROUNDS {
        match fix_once(&text) {
            Some(fixed) if *fixed != *text => text = Cow::Owned(fixed),
            _ => break,
        }
    }
    text
}

fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() || !TABLES.bad.is_match(text) {
        return None;
    }
    let mut is_latin_1 = false;
    for encoding in &TABLES.encodings {
        let Some(mut bytes) = encoding.bytes_of(text) else { continue };
        is_latin_1 |= encoding.name == "latin-1";
        if encoding.name != "macroman" && TABLES.altered.is_match(&bytes) {
            bytes = restore_a0(&bytes);
        }
        if encoding.name.starts_with("sloppy") {
            bytes = TABLES.lossy.replace_all(&bytes, "\u{FFFD}".as_bytes()).into_owned();
        }
        if let Some(fixed) = decode(bytes) {
            return Some(fixed);
        }
    }
    let fixed = fix_parts(text);
    if fixed != text {
        return Some(fixed);
    }
    let defined = |letter: char| windows_1252(letter as u8) != letter || !('\u{80}'..='\u{9F}').contains(&letter);
    if is_latin_1 && text.chars().all(defined) {
        let fixed: String = text.chars().map(|letter| windows_1252(letter as u8)).collect();
        if fixed != text {
            return Some(fixed);
        }
    }
    let c1 = |letter: char| if ('\u{80}'..='\u{9F}').contains(&letter) { windows_1252(letter as u8) } else { letter };
    Some(text.chars().map(c1).collect())
}

/// Puts 0xA0 back where it was read as a space.
fn restore_a0(bytes: &[u8]) -> Vec<u8> {
    // `à` as a word, except where Portuguese writes it as part of one.
    const WORDS: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
    let mut words = Vec::with_capacity(bytes.len() + 8);
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        words.push(byte);
        rest = after;
        if let (0xC3, Some(next)) = (byte, after.strip_prefix(b" "))
            && !WORDS.iter().any(|word| next.starts_with(word))
        {
            words.extend(b"\xA0 ");
            rest = next;
        }
    }
    let restored = |found: &regex::bytes::Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xA0 } else { byte }).collect()
    };
    TABLES.altered.replace_all(&words, restored).into_owned()
}

/// Decodes UTF-8; also Java's, which writes characters beyond U+FFFF as two surrogates, and U+0000 as two bytes.
fn decode(bytes: Vec<u8>) -> Option<String> {
    if !bytes.iter().any(|byte| [0xC0, 0xED].contains(byte)) {
        return String::from_utf8(bytes).ok();
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = &bytes[..];
    while let [first, after @ ..] = rest {
        rest = match rest {
            [0xC0, 0x80, rest @ ..] => {
                plain.push(0);
                rest
            }
            &[0xED, a @ 0xA0..=0xAF, b @ 0x80..=0xBF, 0xED, c @ 0xB0..=0xBF, d @ 0x80..=0xBF, ref rest @ ..] => {
                let [a, b, c, d] = [a & 0xF, b & 0x3F, c & 0xF, d & 0x3F].map(u32::from);
                let letter = char::from_u32((a << 16) + (b << 10) + (c << 6) + d + 0x1_0000)?;
                plain.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
                rest
            }
            _ => {
                plain.push(*first);
                after
            }
        };
    }
    String::from_utf8(plain).ok()
}

/// Undoes mojibake in parts of a text that look like UTF-8 which was read as something else.
fn fix_parts(text: &str) -> String {
    let has = |set: &[char], letter: char| set.binary_search(&letter).is_ok();
    let letters: Vec<(usize, char)> = text.char_indices().collect();
    let end_of = |at: usize| letters.get(at).map_or(text.len(), |(byte, _)| *byte);
    let unit = |at: usize| {
        (2..5).zip(&TABLES.firsts).find_map(|(length, firsts)| {
            let [first, rest @ ..] = letters.get(at..at + length)? else { return None };
            let fits = has(firsts, first.1) && rest.iter().all(|(_, letter)| has(&TABLES.continuation, *letter));
            fits.then_some(length)
        })
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let start = at;
        let strict = at.checked_sub(1).is_some_and(|before| has(&TABLES.continuation_strict, letters[before].1));
        while let Some(length) = if strict { None } else { unit(at) } {
            at += length;
        }
        if at == start {
            out.push(letters[at].1);
            at += 1;
            continue;
        }
        let part = &text[end_of(start)..end_of(at)];
        match part.len() < text.len() && TABLES.bad.is_match(part) {
            true => out.push_str(&fix_encoding(part)),
            false => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::fix_text;

    /// Recorded from ftfy 6.3.1; `tools/peers/clip_tokens.py` compares thousands of texts.
    #[test]
    fn texts_are_repaired_as_by_ftfy() {
        for (text, expected) in [
            ("âœ” No problems", "✔ No problems"),
            ("&macr;\\_(ã\u{83}\u{84})_/&macr;", "¯\\_(ツ)_/¯"),
            ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "Broken text… it's flubberific!"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ", "LOUD NOISES"),
            ("l’humanitÃ©", "l'humanité"),
            ("Ã perturber la rÃ©flexion", "à perturber la réflexion"),
            ("&NTILDE;o <b>", "&NTILDE;o <b>"),
            ("\u{1B}[36;44mred\u{1B}[0m\u{FEFF} e\u{301}", "red é"),
        ] {
            assert_eq!(fix_text(text), expected, "{text}");
        }
    }
}
