//! Small f32 products, as for one attention head, on one thread. A general product would spend more time on packing
//! than on sums.
//!
//! Each element is one chain of fused multiply-adds along `k`, so its bits do not depend on the instruction set.

use crate::device::gemm::{Strides, pack_columns};
use crate::device::isa::{Isa, level};
use crate::simd::{LANES, wide};

/// The most rows of a tile: with strips of two registers, 12 registers of sums. More were not faster.
const ROWS: usize = 6;

/// Distances in `b`, as read: from one row to the next, and from one register of columns to the next.
#[derive(Clone, Copy)]
struct Steps {
    rows: usize,
    vectors: usize,
}

/// f32 elements of scratch for a product of `n` columns and sums over `k`.
pub(super) fn panel_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(LANES)
}

/// `c = scale · a b` with `c: [m, n]` and `a: [m, k]`. `c` comes with the distance between its rows, and with the
/// number of columns that may be written: those from `n` on, up to a whole register, have no meaning afterwards.
pub(super) fn gemm(
    (m, n, k): (usize, usize, usize),
    (c, stride, room): (&mut [f32], usize, usize),
    a: (&[f32], Strides),
    (b, of_b): (&[f32], Strides),
    scale: f32,
    panel: &mut [f32],
) {
    // Rows of whole registers are read where they are.
    let (b, steps) = match of_b.columns == 1 && n.is_multiple_of(LANES) {
        true => (b, Steps { rows: of_b.rows, vectors: LANES }),
        false => {
            let panel = &mut panel[..panel_len(k, n)];
            pack_columns(panel, b, of_b, (k, n));
            (&*panel, Steps { rows: LANES, vectors: k * LANES })
        }
    };
    // AVX-512 has room for two registers of sums per row. With AVX2, one strip already takes two.
    let strips_of_two = level() == Isa::Avx512;
    wide(
        #[inline(always)]
        || {
            let vectors = n.div_ceil(LANES);
            let pairs = if strips_of_two { vectors / 2 } else { 0 };
            for pair in 0..pairs {
                strip::<2>((m, room, k), 2 * pair, (&mut *c, stride), a, (b, steps), scale);
            }
            for vector in 2 * pairs..vectors {
                strip::<1>((m, room, k), vector, (&mut *c, stride), a, (b, steps), scale);
            }
        },
    );
}

/// `W` registers of columns, from register `vector` on.
#[inline(always)]
fn strip<const W: usize>(
    (m, room, k): (usize, usize, usize),
    vector: usize,
    (c, stride): (&mut [f32], usize),
    (a, of_a): (&[f32], Strides),
    (b, steps): (&[f32], Steps),
    scale: f32,
) {
    let first = vector * LANES;
    let columns = (W * LANES).min(room - first);
    let b = (&b[vector * steps.vectors..], steps, k);
    let tiles = m.div_ceil(ROWS);
    for tile in 0..tiles {
        // Tiles have about the same height, since a short one takes nearly as long as a tall one.
        let (start, end) = (tile * m / tiles, (tile + 1) * m / tiles);
        let (c, a) = (&mut c[start * stride + first..], &a[start * of_a.rows..]);
        match end - start {
            1 => rows_1::<W>(c, stride, (a, of_a), b, scale, columns),
            2 => rows_2::<W>(c, stride, (a, of_a), b, scale, columns),
            3 => rows_3::<W>(c, stride, (a, of_a), b, scale, columns),
            4 => rows_4::<W>(c, stride, (a, of_a), b, scale, columns),
            5 => rows_5::<W>(c, stride, (a, of_a), b, scale, columns),
            _ => rows_6::<W>(c, stride, (a, of_a), b, scale, columns),
        }
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
            (a, of_a): (&[f32], Strides),
            (b, steps, k): (&[f32], Steps, usize),
            scale: f32,
            columns: usize,
        ) {
            let rows = [$(stringify!($row)),*].len();
            assert!(a.len() > (rows - 1) * of_a.rows + (k - 1) * of_a.columns);
            assert!(b.len() >= (k - 1) * steps.rows + (W - 1) * steps.vectors + LANES);
            $(let mut $row = [[0.0f32; LANES]; W];)*
            for unit in 0..k {
                // SAFETY: the second assertion compared the end of the last register with the length.
                let b: [[f32; LANES]; W] = std::array::from_fn(|vector| unsafe {
                    *b.as_ptr().add(unit * steps.rows + vector * steps.vectors).cast()
                });
                let mut at = unit * of_a.columns;
                $(
                    // SAFETY: the first assertion compared the largest index, that of the last row and unit, with the
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
fn store<const W: usize>(c: &mut [f32], sums: [[f32; LANES]; W], scale: f32, columns: usize) {
    for (vector, mut sums) in sums.into_iter().enumerate() {
        for sum in &mut sums {
            *sum *= scale;
        }
        let c = &mut c[vector * LANES..];
        match c.first_chunk_mut() {
            Some(c) if columns >= (vector + 1) * LANES => *c = sums,
            _ => store_part(&mut c[..columns - vector * LANES], &sums),
        }
    }
}

/// A function of its own, since the compiler would also call `memcpy` for whole registers.
#[inline(never)]
fn store_part(c: &mut [f32], sums: &[f32; LANES]) {
    c.copy_from_slice(&sums[..c.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    /// Each element is one chain from zero, scaled at the end, in every layout. The gaps between rows are left alone,
    /// or, of finite numbers, filled with zeros where there is room for a whole register.
    #[test]
    fn every_element_is_one_chain() {
        let draw = |len: usize, index: u64| -> Vec<f32> {
            let mut random = Random::new(1, Purpose::Test, 0, index);
            (0..len).map(|_| random.normal()).collect()
        };
        let sizes: [(usize, usize, usize); 7] =
            [(1, 1, 1), (5, 7, 3), (16, 16, 32), (19, 19, 32), (19, 32, 19), (99, 99, 64), (13, 50, 80)];
        for ((m, n, k), whole) in sizes.into_iter().flat_map(|sizes| [(sizes, false), (sizes, true)]) {
            let room = if whole { n.next_multiple_of(LANES) } else { n };
            let (a, b, stride) = (draw(m * k, 0), draw(k * n, 1), room + 3);
            let layouts = [
                (Strides::row_major(k), Strides::row_major(k).transposed()),
                (Strides::row_major(k), Strides::row_major(n)),
                (Strides::row_major(m).transposed(), Strides::row_major(n)),
            ];
            for (of_a, of_b) in layouts {
                let (mut c, mut panel) = (vec![7.0; m * stride], vec![f32::NAN; panel_len(k, n)]);
                gemm((m, n, k), (&mut c, stride, room), (&a, of_a), (&b, of_b), 0.3, &mut panel);
                for (index, found) in c.into_iter().enumerate() {
                    let (row, column) = (index / stride, index % stride);
                    let term = |sum: f32, i: usize| {
                        a[row * of_a.rows + i * of_a.columns].mul_add(b[i * of_b.rows + column * of_b.columns], sum)
                    };
                    let expected = match column {
                        _ if column < n => 0.3 * (0..k).fold(0.0, term),
                        _ if column < room => 0.0,
                        _ => 7.0,
                    };
                    assert_eq!(found.to_bits(), expected.to_bits(), "{m} x {n} x {k} at ({row}, {column})");
                }
            }
        }
    }
}
