//! Every kernel, in emulation with all checks on, against the CPU's op: the very PTX that a GPU runs.
#![allow(unreachable_pub, reason = "a test has no outside; `pub` is for its other files")]

mod assemble;
mod attention;
mod budget;
#[path = "../common/mod.rs"]
mod common;
mod constants;
mod contrastive;
mod copy_blocks;
mod elementwise;
mod embedding;
mod gather_patches;
mod harness;
mod hash;
mod layer_scale;
mod layernorm;
mod linear;
mod micro_batches;
mod model;
mod optimizer;
mod pool;
mod recompute;
mod recording;
mod select_token;
mod stopwatch;
mod sum_rows;
