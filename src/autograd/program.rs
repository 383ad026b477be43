//! Runs a closed tape: the same ops on the same addresses, any number of times.

use std::sync::Arc;

use super::access::Access;
use super::graph::Step;
use super::liveness::{SlotInfo, Span};
use super::op::{Cost, Op, Work};
use super::params::Parameters;
use super::slot::{Slot, SlotId, Var};
use crate::device::{Device, DeviceError, Elem, Pending};

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
    pub(super) memory: D::Memory,
    bytes: usize,
    scopes: Vec<String>,
    input_grads: Vec<Option<SlotId>>,
    /// For each step, the buffers whose life begins with it: they are uninitialised until it writes them.
    begins: Vec<Vec<SlotId>>,
    /// Buffers, and the memory that receives their next contents.
    pub(super) next_inputs: Vec<(SlotId, D::Memory)>,
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
    pub constants: Vec<(SlotId, Vec<f32>)>,
}

impl<D: Device> Program<D> {
    pub(super) fn new(device: Arc<D>, closed: Closed<D>) -> Result<Self, DeviceError> {
        let Closed { ops, steps, slots, spans, bytes, scopes, input_grads, constants } = closed;
        let memory = device.allocate_unwritten(bytes, "activations")?;
        let mut begins = vec![Vec::new(); steps.len()];
        for (index, slot) in slots.iter().enumerate() {
            // Moment 0 is when the host writes the inputs.
            for step in slot.begins().filter_map(|moment| moment.checked_sub(1)) {
                begins[step].push(SlotId(index));
            }
        }
        let mut this =
            Self { device, ops, steps, slots, spans, memory, bytes, scopes, input_grads, begins, next_inputs: vec![] };
        for (id, values) in constants {
            this.write(Slot::new(id), &values)?;
        }
        Ok(this)
    }

    /// Bytes of the block that holds every buffer of a step.
    pub fn activation_bytes(&self) -> usize {
        self.bytes
    }

    /// Fills a buffer from the host.
    pub fn write<T: Elem>(&mut self, slot: Slot<T>, values: &[T]) -> Result<(), DeviceError> {
        let span = self.spans[0][slot.id.0];
        // SAFETY: the placement lies in the block, aligned; `&mut self` excludes every other view.
        self.device.upload(unsafe { D::view_mut(&self.memory, span.offset, span.len) }, values)
    }

    /// As [`Self::read`], but returns at once.
    pub fn read_async(&self, slot: Slot<f32>) -> Result<Pending, DeviceError> {
        let span = self.spans[0][slot.id.0];
        // SAFETY: as in `read`.
        self.device.download_async(unsafe { D::view(&self.memory, span.offset, span.len) })
    }

    /// Copies a buffer to the host. Only one that was retained ([`super::Tape::retain`]) still holds its value after a run.
    pub fn read<T: Elem>(&self, slot: Slot<T>) -> Result<Vec<T>, DeviceError> {
        let span = self.spans[0][slot.id.0];
        let mut values = vec![T::zeroed(); span.len];
        // SAFETY: the placement lies in the block, aligned; `&self` excludes exclusive views, which need `&mut self`.
        self.device.download(&mut values, unsafe { D::view(&self.memory, span.offset, span.len) })?;
        Ok(values)
    }

    /// The gradient of an input variable, if it got one.
    pub fn input_grad<T>(&self, var: Var<T>) -> Option<Slot<T>> {
        self.input_grads.get(var.index).copied().flatten().map(|id| Slot::new(id))
    }

    /// Runs all ops forwards.
    pub fn forward(&mut self, params: &Parameters<D>) -> Result<(), DeviceError> {
        for index in 0..self.ops.len() {
            self.run(index, params)?;
        }
        Ok(())
    }

    /// Runs the backward pass; every parameter that was used has its gradient afterwards.
    pub fn backward(&mut self, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        for index in self.ops.len()..self.steps.len() {
            self.run(index, params)?;
        }
        Ok(())
    }

    /// Everything that one forward and backward pass does, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Runs one step, so that a profiler can time each. Steps must be run in order.
    pub fn run_step(&mut self, index: usize, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        self.run(index, params)
    }

    fn run(&self, index: usize, params: &Parameters<D>) -> Result<(), DeviceError> {
        let spans = &self.spans[usize::from(index >= self.ops.len())];
        for &SlotId(slot) in &self.begins[index] {
            // SAFETY: the placement lies in the block, and whatever shared these bytes before is not used any more.
            let view = unsafe { D::view_mut::<u8>(&self.memory, spans[slot].offset, self.slots[slot].bytes) };
            self.device.mark_uninit(view)?;
        }
        let step = self.steps[index];
        let on = Access::new(&self.memory, spans, params);
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

    /// The least cost of a [`Step::Recompute`] of an op.
    pub fn recompute_work(&self, op: usize, cheap: bool) -> Work {
        let op = &self.ops[op].op;
        if cheap { op.recompute_work() } else { op.cost().forward }
    }

    /// Bytes of a buffer.
    pub fn slot_bytes(&self, slot: SlotId) -> usize {
        self.slots[slot.0].bytes
    }

    /// The scope in which a buffer was made.
    pub fn slot_scope(&self, slot: SlotId) -> &str {
        &self.scopes[self.slots[slot.0].scope]
    }

    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// Floating-point operations of the matrix products of one run: forward, and forward with backward. Recomputation is
    /// not counted: the model's work is the same.
    pub fn flops(&self) -> (u64, u64) {
        let costs = || self.ops.iter().map(|recorded| recorded.op.cost());
        let forward: u64 = costs().map(|cost| cost.forward.flops).sum();
        (forward, forward + costs().map(|cost| cost.backward.flops).sum::<u64>())
    }

    /// Bytes asked for per scope (before sharing): what holds the memory.
    pub fn bytes_by_scope(&self) -> Vec<(&str, usize)> {
        let mut totals: Vec<(&str, usize)> = self.scopes.iter().map(|scope| (scope.as_str(), 0)).collect();
        for slot in &self.slots {
            totals[slot.scope].1 += slot.bytes;
        }
        totals.retain(|(_, bytes)| *bytes > 0);
        totals
    }
}
