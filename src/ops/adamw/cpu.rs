//! AdamW on the CPU: one pass over values, gradients and moments, in parallel over chunks.

use rayon::prelude::*;

use super::{AdamW, DECAY_BLOCK, Hyper, NORM_BLOCK, Update};
use crate::device::{Cpu, DeviceError};
use crate::simd::wide;

/// Elements of a chunk, a multiple of [`DECAY_BLOCK`].
const CHUNK: usize = NORM_BLOCK;

impl AdamW for Cpu {
    /// The bits of an `f64`, which no square of an `f32` overflows.
    const PARTIAL: usize = 2;

    fn adamw_squares(&self, grads: &[f32], partials: &mut [f32]) -> Result<(), DeviceError> {
        let blocks = grads.par_chunks(NORM_BLOCK).zip(partials.as_chunks_mut::<2>().0);
        blocks.for_each(|(block, partial)| *partial = bytemuck::cast(square_sum(block)));
        Ok(())
    }

    fn adamw_scale(
        &self,
        hyper: &Hyper,
        partials: &[f32],
        order: Option<&[i32]>,
        head: &mut [f32],
        _: &[f32],
    ) -> Result<(), DeviceError> {
        let partials = partials.as_chunks::<2>().0;
        let value = |partial: [f32; 2]| bytemuck::cast::<_, f64>(partial);
        let sum: f64 = match order {
            Some(order) => order.iter().map(|place| value(partials[*place as usize])).sum(),
            None => partials.iter().copied().map(value).sum(),
        };
        let norm = sum.sqrt();
        let clip = f64::from(hyper.clip_norm);
        head[0] = norm as f32;
        head[1] = match norm.is_finite() {
            true if clip > 0.0 && norm > clip => (clip / norm) as f32,
            true => 1.0,
            false => f32::NAN,
        };
        Ok(())
    }

    fn adamw_update(&self, hyper: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError> {
        let Update { values, grads, m, v, decay, head, .. } = update;
        if !head[1].is_nan() {
            step(values, grads, m, v, decay, hyper, head[1]);
        }
        Ok(())
    }
}

/// The sum of squares, in f64 and in a fixed order.
fn square_sum(values: &[f32]) -> f64 {
    wide(
        #[inline(always)]
        || {
            let square = |value: f32| f64::from(value) * f64::from(value);
            let mut lanes = [0.0f64; 8];
            let (whole, tail) = values.as_chunks::<8>();
            for values in whole {
                lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += square(*value));
            }
            lanes.iter().sum::<f64>() + tail.iter().map(|value| square(*value)).sum::<f64>()
        },
    )
}

/// One update of `values`, `m` and `v` from `grad_scale · grads`.
pub fn step(
    values: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    decay: &[u8],
    hyper: &Hyper,
    grad_scale: f32,
) {
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let chunks = values.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK)).zip(moments);
    chunks.zip(decay.par_chunks(CHUNK / DECAY_BLOCK)).for_each(|(((values, grads), (m, v)), decay)| {
        let mut start = 0;
        for run in decay.chunk_by(|one, next| one == next) {
            let end = (start + run.len() * DECAY_BLOCK).min(values.len());
            let part = start..end;
            let part = (&mut values[part.clone()], &grads[part.clone()], &mut m[part.clone()], &mut v[part]);
            update(hyper, grad_scale, if run[0] != 0 { hyper.weight_decay } else { 0.0 }, part);
            start = end;
        }
    });
}

fn update(
    hyper: &Hyper,
    grad_scale: f32,
    decay: f32,
    (values, grads, m, v): (&mut [f32], &[f32], &mut [f32], &mut [f32]),
) {
    let &Hyper { lr, beta1, beta2, eps, .. } = hyper;
    let (correct1, correct2) = hyper.corrections();
    wide(
        #[inline(always)]
        || {
            for ((value, grad), (m, v)) in values.iter_mut().zip(grads).zip(m.iter_mut().zip(v)) {
                let grad = grad * grad_scale;
                *m = beta1 * *m + (1.0 - beta1) * grad;
                *v = beta2 * *v + (1.0 - beta2) * grad * grad;
                let direction = *m * correct1 / ((*v * correct2).sqrt() + eps);
                *value -= lr * (direction + decay * *value);
            }
        },
    );
}
