//! Resolves options: every default and every check in one place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Options, StepSize, TrainError, duration};
use crate::autograd::Recompute;
use crate::data::image::{Decoding, ExifOrientation, JpegDecoder};
use crate::data::{Augmentation, CaptionKeys, CaptionLines, CaptionVariation, LoaderConfig, Order, TrainingData};
use crate::eval::Labels;
use crate::interop::Architecture;
use crate::model::{Loss, ModelConfig, Preset, TowerConfig};
use crate::optim::AdamWConfig;

/// The complete configuration of a run; `options` are the user's with every default filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The user's options with all defaults.
    pub options: Options,
    /// Training shards.
    pub data: Vec<String>,
    /// In which order they are visited.
    pub order: Order,
    /// Empty: no evaluation.
    pub eval_data: Vec<String>,
    /// Files of class names and prompts for `eval_data`.
    pub classes: Option<PathBuf>,
    /// File of prompts for `eval_data`.
    pub templates: Option<PathBuf>,
    /// How captions of `eval_data` are read as classes.
    pub labels: Labels,
    /// Where captions are in a sample.
    pub captions: CaptionKeys,
    /// What to do with photos that EXIF data says to rotate.
    pub decoding: Decoding,
    /// `None`: the embedded tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// Batch, mask ratio, augmentation and threads.
    pub loader: LoaderConfig,
    /// The loss to minimise.
    pub loss: Loss,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Whether weight decay applies to the CLS token.
    pub decay_cls: bool,
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Equal parts in which each batch is computed.
    pub micro_batches: usize,
    /// Learning rate after the warm-up.
    pub peak_lr: f64,
    /// `None`: the default warm-up ([`Self::warmup_steps`]).
    pub warmup_samples: Option<u64>,
    /// How long to train.
    pub length: Length,
    /// What counts as an epoch; `None`: one pass over the data.
    pub epoch_samples: Option<u64>,
    /// If given, the number of samples that fit this time replaces `length` before the run starts.
    pub time: Option<Duration>,
    /// Seed of all random numbers.
    pub seed: u64,
    /// Checkpoint or run folder to take the initial weights from.
    pub init_from: Option<PathBuf>,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Steps between checkpoints; 0: only at the end.
    pub save_every: u64,
    /// Newest checkpoints to keep.
    pub keep: usize,
    /// Steps between evaluations; 0: only at the end.
    pub eval_every: u64,
}

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Optimizer steps.
    Steps(u64),
    /// Samples seen.
    Samples(u64),
    /// Passes over the data.
    Epochs(f64),
}

impl Length {
    /// Optimizer steps, rounded up to whole batches, at least one.
    pub fn steps(self, batch: usize, dataset: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Samples(samples) => samples.div_ceil(batch as u64),
            Self::Epochs(epochs) => (epochs * dataset as f64 / batch as f64).ceil() as u64,
        }
        .max(1)
    }
}

/// What differs between the small model for the embedded data and the paper's.
struct Recipe {
    batch: usize,
    length: Length,
    rate: Rate,
    adamw: AdamWConfig,
    mask_ratio: f64,
    augmentation: Augmentation,
    captions: CaptionVariation,
}

#[derive(Clone, Copy)]
enum Rate {
    Peak(f64),
    /// Per 256 pairs of batch.
    Base(f64),
}

impl Recipe {
    fn of(model: &ModelConfig) -> Self {
        let tiny = Preset::Tiny.config();
        match (model.vision, model.text) == (tiny.vision, tiny.text) {
            // Tuned on the training styles only; docs/architecture.md describes how.
            true => Self {
                batch: 256,
                length: Length::Samples(768_000),
                rate: Rate::Peak(2e-3),
                adamw: AdamWConfig::default(),
                mask_ratio: 0.75,
                augmentation: Augmentation { area: (0.7, 1.0), color_jitter: 0.5, ..Augmentation::default() },
                captions: CaptionVariation::default(),
            },
            // docs/method.md, "Recipe". The paper's batch of 65,536 needs many accelerators; its rate scales with the
            // batch.
            false => Self {
                batch: 256,
                length: Length::Epochs(32.0),
                rate: Rate::Base(4e-6),
                adamw: AdamWConfig::default(),
                mask_ratio: LoaderConfig::default().mask_ratio,
                augmentation: Augmentation::default(),
                captions: CaptionVariation { tag_chance: 0.0, max_tags: 0 },
            },
        }
    }
}

/// The paper's warm-up (docs/method.md, "Recipe").
const WARMUP_SAMPLES: u64 = 51_200_000;

/// The shortest default warm-up in steps, unless that is more than a third of the run.
const SHORT_WARMUP: u64 = 20;

/// The value of an option, which is set to `default` if it is `None`.
fn or<T: Clone>(option: &mut Option<T>, default: T) -> T {
    option.get_or_insert(default).clone()
}

fn wrong(option: &str, value: impl ToString, rule: &str) -> TrainError {
    TrainError::Settings { problem: format!("{option} = {} is invalid: {rule}", value.to_string()) }
}

impl Settings {
    /// Fills in every default. `base` is the model that options change, as [`described`](super::described) finds it;
    /// `vocab` the number of rows that a tokenizer's embedding table needs.
    ///
    /// # Errors
    /// Names the first option that is out of its range or does not fit another.
    pub fn resolve(mut options: Options, base: ModelConfig, vocab: usize) -> Result<Self, TrainError> {
        options.check_numbers()?;
        let o = &mut options;
        let recipe = Recipe::of(&base);
        let start = o.init_from.clone().map(Architecture::File);
        or(&mut o.model, start.unwrap_or(Preset::Tiny.into()));
        let (data, eval_data) = data(o);
        let model = model(o, base, vocab)?;
        let seed = or(&mut o.seed, 0);
        let micro_batches = or(&mut o.micro_batches, 1);
        let loader = loader(o, &recipe, &model, seed)?;
        let captions = CaptionKeys {
            caption_key: o.caption_key.clone(),
            caption_lines: or(&mut o.caption_lines, CaptionLines::default()),
            tags_key: or(&mut o.tags_key, CaptionKeys::default().tags_key),
            image_key: o.image_key.clone(),
            access: o.access()?,
            filter: o.filter.clone(),
            ..CaptionKeys::default()
        };
        let settings = Self {
            data,
            eval_data,
            captions,
            order: or(&mut o.order, Order::default()),
            classes: o.classes.clone(),
            templates: o.templates.clone(),
            labels: or(&mut o.labels, Labels::default()),
            decoding: Decoding {
                orientation: or(&mut o.exif_orientation, ExifOrientation::default()),
                jpeg: or(&mut o.jpeg, JpegDecoder::default()),
                scale_to: or(&mut o.jpeg_scaling, false).then_some(model.image_size as u32),
            },
            tokenizer: o.tokenizer.clone(),
            loss: or(&mut o.loss, Loss::default()),
            adamw: adamw(o, recipe.adamw)?,
            decay_cls: or(&mut o.decay_cls, true),
            recompute: or(&mut o.recompute, Recompute::default()),
            micro_batches,
            peak_lr: peak_lr(o, recipe.rate, loader.batch)?,
            warmup_samples: o.warmup_samples,
            time: time(o)?,
            length: length(o, recipe.length)?,
            epoch_samples: o.epoch_samples,
            seed,
            init_from: o.init_from.clone(),
            log_every: or(&mut o.log_every, 10),
            save_every: or(&mut o.save_every, 500),
            keep: or(&mut o.keep, 3),
            eval_every: or(&mut o.eval_every, 0),
            model,
            loader,
            options,
        };
        for (option, given) in [("classes", &settings.classes), ("templates", &settings.templates)] {
            if let (Some(path), true) = (given, settings.eval_data.is_empty()) {
                return Err(wrong(option, path.display(), "it applies to eval_data, and there is none"));
            }
        }
        for (option, value) in [("log_every", settings.log_every), ("keep", settings.keep as u64)] {
            if value == 0 {
                return Err(wrong(option, value, "it must be at least 1"));
            }
        }
        if !settings.decoding.jpeg.is_built_in() {
            let problem = "this build has no libjpeg-turbo; build flipk with the feature `turbo`, or use --jpeg rust";
            return Err(wrong("jpeg", "turbo", problem));
        }
        if settings.decoding.scale_to.is_some() && settings.decoding.jpeg != JpegDecoder::Turbo {
            return Err(wrong("jpeg_scaling", true, "only libjpeg-turbo scales JPEGs: use jpeg = \"turbo\""));
        }
        Ok(settings)
    }

    /// Opens the training data, and decides on its order. `run`: the folder of the run, where it exists already.
    ///
    /// # Errors
    /// See [`TrainingData::open`].
    pub fn open_data(&mut self, run: Option<&Path>) -> Result<TrainingData, TrainError> {
        let cache = self.options.index_cache.as_deref().or(run).map(|run| self.index_cache(run));
        let data = TrainingData::open(&self.data, self.captions.clone(), self.decoding, self.order, cache.as_deref())?;
        self.order = data.order();
        self.options.order = Some(self.order);
        Ok(data)
    }

    /// The file with the numbers of samples in shards that were opened before.
    pub(super) fn index_cache(&self, run: &Path) -> PathBuf {
        self.options.index_cache.as_deref().unwrap_or(run).join("shards.tsv")
    }

    /// Sizes of a step.
    pub fn step_size(&self) -> StepSize {
        let whole = StepSize::whole(self.loader.batch, self.loader.kept(), self.recompute);
        StepSize { micro_batches: self.micro_batches, ..whole }
    }

    /// A short name of the model.
    pub fn model_name(&self) -> String {
        self.options.model.as_ref().map_or_else(|| "model".to_owned(), Architecture::short_name)
    }

    /// Steps of warm-up in a run of `total` steps.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        let batch = self.loader.batch as u64;
        // A tenth of a short run would end before AdamW's moments have settled.
        let share = (total / 10).max(SHORT_WARMUP.min(total / 3));
        self.warmup_samples.map_or((WARMUP_SAMPLES / batch).min(share), |samples| samples / batch)
    }
}

/// Whether a source is built into the program; the embedded tokenizer fits such data.
pub(super) fn is_embedded(spec: &str) -> bool {
    spec.split("::").all(|source| source.starts_with("embedded:"))
}

fn data(o: &mut Options) -> (Vec<String>, Vec<String>) {
    let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let data = or(&mut o.data, own(&["embedded:noto", "embedded:twemoji"]));
    let held_out = if data.iter().all(|spec| is_embedded(spec)) { own(&["embedded:fluent"]) } else { Vec::new() };
    (data, or(&mut o.eval_data, held_out))
}

fn model(o: &mut Options, base: ModelConfig, vocab: usize) -> Result<ModelConfig, TrainError> {
    let model = ModelConfig {
        image_size: or(&mut o.image_size, base.image_size),
        patch_size: or(&mut o.patch_size, base.patch_size),
        vision: TowerConfig {
            layers: or(&mut o.vision_layers, base.vision.layers),
            width: or(&mut o.vision_width, base.vision.width),
            heads: or(&mut o.vision_heads, base.vision.heads),
            ..base.vision
        },
        text: TowerConfig {
            layers: or(&mut o.text_layers, base.text.layers),
            width: or(&mut o.text_width, base.text.width),
            heads: or(&mut o.text_heads, base.text.heads),
            ..base.text
        },
        context: or(&mut o.context, base.context),
        vocab: or(&mut o.vocab, base.vocab.max(vocab)),
        embed_dim: or(&mut o.embed_dim, base.embed_dim),
        image_pool: o.pool.unwrap_or(base.image_pool),
        ..base
    };
    model.check()?;
    match model.vocab < vocab {
        true => Err(wrong("vocab", model.vocab, &format!("the tokenizer has {vocab} tokens"))),
        false => Ok(model),
    }
}

fn loader(o: &mut Options, recipe: &Recipe, model: &ModelConfig, seed: u64) -> Result<LoaderConfig, TrainError> {
    let base = LoaderConfig::default();
    let (batch, micro_batches) = (or(&mut o.batch, recipe.batch), o.micro_batches.unwrap_or(1));
    if micro_batches == 0 || !batch.is_multiple_of(micro_batches) {
        return Err(wrong("micro_batches", micro_batches, &format!("it must divide the batch of {batch}")));
    }
    let augmentation = Augmentation {
        area: (or(&mut o.crop_min, recipe.augmentation.area.0), or(&mut o.crop_max, recipe.augmentation.area.1)),
        aspect: recipe.augmentation.aspect,
        flip: or(&mut o.flip, recipe.augmentation.flip),
        color_jitter: or(&mut o.color_jitter, recipe.augmentation.color_jitter),
    };
    let captions = CaptionVariation {
        tag_chance: or(&mut o.tag_chance, recipe.captions.tag_chance),
        max_tags: or(&mut o.max_tags, recipe.captions.max_tags),
    };
    let loader = LoaderConfig {
        batch,
        streams: or(&mut o.streams, micro_batches),
        weights: o.weight.clone().unwrap_or_default(),
        resample: or(&mut o.resample, base.resample),
        image_size: model.image_size,
        patch_size: model.patch_size,
        mask_ratio: or(&mut o.mask_ratio, recipe.mask_ratio),
        context: model.context,
        seed,
        augmentation,
        captions,
        threads: or(&mut o.loader_threads, base.threads),
        prefetch: or(&mut o.prefetch, base.prefetch),
        max_bad: or(&mut o.max_bad, base.max_bad),
        time_stages: base.time_stages,
    };
    loader.validate()?;
    Ok(loader)
}

fn adamw(o: &mut Options, base: AdamWConfig) -> Result<AdamWConfig, TrainError> {
    let adamw = AdamWConfig {
        beta1: or(&mut o.beta1, base.beta1),
        beta2: or(&mut o.beta2, base.beta2),
        eps: or(&mut o.eps, base.eps),
        weight_decay: or(&mut o.weight_decay, base.weight_decay),
        clip_norm: or(&mut o.clip_norm, base.clip_norm),
    };
    for (option, value) in [("beta1", adamw.beta1), ("beta2", adamw.beta2)] {
        if !(0.0..1.0).contains(&value) {
            return Err(wrong(option, value, "it must be 0 <= beta < 1"));
        }
    }
    for (option, value) in [("eps", adamw.eps), ("weight_decay", adamw.weight_decay), ("clip_norm", adamw.clip_norm)] {
        if !(value >= 0.0 && value.is_finite()) {
            return Err(wrong(option, value, "it must be a number that is not negative"));
        }
    }
    Ok(adamw)
}

fn peak_lr(o: &mut Options, recipe: Rate, batch: usize) -> Result<f64, TrainError> {
    let rate = match (o.lr, o.base_lr) {
        (Some(peak), _) => Rate::Peak(peak),
        (None, Some(base)) => Rate::Base(base),
        (None, None) => recipe,
    };
    let (option, given, peak) = match rate {
        Rate::Peak(lr) => ("lr", or(&mut o.lr, lr), lr),
        Rate::Base(base) => ("base_lr", or(&mut o.base_lr, base), base * batch as f64 / 256.0),
    };
    match peak > 0.0 && peak.is_finite() {
        true => Ok(peak),
        false => Err(wrong(option, given, "it must be a number above 0")),
    }
}

fn time(o: &Options) -> Result<Option<Duration>, TrainError> {
    let Some(text) = &o.time else { return Ok(None) };
    duration::parse(text).map(Some).ok_or_else(|| wrong("time", text, duration::FORM))
}

fn length(o: &mut Options, recipe: Length) -> Result<Length, TrainError> {
    let length = match (o.steps, o.samples, o.epochs) {
        (Some(steps), ..) => Length::Steps(steps),
        (_, Some(samples), _) => Length::Samples(samples),
        (.., Some(epochs)) => Length::Epochs(epochs),
        _ => recipe,
    };
    match length {
        Length::Steps(0) => Err(wrong("steps", 0, "it must be at least 1")),
        Length::Samples(0) => Err(wrong("samples", 0, "it must be at least 1")),
        _ if o.epoch_samples == Some(0) => Err(wrong("epoch_samples", 0, "it must be at least 1")),
        Length::Epochs(epochs) if !(epochs > 0.0 && epochs.is_finite()) => {
            Err(wrong("epochs", epochs, "it must be above 0"))
        }
        // The length is not known yet.
        length if o.time.is_some() => Ok(length),
        Length::Steps(steps) => Ok(Length::Steps(or(&mut o.steps, steps))),
        Length::Samples(samples) => Ok(Length::Samples(or(&mut o.samples, samples))),
        Length::Epochs(epochs) => Ok(Length::Epochs(or(&mut o.epochs, epochs))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::described;

    fn resolve(options: Options) -> Result<Settings, String> {
        let base = described(&options).map_err(|error| error.to_string())?.model;
        Settings::resolve(options, base, 4096).map_err(|error| error.to_string())
    }

    #[test]
    fn the_paper_scales_its_rate_with_the_batch_and_warms_up_over_51_million_samples() {
        let options = Options { model: Some(Preset::L16.into()), batch: Some(65_536), ..Options::default() };
        let settings = resolve(options).unwrap();
        assert!((settings.peak_lr - 4e-6 * 256.0).abs() < 1e-12);
        assert_eq!((settings.warmup_steps(195_312), settings.warmup_steps(1000)), (781, 100));
        assert_eq!((settings.model.vocab, settings.loader.captions.tag_chance), (30_523, 0.0));
    }

    #[test]
    fn the_paper_masks_half_of_the_patches_and_tiny_three_quarters() {
        let ratio = |model: Preset| {
            let options = Options { model: Some(model.into()), ..Options::default() };
            resolve(options).unwrap().loader.mask_ratio
        };
        assert_eq!((ratio(Preset::B16), ratio(Preset::Tiny)), (0.5, 0.75));
    }

    /// The quickstart's 3,000 steps warm up over a tenth; shorter runs over more.
    #[test]
    fn a_short_run_warms_up_over_twenty_steps_or_a_third() {
        let settings = resolve(Options::default()).unwrap();
        assert_eq!([3000, 200, 199, 60, 30, 2].map(|total| settings.warmup_steps(total)), [300, 20, 20, 20, 10, 0]);
        let own = resolve(Options { warmup_samples: Some(512), ..Options::default() }).unwrap();
        assert_eq!(own.warmup_steps(60), 2);
    }

    #[test]
    fn resolved_options_resolve_to_themselves() {
        let first = resolve(Options { mask_ratio: Some(0.6), epochs: Some(1.5), ..Options::default() }).unwrap();
        let again = resolve(first.options.clone()).unwrap();
        assert_eq!(again.options, first.options);
        assert_eq!((again.length, again.peak_lr), (Length::Epochs(1.5), first.peak_lr));
        assert_eq!(Length::Epochs(1.5).steps(10, 101), 16);
    }

    #[test]
    fn the_loss_is_the_papers_by_default() {
        let loss = |loss| resolve(Options { loss, ..Options::default() }).unwrap().loss;
        assert_eq!((loss(None), loss(Some(Loss::Sigmoid))), (Loss::Infonce, Loss::Sigmoid));
    }

    #[test]
    fn impossible_options_are_named() {
        let error = |options: Options| resolve(options).unwrap_err();
        let none = Options::default;
        assert!(error(Options { mask_ratio: Some(1.0), ..none() }).contains("mask_ratio = 1"));
        assert!(error(Options { vision_heads: Some(7), ..none() }).contains("vision.heads = 7"));
        assert!(error(Options { vocab: Some(100), ..none() }).contains("the tokenizer has 4096"));
        assert!(error(Options { lr: Some(-1.0), ..none() }).contains("lr = -1"));
        assert!(error(Options { prefetch: Some(1 << 30), ..none() }).contains("at most 10000"));
        assert!(error(Options { context: Some(1 << 30), ..none() }).contains("context = 1073741824"));
        assert!(error(Options { patch_size: Some(0), ..none() }).contains("must be at least 1"));
        assert!(error(Options { steps: Some(0), ..none() }).contains("steps = 0"));
        assert!(error(Options { epoch_samples: Some(0), ..none() }).contains("epoch_samples = 0"));
        assert!(error(Options { weight: Some(vec![1.0, 0.0]), ..none() }).contains("weight = 0"));
        assert!(error(Options { beta2: Some(1.0), ..none() }).contains("beta2 = 1"));
        let parts = |micro_batches| Options { batch: Some(16), micro_batches: Some(micro_batches), ..none() };
        assert!(error(parts(5)).contains("micro_batches = 5 is invalid: it must divide the batch of 16"));
        assert!(error(parts(0)).contains("micro_batches = 0"));
    }

    #[test]
    fn each_micro_batch_has_a_stream_unless_told_otherwise() {
        let streams = |micro_batches, streams| {
            let options = Options { batch: Some(16), micro_batches, streams, ..Options::default() };
            resolve(options).unwrap().loader.streams
        };
        assert_eq!([streams(None, None), streams(Some(4), None), streams(Some(4), Some(2))], [1, 4, 2]);
    }
}
