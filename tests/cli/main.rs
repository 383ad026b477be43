//! The program from outside: every subcommand, and everything that may befall a run.

mod emulator;
mod eval;
mod harness;
mod mistakes;
mod pictures;
mod profile;
mod resume;
mod robust;
mod train;
mod verify;
