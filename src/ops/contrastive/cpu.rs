//! The contrastive loss on the CPU, tile by tile: at most `TILE x TILE` logits per thread are ever in memory.
//!
//! Each direction makes two passes, one by images and one by texts; the second is the first with the towers swapped.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{Gradients, IMAGE_CORRECT, Inputs, LOSS, Lse, MAX_LOGIT_SCALE, Shape, TEXT_CORRECT};
use crate::device::Cpu;
use crate::device::product::{How, Strides, product};
use crate::ops::simd::{exp, max, sum, wide};

/// Rows and columns of a tile.
const TILE: usize = 128;

thread_local! {
    /// One tile of logits, kept by each thread.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Scratch beside what each thread keeps: none.
pub fn scratch_len(_: Shape) -> usize {
    0
}

fn temperature(logit_scale: f32) -> f32 {
    logit_scale.clamp(0.0, MAX_LOGIT_SCALE).exp()
}

/// Calls `body(first column, logits)` for each tile `τ a bᵀ`; `a` is one block of rows, `b` is cut into tiles.
fn for_tiles(a: &[f32], b: &[f32], width: usize, scale: f32, mut body: impl FnMut(usize, &mut [f32])) {
    LOGITS.with_borrow_mut(|logits| {
        logits.resize(TILE * TILE, 0.0);
        for (tile, b) in b.chunks(TILE * width).enumerate() {
            let (rows, columns) = (a.len() / width, b.len() / width);
            let logits = &mut logits[..rows * columns];
            let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
            let how = How { scale, accumulate: false, parallel: false };
            product((rows, columns, width), (logits, square), (a, wide_rows), (b, wide_rows.transposed()), how);
            body(tile * TILE, logits);
        }
    });
}

/// `lse[i] = ln Σ_j exp(τ a_i · b_j)`. Returns `Σ_i (lse_i - τ a_i · b_i)` and how many `i` have their largest logit at `i`.
fn lse_pass(a: &[f32], b: &[f32], width: usize, scale: f32, lse: &mut [f32]) -> (f64, usize) {
    let blocks = lse.par_chunks_mut(TILE).zip(a.par_chunks(TILE * width)).enumerate();
    let parts: Vec<(f64, usize)> = blocks
        .map(|(block, (lse, a))| {
            let (mut most, mut total) = ([f32::NEG_INFINITY; TILE], [0.0f32; TILE]);
            let mut own = [f32::NEG_INFINITY; TILE];
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / lse.len();
                for (row, logits) in logits.chunks_exact(columns).enumerate() {
                    if let Some(diagonal) = (block * TILE + row).checked_sub(first).filter(|column| *column < columns) {
                        own[row] = logits[diagonal];
                    }
                    wide(
                        #[inline(always)]
                        || {
                            let larger = max(logits).max(most[row]);
                            let here = sum(columns, |j| exp(logits[j] - larger));
                            total[row] = total[row] * (most[row] - larger).exp() + here;
                            most[row] = larger;
                        },
                    );
                }
            });
            let mut loss = 0.0;
            for (row, lse) in lse.iter_mut().enumerate() {
                *lse = most[row] + total[row].ln();
                loss += f64::from(*lse) - f64::from(own[row]);
            }
            let correct = (0..lse.len()).filter(|row| own[*row] >= most[*row]).count();
            (loss, correct)
        })
        .collect();
    parts.into_iter().fold((0.0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// Fills the outcome `[loss, image_correct, text_correct]`.
pub fn forward(shape: Shape, inputs: Inputs<'_, Cpu>, lse: Lse<&mut [f32]>, outcome: &mut [f32], _scratch: &mut [f32]) {
    let Inputs { images, texts, logit_scale } = inputs;
    let scale = temperature(logit_scale[0]);
    let (by_image, image_correct) = lse_pass(images, texts, shape.width, scale, lse.rows);
    let (by_text, text_correct) = lse_pass(texts, images, shape.width, scale, lse.columns);
    outcome[LOSS] = ((by_image + by_text) / (2 * shape.batch) as f64) as f32;
    outcome[IMAGE_CORRECT] = image_correct as f32;
    outcome[TEXT_CORRECT] = text_correct as f32;
}

/// `da = τ G b`, where `G` is the gradient of the logits with `a` as rows; returns `Σ G ∘ L`.
fn gradient_pass(a: (&[f32], &[f32]), b: (&[f32], &[f32]), width: usize, scale: f32, da: &mut [f32]) -> f64 {
    let ((a, lse_a), (b, lse_b)) = (a, b);
    let weight = 1.0 / (2 * lse_a.len()) as f32;
    let blocks =
        da.par_chunks_mut(TILE * width).zip(a.par_chunks(TILE * width).zip(lse_a.par_chunks(TILE))).enumerate();
    let parts: Vec<f64> = blocks
        .map(|(block, (da, (a, lse_a)))| {
            let mut along = 0.0;
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / lse_a.len();
                let lse_b = &lse_b[first..first + columns];
                for (row, logits) in logits.chunks_exact_mut(columns).enumerate() {
                    let diagonal = (block * TILE + row).checked_sub(first).filter(|column| *column < columns);
                    let own = diagonal.map(|column| logits[column]);
                    let sum_here = wide(
                        #[inline(always)]
                        || {
                            let lse_a = lse_a[row];
                            let g = |j: usize| weight * (exp(logits[j] - lse_a) + exp(logits[j] - lse_b[j]));
                            let sum_here = sum(columns, |j| g(j) * logits[j]);
                            for j in 0..columns {
                                logits[j] = weight * (exp(logits[j] - lse_a) + exp(logits[j] - lse_b[j]));
                            }
                            sum_here
                        },
                    );
                    along += f64::from(sum_here);
                    if let (Some(column), Some(own)) = (diagonal, own) {
                        logits[column] -= 2.0 * weight;
                        along -= f64::from(2.0 * weight * own);
                    }
                }
                let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
                let how = How { scale, accumulate: first > 0, parallel: false };
                let b = &b[first * width..(first + columns) * width];
                product((lse_a.len(), width, columns), (&mut *da, wide_rows), (logits, square), (b, wide_rows), how);
            });
            along
        })
        .collect();
    parts.into_iter().sum()
}

/// The gradients of the mean loss, with weight 1.
pub fn backward(
    shape: Shape,
    inputs: Inputs<'_, Cpu>,
    lse: Lse<&[f32]>,
    gradients: Gradients<'_, Cpu>,
    _scratch: &mut [f32],
) {
    let Inputs { images, texts, logit_scale } = inputs;
    let scale = temperature(logit_scale[0]);
    let (rows, columns) = ((images, lse.rows), (texts, lse.columns));
    let along = gradient_pass(rows, columns, shape.width, scale, gradients.dimages);
    gradient_pass(columns, rows, shape.width, scale, gradients.dtexts);
    let held = !(0.0..=MAX_LOGIT_SCALE).contains(&logit_scale[0]);
    let (dlogit_scale, accumulate) = gradients.dlogit_scale;
    let before = if accumulate { dlogit_scale[0] } else { 0.0 };
    dlogit_scale[0] = before + if held { 0.0 } else { along as f32 };
}
