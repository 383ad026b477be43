//! The optimizer's state and the learning-rate schedule.

mod slices;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::slices::Slices;
use crate::autograd::{DECAY_BLOCK, Parameters};
use crate::device::{Buffer, Device, DeviceError, Pending};
use crate::ops::adamw::{AdamW, HEAD, Hyper, NORM_BLOCK, NUMBERS, Update};

/// AdamW's settings, the same for a whole run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f32,
    /// Decay rate of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, for parameters that decay.
    pub weight_decay: f32,
    /// The maximum L2 norm of all gradients together; larger gradients are scaled down to it. 0: no limit.
    pub clip_norm: f32,
}

impl Default for AdamWConfig {
    /// FLIP's (docs/method.md, "Recipe").
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.2, clip_norm: 0.0 }
    }
}

/// AdamW's moments of what this rank updates, and the number of updates done.
pub struct Optimizer<D: Device> {
    /// The slices of the arena that this rank updates, one of each bucket: all of it, if there is one rank.
    own: Vec<Range<usize>>,
    /// Whether each element of `own` decays, one slice after the other.
    decay: Buffer<D, u8>,
    m: Buffer<D, f32>,
    v: Buffer<D, f32>,
    /// The result of [`AdamW::adamw_scale`].
    head: Buffer<D, f32>,
    /// Partial sums of the squared norm, for the blocks of all ranks, rank by rank.
    partials: Buffer<D, f32>,
    /// This rank's place in `partials`, in blocks.
    first_block: usize,
    /// Where each block of the arena is in `partials`, if not in order.
    norm_order: Option<Buffer<D, i32>>,
    /// [`Hyper::numbers`] of the next update.
    numbers: Buffer<D, f32>,
    hyper: Hyper,
}

/// The moments on the host, of the whole arena or of what a rank updates.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
    /// Updates done.
    pub step: u64,
}

impl<D: AdamW> Optimizer<D> {
    /// Zero moments for all `params`.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn new(device: &D, params: &Parameters<D>, config: AdamWConfig) -> Result<Self, DeviceError> {
        let slices = Slices::new(params.layout().arena_len(), 1);
        Self::of_slices(device, params, config, &slices, 0)
    }

    /// As [`Self::new`], for the slices of the arena that `rank` updates.
    ///
    /// # Errors
    /// If the device has too little memory.
    pub fn of_slices(
        device: &D,
        params: &Parameters<D>,
        config: AdamWConfig,
        slices: &Slices,
        rank: usize,
    ) -> Result<Self, DeviceError> {
        let (own, blocks) = (slices.own(rank), params.layout().decay_blocks());
        let flags = |own: &Range<usize>| &blocks[own.start / DECAY_BLOCK..own.end.div_ceil(DECAY_BLOCK)];
        let flags: Vec<u8> = own.iter().flat_map(flags).copied().collect();
        let mut decay = Buffer::new(device, flags.len(), "AdamW's decay flags")?;
        decay.upload(device, &flags)?;
        let moments = || Buffer::new(device, slices.own_len(rank), "AdamW's moments");
        let head = Buffer::new(device, HEAD, "the gradients' norm")?;
        let blocks = slices.ranks() * slices.norm_blocks();
        let partials = Buffer::new(device, D::PARTIAL * blocks, "the gradients' norm")?;
        let norm_order = slices.norm_order().map(|order| {
            let mut buffer = Buffer::new(device, order.len(), "the gradients' norm")?;
            buffer.upload(device, &order).map(|()| buffer)
        });
        let numbers = Buffer::new(device, NUMBERS, "AdamW's numbers")?;
        let AdamWConfig { beta1, beta2, eps, weight_decay, clip_norm } = config;
        let hyper = Hyper { lr: 0.0, beta1, beta2, eps, weight_decay, step: 0, clip_norm };
        Ok(Self {
            m: moments()?,
            v: moments()?,
            own,
            decay,
            head,
            partials,
            first_block: rank * slices.norm_blocks(),
            norm_order: norm_order.transpose()?,
            numbers,
            hyper,
        })
    }

    /// [`Self::prepare`], then [`Self::apply`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn step(&mut self, device: &D, params: &mut Parameters<D>, lr: f64) -> Result<(), DeviceError> {
        self.prepare(device, lr)?;
        self.apply(device, params)
    }

    /// Uploads the numbers of the next update.
    ///
    /// # Errors
    /// If the device fails.
    pub fn prepare(&mut self, device: &D, lr: f64) -> Result<(), DeviceError> {
        self.hyper.step += 1;
        self.hyper.lr = lr as f32;
        self.numbers.upload(device, &self.hyper.numbers())
    }

    /// Updates all parameters from their gradients. Where these are not finite, nothing is changed but
    /// [`Self::norm`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn apply(&mut self, device: &D, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        self.square(device, params)?;
        self.update(device, params)
    }

    /// The first part of [`Self::apply`]: what the norm needs of the gradients of the own slices. Then ranks gather
    /// [`Self::partials_mut`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn square(&mut self, device: &D, params: &Parameters<D>) -> Result<(), DeviceError> {
        let mut block = self.first_block;
        for own in &self.own {
            let blocks = own.len().div_ceil(NORM_BLOCK);
            let partials = self.partials.range_mut(D::PARTIAL * block..D::PARTIAL * (block + blocks));
            device.adamw_squares(params.grads_of(own.clone()), partials)?;
            block += blocks;
        }
        Ok(())
    }

    /// The second part of [`Self::apply`]: updates the own slices.
    ///
    /// # Errors
    /// If the device fails.
    pub fn update(&mut self, device: &D, params: &mut Parameters<D>) -> Result<(), DeviceError> {
        let order = self.norm_order.as_ref().map(Buffer::view);
        device.adamw_scale(&self.hyper, self.partials.view(), order, self.head.view_mut(), self.numbers.view())?;
        let mut start = 0;
        for own in &self.own {
            let held = start..start + own.len();
            let (values, shadow, grads) = params.for_update(own.clone());
            let update = Update {
                values,
                shadow,
                grads,
                m: self.m.range_mut(held.clone()),
                v: self.v.range_mut(held.clone()),
                decay: self.decay.range(held.start / DECAY_BLOCK..held.end.div_ceil(DECAY_BLOCK)),
                head: self.head.view(),
                numbers: self.numbers.view(),
            };
            device.adamw_update(&self.hyper, update)?;
            start = held.end;
        }
        Ok(())
    }

    /// What the norm needs of the whole arena, [`AdamW::PARTIAL`] floats for each [`NORM_BLOCK`], rank by rank.
    pub fn partials_mut(&mut self) -> &mut Buffer<D, f32> {
        &mut self.partials
    }

    /// The slices of the arena that this rank updates, one of each bucket.
    pub fn own(&self) -> &[Range<usize>] {
        &self.own
    }

    /// The L2 norm of the last step's gradients before clipping; not finite if any of them is not.
    ///
    /// # Errors
    /// If the device fails.
    pub fn norm(&self, device: &D) -> Result<f64, DeviceError> {
        Ok(f64::from(self.head.download_range(device, 0..1)?[0]))
    }

    /// As [`Self::norm`], but returns at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn norm_async(&self, device: &D) -> Result<Pending, DeviceError> {
        self.head.download_async(device, 0..1)
    }

    /// Moments of the own slices, and step, on the host.
    ///
    /// # Errors
    /// If the device fails.
    pub fn download(&self, device: &D) -> Result<Moments, DeviceError> {
        Ok(Moments { m: self.m.download(device)?, v: self.v.download(device)?, step: self.hyper.step })
    }

    /// Continues from `moments` of the own slices.
    ///
    /// # Errors
    /// If the device fails.
    pub fn upload(&mut self, device: &D, moments: &Moments) -> Result<(), DeviceError> {
        self.m.upload(device, &moments.m)?;
        self.v.upload(device, &moments.v)?;
        self.hyper.step = moments.step;
        Ok(())
    }
}

/// Linear warm-up from 0, then half a cosine down to 0 (docs/method.md, "Recipe").
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Updates of the warm-up.
    pub warmup: u64,
    /// Updates of the run.
    pub total: u64,
}

impl Schedule {
    /// The learning rate of an update, `done` updates after the start.
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
