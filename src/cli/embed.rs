//! `flipk embed`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args};
use tracing::info;

use super::device::{DeviceArgs, Job};
use super::encode::EncodeArgs;
use super::put;
use crate::autograd::Parameters;
use crate::data::{Dataset, Skipped, Tokenizer, text};
use crate::eval::{Encoder, MatrixFile, Part};
use crate::ops::AllOps;
use crate::train::Weights;

/// Write the embeddings of images and texts
///
/// Rows have length 1 and are in the order of the input. Broken images are left out and counted; the keys of the others
/// are in FILE.keys, one per line, or in the columns `key` and `shard` of a Parquet file. The key of an image file is
/// its name.
#[derive(Args)]
#[command(group = ArgGroup::new("inputs").args(["images", "texts"]).required(true).multiple(true))]
#[command(override_usage = "flipk embed [OPTIONS] <MODEL> --out <FILE> <--images <SHARDS>...|--texts <FILE>>")]
#[command(after_help = "Examples:
  flipk embed runs/b16-001 --images photos/ --out photos.npy
  flipk embed runs/b16-001 --images '2024/*.jpg' cover.png --out some.parquet
  flipk embed laion/ViT-B-16 --images 'cc12m/{00000..01242}.tar' --texts queries.txt --out cc12m.safetensors")]
pub(super) struct Embed {
    /// Run folder (its newest checkpoint), checkpoint file, or folder of an OpenCLIP or Hugging Face model
    model: PathBuf,
    /// Images, as for `flipk train --data`: shards, folders, tables or image files; captions are not needed
    #[arg(long, num_args = 1.., value_name = "SHARDS")]
    images: Option<Vec<String>>,
    /// File with a text per line
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// File to write: .npy; .safetensors with the tensors `images` and `texts`; or .parquet with the columns `key` and
    /// `shard`, or `text`, and `embedding`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    encode: EncodeArgs,
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
        let images = self.images.as_ref().map(|specs| self.encode.open(specs)).transpose()?;
        let lines = |path: &PathBuf| Ok::<_, anyhow::Error>(text::read(path)?.lines().map(str::to_owned).collect());
        let texts: Vec<String> = self.texts.as_ref().map(lines).transpose()?.unwrap_or_default();
        let tokenizer = self.texts.as_ref().map(|_| self.encode.tokenizer(&model)).transpose()?;
        if images.is_some() && self.texts.is_some() && self.out.extension().is_none_or(|end| end != "safetensors") {
            bail!(
                "{} can have one matrix: give --images or --texts, or a name that ends in .safetensors",
                self.out.display()
            );
        }
        let work = Work { flags: &self, model, images, texts, tokenizer };
        let (images, texts, skipped) = self.device.run(work)?;
        for (kind, count) in &skipped {
            info!("left out: {count} x {kind}");
        }
        put(format_args!("{}: {images} images, {texts} texts\n", self.out.display()))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Job for Work<'_> {
    type Output = Written;

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Written> {
        let Self { flags, model, images, texts, tokenizer } = self;
        let (flip, values) = model.values()?;
        let params = Parameters::new(&*device, flip.layout().clone(), &values)?;
        drop(values);
        let mut encoder = Encoder::new(&device, &flip, flags.encode.batch())?;
        let cannot = || format!("cannot write {}", flags.out.display());
        let mut out = MatrixFile::create(&flags.out, encoder.width()).with_context(cannot)?;
        let (mut rows, mut skipped) = (0, Skipped::new());
        if let Some(dataset) = &images {
            out.begin(Part::Images).with_context(cannot)?;
            flags.encode.each_image(&mut encoder, &params, dataset, |batch, found| {
                rows += batch.samples.len() as u64;
                let keys: Vec<_> = batch.samples.iter().map(|&sample| dataset.key(sample)).collect();
                let shards: Vec<_> = batch.samples.iter().map(|&sample| dataset.shard(sample)).collect();
                out.rows(&keys, &shards, found).with_context(cannot)
            })?;
            skipped = encoder.skipped().clone();
        }
        if let Some(tokenizer) = &tokenizer {
            out.begin(Part::Texts).with_context(cannot)?;
            let bar = EncodeArgs::bar(texts.len() as u64, "texts")?;
            for chunk in texts.chunks(flags.encode.batch()) {
                let found = encoder.texts(&params, tokenizer, chunk)?;
                out.rows(chunk, &[], &found).with_context(cannot)?;
                bar.inc(chunk.len() as u64);
            }
            bar.finish_and_clear();
        }
        out.finish().with_context(cannot)?;
        Ok((rows, texts.len(), skipped))
    }
}
