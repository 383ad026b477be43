//! The product with operands rounded to bf16 where the processor has no instructions for it: slow, and the same to the bit.

use half::bf16;
use rayon::prelude::*;

use super::{Product, Strides, depth, finish_rows};

/// As [`super::product_then`], which has checked the sizes.
///
/// Sums as `vdpbf16ps` does: of two neighbours along `k` the later one's product is added first; products of two bf16 are exact in
/// f32. Denormal operands count as zero. Denormal sums, for which that instruction has zero, stay what they are.
pub fn product(operands: Product<'_>) {
    let Product { sizes: (m, n, k), c: (c, stride), a: (a, a_strides), b: (b, b_strides), how, beside, finish } =
        operands;
    let whole = k.next_multiple_of(2);
    let (a, b) = (rounded(a, a_strides, (m, k), (m, whole)), rounded(b, b_strides, (k, n), (whole, n)));
    const DEPTH: usize = depth(true);
    let row = |(c, a): (&mut [f32], &[f32])| {
        let mut sums = vec![0.0; n];
        for (piece, (a, b)) in a.chunks(2 * DEPTH).zip(b.chunks(2 * DEPTH * n)).enumerate() {
            sums.fill(0.0);
            for (a, b) in a.chunks_exact(2).zip(b.chunks_exact(2 * n)) {
                let (earlier, later) = b.split_at(n);
                for (sum, (earlier, later)) in sums.iter_mut().zip(earlier.iter().zip(later)) {
                    *sum = *sum + a[1] * later + a[0] * earlier;
                }
            }
            for (c, sum) in c.iter_mut().zip(&sums) {
                *c = sum.mul_add(how.scale, if how.accumulate || piece > 0 { *c } else { 0.0 });
            }
        }
    };
    match how.parallel {
        true => c.par_chunks_mut(stride).zip(a.par_chunks(whole)).for_each(row),
        false => c.chunks_mut(stride).zip(a.chunks(whole)).for_each(row),
    }
    if let Some(finish) = finish {
        finish_rows(c, n, stride, beside, finish);
    }
}

/// An operand row by row, with zeros up to `padded` rows and columns.
fn rounded(from: &[f32], strides: Strides, (rows, columns): (usize, usize), padded: (usize, usize)) -> Vec<f32> {
    let mut all = vec![0.0; padded.0 * padded.1];
    for (row, to) in all.chunks_mut(padded.1).enumerate().take(rows) {
        for (column, to) in to.iter_mut().enumerate().take(columns) {
            let number = bf16::from_f32(from[row * strides.rows + column * strides.columns]).to_f32();
            *to = if number.is_subnormal() { 0.0 } else { number };
        }
    }
    all
}
