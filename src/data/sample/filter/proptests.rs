//! Filters that are made up, written, and read again, against plain rules on values.

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value as Json, json};

use super::Filter;
use crate::fuzzing::cases;

/// A filter before it is written.
#[derive(Clone, Debug)]
enum Made {
    Compare(&'static str, &'static str, i64),
    In(&'static str, Vec<i64>),
    IsNull(&'static str),
    Not(Box<Made>),
    All(Vec<Made>),
    Any(Vec<Made>),
}

const FIELDS: [&str; 3] = ["a", "b.c", "`d e`"];

fn made() -> impl Strategy<Value = Made> {
    let leaf = prop_oneof![
        (select(&FIELDS[..]), select(&["=", "==", "!=", "<>", "<", "<=", ">", ">="][..]), -2..3_i64)
            .prop_map(|(field, sign, number)| Made::Compare(field, sign, number)),
        (select(&FIELDS[..]), vec(-2..3_i64, 1..3)).prop_map(|(field, list)| Made::In(field, list)),
        select(&FIELDS[..]).prop_map(Made::IsNull),
    ];
    leaf.prop_recursive(4, 24, 3, |made| {
        prop_oneof![
            made.clone().prop_map(|part| Made::Not(Box::new(part))),
            vec(made.clone(), 1..4).prop_map(Made::All),
            vec(made, 1..4).prop_map(Made::Any),
        ]
    })
}

impl Made {
    fn write(&self) -> String {
        let join = |parts: &[Self], word: &str| {
            format!("({})", parts.iter().map(Self::write).collect::<Vec<_>>().join(&format!(" {word} ")))
        };
        match self {
            Self::Compare(field, sign, number) => format!("{field}{sign}{number}"),
            Self::In(field, list) => {
                format!("{field} IN ({})", list.iter().map(i64::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::IsNull(field) => format!("{field} is  null"),
            Self::Not(part) => format!("not {}", part.write()),
            Self::All(parts) => join(parts, "and"),
            Self::Any(parts) => join(parts, "OR"),
        }
    }

    /// 0: false, 1: unknown, 2: true. Then `and` is the minimum, `or` the maximum.
    fn truth(&self, values: &[Option<i64>; 3]) -> i8 {
        let value = |field: &str| values[FIELDS.iter().position(|known| *known == field).unwrap()];
        let known = |holds: bool| if holds { 2 } else { 0 };
        match self {
            Self::Compare(field, sign, number) => value(field).map_or(1, |value| {
                known(match *sign {
                    "=" | "==" => value == *number,
                    "!=" | "<>" => value != *number,
                    "<" => value < *number,
                    "<=" => value <= *number,
                    ">" => value > *number,
                    _ => value >= *number,
                })
            }),
            Self::In(field, list) => value(field).map_or(1, |value| known(list.contains(&value))),
            Self::IsNull(field) => known(value(field).is_none()),
            Self::Not(part) => 2 - part.truth(values),
            Self::All(parts) => parts.iter().map(|part| part.truth(values)).min().unwrap(),
            Self::Any(parts) => parts.iter().map(|part| part.truth(values)).max().unwrap(),
        }
    }
}

/// A record with these values, those that are `None` missing or null.
fn record(values: &[Option<i64>; 3], nulls: bool) -> Json {
    let [a, c, d] = values.map(|value| value.map_or(Json::Null, Json::from));
    let mut record = json!({"a": a, "b": {"c": c}, "d e": d});
    if !nulls && let Json::Object(fields) = &mut record {
        fields.retain(|_, value| !value.is_null() && value["c"] != Json::Null || value.is_number());
    }
    record
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn a_filter_holds_as_three_valued_logic_says(
        made in made(),
        values in [proptest::option::of(-2..3_i64), proptest::option::of(-2..3_i64), proptest::option::of(-2..3_i64)],
        nulls in any::<bool>(),
    ) {
        let filter: Filter = made.write().parse().unwrap();
        let json = record(&values, nulls).to_string();
        let verdict = filter.judge(Some(json.as_bytes())).unwrap();
        prop_assert_eq!(verdict.passes, made.truth(&values) == 2, "{} of {}", filter, json);
    }

    /// No text is a reason to panic, and an error names a column of it.
    #[test]
    fn any_text_is_a_filter_or_an_error(text in "[a-c0-9.'\"`()<>=!, -]{0,30}|\\PC{0,20}") {
        if let Err(error) = text.parse::<Filter>() {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
        }
    }
}
