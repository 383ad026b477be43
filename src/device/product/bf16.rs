//! The product with operands rounded to bf16 and sums in f32, for processors with AVX-512 BF16: both are packed, and then
//! multiplied block by block. It allocates nothing once it has met its largest operands.

use std::cell::Cell;

use rayon::prelude::*;

use super::avx512::{LANES, available, multiply, pack_across, pack_along};
use super::{Product, Strides};

/// Rows that are computed together, at most: so many rows of `a` lie in the second-level cache while `b` passes by.
const BLOCK: usize = 256;

/// Strips that are packed together.
const GROUP: usize = 8;

thread_local! {
    /// Packed operands, kept from call to call, so that a step allocates nothing.
    static PACKED: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// As [`super::product_then`], which has checked the sizes.
///
/// Sums run along `k` in an order that depends on `k` alone. Denormal operands count as zero.
pub fn product(operands: Product<'_>) {
    let Product { sizes: (m, n, k), c: (c, stride), a: (a, a_strides), b: (b, b_strides), how, beside, finish } =
        operands;
    assert!(available() && m * n * k > 0, "not a product for this code");
    let pairs = k.div_ceil(2);
    let strip = pairs * LANES;
    let (a_len, b_len) = (m.div_ceil(LANES) * strip, n.div_ceil(LANES) * strip);
    let mut packed = PACKED.take();
    if packed.len() < a_len + b_len {
        packed.resize(a_len + b_len, 0);
    }
    let (a_strips, b_strips) = packed[..a_len + b_len].split_at_mut(a_len);
    let sides = [(a_strips, a, a_strides, m), (b_strips, b, b_strides.transposed(), n)];
    for (strips, from, Strides { rows, columns }, count) in sides {
        let pack = |(index, to): (usize, &mut [u32])| pack(to, index, (from, rows, columns), count, k);
        match how.parallel {
            true => strips.par_chunks_mut(GROUP * strip).enumerate().for_each(pack),
            false => strips.chunks_mut(GROUP * strip).enumerate().for_each(pack),
        }
    }
    let (a_strips, b_strips) = packed[..a_len + b_len].split_at(a_len);
    let threads = if how.parallel { rayon::current_num_threads() } else { 1 };
    let most = BLOCK.min(m.div_ceil(threads).next_multiple_of(LANES));
    let all = Block { row: 0, c: &mut c[..(m - 1) * stride + n], beside, a: a_strips };
    all.split(most, stride, strip, how.parallel, &|Block { row, c, beside, a }| {
        // SAFETY: the processor has the instructions.
        unsafe { multiply((c, n, stride), a, b_strips, pairs, how, (row, beside, finish)) }
    });
    PACKED.set(packed);
}

/// Whole strips of rows of a product.
struct Block<'a> {
    row: usize,
    c: &'a mut [f32],
    beside: &'a mut [f32],
    a: &'a [u32],
}

impl Block<'_> {
    /// Calls `body` with parts of at most `most` rows.
    fn split(self, most: usize, stride: usize, strip: usize, parallel: bool, body: &(impl Fn(Block) + Sync)) {
        let Self { row, c, beside, a } = self;
        let strips = a.len() / strip;
        if strips * LANES <= most {
            return body(Block { row, c, beside, a });
        }
        let half = strips / 2;
        let rows = half * LANES;
        let (c_low, c_high) = c.split_at_mut(rows * stride);
        let (beside_low, beside_high) = beside.split_at_mut(beside.len().min(rows * stride));
        let (a_low, a_high) = a.split_at(half * strip);
        let low = Block { row, c: c_low, beside: beside_low, a: a_low };
        let high = Block { row: row + rows, c: c_high, beside: beside_high, a: a_high };
        let [low, high] = [low, high].map(|part| move || part.split(most, stride, strip, parallel, body));
        match parallel {
            true => drop(rayon::join(low, high)),
            false => {
                low();
                high();
            }
        }
    }
}

/// Packs group `index` of an operand's `count` rows or columns, which are `apart` one from the next, `k` numbers each that are
/// `along` apart: one of the two is 1.
fn pack(to: &mut [u32], index: usize, (from, apart, along): (&[f32], usize, usize), count: usize, k: usize) {
    let first = index * GROUP * LANES;
    let (from, count) = (&from[first * apart..], (GROUP * LANES).min(count - first));
    // SAFETY: the caller has checked that the processor has the instructions.
    match (apart, along) {
        (_, 1) => {
            for (index, to) in to.chunks_mut(k.div_ceil(2) * LANES).enumerate() {
                unsafe { pack_along(to, &from[index * LANES * apart..], apart, LANES.min(count - index * LANES), k) }
            }
        }
        (1, _) => unsafe { pack_across(to, from, along, count, k) },
        _ => unreachable!("a matrix has neighbours along its rows or its columns"),
    }
}
