//! From an image to a square of RGB8 pixels, `[side, side, 3]`.

use ::image::RgbImage;
use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{CropBox, FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer, SrcCropping};

use super::error::ImageError;
use crate::data::sample::augment::{Augmentation, CropRect};
use crate::random::Random;

/// Resizes images to squares of one size; reuses its work space.
#[derive(Debug)]
pub struct Square {
    side: u32,
    resizer: Resizer,
}

impl Square {
    /// For squares of `side` x `side` pixels.
    pub fn new(side: u32) -> Self {
        Self { side, resizer: Resizer::new() }
    }

    /// Bytes of one image, `side * side * 3`.
    pub fn bytes(&self) -> usize {
        self.side as usize * self.side as usize * 3
    }

    /// For training: random resized crop, flip and colour as `augmentation` says, into `out` (`[side, side, 3]`).
    ///
    /// # Errors
    /// [`ImageError::Resize`] if `out` is not [`Self::bytes`] long.
    pub fn augmented(
        &mut self,
        image: &RgbImage,
        augmentation: &Augmentation,
        random: &mut Random,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let crop = augmentation.crop(image.width(), image.height(), random);
        self.crop(image, crop, out)?;
        if random.uniform() < augmentation.flip {
            flip(out, self.side as usize);
        }
        augmentation.jitter(out, random);
        Ok(())
    }

    /// Resizes `crop` of `image` to the square; pixels outside the crop do not contribute.
    fn crop(&mut self, image: &RgbImage, crop: CropRect, out: &mut [u8]) -> Result<(), ImageError> {
        let CropRect { left, top, width, height } = crop;
        let view = TypedCroppedImage::new(view(image)?, left, top, width, height).map_err(ImageError::resize)?;
        self.resize(&view, SrcCropping::None, out)
    }

    /// For evaluation: the short side resized to `side`, then the middle square, into `out` (`[side, side, 3]`), as
    /// torchvision's `Resize` and `CenterCrop`, in one pass.
    ///
    /// # Errors
    /// [`ImageError::Resize`] if `out` is not [`Self::bytes`] long.
    pub fn center_crop(&mut self, image: &RgbImage, out: &mut [u8]) -> Result<(), ImageError> {
        let side = self.side;
        let (width, height) = image.dimensions();
        let short = u64::from(width.min(height));
        // The part of one axis that ends up in the square, in source pixels.
        let span = |length: u32| {
            // A thin image may be resized to more than 2^32 pixels.
            let resized = u64::from(side) * u64::from(length) / short;
            let first = (resized - u64::from(side)) as f64 / 2.0;
            let scale = f64::from(length) / resized as f64;
            (first.round_ties_even() * scale, (f64::from(side) * scale).min(f64::from(length)))
        };
        let ((left, width), (top, height)) = (span(width), span(height));
        self.resize(&view(image)?, SrcCropping::Crop(CropBox { left, top, width, height }), out)
    }

    /// Bicubic (Catmull-Rom, a = -1/2), antialiased when the image shrinks, as in Pillow.
    fn resize(
        &mut self,
        from: &impl ImageView<Pixel = U8x3>,
        cropping: SrcCropping,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let mut to = TypedImage::from_buffer(self.side, self.side, out).map_err(ImageError::resize)?;
        let mut options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
        options.cropping = cropping;
        self.resizer.resize_typed(from, &mut to, &options).map_err(ImageError::resize)
    }
}

fn view(image: &RgbImage) -> Result<TypedImageRef<'_, U8x3>, ImageError> {
    TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw()).map_err(ImageError::resize)
}

/// Mirrors the image, in place.
fn flip(pixels: &mut [u8], side: usize) {
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    pixels.chunks_exact_mut(side).for_each(<[_]>::reverse);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::image::{ExifOrientation, decode};
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
        // Rounded after each of the two passes, the first of which is amplified by the kernel's negative lobes (the
        // weights' magnitudes sum to at most 1.25): 0.5 + 1.25 * 0.5, and the first pass is clamped as well.
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn crops_are_bicubic_and_independent_of_pixels_outside() {
        let image = noise(60, 40, 3);
        for (side, (left, top, width, height)) in
            [(16, (5, 3, 40, 30)), (24, (0, 0, 60, 40)), (48, (20, 10, 17, 23)), (32, (8, 8, 32, 32))]
        {
            let mut square = Square::new(side);
            let mut out = vec![0; square.bytes()];
            square.crop(&image, CropRect { left, top, width, height }, &mut out).unwrap();
            let cut = ::image::imageops::crop_imm(&image, left, top, width, height).to_image();
            let scale = (f64::from(width) / f64::from(side), f64::from(height) / f64::from(side));
            assert_close(&out, &reference(&cut, 0.0, 0.0, scale, side));
        }
    }

    #[test]
    fn centre_crops_are_the_middle_of_the_resized_image() {
        // 90 x 60 to a short side of 24: 36 x 24, of which columns 6..30 are kept; scale 2.5.
        let image = noise(90, 60, 4);
        let mut square = Square::new(24);
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
    fn the_middle_of_a_very_thin_image_is_its_middle() {
        // 1024 * 4,200,001 is beyond 32 bits.
        let width = 4_200_001;
        let image = RgbImage::from_fn(width, 1, |x, _| ::image::Rgb([if x == width / 2 { 200 } else { 0 }; 3]));
        let mut square = Square::new(1024);
        let mut out = vec![0; square.bytes()];
        square.center_crop(&image, &mut out).unwrap();
        let middle = &out[(512 * 1024 + 512) * 3..][..3];
        assert_eq!(middle, [200; 3]);
    }

    /// The resizer's weights are integers, so each instruction set may add in its own order.
    #[test]
    fn crops_have_the_same_bits_with_every_instruction_set() {
        use fast_image_resize::CpuExtensions;

        #[cfg(target_arch = "x86_64")]
        let extensions = [CpuExtensions::Sse4_1, CpuExtensions::Avx2];
        #[cfg(target_arch = "aarch64")]
        let extensions = [CpuExtensions::Neon];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let extensions: [CpuExtensions; 0] = [];
        for extensions in extensions.into_iter().filter(CpuExtensions::is_supported) {
            for (width, height) in [(72, 72), (61, 97), (333, 250), (24, 24), (7, 5), (1001, 13)] {
                for side in [16, 31, 64, 224] {
                    let image = noise(width, height, 8);
                    let [plain, wide] = [CpuExtensions::None, extensions].map(|extensions| {
                        let mut square = Square::new(side);
                        // SAFETY: extensions that the processor lacks were filtered out.
                        unsafe { square.resizer.set_cpu_extensions(extensions) };
                        let mut out = vec![0; square.bytes()];
                        square.center_crop(&image, &mut out).unwrap();
                        out
                    });
                    assert!(plain == wide, "{width} x {height} to {side} with {extensions:?}");
                }
            }
        }
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
            assert!(decode(&bytes, ExifOrientation::Ignore).unwrap().as_raw() == &plain, "{width} x {height}");
        }
    }

    #[test]
    fn flips_happen_as_often_as_asked() {
        let image = noise(8, 8, 7);
        let mirrored = ::image::imageops::flip_horizontal(&image);
        let whole = Augmentation { area: (1.0, 1.0), aspect: (1.0, 1.0), ..Augmentation::default() };
        let mut square = Square::new(8);
        let mut out = vec![0; square.bytes()];
        let mut flipped = [0_u32; 3];
        for (count, flip) in flipped.iter_mut().zip([0.0, 0.5, 1.0]) {
            for sample in 0..1000 {
                let mut random = Random::new(1, Purpose::Crop, 0, sample);
                square.augmented(&image, &Augmentation { flip, ..whole }, &mut random, &mut out).unwrap();
                assert!(&out == image.as_raw() || &out == mirrored.as_raw());
                *count += u32::from(&out == mirrored.as_raw());
            }
        }
        // Five standard deviations of 1000 fair coins are 79.
        assert!(flipped[0] == 0 && flipped[1].abs_diff(500) < 79 && flipped[2] == 1000, "{flipped:?}");
    }
}
