//! AdamW over the flat parameter arena (Loshchilov and Hutter 2019, algorithm 2, with the bias corrections of Adam).
//!
//! `m = β1 m + (1-β1) g`, `v = β2 v + (1-β2) g²`, `w -= lr (m̂ / (√v̂ + eps) + decay · w)` with `m̂ = m / (1-β1ᵗ)`,
//! `v̂ = v / (1-β2ᵗ)`; the decay applies to the arena's decaying ranges only.

pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::autograd::DECAY_BLOCK;
use crate::device::{Device, DeviceError};

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u64,
    /// Gradients with a larger norm are scaled down to this one; 0: no limit.
    pub clip_norm: f32,
}

/// Floats of [`Hyper::numbers`].
pub const NUMBERS: usize = 8;

impl Hyper {
    /// What a device reads at each update, so that a captured update can be replayed with other numbers: rate, betas, epsilon,
    /// decay, both corrections, largest norm.
    pub fn numbers(&self) -> [f32; NUMBERS] {
        let (correct1, correct2) = self.corrections();
        let &Self { lr, beta1, beta2, eps, weight_decay, clip_norm, .. } = self;
        [lr, beta1, beta2, eps, weight_decay, correct1, correct2, clip_norm]
    }

    /// What moments are multiplied by to undo their start at zero: `(1 / (1-β1ᵗ), 1 / (1-β2ᵗ))`.
    fn corrections(&self) -> (f32, f32) {
        // In f64: 1 - 0.95^t loses digits in f32 for small t.
        let correction = |beta: f32| (1.0 / (1.0 - libm::pow(f64::from(beta), self.step as f64))) as f32;
        (correction(self.beta1), correction(self.beta2))
    }
}

/// The buffers of one update; all but `decay`, `shadow` and `norm` have the arena's length.
pub struct Update<'a, D: Device> {
    pub values: D::ViewMut<'a, f32>,
    /// The copy of the values that products read.
    pub shadow: Option<D::ViewMut<'a, D::Act>>,
    pub grads: D::View<'a, f32>,
    pub m: D::ViewMut<'a, f32>,
    pub v: D::ViewMut<'a, f32>,
    /// For each [`DECAY_BLOCK`] whether it decays (1) or not (0).
    pub decay: D::View<'a, u8>,
    /// Out, in element 0: the L2 norm of the gradients before clipping. The rest is scratch.
    pub norm: D::ViewMut<'a, f32>,
    /// [`Hyper::numbers`].
    pub numbers: D::View<'a, f32>,
}

/// Devices that update parameters.
pub trait AdamW: Device {
    /// f32 elements of [`Update::norm`] for an arena of this length.
    fn norm_len(arena_len: usize) -> usize;

    /// One update; `hyper` and [`Update::numbers`] say the same. Where the gradients' norm is not finite, only that is written.
    fn adamw(&self, hyper: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError>;
}
