//! Hugging Face's `CLIPModel` (`transformers`): `config.json`, and the names of tensors.

mod config;
mod names;

pub use config::describe;
pub use names::pieces;
