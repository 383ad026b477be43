//! Text to token numbers, with the `tokenizers` crate.

mod bert;
mod case;
mod clean;
mod clip;
#[cfg(test)]
mod clip_tests;
mod frame;
mod misfit;
mod special;
mod stored;
#[cfg(test)]
mod tests;
mod words;

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use tokenizers::{Encoding, NormalizedString, Normalizer};

use self::case::set_case;
pub use self::frame::Texts;
use self::frame::{Frame, ends, fill};
use self::special::{padding, shared_number, unknown};
pub(crate) use self::words::Words;
use crate::data::broken::confined;
use crate::data::error::{DataError, Result};
use crate::data::store::embedded;
use crate::data::text;

/// Options of a tokenizer; `None` leaves the choice to the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Whether text is lower-cased.
    pub lower_case: Option<bool>,
    /// The padding token.
    pub pad_token: Option<String>,
    /// Whether a start and an end token are added.
    pub special_tokens: Option<bool>,
    /// What the model expects; a file that flipk wrote says so itself.
    pub texts: Texts,
}

/// A tokenizer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    pad: i32,
    unknown: Option<u32>,
    vocab_size: usize,
    frame: Frame,
    /// The start and end tokens, if they are added.
    ends: Option<[i32; 2]>,
    /// Why case is kept or not, and why this is the padding token, unless the file says so.
    reasons: [Option<String>; 2],
    /// See [`Self::fingerprint`].
    fingerprint: Arc<OnceLock<u64>>,
}

/// Bytes of a text that are tokenised. A text this long fills any context, and a text of megabytes would take seconds
/// at each visit.
const MAX_TEXT: usize = 1 << 16;
/// Token numbers must be below this: 16 times the largest vocabularies in use.
const MAX_TOKENS: u32 = 1 << 22;

impl Tokenizer {
    /// The name of the built-in tokenizer of CLIP.
    pub const CLIP: &str = "clip";
    /// Entries of CLIP's vocabulary.
    pub const CLIP_VOCAB: usize = clip::VOCAB;

    /// Reads a `tokenizer.json`, or a BERT `vocab.txt`: one WordPiece per line, lower-cased unless more than 1 % of
    /// its tokens have capitals. In a folder, the file of either name is read. The path `clip` is the built-in
    /// tokenizer of CLIP.
    ///
    /// # Errors
    /// A file that cannot be read or is neither; a padding token that is not in it; no padding token.
    pub fn open(path: &Path, options: &TokenizerOptions) -> Result<Self> {
        let name = path.display().to_string();
        if path == Path::new(Self::CLIP) {
            return Self::clip(options);
        }
        if path.is_dir() {
            let file =
                ["tokenizer.json", "vocab.txt"].map(|name| path.join(name)).into_iter().find(|file| file.is_file());
            let problem = "it is a folder without a tokenizer.json or vocab.txt; name the file".to_owned();
            return Self::open(&file.ok_or(DataError::Tokenizer { name, problem })?, options);
        }
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound if path.is_relative() && path.components().count() < 3 => {
                let problem = "there is no such file; tokenizers are not fetched by name: download the tokenizer.json, \
                               or the vocab.txt of a BERT model";
                DataError::Tokenizer { name: name.clone(), problem: problem.to_owned() }
            }
            _ => DataError::Read { path: path.to_owned(), source },
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
        Self::read(embedded::TOKENIZER, "embedded:tokenizer", options)
    }

    /// CLIP's tokenizer, with OpenCLIP's cleaning. It pads with 0, as OpenCLIP does.
    ///
    /// # Errors
    /// A padding token that is not in it.
    pub fn clip(options: &TokenizerOptions) -> Result<Self> {
        let lower = options.lower_case.unwrap_or(true);
        let special_tokens = options.special_tokens.unwrap_or(options.texts != Texts::Flip);
        let frame = Frame { clean: true, lower, special_tokens, strip_sep: false };
        Self::of_clip(frame, options.pad_token.as_deref(), Self::CLIP)
    }

    fn of_clip(frame: Frame, pad_token: Option<&str>, name: &str) -> Result<Self> {
        let inner = clip::built_in();
        let error = |problem: String| DataError::Tokenizer { name: name.to_owned(), problem };
        let (pad, why) = match pad_token {
            Some(_) => padding(&inner, pad_token).map_err(error)?,
            None => (0, None),
        };
        let ends = frame.special_tokens.then_some([clip::VOCAB as i32 - 2, clip::VOCAB as i32 - 1]);
        let reasons = [None, why];
        let (vocab_size, fingerprint) = (clip::VOCAB, Arc::default());
        Ok(Self { inner, pad: pad as i32, unknown: None, vocab_size, frame, ends, reasons, fingerprint })
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
        let error = |problem: String| DataError::Tokenizer { name: name.to_owned(), problem };
        if let Some(problem) = misfit::of_bytes(bytes) {
            return Err(error(problem));
        }
        let text = text::decode(bytes).map_err(|why| error(why.to_string()))?;
        let misfit =
            |why: String| error(misfit::of_text(text).or_else(|| misfit::of_message(&why, text)).unwrap_or(why));
        let (mut inner, case, written) = match text.trim_start().starts_with('{') {
            true => {
                let (mut inner, written) = parse(text).map_err(|why| misfit(format!("as tokenizer.json: {why}")))?;
                let frame = written.unwrap_or_else(|| Frame::of_model(options.texts, &inner));
                if frame.clean && clip::is_clip(&inner) {
                    let special_tokens = options.special_tokens.unwrap_or(frame.special_tokens);
                    let lower = options.lower_case.unwrap_or(frame.lower);
                    let own = inner.get_padding().filter(|_| written.is_some());
                    let own = own.and_then(|padding| inner.id_to_token(padding.pad_id));
                    let pad_token = options.pad_token.as_deref().or(own.as_deref());
                    return Self::of_clip(Frame { special_tokens, lower, ..frame }, pad_token, name);
                }
                if let Some([one, other, number]) = shared_number(&inner) {
                    return Err(error(format!("its tokens {one} and {other} have the same number, {number}")));
                }
                if let Some(lower) = options.lower_case {
                    let normalizer = set_case(inner.get_normalizer().cloned(), lower);
                    inner.with_normalizer(normalizer);
                }
                (inner, None, written)
            }
            false => {
                let read = bert::read(text, options.lower_case);
                let (inner, case) = read.map_err(|why| misfit(format!("as BERT vocab.txt: {why}")))?;
                (inner, Some(case), None)
            }
        };
        let frame = written.unwrap_or_else(|| Frame::of_model(options.texts, &inner));
        let special_tokens = options.special_tokens.unwrap_or(frame.special_tokens);
        // Its own rules say whether it lower-cases.
        let frame = Frame { special_tokens, lower: false, ..frame };
        let ends = match (special_tokens, ends(&inner)) {
            (false, _) => None,
            (true, Some(ends)) => Some(ends.map(|number| number as i32)),
            (true, None) => {
                let problem = "it has no start and end tokens such as [CLS] and [SEP]; pass --special-tokens no";
                return Err(error(problem.to_owned()));
            }
        };
        let (pad, pads) = padding(&inner, options.pad_token.as_deref()).map_err(error)?;
        // `encode` pads and truncates, to the model's context.
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
        let (inner, pad, reasons) = (Arc::new(inner), pad as i32, [case, pads]);
        Ok(Self { inner, pad, unknown, vocab_size, frame, ends, reasons, fingerprint: Arc::default() })
    }

    /// Rows that a token embedding table needs: the highest token number plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that a table of `rows` has a row for every token.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if it has fewer.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        match self.vocab_size <= rows {
            true => Ok(()),
            false => {
                let problem = format!(
                    "it has {} tokens, and the model's table of tokens has {rows} rows; use the tokenizer that the model \
                     was trained with",
                    self.vocab_size
                );
                Err(DataError::Tokenizer { name: "with this model".to_owned(), problem })
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
        let clean = if self.frame.clean { "cleaned as by OpenCLIP, " } else { "" };
        let ends = self.ends.map_or(String::new(), |[start, end]| {
            let stripped = if self.frame.strip_sep { ", which becomes 0" } else { "" };
            format!("between {} and {}{stripped}; ", token(start as u32), token(end as u32))
        });
        format!(
            "tokenizer: {} tokens; {clean}{}{case}, accents {accents}; {ends}{} pads{pads}; {unknown}",
            self.vocab_size,
            if self.lowers() { "lower-cased" } else { "case kept" },
            token(self.pad as u32),
        )
    }

    /// Whether a start and an end token are added.
    pub fn adds_special_tokens(&self) -> bool {
        self.ends.is_some()
    }

    /// Whether text is lower-cased.
    pub(crate) fn lowers(&self) -> bool {
        !self.normalised("A").contains('A')
    }

    /// A text after the tokenizer's normalizer, in composed form.
    fn normalised(&self, text: &str) -> String {
        let (mut cleaned, inner) = (String::new(), &self.inner);
        let text = self.clean(text, &mut cleaned);
        let mut normalised = NormalizedString::from(text);
        let done = inner.get_normalizer().map_or(Ok(()), |normalizer| normalizer.normalize(&mut normalised));
        if done.is_ok() { text::compose(normalised.get()).into_owned() } else { text.to_owned() }
    }

    /// The beginning of a text, cleaned if that is asked for; `cleaned` is memory for it.
    fn clean<'a>(&self, text: &'a str, cleaned: &'a mut String) -> &'a str {
        let text = head(text, MAX_TEXT);
        if !self.frame.clean {
            return text;
        }
        clean::clean(text, self.frame.lower && self.is_built_in(), cleaned);
        cleaned
    }

    /// How many tokens `text` has with those around it, without truncation, and its unknown words.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(crate) fn unknown_words(&self, text: &str) -> Result<(usize, Vec<String>)> {
        let mut cleaned = String::new();
        let text = self.clean(text, &mut cleaned);
        let encoding = self.inner.encode(text, false).map_err(|source| refused(text, source))?;
        let pairs = encoding.get_ids().iter().zip(encoding.get_offsets());
        let unknown = pairs.filter(|(id, _)| Some(**id) == self.unknown);
        let words = unknown.map(|(_, &(start, end))| text.get(start..end).unwrap_or_default().to_owned()).collect();
        Ok((encoding.len() + self.ends.map_or(0, |ends| ends.len()), words))
    }

    /// Tokenises `text` into `out` (`[context]`), truncated or padded to its length. Special tokens are added only if
    /// the options or the model say so: FLIP uses no `[CLS]`.
    ///
    /// # Errors
    /// [`DataError::Encode`] if the tokenizer's model refuses the text (one without an unknown token may).
    pub fn encode(&self, text: &str, out: &mut [i32]) -> Result<()> {
        self.row(self.encoding(text)?.get_ids().iter().copied(), out);
        Ok(())
    }

    fn encoding(&self, text: &str) -> Result<Encoding> {
        let mut cleaned = String::new();
        let text = self.clean(text, &mut cleaned);
        self.inner.encode_fast(text, false).map_err(|source| refused(text, source))
    }

    /// Fills `out` (`[context]`) with a text's tokens, those around them, and padding.
    fn row(&self, ids: impl ExactSizeIterator<Item = u32>, out: &mut [i32]) {
        if let Some(ends) = self.ends {
            return fill(ends, ids, self.frame.strip_sep, self.pad, out);
        }
        let used = ids.len().min(out.len());
        for (to, id) in out.iter_mut().zip(ids) {
            *to = id as i32;
        }
        out[used..].fill(self.pad);
    }

    /// The tokenizer as a `tokenizer.json`, to be stored with a model.
    ///
    /// # Errors
    /// [`DataError::TokenizerJson`] if it cannot be written as JSON.
    pub fn to_json(&self) -> Result<String> {
        // Keeps the padding token, whatever its name.
        let mut inner = (*self.inner).clone();
        let token = inner.id_to_token(self.pad as u32).unwrap_or_default();
        let padding = tokenizers::PaddingParams { pad_id: self.pad as u32, pad_token: token, ..Default::default() };
        inner.with_padding(Some(padding));
        let text = inner.to_string(false).map_err(DataError::TokenizerJson)?;
        let json = |error: serde_json::Error| DataError::TokenizerJson(error.into());
        let mut file: Value = serde_json::from_str(&text).map_err(json)?;
        if self.is_built_in() {
            clip::add_rules(&mut file, self.frame.lower);
        }
        self.frame.write(&mut file).map_err(json)?;
        serde_json::to_string(&file).map_err(json)
    }

    /// Whether this is CLIP's, for cleaned texts.
    fn is_built_in(&self) -> bool {
        self.frame.clean && self.vocab_size == clip::VOCAB && Arc::ptr_eq(&self.inner, &clip::built_in())
    }
}

/// A `tokenizer.json`, and what it says about rows if flipk wrote it.
fn parse(text: &str) -> tokenizers::Result<(tokenizers::Tokenizer, Option<Frame>)> {
    // The library panics on some files, among them those that are cut within the decoder.
    let file: Value = serde_json::from_str(text)?;
    let inner = confined(|| Ok(tokenizers::Tokenizer::from_str(text))).unwrap_or_else(|why| Err(why.detail.into()))?;
    Ok((inner, Frame::of_file(&file)))
}

/// At most the first `bytes` of a text, up to the end of a character.
fn head(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

fn refused(text: &str, source: tokenizers::Error) -> DataError {
    const MAX_SHOWN: usize = 80;
    DataError::Encode { text: head(text, MAX_SHOWN).to_owned(), source }
}
