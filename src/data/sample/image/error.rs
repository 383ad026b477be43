//! Why an image cannot be used.

use std::error::Error;

use ::image::ImageFormat;

use super::MAX_PIXELS;

/// The version of [raw pixels](super::raw) that is written and read.
pub(super) const RAW_VERSION: u32 = 1;

/// Why an image cannot be decoded or resized.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There are no bytes.
    #[error("it is empty (0 bytes)")]
    Empty,
    /// Another kind of file, by name.
    #[error("it is {0}, and not {read}", read = READ)]
    OtherKind(&'static str),
    /// A file of unknown kind, with its first bytes in hexadecimal.
    #[error("it is not {read}; it begins with the bytes {0}", read = READ)]
    Unknown(String),
    /// Width and height, of which one is 0.
    #[error("it is {0} x {1} pixels")]
    NoPixels(u32, u32),
    /// Width and height, which make more than [`MAX_PIXELS`] pixels.
    #[error("{0} x {1} pixels are more than the {max} million allowed; make the image smaller", max = MAX_PIXELS / 1_000_000)]
    TooLarge(u32, u32),
    /// A JPEG with an end, but no image.
    #[error("the JPEG data has an end-of-image marker before any pixels")]
    EmptyJpeg,
    /// A file that ends too early: its format, and what is missing.
    #[error("the {} data ends before {}", name(*.0), .1)]
    Truncated(ImageFormat, &'static str),
    /// A JPEG in more parts than any program writes, each of which takes as long as a whole image.
    #[error("the JPEG data has {0} scans, and more than {1} are refused")]
    Scans(usize, usize),
    /// Damage that libjpeg-turbo found.
    #[error("JPEG: {0}")]
    Jpeg(String),
    /// Damage that the decoder of a format found, or what it does not support.
    #[error("{}", refusal(*.0, .1))]
    Decoder(ImageFormat, #[source] ::image::ImageError),
    /// Raw pixels of a version that this program does not know.
    #[error("it has raw pixels of version {0}, and this flipk reads version {v}", v = RAW_VERSION)]
    RawVersion(u32),
    /// Raw pixels of another length than the header says, and that length.
    #[error("its raw pixels have {0} bytes, and {1} by its header")]
    RawLength(u64, u64),
    /// Raw pixels that have changed.
    #[error("the checksum of its raw pixels is wrong")]
    RawChecksum,
    /// An output of the wrong length, and the right one.
    #[error("{0} bytes for an image that takes {1}")]
    Output(usize, usize),
}

/// The formats that are read, for messages.
const READ: &str = "a JPEG, PNG, WebP, GIF, BMP or TIFF image";

fn name(format: ImageFormat) -> String {
    match format {
        ImageFormat::WebP => "WebP".to_owned(),
        other => format!("{other:?}").to_uppercase(),
    }
}

/// What a decoder found.
fn refusal(format: ImageFormat, error: &::image::ImageError) -> String {
    let format = name(format);
    match error {
        ::image::ImageError::Decoding(error) => match error.source() {
            Some(detail) => format!("the {format} data is damaged: {detail}"),
            None => format!("the {format} data is damaged"),
        },
        other => format!("this {format} image cannot be read: {other}"),
    }
}

impl ImageError {
    /// An error of a decoder; of a truncated image, decoders only say that a buffer was not filled.
    pub(super) fn decoder(error: ::image::ImageError, format: ImageFormat) -> Self {
        match error {
            ::image::ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Truncated(format, "the picture does")
            }
            other => Self::Decoder(format, other),
        }
    }
}
