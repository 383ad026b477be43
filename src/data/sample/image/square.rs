//! From an image to patches of a square of RGB8 pixels, `[patches, patch, patch, 3]`. A square that is one patch is an
//! image, `[side, side, 3]`.

use ::image::RgbImage;
use serde::{Deserialize, Serialize};

use super::Part;
use super::error::ImageError;
use super::resize::{Resizer, Source, Span};
use crate::data::sample::augment::{Augmentation, CropRect};
use crate::random::Random;

/// How an image becomes a square for evaluation. The names are OpenCLIP's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResizeMode {
    /// The short side has the square's length, and the middle is used.
    #[default]
    Shortest,
    /// Both sides have the square's length, so that shapes change.
    Squash,
}

/// Resizes images to squares of one size, or to some patches of them; reuses its work space.
#[derive(Debug)]
pub struct Square {
    side: usize,
    resizer: Resizer,
    /// `0..patches`
    all: Vec<u32>,
    /// A whole square.
    uncut: Vec<u8>,
}

impl Square {
    /// For squares of `side` x `side` pixels, cut into patches of `patch` x `patch`, row by row; `patch` divides
    /// `side`.
    pub fn new(side: usize, patch: usize) -> Self {
        let all = (0..(side / patch).pow(2) as u32).collect();
        Self { side, resizer: Resizer::new(side, patch), all, uncut: Vec::new() }
    }

    /// Bytes of all patches, `side * side * 3`.
    pub fn bytes(&self) -> usize {
        self.side * self.side * 3
    }

    /// For training: random resized crop, flip and colour as `augmentation` says; of the result, the patches `ids` into
    /// `out` (`[ids, patch, patch, 3]`). They do not depend on which others are asked for.
    ///
    /// # Errors
    /// [`ImageError::Output`] if `out` has another length.
    ///
    /// # Panics
    /// If there is no such patch.
    pub fn augmented(
        &mut self,
        image: &RgbImage,
        augmentation: &Augmentation,
        random: &mut Random,
        ids: &[u32],
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let crop = augmentation.crop(image.width(), image.height(), random);
        self.cropped(&Part::of(image, crop), augmentation, random, ids, out)
    }

    /// As [`Self::augmented`], of a part of an image with a crop that was drawn before (`Augmentation::crop`).
    ///
    /// # Errors
    /// As [`Self::augmented`].
    ///
    /// # Panics
    /// If there is no such patch, or the crop is not inside the image.
    pub fn cropped(
        &mut self,
        part: &Part,
        augmentation: &Augmentation,
        random: &mut Random,
        ids: &[u32],
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        check(ids.len() * self.patch_bytes(), out)?;
        let mirrored = random.uniform() < augmentation.flip;
        let Part { pixels, width, scale, crop: asked } = part;
        let crop = asked.scaled(*scale);
        // In a scaled image, the crop may begin and end within pixels.
        let span = |first: u32, length: u32, touched: u32| Span {
            source: touched as usize,
            first: f64::from(first % scale) / f64::from(*scale),
            length: f64::from(length) / f64::from(*scale),
        };
        let rows = span(asked.top, asked.height, crop.height);
        let columns = span(asked.left, asked.width, crop.width);
        let source = Source { pixels, width: *width, crop, rows, columns, mirrored };
        if augmentation.color_jitter == 0.0 || ids == self.all {
            self.resizer.resize(&source, ids, out);
            augmentation.colour(out, random).apply(out);
            return Ok(());
        }
        // Contrast is about the mean grey of the whole square.
        self.uncut.resize(self.bytes(), 0);
        self.resizer.resize(&source, &self.all, &mut self.uncut);
        let bytes = self.patch_bytes();
        for (out, &id) in out.chunks_exact_mut(bytes).zip(ids) {
            out.copy_from_slice(&self.uncut[id as usize * bytes..][..bytes]);
        }
        augmentation.colour(&self.uncut, random).apply(out);
        Ok(())
    }

    /// For evaluation: all patches of the image as `mode` says into `out` (`[patches, patch, patch, 3]`).
    ///
    /// # Errors
    /// [`ImageError::Output`] if `out` is not [`Self::bytes`] long.
    pub fn whole(&mut self, image: &RgbImage, mode: ResizeMode, out: &mut [u8]) -> Result<(), ImageError> {
        match mode {
            ResizeMode::Shortest => self.center_crop(image, out),
            ResizeMode::Squash => {
                check(self.bytes(), out)?;
                let (width, height) = image.dimensions();
                let crop = CropRect { left: 0, top: 0, width, height };
                let (rows, columns) = (Span::whole(height), Span::whole(width));
                let source = Source { pixels: image.as_raw(), width, crop, rows, columns, mirrored: false };
                self.resizer.resize(&source, &self.all, out);
                Ok(())
            }
        }
    }

    /// For evaluation: the short side resized to `side`, then the middle square, all patches of it into `out`
    /// (`[patches, patch, patch, 3]`), as torchvision's `Resize` and `CenterCrop`, in one pass.
    ///
    /// # Errors
    /// [`ImageError::Output`] if `out` is not [`Self::bytes`] long.
    pub fn center_crop(&mut self, image: &RgbImage, out: &mut [u8]) -> Result<(), ImageError> {
        check(self.bytes(), out)?;
        let side = self.side as u64;
        let (width, height) = image.dimensions();
        let short = u64::from(width.min(height));
        // The part of one axis that ends up in the square, and where the crop for it begins and ends: pixels outside
        // that part contribute to its ends, and a thin image is not resized as a whole.
        let span = |length: u32| {
            // A thin image may be resized to more than 2^32 pixels.
            let resized = side * u64::from(length) / short;
            let first = (resized - side) as f64 / 2.0;
            let scale = f64::from(length) / resized as f64;
            let (first, covered) = (first.round_ties_even() * scale, (side as f64 * scale).min(f64::from(length)));
            let margin = 2.0 * scale.max(1.0) + 1.0;
            let (from, to) = ((first - margin) as u32, ((first + covered + margin).ceil() as u32).min(length));
            let source = (to - from) as usize;
            (from, to - from, Span { source, first: first - f64::from(from), length: covered })
        };
        let ((top, rows_used, rows), (left, columns_used, columns)) = (span(height), span(width));
        let crop = CropRect { left, top, width: columns_used, height: rows_used };
        let source = Source { pixels: image.as_raw(), width, crop, rows, columns, mirrored: false };
        self.resizer.resize(&source, &self.all, out);
        Ok(())
    }

    fn patch_bytes(&self) -> usize {
        self.bytes() / self.all.len()
    }
}

fn check(expected: usize, out: &[u8]) -> Result<(), ImageError> {
    if out.len() == expected { Ok(()) } else { Err(ImageError::Output(out.len(), expected)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::image::{Decoding, JpegDecoder, decode};
    use crate::data::testing::{jpeg, noise};
    use crate::random::Purpose;

    /// Pillow's bicubic in f64, written out: for each output pixel the kernel stretched to the scale, normalised.
    fn reference(image: &RgbImage, left: f64, top: f64, scale: (f64, f64), side: u32) -> Vec<f64> {
        let cubic = |x: f64| match x.abs() {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        };
        let weights = |out: u32, first: f64, scale: f64, length: u32| -> Vec<f64> {
            let (centre, stretch) = (first + (f64::from(out) + 0.5) * scale, scale.max(1.0));
            let raw: Vec<f64> = (0..length).map(|pixel| cubic((f64::from(pixel) + 0.5 - centre) / stretch)).collect();
            let sum: f64 = raw.iter().sum();
            raw.iter().map(|weight| weight / sum).collect()
        };
        let mut out = Vec::new();
        for y in 0..side {
            let rows = weights(y, top, scale.1, image.height());
            for x in 0..side {
                let columns = weights(x, left, scale.0, image.width());
                for c in 0..3 {
                    let sum =
                        |(row, pixel, weight): (u32, u32, f64)| weight * f64::from(image.get_pixel(pixel, row)[c]);
                    let taps = rows
                        .iter()
                        .zip(0..)
                        .flat_map(|(r, row)| columns.iter().zip(0..).map(move |(w, pixel)| (row, pixel, r * w)));
                    out.push(taps.map(sum).sum::<f64>().clamp(0.0, 255.0));
                }
            }
        }
        out
    }

    fn assert_close(ours: &[u8], reference: &[f64]) {
        let worst = ours.iter().zip(reference).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        // Rounded at the end, by 0.5; weights have 14 bits, and what is between the passes has 6 of fraction.
        assert!(worst < 0.55, "{worst}");
    }

    #[test]
    fn crops_are_bicubic_and_independent_of_pixels_outside() {
        let image = noise(60, 40, 3);
        for (side, (left, top, width, height)) in
            [(16, (5, 3, 40, 30)), (24, (0, 0, 60, 40)), (48, (20, 10, 17, 23)), (32, (8, 8, 32, 32))]
        {
            let mut out = vec![0; (side * side * 3) as usize];
            let crop = CropRect { left, top, width, height };
            let (rows, columns) = (Span::whole(height), Span::whole(width));
            let source = Source { pixels: image.as_raw(), width: 60, crop, rows, columns, mirrored: false };
            Resizer::new(side as usize, side as usize).resize(&source, &[0], &mut out);
            let cut = ::image::imageops::crop_imm(&image, left, top, width, height).to_image();
            let scale = (f64::from(width) / f64::from(side), f64::from(height) / f64::from(side));
            assert_close(&out, &reference(&cut, 0.0, 0.0, scale, side));
        }
    }

    #[test]
    fn centre_crops_are_the_middle_of_the_resized_image() {
        // 90 x 60 to a short side of 24: 36 x 24, of which columns 6..30 are kept; scale 2.5.
        let image = noise(90, 60, 4);
        let mut square = Square::new(24, 24);
        let mut out = vec![0; square.bytes()];
        square.center_crop(&image, &mut out).unwrap();
        assert_close(&out, &reference(&image, 15.0, 0.0, (2.5, 2.5), 24));
        // Sizes with remainders, a thin image, a square one and one that grows.
        for (width, height) in [(97, 61), (61, 97), (500, 3), (24, 24), (7, 5)] {
            square.center_crop(&noise(width, height, 5), &mut out).unwrap();
        }
        let same = noise(24, 24, 6);
        square.center_crop(&same, &mut out).unwrap();
        assert_eq!(&out, same.as_raw());
        assert!(square.center_crop(&same, &mut out[1..]).is_err());
    }

    #[test]
    fn squashed_images_are_whole() {
        let image = noise(90, 60, 4);
        let mut square = Square::new(24, 24);
        let [mut out, mut middle] = [0, 1].map(|_| vec![0; square.bytes()]);
        square.whole(&image, ResizeMode::Squash, &mut out).unwrap();
        assert_close(&out, &reference(&image, 0.0, 0.0, (3.75, 2.5), 24));
        square.whole(&image, ResizeMode::Shortest, &mut middle).unwrap();
        square.center_crop(&image, &mut out).unwrap();
        assert_eq!(out, middle);
        assert!(square.whole(&image, ResizeMode::Squash, &mut out[1..]).is_err());
    }

    #[test]
    fn the_middle_of_a_very_thin_image_is_its_middle() {
        // 1024 * 4,200,001 is beyond 32 bits.
        let width = 4_200_001;
        let image = RgbImage::from_fn(width, 1, |x, _| ::image::Rgb([if x == width / 2 { 200 } else { 0 }; 3]));
        let mut square = Square::new(1024, 1024);
        let mut out = vec![0; square.bytes()];
        square.center_crop(&image, &mut out).unwrap();
        let middle = &out[(512 * 1024 + 512) * 3..][..3];
        assert_eq!(middle, [200; 3]);
    }

    /// The decoder computes in integers, by AVX2, NEON or plain code.
    #[test]
    fn jpegs_have_the_same_bits_with_every_instruction_set() {
        use zune_core::bytestream::ZCursor;
        use zune_core::options::DecoderOptions;

        for (width, height) in [(64, 48), (61, 97), (17, 9), (300, 200)] {
            let bytes = jpeg(width, height, 9);
            // The only way to disable all intrinsics.
            let options = DecoderOptions::new_safe();
            let plain = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(&bytes), options).decode().unwrap();
            let decoding = Decoding { jpeg: JpegDecoder::Rust, ..Decoding::default() };
            assert!(decode(&bytes, decoding).unwrap().as_raw() == &plain, "{width} x {height}");
        }
    }

    #[test]
    fn flips_happen_as_often_as_asked() {
        let image = noise(8, 8, 7);
        let mirrored = ::image::imageops::flip_horizontal(&image);
        let whole = Augmentation { area: (1.0, 1.0), aspect: (1.0, 1.0), ..Augmentation::default() };
        let mut square = Square::new(8, 8);
        let mut out = vec![0; square.bytes()];
        let mut flipped = [0_u32; 3];
        for (count, flip) in flipped.iter_mut().zip([0.0, 0.5, 1.0]) {
            for sample in 0..1000 {
                let mut random = Random::new(1, Purpose::Crop, 0, sample);
                square.augmented(&image, &Augmentation { flip, ..whole }, &mut random, &[0], &mut out).unwrap();
                assert!(&out == image.as_raw() || &out == mirrored.as_raw());
                *count += u32::from(&out == mirrored.as_raw());
            }
        }
        // Five standard deviations of 1000 fair coins are 79.
        assert!(flipped[0] == 0 && flipped[1].abs_diff(500) < 79 && flipped[2] == 1000, "{flipped:?}");
    }
}
