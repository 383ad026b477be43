//! The command line: one file per subcommand; each parses, calls and prints, and computes nothing.

pub mod benches;
mod device;
mod eval;
mod info;
mod profile;
mod table;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains FLIP: CLIP with most of the image patches left out, at a fraction of the cost.
///
/// Without any data of your own: `flipk train` trains a small model on the emoji inside the program, in about five
/// minutes on two cores.
#[derive(Parser)]
#[command(name = "flipk", version, max_term_width = 110, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Train>),
    Eval(eval::Eval),
    Verify(verify::Verify),
    Profile(Box<profile::Profile>),
    Info(info::Info),
}

/// Runs the program. The exit code is 0 on success, 1 on failure, 2 for a wrong command line.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Train(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Profile(command) => command.run(),
        Command::Info(command) => command.run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
