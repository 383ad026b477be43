//! The command line: one file per subcommand; each parses, calls and prints, and computes nothing.

pub mod benches;
mod choice;
mod data;
mod device;
mod embed;
mod encode;
mod eval;
mod export;
#[cfg(feature = "cuda")]
mod fit;
#[cfg(feature = "cuda")]
mod gpu;
mod import;
mod info;
mod launch;
mod logging;
mod openclip;
mod profile;
mod progress;
mod scale;
mod search;
mod signals;
mod supervise;
mod suspend;
mod table;
mod train;
mod verify;

use std::fmt::Arguments;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::device::isa;

/// Train FLIP: CLIP with half or more of the image patches left out, at a fraction of the cost
///
/// Without any data of your own: `flipk train` trains a small model on the emoji built into the program, in about
/// five minutes on two cores.
#[derive(Parser)]
#[command(name = "flipk", version, max_term_width = 110, args_override_self = true)]
struct Cli {
    /// Format of log lines on standard error: text, or one JSON object per line. Set the variable FLIPK_LOG to debug to
    /// log opened shards, retried requests and saved checkpoints too
    #[arg(long, global = true, value_name = "text|json", hide_possible_values = true, default_value = "text")]
    log_format: logging::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Train>),
    Eval(Box<eval::Eval>),
    Embed(Box<embed::Embed>),
    Search(Box<search::Search>),
    Data(Box<data::Data>),
    Import(import::Import),
    Export(export::Export),
    Verify(verify::Verify),
    Profile(Box<profile::Profile>),
    Info(info::Info),
}

/// The error and its causes, except causes that the text before them already contains.
fn error_chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// Prints why the program ends.
fn report(error: &anyhow::Error) {
    let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    tracing::error!("{}", as_typed(error_chain(error), args));
}

/// A message about a wrong setting, `max_bad = 2 is invalid: ...`, with the flag instead if the setting was given as
/// one among `args`; those of a configuration file stay as they are there. A message may be about two settings.
fn as_typed(message: String, mut args: impl Iterator<Item = String>) -> String {
    let Some((name, rest)) = message.split_once(" = ") else { return message };
    let flags: Vec<String> = name.split(", ").map(|name| format!("--{}", name.replace('_', "-"))).collect();
    let is_flag = |arg: String| flags.iter().any(|flag| arg.split_once('=').map_or(&*arg, |(flag, _)| flag) == flag);
    let is_wrong = rest.split_once(" is invalid: ").is_some_and(|(value, _)| !value.contains(['\n', ':']));
    match is_wrong && args.any(is_flag) {
        true => format!("{} {rest}", flags.join(", ")),
        false => message,
    }
}

/// Prints to standard output.
///
/// # Errors
/// If writing fails, except when the reader of a pipe has closed it (`flipk info | head`).
fn put(text: Arguments<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Checks that `path` can be written, and changes nothing there: a wrong path should fail before slow steps do.
///
/// # Errors
/// If it cannot be written.
fn check_writable(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let checked = match path.exists() {
        true => OpenOptions::new().append(true).open(path).map(drop),
        false => tempfile::tempfile_in(folder).map(drop),
    };
    checked.with_context(|| format!("cannot write {}", path.display()))
}

/// Parses the command line. `-1` is read as a number, so that the error is about its range and not about an unknown
/// flag.
fn parse() -> Cli {
    fn numbers(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| match arg.get_action() {
                clap::ArgAction::Set | clap::ArgAction::Append => arg.allow_negative_numbers(true),
                _ => arg,
            })
            .mut_subcommands(numbers)
    }
    let matches = numbers(Cli::command()).get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Runs the program. The exit code is 0 on success, 1 on failure, 2 for a wrong command line, and that of `flipk train`
/// may be 75.
pub fn main() -> ExitCode {
    let Cli { log_format, command } = parse();
    if let Err(problem) = logging::start(log_format) {
        let _ = writeln!(std::io::stderr().lock(), "error: {problem}");
        return ExitCode::from(2);
    }
    if let Err(problem) = isa::chosen() {
        tracing::error!("{problem}");
        return ExitCode::FAILURE;
    }
    let done = match command {
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Embed(command) => command.run(),
        Command::Search(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Import(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Profile(command) => command.run(),
        Command::Info(command) => command.run(),
    };
    done.unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::{as_typed, error_chain};

    #[test]
    fn a_cause_is_printed_once() {
        let error = anyhow!("no such file").context("cannot read x: no such file").context("the vocabulary");
        assert_eq!(error_chain(&error), "the vocabulary: cannot read x: no such file");
    }

    #[test]
    fn settings_are_named_as_they_were_given() {
        let message = "max_bad = 2 is invalid: it must be 0 <= share <= 1";
        let shown = |message: &str, args: &[&str]| as_typed(message.to_owned(), args.iter().map(ToString::to_string));
        let flag = "--max-bad 2 is invalid: it must be 0 <= share <= 1";
        for args in [&["train", "--max-bad", "2"], &["pack", "x", "--max-bad=2"]] {
            assert_eq!(shown(message, args), flag);
        }
        assert_eq!(shown(message, &["train", "--config", "max-bad.toml"]), message);
        let two = "crop_min, crop_max = (0.9, 0.1) is invalid: it must be 0 < low <= high <= 1";
        assert!(shown(two, &["train", "--crop-min=0.9"]).starts_with("--crop-min, --crop-max (0.9, 0.1) is invalid: "));
        for other in ["cannot read a = b: no such file", "a = b"] {
            assert_eq!(shown(other, &["--a", "--cannot-read-a"]), other);
        }
    }
}
