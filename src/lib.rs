//! flipk trains FLIP, that is, CLIP with most of the image patches left out.
//!
//! A model is recorded once on a [`autograd::Tape`], closed into a [`autograd::Program`], and run any number of times.
//! A linear layer, forwards and backwards on the CPU:
//!
//! ```
//! use std::sync::Arc;
//!
//! use flipk::autograd::{Init, Layout, Parameters, Tape};
//! use flipk::device::Cpu;
//! use flipk::ops::linear::Weights;
//!
//! let (device, mut layout) = (Arc::new(Cpu::default()), Layout::default());
//! let weight = layout.add("weight", &[3, 2], Init::Constant(0.5), true);
//! let layout = Arc::new(layout);
//! let mut params = Parameters::new(&*device, layout.clone(), &layout.initial_values(0))?;
//!
//! let mut tape = Tape::<Cpu>::new(layout.clone());
//! let x = tape.input_var(&[1, 2]);
//! let y = tape.linear(x, Weights { weight, bias: None }, None);
//! tape.retain(y.slot());
//! let mut dy = None;
//! let mut program = tape.train_from(device.clone(), |plan| dy = Some(plan.seed(y)))?;
//!
//! program.write(x.slot(), &[1.0, 2.0])?;
//! program.forward(&params)?;
//! assert_eq!(program.read(y.slot())?, [1.5, 1.5, 1.5]);
//! program.write(dy.unwrap(), &[1.0, 0.0, -1.0])?;
//! program.backward(&mut params)?;
//! let grads = params.download_grads(&device)?;
//! assert_eq!(grads[layout.get(weight).range()], [1.0, 2.0, 0.0, 0.0, -1.0, -2.0]);
//! # Ok::<(), flipk::device::DeviceError>(())
//! ```
//!
//! The rooms, from the top; each imports only from those below it:
//!
//! | room | what it has |
//! |---|---|
//! | `cli` | the program `flipk`; only with the feature of that name |
//! | [`profile`] | a training step timed op by op, next to the device's limits |
//! | [`train`] | options, whole runs, checkpoints; [`train::Trainer`] for a loop of your own |
//! | [`golden`] | comparison with the numbers of another implementation |
//! | [`eval`] | [`eval::Encoder`] for embeddings of a data set; zero-shot classification and retrieval |
//! | [`interop`] | models of OpenCLIP, Hugging Face, timm and the FLIP authors, in and out; ONNX |
//! | [`model`] | the two towers of FLIP, and of OpenCLIP's models, and their sizes |
//! | [`optim`] | AdamW's state, the learning-rate schedule |
//! | [`group`] | ranks, and the bytes that they exchange by MPI, NCCL or TCP |
//! | [`data`] | [`data::Dataset`] and [`data::Loader`]: from shards on disk to batches |
//! | [`ops`] | the ops: one module each, with its formula |
//! | [`autograd`] | the tape, gradients, where buffers lie, the parameters |
//! | [`simd`] | vector arithmetic of the CPU's ops |
//! | [`device`] | [`device::Cpu`] and `device::Cuda`: memory, copies, matrix products |
//! | [`random`], [`units`] | random numbers from a counter; sizes as users read them |
//!
//! `examples/` has whole programs: `embed.rs` (embeddings of a data set by the model of a run), `train_loop.rs` (a
//! training loop of your own), `new_op.rs` (an op from outside the crate), `tokens.rs` (a text's token numbers) and
//! `load.rs` (how fast samples are loaded).
//!
//! Before version 1.0 nothing in this API is stable: any minor version may change it. Formats of files are: checkpoints
//! and run folders that one version wrote stay readable.

// What users and disks can cause is an error, never a panic.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod autograd;
#[cfg(feature = "cli")]
pub mod cli;
mod cpu_time;
pub mod data;
pub mod device;
pub mod eval;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod golden;
pub mod group;
pub mod interop;
mod log;
mod mapped;
pub mod model;
pub mod ops;
pub mod optim;
mod plot;
pub mod profile;
pub mod random;
pub mod simd;
pub mod train;
pub mod units;
