//! Attention on the CPU: in parallel over samples; one head's whole score matrix stays in a thread's cache. It computes
//! in f32 with every `--precision`: bf16 changes the time of a step by less than 2 % (docs/performance.md).

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Attention, BackwardOperands, Shape, head};
use crate::device::gemm::{self, GemmOptions, Operands, Strides};
use crate::device::{Cpu, DeviceError};
use crate::simd::{LANES, dot, exp, max, total, wide};

thread_local! {
    /// Score matrices of one head and a product's panel, kept from call to call, so that a step does not allocate.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Passes `body` `N` score matrices with rows of [`row_len`], and the panel for [`multiply`].
fn with_scores<const N: usize>(shape: Shape, body: impl FnOnce([&mut [f32]; N], &mut [f32])) {
    let Shape { tokens: n, head_dim: d, .. } = shape;
    let matrix = n * row_len(shape);
    let panel = head::panel_len(d, n).max(head::panel_len(n, d));
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < N * matrix + panel {
            scratch.resize(N * matrix + panel, 0.0);
        }
        let (mut scores, panel) = scratch.split_at_mut(N * matrix);
        let matrices = std::array::from_fn(|_| scores.split_off_mut(..matrix).unwrap_or_default());
        body(matrices, panel);
    });
}

/// The distance between rows of scores, a whole number of registers.
fn row_len(shape: Shape) -> usize {
    shape.tokens.next_multiple_of(LANES)
}

/// Up to this many rows the small product is faster: the general one would spend more time on packing.
const SHORT: usize = 64;

/// `c = scale · a b`, for one head.
fn multiply(
    sizes: (usize, usize, usize),
    c: (&mut [f32], Strides),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    scale: f32,
    panel: &mut [f32],
) {
    match sizes.0 <= SHORT {
        true => head::gemm(sizes, (c.0, c.1.rows), a, b, scale, panel),
        false => {
            let options = GemmOptions { operands: Operands::F32, scale, accumulate: false, parallel: false };
            gemm::gemm(sizes, c, a, b, options);
        }
    }
}

/// The keys that query `row` sees.
#[inline(always)]
fn seen(shape: Shape, row: usize) -> usize {
    if shape.causal { row + 1 } else { shape.tokens }
}

impl Attention for Cpu {
    fn attention_forward(
        &self,
        shape: &Shape,
        qkv: &[f32],
        out: &mut [f32],
        lse: &mut [f32],
    ) -> Result<(), DeviceError> {
        let shape = *shape;
        let Shape { tokens: n, heads, head_dim: d, .. } = shape;
        let width = shape.width();
        let [packed, single, square] = [3 * width, width, row_len(shape)].map(Strides::row_major);
        let samples =
            out.par_chunks_mut(n * width).zip(lse.par_chunks_mut(heads * n)).zip(qkv.par_chunks(n * 3 * width));
        samples.for_each(|((out, lse), qkv)| {
            with_scores(shape, |[scores], panel| {
                for head in 0..heads {
                    let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                    let (to, keys) = ((&mut *scores, square), (k, packed.transposed()));
                    multiply((n, n, d), to, (q, packed), keys, shape.scale(), panel);
                    wide(
                        #[inline(always)]
                        || softmax(shape, scores, &mut lse[head * n..][..n]),
                    );
                    let to = (&mut out[head * d..], single);
                    multiply((n, d, n), to, (scores, square), (v, packed), 1.0, panel);
                }
            });
        });
        Ok(())
    }

    fn attention_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { qkv, out, lse, dout, dqkv } = operands;
        let shape = *shape;
        let Shape { tokens: n, heads, head_dim: d, .. } = shape;
        let (width, scale) = (shape.width(), shape.scale());
        let [packed, single, square] = [3 * width, width, row_len(shape)].map(Strides::row_major);
        let outputs = out.par_chunks(n * width).zip(dout.par_chunks(n * width));
        let samples = dqkv.par_chunks_mut(n * 3 * width).zip(qkv.par_chunks(n * 3 * width));
        samples.zip(outputs).zip(lse.par_chunks(heads * n)).for_each(|(((dqkv, qkv), (out, dout)), lse)| {
            with_scores(shape, |[p, ds], panel| {
                for head in 0..heads {
                    let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                    let (out, dout) = (&out[head * d..], &dout[head * d..]);
                    let keys = (k, packed.transposed());
                    multiply((n, n, d), (&mut *p, square), (q, packed), keys, scale, panel);
                    let values = (v, packed.transposed());
                    multiply((n, n, d), (&mut *ds, square), (dout, single), values, 1.0, panel);
                    wide(
                        #[inline(always)]
                        || scores_backward(shape, p, ds, &lse[head * n..][..n], out, dout),
                    );
                    let [dq, dk, dv] = [0, 1, 2].map(|part| part * width + head * d);
                    let (p, ds, over_queries) = (&*p, &*ds, square.transposed());
                    multiply((n, d, n), (&mut dqkv[dq..], packed), (ds, square), (k, packed), scale, panel);
                    multiply((n, d, n), (&mut dqkv[dk..], packed), (ds, over_queries), (q, packed), scale, panel);
                    multiply((n, d, n), (&mut dqkv[dv..], packed), (p, over_queries), (dout, single), 1.0, panel);
                }
            });
        });
        Ok(())
    }
}

/// Turns rows of scores into probabilities, with zeros for hidden keys. It computes all maxima first: within a row each
/// step depends on the one before, so several rows are needed to keep the processor busy.
#[inline(always)]
fn softmax(shape: Shape, scores: &mut [f32], lse: &mut [f32]) {
    let len = row_len(shape);
    for (row, (scores, row_max)) in scores.chunks_exact(len).zip(lse.iter_mut()).enumerate() {
        let keys = seen(shape, row);
        *row_max = max(&scores[..keys]);
    }
    for (row, (scores, lse)) in scores.chunks_exact_mut(len).zip(lse).enumerate() {
        let (keys, row_max) = (seen(shape, row), *lse);
        let (scores, hidden) = scores.as_chunks_mut::<LANES>().0.split_at_mut(keys.div_ceil(LANES));
        let mut sums = [0.0; LANES];
        for (block, scores) in scores.iter_mut().enumerate() {
            for lane in 0..LANES {
                let p = exp(scores[lane] - row_max);
                scores[lane] = if block * LANES + lane < keys { p } else { 0.0 };
                sums[lane] += scores[lane];
            }
        }
        let total = total(sums);
        let factor = 1.0 / total;
        for score in scores.as_flattened_mut() {
            *score *= factor;
        }
        hidden.as_flattened_mut().fill(0.0);
        *lse = row_max + libm::logf(total);
    }
}

/// In: `p = S`, `ds = dP`; out: `p = P`, `ds = dS`.
#[inline(always)]
fn scores_backward(shape: Shape, p: &mut [f32], ds: &mut [f32], lse: &[f32], out: &[f32], dout: &[f32]) {
    let (d, width, len) = (shape.head_dim, shape.width(), row_len(shape));
    for (row, (p, ds)) in p.chunks_exact_mut(len).zip(ds.chunks_exact_mut(len)).enumerate() {
        let (along, lse, keys) = (dot(&out[row * width..][..d], &dout[row * width..][..d]), lse[row], seen(shape, row));
        let (p, hidden_p) = p.as_chunks_mut::<LANES>().0.split_at_mut(keys.div_ceil(LANES));
        let (ds, hidden_ds) = ds.as_chunks_mut::<LANES>().0.split_at_mut(p.len());
        for (block, (p, ds)) in p.iter_mut().zip(ds).enumerate() {
            for lane in 0..LANES {
                let sees = block * LANES + lane < keys;
                p[lane] = if sees { exp(p[lane] - lse) } else { 0.0 };
                ds[lane] = if sees { p[lane] * (ds[lane] - along) } else { 0.0 };
            }
        }
        hidden_p.as_flattened_mut().fill(0.0);
        hidden_ds.as_flattened_mut().fill(0.0);
    }
}
