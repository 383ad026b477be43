//! Bytes that a rank sends in a step. They are those that the trainer hands to its group.

use serde::Serialize;

use super::{Plan, levels};
use crate::device::Cpu;
use crate::ops::adamw::AdamW;
use crate::ops::pairwise::OUTCOME_LEN;
use crate::optim::Slices;
use crate::train::master_bytes;

/// Bytes of each rank's loss and counts.
pub(super) const OUTCOME_BYTES: usize = 4 * OUTCOME_LEN;

/// Floats for each block of the gradients' norm on a GPU.
#[cfg(feature = "cuda")]
const GPU_PARTIAL: usize = <crate::device::Cuda<half::bf16> as AdamW>::PARTIAL;
#[cfg(not(feature = "cuda"))]
const GPU_PARTIAL: usize = 1;

/// Bytes of the partial sums of the gradients' norm over `blocks` blocks.
pub(super) fn norm_bytes(plan: &Plan<'_>, blocks: usize) -> usize {
    4 * blocks * if plan.gpus { GPU_PARTIAL } else { Cpu::PARTIAL }
}

/// Bytes of the parameters that a rank sends in f32 besides the bf16 copy of each bucket.
pub(super) fn masters_bytes(plan: &Plan<'_>, slices: &Slices) -> Vec<usize> {
    match plan.bf16_copy && slices.ranks() > 1 {
        true => master_bytes(plan.flip.layout(), slices),
        false => vec![0; slices.buckets().len()],
    }
}

/// Bytes of one kind that rank 0 sends in a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// What they are.
    pub kind: &'static str,
    /// To all other ranks.
    pub bytes: u64,
    /// Bytes that a rank sends to other nodes, averaged over its node.
    pub between_nodes: u64,
}

/// Bytes by kind. An all-gather counts a rank's part once for each other rank, whichever rank forwards it; between
/// nodes, it counts the parts of a node's ranks once for each other node.
pub(super) fn sent(plan: &Plan<'_>, ranks: usize) -> Vec<Sent> {
    let (local, nodes) = plan.network.nodes(ranks);
    let others = ranks as u64 - 1;
    let gathered = |kind, own: usize| {
        let own = own as u64;
        Sent { kind, bytes: own * others, between_nodes: own * (nodes as u64 - 1) }
    };
    let batch = plan.times.batch;
    let arena = plan.flip.layout().arena_len();
    let slices = Slices::new(arena, ranks);
    let own = slices.own_len(0);
    let lse = if plan.flip.loss_scalars().1.is_none() { 2 * 4 * batch } else { 0 };
    let mut sent = vec![
        gathered("embeddings", 2 * 4 * batch * plan.flip.config.embed_dim),
        gathered("log-sum-exps and counts", lse + OUTCOME_BYTES),
    ];
    let (mut bytes, mut between_nodes) = (0, 0);
    for peer in levels(plan, ranks).0.iter().flat_map(|level| &level.peers).filter(|peer| peer.rank > 0) {
        let to = 4 * peer.owners.iter().map(|owner| slices.own_len(*owner) as u64).sum::<u64>();
        bytes += to;
        between_nodes += if peer.rank < local { 0 } else { to };
    }
    sent.push(Sent { kind: "gradients", bytes, between_nodes });
    sent.push(gathered("gradient norm", norm_bytes(plan, slices.norm_blocks())));
    match plan.bf16_copy {
        true => {
            let in_f32 = masters_bytes(plan, &slices).iter().sum();
            sent.extend([gathered("weights in bf16", 2 * own), gathered("weights in f32", in_f32)]);
        }
        false => sent.push(gathered("weights in f32", 4 * own)),
    }
    sent
}
