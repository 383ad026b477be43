//! What a user may say about a run: as flags, as keys of a TOML file, or not at all.
//!
//! One struct serves both: a key is its flag with `_` for `-`. Flags win over the file, the file over the defaults
//! ([`super::Settings`]), which depend on the preset. The resolved options are what `config.toml` of a run folder holds,
//! so that a run can be repeated from its folder.

use std::path::{Path, PathBuf};

use clap::builder::BoolishValueParser;
use clap::{Args, Command, ValueEnum};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use toml::{Table, Value};

use super::TrainError;
use crate::autograd::Recompute;
use crate::data::image::ExifOrientation;
use crate::data::{CaptionLines, TokenizerOptions, text};
use crate::eval::Labels;
use crate::model::{Loss, Preset};

/// The numbers of activations and products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What the run had before; else bf16 on a GPU, f32 on a CPU, where that gives the same bits on every processor
    #[default]
    Auto,
    Bf16,
    F32,
}

/// Every option of `flipk train`; `None` is the default.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Training shards: paths with {000..127}, {a,b} and *, folders, embedded:NAME; several are joined
    /// [default: embedded:noto embedded:twemoji, if no other is given]
    #[arg(long, num_args = 1.., value_name = "SHARDS", help_heading = "Data")]
    pub data: Option<Vec<String>>,
    /// Shards for zero-shot evaluation at the end [default: embedded:fluent with the embedded data, else none]
    #[arg(long, num_args = 1.., value_name = "SHARDS", help_heading = "Data")]
    pub eval_data: Option<Vec<String>>,
    /// File with a class name per line, for --eval-data whose images have class numbers (a .cls member, or the caption)
    /// or are named by one of them [default: the distinct captions]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub classes: Option<PathBuf>,
    /// File with a prompt per line, {} or {c} for the class name, for --eval-data [default: the name alone]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub templates: Option<PathBuf>,
    /// What captions of --eval-data that are numbers are, where the class names are numbers as well [default: auto]
    #[arg(long, value_name = "auto|names|numbers", hide_possible_values = true, help_heading = "Data")]
    pub labels: Option<Labels>,
    /// Where captions are: `txt` for the .txt member, else a field of the .json member, a text or a list of texts of
    /// which each visit takes one [default: .txt, or else the field `caption`]
    #[arg(long, value_name = "KEY", help_heading = "Data")]
    pub caption_key: Option<String>,
    /// What the lines of a .txt member are: captions, of which each visit takes one (each), or together one caption
    /// (join) [default: each]
    #[arg(long, value_name = "each|join", hide_possible_values = true, help_heading = "Data")]
    pub caption_lines: Option<CaptionLines>,
    /// Field of the .json member with a list of tags
    #[arg(long, value_name = "KEY", help_heading = "Data")]
    pub tags_key: Option<String>,
    /// Chance that tags follow a caption
    #[arg(long, value_name = "P", help_heading = "Data")]
    pub tag_chance: Option<f32>,
    /// Tags that follow at most
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub max_tags: Option<usize>,
    /// A tokenizer.json or a BERT vocab.txt, or a folder with one [default: the embedded one, with the embedded data]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub tokenizer: Option<PathBuf>,
    /// Whether captions are lower-cased [default: as tokenizer.json says; with a vocab.txt, yes unless more than 1 % of
    /// its tokens have capitals]
    #[arg(long, value_name = "yes|no", value_parser = BoolishValueParser::new(), hide_possible_values = true,
          help_heading = "Data")]
    #[serde(deserialize_with = "yes_or_no")]
    pub lower_case: Option<bool>,
    /// Token that fills up short captions [default: the tokenizer's own, or else its end token]
    #[arg(long, value_name = "TOKEN", help_heading = "Data")]
    pub pad_token: Option<String>,
    /// Smallest share of an image's area that a random crop keeps
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub crop_min: Option<f32>,
    /// Largest share of an image's area that a random crop keeps
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub crop_max: Option<f32>,
    /// Chance of a horizontal flip
    #[arg(long, value_name = "P", help_heading = "Data")]
    pub flip: Option<f32>,
    /// Strength of colour jitter in [0, 1]
    #[arg(long, value_name = "S", help_heading = "Data")]
    pub color_jitter: Option<f32>,
    /// What becomes of photos whose EXIF data says that they are to be turned; evaluation does the same [default: ignore,
    /// so that runs see what OpenCLIP's see, where such photos lie on their side]
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub exif_orientation: Option<ExifOrientation>,
    /// Share of broken samples in the data above which training stops; 1 goes on as long as there is a good one
    #[arg(long, value_name = "SHARE", help_heading = "Data")]
    pub max_bad: Option<f32>,
    /// Threads that decode images; 0: one per core
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub loader_threads: Option<usize>,
    /// Batches made ahead
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub prefetch: Option<usize>,

    /// Preset that sizes and defaults are taken from
    #[arg(long, help_heading = "Model")]
    pub model: Option<Preset>,
    /// Pixels of an image's side
    #[arg(long, value_name = "PX", help_heading = "Model")]
    pub image_size: Option<usize>,
    /// Pixels of a patch's side
    #[arg(long, value_name = "PX", help_heading = "Model")]
    pub patch_size: Option<usize>,
    /// Transformer blocks of the image tower
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub vision_layers: Option<usize>,
    /// Width of the image tower
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub vision_width: Option<usize>,
    /// Attention heads of the image tower; they divide its width
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub vision_heads: Option<usize>,
    /// Transformer blocks of the text tower
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub text_layers: Option<usize>,
    /// Width of the text tower
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub text_width: Option<usize>,
    /// Attention heads of the text tower; they divide its width
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub text_heads: Option<usize>,
    /// Tokens of a caption
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub context: Option<usize>,
    /// Rows of the token embedding; at least the tokenizer's
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub vocab: Option<usize>,
    /// Width of the joint embedding
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub embed_dim: Option<usize>,
    /// Share of the image patches that is left out, in [0, 1): FLIP's own setting
    #[arg(long, value_name = "RATIO", help_heading = "Model")]
    pub mask_ratio: Option<f64>,
    /// Start from the weights of this checkpoint, or run folder, with a new optimizer (unmasked tuning, for instance)
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    pub init_from: Option<PathBuf>,

    /// What is minimised
    #[arg(long, help_heading = "Training")]
    pub loss: Option<Loss>,
    /// Pairs per step
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub batch: Option<usize>,
    /// Length of the run in optimizer steps
    #[arg(long, value_name = "N", group = "length", help_heading = "Training")]
    pub steps: Option<u64>,
    /// Length of the run in samples seen
    #[arg(long, value_name = "N", group = "length", help_heading = "Training")]
    pub samples: Option<u64>,
    /// Length of the run in passes over the data
    #[arg(long, value_name = "N", group = "length", help_heading = "Training")]
    pub epochs: Option<f64>,
    /// Length of the run as a time (90s, 5m, 1h30m): a few steps are timed and undone, and as many samples as fit what is left
    /// become the run's length, which the learning rate follows. config.toml keeps that number, so that the run repeats and
    /// resumes exactly, on slower machines too. The last evaluation comes on top
    #[arg(long, value_name = "TIME", group = "length", help_heading = "Training")]
    pub time: Option<String>,
    /// Peak learning rate
    #[arg(long, value_name = "LR", group = "rate", help_heading = "Training")]
    pub lr: Option<f64>,
    /// Peak learning rate per 256 pairs of batch: lr = base_lr * batch / 256
    #[arg(long, value_name = "LR", group = "rate", help_heading = "Training")]
    pub base_lr: Option<f64>,
    /// Samples over which the learning rate rises from 0 [default: 51.2 M, and at most a tenth of
    /// the run, or of a short one 20 steps or a third]
    #[arg(long, value_name = "N", help_heading = "Training")]
    pub warmup_samples: Option<u64>,
    /// AdamW's weight decay
    #[arg(long, value_name = "W", help_heading = "Training")]
    pub weight_decay: Option<f32>,
    /// AdamW's decay of the first moment
    #[arg(long, value_name = "B", help_heading = "Training")]
    pub beta1: Option<f32>,
    /// AdamW's decay of the second moment
    #[arg(long, value_name = "B", help_heading = "Training")]
    pub beta2: Option<f32>,
    /// What AdamW adds to the root of the second moment
    #[arg(long, value_name = "E", help_heading = "Training")]
    pub eps: Option<f32>,
    /// Largest norm of all gradients together; 0: no limit
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    pub clip_norm: Option<f32>,
    /// Whether weight decay applies to the CLS token, as in the authors' code
    #[arg(long, value_name = "BOOL", help_heading = "Training")]
    pub decay_cls: Option<bool>,
    /// What the backward pass computes again instead of keeping it, so that larger batches fit [default: none]
    #[arg(long, help_heading = "Training")]
    pub recompute: Option<Recompute>,
    /// Key of all random numbers; same seed, same run, to the bit
    #[arg(long, help_heading = "Training")]
    pub seed: Option<u64>,

    /// What `--precision` came to; the flag itself belongs to the device.
    #[arg(skip)]
    pub precision: Option<Precision>,

    /// Steps between lines of metrics
    #[arg(long, value_name = "STEPS", help_heading = "Output")]
    pub log_every: Option<u64>,
    /// Steps between checkpoints; 0: only at the end
    #[arg(long, value_name = "STEPS", help_heading = "Output")]
    pub save_every: Option<u64>,
    /// Checkpoints kept
    #[arg(long, value_name = "K", help_heading = "Output")]
    pub keep: Option<usize>,
    /// Steps between evaluations; 0: only at the end
    #[arg(long, value_name = "STEPS", help_heading = "Output")]
    pub eval_every: Option<u64>,
}

/// `true`, `false`, and what the flag takes.
fn yes_or_no<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Boolean(said) => Ok(Some(said)),
        Value::String(said) if said == "yes" => Ok(Some(true)),
        Value::String(said) if said == "no" => Ok(Some(false)),
        _ => Err(D::Error::custom("it must be true or false, or \"yes\" or \"no\"")),
    }
}

/// Options of which at most one may be given: a flag removes the file's others.
const EXCLUSIVE: &[&[&str]] = &[&["steps", "samples", "epochs", "time"], &["lr", "base_lr"]];

impl Options {
    /// What they say about the tokenizer, whichever it is.
    pub fn tokenizer_options(&self) -> TokenizerOptions {
        TokenizerOptions { lower_case: self.lower_case, pad_token: self.pad_token.clone() }
    }

    /// The keys that a TOML file may have.
    fn keys() -> Vec<String> {
        let command = Self::augment_args(Command::new("train"));
        let flags = command.get_arguments().map(|argument| argument.get_id().to_string());
        flags.chain(["precision".to_owned()]).collect()
    }

    /// These options over those of a TOML file.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML, an unknown key (with the nearest known one), a value of a wrong type.
    pub fn over_file(self, path: &Path) -> Result<Self, TrainError> {
        let bad = |problem: String| TrainError::Config { path: path.to_owned(), problem };
        let text = text::read(path)?;
        let mut table: Table = text.parse().map_err(|why: toml::de::Error| bad(why.to_string()))?;
        let keys = Self::keys();
        if let Some(unknown) = table.keys().find(|key| !keys.contains(key)) {
            return Err(bad(unknown_key(unknown, &keys)));
        }
        let flags = Table::try_from(self).map_err(|why| bad(why.to_string()))?;
        for group in EXCLUSIVE.iter().filter(|group| group.iter().any(|key| flags.contains_key(*key))) {
            group.iter().for_each(|key| drop(table.remove(*key)));
        }
        // Of each option in turn, so that an error names it.
        for (key, value) in &table {
            let one = Table::from_iter([(key.clone(), value.clone())]);
            one.try_into::<Self>().map_err(|why| bad(format!("{key} = {value}: {}", why.message())))?;
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

    /// Checks that these are all options of a run, as `path`, its `config.toml`, should hold them: what is missing of a file
    /// that was cut would be replaced by defaults.
    ///
    /// # Errors
    /// [`TrainError::Config`] if it lacks one that every run has.
    pub fn check_whole(&self, path: &Path) -> Result<(), TrainError> {
        // The first, some between and the last that is written.
        const ALWAYS: [&str; 6] = ["data", "model", "batch", "seed", "keep", "eval_every"];
        let table = Table::try_from(self).unwrap_or_default();
        match ALWAYS.iter().find(|key| !table.contains_key(**key)) {
            None => Ok(()),
            Some(key) => {
                let problem = format!(
                    "it has no `{key}`, which each run's has, and must have been cut; restore it, or start a new run with \
                     --init-from"
                );
                Err(TrainError::Config { path: path.to_owned(), problem })
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        Table::try_from(self).is_ok_and(|table| table.contains_key(key))
    }

    /// As the text of a TOML file.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        toml::to_string(self).map_err(|why| TrainError::Settings { problem: format!("cannot be written: {why}") })
    }

    /// The keys whose values differ from `other`'s.
    pub fn changed_from(&self, other: &Self) -> Vec<String> {
        let [mine, theirs] = [self, other].map(|options| Table::try_from(options).unwrap_or_default());
        let value = |table: &Table, key: &str| table.get(key).cloned().map(|value: Value| value.to_string());
        let mut keys: Vec<&String> = mine.keys().chain(theirs.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter().filter(|key| value(&mine, key) != value(&theirs, key)).cloned().collect()
    }
}

/// Flags that say where and how this process computes, and are no part of a run.
const FLAGS_ONLY: &[&str] = &["config", "device", "out", "resume", "threads"];

fn unknown_key(key: &str, known: &[String]) -> String {
    if FLAGS_ONLY.contains(&key) {
        return format!("`{key}` is no key of this file; give it on the command line as --{key}");
    }
    let near = known.iter().map(|known| (strsim::jaro_winkler(key, known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, near)) if likeness > 0.8 => format!("unknown key `{key}`; did you mean `{near}`?"),
        _ => format!("unknown key `{key}`; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Settings;

    fn read(text: &str, flags: Options) -> Result<Options, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        flags.over_file(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_replace_what_they_exclude() {
        let flags = Options { batch: Some(8), steps: Some(3), ..Options::default() };
        let merged = read("batch = 4\nepochs = 2.5\nseed = 7\nmodel = \"b16\"\ndata = ['a.tar']", flags).unwrap();
        let expected = Options {
            batch: Some(8),
            steps: Some(3),
            seed: Some(7),
            model: Some(Preset::B16),
            data: Some(vec!["a.tar".to_owned()]),
            ..Options::default()
        };
        assert_eq!(merged, expected);
        assert_eq!(merged.changed_from(&Options { batch: Some(9), ..expected }), ["batch"]);
    }

    #[test]
    fn options_survive_their_file() {
        let options = Options { lr: Some(1e-3), flip: Some(0.1), decay_cls: Some(false), ..Options::default() };
        assert_eq!(read(&options.to_toml().unwrap(), Options::default()).unwrap(), options);
        for (text, lower) in [("\"yes\"", true), ("\"no\"", false), ("true", true), ("false", false)] {
            let options = Options { lower_case: Some(lower), ..Options::default() };
            assert_eq!(read(&format!("\u{FEFF}lower_case = {text}\r\n"), Options::default()).unwrap(), options);
            assert_eq!(read(&options.to_toml().unwrap(), Options::default()).unwrap(), options);
        }
    }

    #[test]
    fn a_config_that_was_cut_is_noticed() {
        let options = Settings::resolve(Options::default(), 4096).unwrap().options;
        let text = options.to_toml().unwrap();
        let whole = |text: &str| {
            read(text, Options::default())
                .and_then(|options| options.check_whole(Path::new("config.toml")).map_err(|error| error.to_string()))
        };
        whole(&text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for kept in 0..lines.len() {
            let error = whole(&lines[..kept].join("\n")).unwrap_err();
            assert!(error.contains("must have been cut"), "{kept} lines: {error}");
        }
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        let error = |text: &str| read(text, Options::default()).unwrap_err();
        assert!(error("mask_ration = 0.5").contains("unknown key `mask_ration`; did you mean `mask_ratio`?"));
        assert!(error("device = 'cpu'").contains("on the command line as --device"));
        assert!(error("zzz = 1").contains("known are data, eval_data"));
        assert!(error("lower_case = \"maybe\"").contains("\"yes\" or \"no\""));
        assert!(error("batch = \"many\"").contains("batch = \"many\""));
        assert!(error("steps = 1\nepochs = 2").contains("steps and epochs exclude each other"));
        assert!(error("steps 1").contains("1 |"), "{}", error("steps 1"));
    }
}
