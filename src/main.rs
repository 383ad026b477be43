//! The program; see [`flipk::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    flipk::cli::main()
}
