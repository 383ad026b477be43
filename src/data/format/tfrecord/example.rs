//! `tf.train.Example`, read from its encoding as a protocol buffer.
//!
//! ```text
//! Example  { Features features = 1; }
//! Features { map<string, Feature> feature = 1; }      an entry is a message { string key = 1; Feature value = 2; }
//! Feature  { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
//! BytesList { repeated bytes value = 1; }
//! ```

use std::ops::Range;

use serde_json::{Map, Value as Json};

use crate::data::format::as_written;

/// A longer text is not a field of a record.
const MAX_TEXT: usize = 64 << 10;

/// The features of a record that hold bytes.
pub(super) struct Example<'a> {
    pub(super) data: &'a [u8],
    /// Name and values; each value is a range of `data`.
    pub(super) bytes: Vec<(&'a [u8], Vec<Range<usize>>)>,
}

/// Reads a record; `None` if it is not a `tf.train.Example`.
pub(super) fn example(data: &[u8]) -> Option<Example<'_>> {
    let mut bytes = Vec::new();
    each_feature(data, |name, feature| {
        let mut values = None;
        for list in messages(data, feature, 1) {
            values = Some(messages(data, list?, 1).collect::<Option<Vec<_>>>()?);
        }
        bytes.extend(values.map(|values| (name, values)));
        Some(())
    })?;
    Some(Example { data, bytes })
}

/// The features of a record that are texts or numbers, as a JSON object. One of several values is an empty list, since
/// no comparison holds for a list; one without values is null.
pub(super) fn fields(data: &[u8]) -> Option<String> {
    let mut fields = Map::new();
    each_feature(data, |name, feature| {
        let mut values = Vec::new();
        for (number, list) in
            (1..=3).flat_map(|number| messages(data, feature.clone(), number).map(move |m| (number, m)))
        {
            match number {
                1 => values.extend(messages(data, list?, 1).collect::<Option<Vec<_>>>()?.into_iter().map(|value| {
                    let text = std::str::from_utf8(&data[value]).ok().filter(|text| text.len() <= MAX_TEXT);
                    text.map(Json::from)
                })),
                _ => values.extend(numbers(data, list?, number == 2)?.into_iter().map(Some)),
            }
        }
        let value = match values.len() {
            0 => Some(Json::Null),
            1 => values.remove(0),
            _ => Some(Json::Array(Vec::new())),
        };
        fields.extend(value.map(|value| (String::from_utf8_lossy(name).into_owned(), value)));
        Some(())
    })?;
    Some(Json::Object(fields).to_string())
}

/// Calls `use_it` with the name of each feature and its place.
fn each_feature<'a>(data: &'a [u8], mut use_it: impl FnMut(&'a [u8], Range<usize>) -> Option<()>) -> Option<()> {
    for features in messages(data, 0..data.len(), 1) {
        for entry in messages(data, features?, 1) {
            let entry = entry?;
            let mut name: &[u8] = &[];
            for key in messages(data, entry.clone(), 1) {
                name = &data[key?];
            }
            for feature in messages(data, entry, 2) {
                use_it(name, feature?)?;
            }
        }
    }
    Some(())
}

/// The values of a list of numbers. Writers pack them into one field, and need not.
fn numbers(data: &[u8], list: Range<usize>, are_floats: bool) -> Option<Vec<Json>> {
    let float = |bytes: &[u8; 4]| Json::from(as_written(f32::from_le_bytes(*bytes)));
    let integer = |value: u64| Json::from(value as i64);
    let mut found = Vec::new();
    let mut fields = Fields { data, at: list.start, end: list.end };
    while fields.at < fields.end {
        match fields.next()? {
            (1, Value::Varint(value)) if !are_floats => found.push(integer(value)),
            (1, Value::Fixed(value) | Value::Bytes(value)) if are_floats => {
                found.extend(data[value].as_chunks().0.iter().map(float));
            }
            (1, Value::Bytes(packed)) => {
                let mut packed = Fields { data, at: packed.start, end: packed.end };
                while packed.at < packed.end {
                    found.push(integer(packed.varint()?));
                }
            }
            _ => {}
        }
    }
    Some(found)
}

/// The values of the length-delimited fields with this number in a message that takes the bytes `within`; `None` for a
/// message that cannot be read, which ends it.
fn messages(data: &[u8], within: Range<usize>, wanted: u64) -> impl Iterator<Item = Option<Range<usize>>> {
    let mut fields = Fields { data, at: within.start, end: within.end };
    std::iter::from_fn(move || {
        while fields.at < fields.end {
            match fields.next() {
                Some((number, Value::Bytes(value))) if number == wanted => return Some(Some(value)),
                Some(_) => {}
                None => {
                    fields.at = fields.end;
                    return Some(None);
                }
            }
        }
        None
    })
}

/// The value of a field.
enum Value {
    Varint(u64),
    /// Four or eight bytes.
    Fixed(Range<usize>),
    /// Length-delimited.
    Bytes(Range<usize>),
}

struct Fields<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl Fields<'_> {
    /// The number of the next field, and its value.
    fn next(&mut self) -> Option<(u64, Value)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed(self.skip(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.skip(length)?)
            }
            5 => Value::Fixed(self.skip(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn skip(&mut self, bytes: usize) -> Option<Range<usize>> {
        let start = self.at;
        let end = start.checked_add(bytes).filter(|end| *end <= self.end)?;
        self.at = end;
        Some(start..end)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.data[self.skip(1)?.start];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
