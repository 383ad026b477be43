//! FLIP's two towers, as ops on a tape. Knows shapes and parameter names; knows no device and no kernel.

mod blocks;
mod config;
mod flip;
mod positions;

pub use config::{ImagePool, Loss, ModelConfig, ModelError, Positions, Preset, TextPool, TowerConfig};
pub use flip::{Embedded, Flip, Inputs};
pub use positions::sincos_2d;
