//! Small f32 products, as for one attention head, on one thread. A general product would spend more time on packing
//! than on sums.
//!
//! Each element is one chain of fused multiply-adds along `k`, so its bits do not depend on the instruction set.

use crate::device::gemm::Strides;
use crate::device::isa::{Isa, level};
use crate::simd::{LANES, wide};

/// The most rows of a tile: with strips of two registers, 12 registers of sums. More were not faster, since loads are
/// the limit.
const ROWS: usize = 6;

/// f32 elements of scratch for a product of `n` columns and sums over `k`.
pub(super) fn panel_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(LANES)
}

/// `c = scale · a b` with `c: [m, n]`, whose rows are `stride` apart, and `a: [m, k]`.
pub(super) fn gemm(
    (m, n, k): (usize, usize, usize),
    (c, stride): (&mut [f32], usize),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    scale: f32,
    panel: &mut [f32],
) {
    // AVX-512 has room for two registers of sums per row. With AVX2, one strip already takes two.
    let strips_of_two = level() == Isa::Avx512;
    let panel = panel[..panel_len(k, n)].as_chunks_mut().0;
    wide(
        #[inline(always)]
        || {
            let vectors = n.div_ceil(LANES);
            let pairs = if strips_of_two { vectors / 2 } else { 0 };
            let (two, one) = panel.split_at_mut(2 * pairs * k);
            for (pair, panel) in two.chunks_exact_mut(2 * k).enumerate() {
                strip::<2>((m, n, k), 2 * pair * LANES, (&mut *c, stride), a, b, scale, panel);
            }
            for (vector, panel) in one.chunks_exact_mut(k).enumerate() {
                strip::<1>((m, n, k), (2 * pairs + vector) * LANES, (&mut *c, stride), a, b, scale, panel);
            }
        },
    );
}

/// `W` registers of columns from `first` on.
#[inline(always)]
fn strip<const W: usize>(
    (m, n, k): (usize, usize, usize),
    first: usize,
    (c, stride): (&mut [f32], usize),
    (a, of_a): (&[f32], Strides),
    (b, of_b): (&[f32], Strides),
    scale: f32,
    panel: &mut [[f32; LANES]],
) {
    let columns = (W * LANES).min(n - first);
    pack(panel.as_flattened_mut(), W * LANES, k, &b[first * of_b.columns..], of_b, columns);
    let panel = panel.as_chunks::<W>().0;
    let tiles = m.div_ceil(ROWS);
    for tile in 0..tiles {
        // Tiles have about the same height, since a short one takes nearly as long as a tall one.
        let (start, end) = (tile * m / tiles, (tile + 1) * m / tiles);
        let (c, a) = (&mut c[start * stride + first..], &a[start * of_a.rows..]);
        match end - start {
            1 => rows_1(c, stride, a, of_a, panel, scale, columns),
            2 => rows_2(c, stride, a, of_a, panel, scale, columns),
            3 => rows_3(c, stride, a, of_a, panel, scale, columns),
            4 => rows_4(c, stride, a, of_a, panel, scale, columns),
            5 => rows_5(c, stride, a, of_a, panel, scale, columns),
            _ => rows_6(c, stride, a, of_a, panel, scale, columns),
        }
    }
}

/// `columns` columns of `b` as `[k, width]`, padded with zeros.
#[inline(always)]
fn pack(panel: &mut [f32], width: usize, k: usize, b: &[f32], of_b: Strides, columns: usize) {
    if of_b.columns == 1 {
        for (to, from) in panel.chunks_exact_mut(width).zip(b.chunks(of_b.rows)) {
            let (some, rest) = to.split_at_mut(columns);
            some.copy_from_slice(&from[..columns]);
            rest.fill(0.0);
        }
        return;
    }
    for (column, from) in b.chunks(of_b.columns).take(columns).enumerate() {
        for (to, from) in panel.chunks_exact_mut(width).zip(&from[..k]) {
            to[column] = *from;
        }
    }
    for to in panel.chunks_exact_mut(width) {
        to[columns..].fill(0.0);
    }
}

/// Tiles of a fixed number of rows. The rows are written out, because the compiler keeps the sums of a loop over rows
/// in memory.
macro_rules! rows {
    ($name:ident: $($row:ident)*) => {
        #[inline(always)]
        fn $name<const W: usize>(
            c: &mut [f32],
            stride: usize,
            a: &[f32],
            of_a: Strides,
            panel: &[[[f32; LANES]; W]],
            scale: f32,
            columns: usize,
        ) {
            let rows = [$(stringify!($row)),*].len();
            assert!(panel.is_empty() || a.len() > (rows - 1) * of_a.rows + (panel.len() - 1) * of_a.columns);
            $(let mut $row = [[0.0f32; LANES]; W];)*
            for (unit, b) in panel.iter().enumerate() {
                let b = *b;
                let mut at = unit * of_a.columns;
                $(
                    // SAFETY: the assertion above compared the largest index, that of the last row and unit, with the
                    // length.
                    add(&mut $row, unsafe { *a.get_unchecked(at) }, &b);
                    at += of_a.rows;
                )*
                let _ = at;
            }
            let mut c = c.chunks_mut(stride);
            $(
                if let Some(c) = c.next() {
                    store(c, $row, scale, columns);
                }
            )*
        }
    };
}

rows!(rows_1: first);
rows!(rows_2: first second);
rows!(rows_3: first second third);
rows!(rows_4: first second third fourth);
rows!(rows_5: first second third fourth fifth);
rows!(rows_6: first second third fourth fifth sixth);

#[inline(always)]
fn add<const W: usize>(sums: &mut [[f32; LANES]; W], a: f32, b: &[[f32; LANES]; W]) {
    for (sums, b) in sums.iter_mut().zip(b) {
        for lane in 0..LANES {
            sums[lane] = a.mul_add(b[lane], sums[lane]);
        }
    }
}

#[inline(always)]
fn store<const W: usize>(c: &mut [f32], mut sums: [[f32; LANES]; W], scale: f32, columns: usize) {
    let sums = sums.as_flattened_mut();
    for sum in &mut *sums {
        *sum *= scale;
    }
    let (whole, rest) = sums[..columns].as_chunks::<LANES>();
    let (c_whole, c_rest) = c[..columns].as_chunks_mut::<LANES>();
    for (c, sums) in c_whole.iter_mut().zip(whole) {
        *c = *sums;
    }
    // Too few to be worth a call to `memcpy`.
    for (c, sum) in c_rest.iter_mut().zip(rest) {
        *c = *sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    /// Each element is one chain from zero, scaled at the end, in every layout. The gaps between rows are left alone.
    #[test]
    fn every_element_is_one_chain() {
        let draw = |len: usize, index: u64| -> Vec<f32> {
            let mut random = Random::new(1, Purpose::Test, 0, index);
            (0..len).map(|_| random.normal()).collect()
        };
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (16, 16, 32), (19, 19, 32), (19, 32, 19), (99, 99, 64), (13, 50, 80)] {
            let (a, b, stride) = (draw(m * k, 0), draw(k * n, 1), n + 3);
            let layouts = [
                (Strides::row_major(k), Strides::row_major(k).transposed()),
                (Strides::row_major(k), Strides::row_major(n)),
                (Strides::row_major(m).transposed(), Strides::row_major(n)),
            ];
            for (of_a, of_b) in layouts {
                let (mut c, mut panel) = (vec![7.0; m * stride], vec![f32::NAN; panel_len(k, n)]);
                gemm((m, n, k), (&mut c, stride), (&a, of_a), (&b, of_b), 0.3, &mut panel);
                for (index, found) in c.into_iter().enumerate() {
                    let (row, column) = (index / stride, index % stride);
                    let term = |sum: f32, i: usize| {
                        a[row * of_a.rows + i * of_a.columns].mul_add(b[i * of_b.rows + column * of_b.columns], sum)
                    };
                    let expected = if column < n { 0.3 * (0..k).fold(0.0, term) } else { 7.0 };
                    assert_eq!(found.to_bits(), expected.to_bits(), "{m} x {n} x {k} at ({row}, {column})");
                }
            }
        }
    }
}
