//! Reverse-mode automatic differentiation on a tape that is recorded once and run many times.
//!
//! A model calls the op methods of a [`Tape`] (`tape.linear(...)`, `tape.attention(...)`, see [`crate::ops`]). That
//! computes nothing: it records ops and the shapes of their results. [`Tape::train`] then walks the record backwards,
//! lets each op name the gradients that it reads and writes, and places every buffer of the whole step in one block of
//! memory by the time span in which it is in use. The result is a [`Program`], which runs the same ops on the same
//! addresses at every step: nothing is allocated inside a step, peak memory is known before the first one, and a GPU
//! can capture the step as a graph.
//!
//! Parameters live outside the tape, in one flat [`Parameters`] arena. To write an op, see [`Op`].
//!
//! The files, from the bottom; each imports only from those before it, and none from [`crate::ops`] (`tests/walls.rs`):
//!
//! | file | what it has |
//! |---|---|
//! | `slot.rs` | names of buffers and tensors |
//! | `planner.rs`, `liveness.rs` | where buffers lie in memory; when they live, and which are recomputed |
//! | `values.rs`, `params.rs` | which parts of the arena are kept in f32; the parameter arena |
//! | `graph.rs` | the record, whatever the device |
//! | `access.rs`, `backward.rs` | the buffers of an op while it runs; the same while its backward pass is planned |
//! | `op.rs` | what an op is |
//! | `program.rs`, `prefetch.rs` | a closed tape, which runs; the inputs of its next run |
//! | `tape.rs` | recording and closing |

mod access;
mod backward;
mod graph;
mod liveness;
mod op;
mod params;
mod planner;
mod prefetch;
mod program;
#[cfg(test)]
mod proptests;
mod slot;
mod tape;
mod values;

pub use access::{Access, GradMut};
pub use backward::Backward;
pub use graph::{Activation, Step};
pub use liveness::Recompute;
pub use op::{Cost, Op, Work};
pub use params::{DECAY_BLOCK, Init, Layout, ParamGrad, ParamId, ParamSpec, Parameters};
pub use program::Program;
pub use slot::{Slot, SlotId, Var};
pub use tape::Tape;
pub use values::Values;
