//! AdamW on the CPU: one pass over values, gradients and moments, in parallel over chunks.

use std::ops::Range;

use rayon::prelude::*;

use super::Hyper;
use crate::ops::simd::wide;

/// Elements of a chunk.
const CHUNK: usize = 1 << 14;

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
                    lanes.iter().sum::<f64>() + tail.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>()
                },
            )
        })
        .collect();
    partials.iter().sum::<f64>().sqrt()
}

/// One update of `values`, `m` and `v`; `decay` lists the ranges that decay, ascending and apart.
pub fn step(values: &mut [f32], grads: &[f32], m: &mut [f32], v: &mut [f32], decay: &[Range<usize>], hyper: &Hyper) {
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let chunks = values.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK)).zip(moments).enumerate();
    chunks.for_each(|(index, ((values, grads), (m, v)))| {
        let (start, end) = (index * CHUNK, index * CHUNK + values.len());
        let mut at = start;
        let mut run = |until: usize, decays: bool| {
            let part = at - start..until - start;
            let part = (&mut values[part.clone()], &grads[part.clone()], &mut m[part.clone()], &mut v[part]);
            update(hyper, if decays { hyper.weight_decay } else { 0.0 }, part);
            at = until;
        };
        let first = decay.partition_point(|range| range.end <= start);
        for range in decay[first..].iter().take_while(|range| range.start < end) {
            run(range.start.max(start), false);
            run(range.end.min(end), true);
        }
        run(end, false);
    });
}

fn update(hyper: &Hyper, decay: f32, (values, grads, m, v): (&mut [f32], &[f32], &mut [f32], &mut [f32])) {
    let &Hyper { lr, beta1, beta2, eps, step, grad_scale, .. } = hyper;
    // In f64: 1 - 0.95^t loses digits in f32 for small t.
    let correct1 = (1.0 / (1.0 - f64::from(beta1).powf(step as f64))) as f32;
    let correct2 = (1.0 / (1.0 - f64::from(beta2).powf(step as f64))) as f32;
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
