//! Parts of pictures of samples.
//!
//! | file | what it does |
//! |---|---|
//! | `text` | letters |

pub(super) mod text;

use ::image::{Rgb, RgbImage, imageops};

use self::text::{LINE, WIDTH};

/// The background.
pub(super) const PAGE: Rgb<u8> = Rgb([246; 3]);
pub(super) const BLACK: Rgb<u8> = Rgb([0; 3]);
pub(super) const RED: Rgb<u8> = Rgb([220, 0, 0]);
/// Text of less weight.
pub(super) const DARK: Rgb<u8> = Rgb([110; 3]);
/// Around an image that is not square.
pub(super) const EMPTY: Rgb<u8> = Rgb([226; 3]);

/// `image` as large as fits into a square of `side` pixels.
pub(super) fn fitted(image: &RgbImage, side: u32) -> RgbImage {
    let longer = image.width().max(image.height());
    let [width, height] = [image.width(), image.height()].map(|length| scaled(length, longer, side).max(1));
    match longer < side {
        true => imageops::resize(image, width, height, imageops::FilterType::Triangle),
        false => imageops::thumbnail(image, width, height),
    }
}

/// Writes why there is no image, in its square of `side` pixels.
pub(super) fn note(picture: &mut RgbImage, (left, top): (u32, u32), side: u32, problem: &str) {
    let (columns, lines) = ((side / WIDTH) as usize, (side / LINE) as usize);
    for (line, text) in (0..).zip(text::wrap(problem, columns, lines)) {
        text::draw(picture, (left, top + line * LINE), &text, RED);
    }
}

/// A length in a picture of `from` pixels, in one of `to` pixels.
pub(super) fn scaled(length: u32, from: u32, to: u32) -> u32 {
    (u64::from(length) * u64::from(to) / u64::from(from.max(1))) as u32
}

/// Paints a rectangle.
pub(super) fn fill(picture: &mut RgbImage, (left, top): (u32, u32), (width, height): (u32, u32), colour: Rgb<u8>) {
    for y in top..top + height {
        (left..left + width).for_each(|x| picture.put_pixel(x, y, colour));
    }
}

/// The outermost pixels of a rectangle that ends before `end`.
pub(super) fn frame(picture: &mut RgbImage, start: (u32, u32), end: (u32, u32), colour: Rgb<u8>) {
    for y in start.1..end.1 {
        for x in start.0..end.0 {
            if y == start.1 || y + 1 == end.1 || x == start.0 || x + 1 == end.0 {
                picture.put_pixel(x, y, colour);
            }
        }
    }
}
