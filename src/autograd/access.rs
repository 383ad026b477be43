//! How a running op reaches its buffers.

use std::cell::RefCell;
use std::ops::Range;

use super::liveness::Span;
use super::params::{ParamGrad, ParamId, Parameters};
use super::slot::Slot;
use crate::device::{Buffer, Device, Elem};

/// A gradient that an op writes or adds to, with the device's view of it.
#[derive(Debug)]
pub struct GradMut<V> {
    /// Its elements.
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

/// The parameters as a pass borrows them.
pub(super) enum Params<'a, D: Device> {
    /// Gradients are not touched.
    Read(&'a Parameters<D>),
    /// Gradients are written.
    Write(&'a mut Parameters<D>),
}

/// The blocks that have exclusive views.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Activations,
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

/// The buffers of one op while it runs. Gives views of them, and makes sure that an exclusive view overlaps no other.
pub struct Access<'a, D: Device> {
    activations: &'a Buffer<D, u8>,
    spans: &'a [Span],
    params: &'a Parameters<D>,
    /// Whether the gradients of parameters may be written.
    grads: bool,
    taken: RefCell<([Option<Taken>; MAX_VIEWS], usize)>,
}

impl<'a, D: Device> Access<'a, D> {
    /// Borrows the activations, and with [`Params::Write`] the gradients too, for itself alone.
    pub(super) fn new(activations: &'a mut Buffer<D, u8>, spans: &'a [Span], params: Params<'a, D>) -> Self {
        let (params, grads) = match params {
            Params::Read(params) => (params, false),
            Params::Write(params) => (&*params, true),
        };
        Self { activations, spans, params, grads, taken: RefCell::new(([None; MAX_VIEWS], 0)) }
    }

    /// Notes a view. Panics if it conflicts with an earlier one, which is a mistake in the op.
    fn take(&self, block: Block, bytes: Range<usize>, exclusive: bool) {
        let mut taken = self.taken.borrow_mut();
        let (list, count) = &mut *taken;
        let new = Taken { block, start: bytes.start, end: bytes.end, exclusive };
        for old in list[..*count].iter().flatten() {
            let overlap = old.block == new.block && old.start < new.end && new.start < old.end;
            assert!(
                !(overlap && (old.exclusive || new.exclusive)),
                "an op took conflicting views of one buffer, or did not name one of two buffers (Tape::record, Backward::read)"
            );
        }
        list[*count] = Some(new);
        *count += 1;
    }

    fn span<T: Elem>(&self, slot: Slot<T>) -> (Span, Range<usize>) {
        let span = self.spans[slot.id.0];
        assert!(!span.gone, "an op read a buffer that was dropped, without Backward::read");
        (span, span.offset..span.offset + span.len * size_of::<T>())
    }

    /// A buffer of the step, to read.
    ///
    /// # Panics
    /// If the op did not name it ([`Op`](super::Op)), or has an exclusive view of it.
    pub fn read<T: Elem>(&self, slot: Slot<T>) -> D::View<'a, T> {
        let (span, bytes) = self.span(slot);
        self.take(Block::Activations, bytes, false);
        self.activations.cast(span.offset, span.len)
    }

    /// A buffer of the step, to write.
    ///
    /// # Panics
    /// If the op did not name it ([`Op`](super::Op)), or has another view of it.
    pub fn write<T: Elem>(&self, slot: Slot<T>) -> D::ViewMut<'a, T> {
        let (span, bytes) = self.span(slot);
        self.take(Block::Activations, bytes, true);
        // SAFETY: `self` borrows the activations exclusively, and `take` makes sure that none of its views overlaps
        // this one.
        unsafe { self.activations.alias_mut(span.offset, span.len) }
    }

    /// A parameter as a matrix operand.
    pub fn weight(&self, id: ParamId) -> D::View<'a, D::Act> {
        let range = self.params.layout().get(id).range();
        match &self.params.shadow {
            Some(shadow) => shadow.range(range),
            // Without a shadow, activations are f32 as the values are.
            None => self.params.values.buffer().cast(range.start * size_of::<D::Act>(), range.len()),
        }
    }

    /// A parameter in full precision.
    ///
    /// # Panics
    /// If it was added as one that is only read rounded: other ranks may not have sent its values in f32.
    pub fn master(&self, id: ParamId) -> D::View<'a, f32> {
        let spec = self.params.layout().get(id);
        assert!(!spec.rounded, "an op read {} in f32, which is only there rounded", spec.name);
        self.params.values.range(spec.range())
    }

    /// The gradient of a parameter, to write or add to.
    ///
    /// # Panics
    /// In a forward pass, or if the op has another view of it.
    pub fn grad(&self, grad: ParamGrad) -> GradMut<D::ViewMut<'a, f32>> {
        assert!(self.grads, "an op wrote a gradient in its forward pass");
        let range = self.params.layout().get(grad.id).range();
        let bytes = range.start * size_of::<f32>()..range.end * size_of::<f32>();
        self.take(Block::Grads, bytes.clone(), true);
        // SAFETY: `self` borrows the gradients exclusively, and `take` makes sure that none of its views overlaps this
        // one.
        let view = unsafe { self.params.grads.alias_mut(bytes.start, range.len()) };
        GradMut { view, accumulate: grad.accumulate }
    }
}
