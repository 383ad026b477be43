//! Names of buffers and tensors: small, copyable, and meaningful only on the tape that made them.

use std::marker::PhantomData;

/// A buffer of the step, without its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(pub(super) usize);

/// A buffer of the step with elements of type `T`.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot<T> {
    pub(super) id: SlotId,
    elem: PhantomData<T>,
}

impl<T> Slot<T> {
    pub(super) fn new(id: SlotId) -> Self {
        Self { id, elem: PhantomData }
    }

    /// The slot without its type.
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

/// A differentiable tensor on the tape: a slot with a shape, which may get a gradient.
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
    /// The buffer that holds the tensor.
    pub fn slot(self) -> Slot<T> {
        self.slot
    }

    /// The buffer that holds the tensor, without its type.
    pub fn id(self) -> SlotId {
        self.slot.id
    }
}
