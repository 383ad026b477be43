//! The errors that can end a run.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

use crate::data::{DataError, io_may_pass};
use crate::device::DeviceError;
use crate::group::GroupError;
use crate::interop::InteropError;
use crate::model::ModelError;

/// The error of another library that led to one of ours.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a model cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A configuration file that cannot be used.
    #[error("{path}: {problem}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, including the cause.
        problem: String,
        /// The parser's error.
        source: Option<Cause>,
    },
    /// Options that do not make a run.
    #[error("{problem}")]
    Settings {
        /// What is wrong with them.
        problem: String,
    },
    /// Sizes that no model can have.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model of another program that cannot be used.
    #[error(transparent)]
    Interop(#[from] InteropError),
    /// Options that TOML cannot represent.
    #[error("the options cannot be written as TOML: {0}")]
    Toml(#[from] toml::ser::Error),
    /// A file or folder that cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted: `open`, `write`, ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file that is not a checkpoint, or that is damaged.
    #[error("{path} is not a checkpoint of flipk: {problem}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, including the cause.
        problem: String,
        /// The parser's error.
        source: Option<Cause>,
    },
    /// Another process trains in the folder of the run.
    #[error("{problem}")]
    Locked {
        /// Which, and what to do.
        problem: String,
    },
    /// A loss or a gradient that is not finite.
    #[error(
        "the {what} of step {step} is {value}: training has diverged. {suspects}. {last}; \
         try a lower --lr, a longer --warmup-samples or --clip-norm 1"
    )]
    Diverged {
        /// `loss` or `gradient norm`.
        what: &'static str,
        /// The step, from 1.
        step: u64,
        /// Its value.
        value: f64,
        /// On rank 0, a sentence with the names of some samples of its batch.
        suspects: String,
        /// A sentence about the last good checkpoint.
        last: String,
    },
    /// Held-out data that cannot be used.
    #[error("evaluation on the held-out data: {0}")]
    Eval(#[from] crate::eval::EvalError),
    /// Training data or a tokenizer that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A failure of the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A failure of the exchange with other ranks.
    #[error("between ranks: {0}")]
    Group(#[from] GroupError),
    /// Another rank of the run failed, and says why; a checkpoint was saved.
    #[error("rank {rank} failed; its own message says why")]
    OtherRank {
        /// Its number.
        rank: usize,
    },
}

impl TrainError {
    /// Whether another start may succeed, from the same checkpoint or a later one: a file, a device or another rank
    /// failed. Refused options, broken data and a divergence come again, since a run repeats to the bit.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Io { source, .. } => io_may_pass(source),
            Self::OtherRank { .. } | Self::Locked { .. } => true,
            Self::Group(error) => error.may_pass(),
            Self::Device(error) => error.may_pass(),
            Self::Data(error) => error.may_pass(),
            Self::Eval(error) => error.may_pass(),
            Self::Interop(InteropError::Open { source, .. }) => io_may_pass(source),
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn config(path: &Path, problem: impl Into<Problem>) -> Self {
        let Problem { text, cause } = problem.into();
        Self::Config { path: path.to_owned(), problem: text, source: cause }
    }

    pub(super) fn checkpoint(path: &Path, problem: impl Into<Problem>) -> Self {
        let Problem { text, cause } = problem.into();
        Self::Checkpoint { path: path.to_owned(), problem: text, source: cause }
    }
}

/// What is wrong with a file, and the error that says so, if another library found it.
pub(super) struct Problem {
    text: String,
    cause: Option<Cause>,
}

impl Problem {
    /// `cause` in other words.
    pub(super) fn worded(text: String, cause: impl Into<Cause>) -> Self {
        Self { text, cause: Some(cause.into()) }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, cause: None }
    }
}

macro_rules! problems {
    ($($cause:ty),*) => { $(impl From<$cause> for Problem {
        fn from(cause: $cause) -> Self {
            Self::worded(cause.to_string(), cause)
        }
    })* };
}
problems!(ModelError, safetensors::SafeTensorError, toml::de::Error, toml::ser::Error);
