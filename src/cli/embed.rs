//! `flipk embed`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

use super::device::{DeviceArgs, Job};
use super::logging::show;
use super::put;
use crate::autograd::Parameters;
use crate::data::{CaptionKeys, ClassNumbers, Dataset, Filter, Skipped, Tokenizer, TokenizerOptions, text};
use crate::eval::{Encoder, Inputs, MatrixFile};
use crate::log;
use crate::ops::AllOps;
use crate::train::{Weights, open_tokenizer};

/// Write the embeddings of images and texts
///
/// Rows have length 1 and are in the order of the input. Broken images are left out and counted; the names of the
/// others are in FILE.keys, one per line.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk embed runs/b16-001 --images photos/ --out photos.npy
  flipk embed laion/ViT-B-16 --images 'cc12m/{00000..01242}.tar' --texts queries.txt --out cc12m.safetensors")]
pub(super) struct Embed {
    /// Run folder (its newest checkpoint), checkpoint file, or folder of an OpenCLIP or Hugging Face model
    model: PathBuf,
    /// Images, as for `flipk train --data`; captions are not needed
    #[arg(long, num_args = 1.., value_name = "SHARDS", required_unless_present = "texts")]
    images: Option<Vec<String>>,
    /// File with a text per line
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// File to write: .npy, or .safetensors with the tensors `images` and `texts`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokenizer [default: the one beside the model]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Column of a table (CSV, TSV, Parquet) with images or their paths
    #[arg(long, value_name = "COLUMN")]
    image_key: Option<String>,
    /// Use only samples for which this holds, as `flipk train --where`
    #[arg(long = "where", value_name = "EXPRESSION")]
    filter: Option<Filter>,
    /// Images or texts per batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Share of broken images above which it stops
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    max_bad: f32,
    #[command(flatten)]
    device: DeviceArgs,
}

struct Work<'a> {
    flags: &'a Embed,
    model: Weights,
    images: Option<Arc<Dataset>>,
    texts: Vec<String>,
    tokenizer: Option<Tokenizer>,
}

/// Rows of images and of texts, and what was left out.
type Written = (u64, usize, Skipped);

impl Embed {
    pub(super) fn run(self) -> Result<ExitCode> {
        let model = Weights::open(&self.model)?;
        let open = |specs: &Vec<String>| {
            let keys = CaptionKeys {
                class_numbers: ClassNumbers::Unused,
                image_key: self.image_key.clone(),
                filter: self.filter.clone(),
                ..CaptionKeys::default()
            };
            Dataset::open(specs, keys).map(Arc::new)
        };
        let images = self.images.as_ref().map(open).transpose()?;
        if let Some(images) = &images {
            log::lines(images.warnings());
        }
        let lines = |path: &PathBuf| Ok::<_, anyhow::Error>(text::read(path)?.lines().map(str::to_owned).collect());
        let texts: Vec<String> = self.texts.as_ref().map(lines).transpose()?.unwrap_or_default();
        let tokenizer = match &self.texts {
            Some(_) => {
                let path = self.tokenizer.clone().or_else(|| model.tokenizer());
                let found = open_tokenizer(path.as_deref(), &model.described(), TokenizerOptions::default())?;
                Some(found.context("there is no tokenizer.json next to the model; pass --tokenizer")?)
            }
            None => None,
        };
        if images.is_some() && self.texts.is_some() && self.out.extension().is_some_and(|ending| ending == "npy") {
            bail!("a .npy file has one matrix: give --images or --texts, or a name that ends in .safetensors");
        }
        let work = Work { flags: &self, model, images, texts, tokenizer };
        let (images, texts, skipped) = self.device.run(work)?;
        for (kind, count) in &skipped {
            info!("left out: {count} x {kind}");
        }
        put(format_args!("{}: {images} images, {texts} texts\n", self.out.display()))?;
        Ok(ExitCode::SUCCESS)
    }

    /// The file with the images' names.
    fn keys(&self) -> PathBuf {
        let mut name = self.out.clone().into_os_string();
        name.push(".keys");
        name.into()
    }
}

impl Job for Work<'_> {
    type Output = Written;

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Written> {
        let Self { flags, model, images, texts, tokenizer } = self;
        let (flip, values) = model.values()?;
        let params = Parameters::new(&*device, flip.layout().clone(), &values)?;
        drop(values);
        let mut encoder = Encoder::new(&device, &flip, flags.batch as usize)?;
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        let mut out = MatrixFile::create(&flags.out, encoder.width()).with_context(|| cannot(&flags.out))?;
        let (mut rows, mut skipped) = (0, Skipped::new());
        if let Some(dataset) = &images {
            let keys = flags.keys();
            let mut names = BufWriter::new(File::create(&keys).with_context(|| cannot(&keys))?);
            out.begin("images")?;
            let bar = show(ProgressBar::new(dataset.len() as u64));
            bar.set_style(ProgressStyle::with_template(
                "{bar:24.cyan/blue} {pos}/{len} images  {per_sec}  {eta} left",
            )?);
            let progress = |count: usize| bar.inc(count as u64);
            // No text is read from the data.
            let embedded = Tokenizer::embedded(&TokenizerOptions::default())?;
            let inputs = Inputs { dataset, tokenizer: &embedded, max_bad: flags.max_bad, progress: &progress };
            let written = encoder.each_image(&params, &inputs, |batch, found| {
                rows += batch.samples.len() as u64;
                out.rows(found).with_context(|| cannot(&flags.out))?;
                let names_of = batch.samples.iter().map(|sample| dataset.key(*sample));
                names_of.into_iter().try_for_each(|name| writeln!(names, "{name}")).with_context(|| cannot(&keys))
            });
            bar.finish_and_clear();
            log::lines(encoder.take_warnings());
            written?;
            names.flush().with_context(|| cannot(&keys))?;
            skipped = encoder.skipped().clone();
        }
        if let Some(tokenizer) = &tokenizer {
            out.begin("texts")?;
            for chunk in texts.chunks(flags.batch as usize) {
                let found = encoder.texts(&params, tokenizer, chunk)?;
                out.rows(&found).with_context(|| cannot(&flags.out))?;
            }
        }
        out.finish().with_context(|| cannot(&flags.out))?;
        Ok((rows, texts.len(), skipped))
    }
}
