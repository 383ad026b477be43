//! Which samples are used, by the fields of their records: `width >= 200 and similarity > 0.3`.
//!
//! ```text
//! expression  = all { "or" all }
//! all         = one { "and" one }
//! one         = "not" one | "(" expression ")" | operand test
//! test        = ("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") operand
//!             | ["not"] "in" "(" literal { "," literal } ")"
//!             | "is" ["not"] "null"
//! operand     = field | literal
//! field       = name { "." name }        a name that is not a word stands between backticks
//! literal     = number | 'text' | "text" | true | false          a quote in a text is doubled
//! ```
//!
//! The logic is SQL's: a comparison with a field that is missing or null, or with a value of another kind, is unknown;
//! so is its negation; and a sample is used if the whole is true. Text that is a number is compared as one with a
//! number, and so are two fields with such texts, since all columns of a table are text. Integers are compared exactly,
//! other numbers as f64.

mod parse;
#[cfg(test)]
mod proptests;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::json::{Record, Value};
use super::number::Number;
use crate::data::broken::{Broken, Kind};

/// An expression that says which samples are used.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter {
    text: String,
    expression: Expression,
    /// The fields in it, each once: its names from the outside in.
    fields: Vec<Vec<String>>,
}

/// Why a text is not a filter, with the column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {problem}")]
pub struct FilterError {
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: String,
}

#[derive(Clone, Debug)]
enum Expression {
    Any(Vec<Expression>),
    All(Vec<Expression>),
    Not(Box<Expression>),
    Compare(Operand, Comparison, Operand),
    In(Operand, Vec<Literal>),
    IsNull(Operand),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug)]
enum Operand {
    /// By its number in [`Filter::fields`].
    Field(usize),
    Literal(Literal),
}

#[derive(Clone, Debug, PartialEq)]
enum Literal {
    Number(Number),
    Text(String),
    Bool(bool),
}

/// What a filter says about a sample.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) passes: bool,
    /// Whether the record has each of the filter's fields.
    pub(crate) has: Vec<bool>,
    /// The names of all fields of the record.
    pub(crate) names: Vec<String>,
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Filter {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (expression, fields) = parse::parse(text)?;
        Ok(Self { text: text.trim().to_owned(), expression, fields })
    }
}

impl TryFrom<String> for Filter {
    type Error = FilterError;

    fn try_from(text: String) -> Result<Self, FilterError> {
        text.parse()
    }
}

impl From<Filter> for String {
    fn from(filter: Filter) -> Self {
        filter.text
    }
}

impl Filter {
    /// The fields in it, as they are written.
    pub(crate) fn fields(&self) -> impl Iterator<Item = String> {
        self.fields.iter().map(|names| names.join("."))
    }

    /// Whether a sample with this record is used. One without a record has no fields.
    ///
    /// # Errors
    /// A damaged record in which a field was not found: damage may have removed it.
    pub(crate) fn judge(&self, json: Option<&[u8]>) -> Result<Verdict, Broken> {
        let whole: Vec<String> = self.fields().collect();
        let first = self.fields.iter().filter_map(|names| names.first());
        let wanted: Vec<&str> = whole.iter().chain(first).map(String::as_str).collect();
        let record = json.map_or_else(Record::default, |json| Record::read(json, &wanted));
        let found = self.fields.iter().zip(&whole).map(|(names, whole)| match record.get(whole) {
            Some(value) => Some(value.clone()),
            None => within(&record, names),
        });
        let values: Vec<Option<Value>> = found.collect();
        if let Some(problem) = record.problem.filter(|_| values.contains(&None)) {
            return Err(Broken { kind: Kind::BadRecord, detail: format!(".json does not parse: {problem}") });
        }
        Ok(Verdict {
            passes: self.expression.eval(&values) == Some(true),
            has: values.iter().map(Option::is_some).collect(),
            names: record.names,
        })
    }
}

/// The value of a field within fields.
fn within(record: &Record, names: &[String]) -> Option<Value> {
    let (first, rest) = names.split_first()?;
    let mut value = record.get(first)?.clone();
    for name in rest {
        let Value::Object(json) = value else { return None };
        value = Record::read(&json, &[name]).get(name)?.clone();
    }
    Some(value)
}

impl Expression {
    /// `None`: unknown.
    fn eval(&self, values: &[Option<Value>]) -> Option<bool> {
        match self {
            // The first that decides; else unknown if any is.
            Self::Any(parts) => decide(parts, values, true),
            Self::All(parts) => decide(parts, values, false),
            Self::Not(part) => part.eval(values).map(|holds| !holds),
            Self::Compare(left, comparison, right) => {
                let both_fields = matches!((left, right), (Operand::Field(_), Operand::Field(_)));
                let order = left.scalar(values)?.order(&right.scalar(values)?, both_fields)?;
                Some(comparison.holds(order))
            }
            Self::In(operand, list) => {
                let scalar = operand.scalar(values)?;
                let is = |literal: &Literal| scalar.order(&literal.scalar(), false) == Some(Ordering::Equal);
                Some(list.iter().any(is))
            }
            Self::IsNull(Operand::Literal(_)) => Some(false),
            Self::IsNull(Operand::Field(at)) => Some(matches!(values[*at], None | Some(Value::Null))),
        }
    }
}

/// The outcome of `parts`, any of which decides if it is `deciding`.
fn decide(parts: &[Expression], values: &[Option<Value>], deciding: bool) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part.eval(values) {
            Some(holds) if holds == deciding => return Some(deciding),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!deciding)
}

/// A value that can be compared.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Number(Number),
    Text(&'a str),
    Bool(bool),
}

impl Operand {
    fn scalar<'a>(&'a self, values: &'a [Option<Value>]) -> Option<Scalar<'a>> {
        match self {
            Self::Literal(literal) => Some(literal.scalar()),
            Self::Field(at) => match values[*at].as_ref()? {
                Value::Number(number) => Some(Scalar::Number(*number)),
                Value::Text(text) => Some(Scalar::Text(text)),
                Value::Bool(value) => Some(Scalar::Bool(*value)),
                _ => None,
            },
        }
    }
}

impl Literal {
    fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Number(number) => Scalar::Number(*number),
            Self::Text(text) => Scalar::Text(text),
            Self::Bool(value) => Scalar::Bool(*value),
        }
    }
}

impl Scalar<'_> {
    /// The order of two values of the same kind. `guess`: two texts that are numbers are compared as numbers.
    fn order(&self, other: &Self, guess: bool) -> Option<Ordering> {
        let number = |text: &str| text.trim().parse::<Number>().ok();
        let flag = |text: &str| text.trim().to_ascii_lowercase().parse::<bool>().ok();
        match (*self, *other) {
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(&b),
            (Self::Number(a), Self::Text(b)) => a.partial_cmp(&number(b)?),
            (Self::Text(a), Self::Number(b)) => number(a)?.partial_cmp(&b),
            (Self::Text(a), Self::Text(b)) => match (number(a), number(b)) {
                (Some(a), Some(b)) if guess => a.partial_cmp(&b),
                _ => Some(a.cmp(b)),
            },
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(&b)),
            (Self::Bool(a), Self::Text(b)) => Some(a.cmp(&flag(b)?)),
            (Self::Text(a), Self::Bool(b)) => Some(flag(a)?.cmp(&b)),
            (Self::Bool(_), Self::Number(_)) | (Self::Number(_), Self::Bool(_)) => None,
        }
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"width": 300, "height": 200.5, "similarity": null, "nsfw": false, "lang": "en",
        "rows": "1000", "columns": "200", "exif": {"Make": "it's", "deep": {"n": -1e3}}, "a.b": 1, "tags": ["x"],
        "odd name": 7, "score": NaN, "id": 9007199254740993, "flag": "True"}"#;

    fn passes(text: &str) -> bool {
        text.parse::<Filter>().unwrap().judge(Some(RECORD.as_bytes())).unwrap().passes
    }

    #[test]
    fn comparisons_follow_kinds() {
        for text in [
            "width >= 200 and height > 200",
            "width = 300 and width == 300 and width = 3e2 and width != 299 and width <> -1",
            "200 < width",
            "width > height",
            "lang = 'en' and lang = \"en\" and lang < 'fr' and lang != 'EN'",
            "nsfw = false and not nsfw = true and flag = true",
            "exif.Make = 'it''s' and exif.deep.n < -999 and a.b = 1",
            "`odd name` = 7 and exif.`Make` is not null",
            "rows > 999 and rows > columns and rows < 1000.5",
            "lang in ('fr', 'en') and width in (1, 300) and lang not in ('fr')",
            "similarity is null and missing is null and width is not null and tags is not null",
            "WIDTH is null AND NOT width IS NULL OR false = true",
            "width = 1 or width = 300 and height < 1000",
            "not (width = 1 or (width = 2))",
            "id = 9007199254740993 and id > 9007199254740992 and id in (1, 9007199254740993)",
        ] {
            assert!(passes(text), "{text}");
        }
        for text in [
            "width < 300 or height > 300",
            "lang > 'z' and width = 300",
            "rows < '1'",
            "width in (1, 2) or lang in ('e')",
            "(width = 1 or width = 300) and height > 1000",
            "id = 9007199254740992 or id < 9007199254740993.0",
        ] {
            assert!(!passes(text), "{text}");
        }
    }

    /// As in SQL.
    #[test]
    fn what_is_unknown_neither_holds_nor_does_not() {
        for unknown in [
            "similarity > 0.3",
            "missing = 1",
            "missing in (1)",
            "exif.Make.more = 1",
            "exif = 'x'",
            "tags = 'x'",
            "score > 0",
            "lang > 3",
            "nsfw > 0",
            "similarity = similarity",
        ] {
            assert!(!passes(unknown), "{unknown}");
            assert!(!passes(&format!("not {unknown}")), "not {unknown}");
            assert!(passes(&format!("{unknown} or width = 300")) && !passes(&format!("{unknown} or width = 1")));
            assert!(!passes(&format!("{unknown} and width = 300")));
            assert!(passes(&format!("not ({unknown} and width = 1)")));
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_broken_unless_the_fields_are_there() {
        let filter: Filter = "width > 1 and height > 1".parse().unwrap();
        let judge = |json: &str| filter.judge(Some(json.as_bytes()));
        assert!(judge(r#"{"width": 2, "height": 3, "url": "cu"#).unwrap().passes);
        let broken = judge(r#"{"width": 2, "heig"#).unwrap_err();
        assert!(broken.kind == Kind::BadRecord && broken.detail.contains("does not parse"), "{broken}");
        let verdict = judge(r#"{"width": 2, "x": 1}"#).unwrap();
        assert_eq!((verdict.passes, &verdict.has[..]), (false, &[true, false][..]));
        assert_eq!(verdict.names, ["width", "x"]);
        assert!(!filter.judge(None).unwrap().passes);
    }
}
