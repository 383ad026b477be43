//! The tokenizer that a model is used with.

use std::path::Path;

use super::TrainError;
use crate::data::{Texts, Tokenizer, TokenizerOptions};
use crate::interop::open_clip::{Described, Tokens};
use crate::model::TextPool;

/// Opens the tokenizer at `path`, or else CLIP's if that is the model's own; its rows are what the model expects.
/// `None` if neither the path nor the model says which it is.
///
/// # Errors
/// One that cannot be read, or a model with a tokenizer of Hugging Face and no path to it.
pub fn open_tokenizer(
    path: Option<&Path>,
    described: &Described,
    options: TokenizerOptions,
) -> Result<Option<Tokenizer>, TrainError> {
    let options = TokenizerOptions { texts: texts(described), ..options };
    match (path, &described.tokens) {
        (Some(path), _) => Ok(Some(Tokenizer::open(path, &options)?)),
        (None, Tokens::Clip | Tokens::TransformersClip) if described.model.vocab >= Tokenizer::CLIP_VOCAB => {
            Ok(Some(Tokenizer::clip(&options)?))
        }
        (None, Tokens::HuggingFace { name, .. }) => {
            let problem = format!(
                "the model's tokenizer is {name} of Hugging Face: write it into a folder with python3 -c \"from \
                 transformers import AutoTokenizer as T; T.from_pretrained('{name}').save_pretrained('tokenizer')\" and \
                 pass --tokenizer tokenizer"
            );
            Err(TrainError::Settings { problem })
        }
        (None, _) => Ok(None),
    }
}

/// What a model expects of its rows of tokens.
fn texts(described: &Described) -> Texts {
    match &described.tokens {
        Tokens::Unknown if described.model.text_pool == TextPool::First => Texts::Flip,
        Tokens::Unknown | Tokens::Clip => Texts::OpenClip { strip_sep: false },
        Tokens::HuggingFace { strip_sep, .. } => Texts::OpenClip { strip_sep: *strip_sep },
        Tokens::TransformersClip => Texts::HuggingFace,
    }
}
