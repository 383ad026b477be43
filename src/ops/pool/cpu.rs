//! Pooling on the CPU, in parallel over samples.

use rayon::prelude::*;

use super::Shape;

/// `y[b] = Σ_t x[b, t] / tokens`
pub fn mean_forward(shape: Shape, x: &[f32], y: &mut [f32]) {
    let Shape { tokens, width, .. } = shape;
    y.par_chunks_mut(width).zip(x.par_chunks(tokens * width)).for_each(|(y, x)| {
        y.fill(0.0);
        for token in x.chunks_exact(width) {
            y.iter_mut().zip(token).for_each(|(y, x)| *y += x);
        }
        y.iter_mut().for_each(|y| *y /= tokens as f32);
    });
}

/// `dx[b, t] = dy[b] / tokens`
pub fn mean_backward(shape: Shape, dy: &[f32], dx: &mut [f32]) {
    let Shape { tokens, width, .. } = shape;
    let factor = 1.0 / tokens as f32;
    dx.par_chunks_mut(tokens * width).zip(dy.par_chunks(width)).for_each(|(dx, dy)| {
        for token in dx.chunks_exact_mut(width) {
            token.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = dy * factor);
        }
    });
}

/// `y[b] = x[b, index(b)]`
pub fn token_forward(shape: Shape, index: impl Fn(usize) -> usize, x: &[f32], y: &mut [f32]) {
    let Shape { tokens, width, .. } = shape;
    for (sample, (y, x)) in y.chunks_exact_mut(width).zip(x.chunks_exact(tokens * width)).enumerate() {
        y.copy_from_slice(&x[index(sample) * width..][..width]);
    }
}

/// `dx` is zero but for `dx[b, index(b)] = dy[b]`.
pub fn token_backward(shape: Shape, index: impl Fn(usize) -> usize, dy: &[f32], dx: &mut [f32]) {
    let Shape { tokens, width, .. } = shape;
    dx.fill(0.0);
    for (sample, (dy, dx)) in dy.chunks_exact(width).zip(dx.chunks_exact_mut(tokens * width)).enumerate() {
        dx[index(sample) * width..][..width].copy_from_slice(dy);
    }
}
