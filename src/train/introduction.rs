//! What a run prints about its captions before the first step.

use crate::data::{Dataset, LoaderConfig, Survey, Tokenizer};

/// What the tokenizer does with text, what a survey of the captions found, and warnings about it; a line each.
pub(super) fn captions(dataset: &Dataset, tokenizer: &Tokenizer, loader: &LoaderConfig) -> Vec<String> {
    let mut lines = vec![tokenizer.describe()];
    match Survey::run(dataset, tokenizer, loader.context) {
        Ok(survey) => {
            lines.push(survey.describe());
            lines.extend(survey.warnings(loader.captions.tag_chance > 0.0 && loader.captions.max_tags > 0));
        }
        // A caption that the tokenizer cannot encode is a broken sample, as in training.
        Err(error) => lines.push(format!("warning: {error}")),
    }
    lines
}
