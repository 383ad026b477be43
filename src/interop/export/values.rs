//! Values that several programs want in the same form.

use super::Export;
use crate::model::{ModelConfig, TowerConfig, sincos_2d};

/// An f32 as the f64 with the same shortest decimals, so that JSON has these.
pub(super) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| value.into())
}

/// A ratio of which Python's `int(width * ratio)` is the width of the MLP.
pub(super) fn mlp_ratio(tower: &TowerConfig) -> f64 {
    let (width, hidden) = (tower.width as f64, tower.mlp_width());
    let ratio = hidden as f64 / width;
    if (width * ratio) as usize == hidden { ratio } else { (hidden as f64 + 0.5) / width }
}

/// The position table with the bias of the patch embedding, for a tower that has none.
pub(super) fn biased_positions(export: &Export<'_>) -> Vec<f32> {
    let mut table = positions(export);
    if let Some(bias) = export.value("visual.conv1.bias") {
        for row in table.chunks_exact_mut(export.model.vision.width).skip(1) {
            row.iter_mut().zip(bias).for_each(|(position, bias)| *position += bias);
        }
    }
    table
}

/// The position table of the vision tower, `[patches + 1, width]`.
pub(super) fn positions(export: &Export<'_>) -> Vec<f32> {
    let ModelConfig { image_size, patch_size, vision, .. } = export.model;
    let learned = export.value("visual.positional_embedding").map(<[f32]>::to_vec);
    learned.unwrap_or_else(|| sincos_2d(image_size / patch_size, vision.width))
}
