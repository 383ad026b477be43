//! Planning the backward pass: where each gradient is, and what is recomputed for it.

use std::marker::PhantomData;

use super::graph::{Activation, Graph, Step};
use super::params::{ParamGrad, ParamId};
use super::slot::{Slot, SlotId, Var};
use crate::device::{Device, Elem};

/// When the parameters are used.
#[derive(Default)]
pub(super) struct ParamUse {
    /// For each parameter the number of steps after which its gradient is complete.
    pub complete: Vec<usize>,
    /// Each op's parameters.
    pub params_of: Vec<(usize, ParamId)>,
}

/// What an op plans its backward pass with.
pub struct Backward<'a, D: Device> {
    graph: &'a mut Graph,
    steps: Vec<Step>,
    /// For each parameter whether an op writes its gradient already.
    seen: Vec<bool>,
    /// For each parameter the number of steps after which its gradient is complete.
    complete: Vec<usize>,
    /// Parameters of the current op.
    params: Vec<ParamId>,
    /// Each op's parameters.
    params_of: Vec<(usize, ParamId)>,
    /// Slots used by the current op.
    used: Vec<SlotId>,
    before: Vec<Step>,
    after: Vec<Step>,
    device: PhantomData<fn() -> D>,
}

impl<'a, D: Device> Backward<'a, D> {
    pub(super) fn new(graph: &'a mut Graph, forward: Vec<Step>, params: usize) -> Self {
        let (used, before, after) = (vec![], vec![], vec![]);
        let (seen, complete) = (vec![false; params], vec![0; params]);
        let (params, params_of) = (vec![], vec![]);
        Self { graph, steps: forward, seen, complete, params, params_of, used, before, after, device: PhantomData }
    }

    /// Begins the next op; buffers made for it belong to its scope.
    pub(super) fn enter(&mut self, scope: usize) {
        self.graph.scope = scope;
    }

    /// All steps, and when which parameter is used.
    pub(super) fn into_steps(self) -> (Vec<Step>, ParamUse) {
        (self.steps, ParamUse { complete: self.complete, params_of: self.params_of })
    }

    /// The moment of the next step.
    fn now(&self) -> usize {
        self.steps.len() + 1
    }

    /// Appends the current op's step and its copies and adds; its slots stay live across all of them.
    pub(super) fn finish(&mut self, op: Option<Step>) {
        let begin = self.now();
        self.steps.append(&mut self.before);
        self.steps.extend(op);
        self.steps.append(&mut self.after);
        for param in self.params.drain(..) {
            self.complete[param.0] = self.steps.len();
            if let Some(Step::Backward(op)) = op {
                self.params_of.push((op, param));
            }
        }
        let moments = begin..self.now();
        for SlotId(slot) in self.used.drain(..) {
            moments.clone().for_each(|moment| self.graph.slots[slot].touch(moment));
        }
    }

    /// Appends the steps that recompute this buffer, if it was dropped and has not been recomputed yet.
    ///
    /// Each step has a moment of its own, so that intermediate results are live no longer than necessary.
    fn rematerialize(&mut self, id: SlotId) {
        let slots = &self.graph.slots;
        let (false, Some(op)) = (slots[id.0].alive(), slots[id.0].made_by) else { return };
        let cheap_from = slots[id.0].cheap_from.filter(|from| slots[from.0].alive());
        let inputs = cheap_from.map_or_else(|| self.graph.reads[op].clone(), |from| vec![from]);
        inputs.iter().for_each(|&input| self.rematerialize(input));
        let (now, cheap) = (self.now(), cheap_from.is_some());
        inputs.iter().for_each(|input| self.graph.slots[input.0].touch(now));
        for (index, slot) in self.graph.slots.iter_mut().enumerate().filter(|(_, slot)| slot.made_by == Some(op)) {
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

    /// Reads this buffer of the forward pass; it is saved until then, or recomputed.
    pub fn read<T>(&mut self, slot: Slot<T>) -> Slot<T> {
        self.rematerialize(slot.id);
        self.touch(slot)
    }

    /// A buffer of `len` elements for this op alone, while it runs. Its contents are undefined at the start.
    pub fn scratch<T: Elem>(&mut self, len: usize) -> Slot<T> {
        let slot = self.graph.new_slot(len);
        self.touch(slot)
    }

    /// The gradient of an output of the op, if anything that leads to the loss used that output.
    pub fn grad<T>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        let info = &mut self.graph.vars[var.index];
        info.grad_taken = true;
        let id = info.grad?;
        Some(self.touch(Slot::new(id)))
    }

    /// As [`Backward::grad`], for an op that changes the gradient in place: a copy, if another variable still needs the
    /// original.
    pub fn grad_in_place<T: Elem>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        let slot = self.grad(var)?;
        Some(self.make_exclusive(slot))
    }

    /// `slot`, or a copy of it if it is also the gradient of a variable whose producer has not read it yet.
    fn make_exclusive<T: Elem>(&mut self, slot: Slot<T>) -> Slot<T> {
        let shared = self.graph.vars.iter().any(|var| var.grad == Some(slot.id) && !var.grad_taken);
        if !shared {
            return slot;
        }
        let copy = self.scratch(self.graph.slots[slot.id.0].len);
        self.before.push(Step::Copy { into: copy.id, from: slot.id });
        copy
    }

    /// If `var` is an activation's output and no other op reads it: the activation and the buffer of its input. The op
    /// must then multiply the gradient of `var` by the activation's derivative at that input, as the activation's own
    /// op will not.
    pub fn fuse_activation<T>(&mut self, var: Var<T>) -> Option<(Activation, Slot<T>)> {
        let info = &mut self.graph.vars[var.index];
        let (activation, pre) = info.fused_activation.filter(|_| info.readers == 1 && info.wants_grad)?;
        info.grad_is_of_input = true;
        Some((activation, self.read(Slot::new(pre))))
    }

    /// Whether the gradient of this activation's output is already that of its input: another op has called
    /// [`Backward::fuse_activation`].
    pub fn grad_is_of_activation_input<T>(&self, var: Var<T>) -> bool {
        self.graph.vars[var.index].grad_is_of_input
    }

    /// A buffer for the gradient of an input of the op; `None` if nothing needs it.
    pub fn input_grad<T: Elem>(&mut self, var: Var<T>) -> Option<Slot<T>> {
        if !self.graph.vars[var.index].wants_grad {
            return None;
        }
        let slot = self.scratch(self.graph.slots[var.slot.id.0].len);
        self.pass_grad(var, slot);
        Some(slot)
    }

    /// Declares that the op leaves the gradient of its input `var` in `slot`.
    ///
    /// # Panics
    /// If `var` is used twice and is not of the device's activation type: only those can be added.
    pub fn pass_grad<T: Elem>(&mut self, var: Var<T>, slot: Slot<T>) {
        if !self.graph.vars[var.index].wants_grad {
            return;
        }
        match self.graph.vars[var.index].grad {
            None => self.graph.vars[var.index].grad = Some(slot.id),
            Some(first) => {
                assert_eq!(self.graph.vars[var.index].elem, D::Act::NAME, "only activations may be used twice");
                let first: Slot<T> = Slot::new(first);
                self.touch(first);
                // Adding changes `first`, which may still be read as the gradient of an alias.
                self.graph.vars[var.index].grad = None;
                let into = self.make_exclusive(first);
                self.graph.vars[var.index].grad = Some(into.id);
                self.after.push(Step::Add { into: into.id, from: slot.id });
            }
        }
    }

    /// Where the gradient of a parameter goes; accumulates if an op earlier in the backward pass writes it too.
    pub fn param(&mut self, id: ParamId) -> ParamGrad {
        let accumulate = std::mem::replace(&mut self.seen[id.0], true);
        self.params.push(id);
        ParamGrad { id, accumulate }
    }

    /// Starts the backward pass from `var`: the host writes its gradient into this buffer between the two passes.
    pub fn seed<T: Elem>(&mut self, var: Var<T>) -> Slot<T> {
        let slot = self.graph.written(self.graph.slots[var.slot.id.0].len, 0);
        self.graph.vars[var.index].grad = Some(slot.id);
        slot
    }
}
