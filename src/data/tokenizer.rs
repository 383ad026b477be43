//! Words to token numbers, by the `tokenizers` crate.

use std::{path::Path, str::FromStr, sync::Arc};

use tokenizers::{models::wordpiece::WordPiece, normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer};

use super::{Error, Result, embedded};

/// A tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    pad: i32,
    vocab_size: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a BERT `vocab.txt`: one WordPiece per line, lower-cased unless the vocabulary has
    /// capitals.
    ///
    /// # Errors
    /// A file that cannot be read, is neither, or has no padding token.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes, &path.display().to_string())
    }

    /// The tokenizer of the embedded data set.
    ///
    /// # Errors
    /// None, unless the program was built with a broken one.
    pub fn embedded() -> Result<Self> {
        Self::from_bytes(embedded::TOKENIZER, "embedded:tokenizer")
    }

    /// As [`Self::from_file`], from the file's bytes; `name` is for messages.
    ///
    /// # Errors
    /// See [`Self::from_file`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        let error = |problem: String| Error::Tokenizer { name: name.to_owned(), problem };
        let text = std::str::from_utf8(bytes).map_err(|why| error(format!("it is not UTF-8: {why}")))?;
        let mut inner = match text.trim_start().starts_with('{') {
            true => tokenizers::Tokenizer::from_str(text).map_err(|why| error(format!("as tokenizer.json: {why}")))?,
            false => bert(text).map_err(|why| error(format!("as BERT vocab.txt: {why}")))?,
        };
        let told = inner.get_padding().map(|padding| padding.pad_id);
        let pad = told.or_else(|| ["[PAD]", "<pad>"].iter().find_map(|token| inner.token_to_id(token)));
        let pad = pad.ok_or_else(|| error("it has no padding token [PAD]".to_owned()))? as i32;
        // Padding and truncation are ours: a file's settings know nothing of the context length.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|why| error(why.to_string()))?;
        // One more than the highest number: numbers may have gaps, the embedding table may not.
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |highest| highest as usize + 1);
        Ok(Self { inner: Arc::new(inner), pad, vocab_size })
    }

    /// Rows that an embedding table needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token number that fills up short texts.
    pub fn pad(&self) -> i32 {
        self.pad
    }

    /// Tokenises `text` into `out` (`[context]`), cut or padded to its length. No special tokens are added: FLIP puts
    /// no `[CLS]` in front.
    ///
    /// # Errors
    /// If the tokenizer's model refuses the text (one without an unknown token may).
    pub fn encode(&self, text: &str, out: &mut [i32]) -> Result<()> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|why| Error::Tokenizer { name: format!("on {text:?}"), problem: why.to_string() })?;
        let ids = encoding.get_ids();
        let used = ids.len().min(out.len());
        for (to, &id) in out.iter_mut().zip(ids) {
            *to = id as i32;
        }
        out[used..].fill(self.pad);
        Ok(())
    }

    /// The tokenizer as a `tokenizer.json`, to be kept beside a model.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        let failed = |why: tokenizers::Error| Error::Tokenizer { name: "to JSON".to_owned(), problem: why.to_string() };
        // The padding token travels along, whatever it is called.
        let mut inner = (*self.inner).clone();
        let token = inner.id_to_token(self.pad as u32).unwrap_or_default();
        let padding = tokenizers::PaddingParams { pad_id: self.pad as u32, pad_token: token, ..Default::default() };
        inner.with_padding(Some(padding));
        inner.to_string(false).map_err(failed)
    }
}

fn bert(vocab: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = WordPiece::builder().vocab(WordPiece::read_bytes(vocab.as_bytes())?).build()?;
    let special = |token: &str| token.starts_with('[') && token.ends_with(']');
    let cased = vocab.lines().any(|token| !special(token) && token.chars().any(char::is_uppercase));
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(BertNormalizer::new(true, true, None, !cased)));
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    match tokenizer.token_to_id("[UNK]") {
        Some(_) => Ok(tokenizer),
        None => Err("no line is [UNK]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nphoto\n##graph\ncafe\n,\nof\n##s\n猫\n";

    fn encode(tokenizer: &Tokenizer, text: &str, context: usize) -> Vec<i32> {
        let mut out = vec![-1; context];
        tokenizer.encode(text, &mut out).unwrap();
        out
    }

    /// Numbers are line numbers; lower case, no accents, commas and Chinese characters apart, longest piece first
    /// (Devlin et al. 2018; the `bert` repository's `tokenization.py`).
    #[test]
    fn bert_vocabulary_gives_the_known_tokens() {
        let tokenizer = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        assert_eq!((tokenizer.vocab_size(), tokenizer.pad()), (12, 0));
        assert_eq!(encode(&tokenizer, "A Photographs,of CAFÉ猫", 10), [4, 5, 6, 10, 8, 9, 7, 11, 0, 0]);
        assert_eq!(encode(&tokenizer, "a zebra", 4), [4, 1, 0, 0]);
        assert_eq!(encode(&tokenizer, "photographs of a cafe", 3), [5, 6, 10]);
        assert_eq!(encode(&tokenizer, "", 2), [0, 0]);
    }

    #[test]
    fn a_cased_vocabulary_keeps_case() {
        let tokenizer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\nParis\nparis\n", "vocab.txt").unwrap();
        assert_eq!(encode(&tokenizer, "Paris paris PARIS", 3), [2, 3, 1]);
    }

    #[test]
    fn json_gives_the_same_tokens_and_adds_nothing() {
        let tokenizer = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        let json = tokenizer.to_json().unwrap();
        let again = Tokenizer::from_bytes(json.as_bytes(), "tokenizer.json").unwrap();
        assert_eq!(again.vocab_size(), 12);
        for text in ["A Photographs,of CAFÉ猫", "x", ""] {
            assert_eq!(encode(&again, text, 8), encode(&tokenizer, text, 8));
        }
    }

    #[test]
    fn what_is_no_tokenizer_is_refused() {
        let error = |bytes: &[u8]| Tokenizer::from_bytes(bytes, "file").unwrap_err().to_string();
        assert!(error(b"{\"no\": 1}").contains("tokenizer.json"));
        assert!(error(b"[UNK]\na\n").contains("[PAD]"));
        assert!(error(b"[PAD]\na\n").contains("[UNK]"));
        assert!(error(b"\xFF").contains("UTF-8"));
        assert!(Tokenizer::from_file(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }
}
