//! `flipk data check`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::{INTERRUPTED, Shards, TokenizerArgs, bar, kinds, log_filtered};
use crate::cli::put;
use crate::cli::signals::interrupt;
use crate::cli::table::table;
use crate::data::text::shorten;
use crate::data::tools::{Checked, Finding, check};

/// Read every sample of every shard as training does, and list those that are broken
///
/// The exit code is 0 if every sample can be used and no shard is damaged, and 1 if not. As many shards are open at a
/// time as there are threads, so memory does not grow with their number.
#[derive(Args)]
#[command(after_help = "Examples:
  flipk data check 'cc12m/{00000..01242}.tar' --tokenizer vocab.txt
  flipk data check photos/ --json > broken.json")]
pub(super) struct Check {
    #[command(flatten)]
    shards: Shards,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Broken samples to name, and notes on damaged shards to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    /// Print JSON with all broken samples and notes instead
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    checked: &'a Checked,
    findings: &'a [Finding],
    notes: &'a [String],
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode> {
        let tokenizer = self.tokenizer.open()?;
        let input = self.shards.find()?.with_headers();
        let stop = interrupt("what was found so far is shown")?;
        let bar = bar(input.shards() as u64, "shards");
        let (mut findings, mut notes, mut more, mut more_notes) = (Vec::new(), Vec::new(), 0_u64, 0_u64);
        let (list, json) = (self.list, self.json);
        let checked = check(
            &input,
            tokenizer.as_ref(),
            &stop,
            &mut |finding| if json || findings.len() < list { findings.push(finding) } else { more += 1 },
            &mut |note| if json || notes.len() < list { notes.push(note) } else { more_notes += 1 },
            &mut |shards| bar.set_position(shards),
        );
        bar.finish_and_clear();
        log_filtered(&input)?;
        if self.json {
            let report = Report { checked: &checked, findings: &findings, notes: &notes };
            put(format_args!("{}\n", serde_json::to_string_pretty(&report)?))?;
        } else {
            let lines = notes.iter().map(|note| format!("note: {note}")).chain(others(more_notes, "notes"));
            let lines = lines.chain(findings.iter().map(line)).chain(others(more, "of these"));
            put(format_args!("{}", lines.map(|line| line + "\n").collect::<String>()))?;
            put(format_args!("{}", summary(&checked)))?;
        }
        Ok(match (checked.stopped, checked.is_good()) {
            (true, _) => ExitCode::from(INTERRUPTED),
            (false, true) => ExitCode::SUCCESS,
            (false, false) => ExitCode::FAILURE,
        })
    }
}

fn others(more: u64, what: &str) -> Option<String> {
    (more > 0).then(|| format!("and {more} more {what} (--list shows more, --json all)"))
}

fn line(finding: &Finding) -> String {
    let Finding { shard, key, kind, reason } = finding;
    match (key, kind) {
        (Some(key), Some(kind)) => format!("{shard}:{}: {kind}: {reason}", shorten(key)),
        _ => format!("unusable shard: {reason}"),
    }
}

fn summary(checked: &Checked) -> String {
    let broken: u64 = checked.broken.values().sum();
    let mut rows = vec![
        ["shards".to_owned(), checked.shards.to_string()],
        ["samples".to_owned(), checked.samples.to_string()],
        ["good".to_owned(), (checked.samples - broken).to_string()],
    ];
    for (name, count) in [
        ("unusable shards", checked.unusable_shards),
        ("damaged shards", checked.damaged_shards),
        ("lost samples (estimate)", checked.lost),
    ] {
        rows.extend((count > 0).then(|| [name.to_owned(), count.to_string()]));
    }
    rows.extend(kinds(&checked.broken));
    let stopped = if checked.stopped { "stopped before the end; so far:\n" } else { "" };
    stopped.to_owned() + table(["", ""], &rows).trim_start()
}
