//! Plain ViTs of timm (1.0) as vision towers of OpenCLIP models: their names and arguments, and the names of tensors.

mod config;
mod names;

pub(super) use config::tower;
pub(super) use names::{POSITIONS, piece};

/// What the tensors of a vision tower of timm depend on, besides the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Whether the last norm is called `fc_norm` rather than `norm`.
    pub fc_norm: bool,
    /// Whether positions are added to patches alone, so that the table has no row for the CLS token.
    pub no_embed_class: bool,
}
