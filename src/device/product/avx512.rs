//! What the packed product does with registers: AVX-512 and its BF16 instructions.
//!
//! Both operands are packed as strips of [`LANES`] rows of `a` (or columns of `b`): `[units, LANES]`, each unit 32 bits of what lies
//! along `k`. In f32 a unit is a number; in bf16 it is a pair of neighbours, the earlier one in the low half, since `vdpbf16ps`
//! multiplies sixteen pairs by sixteen others and adds both products of each to sixteen f32 sums (it takes denormal operands for
//! zero). What is missing is zero.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Finish, How, depth};

/// Rows or columns of a strip: the 32-bit lanes of a register.
pub const LANES: usize = 16;
/// Rows of a tile of sums; with three vectors of columns, 24 of the 32 registers are sums.
const ROWS: usize = 8;
/// Most strips of columns of a tile.
const STRIPS: usize = 3;
/// Strips of columns that are finished before others are begun.
const NEAR: usize = 4 * STRIPS;
/// How far ahead of its loads packing asks for memory, in rows or in numbers along them: few of its streams are long enough for
/// the processor to foresee.
const ROWS_AHEAD: usize = 8;
const AHEAD: usize = 2 * LANES;

/// Numbers in a unit.
pub const fn per_unit(bf16: bool) -> usize {
    if bf16 { 2 } else { 1 }
}

/// Whether this processor has the instructions.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

fn lanes(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Up to 16 numbers from `start`; zeros where there are none.
#[target_feature(enable = "avx512f")]
fn load(from: &[f32], start: usize, count: usize) -> __m512 {
    let from = from.get(start..).unwrap_or_default();
    // SAFETY: lanes beyond the slice's end are masked off, and not touched.
    unsafe { _mm512_maskz_loadu_ps(lanes(count.min(from.len())), from.as_ptr()) }
}

/// Asks for the line of the number at `index`, if there is one, or for one that is not needed.
#[target_feature(enable = "avx512f")]
fn prefetch(from: &[f32], index: usize) {
    _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(index).cast());
}

#[target_feature(enable = "avx512f")]
fn store(to: &mut [u32; LANES], units: __m512i) {
    // SAFETY: the array has the register's size.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), units) }
}

/// `low` and `high` in bf16, rounded to the nearest even, one after the other.
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrow(low: __m512, high: __m512) -> __m512i {
    // SAFETY: two types of one register.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Packs a strip of `count` rows whose `k` numbers each are neighbours; rows are `stride` apart.
///
/// # Safety
/// The processor has the instructions ([`available`]).
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack_along<const BF16: bool>(strip: &mut [u32], from: &[f32], stride: usize, count: usize, k: usize) {
    let (vectors, _) = strip.as_chunks_mut::<LANES>();
    for (block, to) in vectors.chunks_mut(LANES).enumerate() {
        let at = per_unit(BF16) * LANES * block;
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, units) in rows.iter_mut().enumerate().take(count) {
            let (start, left) = (row * stride + at, k - at);
            prefetch(from, start + AHEAD);
            let first = load(from, start, left);
            *units = if BF16 {
                prefetch(from, start + AHEAD + LANES);
                narrow(first, load(from, start + LANES, left.saturating_sub(LANES)))
            } else {
                _mm512_castps_si512(first)
            };
        }
        for (to, units) in to.iter_mut().zip(transposed(rows)) {
            store(to, units);
        }
    }
}

/// Packs strips of `count` columns that are neighbours, `k` rows deep; rows are `stride` apart. Goes row by row through all
/// strips, since a row's numbers are what lies together in memory.
///
/// # Safety
/// The processor has the instructions ([`available`]).
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn pack_across<const BF16: bool>(strips: &mut [u32], from: &[f32], stride: usize, count: usize, k: usize) {
    let in_turns: [i16; 2 * LANES] = std::array::from_fn(|i| (i / 2 + i % 2 * LANES) as i16);
    // SAFETY: the array has the register's size.
    let in_turns = unsafe { _mm512_loadu_si512(in_turns.as_ptr().cast()) };
    let (vectors, _) = strips.as_chunks_mut::<LANES>();
    let per = per_unit(BF16);
    let units = k.div_ceil(per);
    for unit in 0..units {
        for (strip, to) in vectors[unit..].iter_mut().step_by(units).enumerate() {
            let (at, left) = (per * unit * stride + strip * LANES, count - strip * LANES);
            prefetch(from, at + ROWS_AHEAD * stride);
            let first = load(from, at, left);
            if BF16 {
                prefetch(from, at + (ROWS_AHEAD + 1) * stride);
                let later = load(from, at + stride, if 2 * unit + 1 < k { left } else { 0 });
                store(to, _mm512_permutexvar_epi16(in_turns, narrow(first, later)));
            } else {
                store(to, _mm512_castps_si512(first));
            }
        }
    }
}

/// Sixteen registers of sixteen lanes as the columns of a square: its rows.
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut by_two = rows;
    for i in (0..LANES).step_by(2) {
        by_two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        by_two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // Register 4 g + j has, in its 128-bit part p, column 4 p + j of rows 4 g to 4 g + 3.
    let mut by_four = by_two;
    for g in (0..LANES).step_by(4) {
        by_four[g] = _mm512_unpacklo_epi64(by_two[g], by_two[g + 2]);
        by_four[g + 1] = _mm512_unpackhi_epi64(by_two[g], by_two[g + 2]);
        by_four[g + 2] = _mm512_unpacklo_epi64(by_two[g + 1], by_two[g + 3]);
        by_four[g + 3] = _mm512_unpackhi_epi64(by_two[g + 1], by_two[g + 3]);
    }
    // What remains is to transpose the 4 x 4 parts.
    let mut columns = by_four;
    for j in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|g| by_four[g + j]);
        let (even_ab, odd_ab) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_cd, odd_cd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    columns
}

/// All strips of `b`, each of `units` units, and which of those are multiplied.
pub struct Columns<'a> {
    pub strips: &'a [u32],
    pub units: usize,
    pub some: Range<usize>,
}

/// `c = scale · a b`, or added to it: `a` in strips of as many units as are multiplied, `c` in rows of `columns` that are `stride`
/// apart. Then `finish(row, column, ...)`, where the first row is number `row`, for what is in the second-level cache.
///
/// # Safety
/// The processor has the instructions ([`available`]).
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn multiply<const BF16: bool>(
    (c, columns, stride): (&mut [f32], usize, usize),
    a: &[u32],
    Columns { strips, units, some }: Columns,
    how: How,
    (row, beside, finish): (usize, &mut [f32], Option<&Finish>),
) {
    // What `c` gets from one piece along `k` after the other stays in the second-level cache.
    for (block, b) in strips.chunks(NEAR * units * LANES).enumerate() {
        for first in some.clone().step_by(depth(BF16)) {
            let piece = first * LANES..some.end.min(first + depth(BF16)) * LANES;
            let a_piece = piece.start - some.start * LANES..piece.end - some.start * LANES;
            let accumulate = how.accumulate || first > some.start;
            for (index, b) in b.chunks(STRIPS * units * LANES).enumerate() {
                let at = (block * NEAR + index * STRIPS) * LANES;
                let mut b = b.chunks_exact(units * LANES).map(|strip| &strip[piece.clone()]);
                let strips = [b.next(), b.next(), b.next()].map(Option::unwrap_or_default);
                for (c, a) in c.chunks_mut(LANES * stride).zip(a.chunks_exact(some.len() * LANES)) {
                    for (half, c) in c.chunks_mut(ROWS * stride).enumerate() {
                        let a = &a[a_piece.clone()][half * ROWS..];
                        let to = Part { c: &mut c[at..], stride, columns: columns - at, accumulate };
                        match strips {
                            [x, [], _] => tile::<BF16, _>(to, a, [x], how.scale),
                            [x, y, []] => tile::<BF16, _>(to, a, [x, y], how.scale),
                            strips => tile::<BF16, _>(to, a, strips, how.scale),
                        }
                    }
                }
            }
        }
        if let Some(finish) = finish {
            let first = block * NEAR * LANES;
            let piece = first..columns.min(first + NEAR * LANES);
            let mut beside = beside.chunks_mut(stride);
            for (index, c) in c.chunks_mut(stride).enumerate() {
                let beside = beside.next().map_or(&mut [][..], |beside| &mut beside[piece.clone()]);
                finish(row + index, first, &mut c[piece.clone()], beside);
            }
        }
    }
}

/// Where a tile of sums goes: from the first element of `c` on, up to [`ROWS`] rows and at most `columns`.
struct Part<'a> {
    c: &'a mut [f32],
    stride: usize,
    columns: usize,
    accumulate: bool,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn tile<const BF16: bool, const V: usize>(to: Part<'_>, a: &[u32], b: [&[u32]; V], scale: f32) {
    let mut sums = [[_mm512_setzero_ps(); V]; ROWS];
    let units = b[0].len() / LANES;
    assert!(b.iter().all(|strip| strip.len() == units * LANES) && a.len() + ROWS >= units * LANES && units > 0);
    if to.accumulate {
        // Asked for now, they are there when the sums are.
        for row in 0..ROWS {
            for strip in 0..V {
                prefetch(to.c, row * to.stride + strip * LANES);
            }
        }
    }
    for unit in 0..units {
        // SAFETY: by the check above, strips of `b` have a register at each unit, and `a` eight units.
        let vectors = b.map(|strip| unsafe { _mm512_loadu_si512(strip.as_ptr().add(unit * LANES).cast()) });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let one = _mm512_set1_epi32(unsafe { *a.get_unchecked(unit * LANES + row) } as i32);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = if BF16 {
                    // SAFETY: registers of one size.
                    let pairs = |register| unsafe { std::mem::transmute::<__m512i, __m512bh>(register) };
                    _mm512_dpbf16_ps(*sum, pairs(one), pairs(vector))
                } else {
                    _mm512_fmadd_ps(_mm512_castsi512_ps(one), _mm512_castsi512_ps(vector), *sum)
                };
            }
        }
    }
    let scale = _mm512_set1_ps(scale);
    // A whole tile goes straight from its registers; masked stores cost much more, also if they store all.
    if to.columns >= V * LANES && to.c.len() >= (ROWS - 1) * to.stride + V * LANES {
        for (row, sums) in sums.into_iter().enumerate() {
            for (strip, sum) in sums.into_iter().enumerate() {
                // SAFETY: by the check above there is room for whole registers in all rows.
                unsafe {
                    let c = to.c.as_mut_ptr().add(row * to.stride + strip * LANES);
                    let before = if to.accumulate { _mm512_loadu_ps(c) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(c, _mm512_fmadd_ps(sum, scale, before));
                }
            }
        }
        return;
    }
    for (sums, c) in sums.into_iter().zip(to.c.chunks_mut(to.stride)) {
        for (strip, sum) in sums.into_iter().enumerate() {
            let at = strip * LANES;
            let columns = (to.columns - at).min(c.len() - at);
            let c = &mut c[at..];
            let before = if to.accumulate { load(c, 0, columns) } else { _mm512_setzero_ps() };
            let all = _mm512_fmadd_ps(sum, scale, before);
            // SAFETY: lanes beyond the row's end are masked off.
            unsafe { _mm512_mask_storeu_ps(c.as_mut_ptr(), lanes(columns), all) }
        }
    }
}
