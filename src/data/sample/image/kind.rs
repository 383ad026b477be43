//! What an image file is, in a few words.

use ::image::ImageFormat;

use super::format::{Format, format};

/// The format of a file; of a JPEG also whether it is progressive, and how colour is subsampled: `JPEG 4:2:0`.
pub(crate) fn kind(bytes: &[u8]) -> String {
    match format(bytes) {
        Format::Read(ImageFormat::Jpeg) => frame(bytes).unwrap_or_else(|| "JPEG".to_owned()),
        Format::Read(ImageFormat::WebP) => "WebP".to_owned(),
        Format::Read(format) => format!("{format:?}").to_uppercase(),
        Format::Raw => "raw pixels".to_owned(),
        Format::Named(name) => name.to_owned(),
        Format::Unknown => "unknown".to_owned(),
    }
}

/// From the frame header (ITU T.81, B.2.2), if there is one.
fn frame(bytes: &[u8]) -> Option<String> {
    let mut at = 2;
    loop {
        let [0xFF, marker] = *bytes.get(at..)?.first_chunk()? else { return None };
        // A byte that fills up.
        if marker == 0xFF {
            at += 1;
            continue;
        }
        let length = u16::from_be_bytes(*bytes.get(at + 2..)?.first_chunk()?) as usize;
        // All frame headers but tables of Huffman codes (C4), extensions (C8) and arithmetic coding (CC).
        if (0xC0..=0xCF).contains(&marker) && !matches!(marker, 0xC4 | 0xC8 | 0xCC) {
            let header = bytes.get(at + 4..at + 2 + length)?;
            let factors: Vec<u8> = header.get(6..)?.chunks_exact(3).map(|component| component[1]).collect();
            let chroma = match factors[..] {
                [_] => "grey",
                [_, _, _, _] => "CMYK",
                [0x22, 0x11, 0x11] => "4:2:0",
                [0x21, 0x11, 0x11] => "4:2:2",
                [0x12, 0x11, 0x11] => "4:4:0",
                [0x41, 0x11, 0x11] => "4:1:1",
                [luma, cb, cr] if luma == cb && cb == cr => "4:4:4",
                _ => "other subsampling",
            };
            let progressive = if marker % 4 == 2 { " progressive" } else { "" };
            return Some(format!("JPEG {chroma}{progressive}"));
        }
        at += 2 + length;
    }
}

#[cfg(test)]
mod tests {
    use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

    use super::*;
    use crate::data::testing::png;

    #[test]
    fn jpegs_are_told_apart() {
        let encoded = |sampling, progressive, colour: ColorType| {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 90);
            encoder.set_sampling_factor(sampling);
            encoder.set_progressive(progressive);
            let channels = if colour == ColorType::Luma { 1 } else { 3 };
            encoder.encode(&vec![7; 16 * 16 * channels], 16, 16, colour).unwrap();
            bytes
        };
        let rgb = |sampling, progressive| kind(&encoded(sampling, progressive, ColorType::Rgb));
        assert_eq!(rgb(SamplingFactor::F_2_2, false), "JPEG 4:2:0");
        assert_eq!(rgb(SamplingFactor::F_2_1, false), "JPEG 4:2:2");
        assert_eq!(rgb(SamplingFactor::F_1_1, true), "JPEG 4:4:4 progressive");
        let grey = encoded(SamplingFactor::F_1_1, false, ColorType::Luma);
        assert_eq!(kind(&grey), "JPEG grey");
        for length in 2..grey.len() {
            assert!(["JPEG", "JPEG grey", "unknown", "a text file"].contains(&&*kind(&grey[..length])), "{length}");
        }
        assert_eq!((&*kind(&png(2, 2, 1)), &*kind(b"GIF89a"), &*kind(b"%PDF-1")), ("PNG", "GIF", "PDF"));
    }
}
