//! The largest batch that fits a GPU's memory, from the plan of a step's buffers: nothing is allocated.

use half::bf16;

use crate::autograd::Tape;
use crate::data::kept_patches;
use crate::device::Cuda;
use crate::model::{Flip, ModelConfig};
use crate::ops::adamw::AdamW;

/// What cuBLASLt's workspace, the driver's context and the loaded kernels take beside the plan.
const BESIDE: usize = 700 << 20;

/// Bytes of a training step on a GPU in bf16: weights, their copy, gradients, moments and activations.
pub fn step_bytes(config: &ModelConfig, mask_ratio: f64, batch: usize) -> usize {
    let flip = Flip::new(config, true);
    let parameters = flip.layout().arena_len();
    let mut tape = Tape::<Cuda<bf16>>::new(flip.layout().clone());
    flip.record(&mut tape, batch, kept_patches(config.patches(), mask_ratio));
    let norm = 4 * <Cuda<bf16> as AdamW>::norm_len(parameters);
    parameters * (4 * 4 + 2) + norm + tape.training_bytes()
}

/// The largest multiple of 8 pairs that fits `memory` bytes; `None` if not even 8 do.
pub fn largest_batch(config: &ModelConfig, mask_ratio: f64, memory: usize) -> Option<usize> {
    let fits = |eights: usize| step_bytes(config, mask_ratio, 8 * eights) + BESIDE <= memory;
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
        let batch = largest_batch(&config, 0.5, memory).unwrap();
        let bytes = |batch| step_bytes(&config, 0.5, batch) + BESIDE;
        assert!(batch >= 8 && bytes(batch) <= memory && bytes(batch + 8) > memory, "{batch}");
        assert!(largest_batch(&config, 0.75, memory).unwrap() > batch, "masking saves memory");
        assert_eq!(largest_batch(&config, 0.0, BESIDE), None);
    }
}
