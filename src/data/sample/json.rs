//! The fields of a sample's JSON record, read leniently: damage in other fields does not cost the caption.
//!
//! Python writes `NaN` and `Infinity`, `1e999`, and half of a surrogate pair where a text was cut inside an emoji; some
//! editors write a byte order mark. All of these are accepted. Values of other fields are skipped by matching brackets
//! and quotes. In a damaged record, the fields before the damage are used.

use super::number::Number;
use crate::data::text;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Text(String),
    /// A string that is not UTF-8.
    NotUtf8,
    List(Vec<Value>),
    Null,
    /// NaN if it is none, as in `1x`.
    Number(Number),
    Bool(bool),
    /// With its braces.
    Object(Vec<u8>),
    /// Not JSON; an empty value, for example.
    Unknown,
}

impl Value {
    /// The kind of value, for an error message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::NotUtf8 => "text that is not UTF-8",
            Self::List(_) => "a list",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::Object(_) => "an object",
            Self::Unknown => "no JSON value",
        }
    }
}

/// What was read from a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Record {
    /// The names of all fields.
    pub(crate) names: Vec<String>,
    /// The wanted fields with their values. If a name is repeated, the last one counts.
    pub(crate) fields: Vec<(String, Value)>,
    /// Why reading stopped before the end of the record, if it did.
    pub(crate) problem: Option<String>,
}

impl Record {
    /// Reads the `wanted` fields of the object in `json`.
    pub(crate) fn read(json: &[u8], wanted: &[&str]) -> Self {
        let mut record = Self::default();
        let mut reader = Reader { bytes: json, at: 0 };
        if let Err(problem) = record.fill(&mut reader, wanted) {
            let line = 1 + reader.bytes[..reader.at.min(json.len())].iter().filter(|&&byte| byte == b'\n').count();
            record.problem = Some(format!("line {line}, byte {}: {problem}", reader.at + 1));
        }
        record
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.iter().rfind(|(found, _)| found == name).map(|(_, value)| value)
    }

    fn fill(&mut self, reader: &mut Reader, wanted: &[&str]) -> Result<(), String> {
        if let Some(encoding) = text::wide_encoding(reader.bytes) {
            return Err(format!("it is {encoding}; save it as UTF-8"));
        }
        if reader.bytes.starts_with(&text::BOM) {
            reader.at = text::BOM.len();
        }
        match reader.peek() {
            Some(b'{') => reader.at += 1,
            None => return Err("it is empty".to_owned()),
            Some(_) => {
                let start = reader.at;
                let kind = reader.value()?.kind();
                reader.at = start;
                return Err(format!("a record must be an object {{...}}, and this is {kind}"));
            }
        }
        loop {
            match reader.peek() {
                Some(b'"') => {}
                Some(b'}') => return Ok(()),
                Some(b',') => {
                    reader.at += 1;
                    continue;
                }
                Some(_) => return Err("expected the name of a field in double quotes".to_owned()),
                None => return Err("it ends before its closing brace".to_owned()),
            }
            let name = String::from_utf8_lossy(&reader.string()?).into_owned();
            if reader.peek() != Some(b':') {
                return Err(format!("expected a colon after the name {name:?}"));
            }
            reader.at += 1;
            match wanted.contains(&&*name) {
                true => self.fields.push((name.clone(), reader.value()?)),
                false => reader.skip()?,
            }
            self.names.push(name);
            if !matches!(reader.peek(), Some(b',' | b'}') | None) {
                return Err("expected a comma or the closing brace".to_owned());
            }
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// A wanted value. Lists hold their elements; what is inside an object, or a list within a list, is skipped.
    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some(b'[') => {
                self.at += 1;
                let mut elements = Vec::new();
                loop {
                    match self.peek() {
                        Some(b']') => {
                            self.at += 1;
                            return Ok(Value::List(elements));
                        }
                        Some(b',') => self.at += 1,
                        Some(b'[') => {
                            self.skip()?;
                            elements.push(Value::List(Vec::new()));
                        }
                        Some(b'}') => return Err("a brace closes a list".to_owned()),
                        Some(_) => elements.push(self.value()?),
                        None => return Err("it ends inside a list".to_owned()),
                    }
                }
            }
            Some(b'"') => Ok(String::from_utf8(self.string()?).map_or(Value::NotUtf8, Value::Text)),
            Some(b'{') => {
                let start = self.at;
                self.skip()?;
                Ok(Value::Object(self.bytes[start..self.at].to_vec()))
            }
            _ => {
                let start = self.at;
                self.skip()?;
                Ok(match self.bytes.get(start..self.at).unwrap_or_default() {
                    b"null" | b"None" => Value::Null,
                    b"true" => Value::Bool(true),
                    b"false" => Value::Bool(false),
                    number @ ([b'0'..=b'9' | b'-' | b'+', ..] | b"NaN" | b"nan" | b"Infinity") => {
                        let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                        Value::Number(number.unwrap_or(Number::Float(f64::NAN)))
                    }
                    _ => Value::Unknown,
                })
            }
        }
    }

    /// Skips a value.
    fn skip(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string()?),
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':') if depth > 0 => self.at += 1,
                // A missing value: `{"field": }`.
                Some(b',' | b'}' | b']') => return Ok(()),
                Some(_) => {
                    let end = |byte: &u8| byte.is_ascii_whitespace() || b",:{}[]\"".contains(byte);
                    let length = self.bytes[self.at..].iter().position(end).unwrap_or(self.bytes.len() - self.at);
                    // A colon, which cannot begin a value.
                    if length == 0 {
                        return Err("expected a value".to_owned());
                    }
                    self.at += length;
                }
                None => return Err("it ends inside a value".to_owned()),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// The bytes of a string with its escapes resolved; `at` is at the opening quote. An unpaired surrogate becomes
    /// U+FFFD.
    fn string(&mut self) -> Result<Vec<u8>, String> {
        self.at += 1;
        let mut found = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            let plain = plain.ok_or("it ends inside a string")?;
            found.extend_from_slice(&rest[..plain]);
            self.at += plain + 1;
            if rest[plain] == b'"' {
                return Ok(found);
            }
            let escaped = *self.bytes.get(self.at).ok_or("it ends inside a string")?;
            self.at += 1;
            match escaped {
                b'n' => found.push(b'\n'),
                b't' => found.push(b'\t'),
                b'r' => found.push(b'\r'),
                b'b' => found.push(8),
                b'f' => found.push(12),
                b'u' => {
                    let unit = self.unit().unwrap_or(0xFFFD);
                    let letter =
                        char::from_u32(unit).or_else(|| self.pair(unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
                    found.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                // A quote, a slash, a backslash, or a letter that need not be escaped.
                other => found.push(other),
            }
        }
    }

    /// The four hexadecimal digits after `\u`.
    fn unit(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        let unit = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        self.at += 4;
        Some(unit)
    }

    /// The character of a surrogate pair whose first half is `high`.
    fn pair(&mut self, high: u32) -> Option<char> {
        let start = self.at;
        let low = match (high, self.bytes.get(self.at..self.at + 2)) {
            (0xD800..=0xDBFF, Some(b"\\u")) => {
                self.at += 2;
                self.unit().filter(|low| (0xDC00..=0xDFFF).contains(low))
            }
            _ => None,
        };
        if low.is_none() {
            self.at = start;
        }
        char::from_u32(0x10000 + ((high - 0xD800) << 10) + (low? - 0xDC00))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: impl AsRef<[u8]>) -> Record {
        Record::read(json.as_ref(), &["caption", "tags"])
    }

    fn caption(json: impl AsRef<[u8]>) -> Option<Value> {
        read(json).get("caption").cloned()
    }

    fn text(text: &str) -> Option<Value> {
        Some(Value::Text(text.to_owned()))
    }

    #[test]
    fn what_python_and_editors_write_is_read() {
        for record in [
            r#"{"caption": "a red square", "similarity": NaN, "punsafe": Infinity, "low": -Infinity}"#,
            r#"{"score": 1e999, "caption": "a red square"}"#,
            r#"{"alt": "cut \ud83d", "caption": "a red square"}"#,
            "\u{FEFF}{\"caption\": \"a red square\"}\r\n",
            r#"{"exif": "{\"a\": [1, 2}", "deep": {"caption": "no", "x": [[{}], NaN]}, "caption": "a red square",}"#,
            r#"{"empty": , "caption": "a red square"}"#,
            r#"{"caption": "an old one", "caption": "a red square"}"#,
        ] {
            let found = read(record);
            assert_eq!((found.get("caption").cloned(), found.problem), (text("a red square"), None), "{record}");
        }
        // Broken UTF-8 in another field.
        assert_eq!(caption(b"{\"alt\": \"caf\xE9\", \"caption\": \"a red square\"}"), text("a red square"));
    }

    #[test]
    fn escapes_are_those_of_json() {
        assert_eq!(caption(r#"{"caption": "a \"b\" \\ \/ \n \u00e9 \ud83d\ude00"}"#), text("a \"b\" \\ / \n é 😀"));
        for half in ["\\ud83d", "\\ude00"] {
            assert_eq!(caption(format!(r#"{{"caption": "a{half}b"}}"#)), text("a\u{FFFD}b"));
            assert_eq!(caption(format!(r#"{{"caption": "{half}\u0041"}}"#)), text("\u{FFFD}A"));
        }
        assert_eq!(caption(r#"{"caption": "\ud83d\ud83d\ude00"}"#), text("\u{FFFD}😀"));
        assert_eq!(caption("{\"caption\": \"two\nlines\"}"), text("two\nlines"));
        assert_eq!(caption(b"{\"caption\": \"caf\xE9\"}"), Some(Value::NotUtf8));
    }

    #[test]
    fn other_values_have_their_kind() {
        for (value, kind) in [
            ("null", "null"),
            ("7", "a number"),
            ("-1.5e3", "a number"),
            ("NaN", "a number"),
            ("true", "true or false"),
            ("{\"en\": \"x\"}", "an object"),
            ("[1, 2]", "a list"),
            ("", "no JSON value"),
        ] {
            let found = caption(format!(r#"{{"caption": {value}, "b": 1}}"#)).unwrap();
            assert_eq!(found.kind(), kind, "{value}");
        }
        let list = caption(r#"{"caption": ["one", 2, null, ["three"], "four"]}"#).unwrap();
        let Value::List(list) = list else { panic!("{list:?}") };
        assert_eq!(list.iter().map(Value::kind).collect::<Vec<_>>(), ["text", "a number", "null", "a list", "text"]);
    }

    #[test]
    fn a_damaged_record_gives_the_fields_before_the_damage() {
        let cut = read(r#"{"caption": "a red square", "url": "htt"#);
        assert_eq!(cut.get("caption").cloned(), text("a red square"));
        assert!(cut.problem.unwrap().contains("ends inside a string"));
        for (record, problem) in [
            ("", "line 1, byte 1: it is empty"),
            ("[1]", "this is a list"),
            ("not json", "no JSON value"),
            ("{\n'caption': 1}", "line 2, byte 3: expected the name of a field"),
            ("{\"caption\" \"x\"}", "colon after the name \"caption\""),
            ("{\"a\": \"x\" \"b\": 1}", "expected a comma"),
            ("{\"a\": [1", "ends inside a value"),
            ("{\"caption\": [\"x\"", "ends inside a list"),
            ("{\"caption\": [\"x\"}", "a brace closes a list"),
            ("{\"a\": 1", "ends before its closing brace"),
            ("{\"a\":", "ends inside a value"),
            ("{\"a\": :}", "expected a value"),
            ("{\"a", "ends inside a string"),
            ("{\"a\\", "ends inside a string"),
            ("\u{0}{\u{0}}", "UTF-16"),
        ] {
            let found = read(record);
            assert!(found.problem.clone().is_some_and(|found| found.contains(problem)), "{record:?}: {found:?}");
        }
    }

    /// Reading ends without a panic for any damage.
    #[test]
    fn no_damage_is_too_much() {
        let whole =
            r#"{"tags": ["a", "\u00e9\ud83d\ude00"], "caption": "x", "deep": {"a": [1, {"b": "]"}]}, "n": NaN}"#;
        for end in 0..whole.len() {
            read(&whole.as_bytes()[..end]);
            for byte in *b"\"\\{}[]:,u\xFF\0 " {
                let mut damaged = whole.as_bytes().to_vec();
                damaged[end] = byte;
                read(damaged);
            }
        }
        read("[".repeat(100_000));
        read(format!("{{\"caption\": {}", "[".repeat(100_000)));
    }
}
