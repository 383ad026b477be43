//! Attention on a GPU: `kernels/attention_kernels.cuh`, whose header says when each kernel is used.

use super::{Attention, BackwardOperands, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::attention_backward_row::{ROW_MAX, ROW_MIN};
use crate::device::cuda::kernels::attention_forward::{BLOCK_RESERVE, SM_SHARED};
use crate::device::cuda::kernels::attention_simple::MAX_HEAD_DIM;
use crate::device::cuda::kernels::{attention_d32, attention_d64, attention_d80, attention_d96, attention_d128};
use crate::device::cuda::{ActType, Cuda, DType, LaunchConfig, Limits, View, ViewMut, args};

/// Head dims for which there are matrix-instruction kernels; others take the simple ones.
const FAST: [usize; 5] = [32, 64, 80, 96, 128];

/// The forward kernels that hold a whole row of scores in registers: head dim, the next shorter kernel's row length,
/// padded row length, warps, and blocks per SM.
fn whole_rows(head_dim: usize) -> &'static [[usize; 5]] {
    match head_dim {
        32 => &attention_d32::WHOLE,
        64 => &attention_d64::WHOLE,
        80 => &attention_d80::WHOLE,
        96 => &attention_d96::WHOLE,
        _ => &attention_d128::WHOLE,
    }
}

/// Slabs of a warp, and rows of a stage, in the backward kernel for any number of tokens.
fn long_backward(head_dim: usize) -> (usize, usize) {
    let [[_, _, _, slabs, stage]] = match head_dim {
        32 => attention_d32::KERNELS,
        64 => attention_d64::KERNELS,
        80 => attention_d80::KERNELS,
        96 => attention_d96::KERNELS,
        _ => attention_d128::KERNELS,
    };
    (slabs, stage)
}

/// The forward kernel's name without its prefix, and its launch config.
fn forward_kernel(shape: &Shape, limits: Limits) -> (String, LaunchConfig) {
    let &Shape { tokens, head_dim: d, .. } = shape;
    let heads = shape.batch * shape.heads;
    match whole_rows(d).iter().copied().find(|[_, _, padded, ..]| tokens <= *padded) {
        Some([_, _, padded, warps, together]) => {
            let ahead = 5 * padded * 2 * d;
            let fits = ahead <= limits.shared && together.max(3) * (ahead + BLOCK_RESERVE) <= SM_SHARED;
            let (blocks, shared) = match fits {
                true => (heads.min(together * limits.sm_count), ahead),
                false => (heads, (2 * padded + 16 * warps) * 2 * d),
            };
            (format!("d{d}_n{padded}"), LaunchConfig::blocks(blocks, 32 * warps as u32).with_shared(shared))
        }
        None => (format!("d{d}_long"), LaunchConfig::blocks(heads * tokens.div_ceil(64), 128).with_shared(640 * d)),
    }
}

/// The backward kernel's name without its prefix, and its launch config: the one for which a head fills an SM, if it
/// applies; else one block per head, if two of them fit an SM of Hopper and one fits this GPU; else the one that loops
/// over the row, which fits every GPU.
fn backward_kernel(shape: &Shape, limits: Limits) -> (String, LaunchConfig) {
    let &Shape { tokens, head_dim: d, .. } = shape;
    let heads = shape.batch * shape.heads;
    let rows = tokens.next_multiple_of(16);
    if let Some(config) = row_config(shape, limits) {
        return (format!("d{d}_row"), config);
    }
    let shared = rows * (6 * d + 2 * d.max(rows + 8) + 8);
    let together = SM_SHARED / (shared + BLOCK_RESERVE);
    if together >= 2 && shared <= limits.shared {
        let max_warps = if d > 80 || together >= 3 { 4 } else { 6 };
        let slabs = rows / 16;
        let warps = slabs.div_ceil(slabs.div_ceil(max_warps));
        return (format!("d{d}"), LaunchConfig::blocks(heads, 32 * warps as u32).with_shared(shared));
    }
    let (slabs, stage) = long_backward(d);
    let shared = (256 * slabs + 12 * stage) * d + 8 * stage.max(64 * slabs);
    (format!("d{d}_long"), LaunchConfig::blocks(2 * heads * tokens.div_ceil(64 * slabs), 128).with_shared(shared))
}

/// The config of the backward kernel for which a head fills an SM, if it applies.
fn row_config(shape: &Shape, limits: Limits) -> Option<LaunchConfig> {
    let &Shape { tokens, head_dim: d, .. } = shape;
    let heads = shape.batch * shape.heads;
    let rows = tokens.next_multiple_of(16);
    // Persistent blocks: K and V of the next head are prefetched next to the current ones.
    let (copies, blocks) = match d {
        64 => (2, heads.min(limits.sm_count)),
        80 => (1, heads),
        _ => return None,
    };
    let shared = 2 * d * (2 * copies * rows + 384) + 512 + 144 * (rows + 16);
    let fits = (ROW_MIN..=ROW_MAX).contains(&tokens) && shared <= limits.shared;
    fits.then(|| LaunchConfig::blocks(blocks, 256).with_shared(shared))
}

/// The module with the kernels of a head dim.
fn module(head_dim: usize) -> &'static str {
    match head_dim {
        32 => "attention_d32",
        64 => "attention_d64",
        80 => "attention_d80",
        96 => "attention_d96",
        _ => "attention_d128",
    }
}

/// Whether there are matrix-instruction kernels for this type and head dim.
fn fast<T: ActType>(shape: &Shape) -> bool {
    T::DTYPE == DType::Bf16 && FAST.contains(&shape.head_dim)
}

/// The config of the simple kernels, which have a warp for each query.
fn simple(shape: &Shape) -> Result<LaunchConfig, DeviceError> {
    if shape.head_dim > MAX_HEAD_DIM {
        let what = format!("attention: a head dim of {}; at most {MAX_HEAD_DIM} on a GPU", shape.head_dim);
        return Err(DeviceError::Unsupported { what });
    }
    let queries = LaunchConfig::for_elements(shape.batch * shape.heads * shape.tokens, 1, 4);
    Ok(LaunchConfig { threads: [128, 1, 1], ..queries })
}

impl<T: ActType> Attention for Cuda<T> {
    fn attention_forward(
        &self,
        shape: &Shape,
        qkv: View<'_, T>,
        out: ViewMut<'_, T>,
        lse: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, heads, head_dim, causal } = shape;
        let scale = shape.scale();
        if fast::<T>(shape) {
            let (name, config) = forward_kernel(shape, self.driver().limits());
            let args = args![qkv, out, lse, batch, tokens, heads, causal, scale];
            return self.launch(module(head_dim), &format!("attention_forward_bf16_{name}"), config, args);
        }
        let args = args![qkv, out, lse, batch, tokens, heads, head_dim, causal, scale];
        self.launch_typed("attention_simple", "attention_simple_forward", simple(shape)?, args)
    }

    fn attention_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { qkv, out, lse, dout, dqkv } = operands;
        let &Shape { batch, tokens, heads, head_dim, causal } = shape;
        let scale = shape.scale();
        if fast::<T>(shape) {
            let (name, config) = backward_kernel(shape, self.driver().limits());
            let args = args![qkv, out, lse, dout, dqkv, batch, tokens, heads, causal, scale];
            return self.launch(module(head_dim), &format!("attention_backward_bf16_{name}"), config, args);
        }
        let args = args![qkv, out, lse, dout, dqkv, batch, tokens, heads, head_dim, causal, scale];
        self.launch_typed("attention_simple", "attention_simple_backward", simple(shape)?, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On an A10, L4, L40S or RTX (99 KiB), an A100 (163 KiB) and an H100 (227 KiB).
    #[test]
    fn every_shape_fits_the_shared_memory_of_every_card() {
        for shared in [99, 163, 227].map(|kibibytes| kibibytes * 1024) {
            let limits = Limits { sm_count: 100, shared };
            for head_dim in FAST {
                for tokens in 1..=600 {
                    let shape = Shape { batch: 2, tokens, heads: 4, head_dim, causal: false };
                    for (name, config) in [forward_kernel(&shape, limits), backward_kernel(&shape, limits)] {
                        assert!(
                            config.shared <= shared,
                            "{name}, {tokens} tokens: {} of {shared} bytes",
                            config.shared
                        );
                    }
                }
            }
        }
    }
}
