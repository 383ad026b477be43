//! HTML's character references, as Python's `html.unescape` reads them.

use std::borrow::Cow;

use super::tables::windows_1252;

/// Bytes of the longest name, without `;`.
const LONGEST: usize = 32;

/// Replaces character references by what they stand for.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (shown, used) = reference(rest);
        out.push_str(&shown);
        rest = &rest[used..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// What the beginning of `text`, which is `&`, stands for, and its length in bytes.
fn reference(text: &str) -> (Cow<'_, str>, usize) {
    let as_it_is = (Cow::Borrowed("&"), 1);
    if text.as_bytes().get(1) == Some(&b'#') {
        let (base, start) = if matches!(text.as_bytes().get(2), Some(b'x' | b'X')) { (16, 3) } else { (10, 2) };
        let digits: &str = leading(&text[start..], |letter| letter.is_digit(base));
        if digits.is_empty() {
            return as_it_is;
        }
        let end = start + digits.len();
        let end = end + usize::from(text.as_bytes().get(end) == Some(&b';'));
        // Zeros at the front do not count; what is still too long is not a character.
        let number = u32::from_str_radix(digits, base).ok();
        return (Cow::Owned(number.map_or_else(|| "\u{FFFD}".to_owned(), numbered)), end);
    }
    let ends = |letter: char| "\t\n\u{C} <&#;".contains(letter);
    let mut name = leading(&text[1..], |letter| !ends(letter));
    name = name.char_indices().nth(LONGEST).map_or(name, |(end, _)| &name[..end]);
    if text.as_bytes().get(1 + name.len()) == Some(&b';')
        && let Some(shown) = named(&text[..name.len() + 2])
    {
        return (Cow::Borrowed(shown), name.len() + 2);
    }
    // Some names need no `;`, and may be followed by anything.
    let ends = (2..=name.len()).rev().filter(|&end| name.is_char_boundary(end));
    let found = ends.map(|end| 1 + end).find_map(|end| Some((Cow::Borrowed(named(&text[..end])?), end)));
    found.unwrap_or(as_it_is)
}

fn leading(text: &str, holds: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|letter| !holds(letter)).unwrap_or(text.len())]
}

/// What `&name;` stands for; some are names without `;` too.
pub(super) fn named(entity: &str) -> Option<&'static str> {
    htmlize::ENTITIES.get(entity.as_bytes()).and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn numbered(number: u32) -> String {
    match number {
        0 | 0xD800..=0xDFFF => "\u{FFFD}".to_owned(),
        0x80..=0x9F => windows_1252(number as u8).to_string(),
        0x1..=0x8 | 0xB | 0xE..=0x1F | 0x7F | 0xFDD0..=0xFDEF => String::new(),
        _ if number <= 0x0010_FFFF && number & 0xFFFE == 0xFFFE => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{FFFD}').to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::unescape;

    /// Recorded from Python 3.11.
    #[test]
    fn references_are_those_of_python() {
        for (text, expected) in [
            ("a &amp; b &amp;lt; &lt;", "a & b &lt; <"),
            ("&ampx &amp", "&x &"),
            ("&notit; &notin; &not;", "¬it; ∉ ¬"),
            ("&unknown; & &; &&", "&unknown; & &; &&"),
            ("&#233;&#xE9;&#XE9 &#233x", "éééé éx".replacen("éééé", "ééé", 1).as_str()),
            ("&#0;&#xD800;&#1114112;&#99999999999;", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}"),
            ("&#128;&#x81;&#150;", "€\u{81}–"),
            ("&#1;&#x1F;&#xFFFE;&#x1FFFF;&#xFDD0;|", "|"),
            ("&#;&#x;&#xg;", "&#;&#x;&#xg;"),
            ("&CounterClockwiseContourIntegral;", "∳"),
            ("&éacute; &eacute", "&éacute; é"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }
}
