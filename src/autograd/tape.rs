//! Recording: ops, their results, and which buffers each op touches.

use std::sync::Arc;

use super::backward::{Backward, ParamUse};
use super::graph::{Activation, Graph, Step};
use super::liveness::{Recompute, spans};
use super::op::Op;
use super::params::Layout;
use super::program::{Closed, Program, Recorded};
use super::slot::{Slot, SlotId, Var};
use crate::device::{Device, DeviceError, Elem};

/// A record of ops, in order.
///
/// ```
/// use std::sync::Arc;
///
/// use flipk::autograd::{Layout, Parameters, Tape};
/// use flipk::device::Cpu;
///
/// let (device, layout) = (Arc::new(Cpu::default()), Arc::new(Layout::default()));
/// let mut tape = Tape::<Cpu>::new(layout.clone());
/// let x = tape.input_var(&[2, 2]);
/// let y = tape.scope("normalise", |tape| tape.l2norm(x));
/// tape.retain(y.slot());
///
/// let mut program = tape.inference(device.clone())?;
/// program.write(x.slot(), &[3.0, 4.0, 0.0, -2.0])?;
/// program.forward(&Parameters::new(&*device, layout, &[])?)?;
/// assert_eq!(program.read(y.slot())?, [0.6, 0.8, 0.0, -1.0]);
/// assert_eq!(program.op(0).1, "normalise");
/// # Ok::<(), flipk::device::DeviceError>(())
/// ```
pub struct Tape<D: Device> {
    layout: Arc<Layout>,
    graph: Graph,
    ops: Vec<Recorded<D>>,
    constants: Vec<(SlotId, Vec<f32>)>,
    recompute: Recompute,
}

/// What a tape does when it is closed.
#[derive(Default)]
struct Planned {
    /// Forwards and backwards.
    steps: Vec<Step>,
    /// The gradients of inputs.
    input_grads: Vec<Option<SlotId>>,
    params: ParamUse,
}

impl<D: Device> Tape<D> {
    /// An empty tape over the parameters of `layout`.
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout, graph: Graph::new(), ops: vec![], constants: vec![], recompute: Recompute::None }
    }

    /// Sets what a training program recomputes instead of saving it.
    pub fn recompute(&mut self, mode: Recompute) {
        self.recompute = mode;
    }

    /// The parameters that ops can use.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Records what `body` records under `name` inside the current scope: `vision/block_03/attention`.
    pub fn scope<R>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.graph.enter_scope(name);
        let result = body(self);
        self.graph.scope = outer;
        result
    }

    /// Records what `body` records as a block; [`Recompute::Blocks`] saves little of it.
    pub fn block<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.graph.enter_block();
        let result = body(self);
        self.graph.block = outer;
        result
    }

    /// A buffer of `len` elements that the host fills before each run.
    pub fn input<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.graph.written(len, 0)
    }

    /// A buffer that holds `values` at every run.
    pub fn constant(&mut self, values: Vec<f32>) -> Slot<f32> {
        let slot = self.graph.written(values.len(), 0);
        self.retain(slot);
        self.constants.push((slot.id, values));
        slot
    }

    /// A tensor that the host fills before each run, and whose gradient it can read ([`Program::input_grad`]).
    pub fn input_var<T: Elem>(&mut self, shape: &[usize]) -> Var<T> {
        self.graph.new_var(shape, true, 0)
    }

    /// An output of the op that is about to be recorded.
    pub fn result<T: Elem>(&mut self, shape: &[usize], wants_grad: bool) -> Var<T> {
        self.graph.new_var(shape, wants_grad, self.graph.now())
    }

    /// An output with the shape of `var`.
    pub fn result_like<T: Elem>(&mut self, var: Var<T>) -> Var<T> {
        let shape = self.shape(var).to_vec();
        self.result(&shape, true)
    }

    /// A buffer of `len` elements that the op that is about to be recorded writes: to read it in its backward pass, or
    /// as scratch.
    pub fn buffer<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.graph.written(len, self.graph.now())
    }

    /// Another variable for the tensor `var`, with a gradient of its own: for an op that passes an input on unchanged.
    pub fn alias<T: Elem>(&mut self, var: Var<T>) -> Var<T> {
        self.graph.alias(var)
    }

    /// Declares `var = activation(pre)`, so that the op that produces its gradient can fuse the activation's derivative
    /// ([`Backward::fuse_activation`]).
    pub fn is_activation_of<T>(&mut self, var: Var<T>, activation: Activation, pre: Slot<T>) {
        self.graph.vars[var.index].fused_activation = Some((activation, pre.id));
    }

    /// The shape of `var`.
    pub fn shape<T>(&self, var: Var<T>) -> &[usize] {
        &self.graph.vars[var.index].shape
    }

    /// The shape as `(rows, width)`: all axes but the last, and the last.
    pub fn rows<T>(&self, var: Var<T>) -> (usize, usize) {
        let shape = self.shape(var);
        let width = shape.last().copied().unwrap_or(1);
        (shape.iter().product::<usize>() / width.max(1), width)
    }

    /// Whether gradients flow to `var`.
    pub fn wants_grad<T>(&self, var: Var<T>) -> bool {
        self.graph.vars[var.index].wants_grad
    }

    /// Appends an op that reads these buffers forwards. Its outputs were made just before, by [`Tape::result`] and
    /// [`Tape::buffer`].
    pub fn record(&mut self, op: impl Op<D> + 'static, reads: &[SlotId]) {
        self.graph.record(reads);
        self.ops.push(Recorded { op: Box::new(op), scope: self.graph.scope });
    }

    /// The number of ops so far.
    pub fn op_count(&self) -> usize {
        self.ops.len()
    }

    /// Declares that [`Op::recompute`] makes `result` from `from` alone, at little cost.
    pub fn recomputable_from<T, F>(&mut self, result: Slot<T>, from: Slot<F>) {
        self.graph.slots[result.id.0].cheap_from = Some(from.id);
    }

    /// Always saves this buffer for the backward pass: it is small, or other recomputation starts from it.
    pub fn always_save<T>(&mut self, slot: Slot<T>) {
        self.graph.slots[slot.id.0].always_saved = true;
    }

    /// Retains this buffer until the end of the run, so that the host can read it.
    pub fn retain<T>(&mut self, slot: Slot<T>) {
        self.graph.slots[slot.id.0].retained = true;
    }

    /// Closes the tape for evaluation: forward only.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn inference(self, device: Arc<D>) -> Result<Program<D>, DeviceError> {
        let steps = (0..self.ops.len()).map(Step::Forward).collect();
        Program::new(device, self.close(Planned { steps, ..Planned::default() }))
    }

    /// Closes the tape for training: plans the gradients from the loss, whose op starts them, back to the parameters.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn train(self, device: Arc<D>) -> Result<Program<D>, DeviceError> {
        self.train_from(device, |_| {})
    }

    /// As [`Tape::train`], after `seed` has given some variables their gradient by [`Backward::seed`].
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn train_from(
        mut self,
        device: Arc<D>,
        seed: impl FnOnce(&mut Backward<D>),
    ) -> Result<Program<D>, DeviceError> {
        let planned = self.plan_backward(seed);
        Program::new(device, self.close(planned))
    }

    /// Bytes of the block that [`Tape::train`] would allocate.
    pub fn training_bytes(self) -> usize {
        self.training_bytes_from(|_| {})
    }

    /// Bytes of the block that [`Tape::train_from`] would allocate.
    pub fn training_bytes_from(mut self, seed: impl FnOnce(&mut Backward<D>)) -> usize {
        let planned = self.plan_backward(seed);
        self.close(planned).bytes
    }

    fn plan_backward(&mut self, seed: impl FnOnce(&mut Backward<D>)) -> Planned {
        self.graph.slots.iter_mut().for_each(|slot| slot.choose(self.recompute));
        let forward = (0..self.ops.len()).map(Step::Forward).collect();
        let mut plan = Backward::new(&mut self.graph, forward, self.layout.specs().len());
        seed(&mut plan);
        for (index, recorded) in self.ops.iter_mut().enumerate().rev() {
            plan.enter(recorded.scope);
            let runs = recorded.op.plan_backward(&mut plan);
            plan.finish(runs.then_some(Step::Backward(index)));
        }
        let (steps, params) = plan.into_steps();
        let Graph { vars, slots, .. } = &mut self.graph;
        let input_grads: Vec<Option<SlotId>> = vars.iter().map(|var| var.grad.filter(|_| var.input)).collect();
        input_grads.iter().flatten().for_each(|slot| slots[slot.0].retained = true);
        Planned { steps, input_grads, params }
    }

    fn close(self, Planned { steps, input_grads, params }: Planned) -> Closed<D> {
        let Self { ops, graph: Graph { slots, scopes, .. }, constants, .. } = self;
        let (spans, bytes) = spans(&slots, steps.len() + 2);
        Closed { constants, ops, steps, slots, spans, bytes, scopes, input_grads, params }
    }
}
