//! Why another program's model cannot be used.

use std::path::{Path, PathBuf};

use crate::model::ModelError;

/// Why a configuration or a tensor of another program cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InteropError {
    /// A name of no model.
    #[error("{problem}")]
    Name {
        /// Which it is, and which there are.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder that is not what it must be.
    #[error("{path} {problem}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A parameter that one model has and another has not, or not in the same shape.
    #[error("`{name}` {problem}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A choice of a model that a format does not have.
    #[error("--format {format} cannot express {choice}; export to {instead}")]
    Inexpressible {
        /// The format.
        format: &'static str,
        /// The choice.
        choice: String,
        /// Formats that can.
        instead: String,
    },
    /// A file that cannot be used.
    #[error("{path}: {source}")]
    In {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<Self>,
    },
    /// A key of a configuration that asks for something that flipk does not have, or has a wrong type.
    #[error("`{key}` {problem}")]
    Key {
        /// The key, with the object that it is in: `vision_cfg.qk_norm`.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// Text that is not JSON, or not a description of a model.
    #[error("not a model configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// Sizes that no model can have.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl InteropError {
    /// Adds the file in which it was found.
    pub fn within(self, path: &Path) -> Self {
        Self::In { path: path.to_owned(), source: Box::new(self) }
    }
}
