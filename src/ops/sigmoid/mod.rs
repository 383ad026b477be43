//! The sigmoid loss over a batch of pairs (Zhai et al. 2023, "Sigmoid loss for language image pre-training", section 3.2),
//! with the logits never stored.
//!
//! With unit rows `I, T: [B, E]` and `τ = exp(clip(logit_scale, 0, ln 100))`, the logits are `L = τ I Tᵀ`, and with `z = 1`
//! on the pairs and `-1` elsewhere `loss = -(1 / B) Σ_ij ln σ(z_ij (L_ij + logit_bias))`. The paper does not clip; here the
//! limits are those of [`crate::ops::contrastive`].
//!
//! Backwards, tile by tile: `G = (σ(L + logit_bias) - 1) / B`, where 1 stands for the pairs, `dI = τ G T`, `dT = τ Gᵀ I`,
//! `dlogit_scale = Σ G ∘ L` (zero where the clip holds it), `dlogit_bias = Σ G`.

pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::contrastive::OUTCOME_LEN;
pub use super::contrastive::Shape;
use crate::autograd::{Access, Backward, Cost, Op, ParamGrad, ParamId, Slot, Tape, Var};
use crate::device::{Cpu, Device, DeviceError};

/// Both towers' embeddings, the temperature and the bias.
pub struct Inputs<'a, D: Device> {
    pub images: D::View<'a, f32>,
    pub texts: D::View<'a, f32>,
    pub logit_scale: D::View<'a, f32>,
    pub logit_bias: D::View<'a, f32>,
}

/// The gradients of the loss.
pub struct Gradients<'a, D: Device> {
    pub dimages: D::ViewMut<'a, f32>,
    pub dtexts: D::ViewMut<'a, f32>,
    pub dlogit_scale: (D::ViewMut<'a, f32>, bool),
    pub dlogit_bias: (D::ViewMut<'a, f32>, bool),
}

/// Devices that have the sigmoid loss.
pub trait Sigmoid: Device {
    /// f32 elements of scratch that each direction needs.
    fn sigmoid_scratch(shape: &Shape) -> usize;
    fn sigmoid_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        outcome: Self::ViewMut<'_, f32>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
    fn sigmoid_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        gradients: Gradients<'_, Self>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
}

struct SigmoidOp {
    shape: Shape,
    images: Var<f32>,
    texts: Var<f32>,
    logit_scale: ParamId,
    logit_bias: ParamId,
    outcome: Slot<f32>,
    scratch: Slot<f32>,
    back: Option<Planned>,
}

struct Planned {
    dimages: Slot<f32>,
    dtexts: Slot<f32>,
    dlogit_scale: ParamGrad,
    dlogit_bias: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: Sigmoid> Tape<D> {
    /// `images, texts: [batch, width]`, unit rows, `-> [loss, image_correct, text_correct]` (the places of
    /// [`crate::ops::contrastive`]), kept for the host.
    pub fn sigmoid(
        &mut self,
        images: Var<f32>,
        texts: Var<f32>,
        logit_scale: ParamId,
        logit_bias: ParamId,
    ) -> Slot<f32> {
        let (batch, width) = self.rows(images);
        let shape = Shape { batch, width };
        let (outcome, scratch) = (self.buffer(OUTCOME_LEN), self.buffer(D::sigmoid_scratch(&shape)));
        let op = SigmoidOp { shape, images, texts, logit_scale, logit_bias, outcome, scratch, back: None };
        self.record(op, &[images.id(), texts.id()]);
        self.retain(outcome);
        outcome
    }
}

impl SigmoidOp {
    fn inputs<'a, D: Device>(&self, on: &'a Access<D>) -> Inputs<'a, D> {
        Inputs {
            images: on.read(self.images.slot()),
            texts: on.read(self.texts.slot()),
            logit_scale: on.master(self.logit_scale),
            logit_bias: on.master(self.logit_bias),
        }
    }
}

impl<D: Sigmoid> Op<D> for SigmoidOp {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn cost(&self) -> Cost {
        self.shape.cost(self.back.is_some())
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.sigmoid_forward(&self.shape, self.inputs(on), on.write(self.outcome), on.write(self.scratch))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        plan.read(self.images.slot());
        plan.read(self.texts.slot());
        let (Some(dimages), Some(dtexts)) = (plan.input_grad(self.images), plan.input_grad(self.texts)) else {
            return false;
        };
        let scratch = plan.scratch(D::sigmoid_scratch(&self.shape));
        let (dlogit_scale, dlogit_bias) = (plan.param(self.logit_scale), plan.param(self.logit_bias));
        self.back = Some(Planned { dimages, dtexts, dlogit_scale, dlogit_bias, scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let gradients = Gradients {
            dimages: on.write(back.dimages),
            dtexts: on.write(back.dtexts),
            dlogit_scale: (on.grad(back.dlogit_scale), back.dlogit_scale.accumulate),
            dlogit_bias: (on.grad(back.dlogit_bias), back.dlogit_bias.accumulate),
        };
        device.sigmoid_backward(&self.shape, self.inputs(on), gradients, on.write(back.scratch))
    }
}

impl Sigmoid for Cpu {
    fn sigmoid_scratch(shape: &Shape) -> usize {
        cpu::scratch_len(*shape)
    }

    fn sigmoid_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        outcome: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), DeviceError> {
        cpu::forward(*shape, inputs, outcome, scratch);
        Ok(())
    }

    fn sigmoid_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        gradients: Gradients<'_, Self>,
        scratch: &mut [f32],
    ) -> Result<(), DeviceError> {
        cpu::backward(*shape, inputs, gradients, scratch);
        Ok(())
    }
}
