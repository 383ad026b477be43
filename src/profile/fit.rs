//! The largest batch that fits a GPU's memory, from the plan of a step's buffers: nothing is allocated.

use half::bf16;

use crate::autograd::{DECAY_BLOCK, Recompute, Tape};
use crate::data::kept_patches;
use crate::device::Cuda;
use crate::model::{Flip, ModelConfig};
use crate::ops::adamw::{AdamW, NUMBERS};

/// What cuBLASLt's workspace, the driver's context and the loaded kernels take beside the plan.
const BESIDE: usize = 700 << 20;

/// Bytes of a training step on a GPU in bf16: weights, their copy, gradients, moments, activations, the next batch, and the
/// optimizer's few numbers.
pub fn step_bytes(config: &ModelConfig, mask_ratio: f64, batch: usize, recompute: Recompute) -> usize {
    let flip = Flip::new(config, true);
    let parameters = flip.layout().arena_len();
    let mut tape = Tape::<Cuda<bf16>>::new(flip.layout().clone());
    tape.recompute(recompute);
    let kept = kept_patches(config.patches(), mask_ratio);
    flip.record(&mut tape, batch, kept);
    let next = batch * (3 * config.image_size.pow(2) + 4 * (config.context + kept));
    let optimizer = 4 * (<Cuda<bf16> as AdamW>::norm_len(parameters) + NUMBERS) + parameters / DECAY_BLOCK;
    parameters * (4 * 4 + 2) + optimizer + next + tape.training_bytes()
}

/// The largest multiple of 8 pairs that fits `memory` bytes; `None` if not even 8 do.
pub fn largest_batch(config: &ModelConfig, mask_ratio: f64, memory: usize, recompute: Recompute) -> Option<usize> {
    let fits = |eights: usize| step_bytes(config, mask_ratio, 8 * eights, recompute) + BESIDE <= memory;
    if !fits(1) {
        return None;
    }
    // Buffers only grow with the batch. The first guess follows from how much one batch takes.
    let (mut low, mut high) = (1, 2);
    while fits(high) {
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle) { low = middle } else { high = middle }
    }
    Some(8 * low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Preset;

    #[test]
    fn the_largest_batch_fits_and_the_next_does_not() {
        let config = Preset::Tiny.config();
        let memory = 3 << 30;
        let most = |ratio, recompute| largest_batch(&config, ratio, memory, recompute).unwrap();
        let batch = most(0.5, Recompute::None);
        let bytes = |batch| step_bytes(&config, 0.5, batch, Recompute::None) + BESIDE;
        assert!(batch >= 8 && bytes(batch) <= memory && bytes(batch + 8) > memory, "{batch}");
        assert!(most(0.75, Recompute::None) > batch, "masking saves memory");
        assert!(most(0.5, Recompute::Blocks) > batch, "computing again saves memory");
        assert_eq!(largest_batch(&config, 0.0, BESIDE, Recompute::None), None);
    }
}
