//! Recording: ops, their results, and which buffers each op touches.

use std::marker::PhantomData;
use std::sync::Arc;

use super::access::Access;
use super::backward::Backward;
use super::liveness::{Recompute, SlotInfo, spans};
use super::params::Layout;
use super::program::{Closed, Program, Step};
use crate::device::{Device, DeviceError, Elem};
use crate::ops::gelu::Gelu;

/// A buffer of the step, before its type is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(pub(super) usize);

/// A typed buffer of the step.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot<T> {
    pub(super) id: SlotId,
    pub(super) elem: PhantomData<T>,
}

impl<T> Slot<T> {
    pub fn id(self) -> SlotId {
        self.id
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Slot<T> {}

/// A differentiable tensor on the tape: a buffer with a shape, which may get a gradient.
#[derive(Debug)]
pub struct Var<T> {
    pub(super) index: usize,
    pub(super) slot: Slot<T>,
}

impl<T> Clone for Var<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Var<T> {}

impl<T> Var<T> {
    pub fn slot(self) -> Slot<T> {
        self.slot
    }

    pub fn id(self) -> SlotId {
        self.slot.id
    }
}

/// What one direction of an op costs at least, as the passes of which it consists: a product, a sum over columns, one side of a
/// loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of matrix products; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that each pass must read or write, each once; without partial sums between passes.
    pub bytes: u64,
}

/// What an op costs at least, forwards and backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub forward: Work,
    pub backward: Work,
}

/// A recorded operation on device `D`.
pub trait Op<D: Device>: Send + Sync {
    /// The op's name: that of its folder, its kernel and its bench.
    fn name(&self) -> &'static str;

    fn cost(&self) -> Cost;

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError>;

    /// Called once, in reverse order of recording: requests the gradients of the op's outputs, allocates those
    /// of its inputs, and stores their slots. Returns whether there is anything to do backwards.
    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool;

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError>;

    /// Recomputes the result that [`Tape::recomputable_from`] marks. Its input is in place. Of the op's other results, only those that
    /// were saved may be written, with the values that they already have.
    fn recompute(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        self.forward(device, on)
    }

    /// The least cost of [`Op::recompute`].
    fn recompute_work(&self) -> Work {
        self.cost().forward
    }
}

pub(super) struct VarInfo {
    pub shape: Vec<usize>,
    pub slot: SlotId,
    pub elem: &'static str,
    pub wants_grad: bool,
    pub grad: Option<SlotId>,
    /// The producer has taken the gradient: nobody else will read it through this variable.
    pub grad_taken: bool,
    /// No op made it: the host writes it and may read its gradient.
    pub input: bool,
    /// Ops that read it, forwards.
    pub readers: usize,
    /// It is the GELU of this buffer.
    pub gelu_of: Option<(Gelu, SlotId)>,
    /// Its gradient is that of the GELU's input already.
    pub grad_is_of_input: bool,
}

pub(super) struct Recorded<D: Device> {
    pub op: Box<dyn Op<D>>,
    pub scope: usize,
}

/// A record of ops, in order.
pub struct Tape<D: Device> {
    pub(super) layout: Arc<Layout>,
    pub(super) ops: Vec<Recorded<D>>,
    /// What each op reads forwards.
    pub(super) reads: Vec<Vec<SlotId>>,
    pub(super) slots: Vec<SlotInfo>,
    pub(super) vars: Vec<VarInfo>,
    scopes: Vec<String>,
    pub(super) scope: usize,
    constants: Vec<(SlotId, Vec<f32>)>,
    pub(super) recompute: Recompute,
    /// Blocks begun so far, and the one that is being recorded.
    blocks: usize,
    block: Option<usize>,
}

impl<D: Device> Tape<D> {
    /// An empty tape over the parameters of `layout`.
    pub fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout,
            ops: vec![],
            reads: vec![],
            slots: vec![],
            vars: vec![],
            scopes: vec![String::new()],
            scope: 0,
            constants: vec![],
            recompute: Recompute::None,
            blocks: 0,
            block: None,
        }
    }

    /// Sets what a training program recomputes instead of saving it.
    pub fn recompute(&mut self, mode: Recompute) {
        self.recompute = mode;
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Records what `body` records under `name` inside the current scope: `vision/block_03/attention`.
    pub fn scope<R>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.scope;
        let full = match self.scopes[outer].as_str() {
            "" => name.to_owned(),
            outer => format!("{outer}/{name}"),
        };
        self.scope = self.scopes.iter().position(|scope| *scope == full).unwrap_or_else(|| {
            self.scopes.push(full);
            self.scopes.len() - 1
        });
        let result = body(self);
        self.scope = outer;
        result
    }

    /// Records what `body` records as a block, of which [`Recompute::Blocks`] saves little.
    pub fn block<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.block.replace(self.blocks);
        self.blocks += 1;
        let result = body(self);
        self.block = outer;
        result
    }

    /// The moment at which the next recorded op runs; 0 is when the inputs are written.
    fn now(&self) -> usize {
        self.ops.len() + 1
    }

    /// A buffer that is not touched yet.
    pub(super) fn new_slot<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.slots.push(SlotInfo::new(len, len * size_of::<T>(), self.scope));
        Slot { id: SlotId(self.slots.len() - 1), elem: PhantomData }
    }

    /// A buffer that is written at `moment`: by the host, or by the op that is about to be recorded.
    pub(super) fn written<T: Elem>(&mut self, len: usize, moment: usize) -> Slot<T> {
        let slot = self.new_slot(len);
        let (block, info) = (self.block, &mut self.slots[slot.id.0]);
        info.touch(moment);
        (info.made_by, info.block) = (moment.checked_sub(1), block);
        slot
    }

    fn new_var<T: Elem>(&mut self, shape: &[usize], wants_grad: bool, moment: usize) -> Var<T> {
        let slot = self.written(shape.iter().product(), moment);
        let (shape, elem) = (shape.to_vec(), T::NAME);
        let input = moment == 0;
        self.vars.push(VarInfo {
            shape,
            slot: slot.id,
            elem,
            wants_grad,
            grad: None,
            grad_taken: false,
            input,
            readers: 0,
            gelu_of: None,
            grad_is_of_input: false,
        });
        Var { index: self.vars.len() - 1, slot }
    }

    /// A buffer that the host fills before each run.
    pub fn input<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.written(len, 0)
    }

    /// A buffer that holds `values` at every run.
    pub fn constant(&mut self, values: Vec<f32>) -> Slot<f32> {
        let slot = self.written(values.len(), 0);
        self.retain(slot);
        self.constants.push((slot.id, values));
        slot
    }

    /// A tensor that the host fills before each run; its gradient can be retained (used to check ops by themselves).
    pub fn input_var<T: Elem>(&mut self, shape: &[usize]) -> Var<T> {
        self.new_var(shape, true, 0)
    }

    /// The result of the op that is about to be recorded.
    pub fn result<T: Elem>(&mut self, shape: &[usize], wants_grad: bool) -> Var<T> {
        self.new_var(shape, wants_grad, self.now())
    }

    /// A result with the shape of `var`.
    pub fn result_like<T: Elem>(&mut self, var: Var<T>) -> Var<T> {
        let shape = self.vars[var.index].shape.clone();
        self.result(&shape, true)
    }

    /// A buffer that the op that is about to be recorded writes and may read again backwards, or uses as scratch.
    pub fn buffer<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.written(len, self.now())
    }

    /// A variable for the same tensor as `var`: what an op hands on unchanged.
    pub fn alias<T: Elem>(&mut self, var: Var<T>) -> Var<T> {
        let VarInfo { shape, slot, elem, wants_grad, .. } = &self.vars[var.index];
        let info = VarInfo {
            shape: shape.clone(),
            slot: *slot,
            elem,
            wants_grad: *wants_grad,
            grad: None,
            grad_taken: false,
            input: false,
            readers: 0,
            gelu_of: None,
            grad_is_of_input: false,
        };
        self.vars.push(info);
        Var { index: self.vars.len() - 1, slot: var.slot }
    }

    /// Declares `var = gelu(pre)`, so that the op that produces its gradient can fuse GELU's derivative.
    pub fn is_gelu_of<T>(&mut self, var: Var<T>, kind: Gelu, pre: Slot<T>) {
        self.vars[var.index].gelu_of = Some((kind, pre.id));
    }

    pub fn shape<T>(&self, var: Var<T>) -> &[usize] {
        &self.vars[var.index].shape
    }

    /// The shape as `(rows, width)`: all axes but the last, and the last.
    pub fn rows<T>(&self, var: Var<T>) -> (usize, usize) {
        let shape = self.shape(var);
        let width = shape.last().copied().unwrap_or(1);
        (shape.iter().product::<usize>() / width.max(1), width)
    }

    pub fn wants_grad<T>(&self, var: Var<T>) -> bool {
        self.vars[var.index].wants_grad
    }

    /// Appends an op that reads and writes these buffers forwards.
    pub fn record(&mut self, op: impl Op<D> + 'static, touches: &[SlotId]) {
        let now = self.now();
        for &slot in touches {
            let info = &mut self.slots[slot.0];
            info.touch(now);
            info.leaves_block |= info.block != self.block;
            self.vars.iter_mut().filter(|var| var.slot == slot).for_each(|var| var.readers += 1);
        }
        self.ops.push(Recorded { op: Box::new(op), scope: self.scope });
        self.reads.push(touches.to_vec());
    }

    /// Declares that [`Op::recompute`] makes this result from `from` alone, at little cost.
    pub fn recomputable_from<T, F>(&mut self, result: Slot<T>, from: Slot<F>) {
        self.slots[result.id.0].cheap_from = Some(from.id);
    }

    /// Always saves this buffer for the backward pass: it is small, or other recomputation starts from it.
    pub fn always_save<T>(&mut self, slot: Slot<T>) {
        self.slots[slot.id.0].always_saved = true;
    }

    /// Retains this buffer until the end of the run, so that the host can read it.
    pub fn retain<T>(&mut self, slot: Slot<T>) {
        self.slots[slot.id.0].retained = true;
    }

    /// Closes the tape for evaluation: forward only.
    pub fn inference(self, device: Arc<D>) -> Result<Program<D>, DeviceError> {
        let steps = (0..self.ops.len()).map(Step::Forward).collect();
        Program::new(device, self.close(steps, vec![]))
    }

    pub(super) fn close(self, steps: Vec<Step>, input_grads: Vec<Option<SlotId>>) -> Closed<D> {
        let (spans, bytes) = spans(&self.slots, steps.len() + 2);
        let Self { ops, slots, scopes, constants, .. } = self;
        Closed { constants, ops, steps, slots, spans, bytes, scopes, input_grads, combine: None }
    }
}
