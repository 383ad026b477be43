//! Losses over all pairs of the images and the texts of a batch, with the logits never stored.
//!
//! With unit rows `I, T: [B, E]` and `τ = exp(clip(logit_scale, 0, ln 100))`, the logits are `L = τ I Tᵀ`. A
//! [`PairLoss`] defines the loss and `G`, its gradient with respect to the logits. Backwards, tile by tile: `dI = τ G
//! T`, `dT = τ Gᵀ I`, `dlogit_scale = Σ G ∘ L` (zero where the clip holds it), `dlogit_bias = Σ G`.

mod contrastive;
pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod parts;
mod sigmoid;

use std::marker::PhantomData;
use std::ops::Range;

pub use contrastive::Contrastive;
pub use parts::Parts;
pub use sigmoid::Sigmoid;

use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// Some pairs of a batch of `B` pairs of embeddings of width `E`: pair `i` is row `i` of both operands.
///
/// The shares of all parts of a batch in the loss, the counts and the gradients of the scalars add up to those of the
/// batch, and each part has the whole gradient of its own embeddings. The results of a part depend on this shape and on
/// the embeddings alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Pairs of this part.
    pub rows: usize,
    /// The first of them in the batch.
    pub first: usize,
    /// `B`.
    pub columns: usize,
    /// `E`.
    pub width: usize,
}

impl Shape {
    /// All pairs of a batch.
    pub fn whole(batch: usize, width: usize) -> Self {
        Self { rows: batch, first: 0, columns: batch, width }
    }

    /// Whether these are all pairs of the batch.
    pub fn is_whole(&self) -> bool {
        self.rows == self.columns
    }

    /// These pairs among those of the batch.
    pub fn own(&self) -> Range<usize> {
        self.first..self.first + self.rows
    }

    /// The least work of the forward and of the backward pass over all parts of a batch together.
    pub fn work_of_batch(batch: usize, width: usize) -> [Work; 2] {
        let product = 2 * (batch * batch * width) as u64;
        let tensor = 4 * (batch * width) as u64;
        // Backwards one pass for the images' side and one for the texts', each over both.
        [Work { flops: product, bytes: 4 * tensor }, Work { flops: 2 * product, bytes: 6 * tensor }]
    }
}

/// The largest logarithm of the inverse temperature `τ`: `ln 100` (docs/method.md, "Loss").
pub const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

/// Where the loss is in the outcome.
pub const LOSS: usize = 0;
/// Where the outcome has the number of images that rank their own text first.
pub const IMAGE_CORRECT: usize = 1;
/// Where the outcome has the number of texts that rank their own image first.
pub const TEXT_CORRECT: usize = 2;
/// The length of the outcome.
pub const OUTCOME_LEN: usize = 3;

/// A loss over all pairs: its formula on the CPU, and its kernels.
pub trait PairLoss: Send + Sync + 'static {
    /// The name of the op, of the file under `kernels/`, and the prefix of its kernels.
    const NAME: &'static str;
    /// Whether the backward pass needs the log-sum-exp of each row and column.
    const NEEDS_LSE: bool;
    /// The kernel that goes over all tiles in the forward pass.
    const FORWARD_KERNEL: &'static str;
    /// The kernel that computes the gradients of `logit_scale` and `logit_bias`.
    const SCALARS_KERNEL: &'static str;

    /// What the forward pass on the CPU sums over a block of rows.
    type Sums;
    /// Its start.
    const ZERO: Self::Sums;

    /// The terms whose mean the loss is.
    fn terms(batch: usize) -> usize;

    /// Adds the logits of one row in one tile to the sums of its block; to be inlined into vector code.
    fn add(sums: &mut Self::Sums, tile: cpu::RowTile, logits: &[f32]);

    /// The loss of a block of rows, from the largest logit of each and the logit of its own pair; writes the
    /// log-sum-exps to `lse` if the loss needs them.
    fn finish(sums: &Self::Sums, row_max: &[f32], own: &[f32], lse: &mut [f32]) -> f64;

    /// Turns the logits of one row in one tile into `G`; returns their shares of `Σ G ∘ L` and `Σ G`.
    fn gradient(tile: cpu::GradTile<'_>, logits: &mut [f32]) -> [f64; 2];
}

/// Both towers' embeddings, the temperature and the bias.
pub struct Inputs<'a, D: Device> {
    /// `[columns, width]`, unit rows.
    pub images: D::View<'a, f32>,
    /// `[columns, width]`, unit rows.
    pub texts: D::View<'a, f32>,
    /// `[1]`.
    pub logit_scale: D::View<'a, f32>,
    /// `[1]`, if the loss has a bias.
    pub logit_bias: Option<D::View<'a, f32>>,
}

/// The log-sum-exp of rows (images) and columns (texts) of the logits: the part's own forwards, `[rows]` each, and all
/// backwards, `[columns]` each.
#[derive(Clone, Copy)]
pub struct Lse<V> {
    /// By image.
    pub rows: V,
    /// By text.
    pub columns: V,
}

/// The gradients of the loss; those of the scalars are the part's shares.
pub struct Gradients<'a, D: Device> {
    /// `[rows, width]`.
    pub dimages: D::ViewMut<'a, f32>,
    /// `[rows, width]`.
    pub dtexts: D::ViewMut<'a, f32>,
    /// `[1]`.
    pub dlogit_scale: GradMut<D::ViewMut<'a, f32>>,
    /// `[1]`, if the loss has a bias.
    pub dlogit_bias: Option<GradMut<D::ViewMut<'a, f32>>>,
}

/// Devices that have losses over all pairs.
pub trait Pairwise: Device {
    /// f32 elements of scratch that each direction needs, for a loss with a bias or without.
    fn pairwise_scratch(shape: &Shape, bias: bool) -> usize;

    /// Fills the outcome, `[loss, image_correct, text_correct]`, with the part's shares, and `lse` if the loss needs
    /// it.
    fn pairwise_forward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<Self::ViewMut<'_, f32>>>,
        outcome: Self::ViewMut<'_, f32>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// The gradients of the loss, with weight 1.
    fn pairwise_backward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<Self::View<'_, f32>>>,
        gradients: Gradients<'_, Self>,
        scratch: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;
}

struct PairwiseOp<L> {
    shape: Shape,
    images: Var<f32>,
    texts: Var<f32>,
    logit_scale: ParamId,
    logit_bias: Option<ParamId>,
    lse: Option<Lse<Slot<f32>>>,
    outcome: Slot<f32>,
    scratch: Slot<f32>,
    back: Option<Planned>,
    loss: PhantomData<L>,
}

struct Planned {
    dimages: Slot<f32>,
    dtexts: Slot<f32>,
    dlogit_scale: ParamGrad,
    dlogit_bias: Option<ParamGrad>,
    scratch: Slot<f32>,
}

impl<D: Pairwise> Tape<D> {
    /// Symmetric InfoNCE: `images, texts: [batch, width]`, unit rows, `-> [loss, image_correct, text_correct]`,
    /// retained for the host.
    pub fn contrastive(&mut self, images: Var<f32>, texts: Var<f32>, logit_scale: ParamId) -> Slot<f32> {
        self.pairwise::<Contrastive>(images, texts, logit_scale, None)
    }

    /// The sigmoid loss; shapes as for [`Tape::contrastive`].
    pub fn sigmoid(
        &mut self,
        images: Var<f32>,
        texts: Var<f32>,
        logit_scale: ParamId,
        logit_bias: ParamId,
    ) -> Slot<f32> {
        self.pairwise::<Sigmoid>(images, texts, logit_scale, Some(logit_bias))
    }

    fn pairwise<L: PairLoss>(
        &mut self,
        images: Var<f32>,
        texts: Var<f32>,
        logit_scale: ParamId,
        logit_bias: Option<ParamId>,
    ) -> Slot<f32> {
        let (batch, width) = self.rows(images);
        let shape = Shape::whole(batch, width);
        let lse = L::NEEDS_LSE.then(|| Lse { rows: self.buffer(batch), columns: self.buffer(batch) });
        let outcome = self.buffer(OUTCOME_LEN);
        let scratch = self.buffer(D::pairwise_scratch(&shape, logit_bias.is_some()));
        let loss = PhantomData::<L>;
        let op = PairwiseOp { shape, images, texts, logit_scale, logit_bias, lse, outcome, scratch, back: None, loss };
        self.record(op, &[images.id(), texts.id()]);
        self.retain(outcome);
        outcome
    }
}

impl<L> PairwiseOp<L> {
    fn inputs<'a, D: Device>(&self, on: &'a Access<D>) -> Inputs<'a, D> {
        Inputs {
            images: on.read(self.images.slot()),
            texts: on.read(self.texts.slot()),
            logit_scale: on.master(self.logit_scale),
            logit_bias: self.logit_bias.map(|bias| on.master(bias)),
        }
    }
}

impl<D: Pairwise, L: PairLoss> Op<D> for PairwiseOp<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn cost(&self) -> Cost {
        let [forward, backward] = Shape::work_of_batch(self.shape.columns, self.shape.width);
        Cost { forward, backward: if self.back.is_some() { backward } else { Work::default() } }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let lse = self.lse.map(|lse| Lse { rows: on.write(lse.rows), columns: on.write(lse.columns) });
        let (outcome, scratch) = (on.write(self.outcome), on.write(self.scratch));
        device.pairwise_forward::<L>(&self.shape, self.inputs(on), lse, outcome, scratch)
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        plan.read(self.images.slot());
        plan.read(self.texts.slot());
        if let Some(lse) = self.lse {
            plan.read(lse.rows);
            plan.read(lse.columns);
        }
        let (Some(dimages), Some(dtexts)) = (plan.input_grad(self.images), plan.input_grad(self.texts)) else {
            return false;
        };
        let scratch = plan.scratch(D::pairwise_scratch(&self.shape, self.logit_bias.is_some()));
        let dlogit_scale = plan.param(self.logit_scale);
        let dlogit_bias = self.logit_bias.map(|bias| plan.param(bias));
        self.back = Some(Planned { dimages, dtexts, dlogit_scale, dlogit_bias, scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let lse = self.lse.map(|lse| Lse { rows: on.read(lse.rows), columns: on.read(lse.columns) });
        let gradients = Gradients {
            dimages: on.write(back.dimages),
            dtexts: on.write(back.dtexts),
            dlogit_scale: on.grad(back.dlogit_scale),
            dlogit_bias: back.dlogit_bias.map(|bias| on.grad(bias)),
        };
        device.pairwise_backward::<L>(&self.shape, self.inputs(on), lse, gradients, on.write(back.scratch))
    }
}
