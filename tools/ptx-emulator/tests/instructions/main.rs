//! Each instruction on its own, against values worked out from the PTX ISA (9.0) or a scalar reference.
//!
//! A test names an instruction and the widths of its operands; the harness makes a kernel of it, one case per thread,
//! and runs it over the product of sample values, in two orders of blocks and warps.
#![allow(unreachable_pub, reason = "a test has no outside; `pub` is for its other files")]

mod atomics;
mod barriers;
mod bits;
mod compare;
mod convert;
mod exact;
mod float;
mod flow;
mod forms;
mod functions;
mod half;
mod harness;
mod integer;
mod matrix;
mod memory;
mod warp;
