//! A model to start from, or to use: a checkpoint of flipk, or a model of another program.

use std::path::{Path, PathBuf};

use super::TrainError;
use super::checkpoint::Checkpoint;
use crate::autograd::Layout;
use crate::interop::open_clip::{Described, Tokens};
use crate::interop::{Model, Source, fit};
use crate::model::{Flip, Loss, ModelConfig};

/// An open model.
pub enum Weights {
    /// A checkpoint of flipk.
    Own(Box<Checkpoint>),
    /// A model of OpenCLIP or Hugging Face.
    Other(Box<Source>),
}

impl Weights {
    /// Opens a run folder (its newest checkpoint), a checkpoint, or a folder or file of OpenCLIP or Hugging Face.
    ///
    /// # Errors
    /// If it is none of these, or cannot be used.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        match (Checkpoint::is_at(path), Source::is_at(path)) {
            (false, true) => Ok(Self::Other(Box::new(Source::open(path)?))),
            (false, false) if path.is_dir() => {
                let problem = format!(
                    "there is no model in {}: looked for a run or checkpoints of flipk, an open_clip_config.json \
                     (OpenCLIP), and a config.json (Hugging Face)",
                    path.display()
                );
                Err(TrainError::Settings { problem })
            }
            _ => Ok(Self::Own(Box::new(Checkpoint::open(path)?))),
        }
    }

    /// Sizes and choices.
    pub fn model(&self) -> &ModelConfig {
        match self {
            Self::Own(checkpoint) => &checkpoint.state.model,
            Self::Other(source) => &source.described().model,
        }
    }

    /// The loss that it was trained with.
    pub fn loss(&self) -> Loss {
        match self {
            Self::Own(checkpoint) => checkpoint.state.loss,
            Self::Other(source) => source.described().loss,
        }
    }

    /// The same, with the tokenizer that belongs to it.
    pub fn described(&self) -> Described {
        match self {
            Self::Own(checkpoint) => {
                let (model, loss) = (checkpoint.state.model.clone(), checkpoint.state.loss);
                Described { model, loss, tokens: Tokens::Unknown, trunk: None }
            }
            Self::Other(source) => source.described().clone(),
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Own(checkpoint) => checkpoint.path(),
            Self::Other(source) => source.path(),
        }
    }

    /// The `config.toml` of its run, if it is a checkpoint beside one.
    pub fn run_config(&self) -> Option<PathBuf> {
        match self {
            Self::Own(checkpoint) => checkpoint.sibling("config.toml"),
            Self::Other(_) => None,
        }
    }

    /// The tokenizer beside it, if there is one.
    pub fn tokenizer(&self) -> Option<PathBuf> {
        match self {
            Self::Own(checkpoint) => checkpoint.sibling("tokenizer.json"),
            Self::Other(source) => source.tokenizer(),
        }
    }

    /// The weights in the arena of its own model, `[layout.arena_len()]`, with that layout's model and loss.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn values(&self) -> Result<(Flip, Vec<f32>), TrainError> {
        let flip = Flip::with_loss(self.model(), self.loss(), true);
        let values = match self {
            Self::Own(checkpoint) => checkpoint.weights(flip.layout())?,
            Self::Other(source) => source.weights()?,
        };
        Ok((flip, values))
    }

    /// `random`, an arena of `model`, with these weights, and notes on what was made to fit.
    ///
    /// # Errors
    /// If they cannot be read, or do not fit.
    pub fn fitted(
        &self,
        model: &ModelConfig,
        layout: &Layout,
        random: Vec<f32>,
    ) -> Result<(Vec<f32>, Vec<String>), TrainError> {
        let (flip, values) = self.values()?;
        let from = Model { config: self.model(), layout: flip.layout() };
        let fitted = fit(from, &values, Model { config: model, layout }, random);
        fitted.map_err(|why| TrainError::Interop(why.within(self.path())))
    }
}
