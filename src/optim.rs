//! The optimizer's state beside the parameter arena, and the learning-rate schedule.

use serde::{Deserialize, Serialize};

use crate::autograd::{DECAY_BLOCK, Parameters};
use crate::device::{Device, DeviceError, Pending};
use crate::ops::adamw::{AdamW, Hyper, NUMBERS, Update};

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
    /// The paper's (docs/method.md, "Recipe").
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.2, clip_norm: 0.0 }
    }
}

/// AdamW's moments, `[arena_len]` each, and the number of updates made.
pub struct Optimizer<D: Device> {
    decay: D::Memory,
    m: D::Memory,
    v: D::Memory,
    norm: D::Memory,
    /// [`Hyper::numbers`] of the next update.
    numbers: D::Memory,
    len: usize,
    hyper: Hyper,
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
        let (len, flags) = (layout.arena_len(), layout.decay_blocks());
        let decay = device.allocate(flags.len(), "AdamW's decay flags")?;
        // SAFETY: the block was just made, with this length.
        device.upload(unsafe { D::view_mut(&decay, 0, flags.len()) }, &flags)?;
        let moments = || device.allocate(len * 4, "AdamW's moments");
        let norm = device.allocate(D::norm_len(len) * 4, "the gradients' norm")?;
        let numbers = device.allocate(NUMBERS * 4, "AdamW's numbers")?;
        let AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm } = config;
        let hyper = Hyper { lr: 0.0, beta1, beta2, eps, weight_decay, step: 0, clip_norm };
        Ok(Self { decay, m: moments()?, v: moments()?, norm, numbers, len, hyper })
    }

    /// [`Self::prepare`] and [`Self::apply`].
    pub fn step(&mut self, device: &D, params: &mut Parameters<D>, lr: f64) -> Result<(), DeviceError> {
        self.prepare(device, lr)?;
        self.apply(device, params)
    }

    /// Counts the next update and sets its numbers.
    pub fn prepare(&mut self, device: &D, lr: f64) -> Result<(), DeviceError> {
        self.hyper.step += 1;
        self.hyper.lr = lr as f32;
        // SAFETY: a block of this length that `&mut self` owns exclusively.
        device.upload(unsafe { D::view_mut(&self.numbers, 0, NUMBERS) }, &self.hyper.numbers())
    }

    /// Updates all parameters from their gradients. Where these are not finite, nothing is changed but [`Self::norm`].
    pub fn apply(&mut self, device: &D, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        let (values, shadow, grads) = params.for_update();
        // SAFETY: blocks of these lengths that `&mut self` owns exclusively.
        let update = unsafe {
            Update {
                values,
                shadow,
                grads,
                m: D::view_mut(&self.m, 0, self.len),
                v: D::view_mut(&self.v, 0, self.len),
                decay: D::view(&self.decay, 0, self.len / DECAY_BLOCK),
                norm: D::view_mut(&self.norm, 0, D::norm_len(self.len)),
                numbers: D::view(&self.numbers, 0, NUMBERS),
            }
        };
        device.adamw(&self.hyper, update)
    }

    /// The L2 norm of the last step's gradients before clipping; not finite if any of them is not.
    pub fn norm(&self, device: &D) -> Result<f64, DeviceError> {
        let mut norm = [0.0f32];
        // SAFETY: the block has at least one f32; `&self` excludes exclusive views.
        device.download(&mut norm, unsafe { D::view(&self.norm, 0, 1) })?;
        Ok(f64::from(norm[0]))
    }

    /// As [`Self::norm`], for when the host needs it.
    pub fn norm_later(&self, device: &D) -> Result<Pending, DeviceError> {
        // SAFETY: as in `norm`.
        device.download_async(unsafe { D::view(&self.norm, 0, 1) })
    }

    pub fn download(&self, device: &D) -> Result<Moments, DeviceError> {
        let (mut m, mut v) = (vec![0.0; self.len], vec![0.0; self.len]);
        // SAFETY: blocks of `len` f32; `&self` excludes exclusive views.
        unsafe {
            device.download(&mut m, D::view(&self.m, 0, self.len))?;
            device.download(&mut v, D::view(&self.v, 0, self.len))?;
        }
        Ok(Moments { m, v, step: self.hyper.step })
    }

    /// Continues from `moments`, whose arrays have the arena's length.
    pub fn upload(&mut self, device: &D, moments: &Moments) -> Result<(), DeviceError> {
        // SAFETY: as in `step`.
        unsafe {
            device.upload(D::view_mut(&self.m, 0, self.len), &moments.m)?;
            device.upload(D::view_mut(&self.v, 0, self.len), &moments.v)?;
        }
        self.hyper.step = moments.step;
        Ok(())
    }
}

/// Linear warm-up from 0, then half a cosine down to 0 (docs/method.md, "Recipe").
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
        self.peak * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * progress))
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
