//! The tokenizer of an export.

use serde_json::{Value, json};

use super::super::{InteropError, NewFolder};
use super::Export;

/// CLIP's end token.
const CLIP_END: &str = "<|endoftext|>";

/// Whether a `tokenizer.json` has CLIP's vocabulary.
pub(super) fn is_clip(json: &str) -> bool {
    let file: Value = serde_json::from_str(json).unwrap_or_default();
    file["model"]["vocab"].get(CLIP_END).is_some()
}

/// Whether a `tokenizer.json` of flipk says that the end token becomes 0.
pub(super) fn strips_end(json: &str) -> bool {
    let file: Value = serde_json::from_str(json).unwrap_or_default();
    file["padding"]["flipk"]["strip_sep"] == true
}

/// Writes `tokenizer.json` and what `transformers` wants to know about it.
pub(super) fn write(export: &Export<'_>, folder: &NewFolder) -> Result<(), InteropError> {
    let Some(text) = export.tokenizer else { return Ok(()) };
    let context = export.model.context;
    let config = match is_clip(text) {
        true => json!({
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": context,
            "bos_token": "<|startoftext|>",
            "eos_token": CLIP_END,
            "unk_token": CLIP_END,
            // OpenCLIP pads with 0, which is this token.
            "pad_token": "!",
        }),
        false => {
            let file: Value = serde_json::from_str(text)?;
            let pad = file["padding"]["pad_token"].clone();
            json!({
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": context,
                "pad_token": pad,
                "clean_up_tokenization_spaces": false,
            })
        }
    };
    folder.write("tokenizer.json", text)?;
    folder.write("tokenizer_config.json", &(serde_json::to_string_pretty(&config)? + "\n"))
}
