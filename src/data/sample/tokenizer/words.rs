//! A tokenizer that remembers the tokens of words, for captions by the million: few words are new.

use std::collections::HashMap;

use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::{Tokenizer, refused};
use crate::data::error::Result;

/// Words that are remembered: a few MB. Then all are forgotten, which costs less than to know which are used.
const MAX_WORDS: usize = 1 << 16;
/// Longer words, such as addresses, are not remembered, since they hardly ever come again.
const MAX_BYTES: usize = 32;

/// A tokenizer and the words that it has met.
pub(crate) struct Words {
    tokenizer: Tokenizer,
    /// Whether the tokens of a text are those of its words.
    is_by_word: bool,
    known: HashMap<Box<str>, Box<[u32]>>,
    cleaned: String,
    ids: Vec<u32>,
}

impl Words {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let is_by_word = is_by_word(&tokenizer);
        Self { tokenizer, is_by_word, known: HashMap::new(), cleaned: String::new(), ids: Vec::new() }
    }

    /// As [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn encode(&mut self, text: &str, out: &mut [i32]) -> Result<()> {
        let Self { tokenizer, is_by_word, known, cleaned, ids } = self;
        if !*is_by_word {
            return tokenizer.encode(text, out);
        }
        let text = tokenizer.clean(text, cleaned);
        ids.clear();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            if let Some(tokens) = known.get(word) {
                ids.extend_from_slice(tokens);
                continue;
            }
            let encoding = tokenizer.inner.encode_fast(word, false).map_err(|source| refused(text, source))?;
            ids.extend_from_slice(encoding.get_ids());
            if word.len() <= MAX_BYTES {
                if known.len() == MAX_WORDS {
                    known.clear();
                }
                known.insert(word.into(), encoding.get_ids().into());
            }
        }
        tokenizer.row(ids.iter().copied(), out);
        Ok(())
    }

    /// As [`Tokenizer::encode_stored`].
    pub(crate) fn encode_stored(&self, member: &[u8], caption: &str, out: &mut [i32]) -> bool {
        self.tokenizer.encode_stored(member, caption, out)
    }
}

/// Whether a tokenizer never looks beyond a space. CLIP's and BERT's do not, if no special token has or takes spaces.
fn is_by_word(tokenizer: &Tokenizer) -> bool {
    let inner = &tokenizer.inner;
    let is_berts = matches!(inner.get_model(), ModelWrapper::WordPiece(_))
        && matches!(inner.get_normalizer(), None | Some(NormalizerWrapper::BertNormalizer(_)))
        && matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
    let is_one_word = |token: &str| token.bytes().all(|byte| byte.is_ascii_graphic());
    let added = inner.get_added_tokens_decoder();
    // A template may repeat or reorder a text.
    let ids = |text: &str| inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec());
    let is_joined = match (ids("a b"), ids("a"), ids("b")) {
        (Ok(both), Ok(a), Ok(b)) => both == [a, b].concat(),
        _ => false,
    };
    (is_berts || tokenizer.is_built_in())
        && is_joined
        && added.values().all(|token| !token.lstrip && !token.rstrip && is_one_word(&token.content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::{Texts, TokenizerOptions};

    #[test]
    fn tokens_are_those_of_the_whole_text() {
        let open_clip = TokenizerOptions { texts: Texts::OpenClip { strip_sep: false }, ..TokenizerOptions::default() };
        let texts = [
            "a photo of a cat",
            "",
            "   ",
            "A  photo\u{A0}of\tthe CAF\u{C9}'s  cafe\u{301} \u{301}x don't I'll",
            "it's 2024-05-01, 3.14 &amp; more: \u{6771}\u{4EAC}\u{90FD} \u{1F600}\u{200D}\u{1F525} [MASK] x[UNK]y",
            "\u{130}stanbul stra\u{DF}e \u{3A3}\u{3A3} \u{3B1}\u{3A3} schÃ¶n \u{0} ctrl \u{1F}a\u{1C}b",
            "averyveryverylongwordthatisneverrememberedbecauseitisanaddress.com/a/b?c=d",
        ];
        for tokenizer in [
            Tokenizer::embedded(&TokenizerOptions::default()),
            Tokenizer::embedded(&TokenizerOptions { lower_case: Some(false), ..TokenizerOptions::default() }),
            Tokenizer::clip(&open_clip),
            Tokenizer::clip(&TokenizerOptions { lower_case: Some(false), ..open_clip.clone() }),
            Tokenizer::from_bytes(b"[PAD]\n[UNK]\n[MASK]\na\nphoto\n##s\nof\n", "vocab.txt"),
        ] {
            let tokenizer = tokenizer.unwrap();
            let mut words = Words::new(tokenizer.clone());
            assert!(words.is_by_word);
            // The second time, from memory.
            for text in texts.iter().chain(&texts) {
                let [mut whole, mut by_word] = [0, 1].map(|_| vec![-1; 40]);
                tokenizer.encode(text, &mut whole).unwrap();
                words.encode(text, &mut by_word).unwrap();
                assert_eq!(whole, by_word, "{text:?}");
            }
            assert!(words.known.len() > 10 && !words.known.keys().any(|word| word.len() > MAX_BYTES));
        }
    }
}
