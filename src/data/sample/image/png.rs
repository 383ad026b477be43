//! PNG files that have all rows, but lack their last bytes.

use std::borrow::Cow;

use flate2::Crc;

const SIGNATURE: usize = 8;
/// Bytes of a chunk's length, type and checksum.
const AROUND: usize = 12;

/// `bytes` unchanged if they have an end chunk, or else with one after the last usable chunk. Truncated image data is
/// kept; the decoder finds out whether all rows are there.
pub(super) fn with_end(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut at = SIGNATURE;
    let mut last = None;
    while let Some((length, kind)) = chunk(bytes, at) {
        let next = at.saturating_add(length).saturating_add(AROUND);
        if next > bytes.len() {
            last = Some(kind);
            break;
        }
        if kind == *b"IEND" {
            return Cow::Borrowed(bytes);
        }
        at = next;
    }
    let mut whole = bytes[..at.min(bytes.len())].to_vec();
    if last == Some(*b"IDAT") {
        let (length, _) = chunk(bytes, at).unwrap_or_default();
        let content = &bytes[at + 8..];
        append(&mut whole, *b"IDAT", &content[..content.len().min(length)]);
    }
    append(&mut whole, *b"IEND", &[]);
    Cow::Owned(whole)
}

/// Length and type of the chunk at `at`.
fn chunk(bytes: &[u8], at: usize) -> Option<(usize, [u8; 4])> {
    let (head, _) = bytes.get(at..)?.split_first_chunk::<8>()?;
    let [a, b, c, d, kind @ ..] = *head;
    Some((u32::from_be_bytes([a, b, c, d]) as usize, kind))
}

fn append(out: &mut Vec<u8>, kind: [u8; 4], content: &[u8]) {
    let mut crc = Crc::new();
    crc.update(&kind);
    crc.update(content);
    // `content` is part of a chunk, whose length has 32 bits.
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    out.extend_from_slice(&kind);
    out.extend_from_slice(content);
    out.extend_from_slice(&crc.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::png;

    #[test]
    fn a_whole_file_is_not_changed() {
        let whole = png(9, 7, 1);
        assert!(matches!(with_end(&whole), Cow::Borrowed(bytes) if bytes == whole));
        let more = [&whole, &b"more"[..]].concat();
        assert!(matches!(with_end(&more), Cow::Borrowed(bytes) if bytes == more));
    }

    #[test]
    fn a_missing_or_truncated_end_is_restored() {
        let whole = png(9, 7, 2);
        for cut in 1..=12 {
            assert_eq!(*with_end(&whole[..whole.len() - cut]), whole, "{cut} bytes less");
        }
        // The checksum of the image data is cut as well.
        for cut in 13..=16 {
            assert_eq!(*with_end(&whole[..whole.len() - cut]), whole, "{cut} bytes less");
        }
        for length in 0..whole.len() {
            with_end(&whole[..length.max(SIGNATURE)]);
        }
    }
}
