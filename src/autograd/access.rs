//! How a running op reaches its buffers.

use std::cell::RefCell;
use std::ops::Range;

use super::liveness::Span;
use super::params::{ParamGrad, ParamId, Parameters};
use super::slot::Slot;
use crate::device::{Device, Elem};

/// A gradient that an op writes or adds to, with the device's view of it.
#[derive(Debug)]
pub struct GradMut<V> {
    pub view: V,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

impl<'a> GradMut<&'a mut [f32]> {
    /// The elements to sum into: zeroed, unless the gradient accumulates.
    pub fn sum_into(self) -> &'a mut [f32] {
        if !self.accumulate {
            self.view.fill(0.0);
        }
        self.view
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Activations,
    Values,
    Shadow,
    Grads,
}

#[derive(Clone, Copy)]
struct Taken {
    block: Block,
    start: usize,
    end: usize,
    exclusive: bool,
}

/// Upper bound on the views that one op takes.
const MAX_VIEWS: usize = 24;

/// The buffers of one op while it runs. Hands out views, and makes sure that an exclusive one overlaps no other.
pub struct Access<'a, D: Device> {
    activations: &'a D::Memory,
    spans: &'a [Span],
    params: &'a Parameters<D>,
    taken: RefCell<([Option<Taken>; MAX_VIEWS], usize)>,
}

impl<'a, D: Device> Access<'a, D> {
    pub(super) fn new(activations: &'a D::Memory, spans: &'a [Span], params: &'a Parameters<D>) -> Self {
        Self { activations, spans, params, taken: RefCell::new(([None; MAX_VIEWS], 0)) }
    }

    /// Notes a view; panics where it conflicts with one taken before, which only a wrongly written op can cause.
    fn take(&self, block: Block, bytes: Range<usize>, exclusive: bool) {
        let mut taken = self.taken.borrow_mut();
        let (list, count) = &mut *taken;
        let new = Taken { block, start: bytes.start, end: bytes.end, exclusive };
        for old in list[..*count].iter().flatten() {
            let overlap = old.block == new.block && old.start < new.end && new.start < old.end;
            assert!(!(overlap && (old.exclusive || new.exclusive)), "an op took conflicting views of one buffer");
        }
        list[*count] = Some(new);
        *count += 1;
    }

    fn span<T: Elem>(&self, slot: Slot<T>) -> (Span, Range<usize>) {
        let span = self.spans[slot.id.0];
        assert!(!span.gone, "an op took a buffer that was dropped, and did not ask for it");
        (span, span.offset..span.offset + span.len * size_of::<T>())
    }

    /// A buffer of the step, to read.
    pub fn read<T: Elem>(&self, slot: Slot<T>) -> D::View<'a, T> {
        let (span, bytes) = self.span(slot);
        self.take(Block::Activations, bytes, false);
        // SAFETY: the placement lies in the block and is aligned; `take` has excluded exclusive views for as long as
        // `self` lives, and two `Access` never run at the same time (a program needs `&mut self` to run).
        unsafe { D::view(self.activations, span.offset, span.len) }
    }

    /// A buffer of the step, to write.
    pub fn write<T: Elem>(&self, slot: Slot<T>) -> D::ViewMut<'a, T> {
        let (span, bytes) = self.span(slot);
        self.take(Block::Activations, bytes, true);
        // SAFETY: as in `read`, exclusively.
        unsafe { D::view_mut(self.activations, span.offset, span.len) }
    }

    /// A parameter as a matrix operand.
    pub fn weight(&self, id: ParamId) -> D::View<'a, D::Act> {
        let spec = self.params.layout().get(id);
        let (block, memory) = match &self.params.shadow {
            Some(shadow) => (Block::Shadow, shadow),
            None => (Block::Values, &self.params.values),
        };
        let offset = spec.offset * size_of::<D::Act>();
        self.take(block, offset..offset + spec.len * size_of::<D::Act>(), false);
        // SAFETY: the layout lies in the block; nothing writes values while a program runs (it holds `&Parameters`).
        unsafe { D::view(memory, offset, spec.len) }
    }

    /// A parameter in full precision.
    pub fn master(&self, id: ParamId) -> D::View<'a, f32> {
        let spec = self.params.layout().get(id);
        self.take(Block::Values, spec.offset * 4..(spec.offset + spec.len) * 4, false);
        // SAFETY: as in `weight`.
        unsafe { D::view(&self.params.values, spec.offset * 4, spec.len) }
    }

    /// The gradient of a parameter, to write or add to.
    pub fn grad(&self, grad: ParamGrad) -> GradMut<D::ViewMut<'a, f32>> {
        let spec = self.params.layout().get(grad.id);
        self.take(Block::Grads, spec.offset * 4..(spec.offset + spec.len) * 4, true);
        // SAFETY: the layout lies in the block; `take` has excluded other views, and a program that writes gradients
        // holds `&mut Parameters`.
        let view = unsafe { D::view_mut(&self.params.grads, spec.offset * 4, spec.len) };
        GradMut { view, accumulate: grad.accumulate }
    }
}
