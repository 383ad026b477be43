//! The contrastive loss on the CPU, tile by tile (`ops::logits`).
//!
//! Each direction makes two passes, one by images and one by texts; the second is the first with the towers swapped.

use rayon::prelude::*;

use super::{Gradients, IMAGE_CORRECT, Inputs, LOSS, Lse, Shape, TEXT_CORRECT};
use crate::device::Cpu;
use crate::ops::logits::{TILE, for_tiles, gradient_pass, pair, scale_gradient, temperature};
use crate::simd::{exp, max, sums, wide};

/// Scratch beside what each thread keeps: none.
pub fn scratch_len(_: Shape) -> usize {
    0
}

/// `lse[i] = ln Σ_j exp(τ a_i · b_j)`. Returns `Σ_i (lse_i - τ a_i · b_i)` and how many `i` have their largest logit at `i`.
fn lse_pass(a: &[f32], b: &[f32], width: usize, scale: f32, lse: &mut [f32]) -> (f64, usize) {
    let blocks = lse.par_chunks_mut(TILE).zip(a.par_chunks(TILE * width)).enumerate();
    let parts: Vec<(f64, usize)> = blocks
        .map(|(block, (lse, a))| {
            let (mut row_max, mut total) = ([f32::NEG_INFINITY; TILE], [0.0f32; TILE]);
            let mut own = [f32::NEG_INFINITY; TILE];
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / lse.len();
                for (row, logits) in logits.chunks_exact(columns).enumerate() {
                    if let Some(pair) = pair(block * TILE + row, first, columns) {
                        own[row] = logits[pair];
                    }
                    wide(
                        #[inline(always)]
                        || {
                            let larger = max(logits).max(row_max[row]);
                            let [here] = sums([&*logits], |[logit]| [exp(logit - larger)]);
                            total[row] = total[row] * exp(row_max[row] - larger) + here;
                            row_max[row] = larger;
                        },
                    );
                }
            });
            let mut loss = 0.0;
            for (row, lse) in lse.iter_mut().enumerate() {
                *lse = row_max[row] + libm::logf(total[row]);
                loss += f64::from(*lse) - f64::from(own[row]);
            }
            let correct = (0..lse.len()).filter(|row| own[*row] >= row_max[*row]).count();
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
fn half(a: (&[f32], &[f32]), b: (&[f32], &[f32]), width: usize, scale: f32, da: &mut [f32]) -> f64 {
    let ((a, lse_a), (b, lse_b)) = (a, b);
    let weight = 1.0 / (2 * lse_a.len()) as f32;
    let [along, _] = gradient_pass(a, b, width, scale, da, |row, first, logits| {
        let columns = logits.len();
        let (lse_a, lse_b) = (lse_a[row], &lse_b[first..first + columns]);
        let pair = pair(row, first, columns);
        let own = pair.map_or(0.0, |pair| f64::from(2.0 * weight * logits[pair]));
        let along = wide(
            #[inline(always)]
            || {
                let g = |logit: f32, lse_b: f32| weight * (exp(logit - lse_a) + exp(logit - lse_b));
                let [along] = sums([&*logits, lse_b], |[logit, lse_b]| [g(logit, lse_b) * logit]);
                for (logit, lse_b) in logits.iter_mut().zip(lse_b) {
                    *logit = g(*logit, *lse_b);
                }
                along
            },
        );
        if let Some(pair) = pair {
            logits[pair] -= 2.0 * weight;
        }
        [f64::from(along) - own, 0.0]
    });
    along
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
    let along = half(rows, columns, shape.width, scale, gradients.dimages);
    half(columns, rows, shape.width, scale, gradients.dtexts);
    scale_gradient(logit_scale[0], along, gradients.dlogit_scale);
}
