//! The FLIP authors' models (`facebookresearch/flip`): the names of their parameters.

mod names;

pub use names::pieces;
