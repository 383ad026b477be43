//! Files with lists: class names and prompt templates.

use std::path::Path;

use super::EvalError;
use crate::data::text::{self, Blank};

/// Prompts with a placeholder where the class name goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Templates(Vec<String>);

/// Placeholders for the class name: Python's `{}`, and those of other programs.
const PLACEHOLDERS: [&str; 8] = ["{}", "{c}", "{0}", "{class}", "{classname}", "{class_name}", "{name}", "{label}"];

impl Templates {
    /// One template per line, each with `{}` or `{c}`.
    ///
    /// # Errors
    /// A file that cannot be read, is not UTF-8, has no lines, or is code instead of a list; a line without a
    /// placeholder.
    pub fn from_file(path: &Path) -> Result<Self, EvalError> {
        let templates = entries(path, Blank::Drop)?;
        let has_placeholder =
            |template: &&String| PLACEHOLDERS.iter().any(|placeholder| template.contains(placeholder));
        match templates.iter().find(|template| !has_placeholder(template)) {
            Some(bad) => {
                let problem = format!("{bad:?} has no {{}} or {{c}} for the name");
                Err(EvalError::List { path: path.to_owned(), problem })
            }
            None => Ok(Self(templates)),
        }
    }

    /// One function per template that puts a name into it.
    pub fn iter(&self) -> impl Iterator<Item = impl Fn(&str) -> String> {
        self.0.iter().map(|template| move |name: &str| fill(template, name))
    }
}

impl Default for Templates {
    /// The name alone.
    fn default() -> Self {
        Self(vec!["{}".to_owned()])
    }
}

/// Replaces every placeholder of a template by `name`, in which no placeholders are looked for.
fn fill(template: &str, name: &str) -> String {
    let (mut filled, mut rest) = (String::with_capacity(template.len() + name.len()), template);
    while let Some(brace) = rest.find('{') {
        filled += &rest[..brace];
        rest = &rest[brace..];
        match PLACEHOLDERS.iter().find_map(|placeholder| rest.strip_prefix(placeholder)) {
            Some(after) => {
                filled += name;
                rest = after;
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

/// The lines of a list (see [`text::read_lines`]).
///
/// # Errors
/// As there; a list in a programming language or in JSON.
pub(super) fn entries(path: &Path, blank: Blank) -> Result<Vec<String>, EvalError> {
    let lines = text::read_lines(path, blank)?;
    match lines.iter().position(|line| is_code(line)) {
        Some(at) => {
            let problem = format!("line {} ({:?}) is code; write each entry on a line of its own", at + 1, lines[at]);
            Err(EvalError::List { path: path.to_owned(), problem })
        }
        None => Ok(lines),
    }
}

/// Whether a line looks like one of a list in Python or JSON: `'a photo of a {}.',`, `lambda c: f'...'`, `["tench", ...`.
fn is_code(line: &str) -> bool {
    let quotes = ['"', '\''];
    let item = line.trim_end_matches(',');
    let quoted = line.len() > item.len() && item.len() > 1 && item.starts_with(quotes) && item.ends_with(quotes);
    let opens = line.strip_prefix(['[', '{']).is_some_and(|rest| rest.trim_start().starts_with(quotes));
    quoted || opens || line.starts_with("lambda ")
}

/// A text in quotes; if it is not ASCII, also with escapes, since some letters look alike.
pub(super) fn escaped(text: &str) -> String {
    match text.is_ascii() {
        true => format!("{text:?}"),
        false => format!("{text:?} ({})", text.escape_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(text: &str, from: fn(&Path) -> Result<T, EvalError>) -> Result<T, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        from(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn templates_take_the_name_at_any_common_placeholder() {
        let text = "\u{FEFF}a photo of a {}.\r\n\r\na picture of the {c}.\r\n{classname}, {label}\r\n";
        let templates = read(text, Templates::from_file).unwrap();
        let prompts: Vec<String> = templates.iter().map(|fill| fill("c}{}")).collect();
        assert_eq!(prompts, ["a photo of a c}{}.", "a picture of the c}{}.", "c}{}, c}{}"]);
        assert_eq!(fill("{ {}", "cat"), "{ cat");
        let error = read("a photo of a {}.\na photo of it\n", Templates::from_file).unwrap_err();
        assert!(error.contains("\"a photo of it\" has no {} or {c}"), "{error}");
        assert_eq!(Templates::default().iter().map(|fill| fill("cat")).collect::<Vec<_>>(), ["cat"]);
    }

    #[test]
    fn lists_that_are_code_are_refused() {
        let names = |path: &Path| entries(path, Blank::Keep);
        for code in ["[\"tench\", \"goldfish\"]", "{'0': 'tench',", "'tench',", "\"tench\",", "lambda c: f'a {c}.',"] {
            let error = read(&format!("red\n{code}\n"), names).unwrap_err();
            assert!(error.contains("line 2") && error.contains("is code"), "{code}: {error}");
        }
        for name in ["[redacted]", "'tis", "\"big\" cat", "{}", "lambda", "carpenter's kit"] {
            assert_eq!(read(name, names).unwrap(), [name]);
        }
        assert!(read("\n\n", names).unwrap_err().contains("no lines"));
    }
}
