//! Models of other programs: their configurations and tensors, and ours.
//!
//! A model is the same [`crate::model::Flip`] whatever program made it: CLIP models differ in choices of
//! [`crate::model::ModelConfig`].

mod architecture;
mod error;
pub mod export;
mod fit;
pub mod flip;
pub mod hugging_face;
mod interpolate;
mod keys;
mod new_folder;
pub mod open_clip;
mod piece;
mod source;
mod tensors;
pub mod timm;
mod vision;

pub use architecture::Architecture;
pub use error::InteropError;
pub use fit::{Model, fit};
pub use new_folder::NewFolder;
pub use piece::{Order, Piece};
pub use source::Source;
pub use vision::Trunk;
