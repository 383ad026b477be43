//! Planning the backward pass: where each gradient is, and what is recomputed for it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::access::ParamGrad;
use super::params::ParamId;
use super::program::{Closed, Combine, Program, Step};
use super::tape::{Slot, SlotId, Tape, Var};
use crate::device::{Device, DeviceError, Elem};
use crate::ops::add::Add;
use crate::ops::gelu::Gelu;

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
        let mode = self.recompute;
        self.slots.iter_mut().for_each(|slot| slot.choose(mode));
        let mut ops = std::mem::take(&mut self.ops);
        let mut plan = Backward {
            steps: (0..ops.len()).map(Step::Forward).collect(),
            seen: vec![false; self.layout.specs().len()],
            used: vec![],
            before: vec![],
            after: vec![],
            tape: self,
        };
        seed(&mut plan);
        for (index, recorded) in ops.iter_mut().enumerate().rev() {
            plan.tape.scope = recorded.scope;
            let runs = recorded.op.plan_backward(&mut plan);
            plan.finish(runs.then_some(Step::Backward(index)));
        }
        let steps = plan.steps;
        let input_grads: Vec<Option<SlotId>> = self.vars.iter().map(|var| var.grad.filter(|_| var.input)).collect();
        for slot in input_grads.iter().flatten() {
            self.slots[slot.0].retained = true;
        }
        self.ops = ops;
        (steps, input_grads)
    }
}

/// The view of the tape that ops plan their backward pass with.
pub struct Backward<'a, D: Device> {
    tape: &'a mut Tape<D>,
    steps: Vec<Step>,
    seen: Vec<bool>,
    /// Slots used by the current op.
    used: Vec<SlotId>,
    before: Vec<Step>,
    after: Vec<Step>,
}

impl<D: Device> Backward<'_, D> {
    /// The moment of the next step.
    fn now(&self) -> usize {
        self.steps.len() + 1
    }

    /// Appends the current op's step and its copies and adds; its slots stay live across all of them.
    fn finish(&mut self, op: Option<Step>) {
        let begin = self.now();
        self.steps.append(&mut self.before);
        self.steps.extend(op);
        self.steps.append(&mut self.after);
        let moments = begin..self.now();
        for SlotId(slot) in self.used.drain(..) {
            moments.clone().for_each(|moment| self.tape.slots[slot].touch(moment));
        }
    }

    /// Appends the steps that recompute this buffer, if it was dropped and has not been recomputed yet.
    ///
    /// Each step has a moment of its own, so that intermediate results are live no longer than necessary.
    fn rematerialize(&mut self, id: SlotId) {
        let slots = &self.tape.slots;
        let (false, Some(op)) = (slots[id.0].alive(), slots[id.0].made_by) else { return };
        let cheap_from = slots[id.0].cheap_from.filter(|from| slots[from.0].alive());
        let inputs = cheap_from.map_or_else(|| self.tape.reads[op].clone(), |from| vec![from]);
        inputs.iter().for_each(|&input| self.rematerialize(input));
        let (now, cheap) = (self.now(), cheap_from.is_some());
        inputs.iter().for_each(|input| self.tape.slots[input.0].touch(now));
        for (index, slot) in self.tape.slots.iter_mut().enumerate().filter(|(_, slot)| slot.made_by == Some(op)) {
            // The op may write all its results; `Op::recompute` leaves alone what else was dropped.
            if !(cheap && slot.dropped()) || index == id.0 {
                slot.touch(now);
            }
        }
        self.steps.push(Step::Recompute { op, cheap });
    }

    fn touch<T>(&mut self, slot: Slot<T>) -> Slot<T> {
        self.used.push(slot.id);
        slot
    }

    fn typed<T>(&self, id: SlotId) -> Slot<T> {
        Slot { id, elem: PhantomData }
    }

    /// The op reads this buffer, which its forward pass left.
    pub fn read<T>(&mut self, slot: Slot<T>) -> Slot<T> {
        self.rematerialize(slot.id);
        self.touch(slot)
    }

    /// A buffer for the op alone, while it runs.
    pub fn scratch<T: Elem>(&mut self, len: usize) -> Slot<T> {
        let slot = self.tape.new_slot(len);
        self.touch(slot)
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
        Some(self.make_exclusive(slot))
    }

    /// `slot`, or a copy of it if some other variable's gradient is the same buffer and was not read yet.
    fn make_exclusive<T: Elem>(&mut self, slot: Slot<T>) -> Slot<T> {
        let shared = self.tape.vars.iter().any(|var| var.grad == Some(slot.id) && !var.grad_taken);
        if !shared {
            return slot;
        }
        let copy = self.scratch(self.tape.slots[slot.id.0].len);
        self.before.push(Step::Copy { into: copy.id, from: slot.id });
        copy
    }

    /// The GELU's input, if `var` is a GELU that no other op reads: then the op may pass on the gradient of that input instead
    /// ([`Backward::input_grad`] as for `var`), having multiplied by the slope there.
    pub fn through_gelu<T>(&mut self, var: Var<T>) -> Option<(Gelu, Slot<T>)> {
        let info = &mut self.tape.vars[var.index];
        let (kind, pre) = info.gelu_of.filter(|_| info.readers == 1 && info.wants_grad)?;
        info.grad_is_of_input = true;
        let pre = self.typed(pre);
        Some((kind, self.read(pre)))
    }

    /// Whether the gradient of this GELU's result is that of its input already.
    pub fn grad_is_of_gelu_input<T>(&self, var: Var<T>) -> bool {
        self.tape.vars[var.index].grad_is_of_input
    }

    /// A buffer for the gradient of an input of the op; `None` if nobody needs it.
    pub fn input_grad<T: Elem>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        if !self.tape.vars[var.index].wants_grad {
            return None;
        }
        let slot = self.scratch(self.tape.slots[var.slot.id.0].len);
        self.pass_grad(var, slot);
        Some(slot)
    }

    /// The gradient of the input `var` is the buffer `slot` as the op leaves it.
    pub fn pass_grad<T: Elem>(&mut self, var: Var<T>, slot: Slot<T>) {
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
                let into = self.make_exclusive(first);
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
        let slot = self.tape.written(self.tape.slots[var.slot.id.0].len, 0);
        self.tape.vars[var.index].grad = Some(slot.id);
        slot
    }
}
