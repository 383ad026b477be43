//! Attention on the CPU: in parallel over samples; one head's whole score matrix stays in a thread's cache. It computes
//! in f32 with every `--precision`: bf16 changes the time of a step by less than 2 % (docs/performance.md).

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Attention, BackwardOperands, Shape, head};
use crate::device::gemm::{self, GemmOptions, Operands, Strides};
use crate::device::{Cpu, DeviceError};
use crate::simd::{LANES, dot, exp, ln, max, prefetch_behind, total, wide};

thread_local! {
    /// Score matrices of one head and a product's panel, kept from call to call, so that a step does not allocate.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A cache line: a load or store that crosses two lines takes longer.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// Passes `body` `N` score matrices with rows of [`row_len`], and the panel for [`multiply`].
fn with_scores<const N: usize>(shape: Shape, body: impl FnOnce([&mut [f32]; N], &mut [f32])) {
    let Shape { tokens: n, head_dim: d, .. } = shape;
    let matrix = n * row_len(shape);
    let panel = head::panel_len(d, n).max(head::panel_len(n, d));
    SCRATCH.with_borrow_mut(|scratch| {
        let lines = (N * matrix + panel).div_ceil(LANES);
        if scratch.len() < lines {
            scratch.resize(lines, Line([0.0; LANES]));
        }
        let (mut scores, panel) = bytemuck::cast_slice_mut(scratch).split_at_mut(N * matrix);
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

/// `c = scale · a b`, for one head. `c`: see [`head::gemm`].
fn multiply(
    sizes: (usize, usize, usize),
    (c, stride, room): (&mut [f32], usize, usize),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    scale: f32,
    panel: &mut [f32],
) {
    match sizes.0 <= SHORT {
        true => head::gemm(sizes, (c, stride, room), a, b, scale, panel),
        false => {
            let options = GemmOptions { operands: Operands::F32, scale, accumulate: false, parallel: false };
            gemm::gemm(sizes, (c, Strides::row_major(stride)), a, b, options);
        }
    }
}

/// Prefetches one of `parts` parts of what lies behind `of`, a tensor of the current sample: that of the next sample.
/// Rows of a head are short and far apart, so the hardware does not prefetch them. More than a small part at once would
/// hold up the loads of the current sample, and long samples would push it out of the second cache.
#[inline(always)]
fn prefetch_next(shape: Shape, of: &[f32], part: usize, parts: usize) {
    const LONG: usize = 128 * 1024 / size_of::<f32>();
    if 3 * shape.tokens * shape.width() <= LONG {
        prefetch_behind(of, part, parts);
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
        let square = row_len(shape);
        let [packed, over_keys] = [3 * width, square].map(Strides::row_major);
        let samples =
            out.par_chunks_mut(n * width).zip(lse.par_chunks_mut(heads * n)).zip(qkv.par_chunks(n * 3 * width));
        samples.for_each(|((out, lse), qkv)| {
            with_scores(shape, |[scores], panel| {
                for head in 0..heads {
                    prefetch_next(shape, qkv, 2 * head, 2 * heads);
                    let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                    let (to, keys) = ((&mut *scores, square, square), (k, packed.transposed()));
                    multiply((n, n, d), to, (q, packed), keys, shape.scale(), panel);
                    wide(
                        #[inline(always)]
                        || softmax(shape, scores, &mut lse[head * n..][..n]),
                    );
                    prefetch_next(shape, qkv, 2 * head + 1, 2 * heads);
                    prefetch_next(shape, out, head, heads);
                    let to = (&mut out[head * d..], width, d);
                    multiply((n, d, n), to, (scores, over_keys), (v, packed), 1.0, panel);
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
        let square = row_len(shape);
        let [packed, single, over_keys] = [3 * width, width, square].map(Strides::row_major);
        let over_queries = over_keys.transposed();
        let outputs = out.par_chunks(n * width).zip(dout.par_chunks(n * width));
        let samples = dqkv.par_chunks_mut(n * 3 * width).zip(qkv.par_chunks(n * 3 * width));
        samples.zip(outputs).zip(lse.par_chunks(heads * n)).for_each(|(((dqkv, qkv), (out, dout)), lse)| {
            with_scores(shape, |[p, ds], panel| {
                for head in 0..heads {
                    prefetch_next(shape, qkv, head, heads);
                    let [q, k, v] = [0, 1, 2].map(|part| &qkv[part * width + head * d..]);
                    let (head_out, head_dout) = (&out[head * d..], &dout[head * d..]);
                    let keys = (k, packed.transposed());
                    multiply((n, n, d), (&mut *p, square, square), (q, packed), keys, scale, panel);
                    prefetch_next(shape, out, head, heads);
                    prefetch_next(shape, dout, head, heads);
                    let values = (v, packed.transposed());
                    multiply((n, n, d), (&mut *ds, square, square), (head_dout, single), values, 1.0, panel);
                    wide(
                        #[inline(always)]
                        || scores_backward(shape, p, ds, &lse[head * n..][..n], head_out, head_dout),
                    );
                    let [dq, dk, dv] = [0, 1, 2].map(|part| part * width + head * d);
                    let (sizes, stride) = ((n, d, n), 3 * width);
                    prefetch_next(shape, dqkv, 3 * head, 3 * heads);
                    multiply(sizes, (&mut dqkv[dq..], stride, d), (ds, over_keys), (k, packed), scale, panel);
                    prefetch_next(shape, dqkv, 3 * head + 1, 3 * heads);
                    multiply(sizes, (&mut dqkv[dk..], stride, d), (ds, over_queries), (q, packed), scale, panel);
                    prefetch_next(shape, dqkv, 3 * head + 2, 3 * heads);
                    multiply(sizes, (&mut dqkv[dv..], stride, d), (p, over_queries), (head_dout, single), 1.0, panel);
                }
            });
        });
        Ok(())
    }
}

/// Turns rows of scores into probabilities, with zeros for hidden keys. Each step is taken for a block of rows before
/// the next one, because within a row each step waits for the one before.
#[inline(always)]
fn softmax(shape: Shape, scores: &mut [f32], lse: &mut [f32]) {
    let len = row_len(shape);
    for (block, (scores, lse)) in scores.chunks_mut(LANES * len).zip(lse.chunks_mut(LANES)).enumerate() {
        let first = block * LANES;
        // Past the last row, any positive sum will do.
        let (mut maxima, mut sums) = ([0.0; LANES], [[1.0; LANES]; LANES]);
        for (row, scores) in scores.chunks_exact(len).enumerate() {
            maxima[row] = max(&scores[..seen(shape, first + row)]);
        }
        for (row, scores) in scores.chunks_exact_mut(len).enumerate() {
            let keys = seen(shape, first + row);
            let (scores, hidden) = scores.as_chunks_mut::<LANES>().0.split_at_mut(keys.div_ceil(LANES));
            let (row_max, mut lanes) = (maxima[row], [0.0; LANES]);
            for (block, scores) in scores.iter_mut().enumerate() {
                for lane in 0..LANES {
                    let p = exp(scores[lane] - row_max);
                    scores[lane] = if block * LANES + lane < keys { p } else { 0.0 };
                    lanes[lane] += scores[lane];
                }
            }
            sums[row] = lanes;
            hidden.fill([0.0; LANES]);
        }
        let [mut totals, mut factors, mut logs] = [[0.0; LANES]; 3];
        for (total_of_row, lanes) in totals.iter_mut().zip(&sums) {
            *total_of_row = total(*lanes);
        }
        for row in 0..LANES {
            factors[row] = 1.0 / totals[row];
            logs[row] = maxima[row] + ln(totals[row]);
        }
        for (scores, factor) in scores.chunks_exact_mut(len).zip(factors) {
            for score in scores {
                *score *= factor;
            }
        }
        lse.copy_from_slice(&logs[..lse.len()]);
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
        hidden_p.fill([0.0; LANES]);
        hidden_ds.fill([0.0; LANES]);
    }
}
