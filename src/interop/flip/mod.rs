//! The FLIP authors' models (`facebookresearch/flip`): the names of their parameters.

mod names;

/// The fixed position table of the vision tower, which is a parameter there.
pub(super) const POSITIONS: &str = "img_encoder/posembed_encoder/pos_embedding";

pub use names::pieces;
