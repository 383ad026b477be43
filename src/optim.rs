//! The optimizer's state beside the parameter arena, and the learning-rate schedule.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::autograd::Parameters;
use crate::device::{Device, DeviceError};
use crate::ops::adamw::{AdamW, Hyper};

/// What stays the same over a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// The largest L2 norm of all gradients together; larger ones are scaled down to it. 0: no limit.
    pub clip_norm: f32,
}

impl Default for AdamWConfig {
    /// flip.md, "Recipe".
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.2, clip_norm: 0.0 }
    }
}

/// AdamW's moments, `[arena_len]` each, and the number of updates made.
pub struct Optimizer<D: Device> {
    config: AdamWConfig,
    decay: Vec<Range<usize>>,
    m: D::Memory,
    v: D::Memory,
    len: usize,
    step: u64,
}

/// The moments on the host, as a checkpoint holds them.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub m: Vec<f32>,
    pub v: Vec<f32>,
    pub step: u64,
}

impl<D: AdamW> Optimizer<D> {
    pub fn new(device: &D, params: &Parameters<D>, config: AdamWConfig) -> Result<Self, DeviceError> {
        let layout = params.layout();
        let len = layout.arena_len();
        let (m, v) = (device.allocate(len * 4, "AdamW's moments")?, device.allocate(len * 4, "AdamW's moments")?);
        Ok(Self { config, decay: layout.decay_ranges(), m, v, len, step: 0 })
    }

    /// Updates all parameters from their gradients and returns the norm of these before clipping. Where it is not finite,
    /// nothing is changed.
    pub fn step(&mut self, device: &D, params: &mut Parameters<D>, lr: f64) -> Result<f64, DeviceError> {
        let norm = device.grad_norm(params.grads())?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.step += 1;
        let AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm } = self.config;
        let clip = f64::from(clip_norm);
        let grad_scale = if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 };
        let hyper = Hyper { lr: lr as f32, beta1, beta2, eps, weight_decay, step: self.step, grad_scale };
        let (values, grads) = params.for_update();
        // SAFETY: two blocks of `len` f32 that `&mut self` owns exclusively.
        let moments = unsafe { (D::view_mut(&self.m, 0, self.len), D::view_mut(&self.v, 0, self.len)) };
        device.adamw(&hyper, &self.decay, values, grads, moments)?;
        Ok(norm)
    }

    pub fn download(&self, device: &D) -> Result<Moments, DeviceError> {
        let (mut m, mut v) = (vec![0.0; self.len], vec![0.0; self.len]);
        // SAFETY: blocks of `len` f32; `&self` excludes exclusive views.
        unsafe {
            device.download(&mut m, D::view(&self.m, 0, self.len))?;
            device.download(&mut v, D::view(&self.v, 0, self.len))?;
        }
        Ok(Moments { m, v, step: self.step })
    }

    /// Continues from `moments`, whose arrays have the arena's length.
    pub fn upload(&mut self, device: &D, moments: &Moments) -> Result<(), DeviceError> {
        // SAFETY: as in `step`.
        unsafe {
            device.upload(D::view_mut(&self.m, 0, self.len), &moments.m)?;
            device.upload(D::view_mut(&self.v, 0, self.len), &moments.v)?;
        }
        self.step = moments.step;
        Ok(())
    }
}

/// Linear warm-up from 0, then half a cosine down to 0 (flip.md, "Recipe").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub peak: f64,
    pub warmup: u64,
    pub total: u64,
}

impl Schedule {
    /// The learning rate of the update after `done` ones.
    pub fn at(&self, done: u64) -> f64 {
        if done < self.warmup {
            return self.peak * done as f64 / self.warmup as f64;
        }
        let rest = (self.total - self.warmup.min(self.total)).max(1);
        let progress = ((done - self.warmup) as f64 / rest as f64).min(1.0);
        self.peak * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_and_falls() {
        let schedule = Schedule { peak: 2.0, warmup: 10, total: 110 };
        assert_eq!((schedule.at(0), schedule.at(5), schedule.at(10)), (0.0, 1.0, 2.0));
        assert!((schedule.at(60) - 1.0).abs() < 1e-12 && schedule.at(110) < 1e-12);
    }
}
