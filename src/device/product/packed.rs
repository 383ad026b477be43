//! The product for processors with AVX-512 BF16, of operands in f32 or rounded to bf16: both are packed, `b` whole and `a` block by
//! block just before it is multiplied. It allocates nothing once it has met its largest operands.

use std::cell::Cell;

use rayon::prelude::*;

use super::avx512::{Columns, LANES, available, multiply, pack_across, pack_along, per_unit};
use super::{How, Operands, Product};

/// Rows that are computed together, at most, and the units along `k` that are packed for them at a time: they lie in the
/// second-level cache while `b` passes by.
const BLOCK: usize = 256;
const UNITS: usize = 480;

/// Registers that a thread makes room for when it first packs: enough for any block of rows, and for a head's columns, so that it
/// does not matter which product a thread meets first.
const ROOM: usize = BLOCK / LANES * UNITS;

/// Strips of `b` that are packed together.
const GROUP: usize = 8;

thread_local! {
    // Packed operands, kept from call to call, so that a step allocates nothing.
    static COLUMNS: Cell<Vec<Vector>> = const { Cell::new(Vec::new()) };
    static ROWS: Cell<Vec<Vector>> = const { Cell::new(Vec::new()) };
}

/// What a register holds, in one line of the caches.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Vector([u32; LANES]);

/// As [`super::product_then`], which has checked the sizes.
///
/// Sums run along `k` in an order that depends on `k` alone. In bf16 denormal operands count as zero.
pub fn product(operands: Product<'_>) {
    match operands.how.operands {
        Operands::F32 => product_of::<false>(operands),
        Operands::Bf16 => product_of::<true>(operands),
    }
}

fn product_of<const BF16: bool>(operands: Product<'_>) {
    let Product { sizes: (m, n, k), c: (c, stride), a, b, how, beside, finish } = operands;
    assert!(available() && m * n * k > 0, "not a product for this code");
    let a = Operand { from: a.0, apart: a.1.rows, along: a.1.columns, count: m, k };
    let b = Operand { from: b.0, apart: b.1.columns, along: b.1.rows, count: n, k };
    let per = per_unit(BF16);
    let units = k.div_ceil(per);
    let mut columns = COLUMNS.take();
    let strips = at_least(&mut columns, n.div_ceil(LANES) * units);
    let groups = GROUP * units * LANES;
    let pack = |(index, to): (usize, &mut [u32])| b.part(index * GROUP * LANES, GROUP * LANES, 0, k).pack::<BF16>(to);
    match how.parallel {
        true => strips.par_chunks_mut(groups).enumerate().for_each(pack),
        false => strips.chunks_mut(groups).enumerate().for_each(pack),
    }
    let strips = &*strips;
    let threads = if how.parallel { rayon::current_num_threads() } else { 1 };
    let most = BLOCK.min(m.div_ceil(threads).next_multiple_of(LANES));
    let all = Block { row: 0, rows: m, c: &mut c[..(m - 1) * stride + n], beside };
    all.split(most, stride, how.parallel, &|Block { row, rows, c, beside }| {
        let mut packed = ROWS.take();
        for first in (0..units).step_by(UNITS) {
            let some = first..units.min(first + UNITS);
            let a_strips = at_least(&mut packed, rows.div_ceil(LANES) * some.len());
            a.part(row, rows, per * first, per * UNITS).pack::<BF16>(a_strips);
            let how = How { accumulate: how.accumulate || first > 0, ..how };
            let finish = finish.filter(|_| some.end == units);
            let columns = Columns { strips, units, some };
            // SAFETY: the processor has the instructions.
            unsafe { multiply::<BF16>((c, n, stride), a_strips, columns, how, (row, beside, finish)) }
        }
        ROWS.set(packed);
    });
    COLUMNS.set(columns);
}

/// Room for `vectors` registers in a buffer that grows where it is too short.
fn at_least(buffer: &mut Vec<Vector>, vectors: usize) -> &mut [u32] {
    if buffer.len() < vectors {
        buffer.resize(vectors.max(ROOM), Vector([0; LANES]));
    }
    bytemuck::cast_slice_mut(&mut buffer[..vectors])
}

/// `count` rows of `a`, or columns of `b`, that are `apart` one from the next, of `k` numbers each that are `along` apart: one
/// of the two distances is 1.
#[derive(Clone, Copy)]
struct Operand<'a> {
    from: &'a [f32],
    apart: usize,
    along: usize,
    count: usize,
    k: usize,
}

impl Operand<'_> {
    /// At most `count` rows or columns from `first` on, of each at most `k` numbers from `start` on.
    fn part(self, first: usize, count: usize, start: usize, k: usize) -> Self {
        let from = &self.from[first * self.apart + start * self.along..];
        Self { from, count: count.min(self.count - first), k: k.min(self.k - start), ..self }
    }

    fn pack<const BF16: bool>(self, strips: &mut [u32]) {
        let Self { from, apart, along, count, k } = self;
        // SAFETY: the caller has checked that the processor has the instructions.
        match (apart, along) {
            (_, 1) => {
                for (index, to) in strips.chunks_mut(k.div_ceil(per_unit(BF16)) * LANES).enumerate() {
                    let first = index * LANES;
                    unsafe { pack_along::<BF16>(to, &from[first * apart..], apart, LANES.min(count - first), k) }
                }
            }
            (1, _) => unsafe { pack_across::<BF16>(strips, from, along, count, k) },
            _ => unreachable!("a matrix has neighbours along its rows or its columns"),
        }
    }
}

/// Rows of a product.
struct Block<'a> {
    row: usize,
    rows: usize,
    c: &'a mut [f32],
    beside: &'a mut [f32],
}

impl Block<'_> {
    /// Calls `body` with parts of at most `most` rows.
    fn split(self, most: usize, stride: usize, parallel: bool, body: &(impl Fn(Block) + Sync)) {
        let Self { row, rows, c, beside } = self;
        if rows <= most {
            return body(Block { row, rows, c, beside });
        }
        let half = (rows / 2).next_multiple_of(LANES);
        let (c_low, c_high) = c.split_at_mut(half * stride);
        let (beside_low, beside_high) = beside.split_at_mut(beside.len().min(half * stride));
        let low = Block { row, rows: half, c: c_low, beside: beside_low };
        let high = Block { row: row + half, rows: rows - half, c: c_high, beside: beside_high };
        let [low, high] = [low, high].map(|part| move || part.split(most, stride, parallel, body));
        match parallel {
            true => drop(rayon::join(low, high)),
            false => {
                low();
                high();
            }
        }
    }
}
