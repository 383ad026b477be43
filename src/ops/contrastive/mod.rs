//! Symmetric InfoNCE over a batch of pairs (Radford et al. 2021, figure 3), with the logits never stored.
//!
//! With unit rows `I, T: [B, E]` and `τ = exp(clip(logit_scale, 0, ln 100))`, the logits are `L = τ I Tᵀ` and
//! `loss = (Σ_i (lse_row_i - L_ii) + Σ_j (lse_col_j - L_jj)) / 2B`.
//!
//! Backwards, tile by tile: `G = (exp(L - lse_row) + exp(L - lse_col) - 2·1) / 2B`, `dI = τ G T`, `dT = τ Gᵀ I`,
//! `dlogit_scale = Σ G ∘ L` (zero where the clip holds it).

pub mod cpu;
#[cfg(feature = "cuda")]
pub(in crate::ops) mod cuda;

use crate::autograd::{Access, Backward, Cost, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Cpu, Device, DeviceError};

/// `B` pairs of embeddings of width `E`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub batch: usize,
    pub width: usize,
}

impl Shape {
    /// What a loss over all pairs of the batch costs at least.
    pub(super) fn cost(&self, backward: bool) -> Cost {
        let product = 2 * (self.batch * self.batch * self.width) as u64;
        let tensor = 4 * (self.batch * self.width) as u64;
        // One pass for the images' side and one for the texts', each over both.
        let backward = match backward {
            true => Work { flops: 2 * product, bytes: 6 * tensor },
            false => Work::default(),
        };
        Cost { forward: Work { flops: product, bytes: 4 * tensor }, backward }
    }
}

/// The largest logarithm of the inverse temperature `τ`: `ln 100` (docs/method.md, "Loss").
pub const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// Places in the result buffer of the loss.
pub const LOSS: usize = 0;
/// How many images rank their own text first.
pub const IMAGE_CORRECT: usize = 1;
/// How many texts rank their own image first.
pub const TEXT_CORRECT: usize = 2;
/// The length of the result buffer.
pub const OUTCOME_LEN: usize = 3;

/// Both towers' embeddings and the temperature.
pub struct Inputs<'a, D: Device> {
    pub images: D::View<'a, f32>,
    pub texts: D::View<'a, f32>,
    pub logit_scale: D::View<'a, f32>,
}

/// The log-sum-exp of each row (image) and column (text).
pub struct Lse<V> {
    pub rows: V,
    pub columns: V,
}

/// The gradients of the loss.
pub struct Gradients<'a, D: Device> {
    pub dimages: D::ViewMut<'a, f32>,
    pub dtexts: D::ViewMut<'a, f32>,
    pub dlogit_scale: (D::ViewMut<'a, f32>, bool),
}

/// Devices that have the contrastive loss.
pub trait Contrastive: Device {
    /// f32 elements of scratch that each direction needs.
    fn contrastive_scratch(shape: &Shape) -> usize;
    fn contrastive_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<Self::ViewMut<'_, f32>>,
        outcome: Self::ViewMut<'_, f32>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
    fn contrastive_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<Self::View<'_, f32>>,
        gradients: Gradients<'_, Self>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
}

struct ContrastiveOp {
    shape: Shape,
    images: Var<f32>,
    texts: Var<f32>,
    logit_scale: ParamId,
    lse: Lse<Slot<f32>>,
    outcome: Slot<f32>,
    scratch: Slot<f32>,
    back: Option<Planned>,
}

struct Planned {
    dimages: Slot<f32>,
    dtexts: Slot<f32>,
    dlogit_scale: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: Contrastive> Tape<D> {
    /// `images, texts: [batch, width]`, unit rows, `-> [loss, image_correct, text_correct]`, kept for the host.
    pub fn contrastive(&mut self, images: Var<f32>, texts: Var<f32>, logit_scale: ParamId) -> Slot<f32> {
        let (batch, width) = self.rows(images);
        let shape = Shape { batch, width };
        let lse = Lse { rows: self.buffer(batch), columns: self.buffer(batch) };
        let outcome = self.buffer(OUTCOME_LEN);
        let scratch = self.buffer(D::contrastive_scratch(&shape));
        let op = ContrastiveOp { shape, images, texts, logit_scale, lse, outcome, scratch, back: None };
        self.record(op, &[images.id(), texts.id()]);
        self.retain(outcome);
        outcome
    }
}

impl<D: Contrastive> Op<D> for ContrastiveOp {
    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn cost(&self) -> Cost {
        self.shape.cost(self.back.is_some())
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let inputs = Inputs {
            images: on.read(self.images.slot()),
            texts: on.read(self.texts.slot()),
            logit_scale: on.master(self.logit_scale),
        };
        let lse = Lse { rows: on.write(self.lse.rows), columns: on.write(self.lse.columns) };
        device.contrastive_forward(&self.shape, inputs, lse, on.write(self.outcome), on.write(self.scratch))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        for slot in [self.images.slot(), self.texts.slot(), self.lse.rows, self.lse.columns] {
            plan.read(slot);
        }
        let (Some(dimages), Some(dtexts)) = (plan.input_grad(self.images), plan.input_grad(self.texts)) else {
            return false;
        };
        let scratch = plan.scratch(D::contrastive_scratch(&self.shape));
        self.back = Some(Planned { dimages, dtexts, dlogit_scale: plan.param(self.logit_scale), scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let inputs = Inputs {
            images: on.read(self.images.slot()),
            texts: on.read(self.texts.slot()),
            logit_scale: on.master(self.logit_scale),
        };
        let lse = Lse { rows: on.read(self.lse.rows), columns: on.read(self.lse.columns) };
        let gradients = Gradients {
            dimages: on.write(back.dimages),
            dtexts: on.write(back.dtexts),
            dlogit_scale: (on.grad(back.dlogit_scale), back.dlogit_scale.accumulate),
        };
        device.contrastive_backward(&self.shape, inputs, lse, gradients, on.write(back.scratch))
    }
}

impl Contrastive for Cpu {
    fn contrastive_scratch(shape: &Shape) -> usize {
        cpu::scratch_len(*shape)
    }

    fn contrastive_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<&mut [f32]>,
        outcome: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), DeviceError> {
        cpu::forward(*shape, inputs, lse, outcome, scratch);
        Ok(())
    }

    fn contrastive_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<&[f32]>,
        gradients: Gradients<'_, Self>,
        scratch: &mut [f32],
    ) -> Result<(), DeviceError> {
        cpu::backward(*shape, inputs, lse, gradients, scratch);
        Ok(())
    }
}
