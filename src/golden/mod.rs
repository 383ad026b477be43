//! Golden states: weights, inputs and results of another implementation, and whether ours agrees.
//!
//! A file is a safetensors with `config` (sizes, as JSON) in its header, and `inputs/{images_u8, tokens}`.
//!
//! One of OpenCLIP has `state_dict/...`, `outputs/{image_features, text_features, logit_scale, loss}` and `grads/...`.
//!
//! One of the FLIP authors' JAX code has `params/...`; for each mask ratio `mask{r}/{ids_keep, z_img, z_txt, loss,
//! grad_norm}`, perhaps `mask{r}/grads/...`; and `train/{ids_keep, learning_rates, losses, grad_norms,
//! final_param_norms/...}`.

mod file;
mod open_clip;
mod pass;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

pub use file::GoldenError;
pub use pass::Pass;
pub use verify::{Check, OpenPass, Tolerances, verify, verify_pass};
