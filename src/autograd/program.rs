//! Runs a closed tape: the same ops on the same addresses, any number of times.

use std::ops::Range;
use std::sync::Arc;

use super::access::{Access, Params};
use super::backward::ParamUse;
use super::graph::Step;
use super::liveness::{SlotInfo, Span};
use super::op::{Cost, Op, Work};
use super::params::{ParamId, Parameters};
use super::slot::{Slot, SlotId, Var};
use crate::device::{Buffer, Device, DeviceError, Elem, Pending};

/// An op on the tape, and the scope that it was recorded in.
pub(super) struct Recorded<D: Device> {
    pub op: Box<dyn Op<D>>,
    pub scope: usize,
}

/// A closed tape with its memory.
pub struct Program<D: Device> {
    pub(super) device: Arc<D>,
    ops: Vec<Recorded<D>>,
    steps: Vec<Step>,
    pub(super) slots: Vec<SlotInfo>,
    /// Where each buffer lies in the forward and in the backward pass.
    pub(super) spans: [Vec<Span>; 2],
    pub(super) memory: Buffer<D, u8>,
    scopes: Vec<String>,
    input_grads: Vec<Option<SlotId>>,
    params: ParamUse,
    /// For each step, the buffers that become live with it; they are uninitialised until it writes them.
    begins: Vec<Vec<SlotId>>,
    /// Buffers, and the memory that receives their next contents.
    pub(super) next_inputs: Vec<(SlotId, Buffer<D, u8>)>,
}

/// What a tape hands over when it is closed.
pub(super) struct Closed<D: Device> {
    pub ops: Vec<Recorded<D>>,
    pub steps: Vec<Step>,
    pub slots: Vec<SlotInfo>,
    pub spans: [Vec<Span>; 2],
    pub bytes: usize,
    pub scopes: Vec<String>,
    pub input_grads: Vec<Option<SlotId>>,
    pub params: ParamUse,
    pub constants: Vec<(SlotId, Vec<f32>)>,
}

impl<D: Device> Program<D> {
    pub(super) fn new(device: Arc<D>, closed: Closed<D>) -> Result<Self, DeviceError> {
        let Closed { ops, steps, slots, spans, bytes, scopes, input_grads, params, constants } = closed;
        let memory = Buffer::unwritten(&*device, bytes, "activations")?;
        let mut begins = vec![Vec::new(); steps.len()];
        for (index, slot) in slots.iter().enumerate() {
            // Moment 0 is when the host writes the inputs.
            for step in slot.begins().filter_map(|moment| moment.checked_sub(1)) {
                begins[step].push(SlotId(index));
            }
        }
        let next_inputs = vec![];
        let mut this =
            Self { device, ops, steps, slots, spans, memory, scopes, input_grads, params, begins, next_inputs };
        for (id, values) in constants {
            this.write(Slot::new(id), &values)?;
        }
        Ok(this)
    }

    /// Bytes of the block that holds every buffer of a step.
    pub fn activation_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Fills a buffer from the host.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If `values` has another length than the buffer.
    pub fn write<T: Elem>(&mut self, slot: Slot<T>, values: &[T]) -> Result<(), DeviceError> {
        let span = self.spans[0][slot.id.0];
        self.device.upload(self.memory.cast_mut(span.offset, span.len), values)
    }

    /// As [`Self::read`], but returns at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read_async(&self, slot: Slot<f32>) -> Result<Pending, DeviceError> {
        let span = self.spans[0][slot.id.0];
        self.device.download_async(self.memory.cast(span.offset, span.len))
    }

    /// Copies a buffer to the host. Only one that was retained ([`Tape::retain`](super::Tape::retain)) still holds its
    /// value after a run.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read<T: Elem>(&self, slot: Slot<T>) -> Result<Vec<T>, DeviceError> {
        let span = self.spans[0][slot.id.0];
        let mut values = vec![T::zeroed(); span.len];
        self.device.download(&mut values, self.memory.cast(span.offset, span.len))?;
        Ok(values)
    }

    /// A buffer on the device. As for [`Self::read`], only one that was retained still holds its value after a run.
    pub fn view<T: Elem>(&self, slot: Slot<T>) -> D::View<'_, T> {
        let span = self.spans[0][slot.id.0];
        self.memory.cast(span.offset, span.len)
    }

    /// Two buffers on the device that are written between two passes, such as seeds
    /// ([`Backward::seed`](super::Backward::seed)).
    ///
    /// # Panics
    /// If they overlap.
    pub fn views_mut<T: Elem>(&mut self, slots: [Slot<T>; 2]) -> [D::ViewMut<'_, T>; 2] {
        let this = &*self;
        let spans = slots.map(|slot| this.spans[0][slot.id.0]);
        let [first, second] = spans.map(|span| span.offset..span.offset + span.len * size_of::<T>());
        assert!(first.end <= second.start || second.end <= first.start, "two buffers overlap");
        // SAFETY: `&mut self` excludes all other views, and these do not overlap.
        spans.map(|span| unsafe { this.memory.alias_mut(span.offset, span.len) })
    }

    /// The gradient of an input ([`Tape::input_var`](super::Tape::input_var)), if anything that leads to the loss used
    /// it.
    pub fn input_grad<T>(&self, var: Var<T>) -> Option<Slot<T>> {
        self.input_grads.get(var.index).copied().flatten().map(|id| Slot::new(id))
    }

    /// Runs all ops forwards.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward(&mut self, params: &Parameters<D>) -> Result<(), DeviceError> {
        self.forward_ops(0..self.ops.len(), params)
    }

    /// Runs some ops forwards. All are to be run in order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward_ops(&mut self, mut ops: Range<usize>, params: &Parameters<D>) -> Result<(), DeviceError> {
        ops.try_for_each(|index| self.run(index, Params::Read(params)))
    }

    /// Runs the backward pass; every parameter that was used has its gradient afterwards.
    ///
    /// # Errors
    /// If the device fails.
    pub fn backward(&mut self, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        (self.ops.len()..self.steps.len()).try_for_each(|index| self.run(index, Params::Write(params)))
    }

    /// The parameters of which an op computes gradients, if the tape was closed for training. They must be all that it
    /// reads, because a device may wait for their values alone.
    pub fn params_of(&self, op: usize) -> impl Iterator<Item = ParamId> {
        self.params.params_of.iter().filter(move |(of, _)| *of == op).map(|(_, param)| *param)
    }

    /// The number of steps after which the gradient of a parameter is complete; 0 if no step writes it.
    pub fn complete_after(&self, id: ParamId) -> usize {
        self.params.complete.get(id.0).copied().unwrap_or(0)
    }

    /// The steps of the forward pass, then those of the backward pass.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Runs one step of [`Self::steps`], so that each can be timed. Steps must be run in order.
    ///
    /// # Errors
    /// If the device fails.
    pub fn run_step(&mut self, index: usize, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        self.run(index, Params::Write(params))
    }

    fn run(&mut self, index: usize, params: Params<D>) -> Result<(), DeviceError> {
        let spans = &self.spans[usize::from(index >= self.ops.len())];
        for &SlotId(slot) in &self.begins[index] {
            let start = spans[slot].offset;
            self.device.mark_uninit(self.memory.range_mut(start..start + self.slots[slot].bytes))?;
        }
        let step = self.steps[index];
        let on = Access::new(&mut self.memory, spans, params);
        let act = Slot::<D::Act>::new;
        match step {
            Step::Forward(op) | Step::Recompute { op, cheap: false } => self.ops[op].op.forward(&self.device, &on),
            Step::Backward(op) => self.ops[op].op.backward(&self.device, &on),
            Step::Recompute { op, cheap: true } => self.ops[op].op.recompute(&self.device, &on),
            Step::Add { into, from } => self.device.add_into(on.write(act(into)), on.read(act(from))),
            Step::Copy { into, from } => self.device.copy(on.write(act(into)), on.read(act(from))),
        }
    }

    /// Name, scope and cost of an op.
    pub fn op(&self, index: usize) -> (&'static str, &str, Cost) {
        let recorded = &self.ops[index];
        (recorded.op.name(), &self.scopes[recorded.scope], recorded.op.cost())
    }

    /// The least work of a [`Step::Recompute`] of an op.
    pub fn recompute_work(&self, op: usize, cheap: bool) -> Work {
        let op = &self.ops[op].op;
        if cheap { op.recompute_work() } else { op.cost().forward }
    }

    /// The size of a buffer in bytes.
    pub fn slot_bytes(&self, slot: SlotId) -> usize {
        self.slots[slot.0].bytes
    }

    /// The scope that a buffer was recorded in.
    pub fn slot_scope(&self, slot: SlotId) -> &str {
        &self.scopes[self.slots[slot.0].scope]
    }

    /// The number of recorded ops.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// Floating-point operations of the matrix products of one run: forward, and forward with backward. Recomputation
    /// is not counted: the model's work is the same.
    pub fn flops(&self) -> (u64, u64) {
        let costs = || self.ops.iter().map(|recorded| recorded.op.cost());
        let forward: u64 = costs().map(|cost| cost.forward.flops).sum();
        (forward, forward + costs().map(|cost| cost.backward.flops).sum::<u64>())
    }

    /// Bytes of the buffers recorded in each scope, without sharing; scopes without buffers are left out.
    pub fn bytes_by_scope(&self) -> Vec<(&str, usize)> {
        let mut totals: Vec<(&str, usize)> = self.scopes.iter().map(|scope| (scope.as_str(), 0)).collect();
        for slot in &self.slots {
            totals[slot.scope].1 += slot.bytes;
        }
        totals.retain(|(_, bytes)| *bytes > 0);
        totals
    }
}
