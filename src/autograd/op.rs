//! What an op is.

use super::access::Access;
use super::backward::Backward;
use crate::device::{Device, DeviceError};

/// The least work of one direction of an op: the sum over the passes that it needs (a matrix product, a sum over
/// columns, one side of a loss).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations of matrix products; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that each pass must read or write, each once; without partial sums between passes.
    pub bytes: u64,
}

/// The least work of an op, forwards and backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Work of the forward pass.
    pub forward: Work,
    /// Work of the backward pass as planned; zero without one.
    pub backward: Work,
}

/// A recorded operation on device `D`. To write one:
///
/// 1. **Record.** A method on [`Tape`](super::Tape) takes its inputs as [`Var`](super::Var)s, makes the outputs with
///    [`Tape::result`](super::Tape::result), buffers that it saves or uses as scratch with
///    [`Tape::buffer`](super::Tape::buffer), and passes the op and what it reads to
///    [`Tape::record`](super::Tape::record). Nothing is computed.
/// 2. **Plan.** When the tape is closed for training, [`Op::plan_backward`] is called on each op in reverse order. It
///    asks [`Backward`] for the gradients of the op's outputs, allocates those of its inputs, names what the backward
///    pass reads, and stores the slots that it gets.
/// 3. **Run.** [`Op::forward`] and [`Op::backward`] turn the stored slots into views with [`Access`] and call the
///    device.
///
/// Every buffer that a pass touches must be named: in step 1 for the forward pass, in step 2 for the backward pass.
/// Others may have been overwritten. [`crate::ops`] has many examples; `linear` uses all of this.
pub trait Op<D: Device>: Send + Sync {
    /// The op's name: that of its folder, its kernel and its bench.
    fn name(&self) -> &'static str;

    /// The least work of the op. Called after [`Op::plan_backward`], if the tape is closed for training.
    fn cost(&self) -> Cost;

    /// Computes the outputs from the inputs.
    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError>;

    /// Requests the gradients of the op's outputs, allocates those of its inputs, and stores their slots. Called once,
    /// in reverse order of recording. Returns whether there is anything to do backwards.
    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool;

    /// Computes the gradients of the inputs and parameters from those of the outputs.
    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError>;

    /// Recomputes the output that [`Tape::recomputable_from`](super::Tape::recomputable_from) marks. Its input is in
    /// place. Of the op's other outputs, only those that were saved may be written, with the values that they already
    /// have.
    fn recompute(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        self.forward(device, on)
    }

    /// The least work of [`Op::recompute`].
    fn recompute_work(&self) -> Work {
        self.cost().forward
    }
}
