//! `flipk data pack`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{INTERRUPTED, Shards, TokenizerArgs, bar, kinds, log_filtered};
use crate::cli::put;
use crate::cli::signals::interrupt;
use crate::cli::table::table;
use crate::data::image::JpegDecoder;
use crate::data::tools::{self, Filter, Form, Packed, ShardLimit, Tokens};
use crate::log;
use crate::units::{self, Bytes};

/// Write shards with smaller images, for data that is read many times
///
/// Images are resized to a short side of --size and stored as JPEG in WebDataset shards that other programs read too,
/// or as raw pixels, which only flipk reads. A JPEG that is not larger than --size is copied as it is. Captions, JSON
/// and class numbers stay as they are. Broken samples are left out. Shards that are not archives are left out too, and
/// then the exit code is 1. After Ctrl-C or a crash, the same command checks the shards that are there and continues
/// after the last whole one, unless the data has changed.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk data pack 'cc12m/{00000..01242}.tar' --out packed
  flipk train --data packed --tokenizer vocab.txt
  flipk data pack photos/ --out tokens --tokens --tokenizer vocab.txt
  flipk data pack photos/ --out raw --raw --size 240 --shuffle --seed 1")]
pub(super) struct Pack {
    #[command(flatten)]
    shards: Shards,
    /// Empty folder for the new shards; it is created if it does not exist
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Short side of images in pixels; smaller ones keep their size
    #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65535))]
    size: u32,
    /// Quality of the JPEGs that are encoded
    #[arg(long, value_name = "1..100", default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=100))]
    quality: u8,
    /// Store raw pixels (.rgb) instead of JPEG: several times faster to load, and about ten times larger
    #[arg(long, conflicts_with = "quality")]
    raw: bool,
    /// How images are made smaller
    #[arg(long, value_enum, default_value_t)]
    filter: Filter,
    /// Scale large JPEGs down while they are decoded, as long as they keep twice the --size: faster, with other pixels
    #[arg(long)]
    jpeg_scaling: bool,
    /// Size of a shard, such as 500MB or 1GiB
    #[arg(long, value_name = "SIZE", default_value = "500MB", value_parser = units::parse_bytes)]
    shard_size: u64,
    /// Samples in a shard, instead of --shard-size
    #[arg(long, value_name = "N", conflicts_with = "shard_size", value_parser = clap::value_parser!(u64).range(1..))]
    shard_samples: Option<u64>,
    /// Shuffle all samples; every shard is indexed first
    #[arg(long)]
    shuffle: bool,
    /// Seed of the shuffle
    #[arg(long, value_name = "N", default_value_t = 0, requires = "shuffle")]
    seed: u64,
    /// Store the tokens of captions too (.tokens), so that `flipk train` with the same tokenizer need not make them
    #[arg(long, requires = "tokenizer")]
    tokens: bool,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Share of broken samples above which packing stops
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    max_bad: f32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Pack {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.tokenizer.is_given() && !self.tokens {
            bail!("--tokenizer has no effect without --tokens");
        }
        if self.jpeg_scaling && !JpegDecoder::Turbo.is_built_in() {
            bail!("--jpeg-scaling needs libjpeg-turbo, and this build has none: build flipk with the feature `turbo`");
        }
        let tokens = self.tokenizer.open()?.map(|tokenizer| {
            let problem =
                "its tokens cannot be stored: it draws them at random, or cannot be written as tokenizer.json";
            Tokens::from_tokenizer(tokenizer).context(problem)
        });
        let input = self.shards.find()?;
        let pack = tools::Pack {
            size: self.size,
            form: if self.raw { Form::Raw } else { Form::Jpeg(self.quality) },
            filter: self.filter,
            jpeg_scaling: self.jpeg_scaling,
            limit: self.shard_samples.map_or(ShardLimit::Bytes(self.shard_size), ShardLimit::Samples),
            shuffle: self.shuffle.then_some(self.seed),
            max_bad: self.max_bad,
            tokens: tokens.transpose()?,
        };
        let stop = interrupt("whole shards are kept")?;
        let bar = bar(0, "samples");
        let progress = &mut |done: u64, total: Option<u64>| {
            total.map_or_else(|| bar.unset_length(), |total| bar.set_length(total));
            bar.set_position(done);
        };
        let warn = &mut |warning: String| log::line(&warning);
        let packed = pack.run(&input, &self.out, &stop, progress, warn);
        bar.finish_and_clear();
        // Before another error, which may come from it.
        log_filtered(&input)?;
        let packed = packed?;
        match self.json {
            true => put(format_args!("{}\n", serde_json::to_string_pretty(&packed)?))?,
            false => put(format_args!("{}", summary(&packed)))?,
        }
        if !packed.complete {
            tracing::info!("stopped; run the same command again to continue");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        Ok(if packed.unusable_shards == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn summary(packed: &Packed) -> String {
    let mut rows = vec![
        ["shards".to_owned(), packed.shards.to_string()],
        ["samples".to_owned(), packed.samples.to_string()],
        ["size".to_owned(), Bytes(packed.bytes as usize).to_string()],
    ];
    if packed.resumed_shards > 0 {
        rows.push(["shards that were there".to_owned(), packed.resumed_shards.to_string()]);
    }
    if packed.unusable_shards > 0 {
        rows.push(["skipped: unusable shards".to_owned(), packed.unusable_shards.to_string()]);
    }
    if packed.lost > 0 {
        rows.push(["lost samples (estimate)".to_owned(), packed.lost.to_string()]);
    }
    rows.extend(kinds(&packed.skipped).into_iter().map(|[kind, count]| [format!("skipped: {kind}"), count]));
    table(["", ""], &rows).trim_start().to_owned()
}
