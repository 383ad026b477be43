//! A safe face for the `gemm` crate's matrix product.

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
        rows == 0 || columns == 0 || (rows - 1) * self.rows + (columns - 1) * self.columns < len
    }
}

/// How a product is combined and who computes it.
#[derive(Clone, Copy)]
pub struct How {
    pub scale: f32,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
    /// On all threads of the calling rayon pool, or on the calling thread.
    pub parallel: bool,
}

/// `c = scale · a b`, or `c += scale · a b`, with `c: [m, n]` and `a: [m, k]`.
///
/// Panics where an operand does not fit the sizes. The sum over `k` is never split between threads, so the bits of the
/// result do not depend on their number.
pub fn product(
    (m, n, k): (usize, usize, usize),
    (c, c_strides): (&mut [f32], Strides),
    (a, a_strides): (&[f32], Strides),
    (b, b_strides): (&[f32], Strides),
    how: How,
) {
    let fits = c_strides.fits(m, n, c.len()) && a_strides.fits(m, k, a.len()) && b_strides.fits(k, n, b.len());
    assert!(fits, "operands do not fit {m} x {n} x {k}");
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
