//! The program from outside: every subcommand, and everything that may happen to a run.
#![allow(unreachable_pub, reason = "a test has no outside; `pub` is for its other files")]

mod advice;
mod archives;
mod bits;
#[cfg(target_os = "linux")]
mod children;
mod clip;
mod data;
mod emulator;
mod eval;
mod formats;
mod harness;
mod kills;
mod logging;
mod micro_batches;
mod mistakes;
mod mixing;
mod models;
mod pack;
mod pictures;
mod place;
mod precision;
mod preview;
mod profile;
mod protocol;
#[cfg(target_os = "linux")]
mod ranks;
#[cfg(all(unix, feature = "remote"))]
mod remote;
mod resume;
mod robust;
mod scale;
mod search;
mod shards;
mod snapshots;
mod text;
mod time;
mod timm;
mod train;
mod verify;
#[cfg(target_os = "linux")]
mod watch;
