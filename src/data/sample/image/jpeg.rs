//! Where the image in a JPEG file ends, found by following its markers from the start (ITU-T T.81, B.1). This ignores
//! thumbnails inside it, and anything after it (the video of a motion photo, a second image, padding).

use ::image::ImageFormat;
use memchr::{memchr, memmem};

use super::error::ImageError;

/// How many bytes may come before an image, such as the header of an HTTP response.
const MAX_BEFORE: usize = 1024;

/// Progressive images have about ten scans.
const MAX_SCANS: usize = 500;

const SOI: u8 = 0xD8;
const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;

/// The image at the start of `bytes`, from its start-of-image marker to its own end-of-image marker.
///
/// # Errors
/// If the bytes end before that marker, or the image has too many scans.
pub(super) fn picture(bytes: &[u8]) -> Result<&[u8], ImageError> {
    let mut at = 2;
    let mut scans = 0;
    loop {
        let marker = next_marker(bytes, at).ok_or_else(|| cut(scans))?;
        at = marker + 2;
        match bytes[marker + 1] {
            EOI if scans == 0 => return Err(ImageError::EmptyJpeg),
            EOI if scans > MAX_SCANS => return Err(ImageError::Scans(scans, MAX_SCANS)),
            EOI => return Ok(&bytes[..at]),
            code if stands_alone(code) => {}
            code => {
                at = segment_end(bytes, at).ok_or_else(|| cut(scans))?;
                if code == SOS {
                    scans += 1;
                    at = scan_end(bytes, at).ok_or_else(|| cut(scans))?;
                }
            }
        }
    }
}

/// Where an image begins in bytes that start with something else.
pub(super) fn start(bytes: &[u8]) -> Option<usize> {
    let first = &bytes[..bytes.len().min(MAX_BEFORE)];
    // After the start marker comes a table, a frame, an application segment or a comment.
    let begins = |at: &usize| matches!(first.get(at + 3), Some(0xC0..=0xCF | 0xDB..=0xDD | 0xE0..=0xEF | 0xFE));
    memmem::find_iter(first, &[0xFF, SOI, 0xFF]).find(begins)
}

fn cut(scans: usize) -> ImageError {
    ImageError::Truncated(ImageFormat::Jpeg, if scans == 0 { "any pixels" } else { "its end-of-image marker" })
}

/// Markers that are not followed by a length: TEM, restarts and another start marker. 0 is a stuffed byte, not a
/// marker.
fn stands_alone(code: u8) -> bool {
    matches!(code, 0x00 | 0x01 | 0xD0..=SOI)
}

/// The 0xFF right before the next marker's code. Stray bytes and fill bytes are skipped, as in libjpeg.
fn next_marker(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + memchr(0xFF, bytes.get(at..)?)?;
    while *bytes.get(at + 1)? == 0xFF {
        at += 1;
    }
    Some(at)
}

/// The end of a segment whose length begins at `at`.
fn segment_end(bytes: &[u8], at: usize) -> Option<usize> {
    let length = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
    // A length below its own size is damaged; the search for the next marker continues right after it.
    let end = at + usize::from(length.max(2));
    (end <= bytes.len()).then_some(end)
}

/// The marker that ends the coded data from `at` on. In coded data, 0xFF is followed by a stuffed zero or is a restart
/// marker. A damaged byte may look like any other marker, so a segment only counts if another marker follows it.
fn scan_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let marker = next_marker(bytes, at)?;
        at = marker + 2;
        let is_end = match bytes[marker + 1] {
            EOI => true,
            // Components of a scan: one to four, of two bytes each (B.2.3).
            SOS => segment_end(bytes, at).is_some_and(|end| [8, 10, 12, 14].contains(&(end - at))),
            0xC4 | 0xDB..=0xDD | 0xE0..=0xEF | 0xFE => {
                segment_end(bytes, at).is_some_and(|end| bytes.get(end) == Some(&0xFF))
            }
            _ => false,
        };
        if is_end {
            return Some(marker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::jpeg;

    /// A segment with its length.
    fn segment(code: u8, content: &[u8]) -> Vec<u8> {
        [&[0xFF, code][..], &(content.len() as u16 + 2).to_be_bytes(), content].concat()
    }

    /// `jpeg` with `more` after its start marker.
    fn with_segment(jpeg: &[u8], more: &[u8]) -> Vec<u8> {
        [&jpeg[..2], more, &jpeg[2..]].concat()
    }

    #[test]
    fn bytes_after_the_end_marker_are_ignored() {
        let good = jpeg(40, 30, 1);
        // The last of these bytes look like the start of a scan, and like an end.
        let film: Vec<u8> = (0..50_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for more in [&film[..], &good, b"\n<!-- text -->", &[0; 5000], &[0xFF, SOS, 1, 2], &[0xFF, EOI], &[0xFF]] {
            assert_eq!(picture(&[&good, more].concat()).unwrap(), good);
        }
    }

    #[test]
    fn thumbnails_and_markers_inside_segments_do_not_count() {
        let (good, thumbnail) = (jpeg(40, 30, 2), jpeg(8, 8, 3));
        let exif = segment(0xE1, &[b"Exif\0\0", &thumbnail[..]].concat());
        let with = with_segment(&good, &exif);
        assert_eq!(picture(&with).unwrap(), with);
        // The end marker of the thumbnail does not make a truncated image whole.
        for length in 3..with.len() {
            assert!(picture(&with[..length]).is_err(), "cut to {length} of {}", with.len());
        }
    }

    #[test]
    fn fill_bytes_stray_bytes_and_restarts_are_skipped() {
        let good = jpeg(40, 30, 4);
        let end = good.len() - 2;
        for before in [&[0xFF, 0xFF][..], &[0x7F], &[0xFF, 0xD3], &[0xFF, 0], &[0xFF, 0xD8], &[0xFF, 0x45, 0xFF, 0xFF]]
        {
            let with = [&good[..end], before, &good[end..]].concat();
            assert_eq!(picture(&with).unwrap().len(), with.len(), "{before:x?}");
        }
        let with = with_segment(&good, &[0, 7, 0xFF, 0xFF]);
        assert_eq!(picture(&with).unwrap(), with);
        // Damaged data that looks like a segment does not hide the end.
        let with = [&good[..end], &[0xFF, 0xE4, 0xF0, 0, 1], &good[end..]].concat();
        assert_eq!(picture(&with).unwrap(), with);
    }

    #[test]
    fn several_scans_are_followed_to_the_last() {
        let good = jpeg(40, 30, 5);
        let end = good.len() - 2;
        let second = [segment(0xC4, &[0; 19]), segment(SOS, &[1, 1, 0, 0, 63, 0]), vec![1, 2, 0xFF, 0, 3]].concat();
        let with = [&good[..end], &second, &good[end..]].concat();
        assert_eq!(picture(&with).unwrap(), with);
        assert!(picture(&with[..with.len() - 1]).unwrap_err().to_string().contains("end-of-image"));
        assert!(picture(&[0xFF, SOI, 0xFF, EOI]).unwrap_err().to_string().contains("before any pixels"));
    }

    #[test]
    fn an_image_is_found_after_a_few_bytes() {
        let good = jpeg(16, 16, 6);
        assert_eq!(start(&good), Some(0));
        assert_eq!(start(&[b"\r\n", &good[..]].concat()), Some(2));
        assert_eq!(start(&[&[0; 2000], &good[..]].concat()), None);
        assert_eq!(start(b"\xFF\xD8\xFF\0 no"), None);
    }
}
