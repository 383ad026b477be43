//! Bytes that a rank sends in a step. They are those that the trainer hands to its group.

use serde::Serialize;

use super::{Plan, Schedule};
use crate::device::Cpu;
use crate::ops::adamw::{AdamW, NORM_BLOCK};
use crate::ops::pairwise::OUTCOME_LEN;
use crate::optim::Slices;
use crate::train::exchange_piece;

/// What each rank tells about its loss.
pub(super) const OUTCOME_BYTES: usize = 4 * OUTCOME_LEN;

/// Floats for each block of the gradients' norm on a GPU.
#[cfg(feature = "cuda")]
const GPU_PARTIAL: usize = <crate::device::Cuda<half::bf16> as AdamW>::PARTIAL;
#[cfg(not(feature = "cuda"))]
const GPU_PARTIAL: usize = 1;

/// Bytes of so many blocks of the gradients' norm.
pub(super) fn norm_bytes(plan: &Plan<'_>, blocks: usize) -> usize {
    4 * blocks * if plan.gpus { GPU_PARTIAL } else { Cpu::PARTIAL }
}

/// Bytes of one kind that rank 0 sends in a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// What they are.
    pub kind: &'static str,
    /// To all other ranks.
    pub bytes: u64,
    /// Of these, the average rank's that go to another node.
    pub between_nodes: u64,
}

/// By kind. In an all-gather, a rank sends its part once for each other rank, whoever passes it on; so between nodes go
/// the parts of a node's ranks, once for each other node.
pub(super) fn sent(plan: &Plan<'_>, schedule: Schedule, ranks: usize) -> Vec<Sent> {
    let (local, nodes) = plan.network.nodes(ranks);
    let others = ranks as u64 - 1;
    let gathered = |kind, own: usize| {
        let own = own as u64;
        Sent { kind, bytes: own * others, between_nodes: own * (nodes as u64 - 1) }
    };
    let batch = plan.times.batch;
    let arena = plan.flip.layout().arena_len();
    let slices = Slices::new(arena, ranks);
    let own = slices.of(0).len();
    let lse = if plan.flip.loss_scalars().1.is_none() { 2 * 4 * batch } else { 0 };
    let mut sent = vec![
        gathered("embeddings", 2 * 4 * batch * plan.flip.config.embed_dim),
        gathered("log-sum-exps and counts", lse + OUTCOME_BYTES),
    ];
    let others_slices = |first: usize| 4 * (arena - arena.min(first * slices.each())) as u64;
    let (bytes, between_nodes) = match schedule {
        // Sums over a node's ranks, of which each rank sends its share.
        Schedule::Overlapped => (others_slices(1), 4 * own as u64 * (nodes as u64 - 1)),
        Schedule::AsItIs if plan.gpus => (others_slices(1), others_slices(local)),
        // Through the host, all parts are as long as the longest.
        Schedule::AsItIs => {
            let piece = exchange_piece(slices, ranks, false);
            let to_each = 4 * (piece * slices.each().div_ceil(piece)) as u64;
            (to_each * others, to_each * (ranks - local) as u64)
        }
    };
    sent.push(Sent { kind: "gradients", bytes, between_nodes });
    sent.push(gathered("gradient norm", norm_bytes(plan, own.div_ceil(NORM_BLOCK))));
    match schedule {
        Schedule::AsItIs => {
            sent.push(gathered("weights", 4 * own));
            sent.extend(plan.bf16_copy.then(|| gathered("weights in bf16", 2 * own)));
        }
        Schedule::Overlapped if plan.bf16_copy => sent.push(gathered("weights in bf16", 2 * own)),
        Schedule::Overlapped => sent.push(gathered("weights", 4 * own)),
    }
    sent
}
