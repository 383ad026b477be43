//! `flipk eval`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::device::{DeviceArgs, Job};
use super::table::{percent, table};
use crate::autograd::Parameters;
use crate::data::image::ExifOrientation;
use crate::data::{CaptionKeys, Dataset, Skipped, Tokenizer};
use crate::eval::{self, ClassNames, Encoder, Inputs, Retrieval, Templates, ZeroShot};
use crate::model::Flip;
use crate::ops::AllOps;
use crate::train::Options;
use crate::train::checkpoint::Checkpoint;

/// Evaluate a checkpoint: zero-shot classification or retrieval
#[derive(Args)]
pub struct Eval {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Classify images by the nearest class name: top-1 and top-5
    ZeroShot {
        #[command(flatten)]
        common: Common,
        /// File with a class name per line; an image's caption is its class's name or line number from 0
        /// [default: the data's distinct captions]
        #[arg(long, value_name = "FILE")]
        classes: Option<PathBuf>,
        /// File with a prompt per line, {} for the class name; their embeddings are averaged [default: the name alone]
        #[arg(long, value_name = "FILE")]
        templates: Option<PathBuf>,
    },
    /// Find texts by images and images by texts: recall at 1, 5 and 10
    Retrieval {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Run folder (its newest checkpoint) or checkpoint file
    checkpoint: PathBuf,
    /// Shards to evaluate on, as for `flipk train --data`
    #[arg(long, num_args = 1.., value_name = "SHARDS", default_values_t = ["embedded:fluent".to_owned()])]
    data: Vec<String>,
    /// Tokenizer [default: the run folder's]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where captions are: `txt` for the .txt member, else a field of the .json member
    #[arg(long, value_name = "KEY")]
    caption_key: Option<String>,
    /// What becomes of photos whose EXIF data says that they are to be turned [default: as in the run, else ignore]
    #[arg(long, value_name = "WHAT")]
    exif_orientation: Option<ExifOrientation>,
    /// Images at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Share of broken samples in a shard above which evaluation stops
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    max_bad: f32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

enum Kind {
    ZeroShot { classes: Option<ClassNames>, templates: Templates },
    Retrieval,
}

enum Found {
    ZeroShot(ZeroShot),
    Retrieval(Retrieval),
}

struct Evaluation<'a> {
    common: &'a Common,
    kind: Kind,
    checkpoint: Checkpoint,
    dataset: Arc<Dataset>,
    tokenizer: Tokenizer,
}

impl Eval {
    pub fn run(self) -> Result<ExitCode> {
        let (common, kind) = match &self.task {
            Task::Retrieval { common } => (common, Kind::Retrieval),
            Task::ZeroShot { common, classes, templates } => {
                let classes = classes.as_deref().map(ClassNames::from_file).transpose()?;
                let templates = templates.as_deref().map(Templates::from_file).transpose()?.unwrap_or_default();
                (common, Kind::ZeroShot { classes, templates })
            }
        };
        let checkpoint = Checkpoint::open(&common.checkpoint)?;
        let tokenizer = common.tokenizer(&checkpoint)?;
        let keys = CaptionKeys { caption_key: common.caption_key.clone(), ..CaptionKeys::default() };
        let orientation = common.orientation(&checkpoint)?;
        let dataset = Arc::new(Dataset::open(&common.data, keys)?.with_orientation(orientation));
        let (found, skipped) = common.device.run(Evaluation { common, kind, checkpoint, dataset, tokenizer })?;
        for (kind, count) in skipped {
            eprintln!("skipped: {count} x {kind}");
        }
        match (&found, common.json) {
            (Found::ZeroShot(found), true) => println!("{}", serde_json::to_string_pretty(found)?),
            (Found::Retrieval(found), true) => println!("{}", serde_json::to_string_pretty(found)?),
            (Found::ZeroShot(found), false) => {
                let rows =
                    [[found.images.to_string(), found.classes.to_string(), percent(found.top1), percent(found.top5)]];
                print!("{}", table(["images", "classes", "top-1", "top-5"], &rows));
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
                print!("{}", table(["retrieval", "queries", "R@1", "R@5", "R@10"], &rows));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Common {
    /// The orientation that was given, or the run's.
    fn orientation(&self, checkpoint: &Checkpoint) -> Result<ExifOrientation> {
        let of_the_run = || match checkpoint.beside("config.toml") {
            Some(config) => Ok(Options::default().over_file(&config)?.exif_orientation),
            None => Ok(None),
        };
        let known = self.exif_orientation.map_or_else(of_the_run, |given| anyhow::Ok(Some(given)))?;
        Ok(known.unwrap_or_default())
    }

    /// The tokenizer that was given, or the one in the checkpoint's run folder.
    fn tokenizer(&self, checkpoint: &Checkpoint) -> Result<Tokenizer> {
        let path = self.tokenizer.clone().or_else(|| checkpoint.beside("tokenizer.json"));
        let path = path.context("there is no tokenizer.json beside the checkpoint; give --tokenizer")?;
        Ok(Tokenizer::from_file(&path)?)
    }
}

impl Job for Evaluation<'_> {
    type Output = (Found, Skipped);

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output> {
        let flip = Flip::new(&self.checkpoint.state.model, true);
        let params = Parameters::new(&*device, flip.layout().clone(), &self.checkpoint.weights(flip.layout())?)?;
        let mut encoder = Encoder::new(&device, &flip, self.common.batch as usize)?;
        let bar = ProgressBar::new(self.dataset.len() as u64);
        bar.set_style(ProgressStyle::with_template("{bar:24.cyan/blue} {pos}/{len} images  {per_sec}  {eta} left")?);
        let inputs =
            Inputs { dataset: &self.dataset, tokenizer: &self.tokenizer, max_bad: self.common.max_bad, bar: &bar };
        let found = match &self.kind {
            Kind::ZeroShot { classes, templates } => {
                Found::ZeroShot(eval::zero_shot(&mut encoder, &params, &inputs, classes.as_ref(), templates)?)
            }
            Kind::Retrieval => Found::Retrieval(eval::retrieval(&mut encoder, &params, &inputs)?),
        };
        bar.finish_and_clear();
        Ok((found, encoder.skipped().clone()))
    }
}
