//! Products in plain loops over sixteen lanes, compiled for AVX2 and for whatever the target has (NEON): the same bits as the
//! kernels that are written for AVX-512 and AMX, whose orders of sums they follow.

use std::ops::Range;

use half::bf16;

use super::pack::{Kernel, LANES, Operand, PAIRS_DEPTH, Tile, depth};

/// Numbers along `k` of an AMX tile.
const GROUP: usize = 32;

/// In which order products are added.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// One after the other.
    Plain,
    /// Operands rounded to bf16, of two neighbours the later one first.
    Pairs,
    /// Operands rounded to bf16, of 32 numbers first the even, then the odd ones, each from zero; then both sums.
    Tiles,
}

/// `ORDER` is an [`Order`].
#[derive(Clone, Copy)]
pub struct Lanes<const ORDER: u8>;

impl<const ORDER: u8> Lanes<ORDER> {
    const TILES: bool = ORDER == Order::Tiles as u8;
    const ROUNDED: bool = ORDER != Order::Plain as u8;

    /// Which number along `k` is the operand's `unit`th.
    #[inline(always)]
    fn number(unit: usize) -> usize {
        if ORDER == Order::Plain as u8 {
            unit
        } else if ORDER == Order::Pairs as u8 {
            unit ^ 1
        } else {
            unit - unit % GROUP + unit % (GROUP / 2) * 2 + unit % GROUP / (GROUP / 2)
        }
    }

    #[inline(always)]
    fn rounded(number: f32) -> f32 {
        if !Self::ROUNDED {
            return number;
        }
        let number = bf16::from_f32(number).to_f32();
        if number.is_subnormal() { 0.0 } else { number }
    }

    /// `count` rows or columns from `first` on as `[units, width]`.
    #[inline(always)]
    fn pack(to: &mut [f32], width: usize, of: Operand, first: usize, count: usize) {
        for (unit, to) in to.chunks_exact_mut(width).enumerate() {
            let number = Self::number(unit);
            if number >= of.k {
                to.fill(0.0);
                continue;
            }
            let from = &of.from[first * of.apart + number * of.along..];
            let (some, rest) = to.split_at_mut(count);
            rest.fill(0.0);
            if of.apart == 1 {
                for (to, from) in some.iter_mut().zip(&from[..count]) {
                    *to = Self::rounded(*from);
                }
            } else {
                for (to, from) in some.iter_mut().zip(from.iter().step_by(of.apart)) {
                    *to = Self::rounded(*from);
                }
            }
        }
    }
}

impl<const ORDER: u8> Kernel for Lanes<ORDER> {
    const PER: usize = 1;
    // Twelve of AVX2's sixteen registers are sums.
    const ROWS: usize = 6;
    const STRIPS: usize = 1;
    const BLOCK: usize = 120;
    const UNITS: usize = 512;

    fn units(k: usize) -> usize {
        match Self::ROUNDED {
            false => k,
            true if Self::TILES => k.next_multiple_of(GROUP),
            true => k.next_multiple_of(2),
        }
    }

    fn depth(units: usize) -> usize {
        match Self::ROUNDED {
            false => depth(units),
            true if Self::TILES => 2 * depth(units / 2),
            true => 2 * PAIRS_DEPTH,
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

    unsafe fn pack_columns(self, to: &mut [u32], b: Operand) {
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
            // SAFETY: just asked for.
            return unsafe { with_avx2::<ORDER>(tile) };
        }
        unsafe { of_height::<ORDER>(tile) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<const ORDER: u8>(tile: Tile) {
    unsafe { of_height::<ORDER>(tile) }
}

#[inline(always)]
unsafe fn of_height<const ORDER: u8>(tile: Tile) {
    match tile.rows {
        1 => unsafe { multiply::<ORDER, 1>(tile) },
        2 => unsafe { multiply::<ORDER, 2>(tile) },
        3 => unsafe { multiply::<ORDER, 3>(tile) },
        4 => unsafe { multiply::<ORDER, 4>(tile) },
        5 => unsafe { multiply::<ORDER, 5>(tile) },
        _ => unsafe { multiply::<ORDER, 6>(tile) },
    }
}

#[inline(always)]
unsafe fn multiply<const ORDER: u8, const R: usize>(to: Tile) {
    // SAFETY: by the caller the panel and the strip have these units.
    let (a, b): (&[[f32; R]], &[[f32; LANES]]) = unsafe {
        (std::slice::from_raw_parts(to.a.cast(), to.units), std::slice::from_raw_parts(to.b.cast(), to.units))
    };
    let mut sums = [[0.0; LANES]; R];
    if Lanes::<ORDER>::TILES {
        for (a, b) in a.chunks_exact(GROUP).zip(b.chunks_exact(GROUP)) {
            let (mut even, mut odd) = ([[0.0; LANES]; R], [[0.0; LANES]; R]);
            chain(&mut even, &a[..GROUP / 2], &b[..GROUP / 2]);
            chain(&mut odd, &a[GROUP / 2..], &b[GROUP / 2..]);
            for (sums, (even, odd)) in sums.iter_mut().zip(even.iter().zip(&odd)) {
                for (sum, (even, odd)) in sums.iter_mut().zip(even.iter().zip(odd)) {
                    *sum += even + odd;
                }
            }
        }
    } else {
        chain(&mut sums, a, b);
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: by the caller the result has these rows and columns.
        let c = unsafe { std::slice::from_raw_parts_mut(to.c.add(row * to.stride), to.columns) };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = sum.mul_add(to.scale, if to.accumulate { *c } else { 0.0 });
        }
    }
}

#[inline(always)]
fn chain<const R: usize>(sums: &mut [[f32; LANES]; R], a: &[[f32; R]], b: &[[f32; LANES]]) {
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
    }
}
