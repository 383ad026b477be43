//! `tf.train.Example`, read from its encoding as a protocol buffer.
//!
//! ```text
//! Example  { Features features = 1; }
//! Features { map<string, Feature> feature = 1; }      an entry is a message { string key = 1; Feature value = 2; }
//! Feature  { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
//! BytesList { repeated bytes value = 1; }
//! ```

use std::ops::Range;

/// The features of a record that hold bytes.
pub(super) struct Example<'a> {
    pub(super) data: &'a [u8],
    /// Name and values; each value is a range of `data`.
    pub(super) bytes: Vec<(&'a [u8], Vec<Range<usize>>)>,
}

/// Reads a record; `None` if it is not a `tf.train.Example`.
pub(super) fn example(data: &[u8]) -> Option<Example<'_>> {
    let mut bytes = Vec::new();
    for features in messages(data, 0..data.len(), 1) {
        for entry in messages(data, features?, 1) {
            let entry = entry?;
            let mut name: &[u8] = &[];
            for key in messages(data, entry.clone(), 1) {
                name = &data[key?];
            }
            let mut values = None;
            for feature in messages(data, entry, 2) {
                for list in messages(data, feature?, 1) {
                    values = Some(messages(data, list?, 1).collect::<Option<Vec<_>>>()?);
                }
            }
            bytes.extend(values.map(|values| (name, values)));
        }
    }
    Some(Example { data, bytes })
}

/// The values of the length-delimited fields with this number in a message that takes the bytes `within`; `None` for a
/// message that cannot be read, which ends it.
fn messages(data: &[u8], within: Range<usize>, wanted: u64) -> impl Iterator<Item = Option<Range<usize>>> {
    let mut fields = Fields { data, at: within.start, end: within.end };
    std::iter::from_fn(move || {
        while fields.at < fields.end {
            match fields.next() {
                Some((number, Some(value))) if number == wanted => return Some(Some(value)),
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

struct Fields<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl Fields<'_> {
    /// The number of the next field, and the range of its value if it is length-delimited.
    fn next(&mut self) -> Option<(u64, Option<Range<usize>>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.skip(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| None)?,
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
