//! `flipk eval`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tracing::{info, warn};

use super::device::{DeviceArgs, Job};
use super::logging::show;
use super::put;
use super::table::{percent, table};
use crate::autograd::Parameters;
use crate::data::image::{Decoding, ExifOrientation};
use crate::data::{
    CaptionKeys, CaptionLines, ClassNumbers, Dataset, Filter, Skipped, Survey, Tokenizer, TokenizerOptions,
};
use crate::eval::{self, ClassNames, Classes, Encoder, Inputs, Labels, Retrieval, Templates, ZeroShot};
use crate::log;
use crate::ops::AllOps;
use crate::train::{Options, Weights, open_tokenizer};

/// Evaluate a model: zero-shot classification or retrieval
#[derive(Args)]
pub(super) struct Eval {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Classify images by the nearest class name: top-1 and top-5
    ZeroShot {
        #[command(flatten)]
        common: Common,
        /// File with one class name per line. An image's class is the number in its .cls member, from 0, or its
        /// caption, which is a number or one of the names [default: the data's distinct captions]
        #[arg(long, value_name = "FILE")]
        classes: Option<PathBuf>,
        /// File with one prompt per line, {} or {c} for the class name; a class's embeddings are averaged [default: the
        /// name alone]
        #[arg(long, value_name = "FILE")]
        templates: Option<PathBuf>,
        /// How to read captions that are numbers if the class names are numbers too
        #[arg(long, value_enum, default_value_t)]
        labels: Labels,
    },
    /// Retrieve texts by image and images by text: recall at 1, 5 and 10
    Retrieval {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Run folder (its newest checkpoint), checkpoint file, or folder of an OpenCLIP or Hugging Face model
    model: PathBuf,
    /// Shards to evaluate on, as for `flipk train --data` [default: the run's --eval-data, with its --classes and
    /// --templates, or else embedded:fluent]
    #[arg(long, num_args = 1.., value_name = "SHARDS")]
    data: Option<Vec<String>>,
    /// Use only samples for which this holds, as `flipk train --where`; the run's own does not apply here
    #[arg(long = "where", value_name = "EXPRESSION")]
    filter: Option<Filter>,
    /// Tokenizer, or `clip` for CLIP's, which is built in [default: the run folder's, or that of an OpenCLIP model]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where captions are: `txt` for the .txt member, `cls` for the class number in the .cls member, else a field of
    /// the .json member; with several, as in caption,alt_text, all are read [default: where they were at training]
    #[arg(long, value_name = "KEY")]
    caption_key: Option<String>,
    /// Column of a table (CSV, TSV, Parquet) with images or their paths [default: as at training]
    #[arg(long, value_name = "COLUMN")]
    image_key: Option<String>,
    /// How to read a .txt member of several lines: as one caption per line (each), or as a single caption (join)
    /// [default: as at training]
    #[arg(long, value_name = "each|join", hide_possible_values = true)]
    caption_lines: Option<CaptionLines>,
    /// Whether texts are lower-cased [default: as at training; of another --tokenizer, as `flipk train` decides]
    #[arg(long, value_name = "yes|no", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    lower_case: Option<bool>,
    /// Token that pads short texts [default: as at training; of another --tokenizer, as `flipk train` decides]
    #[arg(long, value_name = "TOKEN")]
    pad_token: Option<String>,
    /// Whether texts stand between a start and an end token [default: as at training]
    #[arg(long, value_name = "yes|no", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    special_tokens: Option<bool>,
    /// What to do with photos that EXIF data says to rotate [default: as at training, else ignore]
    #[arg(long, value_name = "WHAT")]
    exif_orientation: Option<ExifOrientation>,
    /// Seconds without a byte from a server or a command after which an attempt is given up [default: as at training]
    #[arg(long, value_name = "SECONDS")]
    io_timeout: Option<f64>,
    /// Folder that keeps fetched shards [default: as at training]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Largest size of --cache (500MB, 2TiB) [default: as at training, else 100GiB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
    /// Images per batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Share of broken samples above which evaluation stops
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    max_bad: f32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

enum Kind {
    ZeroShot { classes: Classes, templates: Templates },
    Retrieval,
}

enum Found {
    ZeroShot(ZeroShot),
    Retrieval(Retrieval),
}

struct Evaluation<'a> {
    common: &'a Common,
    kind: Kind,
    model: Weights,
    dataset: Arc<Dataset>,
    tokenizer: Tokenizer,
}

impl Eval {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (Task::Retrieval { common } | Task::ZeroShot { common, .. }) = &self.task;
        let model = Weights::open(&common.model)?;
        let run = run_options(&model);
        let tokenizer = common.tokenizer(&model, &run)?;
        let (dataset, kind, named) = match &self.task {
            Task::Retrieval { common } => (common.open(&run, ClassNumbers::Ignore)?, Kind::Retrieval, false),
            Task::ZeroShot { common, classes, templates, labels } => {
                // The run's own class names and prompts apply only to its own data.
                let own = if common.data.is_none() { run.clone() } else { Options::default() };
                let names = classes.as_ref().or(own.classes.as_ref());
                let names = names.map(|path| ClassNames::from_file(path)).transpose()?;
                let templates = templates.as_ref().or(own.templates.as_ref());
                let templates = templates.map(|path| Templates::from_file(path)).transpose()?.unwrap_or_default();
                let labels = match labels {
                    Labels::Auto => own.labels.unwrap_or_default(),
                    &labels => labels,
                };
                let numbers = if names.is_some() { ClassNumbers::Prefer } else { ClassNumbers::Accept };
                let dataset = common.open(&run, numbers)?;
                let classes = Classes::from_dataset(&dataset, names.as_ref(), labels)?;
                log::lines(classes.notes());
                (dataset, Kind::ZeroShot { classes, templates }, names.is_some())
            }
        };
        let orientation = common.exif_orientation.or(run.exif_orientation).unwrap_or_default();
        let decoding = Decoding { orientation, jpeg: run.jpeg.unwrap_or_default(), scale_to: None };
        let dataset = Arc::new(dataset.with_decoding(decoding));
        log::lines(dataset.warnings());
        // With class names, captions may be class numbers, which are not embedded.
        if !named {
            let survey = Survey::run(&dataset, &tokenizer, model.model().context)?;
            log::lines(survey.warnings(false));
        }
        let (found, skipped) = common.device.run(Evaluation { common, kind, model, dataset, tokenizer })?;
        for (kind, count) in skipped {
            info!("skipped: {count} x {kind}");
        }
        match (&found, common.json) {
            (Found::ZeroShot(found), true) => put(format_args!("{}\n", serde_json::to_string_pretty(found)?))?,
            (Found::Retrieval(found), true) => put(format_args!("{}\n", serde_json::to_string_pretty(found)?))?,
            (Found::ZeroShot(found), false) => {
                let rows =
                    [[found.images.to_string(), found.classes.to_string(), percent(found.top1), percent(found.top5)]];
                put(format_args!("{}", table(["images", "classes", "top-1", "top-5"], &rows)))?;
            }
            (Found::Retrieval(found), false) => {
                let row = |name: &str, of: usize, recall: &eval::Recall| {
                    let [r1, r5, r10] = [recall.r1, recall.r5, recall.r10].map(percent);
                    [name.to_owned(), of.to_string(), r1, r5, r10]
                };
                let rows = [
                    row("image to text", found.images, &found.image_to_text),
                    row("text to image", found.texts, &found.text_to_image),
                ];
                put(format_args!("{}", table(["retrieval", "queries", "R@1", "R@5", "R@10"], &rows)))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The options of the model's run; the defaults if its `config.toml` is missing or unreadable.
fn run_options(model: &Weights) -> Options {
    let Some(config) = model.run_config() else { return Options::default() };
    Options::default().over_file(&config).unwrap_or_else(|error| {
        warn!("{error}; using default options instead of the run's");
        Options::default()
    })
}

impl Common {
    /// Opens the data to evaluate on: by default the run's, with captions from where they were at training.
    fn open(&self, run: &Options, numbers: ClassNumbers) -> Result<Dataset> {
        let own = run.eval_data.clone().filter(|data| !data.is_empty());
        // A checkpoint may come from others, and evaluating it must not run their commands.
        let mut specs = own.iter().flatten();
        if let (None, Some(command)) = (&self.data, specs.find(|spec| spec.contains("pipe:"))) {
            bail!("the run's evaluation data is the output of a command, {command:?}; to run it, pass it by --data");
        }
        let data = self.data.clone().or(own).unwrap_or_else(|| vec!["embedded:fluent".to_owned()]);
        let caption_lines = self.caption_lines.or(run.caption_lines).unwrap_or_default();
        let image_key = self.image_key.as_ref().or(run.image_key.as_ref());
        let access = Options {
            io_timeout: self.io_timeout.or(run.io_timeout),
            cache: self.cache.clone().or_else(|| run.cache.clone()),
            cache_size: self.cache_size.clone().or_else(|| run.cache_size.clone()),
            ..Options::default()
        };
        let access = access.access()?;
        let keys = |caption_key: Option<&String>, class_numbers| CaptionKeys {
            caption_key: caption_key.cloned(),
            class_numbers,
            caption_lines,
            image_key: image_key.cloned(),
            access: access.clone(),
            filter: self.filter.clone(),
            ..CaptionKeys::default()
        };
        let (dataset, note) = match &self.caption_key {
            Some(key) if key == "cls" && numbers == ClassNumbers::Ignore => {
                bail!("--caption-key cls: retrieval needs captions; class numbers are for `flipk eval zero-shot`")
            }
            Some(key) if key == "cls" => (Dataset::open(&data, keys(None, ClassNumbers::Require))?, None),
            Some(key) => (Dataset::open(&data, keys(Some(key), ClassNumbers::Ignore))?, None),
            None => eval::open(&data, &keys(run.caption_key.as_ref(), numbers))?,
        };
        log::lines(note);
        Ok(dataset)
    }

    /// The tokenizer that was given, or the one beside the model, or the model's own.
    ///
    /// # Errors
    /// If there is none, or it has more tokens than the model has embeddings.
    fn tokenizer(&self, model: &Weights, run: &Options) -> Result<Tokenizer> {
        let options = TokenizerOptions {
            lower_case: self.lower_case,
            pad_token: self.pad_token.clone(),
            special_tokens: self.special_tokens.or(run.special_tokens),
            ..TokenizerOptions::default()
        };
        let own = model.tokenizer();
        let path = self.tokenizer.as_deref().or(own.as_deref());
        let tokenizer = open_tokenizer(path, &model.described(), options)?;
        let tokenizer = tokenizer.context("there is no tokenizer.json beside the model; pass --tokenizer")?;
        let path = path.unwrap_or(Path::new(Tokenizer::CLIP));
        tokenizer.check_rows(model.model().vocab).with_context(|| path.display().to_string())?;
        if let (Some(_), Some(own)) = (&self.tokenizer, &own) {
            info!("{}", tokenizer.describe());
            if !Tokenizer::from_file(own)?.has_tokens_of(&tokenizer) {
                warn!("its tokens are not those that the model was trained with ({})", own.display());
            }
        }
        Ok(tokenizer)
    }
}

impl Job for Evaluation<'_> {
    type Output = (Found, Skipped);

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output> {
        let (flip, values) = self.model.values()?;
        let params = Parameters::new(&*device, flip.layout().clone(), &values)?;
        let mut encoder = Encoder::new(&device, &flip, self.common.batch as usize)?;
        let bar = show(ProgressBar::new(self.dataset.len() as u64));
        bar.set_style(ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} images  {per_sec}  {eta} left")?);
        let inputs = Inputs {
            dataset: &self.dataset,
            tokenizer: &self.tokenizer,
            max_bad: self.common.max_bad,
            progress: &|images| {
                bar.inc(images as u64);
                ControlFlow::Continue(())
            },
        };
        let found = match &self.kind {
            Kind::ZeroShot { classes, templates } => {
                eval::zero_shot(&mut encoder, &params, &inputs, classes, templates).map(Found::ZeroShot)
            }
            Kind::Retrieval => eval::retrieval(&mut encoder, &params, &inputs).map(Found::Retrieval),
        };
        bar.finish_and_clear();
        log::lines(encoder.take_warnings());
        let found = found?;
        let samples = bar.position().saturating_sub(encoder.skipped().values().sum());
        if let Found::Retrieval(found) = &found
            && samples > found.images as u64
        {
            info!("{samples} samples are {} images: files with equal bytes are one", found.images);
        }
        Ok((found, encoder.skipped().clone()))
    }
}
