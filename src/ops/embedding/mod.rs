//! Token embedding with learned positions: `out[b, t] = table[token[b, t]] + pos[t]`.
//!
//! Backwards: `dtable[v]` is the sum of `dout` over the places of token `v`, `dpos[t] = Σ_b dout[b, t]`, both in a
//! fixed order.

mod cpu;
#[cfg(feature = "cuda")]
pub(in crate::ops) mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[batch, context] -> [batch, context, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Features of a token.
    pub width: usize,
    /// Rows of the table.
    pub vocab: usize,
}

/// The gradients that the backward pass computes.
pub struct Gradients<'a, D: Device> {
    /// `[vocab, width]`.
    pub dtable: GradMut<D::ViewMut<'a, f32>>,
    /// `[context, width]`.
    pub dpos: GradMut<D::ViewMut<'a, f32>>,
    /// [`Embedding::embedding_scratch`] elements.
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that embed tokens.
pub trait Embedding: Device {
    /// f32 elements of scratch that the backward pass needs.
    fn embedding_scratch(shape: &Shape) -> usize;

    /// `tokens: [batch, context]`, `table: [vocab, width]`, `pos: [context, width] -> out: [batch, context, width]`.
    fn embedding_forward(
        &self,
        shape: &Shape,
        tokens: Self::View<'_, i32>,
        table: Self::View<'_, Self::Act>,
        pos: Self::View<'_, f32>,
        out: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// The gradients of table and positions from `dout: [batch, context, width]`.
    fn embedding_backward(
        &self,
        shape: &Shape,
        tokens: Self::View<'_, i32>,
        dout: Self::View<'_, Self::Act>,
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError>;
}

struct EmbeddingOp<D: Device> {
    shape: Shape,
    tokens: Slot<i32>,
    table: ParamId,
    pos: ParamId,
    out: Var<D::Act>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dout: Slot<D::Act>,
    dtable: ParamGrad,
    dpos: ParamGrad,
    scratch: Slot<f32>,
}

impl<D: Embedding> Tape<D> {
    /// `tokens: [batch, context]`, each in `0..vocab` (the host checks) `-> [batch, context, width]`.
    ///
    /// # Panics
    /// If one of the tables is not of rank 2.
    pub fn embedding(&mut self, tokens: Slot<i32>, batch: usize, table: ParamId, pos: ParamId) -> Var<D::Act> {
        let (&[vocab, width], &[context, _]) = (&self.layout().get(table).shape[..], &self.layout().get(pos).shape[..])
        else {
            panic!("the tables are [vocab, width] and [context, width]")
        };
        let out = self.result(&[batch, context, width], true);
        let shape = Shape { batch, context, width, vocab };
        self.record(EmbeddingOp { shape, tokens, table, pos, out, back: None }, &[tokens.id()]);
        out
    }
}

impl<D: Embedding> Op<D> for EmbeddingOp<D> {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, context, width, vocab } = self.shape;
        let out = act_bytes::<D>(batch * context * width);
        let [table, pos] = [vocab, context].map(|rows| (rows * width * 4) as u64);
        // `dout` is read for the tokens and for the positions.
        let backward = if self.back.is_some() { 2 * out + table + pos } else { 0 };
        // Rows of the table count as if no token occurred twice.
        Cost { forward: Work { flops: 0, bytes: 2 * out + pos }, backward: Work { flops: 0, bytes: backward } }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let (table, pos) = (on.weight(self.table), on.master(self.pos));
        device.embedding_forward(&self.shape, on.read(self.tokens), table, pos, on.write(self.out.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dout) = plan.grad(self.out) else { return false };
        plan.read(self.tokens);
        let (dtable, dpos) = (plan.param(self.table), plan.param(self.pos));
        self.back = Some(Planned { dout, dtable, dpos, scratch: plan.scratch(D::embedding_scratch(&self.shape)) });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let gradients =
            Gradients { dtable: on.grad(back.dtable), dpos: on.grad(back.dpos), scratch: on.write(back.scratch) };
        device.embedding_backward(&self.shape, on.read(self.tokens), on.read(back.dout), gradients)
    }
}
