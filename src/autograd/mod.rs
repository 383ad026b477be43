//! Reverse-mode automatic differentiation on a tape that is recorded once and run many times.
//!
//! A model calls the op methods of a [`Tape`] (`tape.linear(...)`, `tape.attention(...)`, see [`crate::ops`]). That
//! computes nothing: it records ops and the shapes of their results. [`Tape::train`] then walks the record backwards,
//! lets each op name the gradients that it reads and writes, and places every buffer of the whole step in one block of
//! memory by the time span in which it is in use. The result is a [`Program`], which runs the same ops on the same
//! addresses at every step: nothing is allocated inside a step, peak memory is known before the first one, and a GPU can
//! capture the step as a graph.
//!
//! Parameters live outside the tape, in one flat [`Parameters`] arena.

mod access;
mod backward;
mod liveness;
mod params;
mod planner;
mod prefetch;
mod program;
mod tape;

pub use access::{Access, GradMut, ParamGrad};
pub use backward::Backward;
pub use liveness::Recompute;
pub use params::{Init, Layout, ParamId, ParamSpec, Parameters};
pub use program::{Program, Step};
pub use tape::{Cost, Op, Slot, SlotId, Tape, Var, Work};
