//! One token of each sequence: `y[b] = x[b, place]`; backwards `dx[b, place] = dy[b]`, and zero for the other tokens.
//!
//! The place is the same in all sequences, or is found in each ([`Tape::find_token`]), as OpenCLIP's text towers find
//! the end token: the first of the largest token, or the first of a given one.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::act_bytes;
use crate::autograd::{Access, Backward, Cost, Op, Slot, Tape, Var, Work};
use crate::device::{Device, DeviceError};

/// `[batch, tokens, width] -> [batch, 1, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence.
    pub tokens: usize,
    /// Features of a token.
    pub width: usize,
}

/// Where the token is: `P` is where the places of all sequences are stored.
#[derive(Clone, Copy, Debug)]
pub enum Place<P> {
    /// At this place of every sequence.
    At(usize),
    /// `[batch]`, the place in each sequence.
    Each(P),
}

impl<P> Place<P> {
    fn map<Q>(self, read: impl FnOnce(P) -> Q) -> Place<Q> {
        match self {
            Self::At(place) => Place::At(place),
            Self::Each(places) => Place::Each(read(places)),
        }
    }
}

/// Which token of a sequence is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// The first of the largest ones.
    Largest,
    /// The first that is this one; the first of all if there is none.
    Id(u32),
}

/// Devices that have `select_token`.
pub trait SelectToken: Device {
    /// `tokens: [batch, context]`, none negative, `-> places: [batch]`.
    fn find_token(
        &self,
        find: Find,
        context: usize,
        tokens: Self::View<'_, i32>,
        places: Self::ViewMut<'_, u32>,
    ) -> Result<(), DeviceError>;

    /// `x: [batch, tokens, width] -> y: [batch, 1, width]`.
    fn select_token_forward(
        &self,
        shape: &Shape,
        place: Place<Self::View<'_, u32>>,
        x: Self::View<'_, Self::Act>,
        y: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;

    /// `dx` from `dy`.
    fn select_token_backward(
        &self,
        shape: &Shape,
        place: Place<Self::View<'_, u32>>,
        dy: Self::View<'_, Self::Act>,
        dx: Self::ViewMut<'_, Self::Act>,
    ) -> Result<(), DeviceError>;
}

struct FindTokenOp {
    find: Find,
    batch: usize,
    context: usize,
    tokens: Slot<i32>,
    places: Slot<u32>,
}

struct SelectTokenOp<D: Device> {
    shape: Shape,
    place: Place<Slot<u32>>,
    x: Var<D::Act>,
    y: Var<D::Act>,
    /// The gradients of `y` and of `x`.
    back: Option<(Slot<D::Act>, Slot<D::Act>)>,
}

impl<D: SelectToken> Tape<D> {
    /// `tokens: [batch, context]`, none negative (the host checks), `-> [batch]`: the place of a token in each
    /// sequence.
    pub fn find_token(&mut self, tokens: Slot<i32>, [batch, context]: [usize; 2], find: Find) -> Slot<u32> {
        let places = self.buffer(batch);
        self.always_save(places);
        self.record(FindTokenOp { find, batch, context, tokens, places }, &[tokens.id()]);
        places
    }

    /// `x: [batch, tokens, width] -> [batch, 1, width]`.
    ///
    /// # Panics
    /// If `x` is not of rank 3, or has no token at a constant place.
    pub fn select_token(&mut self, x: Var<D::Act>, place: Place<Slot<u32>>) -> Var<D::Act> {
        let &[batch, tokens, width] = self.shape(x) else { panic!("sequences are [batch, tokens, width]") };
        let y = self.result(&[batch, 1, width], true);
        let op = SelectTokenOp { shape: Shape { batch, tokens, width }, place, x, y, back: None };
        match place {
            Place::At(place) => {
                assert!(place < tokens, "{tokens} tokens have no place {place}");
                self.record(op, &[x.id()]);
            }
            Place::Each(places) => self.record(op, &[x.id(), places.id()]),
        }
        y
    }
}

impl<D: SelectToken> Op<D> for FindTokenOp {
    fn name(&self) -> &'static str {
        "find_token"
    }

    fn cost(&self) -> Cost {
        let bytes = 4 * self.batch as u64 * (self.context as u64 + 1);
        Cost { forward: Work { flops: 0, bytes }, backward: Work::default() }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        device.find_token(self.find, self.context, on.read(self.tokens), on.write(self.places))
    }

    fn plan_backward(&mut self, _: &mut Backward<D>) -> bool {
        false
    }

    fn backward(&self, _: &D, _: &Access<D>) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl<D: SelectToken> Op<D> for SelectTokenOp<D> {
    fn name(&self) -> &'static str {
        "select_token"
    }

    fn cost(&self) -> Cost {
        let Shape { batch, tokens, width } = self.shape;
        let work = |rows: usize| Work { flops: 0, bytes: act_bytes::<D>(rows * width) };
        Cost { forward: work(2 * batch), backward: work(self.back.map_or(0, |_| batch * (1 + tokens))) }
    }

    fn forward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let place = self.place.map(|places| on.read(places));
        device.select_token_forward(&self.shape, place, on.read(self.x.slot()), on.write(self.y.slot()))
    }

    fn plan_backward(&mut self, plan: &mut Backward<D>) -> bool {
        self.back = plan.grad(self.y).and_then(|dy| Some((dy, plan.input_grad(self.x)?)));
        if let (Some(_), Place::Each(places)) = (self.back, self.place) {
            plan.read(places);
        }
        self.back.is_some()
    }

    fn backward(&self, device: &D, on: &Access<D>) -> Result<(), DeviceError> {
        let Some((dy, dx)) = self.back else { return Ok(()) };
        let place = self.place.map(|places| on.read(places));
        device.select_token_backward(&self.shape, place, on.read(dy), on.write(dx))
    }
}
