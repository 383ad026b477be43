//! What configurations say of a vision tower.

use crate::model::{ImagePool, Positions, TowerConfig};

/// A vision tower, with those choices of [`crate::model::ModelConfig`] that belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct VisionTower {
    pub image_size: usize,
    pub patch_size: usize,
    pub tower: TowerConfig,
    pub patch_bias: bool,
    pub positions: Positions,
    pub ln_pre: bool,
    pub image_pool: ImagePool,
    pub ln_after_pool: bool,
    pub trunk: Option<Trunk>,
}

/// What the tensors of a vision tower of timm depend on, besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Whether the last norm is called `fc_norm` rather than `norm`.
    pub fc_norm: bool,
    /// Whether positions are added to patches alone, so that the table has no row for the CLS token.
    pub no_embed_class: bool,
}
