//! flipk trains FLIP, that is, CLIP with most of the image patches left out.
//!
//! The rooms, from the top; each imports only from those below it: `cli`, [`profile`], [`train`] and [`golden`],
//! [`eval`], [`model`], [`data`], [`autograd`] with [`ops`], [`device`].
//!
//! `examples/` has whole programs: `embed.rs` (embeddings of a data set by the model of a run), `train_loop.rs` (a training loop of
//! your own), `new_op.rs` (an op from outside the crate) and `tokens.rs` (a text's token numbers).

// What users and disks can cause is an error, never a panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod autograd;
#[cfg(feature = "cli")]
#[warn(missing_docs, unreachable_pub)]
pub mod cli;
#[warn(missing_docs, unreachable_pub)]
pub mod data;
pub mod device;
#[warn(missing_docs, unreachable_pub)]
pub mod eval;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[warn(missing_docs, unreachable_pub)]
pub mod golden;
mod mapped;
#[warn(missing_docs, unreachable_pub)]
pub mod model;
pub mod ops;
pub mod optim;
#[warn(missing_docs, unreachable_pub)]
pub mod profile;
pub mod random;
pub mod simd;
#[warn(missing_docs, unreachable_pub)]
pub mod train;
pub mod units;
