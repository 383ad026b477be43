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

/// The image with a short side of `short` pixels, or as it is if that is not smaller.
pub(super) fn shrink(image: &RgbImage, short: u32, filter: Filter) -> Option<RgbImage> {
    let (width, height) = image.dimensions();
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
        Filter::Area => area(image, width, height),
        Filter::Bicubic => imageops::resize(image, width, height, imageops::FilterType::CatmullRom),
    })
}

/// What covers one new pixel: the first old one, and the weight of each; their sum is the old length.
fn coverage(old: u32, new: u32) -> Vec<(usize, Vec<u64>)> {
    let (old, new) = (u64::from(old), u64::from(new));
    // In units of 1/new of an old pixel.
    let weights = |at: u64| {
        let (from, to) = (at * old, (at + 1) * old);
        let (first, last) = (from / new, (to - 1) / new);
        let covered = |pixel: u64| to.min((pixel + 1) * new) - from.max(pixel * new);
        (first as usize, (first..=last).map(covered).collect())
    };
    (0..new).map(weights).collect()
}

/// Exact means, rounded once.
fn area(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (columns, rows) = (coverage(image.width(), width), coverage(image.height(), height));
    let total = u64::from(image.width()) * u64::from(image.height());
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
        let size = |width, height, filter| shrink(&noise(width, height, 1), 32, filter).map(|image| image.dimensions());
        for filter in [Filter::Area, Filter::Bicubic] {
            assert_eq!(size(64, 48, filter), Some((43, 32)));
            assert_eq!(size(33, 330, filter), Some((32, 320)));
            assert_eq!((size(32, 400, filter), size(8, 9, filter)), (None, None));
        }
    }

    /// Against the mean over a grid of points, for sizes that do not divide each other.
    #[test]
    fn area_is_the_mean_of_what_is_covered() {
        let image = noise(50, 35, 2);
        let (width, height) = (20, 14);
        let small = area(&image, width, height);
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
