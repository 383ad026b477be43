//! Multi-head self-attention on packed `qkv`, for short rows (Vaswani et al. 2017, section 3.2).
//!
//! Per sample and head: `S = Q Kᵀ / √d`, `P = softmax(S)` over keys (if `causal`, only those up to the query), `O = P
//! V`; the log-sum-exp of each row of `S` is saved instead of `P`.
//!
//! Backwards (Dao et al. 2022, appendix B): `P = exp(S - lse)`, `dV = Pᵀ dO`, `dP = dO Vᵀ`,
//! `dS = P ∘ (dP - rowsum(dO ∘ O))`, `dQ = dS K / √d`, `dK = dSᵀ Q / √d`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod head;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `qkv: [batch, tokens, 3, heads, head_dim] -> [batch, tokens, heads, head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Whether a query sees only the keys up to its own.
    pub causal: bool,
}

impl Shape {
    /// `heads * head_dim`.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// The operands of the backward pass.
pub struct BackwardOperands<'a, D: Device> {
    /// `[batch, tokens, 3, heads, head_dim]`.
    pub qkv: D::View<'a, D::Act>,
    /// The result, `[batch, tokens, heads, head_dim]`.
    pub out: D::View<'a, D::Act>,
    /// The log-sum-exp of each row of scores, `[batch, heads, tokens]`.
    pub lse: D::View<'a, f32>,
    /// As `out`.
    pub dout: D::View<'a, D::Act>,
    /// As `qkv`.
    pub dqkv: D::ViewMut<'a, D::Act>,
}

/// Devices that have attention.
pub trait Attention: Device {
    /// `qkv: [batch, tokens, 3, heads, head_dim] -> out: [batch, tokens, heads, head_dim]`, `lse: [batch, heads,
    /// tokens]`.
    fn attention_forward(
        &self,
        shape: &Shape,
        qkv: Self::View<'_, Self::Act>,
        out: Self::ViewMut<'_, Self::Act>,
        lse: Self::ViewMut<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// `dqkv` from `dout`.
    fn attention_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError>;
}

struct AttentionOp<D: Device> {
    shape: Shape,
    qkv: Var<D::Act>,
    out: Var<D::Act>,
    lse: Slot<f32>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dout: Slot<D::Act>,
    dqkv: Slot<D::Act>,
}

impl<D: Attention> Tape<D> {
    /// `qkv: [batch, tokens, 3 * width] -> [batch, tokens, width]`.
    ///
    /// # Panics
    /// If `qkv` is not of rank 3.
    pub fn attention(&mut self, qkv: Var<D::Act>, heads: usize, causal: bool) -> Var<D::Act> {
        let &[batch, tokens, packed] = self.shape(qkv) else { panic!("qkv is [batch, tokens, 3 * width]") };
        let shape = Shape { batch, tokens, heads, head_dim: packed / 3 / heads, causal };
        let out = self.result(&[batch, tokens, packed / 3], true);
        let lse = self.buffer(batch * heads * tokens);
        self.record(AttentionOp { shape, qkv, out, lse, back: None }, &[qkv.id()]);
        out
    }
}

impl<D: Attention> Op<D> for AttentionOp<D> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, heads, head_dim, .. } = self.shape;
        let product = 2 * (batch * heads * tokens * tokens * head_dim) as u64;
        let tensor = act_bytes::<D>(batch * tokens * heads * head_dim);
        let lse = 4 * (batch * heads * tokens) as u64;
        // Backwards: S again, dV, dP, dQ, dK. The recomputed S does not count as model FLOPs, so four products do.
        Cost {
            forward: Work { flops: 2 * product, bytes: 4 * tensor + lse },
            backward: match self.back {
                Some(_) => Work { flops: 4 * product, bytes: 8 * tensor + lse },
                None => Work::default(),
            },
        }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let (qkv, out) = (on.read(self.qkv.slot()), on.write(self.out.slot()));
        device.attention_forward(&self.shape, qkv, out, on.write(self.lse))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let planned = plan.grad(self.out).and_then(|dout| Some((dout, plan.input_grad(self.qkv)?)));
        let Some((dout, dqkv)) = planned else { return false };
        plan.read(self.qkv.slot());
        plan.read(self.out.slot());
        plan.read(self.lse);
        self.back = Some(Planned { dout, dqkv });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let operands = BackwardOperands {
            qkv: on.read(self.qkv.slot()),
            out: on.read(self.out.slot()),
            lse: on.read(self.lse),
            dout: on.read(back.dout),
            dqkv: on.write(back.dqkv),
        };
        device.attention_backward(&self.shape, operands)
    }
}
