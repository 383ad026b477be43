//! The sigmoid loss (Zhai et al. 2023, "Sigmoid loss for language image pre-training", section 3.2).
//!
//! With `z = 1` on the pairs and `-1` elsewhere, `loss = -(1 / B) Σ_ij ln σ(z_ij (L_ij + logit_bias))` and
//! `G = (σ(L + logit_bias) - 1) / B`, where 1 stands for the pairs. The paper does not clip the temperature.

use super::PairLoss;
use super::cpu::{GradTile, RowTile};
use crate::simd::{sigmoid, softplus, sum, wide};

/// The sigmoid loss.
#[derive(Clone, Copy, Debug)]
pub struct Sigmoid;

impl PairLoss for Sigmoid {
    const NAME: &'static str = "sigmoid";
    const NEEDS_LSE: bool = false;
    const FORWARD_KERNEL: &'static str = "sigmoid_rows_f32";
    const SCALARS_KERNEL: &'static str = "sigmoid_dscalars_f32";

    /// The loss so far.
    type Sums = f64;
    const ZERO: f64 = 0.0;

    fn terms(batch: usize) -> usize {
        batch
    }

    /// Only by image: each logit is in the sum once.
    #[inline(always)]
    fn add(loss: &mut f64, tile: RowTile, logits: &[f32]) {
        let RowTile { by_image, pair, bias, .. } = tile;
        if !by_image {
            return;
        }
        let at = pair.unwrap_or(logits.len());
        // A function in a branch would not be vectorised.
        let elsewhere = sum(logits, |j, logit| {
            let term = softplus(logit + bias);
            if j == at { 0.0 } else { term }
        });
        *loss += f64::from(elsewhere) + pair.map_or(0.0, |pair| f64::from(softplus(-logits[pair] - bias)));
    }

    fn finish(loss: &f64, _: &[f32], _: &[f32], _: &mut [f32]) -> f64 {
        *loss
    }

    fn gradient(tile: GradTile<'_>, logits: &mut [f32]) -> [f64; 2] {
        let GradTile { pair, weight, bias, .. } = tile;
        let own = pair.map(|pair| (pair, logits[pair]));
        let at = pair.unwrap_or(logits.len());
        let sums = wide(
            #[inline(always)]
            || {
                let g = |j: usize, logit: f32| {
                    let g = weight * sigmoid(logit + bias);
                    if j == at { 0.0 } else { g }
                };
                let sums = [sum(logits, |j, logit| g(j, logit) * logit), sum(logits, g)];
                for (j, logit) in logits.iter_mut().enumerate() {
                    *logit = g(j, *logit);
                }
                sums.map(f64::from)
            },
        );
        let Some((pair, logit)) = own else { return sums };
        // `sigmoid(x) - 1`, without the cancellation where the pair is far on its right side.
        let g = -weight * sigmoid(-logit - bias);
        logits[pair] = g;
        [sums[0] + f64::from(g * logit), sums[1] + f64::from(g)]
    }
}
