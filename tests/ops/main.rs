//! Every op on the tape against a plain f64 formula, and its gradients against central differences of that formula.
//!
//! The reference differentiates itself in f64 with a step of 1e-5, so its error is near 1e-9; what remains is the op's
//! f32 rounding, which for sums of n terms grows like sqrt(n) 6e-8. Errors are relative to the largest element.
#![allow(unreachable_pub, reason = "a test has no outside; `pub` is for its other files")]

#[path = "../common/mod.rs"]
mod common;
mod harness;

mod attention;
mod layernorm;
mod linear;
mod micro_batches;
mod optimizer;
mod pairwise;
mod ranks;
mod recompute;
mod sequence;
mod tape;
