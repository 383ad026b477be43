//! `flipk data`: one file per task.

mod check;
mod pack;
mod preview;
mod stat;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::logging::show;
use crate::data::image::{Decoding, ExifOrientation};
use crate::data::tools::Input;
use crate::data::{CaptionKeys, CaptionLines, Filter, Skipped, Tokenizer, TokenizerOptions};
use crate::log;
use crate::train::Options;

/// After Ctrl-C, as of a shell's own commands.
const INTERRUPTED: u8 = 130;

/// Check a data set, show what is in it, or pack it for faster epochs
#[derive(Args)]
pub(super) struct Data {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Check(check::Check),
    Stat(stat::Stat),
    Preview(Box<preview::Preview>),
    Pack(pack::Pack),
}

impl Data {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self.task {
            Task::Check(task) => task.run(),
            Task::Stat(task) => task.run(),
            Task::Preview(task) => task.run(),
            Task::Pack(task) => task.run(),
        }
    }
}

#[derive(Args)]
struct Shards {
    /// Shards, as for `flipk train --data`
    #[arg(required = true, value_name = "SHARDS")]
    shards: Vec<String>,
    /// Where captions are: `txt` for the .txt member, else a field of the .json member [default: .txt, or else the
    /// field `caption`]
    #[arg(long, value_name = "KEY")]
    caption_key: Option<String>,
    /// How to read a .txt member of several lines: as one caption per line (each), or as a single caption (join)
    #[arg(long, value_name = "each|join", hide_possible_values = true, default_value = "each")]
    caption_lines: CaptionLines,
    /// Column of a table (CSV, TSV, Parquet) with images or their paths [default: a usual name, such as `filepath` or,
    /// in Parquet, `image`]
    #[arg(long, value_name = "COLUMN")]
    image_key: Option<String>,
    /// What to do with photos that EXIF data says to rotate
    #[arg(long, value_name = "WHAT", default_value = "ignore")]
    exif_orientation: ExifOrientation,
    /// Use only samples for which this holds, as for `flipk train`
    #[arg(long = "where", value_name = "EXPRESSION")]
    only: Option<Filter>,
    /// Seconds without a byte from a server or a command after which an attempt is given up [default: 60]
    #[arg(long, value_name = "SECONDS")]
    io_timeout: Option<f64>,
    /// Folder that keeps fetched shards for the next time; several programs may share it [default: none]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Largest size of --cache (500MB, 2TiB); the shards longest unused are removed [default: 100GiB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
}

impl Shards {
    fn keys(&self) -> Result<CaptionKeys> {
        let (cache, cache_size) = (self.cache.clone(), self.cache_size.clone());
        let fetching = Options { io_timeout: self.io_timeout, cache, cache_size, ..Options::default() };
        Ok(CaptionKeys {
            caption_key: self.caption_key.clone(),
            caption_lines: self.caption_lines,
            image_key: self.image_key.clone(),
            filter: self.only.clone(),
            access: fetching.access()?,
            ..CaptionKeys::default()
        })
    }

    fn decoding(&self) -> Decoding {
        Decoding { orientation: self.exif_orientation, ..Decoding::default() }
    }

    fn find(&self) -> Result<Input> {
        Ok(Input::find(&self.shards, self.keys()?, self.decoding())?)
    }
}

/// Says how many samples passed the filter.
///
/// # Errors
/// A filter that cannot be meant.
fn log_filtered(input: &Input) -> Result<()> {
    log::lines(input.filtered()?);
    Ok(())
}

#[derive(Args)]
struct TokenizerArgs {
    /// Tokenizer (tokenizer.json, vocab.txt or `clip`), to encode captions with
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Whether texts are lower-cased [default: as `flipk train` decides]
    #[arg(
        long,
        value_name = "yes|no",
        requires = "tokenizer",
        value_parser = BoolishValueParser::new(),
        hide_possible_values = true
    )]
    lower_case: Option<bool>,
    /// Token that pads short texts [default: as `flipk train` decides]
    #[arg(long, value_name = "TOKEN", requires = "tokenizer")]
    pad_token: Option<String>,
}

impl TokenizerArgs {
    fn is_given(&self) -> bool {
        self.tokenizer.is_some()
    }

    fn open(&self) -> Result<Option<Tokenizer>> {
        let options = TokenizerOptions {
            lower_case: self.lower_case,
            pad_token: self.pad_token.clone(),
            ..TokenizerOptions::default()
        };
        Ok(self.tokenizer.as_ref().map(|path| Tokenizer::open(path, &options)).transpose()?)
    }
}

/// A bar on a terminal, nothing elsewhere. `unit` is what is counted.
fn bar(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{bar:24.cyan/blue}} {{human_pos}}/{{human_len}} {unit}  {{msg}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template);
    show(ProgressBar::new(total)).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// `3 x bad image`, a row for each kind.
fn kinds(skipped: &Skipped) -> Vec<[String; 2]> {
    skipped.iter().map(|(kind, count)| [kind.to_string(), count.to_string()]).collect()
}
