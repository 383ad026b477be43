//! Adding a bias to every row, and its gradient, the column sums; part of [`super::linear`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
