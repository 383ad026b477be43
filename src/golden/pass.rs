//! What computes the gradients that are compared.

use std::sync::Arc;

use crate::autograd::{Parameters, Program, Tape};
use crate::data::Batch;
use crate::device::{Device, DeviceError};
use crate::model::{Embedded, Flip};
use crate::ops::AllOps;
use crate::ops::pairwise::LOSS;

/// A forward and a backward pass over a batch.
pub trait Pass<D: Device> {
    /// Leaves the gradients of the loss of `batch` in `params`, and returns the loss.
    ///
    /// # Errors
    /// If the device fails.
    fn gradients(&mut self, batch: &Batch, params: &mut Parameters<D>) -> Result<f64, DeviceError>;

    /// The embeddings of images and of texts of that batch, `[batch, embed_dim]` each.
    ///
    /// # Errors
    /// If the device fails.
    fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError>;
}

/// One program over the whole batch.
pub(super) struct OnePass<D: Device> {
    program: Program<D>,
    embedded: Embedded,
}

impl<D: AllOps> OnePass<D> {
    pub(super) fn new(device: Arc<D>, flip: &Flip, batch: usize, kept: usize) -> Result<Self, DeviceError> {
        let mut tape = Tape::new(flip.layout().clone());
        let embedded = flip.record(&mut tape, batch, kept);
        Ok(Self { program: tape.train(device)?, embedded })
    }
}

impl<D: AllOps> Pass<D> for OnePass<D> {
    fn gradients(&mut self, batch: &Batch, params: &mut Parameters<D>) -> Result<f64, DeviceError> {
        let (program, inputs) = (&mut self.program, self.embedded.inputs);
        program.write(inputs.images, &batch.images)?;
        program.write(inputs.tokens, &batch.tokens)?;
        program.write(inputs.ids_keep, &batch.ids_keep)?;
        program.forward(params)?;
        program.backward(params)?;
        Ok(f64::from(program.read(self.embedded.outcome)?[LOSS]))
    }

    fn embeddings(&self) -> Result<[Vec<f32>; 2], DeviceError> {
        let Embedded { images, texts, .. } = self.embedded;
        Ok([self.program.read(images.slot())?, self.program.read(texts.slot())?])
    }
}
