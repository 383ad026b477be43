//! Our own product, for processors with AVX-512 BF16: operands are packed, in f32 or rounded to bf16 (about twice as fast), and
//! then multiplied block by block. It allocates nothing once it has met its largest operands.

use std::cell::Cell;

use rayon::prelude::*;

use super::avx512::{LANES, available, multiply, pack_across, pack_along};
use super::{How, Operands, Strides};

/// Rows that are computed together, at most: so many rows of `a` lie in the second-level cache while `b` passes by.
const BLOCK: usize = 256;

/// Strips that are packed together.
const GROUP: usize = 8;

thread_local! {
    /// Packed operands, kept from call to call, so that a step allocates nothing.
    static PACKED: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// As [`super::product`], which has checked the sizes.
///
/// Sums run along `k` in an order that depends on `k` alone. In bf16 denormal operands count as zero.
pub fn product(
    (m, n, k): (usize, usize, usize),
    (c, c_strides): (&mut [f32], Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    how: How,
) {
    assert!(available() && c_strides.columns == 1 && m * n * k > 0, "not a product for this code");
    let (units, stride) = (k.div_ceil(how.operands.per_unit()), c_strides.rows);
    let strip = units * LANES;
    let (a_len, b_len) = (m.div_ceil(LANES) * strip, n.div_ceil(LANES) * strip);
    let mut packed = PACKED.take();
    if packed.len() < a_len + b_len {
        packed.resize(a_len + b_len, 0);
    }
    let (a_strips, b_strips) = packed[..a_len + b_len].split_at_mut(a_len);
    let c = &mut c[..(m - 1) * stride + n];
    let pack_a =
        |(index, to): (usize, &mut [u32])| pack(how.operands, to, index, (a, a_strides.rows, a_strides.columns), m, k);
    let pack_b =
        |(index, to): (usize, &mut [u32])| pack(how.operands, to, index, (b, b_strides.columns, b_strides.rows), n, k);
    // SAFETY: the processor has the instructions.
    let compute = |c: &mut [f32], a: &[u32], b: &[u32]| unsafe { multiply(c, (n, stride), a, b, units, how) };
    if how.parallel {
        a_strips.par_chunks_mut(GROUP * strip).enumerate().for_each(pack_a);
        b_strips.par_chunks_mut(GROUP * strip).enumerate().for_each(pack_b);
        let threads = rayon::current_num_threads();
        let tasks = m.div_ceil(BLOCK).next_multiple_of(threads);
        let strips = m.div_ceil(LANES).div_ceil(tasks);
        let blocks = c.par_chunks_mut(strips * LANES * stride).zip(a_strips.par_chunks(strips * strip));
        blocks.for_each(|(c, a)| compute(c, a, b_strips));
    } else {
        a_strips.chunks_mut(GROUP * strip).enumerate().for_each(pack_a);
        b_strips.chunks_mut(GROUP * strip).enumerate().for_each(pack_b);
        c.chunks_mut(BLOCK * stride)
            .zip(a_strips.chunks(BLOCK / LANES * strip))
            .for_each(|(c, a)| compute(c, a, b_strips));
    }
    PACKED.set(packed);
}

/// Packs group `index` of an operand's `count` rows or columns, which are `apart` one from the next, `k` numbers each that are
/// `along` apart: one of the two is 1.
fn pack(
    operands: Operands,
    to: &mut [u32],
    index: usize,
    (from, apart, along): (&[f32], usize, usize),
    count: usize,
    k: usize,
) {
    let first = index * GROUP * LANES;
    let (from, count) = (&from[first * apart..], (GROUP * LANES).min(count - first));
    // SAFETY: the caller has checked that the processor has the instructions.
    match (apart, along) {
        (_, 1) => {
            for (index, to) in to.chunks_mut(k.div_ceil(operands.per_unit()) * LANES).enumerate() {
                unsafe {
                    pack_along(operands, to, &from[index * LANES * apart..], apart, LANES.min(count - index * LANES), k)
                }
            }
        }
        (1, _) => unsafe { pack_across(operands, to, from, along, count, k) },
        _ => unreachable!("a matrix has neighbours along its rows or its columns"),
    }
}
