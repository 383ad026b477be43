//! Where log events go: standard error, above the progress bar if there is one.

use std::io::{self, Write};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::log::WARNING;

/// Says which events are logged, such as `debug`, or `info,flipk::data=debug`.
pub(super) const VARIABLE: &str = "FLIPK_LOG";

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// Plain text.
    #[default]
    Text,
    /// A JSON object per line, and no progress bar.
    Json,
}

/// All bars, so that a log line can be written above them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// What lines of this process begin with, if it is one of several ranks and not the first.
static RANK: OnceLock<String> = OnceLock::new();

/// Hides bars, and begins each line with the rank.
pub(super) fn prefix_rank(rank: usize) {
    let _ = RANK.set(format!("rank {rank}: "));
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// Shows `bar`; log lines are printed above it.
pub(super) fn show(bar: ProgressBar) -> ProgressBar {
    BARS.add(bar)
}

/// Shows what is being done, for steps of unknown length, until the result is dropped.
pub(super) fn busy(message: String) -> Busy {
    let bar = show(ProgressBar::new_spinner().with_message(message));
    bar.enable_steady_tick(Duration::from_millis(100));
    Busy(bar)
}

/// See [`busy`].
pub(super) struct Busy(ProgressBar);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Whether bars are visible.
pub(super) fn has_bars() -> bool {
    !BARS.is_hidden()
}

/// Prints all events from now on.
///
/// # Errors
/// If the variable `FLIPK_LOG` is set to something that is not a filter.
pub(super) fn start(format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(std::env::var(VARIABLE).ok().as_deref())?;
    let layer = tracing_subscriber::fmt::layer().with_writer(AboveBars).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(layer.event_format(Plain)).init(),
        LogFormat::Json => {
            BARS.set_draw_target(ProgressDrawTarget::hidden());
            registry.with(layer.json().flatten_event(true)).init();
        }
    }
    Ok(())
}

fn filter(wanted: Option<&str>) -> anyhow::Result<Targets> {
    // Events of other crates are not for the user.
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        return Ok(Targets::new().with_target("flipk", LevelFilter::INFO));
    };
    if let Ok(level) = wanted.parse::<LevelFilter>() {
        return Ok(Targets::new().with_target("flipk", level));
    }
    // A word alone would be a module; a misspelt level would then hide everything, errors too.
    let is_known = |part: &str| part.parse::<LevelFilter>().is_ok() || part.contains('=') || part.starts_with("flipk");
    wanted.parse().ok().filter(|_| wanted.split(',').all(is_known)).ok_or_else(|| {
        anyhow::anyhow!(
            "{VARIABLE}={wanted} is not a filter: write a level (error, warn, info, debug), or levels by module, such \
             as info,flipk::data=debug"
        )
    })
}

/// Standard error, above the bars. A line that cannot be written is lost: a full disk under the log, or a reader that
/// has gone (`flipk train 2>&1 | head`), must not end a run.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

/// `warning: text`, without time and module, for a person who reads it as it appears. Only debug lines print their
/// fields; other lines have them in their text.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> std::fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => WARNING,
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        let fields = if *event.metadata().level() >= Level::DEBUG { &*line.fields } else { "" };
        let rank = RANK.get().map_or("", String::as_str);
        writeln!(out, "{rank}{level}{}{fields}", line.message)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.fields += &format!(" {name}={value}"),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::filter;

    #[test]
    fn a_level_alone_is_for_flipk_alone() {
        for (wanted, debug, of_others) in [
            (None, false, false),
            (Some(""), false, false),
            (Some("debug"), true, false),
            (Some("warn,flipk=debug"), true, true),
        ] {
            let filter = filter(wanted).unwrap();
            assert_eq!(filter.would_enable("flipk::data", &Level::DEBUG), debug, "{wanted:?}");
            assert_eq!(filter.would_enable("hyper", &Level::WARN), of_others, "{wanted:?}");
        }
        for wrong in ["flipk=loud", "verbose", "info,data"] {
            assert!(filter(Some(wrong)).unwrap_err().to_string().starts_with(&format!("FLIPK_LOG={wrong} is not")));
        }
    }
}
