//! The sigmoid loss on the CPU, tile by tile (`ops::logits`).

use rayon::prelude::*;

use super::{Gradients, Inputs, Shape};
use crate::device::Cpu;
use crate::ops::contrastive::{IMAGE_CORRECT, LOSS, TEXT_CORRECT};
use crate::ops::logits::{TILE, for_tiles, gradient_pass, pair, scale_gradient, temperature};
use crate::simd::{max, sigmoid, softplus, sum, wide};

/// Scratch beside what each thread keeps: none.
pub fn scratch_len(_: Shape) -> usize {
    0
}

/// `Σ loss(logits, pair)` over the pieces of all rows of `τ a bᵀ`, and how many rows have their largest logit at their pair.
fn rows_pass(
    a: &[f32],
    b: &[f32],
    width: usize,
    scale: f32,
    loss: impl Fn(&[f32], Option<usize>) -> f64 + Sync,
) -> (f64, usize) {
    let parts: Vec<(f64, usize)> = a
        .par_chunks(TILE * width)
        .enumerate()
        .map(|(block, a)| {
            let (mut row_max, mut own) = ([f32::NEG_INFINITY; TILE], [f32::NEG_INFINITY; TILE]);
            let (mut total, rows) = (0.0, a.len() / width);
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / rows;
                for (row, logits) in logits.chunks_exact(columns).enumerate() {
                    let pair = pair(block * TILE + row, first, columns);
                    if let Some(pair) = pair {
                        own[row] = logits[pair];
                    }
                    row_max[row] = wide(
                        #[inline(always)]
                        || max(logits).max(row_max[row]),
                    );
                    total += loss(logits, pair);
                }
            });
            (total, (0..rows).filter(|row| own[*row] >= row_max[*row]).count())
        })
        .collect();
    parts.into_iter().fold((0.0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// Fills the outcome `[loss, image_correct, text_correct]`.
pub fn forward(shape: Shape, inputs: Inputs<'_, Cpu>, outcome: &mut [f32], _scratch: &mut [f32]) {
    let Inputs { images, texts, logit_scale, logit_bias } = inputs;
    let (scale, bias) = (temperature(logit_scale[0]), logit_bias[0]);
    let (loss, image_correct) = rows_pass(images, texts, shape.width, scale, |logits, pair| {
        let at = pair.unwrap_or(logits.len());
        let elsewhere = wide(
            #[inline(always)]
            || sum(logits.len(), |j| if j == at { 0.0 } else { softplus(logits[j] + bias) }),
        );
        f64::from(elsewhere) + pair.map_or(0.0, |pair| f64::from(softplus(-logits[pair] - bias)))
    });
    let (_, text_correct) = rows_pass(texts, images, shape.width, scale, |_, _| 0.0);
    outcome[LOSS] = (loss / shape.batch as f64) as f32;
    outcome[IMAGE_CORRECT] = image_correct as f32;
    outcome[TEXT_CORRECT] = text_correct as f32;
}

/// The gradients of the loss, with weight 1.
pub fn backward(shape: Shape, inputs: Inputs<'_, Cpu>, gradients: Gradients<'_, Cpu>, _scratch: &mut [f32]) {
    let Inputs { images, texts, logit_scale, logit_bias } = inputs;
    let (scale, bias, weight) = (temperature(logit_scale[0]), logit_bias[0], 1.0 / shape.batch as f32);
    // The same function serves both directions: G depends on the logit and on whether it is a pair's.
    let gradient = |row: usize, first: usize, logits: &mut [f32]| {
        let columns = logits.len();
        let own = pair(row, first, columns).map(|pair| (pair, logits[pair]));
        let at = own.map_or(columns, |(pair, _)| pair);
        let sums = wide(
            #[inline(always)]
            || {
                let g = |j: usize, logit: f32| if j == at { 0.0 } else { weight * sigmoid(logit + bias) };
                let sums = [sum(columns, |j| g(j, logits[j]) * logits[j]), sum(columns, |j| g(j, logits[j]))];
                for (j, logit) in logits.iter_mut().enumerate() {
                    *logit = g(j, *logit);
                }
                sums.map(f64::from)
            },
        );
        let Some((pair, logit)) = own else { return sums };
        // `sigmoid(x) - 1`, but it does not cancel where the pair is far on its right side.
        let g = -weight * sigmoid(-logit - bias);
        logits[pair] = g;
        [sums[0] + f64::from(g * logit), sums[1] + f64::from(g)]
    };
    let [along, total] = gradient_pass(images, texts, shape.width, scale, gradients.dimages, gradient);
    gradient_pass(texts, images, shape.width, scale, gradients.dtexts, gradient);
    scale_gradient(logit_scale[0], along, gradients.dlogit_scale);
    let (dlogit_bias, accumulate) = gradients.dlogit_bias;
    let before = if accumulate { dlogit_bias[0] } else { 0.0 };
    dlogit_bias[0] = before + total as f32;
}
