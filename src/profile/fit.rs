//! The largest batch that fits a GPU's memory, from the plan of a step's buffers: nothing is allocated.

use half::bf16;

use crate::autograd::{DECAY_BLOCK, Recompute};
use crate::data::kept_patches;
use crate::device::Cuda;
use crate::model::{Flip, ModelConfig};
use crate::ops::adamw::{HEAD, NORM_BLOCK, NUMBERS};
use crate::train::{self, StepSize};

/// What the driver's context, cuBLASLt's workspace and the loaded kernels take besides the planned buffers.
const OVERHEAD: usize = 700 << 20;

/// Bytes of a training step on a GPU in bf16: weights, their bf16 copy, gradients, moments, activations, the next
/// batch, and the optimizer's few numbers.
pub fn step_bytes(config: &ModelConfig, mask_ratio: f64, batch: usize, recompute: Recompute) -> usize {
    bytes_of_size(config, StepSize::whole(batch, kept_patches(config.patches(), mask_ratio), recompute))
}

/// As [`step_bytes`], in one pass or in micro-batches.
pub fn bytes_of_size(config: &ModelConfig, size: StepSize) -> usize {
    let flip = Flip::new(config, true);
    let parameters = flip.layout().arena_len();
    let optimizer = 4 * (HEAD + parameters.div_ceil(NORM_BLOCK) + NUMBERS) + parameters / DECAY_BLOCK;
    parameters * (4 * 4 + 2) + optimizer + train::step_bytes::<Cuda<bf16>>(&flip, size)
}

/// The largest multiple of 8 pairs that fits `memory` bytes; `None` if not even 8 do.
pub fn largest_batch(config: &ModelConfig, mask_ratio: f64, memory: usize, recompute: Recompute) -> Option<usize> {
    train::largest_batch(|batch| step_bytes(config, mask_ratio, batch, recompute) + OVERHEAD <= memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    #[test]
    fn the_largest_batch_fits_and_the_next_does_not() {
        let config = Preset::Tiny.config();
        let memory = 3 << 30;
        let largest = |ratio, recompute| largest_batch(&config, ratio, memory, recompute).unwrap();
        let batch = largest(0.5, Recompute::None);
        let bytes = |batch| step_bytes(&config, 0.5, batch, Recompute::None) + OVERHEAD;
        assert!(batch >= 8 && bytes(batch) <= memory && bytes(batch + 8) > memory, "{batch}");
        assert!(largest(0.75, Recompute::None) > batch, "masking saves memory");
        assert!(largest(0.5, Recompute::Blocks) > batch, "recomputation saves memory");
        assert_eq!(largest_batch(&config, 0.0, OVERHEAD, Recompute::None), None);
    }
}
