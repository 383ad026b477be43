//! Tiles of logits `τ a bᵀ` on the CPU, which `contrastive` and `sigmoid` share: at most `TILE x TILE` of them per thread
//! are ever in memory.

use std::cell::RefCell;

use rayon::prelude::*;

use super::contrastive::MAX_LOGIT_SCALE;
use crate::device::gemm::{GemmOptions, Operands, Strides, gemm};

/// Rows and columns of a tile.
pub const TILE: usize = 128;

thread_local! {
    /// One tile of logits, kept by each thread.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `τ = exp(clip(logit_scale, 0, ln 100))`.
pub fn temperature(logit_scale: f32) -> f32 {
    libm::expf(logit_scale.clamp(0.0, MAX_LOGIT_SCALE))
}

/// The gradient of `logit_scale` where that of `ln τ` is `along`: zero where the clip holds it. Adds to `before` if there
/// is something.
pub fn scale_gradient(logit_scale: f32, along: f64, (gradient, accumulate): (&mut [f32], bool)) {
    let held = !(0.0..=MAX_LOGIT_SCALE).contains(&logit_scale);
    let before = if accumulate { gradient[0] } else { 0.0 };
    gradient[0] = before + if held { 0.0 } else { along as f32 };
}

/// Calls `body(first column, logits)` for each tile `τ a bᵀ`; `a` is one block of rows, `b` is cut into tiles.
pub fn for_tiles(a: &[f32], b: &[f32], width: usize, scale: f32, mut body: impl FnMut(usize, &mut [f32])) {
    LOGITS.with_borrow_mut(|logits| {
        logits.resize(TILE * TILE, 0.0);
        for (tile, b) in b.chunks(TILE * width).enumerate() {
            let (rows, columns) = (a.len() / width, b.len() / width);
            let logits = &mut logits[..rows * columns];
            let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
            let options = GemmOptions { operands: Operands::F32, scale, accumulate: false, parallel: false };
            gemm((rows, columns, width), (logits, square), (a, wide_rows), (b, wide_rows.transposed()), options);
            body(tile * TILE, logits);
        }
    });
}

/// Where the pair of a row lies among the `columns` from `first`, if it does.
pub fn pair(row: usize, first: usize, columns: usize) -> Option<usize> {
    row.checked_sub(first).filter(|column| *column < columns)
}

/// `da = τ G b`, where `gradient(row, first column, logits)` turns a piece of a row of logits into `G` and returns its
/// share of the two sums that this returns, `Σ G ∘ L` and `Σ G`.
pub fn gradient_pass(
    a: &[f32],
    b: &[f32],
    width: usize,
    scale: f32,
    da: &mut [f32],
    gradient: impl Fn(usize, usize, &mut [f32]) -> [f64; 2] + Sync,
) -> [f64; 2] {
    let blocks = da.par_chunks_mut(TILE * width).zip(a.par_chunks(TILE * width)).enumerate();
    let parts: Vec<[f64; 2]> = blocks
        .map(|(block, (da, a))| {
            let (mut sums, rows) = ([0.0; 2], a.len() / width);
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / rows;
                for (row, logits) in logits.chunks_exact_mut(columns).enumerate() {
                    sums = add(sums, gradient(block * TILE + row, first, logits));
                }
                let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
                let options = GemmOptions { operands: Operands::F32, scale, accumulate: first > 0, parallel: false };
                let b = &b[first * width..(first + columns) * width];
                gemm((rows, width, columns), (&mut *da, wide_rows), (logits, square), (b, wide_rows), options);
            });
            sums
        })
        .collect();
    parts.into_iter().fold([0.0; 2], add)
}

fn add(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] + b[0], a[1] + b[1]]
}
