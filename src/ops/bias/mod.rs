//! Adding a bias to every row, and its gradient, the column sums. Used inside [`super::linear`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
