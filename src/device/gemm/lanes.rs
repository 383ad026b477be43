//! Products as plain loops over sixteen lanes, compiled for AVX2 and for the target's baseline (SSE2, NEON). They add
//! in the order of the kernels for AVX-512 and AMX, so results have the same bits.

use std::ops::Range;

use half::bf16;

use super::pack::{Kernel, LANES, Operand, PAIRS_DEPTH, Tile, depth};

/// Products of f32, one after the other along `k`.
pub(super) type Plain = Lanes<1>;
/// Products of bf16 in the order of `vdpbf16ps`: of two neighbours along `k`, the later one first.
pub(super) type Pairs = Lanes<2>;
/// Products of bf16 in the order of `tdpbf16ps`: of 32 neighbours along `k`, the even ones and the odd ones are each
/// summed from zero, then both sums are added.
pub(super) type Tiles = Lanes<32>;

/// Sums in which each group of `GROUP` neighbours along `k` is reordered.
#[derive(Clone, Copy)]
pub(super) struct Lanes<const GROUP: usize>;

impl<const GROUP: usize> Lanes<GROUP> {
    /// The number along `k` that is packed as unit `unit`.
    #[inline(always)]
    fn number(unit: usize) -> usize {
        match GROUP {
            1 => unit,
            2 => unit ^ 1,
            _ => unit - unit % GROUP + unit % (GROUP / 2) * 2 + unit % GROUP / (GROUP / 2),
        }
    }

    #[inline(always)]
    fn rounded(number: f32) -> f32 {
        if GROUP == 1 {
            return number;
        }
        let number = bf16::from_f32(number).to_f32();
        if number.is_subnormal() { 0.0 } else { number }
    }

    /// `count` rows or columns from `first` on as `[units, width]`.
    #[inline(always)]
    fn pack(to: &mut [f32], width: usize, of: Operand, first: usize, count: usize) {
        if of.along == 1 {
            // Reading along `k` and writing across is faster than the reverse.
            for column in 0..count {
                let from = &of.from[(first + column) * of.apart..][..of.k];
                for (unit, to) in to.chunks_exact_mut(width).enumerate() {
                    to[column] = from.get(Self::number(unit)).map_or(0.0, |from| Self::rounded(*from));
                }
            }
            for to in to.chunks_exact_mut(width) {
                to[count..].fill(0.0);
            }
            return;
        }
        for (unit, to) in to.chunks_exact_mut(width).enumerate() {
            let number = Self::number(unit);
            let count = if number < of.k { count } else { 0 };
            let (some, rest) = to.split_at_mut(count);
            rest.fill(0.0);
            for (to, from) in some.iter_mut().zip(&of.from[first + number.min(of.k - 1) * of.along..]) {
                *to = Self::rounded(*from);
            }
        }
    }
}

impl<const GROUP: usize> Kernel for Lanes<GROUP> {
    const PER: usize = 1;
    // Twelve of AVX2's sixteen registers are sums.
    const ROWS: usize = 6;
    const STRIPS: usize = 1;
    const BLOCK: usize = 120;
    const UNITS: usize = 512;
    // Packing stores rows one number at a time, so even long rows are faster in place. Operands with more uses are up
    // to a sixth slower in place (AVX2 on a Zen 4). Other groups are always packed, since packing rounds them.
    const ROWS_IN_PLACE: usize = if GROUP == 1 { 4096 } else { 0 };
    const USES_IN_PLACE: usize = if GROUP == 1 { 512 } else { 0 };

    fn units(k: usize) -> usize {
        k.next_multiple_of(GROUP)
    }

    // A unit of the instructions' own kernels is a pair.
    fn depth(units: usize) -> usize {
        match GROUP {
            1 => depth(units),
            2 => 2 * PAIRS_DEPTH,
            _ => 2 * depth(units / 2),
        }
    }

    unsafe fn pack_rows(self, to: *mut u32, a: Operand, tiles: Range<usize>) {
        let units = Self::units(a.k);
        for tile in tiles {
            let (first, next) = (Self::first_row(a.count, tile), Self::first_row(a.count, tile + 1));
            // SAFETY: by the caller there is room for all panels; this one's part belongs to this call.
            let panel = unsafe { std::slice::from_raw_parts_mut(to.add(first * units).cast(), (next - first) * units) };
            Self::pack(panel, next - first, a, first, next - first);
        }
    }

    fn pack_columns(self, to: &mut [u32], b: Operand) {
        let strips = b.count.div_ceil(LANES);
        let each = to.len() / strips;
        for (strip, to) in to.chunks_exact_mut(each).enumerate() {
            let first = strip * LANES;
            Self::pack(bytemuck::cast_slice_mut(to), LANES, b, first, LANES.min(b.count - first));
        }
    }

    unsafe fn tile(self, tile: Tile) {
        #[cfg(target_arch = "x86_64")]
        if super::avx2() {
            // SAFETY: `avx2` says that the processor has the instructions; the rest by the caller.
            return unsafe { with_avx2::<GROUP>(tile) };
        }
        // SAFETY: by the caller.
        unsafe { of_height::<GROUP>(tile) }
    }
}

/// # Safety
/// As of [`Kernel::tile`], and the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<const GROUP: usize>(tile: Tile) {
    // SAFETY: by the caller.
    unsafe { of_height::<GROUP>(tile) }
}

/// # Safety
/// As of [`Kernel::tile`].
#[inline(always)]
unsafe fn of_height<const GROUP: usize>(tile: Tile) {
    // SAFETY: by the caller.
    unsafe {
        match tile.rows {
            1 => multiply::<GROUP, 1>(tile),
            2 => multiply::<GROUP, 2>(tile),
            3 => multiply::<GROUP, 3>(tile),
            4 => multiply::<GROUP, 4>(tile),
            5 => multiply::<GROUP, 5>(tile),
            _ => multiply::<GROUP, 6>(tile),
        }
    }
}

/// # Safety
/// As of [`Kernel::tile`], for a tile of `R` rows.
#[inline(always)]
unsafe fn multiply<const GROUP: usize, const R: usize>(to: Tile) {
    let mut sums = [[0.0; LANES]; R];
    if GROUP > 2 {
        for group in (0..to.units).step_by(GROUP) {
            let (mut even, mut odd) = ([[0.0; LANES]; R], [[0.0; LANES]; R]);
            // SAFETY: by the caller; there are whole groups.
            unsafe {
                chain(&mut even, &to, group..group + GROUP / 2);
                chain(&mut odd, &to, group + GROUP / 2..group + GROUP);
            }
            for (sums, (even, odd)) in sums.iter_mut().zip(even.iter().zip(&odd)) {
                for (sum, (even, odd)) in sums.iter_mut().zip(even.iter().zip(odd)) {
                    *sum += even + odd;
                }
            }
        }
    } else {
        // SAFETY: by the caller.
        unsafe { chain(&mut sums, &to, 0..to.units) };
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: by the caller the result has these rows and columns.
        let c = unsafe { std::slice::from_raw_parts_mut(to.c.add(row * to.stride), to.columns) };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = sum.mul_add(to.scale, if to.accumulate { *c } else { 0.0 });
        }
    }
}

/// Adds the products of `units` to `sums`.
///
/// # Safety
/// The operands have these units of `R` rows and [`LANES`] columns.
#[inline(always)]
unsafe fn chain<const R: usize>(sums: &mut [[f32; LANES]; R], of: &Tile, units: Range<usize>) {
    let (a, b) = (of.a.cast::<f32>(), of.b.cast::<f32>());
    // The compiler keeps a copy in registers, but not what may be elsewhere in memory.
    let mut all = *sums;
    for unit in units {
        // SAFETY: by the caller.
        let b: [f32; LANES] = unsafe { *b.add(unit * of.b_unit).cast() };
        // SAFETY: by the caller.
        let a: [f32; R] = std::array::from_fn(|row| unsafe { *a.add(row * of.a_row + unit * of.a_unit) });
        for (sums, a) in all.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(b, *sum);
            }
        }
    }
    *sums = all;
}
