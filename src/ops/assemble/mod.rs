//! The vision tower's sequence: a CLS token in front of the visible patches, and positions by patch index.
//!
//! `out[b, 0] = cls + pos[0]`, `out[b, 1 + k] = patches[b, k] + pos[1 + ids[b, k]]`. FLIP's table is fixed with a zero
//! row for CLS (docs/method.md); CLIP's is learned.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, GradMut, Op, ParamGrad, ParamId, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[batch, kept, width] -> [batch, kept + 1, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Samples.
    pub batch: usize,
    /// Visible patches of a sample.
    pub kept: usize,
    /// Features of a token.
    pub width: usize,
}

/// The position table, `[patches + 1, width]`, row 0 for CLS.
#[derive(Clone, Copy, Debug)]
pub enum Positions {
    /// A constant.
    Fixed(Slot<f32>),
    /// A parameter.
    Learned(ParamId),
}

/// The gradients that the backward pass computes.
pub struct Gradients<'a, D: Device> {
    /// `[batch, kept, width]`, if the patches need a gradient.
    pub dpatches: Option<D::ViewMut<'a, D::Act>>,
    /// `[width]`.
    pub dcls: GradMut<D::ViewMut<'a, f32>>,
    /// `[patches + 1, width]`, if the positions are learned.
    pub dpos: Option<GradMut<D::ViewMut<'a, f32>>>,
    /// [`Assemble::assemble_scratch`] elements.
    pub scratch: D::ViewMut<'a, f32>,
}

/// Devices that assemble sequences.
pub trait Assemble: Device {
    /// f32 elements of scratch that the backward pass needs, with `learned` positions or fixed ones.
    fn assemble_scratch(shape: &Shape, learned: bool) -> usize;

    /// `patches: [batch, kept, width]`, `ids: [batch, kept]`, `cls: [width]`, `pos: [patches + 1, width]
    /// -> out: [batch, kept + 1, width]`.
    fn assemble_forward(
        &self,
        shape: &Shape,
        patches: Self::View<'_, Self::Act>,
        ids: Self::View<'_, u32>,
        cls: Self::View<'_, f32>,
        pos: Self::View<'_, f32>,
        out: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// The gradients of [`Self::assemble_forward`]'s inputs from `dout: [batch, kept + 1, width]`.
    fn assemble_backward(
        &self,
        shape: &Shape,
        dout: Self::View<'_, Self::Act>,
        ids: Self::View<'_, u32>,
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError>;
}

struct AssembleOp<D: Device> {
    shape: Shape,
    patches: Var<D::Act>,
    ids: Slot<u32>,
    cls: ParamId,
    positions: Positions,
    out: Var<D::Act>,
    back: Option<Planned<D>>,
}

struct Planned<D: Device> {
    dout: Slot<D::Act>,
    dpatches: Option<Slot<D::Act>>,
    dcls: ParamGrad,
    dpos: Option<ParamGrad>,
    scratch: Slot<f32>,
}

impl<D: Assemble> Tape<D> {
    /// `patches: [batch, kept, width]`, `ids: [batch, kept] -> [batch, kept + 1, width]`.
    ///
    /// # Panics
    /// If `patches` is not of rank 3.
    pub fn assemble(
        &mut self,
        patches: Var<D::Act>,
        ids: Slot<u32>,
        cls: ParamId,
        positions: Positions,
    ) -> Var<D::Act> {
        let &[batch, kept, width] = self.shape(patches) else { panic!("patches are [batch, kept, width]") };
        let out = self.result(&[batch, kept + 1, width], true);
        let shape = Shape { batch, kept, width };
        let op = AssembleOp { shape, patches, ids, cls, positions, out, back: None };
        match positions {
            Positions::Fixed(table) => self.record(op, &[patches.id(), ids.id(), table.id()]),
            Positions::Learned(_) => self.record(op, &[patches.id(), ids.id()]),
        }
        out
    }
}

impl<D: Assemble> Op<D> for AssembleOp<D> {
    fn name(&self) -> &'static str {
        "assemble"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, kept, width } = self.shape;
        let bytes = act_bytes::<D>(batch * width * (2 * kept + 1));
        // At least one sample's rows of the table of positions.
        let table = ((kept + 1) * width * 4) as u64;
        Cost { forward: Work { flops: 0, bytes: bytes + table }, backward: Work { flops: 0, bytes } }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let pos = match self.positions {
            Positions::Fixed(table) => on.read(table),
            Positions::Learned(table) => on.master(table),
        };
        let (patches, ids, cls) = (on.read(self.patches.slot()), on.read(self.ids), on.master(self.cls));
        device.assemble_forward(&self.shape, patches, ids, cls, pos, on.write(self.out.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        let Some(dout) = plan.grad(self.out) else { return false };
        plan.read(self.ids);
        let dpos = match self.positions {
            Positions::Fixed(_) => None,
            Positions::Learned(table) => Some(plan.param(table)),
        };
        let (dpatches, dcls) = (plan.input_grad(self.patches), plan.param(self.cls));
        let scratch = plan.scratch(D::assemble_scratch(&self.shape, dpos.is_some()));
        self.back = Some(Planned { dout, dpatches, dcls, dpos, scratch });
        true
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some(back) = &self.back else { return Ok(()) };
        let gradients = Gradients {
            dpatches: back.dpatches.map(|slot| on.write(slot)),
            dcls: on.grad(back.dcls),
            dpos: back.dpos.map(|dpos| on.grad(dpos)),
            scratch: on.write(back.scratch),
        };
        device.assemble_backward(&self.shape, on.read(back.dout), on.read(self.ids), gradients)
    }
}
