//! The configuration of a loader.

use super::order::mix::{self, Mix};
use crate::data::dataset::TrainingData;
use crate::data::error::{DataError, Result};
use crate::data::sample::{Augmentation, CaptionVariation, kept_patches};

/// Configuration of a [`Loader`](super::Loader).
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Samples per batch.
    pub batch: usize,
    /// Streams that the order is cut into; divides `batch`.
    pub streams: usize,
    /// How often an epoch visits the samples of each source; empty: once. In the order of shards, what is beyond a
    /// whole number goes to some shards, which change from epoch to epoch.
    pub weights: Vec<f64>,
    /// Whether samples (or shards) are drawn with replacement.
    pub resample: bool,
    /// Side of the square images, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels; divides `image_size`.
    pub patch_size: usize,
    /// Share of patches that are left out, in `[0, 1)`.
    pub mask_ratio: f64,
    /// Tokens per caption.
    pub context: usize,
    /// Seed of the order, crops, masks and captions.
    pub seed: u64,
    /// How images are varied.
    pub augmentation: Augmentation,
    /// How captions are varied.
    pub captions: CaptionVariation,
    /// Decoding threads; 0 means one per core.
    pub threads: usize,
    /// Batches that are prepared ahead.
    pub prefetch: usize,
    /// Share of broken samples above which loading stops; 1 stops only if no sample is good.
    pub max_bad: f32,
    /// Whether the threads time what they do ([`super::Effort::stages`]); takes a microsecond or two per sample.
    pub time_stages: bool,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            batch: 256,
            streams: 1,
            weights: Vec::new(),
            resample: false,
            image_size: 224,
            patch_size: 16,
            mask_ratio: 0.5,
            context: 32,
            seed: 0,
            augmentation: Augmentation::default(),
            captions: CaptionVariation::default(),
            threads: 0,
            prefetch: 2,
            max_bad: 0.1,
            time_stages: false,
        }
    }
}

impl LoaderConfig {
    /// Patches of a whole image.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Visible patches of an image.
    pub fn kept(&self) -> usize {
        kept_patches(self.patches(), self.mask_ratio)
    }

    /// Bytes of the visible patches of an image.
    pub(super) fn row_bytes(&self) -> usize {
        self.kept() * self.patch_size.pow(2) * 3
    }

    /// Which samples or shards an epoch visits.
    pub(super) fn mix(&self, data: &TrainingData) -> Result<Mix> {
        Mix::new(&data.source_items(), &self.weights, self.resample)
    }

    /// What an epoch of `data` is. Also checks that the weights fit the data.
    ///
    /// # Errors
    /// Weights that are out of range, or not as many as there are sources.
    pub fn epoch(&self, data: &TrainingData) -> Result<Epoch> {
        let mix = self.mix(data)?;
        if mix.is_plain() {
            return Ok(Epoch { samples: data.samples(), notes: Vec::new() });
        }
        let visits = |((slots, items), samples): ((u64, u64), Option<u64>)| {
            Some(samples? as f64 * slots as f64 / items.max(1) as f64)
        };
        let samples = mix.slots_of().zip(data.source_samples()).map(visits).sum::<Option<f64>>();
        let samples = samples.map(|samples| samples.round() as u64);
        let items = if matches!(data, TrainingData::Listed(_)) { "shards" } else { "samples" };
        let mut notes = mix.warnings(&self.weights, items);
        let how = if self.resample { ", drawn with replacement" } else { "" };
        notes.push(match samples {
            Some(samples) if items == "shards" => {
                format!("an epoch has {} visits of shards{how}, about {samples} pairs", mix.slots())
            }
            _ => format!("an epoch has {} visits of {items}{how}", mix.slots()),
        });
        Ok(Epoch { samples, notes })
    }

    /// Checks all fields.
    ///
    /// # Errors
    /// [`DataError::Config`] with the first field that is out of range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |field, value: &dyn ToString, problem: &str| {
            Err(DataError::Config { field, value: value.to_string(), problem: problem.to_owned() })
        };
        for (field, value) in [
            ("batch", self.batch),
            ("streams", self.streams),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("context", self.context),
            ("prefetch", self.prefetch),
        ] {
            if value == 0 {
                return wrong(field, &value, "it must be at least 1");
            }
        }
        // Larger values are assumed to be typos.
        for (field, value, max) in [("prefetch", self.prefetch, 10_000), ("loader_threads", self.threads, 4096)] {
            if value > max {
                return wrong(field, &value, &format!("it must be at most {max}"));
            }
        }
        if !self.batch.is_multiple_of(self.streams) {
            return wrong("streams", &self.streams, &format!("it must divide the batch of {}", self.batch));
        }
        if !self.image_size.is_multiple_of(self.patch_size) {
            return wrong(
                "image_size",
                &self.image_size,
                &format!("it must be a multiple of patch_size = {}", self.patch_size),
            );
        }
        self.weights.iter().try_for_each(|&weight| mix::check(weight))?;
        if !(0.0..1.0).contains(&self.mask_ratio) {
            return wrong("mask_ratio", &self.mask_ratio, "it must be 0 <= ratio < 1");
        }
        if !(0.0..=1.0).contains(&self.max_bad) {
            return wrong("max_bad", &self.max_bad, "it must be 0 <= share <= 1");
        }
        if !(0.0..=1.0).contains(&self.captions.tag_chance) {
            return wrong("tag_chance", &self.captions.tag_chance, "it must be 0 <= chance <= 1");
        }
        self.augmentation.validate()
    }
}

/// How long an epoch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Visits of samples, if that is known; with weights that are no whole numbers, and with draws, on average.
    pub samples: Option<u64>,
    /// What is worth knowing about weights, a line each.
    pub notes: Vec<String>,
}
