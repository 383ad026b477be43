//! The tokenizer of an export.

use serde_json::{Value, json};

use super::super::{InteropError, NewFolder};
use super::Export;

/// CLIP's end token.
const CLIP_END: &str = "<|endoftext|>";
/// CLIP's start and end tokens and their numbers.
const CLIP_ENDS: [(&str, u64); 2] = [("<|startoftext|>", 49_406), (CLIP_END, 49_407)];

/// Whether a `tokenizer.json` has CLIP's vocabulary. GPT-2's has the same end token with another number.
pub(super) fn is_clip(json: &str) -> bool {
    let file: Value = serde_json::from_str(json).unwrap_or_default();
    CLIP_ENDS.iter().all(|(token, number)| file["model"]["vocab"].get(token).and_then(Value::as_u64) == Some(*number))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Tokenizer, TokenizerOptions};

    #[test]
    fn clips_tokenizer_is_told_from_others_with_its_end_token() {
        let clip = Tokenizer::clip(&TokenizerOptions::default()).unwrap().to_json().unwrap();
        assert!(is_clip(&clip));
        let of = |vocab: Value| json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}}).to_string();
        assert!(!is_clip(&of(json!({"a": 0, "<|endoftext|>": 50_256}))));
        assert!(!is_clip(&of(json!([["<|endoftext|>", 0]]))) && !is_clip("{"));
    }
}
