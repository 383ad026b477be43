//! The towers as they are recorded for micro-batches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::StepSize;
use crate::autograd::{Program, Slot, Tape, Var};
use crate::device::{Captured, Device, DeviceError};
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

/// The towers of one micro-batch, and where the gradients of its embeddings go.
pub(super) struct Towers<D: Device> {
    /// Parts of the program that are captured and replayed, if any may be. They are dropped before the memory that they
    /// use.
    pub(super) graphs: Option<HashMap<Range<usize>, Captured>>,
    pub(super) program: Program<D>,
    /// The number of ops of the vision tower, which come first.
    pub(super) vision_ops: usize,
    pub(super) inputs: Inputs,
    pub(super) embeddings: [Var<f32>; 2],
    pub(super) seeds: [Slot<f32>; 2],
}

impl<D: AllOps> Towers<D> {
    pub(super) fn new(device: &Arc<D>, flip: &Flip, size: StepSize) -> Result<Self, DeviceError> {
        let RecordedTowers { tape, vision_ops, inputs, embeddings } = record_towers::<D>(flip, size);
        let mut seeds = embeddings.map(Var::slot);
        let mut program = tape.train_from(device.clone(), |plan| seeds = embeddings.map(|var| plan.seed(var)))?;
        program.reserve_prefetch(&[inputs.images.id(), inputs.tokens.id(), inputs.ids_keep.id()])?;
        Ok(Self { graphs: None, program, vision_ops, inputs, embeddings, seeds })
    }

    /// Runs a part of the program, of which `step` runs one step. It has to do the same each time, since the part may
    /// be replayed. `between` is called after each step, or once after a replay.
    pub(super) fn run(
        &mut self,
        device: &D,
        part: &Range<usize>,
        mut step: impl FnMut(&mut Program<D>, usize) -> Result<(), DeviceError>,
        mut between: impl FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let Self { program, graphs, .. } = self;
        let Some(graphs) = graphs.as_mut().filter(|_| D::CAPTURES) else {
            return part.clone().try_for_each(|index| step(program, index).and_then(|()| between()));
        };
        let graph = graphs.entry(part.clone()).or_default();
        graph.run(device, || part.clone().try_for_each(|index| step(program, index)))?;
        between()
    }
}
