//! Golden states: weights, inputs and results of another implementation, and whether ours agrees.
//!
//! The file is a safetensors with `config` (sizes, as JSON) in its header, `params/...` and `inputs/...`; for each mask
//! ratio `mask{r}/{ids_keep, z_img, z_txt, loss, grad_norm}`, perhaps `mask{r}/grads/...`; and `train/{ids_keep,
//! learning_rates, losses, grad_norms, final_param_norms/...}`. Names are those of the FLIP authors' JAX code.

mod file;
mod names;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

pub use file::GoldenError;
pub use verify::{Check, Tolerances, verify};
