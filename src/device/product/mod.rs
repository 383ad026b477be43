//! Matrix products on the CPU: our own where the processor has AVX-512 BF16, otherwise the `gemm` crate's.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod packed;

use gemm::Parallelism;

/// Element `(i, j)` lies at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub struct Strides {
    pub rows: usize,
    pub columns: usize,
}

impl Strides {
    pub fn row_major(columns: usize) -> Self {
        Self { rows: columns, columns: 1 }
    }

    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows }
    }

    fn fits(self, rows: usize, columns: usize, len: usize) -> bool {
        let inside = rows == 0 || columns == 0 || (rows - 1) * self.rows + (columns - 1) * self.columns < len;
        inside && (self.rows == 1 || self.columns == 1)
    }
}

/// What operands are rounded to before they are multiplied; sums are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    #[default]
    F32,
    /// Where the processor has AVX-512 BF16 ([`Operands::bf16`]).
    Bf16,
}

impl Operands {
    /// bf16, if this processor multiplies such numbers.
    pub fn bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return avx512::available().then_some(Self::Bf16);
        #[cfg(not(target_arch = "x86_64"))]
        return None;
    }

    /// Numbers in 32 bits.
    fn per_unit(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// How a product is combined and who computes it.
#[derive(Clone, Copy)]
pub struct How {
    pub operands: Operands,
    pub scale: f32,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
    /// On all threads of the calling rayon pool, or on the calling thread.
    pub parallel: bool,
}

/// `c = scale · a b`, or `c += scale · a b`, with `c: [m, n]` and `a: [m, k]`.
///
/// Panics where an operand does not fit the sizes, `c` does not lie row by row, or `a` or `b` neither row by row nor column by
/// column. The sum over `k` is never split between threads, so the bits of the result do not depend on their number.
pub fn product(
    (m, n, k): (usize, usize, usize),
    (c, c_strides): (&mut [f32], Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    how: How,
) {
    let fits = c_strides.fits(m, n, c.len()) && a_strides.fits(m, k, a.len()) && b_strides.fits(k, n, b.len());
    assert!(fits && c_strides.columns == 1, "operands do not fit {m} x {n} x {k}");
    #[cfg(target_arch = "x86_64")]
    if avx512::available() && m * n * k > 0 {
        return packed::product((m, n, k), (c, c_strides), (a, a_strides), (b, b_strides), how);
    }
    assert!(how.operands == Operands::F32 || m * n * k == 0, "only an AVX-512 processor multiplies bf16");
    // SAFETY: by the check above every element that these sizes and strides reach lies in its slice, and `c`, which is
    // borrowed exclusively, overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            c_strides.columns as isize,
            c_strides.rows as isize,
            how.accumulate,
            a.as_ptr(),
            a_strides.columns as isize,
            a_strides.rows as isize,
            b.as_ptr(),
            b_strides.columns as isize,
            b_strides.rows as isize,
            1.0,
            how.scale,
            false,
            false,
            false,
            if how.parallel { Parallelism::Rayon(0) } else { Parallelism::None },
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::random::{Purpose, Random};

    fn draw(len: usize, index: u64) -> Vec<f32> {
        let mut random = Random::new(1, Purpose::Test, 0, index);
        (0..len).map(|_| random.normal()).collect()
    }

    /// Against f64 sums of the rounded operands: what remains is the f32 sums' own error. Odd sizes leave partial units,
    /// strips, tiles and pieces along `k`; the layouts are those of the forward pass and of both gradients.
    fn check(operands: Operands) {
        let at = |operand: &[f32], strides: Strides, row: usize, column: usize| {
            let number = operand[row * strides.rows + column * strides.columns];
            f64::from(if operands == Operands::Bf16 { bf16::from_f32(number).to_f32() } else { number })
        };
        for (m, n, k) in [(1, 1, 1), (7, 5, 3), (8, 48, 32), (17, 33, 31), (100, 200, 64), (9, 65, 700), (300, 16, 322)]
        {
            let (a, b, before) = (draw(m * k, 0), draw(k * n, 1), draw(m * n, 2));
            let layouts = [
                (Strides::row_major(k), Strides::row_major(k).transposed()),
                (Strides::row_major(k), Strides::row_major(n)),
                (Strides::row_major(m).transposed(), Strides::row_major(n)),
            ];
            for ((a_strides, b_strides), accumulate) in layouts.into_iter().zip([false, true, true]) {
                let run = |parallel| {
                    let (mut c, how) = (before.clone(), How { operands, scale: 0.5, accumulate, parallel });
                    product((m, n, k), (&mut c, Strides::row_major(n)), (&a, a_strides), (&b, b_strides), how);
                    c
                };
                let c = run(false);
                assert_eq!(c, run(true), "threads change bits at {m} x {n} x {k}");
                for (index, found) in c.into_iter().enumerate() {
                    let (row, column) = (index / n, index % n);
                    let terms = || (0..k).map(|i| at(&a, a_strides, row, i) * at(&b, b_strides, i, column));
                    let start = if accumulate { f64::from(before[index]) } else { 0.0 };
                    let expected = start + 0.5 * terms().sum::<f64>();
                    let magnitude = start.abs() + 0.5 * terms().map(f64::abs).sum::<f64>();
                    let error = (f64::from(found) - expected).abs() / magnitude;
                    assert!(error < 1e-6, "{m} x {n} x {k}, element ({row}, {column}): {found} for {expected}");
                }
            }
        }
    }

    #[test]
    fn products_are_exact_but_for_the_sums() {
        check(Operands::F32);
    }

    #[test]
    fn bf16_products_are_those_of_rounded_operands() {
        Operands::bf16().map_or_else(|| println!("skipped: this processor has no AVX-512 BF16"), check);
    }
}
