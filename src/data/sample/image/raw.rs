//! Pixels as they are, for data sets that are packed with `flipk data pack --raw`: nothing is left to decode.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | `\x8AflipkR\n`; the first byte and the line end show a transfer as text |
//! | 8..12 | the version, 1 |
//! | 12..16, 16..20 | width, height |
//! | 20..24 | CRC-32C of the pixels |
//! | 24.. | RGB8, row by row |
//!
//! Numbers are little-endian.

use std::borrow::Cow;

use ::image::RgbImage;

use super::error::{ImageError, RAW_VERSION};
use super::{MAX_PIXELS, Part};
use crate::data::sample::augment::CropRect;

pub(super) const MAGIC: &[u8] = b"\x8AflipkR\n";
const HEADER: usize = 24;

/// The bytes of an image.
pub(crate) fn encode(image: &RgbImage) -> Vec<u8> {
    let pixels = image.as_raw();
    let mut bytes = Vec::with_capacity(HEADER + pixels.len());
    bytes.extend_from_slice(MAGIC);
    for number in [RAW_VERSION, image.width(), image.height(), crc32c::crc32c(pixels)] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(pixels);
    bytes
}

/// The rows of the part that `choose` picks, given width and height.
///
/// # Errors
/// Another version, a file that is cut or too long, or a wrong checksum (of the whole image).
pub(super) fn decode(bytes: &[u8], mut choose: impl FnMut(u32, u32) -> CropRect) -> Result<Part<'_>, ImageError> {
    let wrong_length = |expected: u64| Err(ImageError::RawLength(bytes.len().saturating_sub(HEADER) as u64, expected));
    let number = |at: usize| {
        let found = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        found.map(|four| u32::from_le_bytes(*four))
    };
    let Some(version) = number(8) else { return wrong_length(0) };
    if version != RAW_VERSION {
        return Err(ImageError::RawVersion(version));
    }
    let (Some(width), Some(height), Some(checksum)) = (number(12), number(16), number(20)) else {
        return wrong_length(0);
    };
    match u64::from(width) * u64::from(height) {
        0 => return Err(ImageError::NoPixels(width, height)),
        pixels if pixels > MAX_PIXELS => return Err(ImageError::TooLarge(width, height)),
        pixels if (bytes.len() - HEADER) as u64 != 3 * pixels => return wrong_length(3 * pixels),
        _ => {}
    }
    let pixels = &bytes[HEADER..];
    if crc32c::crc32c(pixels) != checksum {
        return Err(ImageError::RawChecksum);
    }
    let mut crop = choose(width, height);
    let row = width as usize * 3;
    let rows = &pixels[crop.top as usize * row..][..crop.height as usize * row];
    crop.top = 0;
    Ok(Part { pixels: Cow::Borrowed(rows), width, scale: 1, crop })
}

#[cfg(test)]
mod tests {
    use super::super::{Decoding, decode, decode_part};
    use super::*;
    use crate::data::testing::noise;

    #[test]
    fn pixels_come_back_whole_and_in_part() {
        let image = noise(31, 17, 1);
        let bytes = encode(&image);
        assert_eq!(decode(&bytes, Decoding::default()).unwrap(), image);
        let crop = CropRect { left: 3, top: 5, width: 20, height: 7 };
        let part = decode_part(&bytes, Decoding::default(), Vec::new(), |_, _| crop).unwrap();
        assert!(matches!(part.pixels, Cow::Borrowed(_)));
        let at = part.crop;
        let found = part.into_image().unwrap();
        for (x, y) in [(0, 0), (19, 0), (0, 6), (19, 6)] {
            let found = found.get_pixel(at.left + x, at.top + y);
            assert_eq!(found, image.get_pixel(3 + x, 5 + y));
        }
    }

    #[test]
    fn cut_and_changed_files_are_refused_with_a_reason() {
        let bytes = encode(&noise(9, 7, 2));
        let error = |bytes: &[u8]| decode(bytes, Decoding::default()).unwrap_err();
        for length in 0..bytes.len() {
            error(&bytes[..length]);
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            error(&changed);
        }
        assert!(matches!(error(&bytes[..bytes.len() - 1]), ImageError::RawLength(188, 189)));
        assert!(matches!(error(&[&bytes[..], b"x"].concat()), ImageError::RawLength(190, 189)));
        let with = |at: usize, value: u32| {
            let mut changed = bytes.clone();
            changed[at..at + 4].copy_from_slice(&value.to_le_bytes());
            changed
        };
        assert!(matches!(error(&with(8, 2)), ImageError::RawVersion(2)));
        assert!(matches!(error(&with(12, 0)), ImageError::NoPixels(0, 7)));
        assert!(matches!(error(&with(12, u32::MAX)), ImageError::TooLarge(..)));
        assert!(matches!(error(&with(24, 0)), ImageError::RawChecksum));
    }
}
