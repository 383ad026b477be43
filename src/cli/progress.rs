//! Shows the progress of a run: a bar on a terminal, else a line every few seconds.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use tracing::info;

use super::logging::{self, show};
use crate::train::{Metrics, Progress};

/// Time between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Screen {
    /// `None` without a terminal, and if log lines are for programs.
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let bar = logging::has_bars().then(|| {
            let bar = show(ProgressBar::no_length());
            let style = ProgressStyle::with_template("{bar:24.cyan/blue} step {pos}/{len}  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar, last_line: None }
    }

    pub(super) fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Step { done, total } => {
                if let Some(bar) = &self.bar {
                    bar.set_length(total);
                    bar.set_position(done);
                }
            }
            Progress::Metrics { metrics, total, left, skipped } => self.show_metrics(metrics, total, left, skipped),
        }
    }

    fn show_metrics(&mut self, metrics: &Metrics, total: u64, left: Duration, skipped: u64) {
        let lost = if skipped > 0 { format!("  {skipped} skipped") } else { String::new() };
        let message = format!(
            "epoch {:.2}  loss {:.3}  acc {:.1} %  {:.0} samples/s  {:.0} GFLOP/s  data wait {:.0} %{lost}  {:#} left",
            metrics.epoch,
            metrics.loss,
            100.0 * metrics.accuracy,
            metrics.samples_per_second,
            metrics.gflops,
            100.0 * metrics.data_wait,
            HumanDuration(left),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(metrics.step);
                bar.set_message(message);
            }
            None if metrics.step >= total || self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) => {
                self.last_line = Some(Instant::now());
                info!(
                    step = metrics.step,
                    steps = total,
                    epoch = metrics.epoch,
                    loss = metrics.loss,
                    accuracy = metrics.accuracy,
                    samples_per_second = metrics.samples_per_second,
                    gflops = metrics.gflops,
                    data_wait = metrics.data_wait,
                    skipped,
                    seconds_left = left.as_secs(),
                    "step {}/{total}  {message}",
                    metrics.step
                );
            }
            None => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
