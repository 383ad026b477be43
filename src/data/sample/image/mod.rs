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

use ::image::RgbImage;

pub use self::decode::{Decoding, ExifOrientation, JpegDecoder, decode, decode_part};
pub use self::error::ImageError;
pub(crate) use self::kind::kind;
pub use self::square::{ResizeMode, Square};
use crate::data::sample::augment::CropRect;

/// Images with more pixels are refused before they are decoded.
pub const MAX_PIXELS: u64 = 100_000_000;

/// An image, or a part of it.
pub struct Part {
    /// The pixels that were decoded.
    pub image: RgbImage,
    /// What was asked for, in `image`.
    pub crop: CropRect,
}
