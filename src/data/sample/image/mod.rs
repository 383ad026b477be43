//! From encoded bytes to a square of RGB8 pixels.
//!
//! | file | what it does |
//! |---|---|
//! | `decode` | bytes to pixels |
//! | `format` | the format of a file, by its first bytes |
//! | `jpeg`, `png` | where an image ends, by its own markers |
//! | `square` | crop and resize |

mod decode;
mod format;
mod jpeg;
mod png;
mod square;

pub use self::decode::{ExifOrientation, MAX_PIXELS, decode};
pub use self::square::Square;
