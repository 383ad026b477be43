//! A pass over the whole batch: one program with both towers and the loss.

use std::sync::Arc;

use super::{StepSize, memory};
use crate::autograd::{Parameters, Program, Tape};
use crate::data::Batch;
use crate::device::{Device, DeviceError};
use crate::model::{Embedded, Flip};
use crate::ops::AllOps;

pub(crate) struct Whole<D: Device> {
    pub program: Program<D>,
    pub embedded: Embedded,
}

impl<D: AllOps> Whole<D> {
    /// # Errors
    /// Too little memory on the device; the error says what would fit.
    pub(crate) fn new(device: &Arc<D>, flip: &Flip, size: StepSize) -> Result<Self, DeviceError> {
        let mut tape = Tape::new(flip.layout().clone());
        tape.recompute(size.recompute);
        let embedded = flip.record(&mut tape, size.batch, size.kept);
        let advise = |error, taken| memory::advise(error, size, taken, |size| memory::step_bytes::<D>(flip, size));
        let mut program = tape.train(device.clone()).map_err(|error| advise(error, 0))?;
        let inputs = embedded.inputs;
        let reserved = program.reserve_prefetch(&[inputs.images.id(), inputs.tokens.id(), inputs.ids_keep.id()]);
        reserved.map_err(|error| advise(error, program.activation_bytes() + program.prefetch_bytes()))?;
        Ok(Self { program, embedded })
    }

    /// Uploads the batch while the previous step may still be computed.
    pub(crate) fn load(&mut self, batch: &Batch) -> Result<(), DeviceError> {
        let inputs = self.embedded.inputs;
        self.program.prefetch(inputs.images, &batch.images)?;
        self.program.prefetch(inputs.tokens, &batch.tokens)?;
        self.program.prefetch(inputs.ids_keep, &batch.ids_keep)?;
        self.program.swap_in()
    }

    pub(crate) fn compute(&mut self, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        self.program.forward(params)?;
        self.program.backward(params)
    }
}
