//! OpenCLIP's models (`open_clip_torch` 3.3): `model_configs/*.json`, `open_clip_config.json`, and the names of
//! tensors.

mod config;
mod presets;

pub use super::piece::open_clip_piece as piece;
pub(super) use config::normalisation;
pub use config::{Described, Tokens, describe, describe_state};
pub use presets::{NAMES, named};
