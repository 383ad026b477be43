//! Files with lists: class names and prompt templates.

use std::path::Path;

use super::EvalError;
use crate::data::text::{self, Blank, shorten};

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
                let problem = format!("{:?} has no {{}} or {{c}} for the name", shorten(bad));
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

/// Replaces every placeholder of a template by `name`; placeholders in `name` itself stay.
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
    let quoted = |line: &String| line.is_empty() || is_quoted(line);
    // The quotes of a single line may be part of it.
    let all_quoted = lines.len() > 1 && lines.iter().all(quoted);
    match lines.iter().position(|line| is_code(line)).or(all_quoted.then_some(0)) {
        Some(at) => {
            let problem = format!(
                "line {} ({:?}) is code; write each entry on a line of its own, without quotes or commas",
                at + 1,
                shorten(&lines[at])
            );
            Err(EvalError::List { path: path.to_owned(), problem })
        }
        None => Ok(lines),
    }
}

/// Whether a line looks like one of a list in Python or JSON: `'a photo of a {}.',`, `lambda c: f'...'`, `["tench",
/// ...`.
fn is_code(line: &str) -> bool {
    let quotes = ['"', '\''];
    let item = line.trim_end_matches(',');
    let quoted = line.len() > item.len() && is_quoted(item);
    let opens = line.strip_prefix(['[', '{']).is_some_and(|rest| rest.trim_start().starts_with(quotes));
    quoted || opens || line.starts_with("lambda ")
}

fn is_quoted(text: &str) -> bool {
    let quotes = ['"', '\''];
    text.len() > 1 && text.starts_with(quotes) && text.ends_with(quotes)
}

/// What the lines of a list have in common that is hardly part of the names: they are rows of a table, numbered, and so
/// on. Blank lines do not count.
pub(super) fn decoration(lines: &[String]) -> Option<String> {
    let given: Vec<(usize, &str)> =
        lines.iter().map(String::as_str).enumerate().filter(|(_, line)| !line.is_empty()).collect();
    let (&(_, first), rest) = given.split_first()?;
    let second = rest.first().map(|(_, line)| *line)?;
    let all = |holds: &dyn Fn(&str) -> bool| given.iter().all(|(_, line)| holds(line));
    let body = |holds: &dyn Fn(usize, &str) -> bool| rest.iter().all(|(at, line)| holds(*at, line));
    if first.starts_with('#') && !second.starts_with('#') {
        return Some(format!("line 1 ({:?}) counts as a class, since a list has no comments", shorten(first)));
    }
    let shown = format!("such as {:?}", shorten(second));
    if rest.iter().all(|(_, line)| line.contains('\t')) {
        return Some(format!("its lines are rows of a table, {shown}"));
    }
    // Counted from any number, with or without a title line on top.
    let offset = number(second).map(|(number, _)| number - rest[0].0 as i64);
    if offset.is_some_and(|offset| body(&|at, line| number(line).is_some_and(|(n, _)| n == at as i64 + offset)))
        // In "1 dog", "2 dogs" the numbers are part of the names.
        && rest.len() > 1
        && !rest.iter().all(|(_, line)| number(line).map(|(_, name)| stem(name)) == number(second).map(|(_, name)| stem(name)))
    {
        return Some(format!("its lines are numbered, {shown}"));
    }
    let bulleted = |line: &str| ["- ", "* ", "\u{2022} "].iter().any(|bullet| line.starts_with(bullet));
    if all(&bulleted) {
        return Some(format!("its lines begin with bullets, {shown}"));
    }
    let synset = |line: &str| {
        let id = line.split([' ', ',', ':']).next().unwrap_or_default();
        id.len() == 9 && id.starts_with('n') && id[1..].bytes().all(|digit| digit.is_ascii_digit())
    };
    if all(&synset) {
        return Some(format!("its lines begin with numbers of WordNet, {shown}"));
    }
    all(&|line| line.ends_with([',', ';'])).then(|| format!("its lines end in the same sign, {shown}"))
}

/// The number at the beginning of a line and the name after it: `0 cat`, `1. cat`, `2: cat`, `3,cat`.
fn number(line: &str) -> Option<(i64, &str)> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &line[digits..];
    let name = rest.trim_start_matches(['.', ':', ',', ';', ')', ' ', '-', '=']);
    let is_apart = name.len() < rest.len() && !name.is_empty();
    Some((line[..digits].parse().ok().filter(|_| is_apart)?, name))
}

/// A name without the plural's `s`.
fn stem(name: &str) -> &str {
    name.trim_end_matches('s')
}

/// A text in quotes; if it is not ASCII, also escaped, since some letters look alike.
pub(super) fn escaped(text: &str) -> String {
    let text = &*shorten(text);
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
        let error = read(&format!("{{\"red\": [{}]}}", "\"a red thing\", ".repeat(1000)), names).unwrap_err();
        assert!(error.contains("is code") && error.len() < 500, "{error}");
        for name in ["[redacted]", "'tis", "\"big\" cat", "{}", "lambda", "carpenter's kit"] {
            assert_eq!(read(name, names).unwrap(), [name]);
        }
        assert!(read("\n\n", names).unwrap_err().contains("no lines"));
    }

    #[test]
    fn lists_with_more_than_names_are_noticed() {
        let found = |text: &str| decoration(&text.lines().map(str::to_owned).collect::<Vec<_>>());
        for (text, what) in [
            ("id,name\n0,red\n1,green\n2,blue", "numbered, such as \"0,red\""),
            ("0,red\n1,green\n2,blue", "numbered"),
            ("0\tred\n1\tgreen", "rows of a table"),
            ("0 red\n1 green\n2 blue", "numbered"),
            ("1. red\n2. green\n3. blue", "numbered"),
            ("names:\n0: red\n1: green\n2: blue", "numbered"),
            ("- red\n- green", "bullets"),
            ("n01440764 tench\nn01443537 goldfish", "WordNet"),
            ("red,\ngreen,", "the same sign"),
            ("# my classes\nred\ngreen", "line 1 (\"# my classes\") counts as a class"),
        ] {
            assert!(found(text).is_some_and(|found| found.contains(what)), "{text}: {:?}", found(text));
        }
        for text in [
            "red\ngreen\nblue",
            "3 objects\n4 objects\n5 objects",
            "1 dog\n2 dogs\n3 dogs",
            "0\n1\n2",
            "747-200\n747-300\n747-400\nA340-200",
            "2012 Acura\n2012 Audi",
            "red",
            "#1\n#2",
            "tench, Tinca tinca\ngoldfish, Carassius auratus",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
        let names = |path: &Path| entries(path, Blank::Keep);
        let error = read("\"red\"\n\"green\"\n", names).unwrap_err();
        assert!(error.contains("line 1") && error.contains("without quotes"), "{error}");
        assert_eq!(read("\"red\"\ngreen\n", names).unwrap(), ["\"red\"", "green"]);
    }
}
