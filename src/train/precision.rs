//! The option `--precision`.

use serde::{Deserialize, Serialize};

/// The number format of activations and matrix products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What a resumed run used before; else bf16 on a GPU, and f32 on a CPU, where f32 gives the same bits on every
    /// processor
    #[default]
    Auto,
    /// bfloat16
    Bf16,
    /// Single precision
    F32,
}
