//! What a run tells about its words before the first step.

use super::TrainError;
use super::checkpoint::Checkpoint;
use crate::data::{Dataset, LoaderConfig, Survey, Tokenizer};

/// What the tokenizer decided, what a look at the captions found, and what of it needs a look.
pub(super) fn captions(dataset: &Dataset, tokenizer: &Tokenizer, loader: &LoaderConfig) -> Vec<String> {
    let mut lines = vec![tokenizer.describe()];
    match Survey::of(dataset, tokenizer, loader.context) {
        Ok(survey) => {
            lines.push(survey.describe());
            lines.extend(survey.warnings(loader.captions.tag_chance > 0.0 && loader.captions.max_tags > 0));
        }
        // One caption that the tokenizer refuses is a broken sample, as in training.
        Err(error) => lines.push(format!("warning: {error}")),
    }
    lines
}

/// Checks that a checkpoint to start from has as many rows of tokens as this run.
///
/// # Errors
/// [`TrainError::Settings`] with both numbers.
pub(super) fn same_vocabulary(from: &Checkpoint, vocab: usize) -> Result<(), TrainError> {
    match from.state.model.vocab {
        rows if rows == vocab => Ok(()),
        rows => {
            let path = from.path().display();
            let problem = format!(
                "the model in {path} has {rows} rows of tokens and this run has {vocab}; give --tokenizer the one that it \
                 was trained with (and --vocab {rows} if it has fewer tokens than that)"
            );
            Err(TrainError::Settings { problem })
        }
    }
}
