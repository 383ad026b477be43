//! Text to token numbers, with the `tokenizers` crate.

mod bert;
mod misfit;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::IgnoredAny;
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper};

use crate::data::broken::confined;
use crate::data::error::{Error, Result};
use crate::data::{store, text};

/// Options for a tokenizer; `None` leaves the choice to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Whether text is lower-cased.
    pub lower_case: Option<bool>,
    /// The padding token.
    pub pad_token: Option<String>,
}

/// A tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    pad: i32,
    unknown: Option<u32>,
    vocab_size: usize,
    /// Why case is kept or not, and why this is the padding token, if the file does not say so.
    reasons: [Option<String>; 2],
}

/// Names of padding tokens.
const PADDING: &[&str] = &["[PAD]", "<pad>", "<|pad|>", "<PAD>"];
/// End tokens, which pad if there is none of [`PADDING`], as in Transformers' CLIP tokenizer.
const ENDS: &[&str] = &["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|im_end|>"];
/// Bytes of a text that are tokenised at most. A text this long fills any context, and the rest would be dropped; a
/// member of some megabytes would take seconds at each visit.
const LONGEST: usize = 1 << 16;
/// Token numbers are below this: sixteen times as many as the largest vocabularies in use have.
const MAX_TOKENS: u32 = 1 << 22;

impl Tokenizer {
    /// Reads a `tokenizer.json`, or a BERT `vocab.txt`: one WordPiece per line, lower-cased unless more than 1 % of
    /// its tokens have capitals. In a folder, the file of either name is read.
    ///
    /// # Errors
    /// A file that cannot be read or is neither; a padding token that is not in it; no padding token.
    pub fn open(path: &Path, options: &TokenizerOptions) -> Result<Self> {
        let name = path.display().to_string();
        if path.is_dir() {
            let file =
                ["tokenizer.json", "vocab.txt"].map(|name| path.join(name)).into_iter().find(|file| file.is_file());
            let problem = "it is a folder without a tokenizer.json or vocab.txt; name the file".to_owned();
            return Self::open(&file.ok_or(Error::Tokenizer { name, problem })?, options);
        }
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound if path.is_relative() && path.components().count() < 3 => {
                let problem = "there is no such file; tokenizers are not fetched by name: download the tokenizer.json, \
                               or the vocab.txt of a BERT model";
                Error::Tokenizer { name: name.clone(), problem: problem.to_owned() }
            }
            _ => Error::Read { path: path.to_owned(), source },
        })?;
        Self::read(&bytes, &name, options)
    }

    /// As [`Self::open`], with the default options.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::open(path, &TokenizerOptions::default())
    }

    /// The tokenizer of the embedded data set.
    ///
    /// # Errors
    /// A padding token that is not in it.
    pub fn embedded(options: &TokenizerOptions) -> Result<Self> {
        Self::read(store::TOKENIZER, "embedded:tokenizer", options)
    }

    /// As [`Self::read`], with the default options.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn from_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        Self::read(bytes, name, &TokenizerOptions::default())
    }

    /// As [`Self::open`], from the file's bytes; `name` is for messages.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn read(bytes: &[u8], name: &str, options: &TokenizerOptions) -> Result<Self> {
        let error = |problem: String| Error::Tokenizer { name: name.to_owned(), problem };
        if let Some(problem) = misfit::of_bytes(bytes) {
            return Err(error(problem));
        }
        let text = text::decode(bytes).map_err(error)?;
        let misfit =
            |why: String| error(misfit::of_text(text).or_else(|| misfit::of_message(&why, text)).unwrap_or(why));
        let (mut inner, case) = match text.trim_start().starts_with('{') {
            true => {
                // The library panics on some files, among them those that are cut within the decoder.
                let checked = serde_json::from_str(text).map(|_: IgnoredAny| ());
                let whole = checked.map_err(Into::into).and_then(|()| {
                    confined(|| Ok(tokenizers::Tokenizer::from_str(text))).unwrap_or_else(|why| Err(why.detail.into()))
                });
                let mut inner = whole.map_err(|why| misfit(format!("as tokenizer.json: {why}")))?;
                if let Some([one, other, number]) = shared_number(&inner) {
                    return Err(error(format!("its tokens {one} and {other} have the same number, {number}")));
                }
                if let Some(lower) = options.lower_case {
                    let normalizer = set_case(inner.get_normalizer().cloned(), lower);
                    inner.with_normalizer(normalizer);
                }
                (inner, None)
            }
            false => {
                let read = bert::read(text, options.lower_case);
                let (inner, case) = read.map_err(|why| misfit(format!("as BERT vocab.txt: {why}")))?;
                (inner, Some(case))
            }
        };
        let (pad, pads) = padding(&inner, options.pad_token.as_deref()).map_err(error)?;
        // Padding and truncation are done by `encode`, to the model's context.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|why| error(why.to_string()))?;
        // One more than the highest number: unlike the table, the numbers may have gaps.
        let highest = inner.get_vocab(true).into_iter().max_by_key(|(_, number)| *number);
        if let Some((token, number)) = highest.as_ref().filter(|(_, number)| *number >= MAX_TOKENS) {
            return Err(error(format!(
                "its token {token:?} has the number {number}, and the model needs a row for each number up to that; \
                 numbers must be below {MAX_TOKENS}"
            )));
        }
        let vocab_size = highest.map_or(0, |(_, number)| number as usize + 1);
        let unknown = unknown(&inner);
        Ok(Self { inner: Arc::new(inner), pad: pad as i32, unknown, vocab_size, reasons: [case, pads] })
    }

    /// Rows that an embedding table needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a table of `rows` has a row for every token.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if it has fewer.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        match self.vocab_size <= rows {
            true => Ok(()),
            false => {
                let problem = format!(
                    "it has {} tokens, and the model's table of tokens has {rows} rows; use the tokenizer that the model \
                     was trained with",
                    self.vocab_size
                );
                Err(Error::Tokenizer { name: "with this model".to_owned(), problem })
            }
        }
    }

    /// Whether both give every token the same number.
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.inner.get_vocab(true) == other.inner.get_vocab(true)
    }

    /// The number of the padding token.
    pub fn pad(&self) -> i32 {
        self.pad
    }

    /// Size, case, accents, padding and unknown words, in one line.
    pub fn describe(&self) -> String {
        let [case, pads] =
            self.reasons.each_ref().map(|reason| reason.as_ref().map_or(String::new(), |why| format!(" ({why})")));
        let token = |number: u32| format!("{} ({number})", self.inner.id_to_token(number).unwrap_or_default());
        let accents = if self.normalised("\u{E9}").contains('\u{E9}') { "kept" } else { "stripped" };
        let unknown = match self.unknown {
            Some(number) => format!("unknown words become {}", token(number)),
            None => "there is no token for unknown words".to_owned(),
        };
        format!(
            "tokenizer: {} tokens; {}{case}, accents {accents}; {} pads{pads}; {unknown}",
            self.vocab_size,
            if self.lowers() { "lower-cased" } else { "case kept" },
            token(self.pad as u32),
        )
    }

    /// Whether text is lower-cased.
    pub(crate) fn lowers(&self) -> bool {
        !self.normalised("A").contains('A')
    }

    /// A text as it is before it is split into tokens, but in composed form.
    fn normalised(&self, text: &str) -> String {
        let mut normalised = NormalizedString::from(text);
        let done = self.inner.get_normalizer().map_or(Ok(()), |normalizer| normalizer.normalize(&mut normalised));
        if done.is_ok() { text::compose(normalised.get()).into_owned() } else { text.to_owned() }
    }

    /// How many tokens `text` has, whatever the context, and the unknown words.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(crate) fn unknown_words<'a>(&self, text: &'a str) -> Result<(usize, Vec<&'a str>)> {
        let text = head(text, LONGEST);
        let encoding = self.inner.encode(text, false).map_err(|why| refused(text, &why))?;
        let pairs = encoding.get_ids().iter().zip(encoding.get_offsets());
        let unknown = pairs.filter(|(id, _)| Some(**id) == self.unknown);
        Ok((encoding.len(), unknown.map(|(_, &(start, end))| text.get(start..end).unwrap_or_default()).collect()))
    }

    /// Tokenises `text` into `out` (`[context]`), cut or padded to its length. No special tokens are added: FLIP puts
    /// no `[CLS]` in front.
    ///
    /// # Errors
    /// If the tokenizer's model refuses the text (one without an unknown token may).
    pub fn encode(&self, text: &str, out: &mut [i32]) -> Result<()> {
        let text = head(text, LONGEST);
        let encoding = self.inner.encode_fast(text, false).map_err(|why| refused(text, &why))?;
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
        // Keeps the padding token, whatever its name.
        let mut inner = (*self.inner).clone();
        let token = inner.id_to_token(self.pad as u32).unwrap_or_default();
        let padding = tokenizers::PaddingParams { pad_id: self.pad as u32, pad_token: token, ..Default::default() };
        inner.with_padding(Some(padding));
        inner.to_string(false).map_err(failed)
    }
}

/// Two tokens with the same number, and the number: only one of them would be in the tokenizer that a run keeps.
fn shared_number(inner: &tokenizers::Tokenizer) -> Option<[String; 3]> {
    let mut numbers: Vec<(u32, String)> =
        inner.get_vocab(false).into_iter().map(|(token, number)| (number, token)).collect();
    numbers.sort_unstable();
    let pair = numbers.windows(2).find(|pair| pair[0].0 == pair[1].0)?;
    Some([format!("{:?}", pair[0].1), format!("{:?}", pair[1].1), pair[0].0.to_string()])
}

/// At most the first `bytes` of a text, up to the end of a character.
fn head(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

fn refused(text: &str, why: &tokenizers::Error) -> Error {
    const SHOWN: usize = 80;
    let shown = head(text, SHOWN);
    Error::Tokenizer { name: format!("on {shown:?}"), problem: why.to_string() }
}

/// The number of the padding token, and why it is that one, if the file does not say so.
fn padding(inner: &tokenizers::Tokenizer, asked: Option<&str>) -> std::result::Result<(u32, Option<String>), String> {
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

/// The number of the token of unknown words, if the model has one.
fn unknown(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let token = match inner.get_model() {
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        // Its own field is private. No vocabulary has this character; where it becomes its bytes, nothing is unknown.
        ModelWrapper::Unigram(model) => {
            let tokens = model.tokenize("\u{10FFFE}").ok()?;
            return (tokens.len() == 1).then(|| tokens[0].id);
        }
    };
    inner.token_to_id(&token?)
}

/// The same normalizer with or without lower-casing.
fn set_case(normalizer: Option<NormalizerWrapper>, lower: bool) -> Option<NormalizerWrapper> {
    fn without(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
        match normalizer {
            NormalizerWrapper::Lowercase(_) => None,
            NormalizerWrapper::BertNormalizer(mut bert) => {
                bert.lowercase = false;
                Some(bert.into())
            }
            NormalizerWrapper::Sequence(sequence) => {
                Some(Sequence::new(sequence.into_iter().filter_map(without).collect()).into())
            }
            other => Some(other),
        }
    }
    fn lowers(normalizer: &mut NormalizerWrapper) -> bool {
        match normalizer {
            NormalizerWrapper::Lowercase(_) => true,
            NormalizerWrapper::BertNormalizer(bert) => {
                bert.lowercase = true;
                true
            }
            // Only the first that can.
            NormalizerWrapper::Sequence(sequence) => sequence.as_mut().iter_mut().any(lowers),
            _ => false,
        }
    }
    match (normalizer, lower) {
        (None, false) => None,
        (None, true) => Some(Lowercase.into()),
        (Some(normalizer), false) => without(normalizer),
        (Some(mut normalizer), true) => match lowers(&mut normalizer) {
            true => Some(normalizer),
            false => Some(Sequence::new(vec![normalizer, Lowercase.into()]).into()),
        },
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

    /// CLIP's `tokenizer.json` with its settings and without its merges.
    fn clip(more: &[&str]) -> String {
        let mut vocab: Vec<String> = ('!'..='~').map(String::from).collect();
        vocab.extend(('!'..='~').map(|letter| format!("{letter}</w>")));
        vocab.extend(["<|startoftext|>", "<|endoftext|>"].iter().chain(more).map(|token| (*token).to_owned()));
        let numbers: serde_json::Map<_, _> =
            vocab.iter().enumerate().map(|(number, token)| (token.clone(), number.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null, "decoder": null,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>", "fuse_unk": false, "vocab": numbers, "merges": []
            }
        });
        json.to_string()
    }

    #[test]
    fn a_tokenizer_without_a_padding_token_pads_with_its_end_token_or_pad_token() {
        let read = |json: &str, pad_token: Option<&str>| {
            let options = TokenizerOptions { pad_token: pad_token.map(str::to_owned), ..TokenizerOptions::default() };
            Tokenizer::read(json.as_bytes(), "tokenizer.json", &options)
        };
        let end = read(&clip(&[]), None).unwrap();
        assert_eq!((end.pad(), end.vocab_size()), (189, 190));
        let said = end.describe();
        assert!(said.contains("<|endoftext|> (189) pads (it has no padding token; --pad-token"), "{said}");
        assert_eq!(encode(&end, "Hi", 3), [71, 166, 189]);
        // OpenCLIP pads with 0, which is `!`.
        let zero = read(&clip(&[]), Some("!")).unwrap();
        assert_eq!((zero.pad(), encode(&zero, "Hi", 3)), (0, vec![71, 166, 0]));
        assert_eq!(read(&clip(&["<pad>"]), None).unwrap().pad(), 190);
        assert!(read(&clip(&[]), Some("[PAD]")).unwrap_err().to_string().contains("no token \"[PAD]\" (--pad-token)"));
        // The choice is kept in the file.
        let again = Tokenizer::from_bytes(format!("\u{FEFF}{}", zero.to_json().unwrap()).as_bytes(), "again").unwrap();
        assert_eq!(again.pad(), 0);
    }

    #[test]
    fn a_padding_token_beyond_the_vocabulary_is_refused() {
        let whole = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap().to_json().unwrap();
        let beyond = whole.replace("\"pad_id\":0", "\"pad_id\":12");
        assert_ne!(beyond, whole);
        let error = Tokenizer::from_bytes(beyond.as_bytes(), "tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("has the number 12") && error.contains("--pad-token"), "{error}");
        let options = TokenizerOptions { pad_token: Some("[PAD]".to_owned()), ..TokenizerOptions::default() };
        assert_eq!(Tokenizer::read(beyond.as_bytes(), "tokenizer.json", &options).unwrap().pad(), 0);
    }

    #[test]
    fn lower_case_overrides_the_file() {
        let read = |bytes: &str, lower_case| {
            let options = TokenizerOptions { lower_case: Some(lower_case), ..TokenizerOptions::default() };
            Tokenizer::read(bytes.as_bytes(), "file", &options).unwrap()
        };
        let vocab = "[PAD]\n[UNK]\nParis\nparis\n";
        assert_eq!(encode(&read(vocab, true), "Paris PARIS", 2), [3, 3]);
        assert_eq!(encode(&read(vocab, false), "Paris PARIS", 2), [2, 1]);
        assert!(read(vocab, true).describe().contains("1 of its tokens have capitals and cannot occur"));
        let bert = read(VOCAB, true).to_json().unwrap();
        assert_eq!(encode(&read(&bert, false), "A a", 2), [1, 4]);
        for lower in [true, false] {
            // An option that agrees with the file changes nothing.
            let json = read(&bert, lower).to_json().unwrap();
            assert_eq!(read(&json, lower).to_json().unwrap(), json);
        }
        let clip = clip(&[]);
        let number = |letter: char| letter as i32 - '!' as i32 + 94;
        assert_eq!(encode(&read(&clip, true), "A", 1), [number('a')]);
        assert_eq!(encode(&read(&clip, false), "A", 1), [number('A')]);
        let kept = read(&clip, false).to_json().unwrap();
        assert_eq!(encode(&read(&kept, true), "A", 1), [number('a')]);
    }

    #[test]
    fn byte_order_marks_and_line_endings_change_no_token() {
        let plain = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        for text in [
            format!("\u{FEFF}{VOCAB}"),
            VOCAB.replace('\n', "\r\n"),
            format!("\u{FEFF}{}", VOCAB.replace('\n', "\r\n")),
        ] {
            let other = Tokenizer::from_bytes(text.as_bytes(), "vocab.txt").unwrap();
            assert!(other.has_tokens_of(&plain) && (other.vocab_size(), other.pad()) == (12, 0), "{text:?}");
        }
        let fewer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\n", "vocab.txt").unwrap();
        assert!(!fewer.has_tokens_of(&plain));
    }

    #[test]
    fn in_a_folder_the_tokenizer_is_found_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Tokenizer::from_file(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a folder without a tokenizer.json or vocab.txt"), "{error}");
        std::fs::write(folder.path().join("vocab.txt"), VOCAB).unwrap();
        assert_eq!(Tokenizer::from_file(folder.path()).unwrap().vocab_size(), 12);
    }

    #[test]
    fn more_tokens_than_rows_are_an_error() {
        let tokenizer = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        tokenizer.check_rows(12).unwrap();
        let error = tokenizer.check_rows(11).unwrap_err().to_string();
        assert!(error.contains("12 tokens") && error.contains("11 rows"), "{error}");
    }

    /// A member of megabytes must not take seconds.
    #[test]
    fn a_huge_text_has_the_tokens_of_its_beginning() {
        let tokenizer = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        let huge = format!("a {} {}", "é".repeat(50_000), "photo ".repeat(1_000_000));
        assert_eq!(encode(&tokenizer, &huge, 4), [4, 1, 0, 0]);
        assert_eq!(encode(&tokenizer, &"photo ".repeat(1_000_000), 300), [5; 300]);
        assert_eq!(encode(&tokenizer, &format!("a {}", "photo".repeat(1_000_000)), 3), [4, 1, 0]);
    }

    #[test]
    fn unknown_words_are_named() {
        let tokenizer = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap();
        assert_eq!(tokenizer.unknown_words("A Zebra, a CAFÉ").unwrap(), (5, vec!["Zebra"]));
    }

    /// The library panics on a decoder that it cannot read, also on one that is cut.
    #[test]
    fn a_damaged_decoder_is_an_error() {
        let whole = Tokenizer::from_bytes(VOCAB.as_bytes(), "vocab.txt").unwrap().to_json().unwrap();
        let error = |json: &str| Tokenizer::from_bytes(json.as_bytes(), "file").unwrap_err().to_string();
        let start = whole.find("\"decoder\":").unwrap() + "\"decoder\":".len();
        assert!(error(&whole[..start + 2]).contains("EOF while parsing"), "{}", error(&whole[..start + 2]));
        let other = whole.replacen("\"decoder\":null", "\"decoder\":7", 1);
        assert!(other != whole && error(&other).contains("as tokenizer.json"), "{}", error(&other));
    }

    #[test]
    fn two_tokens_with_one_number_are_refused() {
        let twice = clip(&[]).replace("\"a\":64", "\"a\":65");
        assert_ne!(twice, clip(&[]));
        let error = Tokenizer::from_bytes(twice.as_bytes(), "file").unwrap_err().to_string();
        assert!(error.contains("its tokens \"a\" and \"b\" have the same number, 65"), "{error}");
    }

    #[test]
    fn files_that_are_not_tokenizers_are_refused() {
        let error = |bytes: &[u8]| Tokenizer::from_bytes(bytes, "file").unwrap_err().to_string();
        assert!(error(b"{\"no\": 1}").contains("tokenizer.json"));
        assert!(error(b"[UNK]\na\n").contains("[PAD]"));
        assert!(error(b"[PAD]\na\n").contains("[UNK]"));
        assert!(error(b"\xFF").contains("UTF-8"));
        assert!(error(b"\xFF\xFE[\0P\0").contains("UTF-16"));
        assert!(Tokenizer::from_file(Path::new("/nonexistent")).unwrap_err().to_string().contains("/nonexistent"));
    }
}
