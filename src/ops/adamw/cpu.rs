//! AdamW on the CPU: one pass over values, gradients and moments, in parallel over chunks.

use rayon::prelude::*;

use super::{AdamW, DECAY_BLOCK, Hyper, Update};
use crate::device::{Cpu, DeviceError};
use crate::simd::wide;

/// Elements of a chunk, a multiple of [`DECAY_BLOCK`].
const CHUNK: usize = 1 << 14;

impl AdamW for Cpu {
    fn norm_len(_: usize) -> usize {
        1
    }

    fn adamw(&self, hyper: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError> {
        let Update { values, grads, m, v, decay, norm: norm_out, .. } = update;
        let norm = norm(grads);
        norm_out[0] = norm as f32;
        if norm.is_finite() {
            let clip = f64::from(hyper.clip_norm);
            let scale = if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 };
            step(values, grads, m, v, decay, hyper, scale);
        }
        Ok(())
    }
}

/// The L2 norm, in f64 over fixed chunks added in order; not finite if any element is not.
pub fn norm(grads: &[f32]) -> f64 {
    let partials: Vec<f64> = grads
        .par_chunks(CHUNK)
        .map(|chunk| {
            wide(
                #[inline(always)]
                || {
                    let mut lanes = [0.0f64; 8];
                    let (whole, tail) = chunk.as_chunks::<8>();
                    for values in whole {
                        for (lane, value) in lanes.iter_mut().zip(values) {
                            *lane += f64::from(*value) * f64::from(*value);
                        }
                    }
                    lanes.iter().sum::<f64>()
                        + tail.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()
                },
            )
        })
        .collect();
    partials.iter().sum::<f64>().sqrt()
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
