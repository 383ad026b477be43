//! Tokens with a meaning of their own: padding and unknown words.

use tokenizers::{Model, ModelWrapper, Tokenizer};

use crate::data::error::Result;

/// Names of padding tokens.
const PADDING: &[&str] = &["[PAD]", "<pad>", "<|pad|>", "<PAD>"];
/// End tokens, used for padding if there is none of [`PADDING`], as in Transformers' CLIP tokenizer.
const ENDS: &[&str] = &["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>"];
/// The number of the padding token, and why it is this one, unless the file says so.
pub(super) fn padding(inner: &Tokenizer, asked: Option<&str>) -> Result<(u32, Option<String>), String> {
    if let Some(token) = asked {
        let number = inner.token_to_id(token).ok_or_else(|| format!("it has no token {token:?} (--pad-token)"))?;
        return Ok((number, Some("as --pad-token says".to_owned())));
    }
    if let Some(padding) = inner.get_padding() {
        // The number is an index into the table of embeddings.
        return match inner.id_to_token(padding.pad_id) {
            Some(_) => Ok((padding.pad_id, None)),
            None => Err(format!(
                "its padding token has the number {}, and no token has that number; name another with --pad-token",
                padding.pad_id
            )),
        };
    }
    let one_of = |tokens: &[&str]| tokens.iter().find_map(|token| inner.token_to_id(token));
    match (one_of(PADDING), one_of(ENDS)) {
        (Some(number), _) => Ok((number, None)),
        (None, Some(number)) => Ok((number, Some("it has no padding token; --pad-token names another".to_owned()))),
        (None, None) => Err("it has no padding token [PAD]; name the token to pad with by --pad-token".to_owned()),
    }
}

/// The number of the token for unknown words, if the model has one.
pub(super) fn unknown(inner: &Tokenizer) -> Option<u32> {
    let token = match inner.get_model() {
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        // The field is private. No vocabulary has this character; if it becomes its bytes, nothing is unknown.
        ModelWrapper::Unigram(model) => {
            let tokens = model.tokenize("\u{10FFFE}").ok()?;
            return (tokens.len() == 1).then(|| tokens[0].id);
        }
    };
    inner.token_to_id(&token?)
}

/// Two tokens with the same number, and the number. Only one of them would survive in the `tokenizer.json` of a run.
pub(super) fn shared_number(inner: &Tokenizer) -> Option<[String; 3]> {
    let mut numbers: Vec<(u32, String)> =
        inner.get_vocab(false).into_iter().map(|(token, number)| (number, token)).collect();
    numbers.sort_unstable();
    let pair = numbers.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some([format!("{:?}", pair[0].1), format!("{:?}", pair[1].1), pair[0].0.to_string()])
}
