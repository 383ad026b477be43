//! Symmetric InfoNCE (Radford et al. 2021, figure 3).
//!
//! `loss = (Σ_i (lse_row_i - L_ii) + Σ_j (lse_col_j - L_jj)) / 2B`, `G = (exp(L - lse_row) + exp(L - lse_col) - 2·1) /
//! 2B`.

use super::PairLoss;
use super::cpu::{GradTile, RowTile, TILE};
use crate::simd::{exp, sums, wide};

/// The contrastive loss.
#[derive(Clone, Copy, Debug)]
pub struct Contrastive;

impl PairLoss for Contrastive {
    const NAME: &'static str = "contrastive";
    const NEEDS_LSE: bool = true;
    const FORWARD_KERNEL: &'static str = "contrastive_lse_f32";
    const SCALARS_KERNEL: &'static str = "contrastive_dlogit_scale_f32";

    /// `Σ exp(L - row_max)` of each row.
    type Sums = [f32; TILE];
    const ZERO: [f32; TILE] = [0.0; TILE];

    fn terms(batch: usize) -> usize {
        2 * batch
    }

    #[inline(always)]
    fn add(totals: &mut [f32; TILE], tile: RowTile, logits: &[f32]) {
        let RowTile { row, max_before, row_max, .. } = tile;
        let [here] = sums([logits], |[logit]| [exp(logit - row_max)]);
        totals[row] = totals[row] * exp(max_before - row_max) + here;
    }

    fn finish(totals: &[f32; TILE], row_max: &[f32], own: &[f32], lse: &mut [f32]) -> f64 {
        let mut loss = 0.0;
        for (row, lse) in lse.iter_mut().enumerate() {
            *lse = row_max[row] + libm::logf(totals[row]);
            loss += f64::from(*lse) - f64::from(own[row]);
        }
        loss
    }

    fn gradient(tile: GradTile<'_>, logits: &mut [f32]) -> [f64; 2] {
        let GradTile { pair, row_lse, column_lse, weight, .. } = tile;
        let own = pair.map_or(0.0, |pair| f64::from(2.0 * weight * logits[pair]));
        let along = wide(
            #[inline(always)]
            || {
                let g = |logit: f32, lse: f32| weight * (exp(logit - row_lse) + exp(logit - lse));
                let [along] = sums([&*logits, column_lse], |[logit, lse]| [g(logit, lse) * logit]);
                for (logit, lse) in logits.iter_mut().zip(column_lse) {
                    *logit = g(*logit, *lse);
                }
                along
            },
        );
        if let Some(pair) = pair {
            logits[pair] -= 2.0 * weight;
        }
        [f64::from(along) - own, 0.0]
    }
}
