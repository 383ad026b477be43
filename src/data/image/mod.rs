//! From encoded bytes to a square of RGB8 pixels.
//!
//! | file | what it does |
//! |---|---|
//! | `decode` | bytes to pixels |
//! | `format` | what a file is, by its first bytes |
//! | `jpeg`, `png` | where a picture ends, by its own marks |
//! | `square` | crop and resize |

mod decode;
mod format;
mod jpeg;
mod png;
mod square;

pub use self::{
    decode::{ExifOrientation, MAX_PIXELS, decode},
    square::Square,
};
