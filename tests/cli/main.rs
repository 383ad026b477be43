//! The program from outside: every subcommand, and everything that may befall a run.

mod advice;
mod archives;
mod emulator;
mod eval;
mod harness;
mod mistakes;
mod profile;
mod protocol;
mod resume;
mod robust;
mod train;
mod verify;
