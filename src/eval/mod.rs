//! What a model can do: zero-shot classification and retrieval, on unmasked, centre-cropped images.

mod classes;
mod encode;
mod lists;
mod matrix;
mod numbers;
mod open;
mod ranks;
mod retrieval;
mod search;
mod zero_shot;

use std::path::PathBuf;

use crate::data::DataError;
use crate::device::DeviceError;

pub use classes::{ClassNames, Classes, Labels};
pub use encode::{Encoder, Images, Inputs};
pub use lists::Templates;
pub use matrix::{MatrixFile, MatrixReader, Part, Rows};
pub use open::open;
pub use retrieval::{Recall, Retrieval, retrieval};
pub use search::{Best, Match};
pub use zero_shot::{ZeroShot, zero_shot};

/// Why a model cannot be evaluated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum EvalError {
    /// A list of names or prompts that cannot be used.
    #[error("{path}: {problem}")]
    List { path: PathBuf, problem: String },
    /// A caption that is not a class.
    #[error("{sample} has the caption {caption:?}, which is {problem}")]
    NoClass { sample: String, caption: String, problem: String },
    /// A class number that is not a class.
    #[error("{sample} has the class number {number}, but {problem}")]
    NoNumber { sample: String, number: usize, problem: String },
    /// Class numbers without a list of names.
    #[error("{sample} has a class number and no caption; give the names of the classes with --classes")]
    NoNames { sample: String },
    /// Captions that fit as names and as numbers.
    #[error(
        "the captions are ambiguous: as a name, {caption:?} of {sample} is the class in line {line}, and as a number, \
         counted from 0, the class {class:?}; say --labels names or --labels numbers"
    )]
    Ambiguous { sample: String, caption: String, line: u32, class: String },
    /// A file of embeddings that cannot be used.
    #[error("{}: {problem}", path.display())]
    Matrix { path: PathBuf, problem: String },
    /// An image file that cannot be used.
    #[error("{}: {problem}", path.display())]
    Image { path: PathBuf, problem: String },
    /// Data or a tokenizer that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// [`Inputs::progress`] asked for the end.
    #[error("the evaluation was stopped")]
    Stopped,
}

impl EvalError {
    /// Whether another start may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Data(error) => error.may_pass(),
            Self::Device(error) => error.may_pass(),
            _ => false,
        }
    }
}
