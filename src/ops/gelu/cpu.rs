//! GELU on the CPU: element-wise passes, in parallel over chunks.

use rayon::prelude::*;

use super::Gelu;
use crate::ops::simd::{erf, exp, tanh, wide};

/// Elements of a chunk: small enough for the first-level cache, a multiple of every vector.
const CHUNK: usize = 4096;

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn value(kind: Gelu, x: f32) -> f32 {
    match kind {
        Gelu::Tanh => 0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x))),
        Gelu::Exact => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
    }
}

#[inline(always)]
fn slope(kind: Gelu, x: f32) -> f32 {
    match kind {
        Gelu::Tanh => {
            let t = tanh(SQRT_2_OVER_PI * (x + CUBIC * x * x * x));
            let inner = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
        }
        Gelu::Exact => {
            const INV_SQRT_TAU: f32 = 0.398_942_3;
            0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * INV_SQRT_TAU * exp(-0.5 * x * x)
        }
    }
}

/// `y = gelu(x)`
pub fn forward(kind: Gelu, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| piece(kind, x, y));
}

/// `y = gelu(x)`, for a piece that is in the caches.
pub fn piece(kind: Gelu, x: &[f32], y: &mut [f32]) {
    wide(
        #[inline(always)]
        || {
            for (y, x) in y.iter_mut().zip(x) {
                *y = value(kind, *x);
            }
        },
    );
}

/// `d *= gelu'(pre)`, for a piece that is in the caches.
pub fn piece_backward(kind: Gelu, pre: &[f32], d: &mut [f32]) {
    wide(
        #[inline(always)]
        || {
            for (d, pre) in d.iter_mut().zip(pre) {
                *d *= slope(kind, *pre);
            }
        },
    );
}

/// In: the gradient of `gelu(pre)`; out: that of `pre`.
pub fn backward(kind: Gelu, pre: &[f32], d: &mut [f32]) {
    d.par_chunks_mut(CHUNK).zip(pre.par_chunks(CHUNK)).for_each(|(d, pre)| piece_backward(kind, pre, d));
}
