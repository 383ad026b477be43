//! AdamW over the flat parameter arena (Loshchilov and Hutter 2019, algorithm 2, with the bias corrections of Adam).
//!
//! `m = β1 m + (1-β1) g`, `v = β2 v + (1-β2) g²`, `w -= lr (m̂ / (√v̂ + eps) + decay · w)` with `m̂ = m / (1-β1ᵗ)`,
//! `v̂ = v / (1-β2ᵗ)`; the decay applies to the arena's decaying ranges only.

pub mod cpu;

use std::ops::Range;

use crate::device::{Cpu, Device, DeviceError};

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
    /// What gradients are multiplied by first: less than 1 where they are clipped.
    pub grad_scale: f32,
}

/// Devices that update parameters.
pub trait AdamW: Device {
    /// The L2 norm of `grads`; not finite if any of them is not.
    fn grad_norm(&self, grads: Self::View<'_, f32>) -> Result<f64, DeviceError>;

    /// One update; all arrays have the arena's length, and `decay` lists the ranges that decay, ascending.
    fn adamw(
        &self,
        hyper: &Hyper,
        decay: &[Range<usize>],
        values: Self::ViewMut<'_, f32>,
        grads: Self::View<'_, f32>,
        moments: (Self::ViewMut<'_, f32>, Self::ViewMut<'_, f32>),
    ) -> Result<(), DeviceError>;
}

impl AdamW for Cpu {
    fn grad_norm(&self, grads: &[f32]) -> Result<f64, DeviceError> {
        Ok(cpu::norm(grads))
    }

    fn adamw(
        &self,
        hyper: &Hyper,
        decay: &[Range<usize>],
        values: &mut [f32],
        grads: &[f32],
        moments: (&mut [f32], &mut [f32]),
    ) -> Result<(), DeviceError> {
        cpu::step(values, grads, moments.0, moments.1, decay, hyper);
        Ok(())
    }
}
