//! What commands that embed images and texts share: flags, and a progress bar.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Error, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::logging::show;
use crate::autograd::Parameters;
use crate::data::{CaptionKeys, ClassNumbers, Dataset, EvalBatch, Filter, Tokenizer, TokenizerOptions};
use crate::eval::{Encoder, Inputs};
use crate::log;
use crate::ops::AllOps;
use crate::train::{Weights, open_tokenizer};

/// How images and texts are read.
#[derive(Args)]
pub(super) struct EncodeArgs {
    /// Tokenizer: a `tokenizer.json`, a `vocab.txt`, or `clip` [default: the one beside the model]
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
}

impl EncodeArgs {
    pub(super) fn batch(&self) -> usize {
        self.batch as usize
    }

    /// Opens images, which need no captions.
    pub(super) fn open(&self, specs: &[String]) -> Result<Arc<Dataset>> {
        let keys = CaptionKeys {
            class_numbers: ClassNumbers::Unused,
            image_key: self.image_key.clone(),
            filter: self.filter.clone(),
            ..CaptionKeys::default()
        };
        let dataset = Dataset::open(specs, keys)?;
        log::lines(dataset.warnings());
        Ok(Arc::new(dataset))
    }

    /// The tokenizer that the model was trained with.
    pub(super) fn tokenizer(&self, model: &Weights) -> Result<Tokenizer> {
        let path = self.tokenizer.clone().or_else(|| model.tokenizer());
        let found = open_tokenizer(path.as_deref(), &model.described(), TokenizerOptions::default())?;
        found.context("there is no tokenizer.json beside the model; pass --tokenizer")
    }

    /// A progress bar over `count` images or texts.
    pub(super) fn bar(count: u64, what: &str) -> Result<ProgressBar> {
        let bar = show(ProgressBar::new(count));
        let style = format!("{{bar:24.cyan/blue}} {{pos}}/{{len}} {what}  {{per_sec}}  {{eta}} left");
        bar.set_style(ProgressStyle::with_template(&style)?);
        Ok(bar)
    }

    /// Passes each batch and its embeddings, `[samples, embed_dim]`, to `each`, with a progress bar.
    pub(super) fn each_image<D: AllOps>(
        &self,
        encoder: &mut Encoder<D>,
        params: &Parameters<D>,
        dataset: &Arc<Dataset>,
        each: impl FnMut(EvalBatch, &[f32]) -> Result<(), Error>,
    ) -> Result<()> {
        let bar = Self::bar(dataset.len() as u64, "images")?;
        let progress = |count: usize| {
            bar.inc(count as u64);
            ControlFlow::Continue(())
        };
        // No text is read from the data.
        let embedded = Tokenizer::embedded(&TokenizerOptions::default())?;
        let inputs = Inputs { dataset, tokenizer: &embedded, max_bad: self.max_bad, progress: &progress };
        let done = encoder.each_image(params, &inputs, each);
        bar.finish_and_clear();
        log::lines(encoder.take_warnings());
        done
    }
}
