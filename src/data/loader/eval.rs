//! Batches for evaluation: every sample once, in order, centre-cropped, without masks or variation.

use std::sync::Arc;

use rayon::prelude::*;

use super::health::Health;
use super::limit::{Limit, Skipped, Visited};
use crate::data::broken::{Broken, Kind, confined};
use crate::data::dataset::Dataset;
use crate::data::error::{DataError, Result};
use crate::data::sample::image::{ResizeMode, Square};
use crate::data::sample::{Content, Label};

/// One batch for evaluation; the last one may be short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvalBatch {
    /// RGB of all patches, `[samples, patches, patch, patch, 3]`.
    pub images: Vec<u8>,
    /// Class numbers, or captions without tags, `[samples]`.
    pub labels: Vec<Label>,
    /// Identifies samples with the same image file, `[samples]`.
    pub contents: Vec<Content>,
    /// Sample numbers, ascending, `[samples]`.
    pub samples: Vec<u64>,
}

/// Iterates over a data set in order; each batch is decoded on all cores. Ends after the first error.
#[derive(Debug)]
pub struct EvalBatches {
    dataset: Arc<Dataset>,
    batch: usize,
    image_size: usize,
    patch_size: usize,
    resize_mode: ResizeMode,
    next: u64,
    health: Health,
}

impl EvalBatches {
    /// Batches of `batch` images of `image_size` x `image_size` pixels, in patches of `patch_size` x `patch_size`.
    /// Broken samples are skipped, and are an error if they are more than `max_bad` of the data set.
    ///
    /// # Errors
    /// If `batch`, `image_size` or `patch_size` is 0, or `max_bad` is not in `[0, 1]`.
    pub fn new(
        dataset: Arc<Dataset>,
        batch: usize,
        [image_size, patch_size]: [usize; 2],
        max_bad: f32,
    ) -> Result<Self> {
        for (field, value) in [("batch", batch), ("image_size", image_size), ("patch_size", patch_size)] {
            if value == 0 {
                let problem = "it must be at least 1".to_owned();
                return Err(DataError::Config { field, value: "0".to_owned(), problem });
            }
        }
        if !(0.0..=1.0).contains(&max_bad) {
            let problem = "it must be 0 <= share <= 1".to_owned();
            return Err(DataError::Config { field: "max_bad", value: max_bad.to_string(), problem });
        }
        let health = Health::new(Limit::new(dataset.clone().into(), max_bad, Visited::InOrder, true), 0..1, 1);
        Ok(Self { dataset, batch, image_size, patch_size, resize_mode: ResizeMode::default(), next: 0, health })
    }

    /// The same with images that become squares in another way.
    pub fn with_resize_mode(self, resize_mode: ResizeMode) -> Self {
        Self { resize_mode, ..self }
    }

    /// Broken samples skipped so far, by kind.
    pub fn skipped(&self) -> Skipped {
        self.health.skipped()
    }

    /// Warnings since the last call: the first few broken samples by name.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.health.take_warnings()
    }

    fn fill(&mut self) -> Result<EvalBatch> {
        let mut batch = EvalBatch::default();
        let end = self.dataset.len() as u64;
        while batch.samples.len() < self.batch && self.next < end {
            let wanted = (self.batch - batch.samples.len()) as u64;
            let samples = self.next..end.min(self.next + wanted);
            let square = || Square::new(self.image_size, self.patch_size);
            let make = |resizer: &mut Square, sample| {
                let made = confined(|| make(&self.dataset, resizer, self.resize_mode, sample));
                if matches!(made, Err(Broken { kind: Kind::Panic, .. })) {
                    // The panic may have left it in a bad state.
                    *resizer = square();
                }
                made
            };
            let made: Vec<_> = samples.clone().into_par_iter().map_init(square, make).collect();
            self.next = samples.end;
            for (sample, made) in samples.zip(made) {
                self.health.visit(0, 0, sample, self.dataset.view(sample), made.as_ref().err())?;
                if let Ok((image, label, content)) = made {
                    batch.images.extend_from_slice(&image);
                    batch.labels.push(label);
                    batch.contents.push(content);
                    batch.samples.push(sample);
                }
            }
        }
        Ok(batch)
    }
}

type Made = (Vec<u8>, Label, Content);

fn make(dataset: &Dataset, square: &mut Square, mode: ResizeMode, sample: u64) -> Result<Made, Broken> {
    let label = dataset.label(sample)?;
    let content = Content::of(&dataset.image(sample)?);
    let mut image = vec![0; square.bytes()];
    let fits = square.whole(&*dataset.decoded(sample)?, mode, &mut image);
    fits.map_err(|why| Broken { kind: Kind::BadImage, detail: why.to_string() })?;
    Ok((image, label, content))
}

impl Iterator for EvalBatches {
    type Item = Result<EvalBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.fill();
        if batch.is_err() {
            self.next = self.dataset.len() as u64;
        }
        (!batch.as_ref().is_ok_and(|batch| batch.samples.is_empty())).then_some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::{CaptionKeys, Tokenizer, TokenizerOptions};
    use crate::data::testing::{Archive, png};

    fn dataset(broken: &[usize]) -> (Archive, Arc<Dataset>) {
        let mut archive = Archive::default();
        for number in 0..10 {
            let image = if broken.contains(&number) { b"no image".to_vec() } else { png(20, 12, number as u64) };
            archive
                .add(&format!("{number}.png"), &image)
                .add(&format!("{number}.txt"), format!("name {number}").as_bytes());
        }
        let dataset = Arc::new(Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap());
        (archive, dataset)
    }

    #[test]
    fn every_sample_comes_once_and_in_order() {
        let (_archive, dataset) = dataset(&[0, 5]);
        let mut batches = EvalBatches::new(dataset.clone(), 3, [8, 4], 0.5).unwrap();
        let all: Vec<EvalBatch> = batches.by_ref().map(Result::unwrap).collect();
        assert_eq!(all.iter().map(|batch| batch.samples.len()).collect::<Vec<_>>(), [3, 3, 2]);
        let samples = all.iter().flat_map(|batch| &batch.samples);
        let keys: Vec<_> = samples.map(|&sample| dataset.key(sample)).collect();
        assert_eq!(keys, ["1", "2", "3", "4", "6", "7", "8", "9"]);
        let named = |name: &str| Label::Captions(vec![name.to_owned()]);
        assert_eq!(all[2].labels, [named("name 8"), named("name 9")]);
        assert_ne!(all[2].contents[0], all[2].contents[1]);
        assert_eq!(batches.skipped(), Skipped::from([(Kind::BadImage, 2)]));
        assert_eq!(batches.take_warnings().len(), 2);
        let mut one = vec![0; 8 * 8 * 3];
        Square::new(8, 4).center_crop(&dataset.decoded(9).unwrap(), &mut one).unwrap();
        assert_eq!(all[2].images[8 * 8 * 3..], one);
    }

    #[test]
    fn too_many_broken_samples_end_it_with_an_error() {
        let (_archive, dataset) = dataset(&[0, 5]);
        let results: Vec<_> = EvalBatches::new(dataset, 3, [8, 4], 0.1).unwrap().collect();
        assert!(matches!(results.last(), Some(Err(DataError::TooManyBroken { bad: 2, .. }))), "{results:?}");
        let (_archive, dataset) = self::dataset(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let results: Vec<_> = EvalBatches::new(dataset, 3, [8, 4], 1.0).unwrap().collect();
        assert!(matches!(results[..], [Err(DataError::NoGoodSample { visited: 10, .. })]), "{results:?}");
    }

    #[test]
    fn every_embedded_sample_is_whole_and_every_name_has_tokens() {
        let tokenizer = Tokenizer::embedded(&TokenizerOptions::default()).unwrap();
        let unknown = 1;
        let mut tokens = [0; 32];
        for name in ["noto", "twemoji", "fluent"] {
            let dataset = Arc::new(Dataset::open(&[format!("embedded:{name}")], CaptionKeys::default()).unwrap());
            let mut batches = EvalBatches::new(dataset.clone(), 256, [32, 8], 0.0).unwrap();
            let samples: usize = batches.by_ref().map(|batch| batch.unwrap().samples.len()).sum();
            assert!(batches.skipped().is_empty() && samples == dataset.len() && samples > 1800, "{name}: {samples}");
            for sample in 0..samples as u64 {
                let caption = dataset.caption(sample).unwrap();
                for text in caption.texts.iter().chain(&caption.tags) {
                    tokenizer.encode(text, &mut tokens).unwrap();
                    assert!(tokens[0] != tokenizer.pad() && !tokens.contains(&unknown), "{text:?}: {tokens:?}");
                }
            }
        }
        assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
    }
}
