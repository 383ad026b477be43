//! The towers as they are recorded for micro-batches.

use super::StepSize;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::model::{Flip, Inputs};
use crate::ops::AllOps;

/// Both towers without a loss.
pub(crate) struct RecordedTowers<D: Device> {
    pub(crate) tape: Tape<D>,
    /// The number of ops of the vision tower, which come first.
    pub(super) vision_ops: usize,
    pub(super) inputs: Inputs,
    /// Embeddings of images and texts; they are retained.
    pub(crate) embeddings: [Var<f32>; 2],
}

/// Records both towers.
pub(crate) fn record_towers<D: AllOps>(flip: &Flip, size: StepSize) -> RecordedTowers<D> {
    let mut tape = Tape::new(flip.layout().clone());
    tape.recompute(size.recompute);
    let (images, ids_keep, z_images) = flip.vision(&mut tape, size.rows(), size.kept);
    let vision_ops = tape.op_count();
    let (tokens, z_texts) = flip.text(&mut tape, size.rows());
    tape.retain(z_images.slot());
    tape.retain(z_texts.slot());
    let inputs = Inputs { images, ids_keep, tokens };
    RecordedTowers { tape, vision_ops, inputs, embeddings: [z_images, z_texts] }
}
