//! Progress on the screen: a bar on a terminal, else a line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::metrics::Metrics;

/// Time between plain lines.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    total: u64,
    last_line: Option<Instant>,
}

impl Progress {
    /// For a run of `total` steps of which `done` are done.
    pub fn new(total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24.cyan/blue} step {pos}/{len}  {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_position(done)
        });
        Self { bar, total, last_line: None }
    }

    /// Shows the latest metrics; `step_seconds` is the mean time of a step so far.
    pub fn show(&mut self, metrics: &Metrics, step_seconds: f64) {
        let left = self.total.saturating_sub(metrics.step);
        let eta = HumanDuration(Duration::try_from_secs_f64(left as f64 * step_seconds).unwrap_or_default());
        let message = format!(
            "loss {:.3}  acc {:.1} %  {:.0} samples/s  {:.0} GFLOP/s  data wait {:.0} %  {eta:#} left",
            metrics.loss,
            100.0 * metrics.accuracy,
            metrics.samples_per_second,
            metrics.gflops,
            100.0 * metrics.data_wait,
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(metrics.step);
                bar.set_message(message);
            }
            None if left == 0 || self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) => {
                self.last_line = Some(Instant::now());
                eprint_line!("step {}/{}  {message}", metrics.step, self.total);
            }
            None => {}
        }
    }

    /// Moves the bar between metrics.
    pub fn step(&self, step: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(step);
        }
    }

    /// Prints a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprint_line!("{line}")),
            None => eprint_line!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}
