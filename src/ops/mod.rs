//! The operations: one folder each, with the name of its kernel, its bench and its row in a profile.
//!
//! An op's `mod.rs` has its shapes, its formulas forwards and backwards, the small trait that a device implements, and
//! the [`crate::autograd::Tape`] method that records it. `cpu.rs` and `cuda.rs` implement the trait. `bias` and `gelu`
//! are parts of other ops, without a trait or a method.
//!
//! Tensors are row-major: elements of the last axis are next to each other. Their type is that of the signature;
//! [`Device::Act`] is f32 on a CPU, and bf16 or f32 on a GPU.

pub mod adamw;
pub mod assemble;
pub mod attention;
pub mod bias;
pub mod cast;
pub mod copy_blocks;
pub mod embedding;
pub mod gather_patches;
pub mod gelu;
pub mod l2norm;
pub mod layer_scale;
pub mod layernorm;
pub mod linear;
pub mod pairwise;
pub mod pool;
pub mod projection;
pub mod select_token;
pub mod sum_rows;

use crate::device::Device;

/// Defines [`AllOps`] as the sum of these traits.
macro_rules! all_ops {
    ($($op:path),* $(,)?) => {
        /// A device that can run every op, and so any model.
        pub trait AllOps: Device $(+ $op)* {}

        impl<D: Device $(+ $op)*> AllOps for D {}
    };
}

all_ops!(
    adamw::AdamW,
    assemble::Assemble,
    attention::Attention,
    cast::Cast,
    copy_blocks::CopyBlocks,
    embedding::Embedding,
    gather_patches::GatherPatches,
    l2norm::L2Norm,
    layer_scale::LayerScale,
    layernorm::LayerNorm,
    linear::Linear,
    pairwise::Pairwise,
    pool::Pool,
    projection::Projection,
    select_token::SelectToken,
    sum_rows::SumRows,
);

/// Bytes of `count` activations on `D`.
fn act_bytes<D: Device>(count: usize) -> u64 {
    (count * size_of::<D::Act>()) as u64
}
