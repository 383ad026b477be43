//! Properties of this room's parsers and of what its random numbers choose.

use proptest::{collection::vec, prelude::*};
use serde_json::Value as Json;

use super::sample::json::{Record, Value};
use super::store::expand_braces;
use super::{kept_patches, visible_patches};
use crate::fuzzing::cases;

/// A pattern before it is written.
#[derive(Clone, Debug)]
enum Part {
    Text(String),
    List(Vec<Vec<Part>>),
    Range(u64, u64, usize),
}

fn pattern() -> impl Strategy<Value = Vec<Part>> {
    let range = (0..12_u64, 0..4_u64, any::<bool>(), 0..4_usize).prop_map(|(low, more, falls, width)| match falls {
        true => Part::Range(low + more, low, width),
        false => Part::Range(low, low + more, width),
    });
    let leaf = prop_oneof!["[a-cé/*]{0,3}".prop_map(Part::Text), range];
    let part = leaf.prop_recursive(2, 12, 3, |part| vec(vec(part, 0..3), 1..4).prop_map(Part::List));
    vec(part, 0..4)
}

fn write(pattern: &[Part]) -> String {
    let write_part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::List(list) => format!("{{{}}}", list.iter().map(|part| write(part)).collect::<Vec<_>>().join(",")),
        Part::Range(first, last, width) => format!("{{{first:0width$}..{last:0width$}}}"),
    };
    pattern.iter().map(write_part).collect()
}

/// Every combination, from left to right.
fn expand(pattern: &[Part]) -> Vec<String> {
    let Some((first, rest)) = pattern.split_first() else { return vec![String::new()] };
    let starts = match first {
        Part::Text(text) => vec![text.clone()],
        Part::List(list) if list.len() == 1 => expand(&list[0]).iter().map(|only| format!("{{{only}}}")).collect(),
        Part::List(list) => list.iter().flat_map(|part| expand(part)).collect(),
        Part::Range(first, last, width) => {
            // A bound that begins with 0 pads all numbers to the longer one.
            let [low, high] = [first, last].map(|bound| format!("{bound:0width$}"));
            let padded = [&low, &high].iter().any(|bound| bound.len() > 1 && bound.starts_with('0'));
            let width = if padded { low.len().max(high.len()) } else { 0 };
            let numbers = *first.min(last)..=*first.max(last);
            let written = numbers.map(|number| format!("{number:0width$}"));
            if first > last { written.rev().collect() } else { written.collect() }
        }
    };
    let ends = expand(rest);
    starts.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{end}"))).collect()
}

/// Any JSON value.
fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        prop::num::f64::NORMAL.prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |value| {
        let fields = vec((any::<String>(), value.clone()), 0..4);
        let object = fields.prop_map(|fields| Json::Object(fields.into_iter().collect()));
        prop_oneof![vec(value, 0..4).prop_map(Json::from), object]
    })
}

/// An object as serde_json reads and writes it.
fn rewritten(json: &[u8]) -> Value {
    Value::Object(serde_json::to_vec(&serde_json::from_slice::<Json>(json).unwrap()).unwrap())
}

/// What the lenient reader keeps of a value; within lists only texts.
fn kept(value: &Json, within: bool) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Number(number.to_string().parse().unwrap()),
        Json::String(text) => Value::Text(text.clone()),
        Json::Object(_) => rewritten(&serde_json::to_vec(value).unwrap()),
        Json::Array(_) if within => Value::List(Vec::new()),
        Json::Array(list) => Value::List(list.iter().map(|value| kept(value, true)).collect()),
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn braces_expand_to_every_combination(pattern in pattern()) {
        let expected = expand(&pattern);
        prop_assume!(expected.len() < 10_000);
        prop_assert_eq!(expand_braces(&write(&pattern)).unwrap(), expected);
    }

    /// What serde_json writes, on one line or on many.
    #[test]
    fn valid_records_are_read_as_serde_json_reads_them(
        others in vec((any::<String>(), json()), 0..4),
        caption in json(),
        tags in json(),
        pretty in any::<bool>(),
    ) {
        let wanted = [("caption".to_owned(), caption), ("tags".to_owned(), tags)];
        let object: serde_json::Map<_, _> = others.into_iter().chain(wanted).collect();
        let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
        let record = Record::read(write(&Json::Object(object.clone())).unwrap().as_bytes(), &["caption", "tags"]);
        prop_assert_eq!(&record.problem, &None);
        prop_assert!(record.names.iter().eq(object.keys()));
        for name in ["caption", "tags"] {
            let found = match record.get(name).cloned() {
                Some(Value::Object(json)) => rewritten(&json),
                Some(Value::List(list)) => Value::List(
                    list.into_iter().map(|v| if let Value::Object(json) = v { rewritten(&json) } else { v }).collect(),
                ),
                other => other.unwrap(),
            };
            prop_assert_eq!(found, kept(&object[name], false));
        }
    }

    /// Distinct patches in ascending order, as many as asked for; fewer at a higher ratio.
    #[test]
    fn visible_patches_are_distinct_and_ascending(
        (seed, epoch, sample) in any::<(u64, u64, u64)>(),
        patches in 1..600_usize,
        ratio in 0.0..1.0,
        more in 0.0..1.0,
    ) {
        let count = kept_patches(patches, ratio);
        prop_assert!((1..=patches).contains(&count));
        prop_assert!(kept_patches(patches, ratio.max(more)) <= count);
        let mut ids = vec![u32::MAX; count];
        visible_patches(seed, epoch, sample, patches, &mut ids);
        prop_assert!(ids.is_sorted_by(|a, b| a < b));
        prop_assert!(ids.iter().all(|id| (*id as usize) < patches));
    }
}
