//! Recording: ops, their results, and what each of them touches when.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::access::{Access, ParamGrad};
use super::params::{Layout, ParamId};
use super::place::{Request, place};
use super::program::{Closed, Combine, Program, Step};
use crate::device::{Device, DeviceError, Elem};
use crate::ops::add::Add;
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
    slot: Slot<T>,
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

/// What one direction of an op costs at least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of matrix products; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that must be read or written once.
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

    /// Called once, in reverse order of recording: asks for the gradients of the op's results, allots those of its
    /// inputs, and keeps the slots. Returns whether there is anything to do backwards.
    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool;

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError>;
}

pub(super) struct SlotInfo {
    pub len: usize,
    pub bytes: usize,
    pub scope: usize,
    span: Range<usize>,
    keep: bool,
}

impl SlotInfo {
    /// The moment at which it is first touched.
    pub fn begin(&self) -> usize {
        self.span.start
    }
}

struct VarInfo {
    shape: Vec<usize>,
    slot: SlotId,
    elem: &'static str,
    wants_grad: bool,
    grad: Option<SlotId>,
    /// The producer has taken the gradient: nobody else will read it through this variable.
    grad_taken: bool,
    /// No op made it: the host writes it and may read its gradient.
    input: bool,
    /// Ops that read it, forwards.
    readers: usize,
    /// It is the GELU of this buffer.
    gelu_of: Option<(Gelu, SlotId)>,
    /// Its gradient is that of the GELU's input already.
    grad_is_of_input: bool,
}

pub(super) struct Recorded<D: Device> {
    pub op: Box<dyn Op<D>>,
    pub scope: usize,
}

/// A record of ops, in order.
pub struct Tape<D: Device> {
    layout: Arc<Layout>,
    ops: Vec<Recorded<D>>,
    slots: Vec<SlotInfo>,
    vars: Vec<VarInfo>,
    scopes: Vec<String>,
    scope: usize,
    constants: Vec<(SlotId, Vec<f32>)>,
}

impl<D: Device> Tape<D> {
    /// An empty tape over the parameters of `layout`.
    pub fn new(layout: Arc<Layout>) -> Self {
        Self {
            layout,
            ops: vec![],
            slots: vec![],
            vars: vec![],
            scopes: vec![String::new()],
            scope: 0,
            constants: vec![],
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Records what `body` records under `name` inside the present scope: `vision/block_03/attention`.
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

    /// The moment at which the next recorded op runs; 0 is when the inputs are written.
    fn now(&self) -> usize {
        self.ops.len() + 1
    }

    fn new_slot<T: Elem>(&mut self, len: usize, moment: usize) -> Slot<T> {
        let bytes = len * size_of::<T>();
        self.slots.push(SlotInfo { len, bytes, scope: self.scope, span: moment..moment + 1, keep: false });
        Slot { id: SlotId(self.slots.len() - 1), elem: PhantomData }
    }

    fn touch(&mut self, slot: SlotId, moment: usize) {
        let span = &mut self.slots[slot.0].span;
        *span = span.start.min(moment)..span.end.max(moment + 1);
    }

    fn new_var<T: Elem>(&mut self, shape: &[usize], wants_grad: bool, moment: usize) -> Var<T> {
        let slot = self.new_slot(shape.iter().product(), moment);
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
        self.new_slot(len, 0)
    }

    /// A buffer that holds `values` at every run.
    pub fn constant(&mut self, values: Vec<f32>) -> Slot<f32> {
        let slot = self.new_slot(values.len(), 0);
        self.keep(slot);
        self.constants.push((slot.id, values));
        slot
    }

    /// A tensor that the host fills before each run; its gradient can be kept (used to check ops by themselves).
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
        self.new_slot(len, self.now())
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

    /// Tells that `var` is the GELU of `pre`, so that the op that makes its gradient can multiply by the slope on the way.
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
            self.touch(slot, now);
            self.vars.iter_mut().filter(|var| var.slot == slot).for_each(|var| var.readers += 1);
        }
        self.ops.push(Recorded { op: Box::new(op), scope: self.scope });
    }

    /// Leaves this buffer alone until the end of the run, so that the host can read it.
    pub fn keep<T>(&mut self, slot: Slot<T>) {
        self.slots[slot.id.0].keep = true;
    }

    /// Closes the tape for evaluation: forward only.
    pub fn inference(self, device: Arc<D>) -> Result<Program<D>, DeviceError> {
        let steps = (0..self.ops.len()).map(Step::Forward).collect();
        Program::new(device, self.close(steps, vec![]))
    }

    fn close(self, steps: Vec<Step>, input_grads: Vec<Option<SlotId>>) -> Closed<D> {
        let end = steps.len() + 2;
        let requests: Vec<Request> = (self.slots.iter())
            .map(|slot| Request {
                bytes: slot.bytes,
                span: slot.span.start..if slot.keep { end } else { slot.span.end },
            })
            .collect();
        let (offsets, bytes) = place(&requests);
        let Self { ops, slots, scopes, constants, .. } = self;
        Closed { constants, ops, steps, slots, offsets, bytes, scopes, input_grads, combine: None }
    }
}

impl<D: Device + Add> Tape<D> {
    /// Closes the tape for training: plans the gradients from `loss` (which counts with weight 1) back to the
    /// parameters.
    pub fn train(self, device: Arc<D>) -> Result<Program<D>, DeviceError> {
        self.train_from(device, |_| {})
    }

    /// Bytes of the block that [`Tape::train`] would take.
    pub fn training_bytes(mut self) -> usize {
        let (steps, input_grads) = self.plan_backward(|_| {});
        self.close(steps, input_grads).bytes
    }

    /// As [`Tape::train`], after `seed` has given some variables their gradient by [`Backward::seed`].
    pub fn train_from(
        mut self,
        device: Arc<D>,
        seed: impl FnOnce(&mut Backward<D>),
    ) -> Result<Program<D>, DeviceError> {
        let (steps, input_grads) = self.plan_backward(seed);
        let combine: Combine<D> = |device, on, into, from, add| match add {
            true => device.add_into(on.write(into), on.read(from)),
            false => device.copy(on.write(into), on.read(from)),
        };
        Program::new(device, Closed { combine: Some(combine), ..self.close(steps, input_grads) })
    }

    /// All steps, forwards and backwards, and the gradients of inputs.
    fn plan_backward(&mut self, seed: impl FnOnce(&mut Backward<D>)) -> (Vec<Step>, Vec<Option<SlotId>>) {
        let mut ops = std::mem::take(&mut self.ops);
        let mut steps: Vec<Step> = (0..ops.len()).map(Step::Forward).collect();
        let mut plan = Backward {
            now: 0,
            seen: vec![false; self.layout.specs().len()],
            before: vec![],
            after: vec![],
            tape: self,
        };
        seed(&mut plan);
        for (index, recorded) in ops.iter_mut().enumerate().rev() {
            // Room for copies before the op: the moment is that of the op itself, and copies share it.
            plan.now = steps.len() + 1;
            plan.tape.scope = recorded.scope;
            if recorded.op.plan_backward(&mut plan) {
                let extra = plan.before.len() + plan.after.len();
                steps.append(&mut plan.before);
                steps.push(Step::Backward(index));
                steps.append(&mut plan.after);
                plan.widen(extra);
            }
        }
        let input_grads: Vec<Option<SlotId>> = self.vars.iter().map(|var| var.grad.filter(|_| var.input)).collect();
        for slot in input_grads.iter().flatten() {
            self.slots[slot.0].keep = true;
        }
        self.ops = ops;
        (steps, input_grads)
    }
}

/// The view of the tape that ops plan their backward pass with.
pub struct Backward<'a, D: Device> {
    tape: &'a mut Tape<D>,
    now: usize,
    seen: Vec<bool>,
    before: Vec<Step>,
    after: Vec<Step>,
}

impl<D: Device> Backward<'_, D> {
    /// Everything that was touched at the present op stays in use over the `extra` steps around it.
    fn widen(&mut self, extra: usize) {
        for slot in &mut self.tape.slots {
            if slot.span.end == self.now + 1 {
                slot.span.end += extra;
            }
        }
    }

    fn touch<T>(&mut self, slot: Slot<T>) -> Slot<T> {
        self.tape.touch(slot.id, self.now);
        slot
    }

    fn typed<T>(&self, id: SlotId) -> Slot<T> {
        Slot { id, elem: PhantomData }
    }

    /// The op reads this buffer, which its forward pass left.
    pub fn read<T>(&mut self, slot: Slot<T>) -> Slot<T> {
        self.touch(slot)
    }

    /// A buffer for the op alone, while it runs.
    pub fn scratch<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.tape.new_slot(len, self.now)
    }

    /// The gradient of a result of the op, if anything that leads to the loss used it.
    pub fn grad<T>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        let info = &mut self.tape.vars[var.index];
        info.grad_taken = true;
        let id = info.grad?;
        let slot = self.typed(id);
        Some(self.touch(slot))
    }

    /// As [`Backward::grad`], for an op that changes it in place: a private copy if another variable still needs it.
    pub fn grad_in_place<T: Elem>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        let slot = self.grad(var)?;
        Some(self.own(slot))
    }

    /// `slot`, or a copy of it if some other variable's gradient is the same buffer and was not read yet.
    fn own<T: Elem>(&mut self, slot: Slot<T>) -> Slot<T> {
        let shared = self.tape.vars.iter().any(|var| var.grad == Some(slot.id) && !var.grad_taken);
        if !shared {
            return slot;
        }
        let copy = self.scratch(self.tape.slots[slot.id.0].len);
        self.before.push(Step::Copy { into: copy.id, from: slot.id });
        copy
    }

    /// The GELU's input, if `var` is a GELU that no other op reads: then the op may hand on the gradient of that input instead
    /// ([`Backward::give`] as for `var`), having multiplied by the slope there.
    pub fn through_gelu<T>(&mut self, var: Var<T>) -> Option<(Gelu, Slot<T>)> {
        let info = &mut self.tape.vars[var.index];
        let (kind, pre) = info.gelu_of.filter(|_| info.readers == 1 && info.wants_grad)?;
        info.grad_is_of_input = true;
        let pre = self.typed(pre);
        Some((kind, self.touch(pre)))
    }

    /// Whether the gradient of this GELU's result is that of its input already.
    pub fn grad_is_of_gelu_input<T>(&self, var: Var<T>) -> bool {
        self.tape.vars[var.index].grad_is_of_input
    }

    /// A buffer for the gradient of an input of the op; `None` if nobody needs it.
    pub fn give<T: Elem>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        if !self.tape.vars[var.index].wants_grad {
            return None;
        }
        let slot = self.scratch(self.tape.slots[var.slot.id.0].len);
        self.hand_on(var, slot);
        Some(slot)
    }

    /// The gradient of the input `var` is the buffer `slot` as the op leaves it.
    pub fn hand_on<T: Elem>(&mut self, var: Var<T>, slot: Slot<T>) {
        if !self.tape.vars[var.index].wants_grad {
            return;
        }
        match self.tape.vars[var.index].grad {
            None => self.tape.vars[var.index].grad = Some(slot.id),
            Some(first) => {
                assert_eq!(self.tape.vars[var.index].elem, D::Act::NAME, "only activations may be used twice");
                let first: Slot<T> = self.typed(first);
                self.touch(first);
                // Adding changes `first`, which an alias of this variable may still have to read.
                self.tape.vars[var.index].grad = None;
                let into = self.own(first);
                self.tape.vars[var.index].grad = Some(into.id);
                self.after.push(Step::Add { into: into.id, from: slot.id });
            }
        }
    }

    /// Where the gradient of a parameter goes: added to if an op before (in backward order) has written it.
    pub fn param(&mut self, id: ParamId) -> ParamGrad {
        let accumulate = std::mem::replace(&mut self.seen[id.0], true);
        ParamGrad { id, accumulate }
    }

    /// Gives `var` a gradient that the host writes (between the forward and the backward pass).
    pub fn seed<T: Elem>(&mut self, var: Var<T>) -> Slot<T> {
        let slot = self.tape.new_slot(self.tape.slots[var.slot.id.0].len, 0);
        self.tape.vars[var.index].grad = Some(slot.id);
        slot
    }
}
