//! AdamW over the flat parameter arena (Loshchilov and Hutter 2019, algorithm 2, with the bias corrections of Adam).
//!
//! `m = β1 m + (1-β1) g`, `v = β2 v + (1-β2) g²`, `w -= lr (m̂ / (√v̂ + eps) + decay · w)` with `m̂ = m / (1-β1ᵗ)`,
//! `v̂ = v / (1-β2ᵗ)`; the decay applies to the arena's decaying ranges only.

pub mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::autograd::DECAY_BLOCK;
use crate::device::{Device, DeviceError};

/// The hyperparameters of one update.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f32,
    /// Counted from 1.
    pub step: u64,
    /// Gradients with a larger L2 norm are scaled down to this one; 0 means no limit.
    pub clip_norm: f32,
}

/// Floats of [`Hyper::numbers`].
pub const NUMBERS: usize = 8;

impl Hyper {
    /// What a device reads at each update, so that a captured update can be replayed with other numbers: learning rate,
    /// both betas, epsilon, weight decay, both bias corrections, largest norm.
    pub fn numbers(&self) -> [f32; NUMBERS] {
        let (correct1, correct2) = self.corrections();
        let &Self { lr, beta1, beta2, eps, weight_decay, clip_norm, .. } = self;
        [lr, beta1, beta2, eps, weight_decay, correct1, correct2, clip_norm]
    }

    /// The bias corrections `(1 / (1-β1ᵗ), 1 / (1-β2ᵗ))`.
    fn corrections(&self) -> (f32, f32) {
        // In f64: 1 - 0.95^t loses digits in f32 for small t.
        let correction = |beta: f32| (1.0 / (1.0 - libm::pow(f64::from(beta), self.step as f64))) as f32;
        (correction(self.beta1), correction(self.beta2))
    }
}

/// Elements of the gradients whose squares are added up together, on whichever rank: so the norm has the same bits
/// when several ranks compute it.
pub const NORM_BLOCK: usize = 1 << 14;

/// Floats of [`AdamW::adamw_scale`]'s result: the norm, the factor for gradients, and padding to 16 bytes.
pub const HEAD: usize = 4;

/// The buffers of one update; all but `decay`, `shadow` and `head` have the same length, a multiple of
/// [`DECAY_BLOCK`]: that of the arena, or of a part of it.
pub struct Update<'a, D: Device> {
    /// Master weights.
    pub values: D::ViewMut<'a, f32>,
    /// The copy of the weights that products read.
    pub shadow: Option<D::ViewMut<'a, D::Act>>,
    /// Gradients.
    pub grads: D::View<'a, f32>,
    /// First moments.
    pub m: D::ViewMut<'a, f32>,
    /// Second moments.
    pub v: D::ViewMut<'a, f32>,
    /// For each [`DECAY_BLOCK`], whether it decays (1) or not (0).
    pub decay: D::View<'a, u8>,
    /// What [`AdamW::adamw_scale`] has written.
    pub head: D::View<'a, f32>,
    /// [`Hyper::numbers`].
    pub numbers: D::View<'a, f32>,
}

/// Devices that update parameters.
pub trait AdamW: Device {
    /// Floats that hold what a [`NORM_BLOCK`] contributes to the norm.
    const PARTIAL: usize;

    /// For each [`NORM_BLOCK`] of `grads`, [`Self::PARTIAL`] floats that [`Self::adamw_scale`] needs. `grads` starts at
    /// a multiple of [`NORM_BLOCK`] in the arena; the last block may be shorter.
    fn adamw_squares(&self, grads: Self::View<'_, f32>, partials: Self::ViewMut<'_, f32>) -> Result<(), DeviceError>;

    /// From the partials of the whole arena: `head[0]` is the L2 norm of the gradients, and `head[1]` the factor by
    /// which they are clipped, NaN if the norm is not finite. `head`: [`HEAD`] floats; `order`: the place of each block
    /// in `partials`, if they are not in the order of the arena.
    fn adamw_scale(
        &self,
        hyper: &Hyper,
        partials: Self::View<'_, f32>,
        order: Option<Self::View<'_, i32>>,
        head: Self::ViewMut<'_, f32>,
        numbers: Self::View<'_, f32>,
    ) -> Result<(), DeviceError>;

    /// One update; `hyper` and [`Update::numbers`] are equal. If the gradients' norm is not finite, nothing is written.
    fn adamw_update(&self, hyper: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError>;
}
