//! Random geometry and colour of a training image.

use serde::{Deserialize, Serialize};

use crate::data::error::{DataError, Result};
use crate::random::Random;

/// How an image is varied at each visit. The defaults are FLIP's (section 4: crops of 50-100 % of the area).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Range of the crop's share of the image's area; uniform.
    pub area: (f32, f32),
    /// Range of the crop's width / height; log-uniform.
    pub aspect: (f32, f32),
    /// Probability of a horizontal flip.
    pub flip: f32,
    /// Strength `s` of colour jitter in `[0, 1]`, SimCLR's convention (Chen et al. 2020, appendix A): brightness,
    /// contrast and saturation change by a factor in `1 ± 0.8 s`, the hue by up to `± 0.2 s` of a full turn.
    pub color_jitter: f32,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { area: (0.5, 1.0), aspect: (3.0 / 4.0, 4.0 / 3.0), flip: 0.5, color_jitter: 0.0 }
    }
}

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CropRect {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl CropRect {
    /// All of an image.
    pub fn whole(width: u32, height: u32) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// The pixels that it touches where `scale` pixels in each direction are one.
    pub(crate) fn scaled(self, scale: u32) -> Self {
        let part = |first: u32, length: u32| (first / scale, (first + length).div_ceil(scale) - first / scale);
        let ((left, width), (top, height)) = (part(self.left, self.width), part(self.top, self.height));
        Self { left, top, width, height }
    }
}

impl Augmentation {
    /// # Errors
    /// Names the first field that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let unit = 0.0..=1.0;
        let ordered = |(low, high): (f32, f32)| low > 0.0 && low <= high && high.is_finite();
        let checks = [
            (
                "crop_min, crop_max",
                ordered(self.area) && self.area.1 <= 1.0,
                format!("{:?}", self.area),
                "0 < low <= high <= 1",
            ),
            ("aspect", ordered(self.aspect), format!("{:?}", self.aspect), "0 < low <= high"),
            ("flip", unit.contains(&self.flip), self.flip.to_string(), "0 <= flip <= 1"),
            ("color_jitter", unit.contains(&self.color_jitter), self.color_jitter.to_string(), "0 <= strength <= 1"),
        ];
        match checks.into_iter().find(|(_, fine, _, _)| !fine) {
            Some((field, _, value, rule)) => {
                Err(DataError::Config { field, value, problem: format!("it must be {rule}") })
            }
            None => Ok(()),
        }
    }

    /// The crop of torchvision's `RandomResizedCrop`: 10 tries at area and aspect, then the largest centred crop
    /// within the aspect range.
    pub fn crop(&self, width: u32, height: u32, random: &mut Random) -> CropRect {
        let (full_width, full_height) = (f64::from(width), f64::from(height));
        let (low, high) = (f64::from(self.aspect.0), f64::from(self.aspect.1));
        for _ in 0..10 {
            let area = full_width * full_height * f64::from(random.range(self.area.0, self.area.1));
            let (min, max) = (libm::log(low), libm::log(high));
            let aspect = libm::exp(min + (max - min) * f64::from(random.uniform()));
            let (w, h) = ((area * aspect).sqrt().round_ties_even(), (area / aspect).sqrt().round_ties_even());
            if (1.0..=full_width).contains(&w) && (1.0..=full_height).contains(&h) {
                let (w, h) = (w as u32, h as u32);
                let top = random.below(height - h + 1);
                let left = random.below(width - w + 1);
                return CropRect { left, top, width: w, height: h };
            }
        }
        let aspect = (full_width / full_height).clamp(low, high);
        let w = (full_height * aspect).round_ties_even().clamp(1.0, full_width) as u32;
        let h = (full_width / aspect).round_ties_even().clamp(1.0, full_height) as u32;
        CropRect { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }

    /// How the colours of an image are jittered, given all its `pixels` (`[.., 3]`, in any order).
    ///
    /// Brightness, contrast (about the image's mean grey), saturation and hue (a turn in YIQ) are each affine in RGB,
    /// so that together they are one matrix and one shift; only the end result is clamped.
    pub(crate) fn colour(&self, pixels: &[u8], random: &mut Random) -> Colour {
        if self.color_jitter == 0.0 {
            return Colour(None);
        }
        let mut factor = || 1.0 + 0.8 * self.color_jitter * random.range(-1.0, 1.0);
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let turn = 0.2 * self.color_jitter * random.range(-1.0, 1.0);
        let (sin, cos) = libm::sincosf(turn * std::f32::consts::TAU);

        let (pixels, _) = pixels.as_chunks::<3>();
        let sums = pixels.iter().fold([0_u64; 3], |sums, pixel| [0, 1, 2].map(|c| sums[c] + u64::from(pixel[c])));
        let mean: f32 = (0..3).map(|c| TO_YIQ[0][c] * sums[c] as f32).sum::<f32>() / pixels.len() as f32;
        let shift = (1.0 - contrast) * brightness * mean;
        let gain = brightness * contrast;
        let chroma =
            [[1.0, 0.0, 0.0], [0.0, saturation * cos, -saturation * sin], [0.0, saturation * sin, saturation * cos]];
        Colour(Some((product(&FROM_YIQ, &product(&chroma, &TO_YIQ)).map(|row| row.map(|weight| gain * weight)), shift)))
    }
}

/// A change of colours: a matrix and a shift, or none.
pub(crate) struct Colour(Option<(Matrix, f32)>);

impl Colour {
    /// Changes `pixels` (`[.., 3]`) in place.
    pub(crate) fn apply(&self, pixels: &mut [u8]) {
        let Some((matrix, shift)) = &self.0 else { return };
        for pixel in pixels.as_chunks_mut::<3>().0 {
            let old = pixel.map(f32::from);
            *pixel = matrix.map(|row| (row[0] * old[0] + row[1] * old[1] + row[2] * old[2] + shift).round() as u8);
        }
    }
}

type Matrix = [[f32; 3]; 3];

/// RGB to luma and the two chroma axes of NTSC television; luma is that of ITU-R BT.601.
const TO_YIQ: Matrix =
    [[0.299, 0.587, 0.114], [0.595_900_6, -0.274_556_7, -0.321_343_9], [0.211_536_6, -0.522_736_2, 0.311_199_6]];
const FROM_YIQ: Matrix =
    [[1.0, 0.955_986_3, 0.620_824_8], [1.0, -0.272_012_8, -0.647_204_2], [1.0, -1.106_740_2, 1.704_230_5]];

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    a.map(|row| [0, 1, 2].map(|c| (0..3).map(|k| row[k] * b[k][c]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn random(sample: u64) -> Random {
        Random::new(2, Purpose::Crop, 0, sample)
    }

    #[test]
    fn crops_have_the_area_and_aspect_asked_for() {
        let augmentation = Augmentation::default();
        let (width, height) = (500, 375);
        let (mut areas, mut logs, mut lefts) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..4000 {
            let crop = augmentation.crop(width, height, &mut random(sample));
            assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
            let (w, h) = (f64::from(crop.width), f64::from(crop.height));
            areas.push(w * h / f64::from(width * height));
            logs.push((w / h).ln());
            lefts.push(f64::from(crop.left) / f64::from((width - crop.width).max(1)));
        }
        // Rounding to whole pixels moves area and aspect by less than 1 %.
        assert!(areas.iter().all(|area| (0.495..=1.005).contains(area)));
        assert!(logs.iter().all(|log| log.abs() < (4.0_f64 / 3.0).ln() + 0.01));
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // Crops that do not fit are drawn again. Area a fits with probability min(1, -ln a / (2 ln 4/3)), as the image
        // is 4:3 itself; the mean of a under that density on 1/2..1 is 0.661. Five standard errors are 0.01.
        assert!((mean(&areas) - 0.661).abs() < 0.01, "{}", mean(&areas));
        // Both offsets are uniform: mean 1/2 within five standard errors (0.29 / sqrt(4000) each).
        assert!((mean(&lefts) - 0.5).abs() < 0.023, "{}", mean(&lefts));
    }

    #[test]
    fn square_images_are_cropped_uniformly_in_log_aspect() {
        let augmentation = Augmentation { area: (0.2, 0.5), ..Augmentation::default() };
        let logs: Vec<f64> = (0..4000)
            .map(|sample| augmentation.crop(1000, 1000, &mut random(sample)))
            .map(|crop| (f64::from(crop.width) / f64::from(crop.height)).ln())
            .collect();
        // No crop is refused here, so the logarithm is uniform: mean 0 and deviation 2 ln(4/3) / sqrt(12) = 0.166.
        let mean = logs.iter().sum::<f64>() / 4000.0;
        let deviation = (logs.iter().map(|log| log * log).sum::<f64>() / 4000.0).sqrt();
        assert!(mean.abs() < 0.014 && (deviation - 0.166).abs() < 0.008, "{mean} {deviation}");
    }

    #[test]
    fn images_that_no_crop_fits_are_cropped_in_the_middle() {
        let augmentation = Augmentation { area: (1.0, 1.0), ..Augmentation::default() };
        let crop = |width, height| augmentation.crop(width, height, &mut random(0));
        assert_eq!(crop(1000, 30), CropRect { left: 480, top: 0, width: 40, height: 30 });
        assert_eq!(crop(30, 1000), CropRect { left: 0, top: 480, width: 30, height: 40 });
        assert_eq!(crop(1, 1), CropRect { left: 0, top: 0, width: 1, height: 1 });
        assert_eq!(crop(1, 5000), CropRect { left: 0, top: 2499, width: 1, height: 1 });
    }

    #[test]
    fn ranges_are_checked() {
        let default = Augmentation::default();
        assert!(default.validate().is_ok());
        for wrong in [
            Augmentation { area: (0.0, 1.0), ..default },
            Augmentation { area: (0.9, 0.5), ..default },
            Augmentation { area: (0.5, 1.5), ..default },
            Augmentation { aspect: (0.5, f32::NAN), ..default },
            Augmentation { flip: 1.5, ..default },
            Augmentation { color_jitter: -0.1, ..default },
        ] {
            assert!(matches!(wrong.validate(), Err(DataError::Config { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn jitter_keeps_greys_grey_and_grows_with_its_strength() {
        let image: Vec<u8> = crate::data::testing::noise(16, 16, 1).into_raw();
        let change = |strength: f32| {
            let augmentation = Augmentation { color_jitter: strength, ..Augmentation::default() };
            let total: f64 = (0..50)
                .map(|sample| {
                    let mut pixels = image.clone();
                    augmentation.colour(&image, &mut random(sample)).apply(&mut pixels);
                    pixels.iter().zip(&image).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum::<f64>()
                })
                .sum();
            total / (50 * image.len()) as f64
        };
        assert_eq!(change(0.0), 0.0);
        // A strength this small moves nothing by more than a rounding: the matrices are inverse to each other.
        assert!(change(1e-6) == 0.0);
        assert!(change(0.1) > 1.0 && change(0.5) > 3.0 * change(0.1));
        let mut grey = [40, 40, 40, 200, 200, 200];
        let half = Augmentation { color_jitter: 0.5, ..Augmentation::default() };
        half.colour(&grey, &mut random(3)).apply(&mut grey);
        assert!(
            grey[..3].iter().all(|&c| c.abs_diff(grey[0]) <= 1) && grey[3..].iter().all(|&c| c.abs_diff(grey[3]) <= 1)
        );
    }
}
