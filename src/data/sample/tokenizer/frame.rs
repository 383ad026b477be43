//! How a text becomes a row: whether it is cleaned, and which tokens stand around it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::clip;

/// What a model expects of its rows of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Texts {
    /// The text's tokens alone: FLIP's.
    #[default]
    Flip,
    /// As OpenCLIP prepares them: a cleaned text between a start and an end token.
    OpenClip {
        /// Whether the end token becomes 0 (`strip_sep_token`).
        strip_sep: bool,
    },
    /// As Hugging Face prepares them: between a start and an end token, but not cleaned.
    HuggingFace,
}

/// The same, as a run's `tokenizer.json` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Frame {
    /// Whether texts are cleaned as OpenCLIP does.
    pub(super) clean: bool,
    /// Whether CLIP's tokenizer lower-cases, which is a part of cleaning there.
    pub(super) lower: bool,
    /// Whether a start and an end token are added.
    pub(super) special_tokens: bool,
    /// Whether the end token becomes 0.
    pub(super) strip_sep: bool,
}

/// Names of start and end tokens.
const ENDS: [[&str; 2]; 3] = [["[CLS]", "[SEP]"], clip::ENDS, ["<s>", "</s>"]];

impl Frame {
    /// The key in the `padding` of a `tokenizer.json`, where the library leaves unknown keys alone.
    const KEY: &str = "flipk";

    /// What such a file says, or `None` if flipk did not write it.
    pub(super) fn of_file(file: &Value) -> Option<Self> {
        serde_json::from_value(file.get("padding")?.get(Self::KEY)?.clone()).ok()
    }

    /// Adds it to a file.
    pub(super) fn write(&self, file: &mut Value) -> serde_json::Result<()> {
        file["padding"][Self::KEY] = serde_json::to_value(self)?;
        Ok(())
    }

    /// What a model expects, of a tokenizer that says nothing itself.
    pub(super) fn of_model(texts: Texts, tokenizer: &Tokenizer) -> Self {
        let (clean, strip_sep) = match texts {
            Texts::Flip => return Self::default(),
            Texts::OpenClip { strip_sep } => (true, strip_sep),
            Texts::HuggingFace => (false, false),
        };
        Self { clean, lower: clean, special_tokens: ends(tokenizer).is_some(), strip_sep }
    }
}

/// The numbers of the start and end tokens: those that the file's own rules add, or else those with the usual names.
pub(super) fn ends(tokenizer: &Tokenizer) -> Option<[u32; 2]> {
    let own = tokenizer.get_post_processor().and_then(|_| tokenizer.encode_fast("", true).ok());
    if let Some(Ok(ends)) = own.map(|empty| <[u32; 2]>::try_from(empty.get_ids())) {
        return Some(ends);
    }
    ENDS.iter().find_map(|names| {
        let [start, end] = names.map(|name| tokenizer.token_to_id(name));
        Some([start?, end?])
    })
}

/// Writes a start token, a text's tokens and an end token to `out`, and `pad` behind them. The end token is kept if the
/// text is cut.
pub(super) fn fill(
    [start, end]: [i32; 2],
    ids: impl ExactSizeIterator<Item = u32>,
    strip_sep: bool,
    pad: i32,
    out: &mut [i32],
) {
    let len = ids.len() + 2;
    let row = [start].into_iter().chain(ids.map(|id| id as i32)).chain([end]);
    let used = out.iter_mut().zip(row).map(|(to, id)| *to = id).count();
    if let (true, Some(last)) = (len > used, out.last_mut()) {
        *last = end;
    }
    if strip_sep {
        out[..used].iter_mut().filter(|id| **id == end).for_each(|id| *id = 0);
    }
    out[used..].fill(pad);
}
