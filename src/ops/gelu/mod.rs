//! The Gaussian error linear unit (Hendrycks and Gimpel 2016), alone or after a bias. Used inside [`super::linear`].
//!
//! Exact: `x Φ(x)`. Tanh: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as FLIP uses it.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;

use serde::{Deserialize, Serialize};

/// Which form of the GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    Tanh,
    Exact,
}
