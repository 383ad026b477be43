//! AVX-512: products of f32, and of pairs of bf16 with `vdpbf16ps`. That instruction multiplies sixteen pairs by
//! sixteen others and adds both products of each to sixteen f32 sums, the later product first. It treats denormal
//! operands as zero.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::pack::{Kernel, LANES, Operand, PAIRS_DEPTH, Tile, depth};
use crate::device::isa::{Isa, level};

/// How far ahead packing prefetches along a row, in numbers. Its streams are too short for the hardware prefetcher.
const AHEAD: usize = 2 * LANES;
/// The same across rows, in rows.
const ROWS_AHEAD: usize = 16;

/// How far ahead along `k` a product prefetches, in units, unless it reads rows of `a` in place.
const UNITS_AHEAD: usize = 16;

/// Rows of a row-major operand that are packed together, strip by strip: that many streams are read and one is written.
const TOGETHER: usize = 16;

/// Products of f32 or of pairs of bf16. A value shows that this process uses AVX-512, and that the processor has
/// AVX-512 BF16 if `BF16`.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>(());

/// Whether the processor has AVX-512 and AVX-512 BF16.
pub(super) fn bf16_is_there() -> bool {
    Isa::Avx512.is_there() && is_x86_feature_detected!("avx512bf16")
}

impl<const BF16: bool> Avx512<BF16> {
    /// The kernel, if this process uses its instructions.
    pub(super) fn available() -> Option<Self> {
        (level() == Isa::Avx512 && (!BF16 || bf16_is_there())).then_some(Self(()))
    }
}

impl<const BF16: bool> Kernel for Avx512<BF16> {
    const PER: usize = if BF16 { 2 } else { 1 };
    // 28 of the 32 registers are sums.
    const ROWS: usize = 14;
    const STRIPS: usize = 2;
    const BLOCK: usize = 126;
    const UNITS: usize = 1024;
    // On a Zen 4, longer rows and operands with more uses are no faster in place.
    const ROWS_IN_PLACE: usize = if BF16 { 0 } else { 768 };
    const USES_IN_PLACE: usize = if BF16 { 0 } else { 2048 };

    fn depth(units: usize) -> usize {
        if BF16 { PAIRS_DEPTH } else { depth(units) }
    }

    unsafe fn pack_rows(self, to: *mut u32, a: Operand, tiles: Range<usize>) {
        // SAFETY: by the caller; `self` shows that the instructions are there.
        unsafe { self.pack_panels(to, a, tiles) }
    }

    fn pack_columns(self, to: &mut [u32], b: Operand) {
        // SAFETY: `self` shows that the instructions are there.
        unsafe { self.pack_strips(to, b) }
    }

    unsafe fn tile(self, tile: Tile) {
        macro_rules! of_height {
            ($($rows:literal)*) => {
                // SAFETY: by the caller; `self` shows that the instructions are there.
                unsafe {
                    match (tile.rows, tile.columns > LANES, tile.a_row != 1) {
                        $(($rows, false, false) => self.multiply::<$rows, 1, false>(tile),
                        ($rows, false, true) => self.multiply::<$rows, 1, true>(tile),
                        ($rows, true, false) => self.multiply::<$rows, 2, false>(tile),
                        ($rows, true, true) => self.multiply::<$rows, 2, true>(tile),)*
                        _ => unreachable!("a tile has 1 to 14 rows"),
                    }
                }
            };
        }
        of_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

pub(super) fn lanes(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Up to 16 numbers from `start` on, padded with zeros.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(from: &[f32], start: usize, count: usize) -> __m512 {
    let from = from.get(start..).unwrap_or_default();
    // SAFETY: lanes past the end of the slice are masked off, and not accessed.
    unsafe { _mm512_maskz_loadu_ps(lanes(count.min(from.len())), from.as_ptr()) }
}

/// Prefetches the line of the number at `index`. An index past the end does no harm.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(from: &[f32], index: usize) {
    _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(index).cast());
}

/// `low` and `high` rounded to bf16 (nearest even), one after the other.
///
/// # Safety
/// The processor has AVX-512 BF16.
// In assembly, because the f32 functions share this code and must not require AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn narrow(low: __m512, high: __m512) -> __m512i {
    let both: __m512i;
    // SAFETY: it uses registers only, and by the caller the instruction is there.
    unsafe {
        asm!("vcvtne2ps2bf16 {}, {}, {}", lateout(zmm_reg) both, in(zmm_reg) high, in(zmm_reg) low, options(pure, nomem, nostack, preserves_flags))
    };
    both
}

/// `sum` and the products of sixteen pairs of bf16.
///
/// # Safety
/// The processor has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_pairs(mut sum: __m512, a: __m512i, b: __m512i) -> __m512 {
    // SAFETY: as in `narrow`.
    unsafe {
        asm!("vdpbf16ps {}, {}, {}", inout(zmm_reg) sum, in(zmm_reg) a, in(zmm_reg) b, options(pure, nomem, nostack, preserves_flags))
    };
    sum
}

/// As [`narrow`], with the two registers' numbers interleaved.
///
/// # Safety
/// The processor has AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn narrow_interleaved(earlier: __m512, later: __m512) -> __m512i {
    const TURNS: [i16; 2 * LANES] = {
        let mut turns = [0; 2 * LANES];
        let mut i = 0;
        while i < 2 * LANES {
            turns[i] = (i / 2 + i % 2 * LANES) as i16;
            i += 1;
        }
        turns
    };
    // SAFETY: the array has the register's size.
    let turns = unsafe { _mm512_loadu_si512(TURNS.as_ptr().cast()) };
    // SAFETY: by the caller.
    _mm512_permutexvar_epi16(turns, unsafe { narrow(earlier, later) })
}

impl<const BF16: bool> Avx512<BF16> {
    /// Sixteen units, from number `at` on, of up to sixteen rows that are contiguous along `k`: one register per row,
    /// padded with zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn along(self, a: Operand, first: usize, count: usize, at: usize) -> [__m512i; LANES] {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, units) in rows.iter_mut().enumerate().take(count) {
            let (start, left) = ((first + row) * a.apart + at, a.k - at);
            prefetch(a.from, start + AHEAD);
            let low = load(a.from, start, left);
            *units = if BF16 {
                prefetch(a.from, start + AHEAD + LANES);
                let high = load(a.from, start + LANES, left.saturating_sub(LANES));
                // SAFETY: `self` shows that AVX-512 BF16 is there.
                unsafe { narrow(low, high) }
            } else {
                _mm512_castps_si512(low)
            };
        }
        rows
    }

    /// One unit of up to sixteen rows or columns that are contiguous across.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn across(self, of: Operand, first: usize, count: usize, unit: usize) -> __m512i {
        if BF16 {
            let at = 2 * unit * of.along + first;
            prefetch(of.from, at + ROWS_AHEAD * of.along);
            prefetch(of.from, at + (ROWS_AHEAD + 1) * of.along);
            let earlier = load(of.from, at, if 2 * unit < of.k { count } else { 0 });
            let later = load(of.from, at + of.along, if 2 * unit + 1 < of.k { count } else { 0 });
            // SAFETY: `self` shows that AVX-512 BF16 is there.
            unsafe { narrow_interleaved(earlier, later) }
        } else {
            let at = unit * of.along + first;
            prefetch(of.from, at + ROWS_AHEAD * of.along);
            _mm512_castps_si512(load(of.from, at, count))
        }
    }

    /// # Safety
    /// As of [`Kernel::pack_rows`].
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pack_panels(self, to: *mut u32, a: Operand, tiles: Range<usize>) {
        let units = Self::units(a.k);
        let first = |tile| Self::first_row(a.count, tile);
        let store = |row: usize, unit: usize, height: usize, values: __m512i| {
            // SAFETY: by the caller there is room for all panels. A store of sixteen lanes spills into the panel's next
            // units, which are written afterwards; in the last units, where there is no next one, the other lanes are
            // masked off.
            unsafe {
                let at = to.add(row * units + unit * height).cast::<i32>();
                if unit + LANES < units {
                    _mm512_storeu_si512(at.cast(), values);
                } else {
                    _mm512_mask_storeu_epi32(at, lanes(height), values);
                }
            }
        };
        if a.along == 1 {
            for tile in tiles {
                let (row, height) = (first(tile), first(tile + 1) - first(tile));
                for unit in (0..units).step_by(LANES) {
                    let rows = self.along(a, row, height, Self::PER * unit);
                    for (index, lanes) in transposed(rows).into_iter().enumerate().take(units - unit) {
                        store(row, unit + index, height, lanes);
                    }
                }
            }
        } else {
            for unit in (0..units).step_by(TOGETHER) {
                for tile in tiles.clone() {
                    let (row, height) = (first(tile), first(tile + 1) - first(tile));
                    for unit in unit..units.min(unit + TOGETHER) {
                        store(row, unit, height, self.across(a, row, height, unit));
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn pack_strips(self, to: &mut [u32], b: Operand) {
        let (vectors, _) = to.as_chunks_mut::<LANES>();
        let units = vectors.len() / b.count.div_ceil(LANES);
        let store = |to: &mut [u32; LANES], units| {
            // SAFETY: the array has the register's size.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), units) };
        };
        if b.along == 1 {
            for (strip, to) in vectors.chunks_exact_mut(units).enumerate() {
                let (first, count) = (strip * LANES, LANES.min(b.count - strip * LANES));
                for (block, to) in to.chunks_mut(LANES).enumerate() {
                    let at = Self::PER * LANES * block;
                    for (to, units) in to.iter_mut().zip(transposed(self.along(b, first, count, at.min(b.k)))) {
                        store(to, units);
                    }
                }
            }
        } else {
            // A few rows at a time across all strips, because rows are contiguous in memory.
            for unit in (0..units).step_by(TOGETHER) {
                for (strip, to) in vectors.chunks_exact_mut(units).enumerate() {
                    for (index, to) in to[unit..units.min(unit + TOGETHER)].iter_mut().enumerate() {
                        store(to, self.across(b, strip * LANES, LANES.min(b.count - strip * LANES), unit + index));
                    }
                }
            }
        }
    }

    /// # Safety
    /// As of [`Kernel::tile`], for a tile of `R` rows and at most `V` strips.
    #[target_feature(enable = "avx512f")]
    unsafe fn multiply<const R: usize, const V: usize, const OWN_ROWS: bool>(self, to: Tile) {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        if to.accumulate {
            // Prefetched now, the old results are there when the sums are.
            for row in 0..R {
                for strip in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(to.c.wrapping_add(row * to.stride + strip * LANES).cast());
                }
            }
        }
        let (mut a, mut b) = (to.a, to.b);
        let (a_row, a_unit) = if OWN_ROWS { (to.a_row, 1) } else { (1, to.a_unit) };
        for unit in 0..to.units {
            // Units in place may be pages apart, and the hardware does not prefetch across pages. Packed operands are
            // multiplied as fast with these prefetches as without. Rows of `a` in place are contiguous along `k`.
            if !BF16 && !OWN_ROWS && unit + UNITS_AHEAD < to.units {
                let b = b.wrapping_add(UNITS_AHEAD * to.b_unit);
                _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(UNITS_AHEAD * a_unit).cast());
                for strip in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(strip * to.b_apart).cast());
                }
            }
            let mut columns = [_mm512_setzero_si512(); V];
            for (strip, units) in columns.iter_mut().enumerate() {
                // SAFETY: by the caller the strips have this many units, each of a register's size.
                *units = unsafe { _mm512_loadu_si512(b.add(strip * to.b_apart).cast()) };
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: by the caller the rows have this many units.
                let one = _mm512_set1_epi32(unsafe { *a.add(row * a_row) } as i32);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = if BF16 {
                        // SAFETY: `self` shows that AVX-512 BF16 is there.
                        unsafe { add_pairs(*sum, one, column) }
                    } else {
                        _mm512_fmadd_ps(_mm512_castsi512_ps(one), _mm512_castsi512_ps(column), *sum)
                    };
                }
            }
            (a, b) = (a.wrapping_add(a_unit), b.wrapping_add(to.b_unit));
        }
        // Masked stores are much slower, even with a full mask.
        // SAFETY: by the caller the result has `R` rows of these columns.
        unsafe {
            if to.columns == V * LANES {
                write::<R, V, true>(&to, sums);
            } else {
                write::<R, V, false>(&to, sums);
            }
        }
    }
}

/// Transposes a square of sixteen registers by sixteen lanes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut by_two = rows;
    for i in (0..LANES).step_by(2) {
        by_two[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        by_two[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    // The 128-bit part p of register 4 g + j holds column 4 p + j of rows 4 g to 4 g + 3.
    let mut by_four = by_two;
    for g in (0..LANES).step_by(4) {
        by_four[g] = _mm512_unpacklo_epi64(by_two[g], by_two[g + 2]);
        by_four[g + 1] = _mm512_unpackhi_epi64(by_two[g], by_two[g + 2]);
        by_four[g + 2] = _mm512_unpacklo_epi64(by_two[g + 1], by_two[g + 3]);
        by_four[g + 3] = _mm512_unpackhi_epi64(by_two[g + 1], by_two[g + 3]);
    }
    // Then the 4 x 4 blocks of 128 bits are transposed.
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

/// # Safety
/// The result has `R` rows and `to.columns` columns: all of `V` strips if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn write<const R: usize, const V: usize, const WHOLE: bool>(to: &Tile, sums: [[__m512; V]; R]) {
    let scale = _mm512_set1_ps(to.scale);
    for (row, sums) in sums.into_iter().enumerate() {
        for (strip, sum) in sums.into_iter().enumerate() {
            // SAFETY: by the caller, the result has these rows and columns; other lanes are masked off.
            unsafe {
                write_lanes::<WHOLE>(
                    to,
                    to.c.add(row * to.stride + strip * LANES),
                    to.columns - strip * LANES,
                    sum,
                    scale,
                )
            }
        }
    }
}

/// `c = sum · scale`, or added to it, for up to sixteen columns.
///
/// # Safety
/// There are `columns` elements at `c`, at least sixteen if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn write_lanes<const WHOLE: bool>(
    to: &Tile,
    c: *mut f32,
    columns: usize,
    sum: __m512,
    scale: __m512,
) {
    let mask = if WHOLE { !0 } else { lanes(columns) };
    // SAFETY: by the caller; other lanes are masked off.
    unsafe {
        let before = match to.accumulate {
            true if WHOLE => _mm512_loadu_ps(c),
            true => _mm512_maskz_loadu_ps(mask, c),
            false => _mm512_setzero_ps(),
        };
        let all = _mm512_fmadd_ps(sum, scale, before);
        if WHOLE { _mm512_storeu_ps(c, all) } else { _mm512_mask_storeu_ps(c, mask, all) }
    }
}
