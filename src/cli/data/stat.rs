//! `flipk data stat`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{INTERRUPTED, Shards, TokenizerArgs, bar, kinds, log_filtered};
use crate::cli::put;
use crate::cli::signals::interrupt;
use crate::cli::table::{percent, table};
use crate::data::LoaderConfig;
use crate::data::text::count;
use crate::data::tools::{Distribution, Statistics, stat};
use crate::log;

/// Show what is in a data set: sizes, formats, captions, duplicates, and how fast it loads
///
/// Shards that cannot be used are named and counted, and the exit code is then 1.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk data stat 'cc12m/{00000..01242}.tar' --tokenizer vocab.txt --mask-ratio 0.75
  flipk data stat photos/ --all --json")]
pub(super) struct Stat {
    #[command(flatten)]
    shards: Shards,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Samples to look at, spread over at most 64 shards
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Look at all samples of all shards
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// Tokens per caption, to tell which captions are cut
    #[arg(long, value_name = "TOKENS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    context: u32,
    /// Share of patches that are left out, for the speed
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    mask_ratio: f64,
    /// Side of the images in pixels, for the speed; patches have 16
    #[arg(long, value_name = "PIXELS", default_value_t = 224, value_parser = clap::value_parser!(u32).range(16..=4096))]
    image_size: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl Stat {
    pub(super) fn run(self) -> Result<ExitCode> {
        let tokenizer = self.tokenizer.open()?;
        let input = self.shards.find()?;
        let config = LoaderConfig {
            context: self.context as usize,
            mask_ratio: self.mask_ratio,
            image_size: self.image_size as usize,
            ..LoaderConfig::default()
        };
        let stop = interrupt("what was found so far is shown")?;
        let bar = bar(input.shards() as u64, "shards");
        let progress = &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        let (max, warn) = ((!self.all).then_some(self.sample), &mut |warning: String| log::line(&warning));
        let found = stat(&input, tokenizer.as_ref(), &config, max, &stop, progress, warn)?;
        bar.finish_and_clear();
        log_filtered(&input)?;
        match self.json {
            true => put(format_args!("{}\n", serde_json::to_string_pretty(&found)?))?,
            false => put(format_args!("{}", show(&found, &config)))?,
        }
        Ok(match (found.stopped, found.unusable_shards) {
            (true, _) => ExitCode::from(INTERRUPTED),
            (false, 0) => ExitCode::SUCCESS,
            (false, _) => ExitCode::FAILURE,
        })
    }
}

fn show(found: &Statistics, config: &LoaderConfig) -> String {
    let about = if found.opened_shards + found.unusable_shards < found.shards { "about " } else { "" };
    let mut text = format!(
        "{about}{} in {}; looked at {} in {}\n\n",
        count(found.samples, "sample"),
        count(found.shards, "shard"),
        count(found.looked_at, "sample"),
        count(found.opened_shards, "shard")
    );
    let row = |name: &str, of: &Distribution| {
        let [min, p10, p50, p90, max] = [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| of.quantile(share).to_string());
        [name.to_owned(), min, p10, p50, p90, max]
    };
    let mut rows = vec![
        row("width", &found.width),
        row("height", &found.height),
        row("short side", &found.short_side),
        row("bytes per image", &found.image_bytes),
        row("characters per caption", &found.characters),
    ];
    rows.extend(found.tokens.as_ref().map(|tokens| row("tokens per caption", tokens)));
    let good: u64 = found.formats.values().sum();
    // Of shards that cannot be used, only their number is known.
    let is_empty = good == 0 && found.characters.total() == 0;
    if !is_empty {
        text += &format!("{}\n", table(["", "min", "10 %", "median", "90 %", "max"], &rows));
    }
    let share = |count: u64, of: u64| percent(count as f64 / of.max(1) as f64);
    let mut rows: Vec<[String; 3]> =
        found.formats.iter().map(|(name, &count)| [name.clone(), count.to_string(), share(count, good)]).collect();
    let (images, captions) = (found.duplicate_images, found.duplicate_captions);
    if !is_empty {
        rows.push(["repeated images".to_owned(), images.to_string(), share(images, good)]);
        rows.push(["repeated captions".to_owned(), captions.to_string(), share(captions, found.characters.total())]);
    }
    if found.unusable_shards > 0 {
        let looked_at = found.opened_shards + found.unusable_shards;
        let unusable = found.unusable_shards;
        rows.push(["unusable shards".to_owned(), unusable.to_string(), share(unusable, looked_at)]);
    }
    rows.extend(kinds(&found.broken).into_iter().map(|[kind, count]| {
        let part = share(count.parse().unwrap_or(0), found.looked_at);
        [format!("broken: {kind}"), count, part]
    }));
    text += &table(["", "count", "share"], &rows);
    match (&found.tokens, found.cut) {
        _ if is_empty => {}
        (Some(tokens), Some(cut)) => {
            text += &format!("\n{}", histogram("tokens", tokens));
            text += &format!("{} of the captions are cut to {} tokens\n", percent(cut), config.context);
        }
        _ => text += &format!("\n{}", histogram("characters", &found.characters)),
    }
    if let Some(speed) = &found.speed {
        text += &format!(
            "\nthe loader would make {:.0} images/s on one thread and {:.0} on {} ({} px, mask ratio {})\n",
            speed.one_thread, speed.all_threads, speed.threads, config.image_size, config.mask_ratio
        );
    }
    if found.stopped { format!("stopped before the end; so far:\n{text}") } else { text }
}

/// Bars for ten equal ranges, up to what 99 % do not exceed; the last one has the rest.
fn histogram(unit: &str, of: &Distribution) -> String {
    const BARS: u64 = 10;
    const WIDTH: u64 = 40;
    let step = (of.quantile(0.99) / BARS + 1).max(1);
    let ends = |bar: u64| (bar * step, if bar + 1 == BARS { u64::MAX } else { (bar + 1) * step });
    let counts: Vec<u64> = (0..BARS).map(|bar| of.between(ends(bar).0, ends(bar).1)).collect();
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let rows: Vec<[String; 2]> = (0..BARS)
        .zip(&counts)
        .map(|(bar, &count)| {
            let label = match ends(bar) {
                (from, u64::MAX) => format!("{from} and more"),
                (from, to) if to == from + 1 => from.to_string(),
                (from, to) => format!("{from} to {}", to - 1),
            };
            [label, "#".repeat((count * WIDTH).div_ceil(most) as usize)]
        })
        .collect();
    let width = rows.iter().map(|[label, _]| label.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|[label, bar]| format!("{label:>width$} {bar}").trim_end().to_owned() + "\n");
    format!("{unit} per caption:\n{}", lines.collect::<String>())
}
