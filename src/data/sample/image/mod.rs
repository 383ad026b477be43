//! From encoded bytes to a square of RGB8 pixels.
//!
//! | file | what it does |
//! |---|---|
//! | `decode` | bytes to pixels |
//! | `error` | why that fails |
//! | `format` | the format of a file, by its first bytes |
//! | `jpeg`, `png` | where an image ends, by its own markers |
//! | `square` | crop, flip and colour |
//! | `resize` | the bicubic resize of some patches |

mod decode;
mod error;
mod format;
mod jpeg;
mod png;
mod resize;
mod square;

pub use self::decode::{ExifOrientation, decode};
pub use self::error::ImageError;
pub use self::square::Square;

/// Images with more pixels are refused before they are decoded.
pub const MAX_PIXELS: u64 = 100_000_000;
