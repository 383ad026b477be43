//! Attention on the CPU: in parallel over samples; one head's whole score matrix stays in a thread's cache.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Shape;
use crate::device::product::{How, Operands, Strides, product};
use crate::ops::simd::{dot, exp, max, sum, wide};

thread_local! {
    /// Score matrices of one head: kept by each thread from call to call, so that a step allocates nothing.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

fn with_scores<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    SCORES.with_borrow_mut(|scores| {
        if scores.len() < len {
            scores.resize(len, 0.0);
        }
        body(&mut scores[..len])
    })
}

fn once(operands: Operands, scale: f32) -> How {
    How { operands, scale, accumulate: false, parallel: false }
}

/// The keys that query `row` sees.
#[inline(always)]
fn seen(shape: Shape, row: usize) -> usize {
    if shape.causal { row + 1 } else { shape.tokens }
}

/// `qkv: [batch * tokens, 3 * width] -> out: [batch * tokens, width]`, `lse: [batch, heads, tokens]`.
pub fn forward(shape: Shape, operands: Operands, qkv: &[f32], out: &mut [f32], lse: &mut [f32]) {
    let Shape { tokens: n, heads, head_dim: d, .. } = shape;
    let width = shape.width();
    let (packed, single) = (Strides::row_major(3 * width), Strides::row_major(width));
    let samples = out.par_chunks_mut(n * width).zip(lse.par_chunks_mut(heads * n)).zip(qkv.par_chunks(n * 3 * width));
    samples.for_each(|((out, lse), qkv)| {
        with_scores(n * n, |scores| {
            for head in 0..heads {
                let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                let square = Strides::row_major(n);
                product(
                    (n, n, d),
                    (scores, square),
                    (q, packed),
                    (k, packed.transposed()),
                    once(operands, shape.scale()),
                );
                wide(
                    #[inline(always)]
                    || softmax(shape, scores, &mut lse[head * n..][..n]),
                );
                product((n, d, n), (&mut out[head * d..], single), (scores, square), (v, packed), once(operands, 1.0));
            }
        });
    });
}

#[inline(always)]
fn softmax(shape: Shape, scores: &mut [f32], lse: &mut [f32]) {
    for (row, (scores, lse)) in scores.chunks_exact_mut(shape.tokens).zip(lse).enumerate() {
        let (scores, hidden) = scores.split_at_mut(seen(shape, row));
        let most = max(scores);
        for score in scores.iter_mut() {
            *score = exp(*score - most);
        }
        let total = sum(scores.len(), |i| scores[i]);
        let factor = 1.0 / total;
        for score in scores {
            *score *= factor;
        }
        hidden.fill(0.0);
        *lse = most + libm::logf(total);
    }
}

/// `dqkv: [batch * tokens, 3 * width]` from `dout: [batch * tokens, width]`; `P` is computed again from `lse`.
pub fn backward(
    shape: Shape,
    operands: Operands,
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
) {
    let Shape { tokens: n, heads, head_dim: d, .. } = shape;
    let width = shape.width();
    let (packed, single, square) = (Strides::row_major(3 * width), Strides::row_major(width), Strides::row_major(n));
    let outputs = out.par_chunks(n * width).zip(dout.par_chunks(n * width));
    let samples = dqkv.par_chunks_mut(n * 3 * width).zip(qkv.par_chunks(n * 3 * width));
    samples.zip(outputs).zip(lse.par_chunks(heads * n)).for_each(|(((dqkv, qkv), (out, dout)), lse)| {
        with_scores(2 * n * n, |scores| {
            let (p, ds) = scores.split_at_mut(n * n);
            for head in 0..heads {
                let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                let (out, dout) = (&out[head * d..], &dout[head * d..]);
                product((n, n, d), (p, square), (q, packed), (k, packed.transposed()), once(operands, shape.scale()));
                product((n, n, d), (ds, square), (dout, single), (v, packed.transposed()), once(operands, 1.0));
                wide(
                    #[inline(always)]
                    || scores_backward(shape, p, ds, &lse[head * n..][..n], out, dout),
                );
                let [dq, dk, dv] = [0, 1, 2].map(|part| part * width + head * d);
                product((n, d, n), (&mut dqkv[dq..], packed), (ds, square), (k, packed), once(operands, shape.scale()));
                product(
                    (n, d, n),
                    (&mut dqkv[dk..], packed),
                    (ds, square.transposed()),
                    (q, packed),
                    once(operands, shape.scale()),
                );
                product(
                    (n, d, n),
                    (&mut dqkv[dv..], packed),
                    (p, square.transposed()),
                    (dout, single),
                    once(operands, 1.0),
                );
            }
        });
    });
}

/// In: `p = S`, `ds = dP`; out: `p = P`, `ds = dS`.
#[inline(always)]
fn scores_backward(shape: Shape, p: &mut [f32], ds: &mut [f32], lse: &[f32], out: &[f32], dout: &[f32]) {
    let (n, d, width) = (shape.tokens, shape.head_dim, shape.width());
    for row in 0..n {
        let along = dot(&out[row * width..][..d], &dout[row * width..][..d]);
        let (p, hidden_p) = p[row * n..][..n].split_at_mut(seen(shape, row));
        let (ds, hidden_ds) = ds[row * n..][..n].split_at_mut(p.len());
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p - lse[row]);
            *ds = *p * (*ds - along);
        }
        hidden_p.fill(0.0);
        hidden_ds.fill(0.0);
    }
}
