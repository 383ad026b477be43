//! Bytes that a rank holds.

use std::ops::Range;

use serde::Serialize;

use super::traffic::masters_bytes;
use super::{Plan, levels};
use crate::device::Cpu;
use crate::model::Flip;
use crate::ops::AllOps;
use crate::ops::pairwise::Parts;
use crate::optim::Slices;
use crate::train::{Keep, StepSize, buffer_bytes, step_bytes};

/// Bytes of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// What they are.
    pub what: &'static str,
    /// How many.
    pub bytes: usize,
}

/// Activations with the inputs of the next step, and what the loss holds of all ranks' pairs.
fn planned<D: AllOps>(flip: &Flip, size: StepSize) -> [usize; 2] {
    let sizes = [size.micro_batches, size.rows(), flip.config.embed_dim];
    let gathered = Parts::<D>::planned_bytes(sizes, flip.loss_scalars().1.is_some());
    let all = step_bytes::<D>(flip, size);
    if size.micro_batches > 1 { [all - gathered, gathered] } else { [all, 0] }
}

/// By kind, for rank 0. Those on CPUs exchange through buffers of the host, which are counted, too.
pub(super) fn held(plan: &Plan<'_>, ranks: usize) -> Vec<Held> {
    let flip = plan.flip;
    let size = StepSize { batch: plan.size.batch * ranks, micro_batches: ranks, ranks, keep: Keep::All, ..plan.size };
    #[cfg(feature = "cuda")]
    let [activations, gathered] = match plan.bf16_copy {
        true => planned::<crate::device::Cuda<half::bf16>>(flip, size),
        false => planned::<Cpu>(flip, size),
    };
    #[cfg(not(feature = "cuda"))]
    let [activations, gathered] = planned::<Cpu>(flip, size);
    let arena = flip.layout().arena_len();
    let slices = Slices::new(arena, ranks);
    let weights = match plan.bf16_copy {
        true => flip.layout().f32_parts(&slices.own(0)).iter().map(Range::len).sum(),
        false => arena,
    };
    let buffers = match ranks {
        1 => 0,
        _ => {
            let in_f32 = masters_bytes(plan, &slices).into_iter().max().unwrap_or(0);
            buffer_bytes(&slices, &levels(plan, ranks), plan.gpus) + ranks * in_f32
        }
    };
    let held = [
        ("weights", 4 * weights),
        ("weights in bf16", if plan.bf16_copy { 2 * arena } else { 0 }),
        ("gradients", 4 * arena),
        ("moments", 8 * slices.own_len(0)),
        ("activations", activations),
        ("gathered embeddings", gathered),
        ("exchange buffers", buffers),
    ];
    held.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(what, bytes)| Held { what, bytes }).collect()
}
