//! OpenCLIP's models (`open_clip_torch` 3.3): `model_configs/*.json`, `open_clip_config.json`, and the names of
//! tensors.

mod config;
mod names;
mod presets;

pub use config::{Described, Tokens, describe, describe_state};
pub(super) use config::{VisionTower, normalisation};
pub use names::piece;
pub use presets::{NAMES, named};
