//! How OpenCLIP cleans a text before it is tokenized.

mod ftfy;
mod html;
mod tables;

use std::borrow::Cow;

/// Cleans a text into `out` as OpenCLIP does: repairs it, replaces entities, and makes white space one space; and
/// lower-cases it if asked to.
pub(super) fn clean(text: &str, lower: bool, out: &mut String) {
    // Nothing in such a text is repaired.
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r') && byte != b'&');
    let text = match is_plain {
        true => Cow::Borrowed(text),
        false => {
            let fixed = ftfy::fix_text(text);
            Cow::Owned(html::unescape(&html::unescape(&fixed)).into_owned())
        }
    };
    out.clear();
    for word in text.split(is_space).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    match (lower, out.is_ascii()) {
        (false, _) => {}
        (true, true) => out.make_ascii_lowercase(),
        (true, false) => *out = out.to_lowercase(),
    }
}

/// White space in Python, which has the four separators of information, too.
fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1C}'..='\u{1F}')
}
