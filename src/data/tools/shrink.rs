//! Makes an image smaller. The same bits on every processor.

use ::image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};

/// How pixels are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The mean of the pixels that a new pixel covers, as img2dataset
    #[default]
    Area,
    /// Catmull-Rom, antialiased: sharper
    Bicubic,
}

/// An image with a short side of `short` pixels; `None` if that is not smaller. `image` has a pixel for `scale` pixels
/// of the original in each direction, whose width and height are `original`.
pub(super) fn shrink(
    image: &RgbImage,
    (scale, original): (u32, [u32; 2]),
    short: u32,
    filter: Filter,
) -> Option<RgbImage> {
    let [width, height] = original;
    let side = width.min(height);
    if side <= short {
        return None;
    }
    let scaled = |length: u32| {
        let rounded = (u64::from(length) * u64::from(short) + u64::from(side / 2)) / u64::from(side);
        u32::try_from(rounded.max(1)).unwrap_or(length)
    };
    let (width, height) = (scaled(width), scaled(height));
    Some(match filter {
        Filter::Area => area(image, (scale, original), [width, height]),
        Filter::Bicubic => imageops::resize(image, width, height, imageops::FilterType::CatmullRom),
    })
}

/// What covers one new pixel: the first old one, and the weight of each; their sum is the length of the original, of
/// which an old pixel is `scale` pixels, or fewer at the end.
fn coverage(original: u32, scale: u32, new: u32) -> Vec<(usize, Vec<u64>)> {
    let (original, new) = (u64::from(original), u64::from(new));
    // In units of 1/new of a pixel of the original.
    let pixel_len = u64::from(scale) * new;
    let weights = |at: u64| {
        let (from, to) = (at * original, (at + 1) * original);
        let (first, last) = (from / pixel_len, (to - 1) / pixel_len);
        let covered = |pixel: u64| to.min((pixel + 1) * pixel_len) - from.max(pixel * pixel_len);
        (first as usize, (first..=last).map(covered).collect())
    };
    (0..new).map(weights).collect()
}

/// Exact means, rounded once.
fn area(image: &RgbImage, (scale, original): (u32, [u32; 2]), [width, height]: [u32; 2]) -> RgbImage {
    let (columns, rows) = (coverage(original[0], scale, width), coverage(original[1], scale, height));
    let total = u64::from(original[0]) * u64::from(original[1]);
    let stride = image.width() as usize * 3;
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    let mut sums = vec![0_u64; stride];
    for (top, weights) in rows {
        sums.fill(0);
        for (row, weight) in image.as_raw()[top * stride..].chunks_exact(stride).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += weight * u64::from(value));
        }
        for (left, weights) in &columns {
            let covered = sums[left * 3..].as_chunks::<3>().0.iter().zip(weights);
            let sum = covered.fold([0; 3], |sum: [u64; 3], (pixel, weight)| {
                [0, 1, 2].map(|channel| sum[channel] + weight * pixel[channel])
            });
            pixels.extend(sum.map(|sum| ((sum + total / 2) / total) as u8));
        }
    }
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::noise;

    #[test]
    fn the_short_side_becomes_the_size_and_nothing_grows() {
        let size = |width, height, filter| {
            let whole = (1, [width, height]);
            shrink(&noise(width, height, 1), whole, 32, filter).map(|image| image.dimensions())
        };
        for filter in [Filter::Area, Filter::Bicubic] {
            assert_eq!(size(64, 48, filter), Some((43, 32)));
            assert_eq!(size(33, 330, filter), Some((32, 320)));
            assert_eq!((size(32, 400, filter), size(8, 9, filter)), (None, None));
        }
    }

    /// The size is that of the original, and so is the weight of a last pixel that stands for fewer.
    #[test]
    fn scaled_images_keep_their_place() {
        let image = noise(26, 18, 3);
        let small = shrink(&image, (2, [51, 35]), 14, Filter::Area).unwrap();
        assert_eq!(small.dimensions(), (20, 14));
        // Each pixel twice, but for the last one.
        let doubled = RgbImage::from_fn(51, 35, |x, y| *image.get_pixel(x / 2, y / 2));
        assert_eq!(small, area(&doubled, (1, [51, 35]), [20, 14]));
    }

    /// Against the mean over a grid of points, for sizes that do not divide each other.
    #[test]
    fn area_is_the_mean_of_what_is_covered() {
        let image = noise(50, 35, 2);
        let small = area(&image, (1, [50, 35]), [20, 14]);
        for (x, y, pixel) in small.enumerate_pixels() {
            for channel in 0..3 {
                let mut sum = 0.0;
                // 10 points for each old pixel and axis: edges of new pixels (2.5) lie between points.
                for (u, v) in (0..25).flat_map(|u| (0..25).map(move |v| (u, v))) {
                    let old = [x * 25 + u, y * 25 + v].map(|at| at / 10);
                    sum += f64::from(image.get_pixel(old[0], old[1])[channel]);
                }
                assert!((sum / 625.0 - f64::from(pixel[channel])).abs() <= 0.5 + 1e-9, "{x} {y}");
            }
        }
    }
}
