//! Bias and column sums on the CPU.

use rayon::prelude::*;

use crate::autograd::GradMut;
use crate::simd::wide;

/// Rows of one partial sum; constant, so that results do not depend on the number of threads.
pub(in crate::ops) const ROWS: usize = 128;

/// `y += bias`, for a piece of a row.
pub fn add(y: &mut [f32], bias: &[f32]) {
    wide(
        #[inline(always)]
        || {
            for (y, bias) in y.iter_mut().zip(bias) {
                *y += bias;
            }
        },
    );
}

/// f32 elements of scratch for [`column_sums`].
pub fn column_sums_scratch_len(rows: usize, width: usize) -> usize {
    rows.div_ceil(ROWS) * width
}

/// `sums[c] (+)= Σ_r x[r, c]`, from partial sums of fixed blocks of rows, added in order.
pub fn column_sums(x: &[f32], width: usize, sums: GradMut<&mut [f32]>, scratch: &mut [f32]) {
    let blocks = x.par_chunks(ROWS * width).zip(scratch.par_chunks_mut(width));
    blocks.for_each(|(rows, partial)| {
        wide(
            #[inline(always)]
            || {
                partial.fill(0.0);
                for row in rows.chunks_exact(width) {
                    for (partial, x) in partial.iter_mut().zip(row) {
                        *partial += x;
                    }
                }
            },
        );
    });
    add_partials(&scratch[..column_sums_scratch_len(x.len() / width, width)], sums);
}

/// `sums (+)=` the rows of `partials`, in order.
pub fn add_partials(partials: &[f32], sums: GradMut<&mut [f32]>) {
    let sums = sums.sum_into();
    for partial in partials.chunks_exact(sums.len()) {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
}
