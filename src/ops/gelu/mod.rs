//! The Gaussian error linear unit (Hendrycks and Gimpel 2016), alone or after a bias; part of [`super::linear`].
//!
//! Exact: `x Φ(x)`. Tanh: `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as FLIP uses it. Quick: `x σ(1.702 x)`, as
//! OpenAI's CLIP uses it.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
