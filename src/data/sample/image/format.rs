//! The format of an image file, by its first bytes; names and extensions are ignored.

use ::image::ImageFormat;

use super::raw;
use crate::data::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// One that flipk reads.
    Read(ImageFormat),
    /// Pixels as they are (`raw`).
    Raw,
    /// Known, but not read.
    Named(&'static str),
    Unknown,
}

/// Signatures at the start of a file.
const SIGNATURES: &[(&[u8], Format)] = &[
    (b"\xFF\xD8\xFF", Format::Read(ImageFormat::Jpeg)),
    (b"\x89PNG\r\n\x1A\n", Format::Read(ImageFormat::Png)),
    (raw::MAGIC, Format::Raw),
    (b"GIF87a", Format::Read(ImageFormat::Gif)),
    (b"GIF89a", Format::Read(ImageFormat::Gif)),
    (b"II*\0", Format::Read(ImageFormat::Tiff)),
    (b"MM\0*", Format::Read(ImageFormat::Tiff)),
    (b"II+\0", Format::Read(ImageFormat::Tiff)),
    (b"MM\0+", Format::Read(ImageFormat::Tiff)),
    (b"\x89PNG", Format::Named("a PNG that was damaged by a transfer as text")),
    (b"\xFF\x0A", Format::Named("JPEG XL")),
    (b"\0\0\0\x0CJXL \r\n\x87\n", Format::Named("JPEG XL")),
    (b"\0\0\0\x0CjP  \r\n\x87\n", Format::Named("JPEG 2000")),
    (b"\xFF\x4F\xFF\x51", Format::Named("JPEG 2000")),
    (b"II\xBC", Format::Named("JPEG XR")),
    (b"\0\0\x01\0", Format::Named("an ICO icon")),
    (b"\0\0\x02\0\0\0\0\0", Format::Named("Targa (TGA)")),
    (b"\0\0\x0A\0\0\0\0\0", Format::Named("Targa (TGA)")),
    (b"\0\0\x02\0", Format::Named("a CUR cursor")),
    (b"\x0A\x05\x01", Format::Named("PCX")),
    (b"\x01\xDA", Format::Named("SGI")),
    (b"\xC3\xBF\xC3\x98\xC3\xBF", Format::Named("a JPEG that was damaged by a conversion to UTF-8")),
    (b"/9j/", Format::Named("a JPEG in Base64")),
    (b"iVBORw0KGgo", Format::Named("a PNG in Base64")),
    (b"data:image/", Format::Named("a data: address with the image in Base64")),
    (b"icns", Format::Named("an ICNS icon")),
    (b"8BPS", Format::Named("a Photoshop file")),
    (b"gimp xcf", Format::Named("a GIMP file")),
    (b"%PDF-", Format::Named("PDF")),
    (b"%!PS", Format::Named("PostScript")),
    (b"\xC5\xD0\xD3\xC6", Format::Named("PostScript")),
    (b"DDS ", Format::Named("DDS")),
    (b"qoif", Format::Named("QOI")),
    (b"\x76\x2F\x31\x01", Format::Named("OpenEXR")),
    (b"#?RADIANCE", Format::Named("Radiance HDR")),
    (b"farbfeld", Format::Named("farbfeld")),
    (b"FLIF", Format::Named("FLIF")),
    (b"BPG\xFB", Format::Named("BPG")),
    (b"AT&TFORM", Format::Named("DjVu")),
    (b"\x8AMNG", Format::Named("MNG")),
    (b"\x8BJNG", Format::Named("JNG")),
    (b"\xD7\xCD\xC6\x9A", Format::Named("WMF")),
    (b"SIMPLE  =", Format::Named("FITS")),
    (b"\x93NUMPY", Format::Named("a NumPy array")),
    (b"\x1F\x8B", Format::Named("a gzip file")),
    (b"\x28\xB5\x2F\xFD", Format::Named("a Zstandard file")),
    (b"PK\x03\x04", Format::Named("a ZIP file")),
    (b"\x1A\x45\xDF\xA3", Format::Named("a WebM or Matroska video")),
    (b"\0\0\x01\xBA", Format::Named("an MPEG video")),
    (b"version https://git-lfs", Format::Named("a Git LFS pointer, which stands for the image")),
];

pub(super) fn format(bytes: &[u8]) -> Format {
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return *format;
    }
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, rest @ ..] if rest.starts_with(b"WEBP") => Format::Read(ImageFormat::WebP),
        [b'R', b'I', b'F', b'F', ..] => Format::Named("a RIFF file, but no WebP"),
        // A text may begin with these letters, but does not have the size of a bitmap's second header.
        [b'B', b'M', ..] if matches!(bytes.get(14..18), Some([12 | 16 | 40..=128, 0, 0, 0])) => {
            Format::Read(ImageFormat::Bmp)
        }
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Format::Named(box_format(bytes)),
        [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace() => Format::Named("PBM, PGM or PPM"),
        _ if bytes.get(128..132) == Some(b"DICM") => Format::Named("DICOM"),
        _ if bytes.iter().all(|&byte| byte == 0) => Format::Named("zero bytes only"),
        _ => text_format(bytes),
    }
}

/// An ISO base media file (ISO/IEC 14496-12), by its brands.
fn box_format(bytes: &[u8]) -> &'static str {
    const HEIC: [&[u8; 4]; 8] = [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"];
    let (length, _) = bytes.split_first_chunk().unwrap_or((&[0; 4], bytes));
    let length = (u32::from_be_bytes(*length) as usize).clamp(8, 256).min(bytes.len());
    // The major brand, a version, and the compatible brands.
    let brands: Vec<&[u8]> = bytes[8..length].chunks(4).collect();
    let has = |brand: &[u8]| brands.contains(&brand);
    match brands.first() {
        _ if has(b"avif") || has(b"avis") => "AVIF",
        _ if HEIC.iter().any(|brand| has(*brand)) => "HEIC",
        Some(&b"crx ") => "a Canon raw file",
        Some(&b"qt  ") => "a QuickTime video",
        _ => "an MP4 video",
    }
}

/// The kind of text, if the bytes are text.
fn text_format(bytes: &[u8]) -> Format {
    const PROBE_BYTES: usize = 1024;
    let Some(text) = text::beginning(&bytes[..bytes.len().min(PROBE_BYTES)]) else { return Format::Unknown };
    let text = text.to_ascii_lowercase();
    if text.starts_with("<!doctype html") || text.starts_with("<html") || text.contains("<head") {
        Format::Named("an HTML page")
    } else if text.contains("<svg") {
        Format::Named("SVG")
    } else if text.starts_with('<') {
        Format::Named("an XML file")
    } else {
        Format::Named("a text file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        use Format::{Named, Read, Unknown};
        let cases: [(&[u8], Format); 23] = [
            (b"\xFF\xD8\xFF\xE0", Read(ImageFormat::Jpeg)),
            (b"RIFF\x10\0\0\0WEBPVP8 ", Read(ImageFormat::WebP)),
            (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", Read(ImageFormat::Bmp)),
            (b"MM\0+", Read(ImageFormat::Tiff)),
            (b"\0\0\0\x1CftypavifXXXXmif1miaf", Named("AVIF")),
            (b"\0\0\0\x1CftypmifYXXXXmif1avif", Named("AVIF")),
            (b"\0\0\0\x18ftypheicXXXXmif1heic", Named("HEIC")),
            (b"\0\0\0\x18ftypmif1XXXXmif1heic", Named("HEIC")),
            (b"\0\0\0\x18ftypisomXXXXisommp42", Named("an MP4 video")),
            (b"\0\0\0\x14ftypqt  ", Named("a QuickTime video")),
            (b"\xFF\x0A\xFA", Named("JPEG XL")),
            (b"P6\n3 2 255\n", Named("PBM, PGM or PPM")),
            (b"BM is no bitmap here", Named("a text file")),
            (b"\xEF\xBB\xBF<?xml version='1.0'?>\n<svg xmlns='x'/>", Named("SVG")),
            (b"  <!DOCTYPE HTML><title>404</title>", Named("an HTML page")),
            (b"<Error><Code>AccessDenied</Code></Error>", Named("an XML file")),
            (br#"{"error": "gone"}"#, Named("a text file")),
            (b"\0\0\x02\0\0\0\0\0\0\0\0\0", Named("Targa (TGA)")),
            (b"\0\0\x02\0\x01\0\x20\x20", Named("a CUR cursor")),
            (b"/9j/4AAQSkZJRg", Named("a JPEG in Base64")),
            (&[0; 100], Named("zero bytes only")),
            (b"\x01\x02\x03\x04", Unknown),
            (b"\xFE\xFEno text", Unknown),
        ];
        for (bytes, expected) in cases {
            assert_eq!(format(bytes), expected, "{bytes:?}");
        }
        // The look ends inside a character.
        assert_eq!(format(format!("x{}", "é".repeat(1000)).as_bytes()), Named("a text file"));
    }
}
