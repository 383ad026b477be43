//! `flipk data preview`.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Arg, Args};
use image::ImageFormat;

use super::kinds;
use crate::cli::openclip::OpenClip;
use crate::cli::table::table;
use crate::cli::{check_writable, put};
use crate::data::Tokenizer;
use crate::data::tools::{Previewed, preview};
use crate::log;
use crate::train::{Options, Settings, described};

/// Draw samples as the model sees them: a picture of originals, crops, visible patches and captions
///
/// Shows the first samples of `flipk train` with the same options, in their order: the original with its crop framed,
/// the crop with masked patches striped in grey, and the caption with its number of tokens. A run's other options of
/// data, model and training are accepted too, and change nothing here. Broken samples are skipped, however many, unless
/// --max-bad is given.
#[derive(Args)]
#[command(mut_args = listed, after_help = "Examples:
  flipk data preview --out sheet.png
  flipk data preview --out sheet.png --data 'cc12m/{000..127}.tar' --tokenizer vocab.txt --model b16
  flipk data preview --out sheet.png --config runs/b16-001/config.toml --count 100 --columns 5")]
pub(super) struct Preview {
    /// PNG file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Samples to show
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Samples side by side [default: as many as make the picture about 1,600 pixels wide]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    columns: Option<u32>,
    /// Print JSON with keys, crops and token counts instead of a table
    #[arg(long)]
    json: bool,
    /// TOML file with options, as for `flipk train`; flags override it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    openclip: OpenClip,
}

/// Hides options of a run that a preview does not depend on.
fn listed(arg: Arg) -> Arg {
    const ELSEWHERE: [&str; 7] = ["model", "image_size", "patch_size", "context", "mask_ratio", "batch", "seed"];
    const UNUSED: [&str; 5] = ["eval_data", "classes", "templates", "labels", "prefetch"];
    let name = arg.get_id().as_str();
    let is_used = match arg.get_help_heading() {
        Some("Data") => !UNUSED.contains(&name),
        Some(_) => ELSEWHERE.contains(&name),
        None => return arg,
    };
    arg.hide(!is_used)
}

impl Preview {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.out.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("png")) {
            bail!("the sheet is a PNG file: give --out a name that ends in .png, and not {}", self.out.display());
        }
        check_writable(&self.out)?;
        let (path, json) = (self.out.clone(), self.json);
        let (found, png) = self.draw()?;
        let is_new = !path.exists();
        if let Err(problem) = fs::write(&path, png) {
            if is_new {
                let _ = fs::remove_file(&path);
            }
            return Err(problem).with_context(|| format!("cannot write {}", path.display()));
        }
        match json {
            true => put(format_args!("{}\n", serde_json::to_string_pretty(&found)?))?,
            false => put(format_args!("{}written: {}\n", summary(&found), path.display()))?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn draw(mut self) -> Result<(Previewed, Vec<u8>)> {
        self.openclip.apply(&mut self.options)?;
        let mut options = match &self.config {
            Some(file) => self.options.over_file(file)?,
            None => self.options,
        };
        // A few broken samples are a large share of the first ones.
        options.max_bad.get_or_insert(1.0);
        let tokenizer = match &options.tokenizer {
            Some(path) => Tokenizer::open(path, &options.tokenizer_options())?,
            None => {
                if options.data.is_some() {
                    log::line("no --tokenizer: tokens are counted with the embedded one");
                }
                Tokenizer::embedded(&options.tokenizer_options())?
            }
        };
        let base = described(&options)?.model;
        let mut settings = Settings::resolve(options, base, tokenizer.vocab_size())?;
        let data = settings.open_data(None)?;
        log::lines(data.warnings());
        let columns = self.columns.map(|columns| columns as usize);
        let found = preview(&data, &tokenizer, &settings.loader, self.count as usize, columns)?;
        let mut png = Cursor::new(Vec::new());
        found.picture.write_to(&mut png, ImageFormat::Png)?;
        Ok((found, png.into_inner()))
    }
}

fn summary(found: &Previewed) -> String {
    let cut = found.samples.iter().filter(|sample| sample.cut).count();
    let mut rows = vec![
        ["samples".to_owned(), found.samples.len().to_string()],
        ["captions that are cut".to_owned(), cut.to_string()],
    ];
    rows.extend(kinds(&found.skipped).into_iter().map(|[kind, count]| [format!("skipped: {kind}"), count]));
    table(["", ""], &rows).trim_start().to_owned()
}
