//! The errors that can end a run.

use std::io;
use std::path::{Path, PathBuf};

use crate::data;
use crate::device::DeviceError;

#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("{path}: {problem}")]
    Config { path: PathBuf, problem: String },
    #[error("{problem}")]
    Settings { problem: String },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not a checkpoint of flipk: {problem}")]
    Checkpoint { path: PathBuf, problem: String },
    #[error(
        "the {what} of step {step} is {value}: training has diverged. Its samples were {keys}. {last}; \
         try a lower --lr, a longer --warmup-samples or --clip-norm 1"
    )]
    Diverged { what: &'static str, step: u64, value: f64, keys: String, last: String },
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
