//! From encoded bytes to a square of RGB8 pixels.
//!
//! | file | what it does |
//! |---|---|
//! | `decode` | bytes to pixels |
//! | `error` | why that fails |
//! | `format` | the format of a file, by its first bytes |
//! | `kind` | what a file is, in words |
//! | `jpeg`, `png` | where an image ends, by its own markers |
//! | `square` | crop, flip and colour |
//! | `raw` | pixels as they are, in packed data sets |
//! | `resize` | the bicubic resize of some patches |
//! | `turbo` | JPEG by libjpeg-turbo |

mod decode;
mod error;
mod format;
mod jpeg;
mod kind;
mod png;
pub(crate) mod raw;
mod resize;
mod square;
#[cfg(feature = "turbo")]
mod turbo;

use std::borrow::Cow;

use ::image::RgbImage;

pub(crate) use self::decode::is_jpeg;
pub use self::decode::{Decoding, ExifOrientation, JpegDecoder, decode, decode_part};
pub use self::error::ImageError;
pub(crate) use self::kind::kind;
pub use self::square::{ResizeMode, Square};
use crate::data::sample::augment::CropRect;

/// Images with more pixels are refused before they are decoded.
pub const MAX_PIXELS: u64 = 100_000_000;

/// An image, or a part of it.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// The pixels that were decoded, `[height, width, 3]`; borrowed where nothing is left to decode.
    pub pixels: Cow<'a, [u8]>,
    /// Pixels in a row.
    pub width: u32,
    /// How many of the original's pixels in each direction became one: 1, or 2, 4 or 8 of a JPEG that is decoded at a
    /// fraction of its size ([`Decoding::scale_to`]).
    pub scale: u32,
    /// What was asked for, in pixels of the original from the corner of `pixels`.
    pub crop: CropRect,
}

impl<'a> Part<'a> {
    /// A part of an image that is decoded already.
    pub fn of(image: &'a RgbImage, crop: CropRect) -> Self {
        Self { pixels: Cow::Borrowed(image.as_raw()), width: image.width(), scale: 1, crop }
    }

    /// All pixels that were decoded.
    ///
    /// # Errors
    /// [`ImageError::NoPixels`] if there are none.
    pub fn into_image(self) -> Result<RgbImage, ImageError> {
        let height = (self.pixels.len() / 3).checked_div(self.width as usize).unwrap_or_default() as u32;
        RgbImage::from_raw(self.width, height, self.pixels.into_owned()).ok_or(ImageError::NoPixels(self.width, height))
    }
}
