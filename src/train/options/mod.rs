//! The options of a run, as flags and as keys of a TOML file.
//!
//! One struct serves both: a key is its flag with `_` for `-`. Flags override the file, and the file overrides the
//! defaults ([`super::Settings`]), which depend on the preset. The `config.toml` of a run folder has the resolved
//! options, so that the run can be repeated from it.

use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use super::{Precision, TrainError};
use crate::autograd::Recompute;
use crate::data::image::{ExifOrientation, JpegDecoder};
use crate::data::{CaptionLines, Filter, Order, TokenizerOptions, text};
use crate::eval::Labels;
use crate::interop::Architecture;
use crate::model::{ImagePool, Loss};

/// Every option of `flipk train`; `None` stands for the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Training data: tar archives, TFRecord and Parquet files, as paths with {000..127}, {a,b} and *; folders of
    /// these, or of images with captions in .txt; tables (CSV, TSV) by their own paths; archives at s3://, gs://,
    /// az://, http:// and https:// addresses; pipe:COMMAND for the output of a command; embedded:NAME. A::B is the same
    /// as A B [default: embedded:noto embedded:twemoji]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SHARDS", help_heading = "Data"))]
    pub data: Option<Vec<String>>,
    /// How often each epoch visits the samples of each source of --data, one number per source. In the order of shards,
    /// a fractional weight visits a different part of the shards in each epoch [default: 1 each]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "W", value_parser = parse_weight, help_heading = "Data"))]
    pub weight: Option<Vec<f64>>,
    /// Draw samples (with --order shards, whole shards) with replacement, by weight and size of their sources
    #[cfg_attr(feature = "cli", arg(long, alias = "dataset-resampled", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data"))]
    pub resample: Option<bool>,
    /// Shards for zero-shot evaluation at the end [default: embedded:fluent with the embedded data, else none]
    #[cfg_attr(feature = "cli", arg(long, num_args = 1.., value_name = "SHARDS", help_heading = "Data"))]
    pub eval_data: Option<Vec<String>>,
    /// File with one class name per line, for --eval-data. An image's class is the number in its .cls member, or its
    /// caption, which is a number or one of the names [default: the distinct captions]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Data"))]
    pub classes: Option<PathBuf>,
    /// File with one prompt per line, {} or {c} for the class name, for --eval-data [default: the name alone]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Data"))]
    pub templates: Option<PathBuf>,
    /// How to read captions of --eval-data that are numbers if the class names are numbers too [default: auto]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "auto|names|numbers", hide_possible_values = true, help_heading = "Data")
    )]
    pub labels: Option<Labels>,
    /// Use only samples for which this holds, such as "width >= 200 and similarity > 0.3". It compares fields of the
    /// .json member, or columns of a table (a.b is a field within a field): = != < <= > >=, and, or, not, parentheses,
    /// in ('a', 'b'), is null, is not null. As in SQL, a comparison with a missing field does not hold, and neither
    /// does its negation
    #[cfg_attr(feature = "cli", arg(long = "where", value_name = "EXPRESSION", help_heading = "Data"))]
    #[serde(rename = "where")]
    pub filter: Option<Filter>,
    /// Where captions are: `txt` for the .txt member, else a field of the .json member. If the field is a list, one of
    /// its texts is drawn each time the sample is seen. With several, as in caption:0.7,alt_text:0.3,txt:0.1, one of
    /// those that the sample has is drawn by these probabilities [default: .txt, or else the field `caption`]
    #[cfg_attr(feature = "cli", arg(long, value_name = "KEY", help_heading = "Data"))]
    pub caption_key: Option<String>,
    /// Column of a table (CSV, TSV, Parquet) with images or their paths [default: filepath (in Parquet: image), or else
    /// another usual name]
    #[cfg_attr(feature = "cli", arg(long, value_name = "COLUMN", help_heading = "Data"))]
    pub image_key: Option<String>,
    /// How to read a .txt member of several lines: as one caption per line, one of which is drawn each time the sample
    /// is seen (each), or as a single caption (join) [default: each]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "each|join", hide_possible_values = true, help_heading = "Data")
    )]
    pub caption_lines: Option<CaptionLines>,
    /// Field of the .json member with a list of tags
    #[cfg_attr(feature = "cli", arg(long, value_name = "KEY", help_heading = "Data"))]
    pub tags_key: Option<String>,
    /// Probability that tags are appended to a caption
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Data"))]
    pub tag_chance: Option<f32>,
    /// Largest number of tags that are appended
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub max_tags: Option<usize>,
    /// A tokenizer.json or a BERT vocab.txt, a folder with one, or `clip` for CLIP's, which is built in [default: clip
    /// for
    /// OpenCLIP's models that have it, else the embedded one with the embedded data]
    #[cfg_attr(feature = "cli", arg(long, value_name = "FILE", help_heading = "Data"))]
    pub tokenizer: Option<PathBuf>,
    /// Whether captions are lower-cased [default: as tokenizer.json says; with a vocab.txt, yes unless more than 1 % of
    /// its tokens have capitals]
    #[cfg_attr(feature = "cli", arg(long, value_name = "yes|no", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true, help_heading = "Data"))]
    #[serde(deserialize_with = "yes_or_no")]
    pub lower_case: Option<bool>,
    /// Token that pads short captions [default: the tokenizer's own, or else its end token]
    #[cfg_attr(feature = "cli", arg(long, value_name = "TOKEN", help_heading = "Data"))]
    pub pad_token: Option<String>,
    /// Whether captions stand between a start and an end token [default: no for FLIP's models, else yes if the
    /// tokenizer
    /// has them]
    #[cfg_attr(feature = "cli", arg(long, value_name = "yes|no", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true, help_heading = "Data"))]
    #[serde(deserialize_with = "yes_or_no")]
    pub special_tokens: Option<bool>,
    /// Smallest share of an image's area that a random crop covers
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Data"))]
    pub crop_min: Option<f32>,
    /// Largest share of an image's area that a random crop covers
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Data"))]
    pub crop_max: Option<f32>,
    /// Probability of a horizontal flip
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Data"))]
    pub flip: Option<f32>,
    /// Strength of colour jitter in [0, 1]
    #[cfg_attr(feature = "cli", arg(long, value_name = "S", help_heading = "Data"))]
    pub color_jitter: Option<f32>,
    /// What to do with photos that EXIF data says to rotate; evaluation does the same [default: ignore, as OpenCLIP
    /// does, so that such photos stay on their side]
    #[cfg_attr(feature = "cli", arg(long, value_name = "WHAT", help_heading = "Data"))]
    pub exif_orientation: Option<ExifOrientation>,
    /// What decodes JPEG. Pixels differ slightly, so a run keeps its decoder when it is resumed [default: turbo]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DECODER", help_heading = "Data"))]
    pub jpeg: Option<JpegDecoder>,
    /// Scale large JPEGs down while they are decoded (DCT scaling, Pillow's `draft`): by 2, 4 or 8, as long as a crop
    /// keeps twice the model's image size. Faster where originals are large; pixels differ slightly from those of full
    /// decoding. Needs --jpeg turbo. A run keeps it when it is resumed; evaluation decodes in full
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Data"))]
    pub jpeg_scaling: Option<bool>,
    /// Order in which samples are visited; a run keeps it when it is resumed [default: auto]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Data"))]
    pub order: Option<Order>,
    /// Number of independent streams that the order is cut into. Each has its own position, and a batch takes equal
    /// parts from all [default: 1; in training, as many as --micro-batches]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub streams: Option<usize>,
    /// Folder that keeps the sample count of each shard for later runs, written as shards are opened [default: the
    /// run's folder]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Data"))]
    pub index_cache: Option<PathBuf>,
    /// Seconds without a byte from a server or a command after which an attempt is given up [default: 60]
    #[cfg_attr(feature = "cli", arg(long, value_name = "SECONDS", help_heading = "Data"))]
    pub io_timeout: Option<f64>,
    /// Folder that keeps fetched shards for later epochs and runs; several runs may share it [default: none]
    #[cfg_attr(feature = "cli", arg(long, value_name = "DIR", help_heading = "Data"))]
    pub cache: Option<PathBuf>,
    /// Largest size of --cache (500MB, 2TiB); the shards longest unused are removed [default: 100GiB]
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIZE", help_heading = "Data"))]
    pub cache_size: Option<String>,
    /// Share of broken samples above which training stops; with 1, it continues while there is any good sample
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Data"))]
    pub max_bad: Option<f32>,
    /// Threads that decode images; 0: one per core
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub loader_threads: Option<usize>,
    /// Batches prepared ahead
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Data"))]
    pub prefetch: Option<usize>,

    /// Model: tiny, b16, l16, l14 or h14, which are FLIP's; a name of OpenCLIP, such as ViT-B-16, ViT-B-16-quickgelu or
    /// ViT-L-14-CLIPA; or a file: OpenCLIP's open_clip_config.json, one of its model_configs, or the model.json of a
    /// run. In the defaults of other options, tiny is any model (that of --init-from too) whose towers are tiny's
    /// before options such as --vision-width change them [default: tiny, or that of --init-from]
    #[cfg_attr(feature = "cli", arg(long, value_name = "MODEL", help_heading = "Model"))]
    pub model: Option<Architecture>,
    /// Width and height of an image in pixels
    #[cfg_attr(feature = "cli", arg(long, value_name = "PX", help_heading = "Model"))]
    pub image_size: Option<usize>,
    /// Width and height of a patch in pixels
    #[cfg_attr(feature = "cli", arg(long, value_name = "PX", help_heading = "Model"))]
    pub patch_size: Option<usize>,
    /// Transformer layers of the vision tower
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub vision_layers: Option<usize>,
    /// Width of the vision tower
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub vision_width: Option<usize>,
    /// Attention heads of the vision tower, which must divide its width
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub vision_heads: Option<usize>,
    /// Transformer layers of the text tower
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub text_layers: Option<usize>,
    /// Width of the text tower
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub text_width: Option<usize>,
    /// Attention heads of the text tower, which must divide its width
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub text_heads: Option<usize>,
    /// Tokens per caption; longer ones are cut
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub context: Option<usize>,
    /// Rows of the token embedding; at least the tokenizer's
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub vocab: Option<usize>,
    /// Width of the joint embedding
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Model"))]
    pub embed_dim: Option<usize>,
    /// What the embedding of an image is computed from [default: the model's, which in FLIP is all]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Model"))]
    pub pool: Option<ImagePool>,
    /// Share of the image patches that is masked, that is, left out, in [0, 1) [default: 0.75 for tiny (see --model),
    /// else 0.5]
    #[cfg_attr(feature = "cli", arg(long, value_name = "RATIO", help_heading = "Model"))]
    pub mask_ratio: Option<f64>,
    /// Start from the weights of this checkpoint or run folder (for unmasked tuning, for example), or of a folder of
    /// OpenCLIP or Hugging Face, with a new optimizer. Position tables are resized if the sizes differ
    #[cfg_attr(feature = "cli", arg(long, value_name = "PATH", help_heading = "Model"))]
    pub init_from: Option<PathBuf>,

    /// Loss to minimise
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Training"))]
    pub loss: Option<Loss>,
    /// Pairs per step [default: 256]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Training"))]
    pub batch: Option<usize>,
    /// Length of the run in optimizer steps
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", group = "length", help_heading = "Training"))]
    pub steps: Option<u64>,
    /// Length of the run in samples seen [default: 768000 for tiny, else --epochs 32]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", group = "length", help_heading = "Training"))]
    pub samples: Option<u64>,
    /// Length of the run in passes over the data [default: 32, except for tiny: see --samples]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", group = "length", help_heading = "Training"))]
    pub epochs: Option<f64>,
    /// What counts as an epoch for --epochs and in metrics, in samples; the order stays as it is [default: one pass]
    #[cfg_attr(feature = "cli", arg(long, alias = "train-num-samples", value_name = "N", help_heading = "Training"))]
    pub epoch_samples: Option<u64>,
    /// Length of the run as a time (90s, 5m, 1h30m). A few steps are timed and discarded; the number of samples that
    /// fit the time left becomes the length of the run, which the learning rate follows. config.toml stores that
    /// number, so that the run repeats and resumes exactly, on slower machines too. The last evaluation takes extra
    /// time
    #[cfg_attr(feature = "cli", arg(long, value_name = "TIME", group = "length", help_heading = "Training"))]
    pub time: Option<String>,
    /// Peak learning rate [default: 2e-3 for tiny, else that of --base-lr]
    #[cfg_attr(feature = "cli", arg(long, value_name = "LR", group = "rate", help_heading = "Training"))]
    pub lr: Option<f64>,
    /// Peak learning rate per 256 pairs of batch: lr = base_lr * batch / 256 [default: 4e-6, except for tiny: see --lr]
    #[cfg_attr(feature = "cli", arg(long, value_name = "LR", group = "rate", help_heading = "Training"))]
    pub base_lr: Option<f64>,
    /// Samples over which the learning rate rises from 0 [default: 51.2 M, but at most a tenth of the run; in a short
    /// run 20 steps, but at most a third of it]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Training"))]
    pub warmup_samples: Option<u64>,
    /// AdamW's weight decay
    #[cfg_attr(feature = "cli", arg(long, value_name = "W", help_heading = "Training"))]
    pub weight_decay: Option<f32>,
    /// AdamW's decay rate of the first moments
    #[cfg_attr(feature = "cli", arg(long, value_name = "B", help_heading = "Training"))]
    pub beta1: Option<f32>,
    /// AdamW's decay rate of the second moments
    #[cfg_attr(feature = "cli", arg(long, value_name = "B", help_heading = "Training"))]
    pub beta2: Option<f32>,
    /// AdamW's epsilon
    #[cfg_attr(feature = "cli", arg(long, value_name = "E", help_heading = "Training"))]
    pub eps: Option<f32>,
    /// Largest L2 norm of all gradients together; above it they are scaled down; 0: no limit
    #[cfg_attr(feature = "cli", arg(long, value_name = "NORM", help_heading = "Training"))]
    pub clip_norm: Option<f32>,
    /// Whether weight decay applies to the CLS token, as in the authors' code
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", help_heading = "Training"))]
    pub decay_cls: Option<bool>,
    /// What the backward pass recomputes instead of storing it, so that larger batches fit [default: none]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Training"))]
    pub recompute: Option<Recompute>,
    /// Equal parts in which each batch is computed, so that large batches fit: the gradient is exactly that of the
    /// whole batch, with the activations of one part in memory; only roundings differ. Takes about a third more time,
    /// as each forward pass runs twice, unless all activations fit. Each part has a stream of the data of its own
    /// (--streams). Combines with --recompute. Several ranks share them [default: the number of ranks]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Training"))]
    pub micro_batches: Option<usize>,
    /// Seed of all random numbers; the same seed gives the same run, to the bit [default: 0]
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Training"))]
    pub seed: Option<u64>,

    /// The resolved `--precision`; the flag itself is one of the device's.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub precision: Option<Precision>,

    /// Steps between lines of metrics
    #[cfg_attr(feature = "cli", arg(long, value_name = "STEPS", help_heading = "Output"))]
    pub log_every: Option<u64>,
    /// Steps between checkpoints; 0: only at the end
    #[cfg_attr(feature = "cli", arg(long, value_name = "STEPS", help_heading = "Output"))]
    pub save_every: Option<u64>,
    /// Newest checkpoints to keep
    #[cfg_attr(feature = "cli", arg(long, value_name = "K", help_heading = "Output"))]
    pub keep: Option<usize>,
    /// Steps between evaluations; 0: only at the end
    #[cfg_attr(feature = "cli", arg(long, value_name = "STEPS", help_heading = "Output"))]
    pub eval_every: Option<u64>,
}

/// A weight of `--weight`.
#[cfg(feature = "cli")]
fn parse_weight(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "it is not a number; give one for each source, as in --weight 2 0.5".to_owned())
}

/// Accepts booleans, and `yes` and `no` as the flag does.
fn yes_or_no<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Boolean(value) => Ok(Some(value)),
        Value::String(word) if word == "yes" => Ok(Some(true)),
        Value::String(word) if word == "no" => Ok(Some(false)),
        _ => Err(D::Error::custom("it must be true or false, or \"yes\" or \"no\"")),
    }
}

/// Groups of options that exclude each other: a flag replaces the one in the file.
const EXCLUSIVE: &[&[&str]] = &[&["steps", "samples", "epochs", "time"], &["lr", "base_lr"]];

impl Options {
    /// The options of the tokenizer.
    pub fn tokenizer_options(&self) -> TokenizerOptions {
        TokenizerOptions {
            lower_case: self.lower_case,
            pad_token: self.pad_token.clone(),
            special_tokens: self.special_tokens,
            ..TokenizerOptions::default()
        }
    }

    /// The keys that a TOML file may have.
    fn keys() -> Vec<String> {
        let options = serde_json::to_value(Self::default()).unwrap_or_default();
        options.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    /// Merges these options with those of a TOML file, which they override.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key (the error suggests the nearest known one), a value of
    /// the wrong type, or a number that TOML cannot represent.
    pub fn over_file(self, path: &Path) -> Result<Self, TrainError> {
        self.check_numbers()?;
        let bad = |problem: String| TrainError::config(path, problem);
        let text = text::read(path)?;
        let mut table: Table = text.parse().map_err(|why: toml::de::Error| TrainError::config(path, why))?;
        let keys = Self::keys();
        if let Some(unknown) = table.keys().find(|key| !keys.contains(key)) {
            return Err(bad(match &table[unknown] {
                Value::Table(_) => format!("the file has no sections such as [{unknown}]; write its keys without one"),
                _ => unknown_key(unknown, &keys),
            }));
        }
        let flags = Table::try_from(self).map_err(|why| TrainError::config(path, why))?;
        for group in EXCLUSIVE.iter().filter(|group| group.iter().any(|key| flags.contains_key(*key))) {
            group.iter().for_each(|key| drop(table.remove(*key)));
        }
        // One option at a time, so that an error can name it.
        for (key, value) in &table {
            let one = Table::from_iter([(key.clone(), value.clone())]);
            one.try_into::<Self>().map_err(|why| bad(wrong_value(key, value, why.message())))?;
        }
        table.extend(flags);
        let merged: Self = table.try_into().map_err(|why: toml::de::Error| bad(why.message().to_owned()))?;
        for group in EXCLUSIVE {
            let given: Vec<&str> = group.iter().copied().filter(|key| merged.has(key)).collect();
            if given.len() > 1 {
                return Err(bad(format!("{} exclude each other; keep one", given.join(" and "))));
            }
        }
        Ok(merged)
    }

    /// Checks that `path`, the `config.toml` that these options came from, is complete: in a truncated file, missing
    /// options would silently become defaults.
    ///
    /// # Errors
    /// [`TrainError::Config`] if it lacks an option that every run has.
    pub fn check_whole(&self, path: &Path) -> Result<(), TrainError> {
        // The first, some between and the last that is written.
        const ALWAYS: [&str; 6] = ["data", "model", "batch", "seed", "keep", "eval_every"];
        let table = Table::try_from(self).unwrap_or_default();
        match ALWAYS.iter().find(|key| !table.contains_key(**key)) {
            None => Ok(()),
            Some(key) => {
                let problem = format!(
                    "it has no `{key}`, which every run has, so it was probably truncated; restore it, or start a new run \
                     with --init-from"
                );
                Err(TrainError::config(path, problem))
            }
        }
    }

    /// Checks that `config.toml` can hold every number: TOML's integers are signed.
    ///
    /// # Errors
    /// Names the first option that is too large.
    pub(super) fn check_numbers(&self) -> Result<(), TrainError> {
        let options = serde_json::to_value(self).unwrap_or_default();
        let numbers = options.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key, value.as_u64()?)));
        match numbers.into_iter().find(|(_, number)| i64::try_from(*number).is_err()) {
            None => Ok(()),
            Some((key, number)) => {
                let problem = format!("{key} = {number} is invalid: it must be at most {}", i64::MAX);
                Err(TrainError::Settings { problem })
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        Table::try_from(self).is_ok_and(|table| table.contains_key(key))
    }

    /// The text of a TOML file with these options.
    ///
    /// # Errors
    /// A number that TOML cannot represent.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        Ok(toml::to_string(self)?)
    }

    /// The keys with other values than in `other`.
    pub fn changed_from(&self, other: &Self) -> Vec<String> {
        let [mine, theirs] = [self, other].map(|options| Table::try_from(options).unwrap_or_default());
        let value = |table: &Table, key: &str| table.get(key).cloned().map(|value: Value| value.to_string());
        let mut keys: Vec<&String> = mine.keys().chain(theirs.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter(|key| value(&mine, key) != value(&theirs, key)).cloned().collect()
    }
}

/// The message about a value of the wrong type, in TOML's words instead of Rust's.
fn wrong_value(key: &str, value: &Value, message: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("invalid type: sequence, expected a string", "invalid type: list, expected one text in quotes"),
        ("unit variant, expected string only", "list, expected one text in quotes"),
        ("expected a sequence", "expected a list, such as [\"a\", \"b\"]"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
    ];
    if value.is_table() {
        return format!("{key} is a section or a table; write `{key} = ...` with a single value");
    }
    let message = WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours));
    format!("{key} = {value}: {message}")
}

/// Flags that say where and how this process runs; they are not part of a run's configuration.
const FLAGS_ONLY: &[&str] =
    &["comm_timeout", "config", "device", "gpus", "out", "ranks", "restarts", "resume", "threads"];

fn unknown_key(key: &str, known: &[String]) -> String {
    if FLAGS_ONLY.contains(&key) {
        let flag = key.replace('_', "-");
        return format!("`{key}` is not a key of this file; pass it on the command line as --{flag}");
    }
    let near = known.iter().map(|known| (strsim::jaro_winkler(key, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, near)) if likeness > 0.8 => format!("unknown key `{key}`; did you mean `{near}`?"),
        _ => format!("unknown key `{key}`; the keys are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
