//! What is recorded about buffers and variables, whatever the device: the tape owns it, and the backward pass is
//! planned on it.

use serde::{Deserialize, Serialize};

use super::liveness::SlotInfo;
use super::slot::{Slot, SlotId, Var};
use crate::device::Elem;

/// An element-wise function that a matrix product can apply in its epilogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`: PyTorch's `GELU(approximate="tanh")`
    #[default]
    GeluTanh,
    /// `x Φ(x)`: PyTorch's `GELU()`
    #[serde(rename = "gelu")]
    GeluExact,
    /// `x σ(1.702 x)`: OpenAI's `QuickGELU`
    QuickGelu,
}

/// One step of a program; numbers are indices of its ops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The forward pass of an op.
    Forward(usize),
    /// The backward pass of an op.
    Backward(usize),
    /// Recomputes results of an op that were not saved: by [`Op::recompute`](super::Op::recompute) if that is `cheap`,
    /// else by its forward pass.
    Recompute {
        /// The op's index.
        op: usize,
        /// Whether [`Op::recompute`](super::Op::recompute) does it.
        cheap: bool,
    },
    /// Adds one gradient to another, where a tensor was used twice.
    Add {
        /// The sum.
        into: SlotId,
        /// What is added.
        from: SlotId,
    },
    /// Copies a gradient that one op changes and another still needs.
    Copy {
        /// The copy.
        into: SlotId,
        /// The original.
        from: SlotId,
    },
}

/// A variable as the tape knows it.
pub(super) struct VarInfo {
    pub shape: Vec<usize>,
    pub slot: SlotId,
    /// Name of the element type.
    pub elem: &'static str,
    pub wants_grad: bool,
    pub grad: Option<SlotId>,
    /// The op that made the variable has asked for its gradient; no other op reads it through this variable.
    pub grad_taken: bool,
    /// No op makes it: the host writes it, and may read its gradient.
    pub input: bool,
    /// The number of ops that read it in the forward pass.
    pub readers: usize,
    /// It is this activation of this buffer.
    pub fused_activation: Option<(Activation, SlotId)>,
    /// Its gradient is already that of the activation's input.
    pub grad_is_of_input: bool,
}

/// The record without its ops: slots, variables, scopes, and what each op reads.
pub(super) struct Graph {
    pub slots: Vec<SlotInfo>,
    pub vars: Vec<VarInfo>,
    /// What each op reads forwards.
    pub reads: Vec<Vec<SlotId>>,
    pub scopes: Vec<String>,
    /// The current scope.
    pub scope: usize,
    /// The number of blocks begun so far, and the current one.
    pub blocks: usize,
    pub block: Option<usize>,
}

impl Graph {
    pub(super) fn new() -> Self {
        let scopes = vec![String::new()];
        Self { slots: vec![], vars: vec![], reads: vec![], scopes, scope: 0, blocks: 0, block: None }
    }

    /// The moment at which the next recorded op runs; 0 is when the inputs are written.
    pub(super) fn now(&self) -> usize {
        self.reads.len() + 1
    }

    /// Enters the scope `name` inside the current one, and returns the current one.
    pub(super) fn enter_scope(&mut self, name: &str) -> usize {
        let outer = self.scope;
        let full = match self.scopes[outer].as_str() {
            "" => name.to_owned(),
            outer => format!("{outer}/{name}"),
        };
        self.scope = self.scopes.iter().position(|scope| *scope == full).unwrap_or_else(|| {
            self.scopes.push(full);
            self.scopes.len() - 1
        });
        outer
    }

    /// Enters a new block, and returns the current one.
    pub(super) fn enter_block(&mut self) -> Option<usize> {
        self.blocks += 1;
        self.block.replace(self.blocks)
    }

    /// A buffer that is not touched yet.
    pub(super) fn new_slot<T: Elem>(&mut self, len: usize) -> Slot<T> {
        self.slots.push(SlotInfo::new(len, len * size_of::<T>(), self.scope));
        Slot::new(SlotId(self.slots.len() - 1))
    }

    /// A buffer that is written at `moment`: by the host, or by the op that is about to be recorded.
    pub(super) fn written<T: Elem>(&mut self, len: usize, moment: usize) -> Slot<T> {
        let slot = self.new_slot(len);
        let (block, info) = (self.block, &mut self.slots[slot.id.0]);
        info.touch(moment);
        (info.made_by, info.block) = (moment.checked_sub(1), block);
        slot
    }

    /// A variable in a new buffer that is written at `moment`.
    pub(super) fn new_var<T: Elem>(&mut self, shape: &[usize], wants_grad: bool, moment: usize) -> Var<T> {
        let slot = self.written(shape.iter().product(), moment);
        self.add_var(shape.to_vec(), slot, wants_grad, moment == 0)
    }

    /// Another variable for the same buffer.
    pub(super) fn alias<T: Elem>(&mut self, var: Var<T>) -> Var<T> {
        let VarInfo { shape, wants_grad, .. } = &self.vars[var.index];
        self.add_var(shape.clone(), var.slot, *wants_grad, false)
    }

    fn add_var<T: Elem>(&mut self, shape: Vec<usize>, slot: Slot<T>, wants_grad: bool, input: bool) -> Var<T> {
        self.vars.push(VarInfo {
            shape,
            slot: slot.id,
            elem: T::NAME,
            wants_grad,
            grad: None,
            grad_taken: false,
            input,
            readers: 0,
            fused_activation: None,
            grad_is_of_input: false,
        });
        Var { index: self.vars.len() - 1, slot }
    }

    /// Records that the next op touches these buffers forwards.
    pub(super) fn record(&mut self, touches: &[SlotId]) {
        let now = self.now();
        for &slot in touches {
            let info = &mut self.slots[slot.0];
            info.touch(now);
            info.leaves_block |= info.block != self.block;
            self.vars.iter_mut().filter(|var| var.slot == slot).for_each(|var| var.readers += 1);
        }
        self.reads.push(touches.to_vec());
    }
}
