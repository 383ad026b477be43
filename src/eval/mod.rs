//! What a model can do: zero-shot classification and retrieval, on unmasked, centre-cropped images.

mod encode;
mod ranks;
mod retrieval;
mod zero_shot;

use std::path::PathBuf;

use crate::data;
use crate::device::DeviceError;

pub use encode::{Encoder, Images, Inputs};
pub use retrieval::{Recall, Retrieval, retrieval};
pub use zero_shot::{ClassNames, Templates, ZeroShot, zero_shot};

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {problem}")]
    List { path: PathBuf, problem: String },
    #[error("{sample} has the caption {caption:?}, which is none of the {classes} class names")]
    NoClass { sample: String, caption: String, classes: usize },
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
}
