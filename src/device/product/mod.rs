//! Matrix products on the CPU: our own on processors with AVX-512 BF16 and with operands rounded to bf16, else the `gemm` crate's.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod packed;
mod portable;

use gemm::Parallelism;
use rayon::prelude::*;

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
    /// To the nearest even. The same bits on every processor, fast where it [`multiplies_bf16`].
    Bf16,
}

/// Whether this processor has AVX-512 BF16.
pub fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return avx512::available();
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// What our own products sum along `k`, in numbers or (in bf16) in pairs of them, before they add it to the result. In bf16, where the
/// bits depend on it, three strips of so many lie in the first-level cache; in f32 a result that is met seldom counts for more.
const fn depth(bf16: bool) -> usize {
    if bf16 { 160 } else { 480 }
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

/// `f(row, column, c, beside)`: what is done to a product, a piece of a row at a time, while it is in the caches still.
pub type Finish<'a> = dyn Fn(usize, usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// `c = scale · a b`, or `c += scale · a b`, with `c: [m, n]` and `a: [m, k]`.
///
/// Panics where an operand does not fit the sizes, `c` does not lie row by row, or `a` or `b` neither row by row nor column by
/// column. The sum over `k` is never split between threads, so the bits of the result do not depend on their number.
pub fn product(
    sizes: (usize, usize, usize),
    (c, c_strides): (&mut [f32], Strides),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    how: How,
) {
    assert!(c_strides.columns == 1, "the result's columns must lie side by side");
    product_then(Product { sizes, c: (c, c_strides.rows), a, b, how, beside: &mut [], finish: None });
}

/// The operands of [`product_then`].
pub struct Product<'a> {
    /// Rows and columns of the result, and how many numbers each is a sum over.
    pub sizes: (usize, usize, usize),
    /// The result, and how far apart its rows are.
    pub c: (&'a mut [f32], usize),
    pub a: (&'a [f32], Strides),
    pub b: (&'a [f32], Strides),
    pub how: How,
    /// As the result, or empty.
    pub beside: &'a mut [f32],
    pub finish: Option<&'a Finish<'a>>,
}

/// As [`product`]; then `finish` is called with each piece of `c` and that of `beside`.
pub fn product_then(operands: Product<'_>) {
    let Product { sizes: (m, n, k), c: (ref c, stride), a: (a, a_strides), b: (b, b_strides), how, .. } = operands;
    let fits = a_strides.fits(m, k, a.len()) && b_strides.fits(k, n, b.len());
    assert!(fits && Strides::row_major(stride).fits(m, n, c.len()), "operands do not fit {m} x {n} x {k}");
    if m * n * k > 0 {
        #[cfg(target_arch = "x86_64")]
        if multiplies_bf16() {
            return packed::product(operands);
        }
        if how.operands == Operands::Bf16 {
            return portable::product(operands);
        }
    }
    let Product { c: (c, _), beside, finish, .. } = operands;
    // SAFETY: by the check above every element that these sizes and strides reach lies in its slice, and `c`, which is
    // borrowed exclusively, overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride as isize,
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
    if let Some(finish) = finish {
        finish_rows(c, n, stride, beside, finish);
    }
}

/// `finish` for whole rows, on all threads.
fn finish_rows(c: &mut [f32], n: usize, stride: usize, beside: &mut [f32], finish: &Finish) {
    let rows = c.par_chunks_mut(stride).enumerate();
    match beside.is_empty() {
        true => rows.for_each(|(row, c)| finish(row, 0, &mut c[..n], &mut [])),
        false => rows
            .zip(beside.par_chunks_mut(stride))
            .for_each(|((row, c), beside)| finish(row, 0, &mut c[..n], &mut beside[..n])),
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

    /// Every element is finished once, after the whole product, in its place; what lies between rows stays.
    #[test]
    fn products_are_finished_piece_by_piece() {
        let (m, n, k, stride) = (300, 210, 20, 213);
        let (a, b) = ((draw(m * k, 0), Strides::row_major(k)), (draw(k * n, 1), Strides::row_major(n)));
        let how = |parallel| How { operands: Operands::F32, scale: 1.0, accumulate: false, parallel };
        let mut plain = vec![7.0; m * stride];
        product((m, n, k), (&mut plain, Strides::row_major(stride)), (&a.0, a.1), (&b.0, b.1), how(false));
        for parallel in [false, true] {
            let (mut c, mut beside) = (vec![7.0; m * stride], vec![0.0; m * stride]);
            let finish = |row: usize, column: usize, c: &mut [f32], beside: &mut [f32]| {
                for (index, (c, beside)) in c.iter_mut().zip(beside).enumerate() {
                    *beside += *c + (row * n + column + index) as f32;
                    *c = -*c;
                }
            };
            product_then(Product {
                sizes: (m, n, k),
                c: (&mut c, stride),
                a: (&a.0, a.1),
                b: (&b.0, b.1),
                how: how(parallel),
                beside: &mut beside,
                finish: Some(&finish),
            });
            for (index, plain) in plain.iter().enumerate() {
                let (row, column) = (index / stride, index % stride);
                let expected = if column < n { (-plain, plain + (row * n + column) as f32) } else { (7.0, 0.0) };
                assert_eq!((c[index], beside[index]), expected, "({row}, {column})");
            }
        }
    }

    #[test]
    fn products_are_exact_but_for_the_sums() {
        check(Operands::F32);
    }

    #[test]
    fn bf16_products_are_those_of_rounded_operands() {
        check(Operands::Bf16);
    }

    /// So a run in bf16 is the same on every processor.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn bf16_products_need_no_instructions_of_their_own() {
        if !multiplies_bf16() {
            return println!("skipped: this processor has no AVX-512 BF16 to compare with");
        }
        for (m, n, k) in [(1, 1, 1), (7, 53, 31), (40, 30, 700)] {
            let (mut a, b) = ((draw(m * k, 0), Strides::row_major(k)), (draw(k * n, 1), Strides::row_major(n)));
            a.0[0] = 1e-39;
            for (accumulate, parallel) in [(false, true), (true, false)] {
                let how = How { operands: Operands::Bf16, scale: 0.3, accumulate, parallel };
                let results = [packed::product, portable::product].map(|product| {
                    let mut c = draw(m * n, 2);
                    let (c_of, a, b) = ((&mut c[..], n), (&a.0[..], a.1), (&b.0[..], b.1));
                    product(Product { sizes: (m, n, k), c: c_of, a, b, how, beside: &mut [], finish: None });
                    c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                });
                assert!(results[0] == results[1], "{m} x {n} x {k}");
            }
        }
    }
}
