//! flipk trains FLIP, that is, CLIP with most of the image patches left out.
//!
//! The rooms, from the top; each imports only from those below it: `cli`, [`profile`], [`train`] and [`golden`], [`eval`], [`model`], [`data`], [`autograd`] with [`ops`], [`device`].

// What users and disks can cause is an error, never a panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

/// Prints a line to standard error, if it can be written: a full disk that takes a run's log, or a reader that has gone
/// (`flipk train 2>&1 | head`), is no reason to end the run, as `eprintln!` would.
macro_rules! tell {
    ($($line:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($line)*);
    }};
}

pub mod autograd;
pub mod cli;
pub mod data;
pub mod device;
pub mod eval;
pub mod golden;
pub mod model;
pub mod ops;
pub mod optim;
pub mod profile;
pub mod random;
pub mod simd;
pub mod train;
