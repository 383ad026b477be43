//! A functional emulator of PTX: runs the kernels that nvcc makes on the CPU, checks their memory accesses and their
//! synchronisation, and counts what they do.
//!
//! [`Module::parse`] reads a PTX file, [`Memory`] is the device's global memory, [`launch`] runs a kernel. What is and
//! is not modelled is listed below.
#![doc = include_str!("../README.md")]
// Errors in a kernel are faults with a line, never panics.
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

mod clocks;
mod config;
mod counts;
mod decode;
mod exec;
mod fault;
pub mod forms;
mod isa;
mod kernel;
mod launch;
mod location;
mod memory;
mod module;
mod parser;
mod shared;
mod touched;

pub use config::{LaunchConfig, Options};
pub use counts::{Banks, Counts, Traffic};
pub use fault::{Fault, FaultKind};
pub use isa::Class;
pub use kernel::{Kernel, Param};
pub use launch::launch;
pub use location::Location;
pub use memory::{Memory, MemoryError};
pub use module::Module;
pub use parser::ParseError;
