//! How deep columns are nested in a footer. The crate `parquet` builds them by recursion, and a stack that overflows
//! ends the process; so this is checked before.
//!
//! ```text
//! FileMetaData  { i32 version = 1; list<SchemaElement> schema = 2; ... }
//! SchemaElement { ...; i32 num_children = 5; ... }      in the order of a walk from the root
//! ```
//!
//! in [Thrift's compact protocol][1].
//!
//! [1]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

use super::pages::varint;

/// Deeper ones are refused, and values deeper than this in a footer.
pub(super) const MAX: usize = 100;

const BYTE: u8 = 3;
const INTEGERS: std::ops::RangeInclusive<u8> = 4..=6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LISTS: std::ops::RangeInclusive<u8> = 9..=10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// Whether columns are nested more than [`MAX`] deep. `false` for a footer that cannot be read.
pub(super) fn is_too_deep(footer: &[u8]) -> bool {
    deepest(footer).is_some_and(|deepest| deepest > MAX)
}

fn deepest(mut data: &[u8]) -> Option<usize> {
    let of = &mut data;
    let mut last = 0;
    while let Some((kind, id)) = field(of, &mut last)? {
        if !(id == 2 && LISTS.contains(&kind)) {
            skip(of, kind, MAX)?;
            continue;
        }
        let (elements, _) = list(of)?;
        let (mut open, mut deepest): (Vec<u64>, usize) = (Vec::new(), 0);
        for _ in 0..elements {
            let mut children = 0;
            let mut last = 0;
            while let Some((kind, id)) = field(of, &mut last)? {
                match id == 5 && INTEGERS.contains(&kind) {
                    // Zigzag.
                    true => children = varint(of)? / 2,
                    false => skip(of, kind, MAX)?,
                }
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.extend((children > 0).then_some(children));
            deepest = deepest.max(open.len());
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        return Some(deepest);
    }
    None
}

/// Kind and number of the next field of a struct; `Some(None)` at its end.
fn field(of: &mut &[u8], last: &mut u64) -> Option<Option<(u8, u64)>> {
    let (header, rest) = of.split_first()?;
    *of = rest;
    if *header == 0 {
        return Some(None);
    }
    *last = match header >> 4 {
        0 => varint(of)? / 2,
        more => *last + u64::from(more),
    };
    Some(Some((header & 0xF, *last)))
}

/// The length of a list, and the kind of its elements.
fn list(of: &mut &[u8]) -> Option<(u64, u8)> {
    let (header, rest) = of.split_first()?;
    *of = rest;
    let len = if header >> 4 == 15 { varint(of)? } else { u64::from(header >> 4) };
    Some((len, header & 0xF))
}

/// Skips a value; what has no end within the data, or too deep a one, gives `None`.
fn skip(of: &mut &[u8], kind: u8, depth: usize) -> Option<()> {
    // An unknown kind takes no bytes, so that a list of them would have no end.
    let depth = depth.checked_sub(1).filter(|_| kind <= STRUCT)?;
    let bytes = match kind {
        BYTE => 1,
        DOUBLE => 8,
        BINARY => usize::try_from(varint(of)?).ok()?,
        _ => 0,
    };
    *of = of.get(bytes..)?;
    if INTEGERS.contains(&kind) {
        varint(of)?;
    } else if LISTS.contains(&kind) {
        let (len, kind) = list(of)?;
        for _ in 0..len {
            element(of, kind, depth)?;
        }
    } else if kind == MAP {
        let len = varint(of)?;
        let (kinds, rest) = if len > 0 { of.split_first()? } else { (&0, *of) };
        *of = rest;
        for _ in 0..len {
            element(of, kinds >> 4, depth)?;
            element(of, kinds & 0xF, depth)?;
        }
    } else if kind == STRUCT {
        let mut last = 0;
        while let Some((kind, _)) = field(of, &mut last)? {
            skip(of, kind, depth)?;
        }
    }
    Some(())
}

/// Skips an element of a list or map, where a truth value takes a byte.
fn element(of: &mut &[u8], kind: u8, depth: usize) -> Option<()> {
    skip(of, if kind < BYTE { BYTE } else { kind }, depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer with `groups` groups, each within the one before, and beside each a column.
    fn footer(groups: usize) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0xFC];
        let mut len = 2 * groups;
        while len >= 0x80 {
            bytes.push(len as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        for group in 0..groups {
            let name = [0x48, 1, b'g'];
            let children = if group + 1 < groups { 4 } else { 2 };
            bytes.extend([&name[..], &[0x15, children, 0], &[0x15, 4, 0x38, 1, b'c', 0]].concat());
        }
        bytes
    }

    #[test]
    fn nesting_is_found_before_it_is_followed() {
        assert_eq!([1, 2, 40].map(|groups| deepest(&footer(groups))), [Some(1), Some(2), Some(40)]);
        assert!(!is_too_deep(&footer(MAX)) && is_too_deep(&footer(MAX + 1)) && is_too_deep(&footer(100_000)));
        let whole = footer(3);
        assert!((0..whole.len()).all(|cut| deepest(&whole[..cut]).is_none()));
        assert_eq!(deepest(&[0x1C; 100_000]), None);
        let endless = [&[0x19, 0xFD][..], &[0xFF; 8], &[0x7F, 0]].concat();
        assert_eq!(deepest(&endless), None);
    }

    #[test]
    fn real_footers_are_followed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parquet");
        for (name, expected) in [("hugging-face.parquet", 2), ("img2dataset.parquet", 4)] {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            let (_, end) = bytes.split_last_chunk::<8>().unwrap();
            let len = u32::from_le_bytes(*end.first_chunk().unwrap()) as usize;
            assert_eq!(deepest(&bytes[bytes.len() - 8 - len..]), Some(expected), "{name}");
        }
    }
}
