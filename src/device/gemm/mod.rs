//! Matrix products on the CPU: packed, blocked and multiplied by the widest instructions that the processor has.
//!
//! The bits of a result depend on sizes and operands alone, not on the instruction set or the number of threads. Each
//! element is a sum of pieces along `k`, added in order. In f32 a piece is a chain of fused multiply-adds from zero;
//! `lanes.rs` defines the two orders for bf16.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocked;
mod lanes;
mod pack;
#[cfg(test)]
mod tests;

use self::pack::{Kernel, LANES, Operand};
#[cfg(target_arch = "x86_64")]
use super::isa::{Isa, level};

/// Distances in a matrix: element `(i, j)` is at `i * rows + j * columns`.
#[derive(Clone, Copy)]
pub struct Strides {
    /// From one row to the next.
    pub rows: usize,
    /// From one column to the next.
    pub columns: usize,
}

impl Strides {
    /// Strides of dense rows of `columns` elements.
    pub fn row_major(columns: usize) -> Self {
        Self { rows: columns, columns: 1 }
    }

    /// Strides of the transpose.
    pub fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows }
    }

    fn fits(self, rows: usize, columns: usize, len: usize) -> bool {
        let last = || {
            let row = rows.checked_sub(1)?.checked_mul(self.rows)?;
            row.checked_add(columns.checked_sub(1)?.checked_mul(self.columns)?)
        };
        let inside = rows == 0 || columns == 0 || last().is_some_and(|last| last < len);
        inside && (self.rows == 1 || self.columns == 1)
    }
}

/// What operands are rounded to before they are multiplied; sums are in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Operands {
    #[default]
    /// Not at all.
    F32,
    /// To the nearest bf16, summed in pairs as AVX-512 BF16 does.
    Bf16,
    /// To the nearest bf16, summed in tiles as AMX does.
    Bf16Tiles,
}

impl std::fmt::Display for Operands {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16 summed in pairs (AVX-512 BF16)",
            Self::Bf16Tiles => "bf16 summed in tiles (AMX)",
        })
    }
}

impl Operands {
    /// The bf16 that this processor has instructions for, if any.
    pub fn fast_bf16() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return match (amx::is_there(), avx512::bf16_is_there()) {
            (true, _) => Some(Self::Bf16Tiles),
            (_, true) => Some(Self::Bf16),
            _ => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        None
    }
}

/// Whether this process uses AVX2.
#[cfg(target_arch = "x86_64")]
fn avx2() -> bool {
    level() >= Isa::Avx2
}

/// Options of a product.
#[derive(Clone, Copy)]
pub struct GemmOptions {
    /// What the operands are rounded to.
    pub operands: Operands,
    /// Factor of the product.
    pub scale: f32,
    /// Add to the result instead of overwriting it.
    pub accumulate: bool,
    /// Run on all threads of the calling rayon pool, instead of the calling thread alone.
    pub parallel: bool,
}

/// `f(row, column, c, aux)`, applied to the product a piece of a row at a time, while the piece is in the caches; `row`
/// and `column` are those of its first element.
pub type Epilogue<'a> = dyn Fn(usize, usize, &mut [f32], &mut [f32]) + Sync + 'a;

/// `c = scale · a b`, or `c += scale · a b`, with `c: [m, n]` and `a: [m, k]`.
///
/// The sum over `k` is never split between threads, so the bits of the result do not depend on their number.
///
/// # Panics
/// If an operand does not fit the sizes, `c` is not row-major or its rows overlap, or `a` or `b` is neither row-major
/// nor column-major.
pub fn gemm(
    sizes: (usize, usize, usize),
    (c, c_strides): (&mut [f32], Strides),
    a: (&[f32], Strides),
    b: (&[f32], Strides),
    options: GemmOptions,
) {
    assert!(c_strides.columns == 1, "the result must be row-major");
    Gemm { sizes, c: (c, c_strides.rows), a, b, options, aux: &mut [], epilogue: None }.run();
}

/// A matrix product, run by [`Gemm::run`].
pub struct Gemm<'a> {
    /// `(m, n, k)`: `c: [m, n]`, `a: [m, k]`, `b: [k, n]`.
    pub sizes: (usize, usize, usize),
    /// The result, and the distance between its rows.
    pub c: (&'a mut [f32], usize),
    /// The left operand.
    pub a: (&'a [f32], Strides),
    /// The right operand.
    pub b: (&'a [f32], Strides),
    /// Rounding, scale, accumulation, threads.
    pub options: GemmOptions,
    /// A second matrix for the epilogue, laid out like the result, or empty.
    pub aux: &'a mut [f32],
    /// Applied to the finished product.
    pub epilogue: Option<&'a Epilogue<'a>>,
}

impl Gemm<'_> {
    /// As [`gemm()`]; then calls the epilogue with each piece of `c` and the same piece of `aux`.
    ///
    /// # Panics
    /// As [`gemm()`]; also if `aux` does not fit the sizes.
    pub fn run(self) {
        let Self { sizes: (m, n, k), c: (ref c, stride), a: (a, a_strides), b: (b, b_strides), ref aux, .. } = self;
        let fits = a_strides.fits(m, k, a.len()) && b_strides.fits(k, n, b.len());
        // Threads write `c` and `aux` through pointers: all elements have to be there, and rows must not overlap.
        let result = |len| Strides::row_major(stride).fits(m, n, len) && (m <= 1 || n <= stride);
        let fits = fits && result(c.len()) && (aux.is_empty() || result(aux.len()));
        assert!(fits, "operands do not fit {m} x {n} x {k}");
        if m * n == 0 {
            return;
        }
        if k == 0 {
            return empty(self);
        }
        let operands = self.options.operands;
        #[cfg(target_arch = "x86_64")]
        match operands {
            Operands::F32 => {
                if let Some(kernel) = avx512::Avx512::<false>::available() {
                    return blocked::run(kernel, self);
                }
            }
            Operands::Bf16 => {
                if let Some(kernel) = avx512::Avx512::<true>::available() {
                    return blocked::run(kernel, self);
                }
            }
            Operands::Bf16Tiles => {
                if let Some(kernel) = amx::Amx::available() {
                    return blocked::run(kernel, self);
                }
            }
        }
        match operands {
            Operands::F32 => blocked::run(lanes::Plain {}, self),
            Operands::Bf16 => blocked::run(lanes::Pairs {}, self),
            Operands::Bf16Tiles => blocked::run(lanes::Tiles {}, self),
        }
    }
}

/// Packs `b: [k, n]` as `[n / 16, k, 16]`, with zeros past the last column.
///
/// # Panics
/// If an operand does not fit the sizes, `b` is neither row-major nor column-major, or a size is zero.
pub(crate) fn pack_columns(to: &mut [f32], b: &[f32], strides: Strides, (k, n): (usize, usize)) {
    assert!(strides.fits(k, n, b.len()) && to.len() == k * n.next_multiple_of(LANES), "operands do not fit {k} x {n}");
    let b = Operand { from: b, apart: strides.columns, along: strides.rows, count: n, k };
    let to = bytemuck::cast_slice_mut(to);
    #[cfg(target_arch = "x86_64")]
    if let Some(kernel) = avx512::Avx512::<false>::available() {
        return kernel.pack_columns(to, b);
    }
    lanes::Plain {}.pack_columns(to, b);
}

/// The product where `k` is zero.
fn empty(operands: Gemm) {
    let Gemm { sizes: (m, n, _), c: (c, stride), options, aux, epilogue, .. } = operands;
    for row in 0..m {
        let c = &mut c[row * stride..][..n];
        if !options.accumulate {
            c.fill(0.0);
        }
        if let Some(epilogue) = epilogue {
            let aux = if aux.is_empty() { &mut [] } else { &mut aux[row * stride..][..n] };
            epilogue(row, 0, c, aux);
        }
    }
}
