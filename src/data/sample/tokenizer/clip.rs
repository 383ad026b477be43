//! CLIP's tokenizer: byte pairs, 49,408 entries, built into the program.

use std::io::Read;
use std::sync::{Arc, LazyLock};

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::data::store::embedded;

/// Entries of the vocabulary.
pub(super) const VOCAB: usize = 49_408;
/// The start and end tokens, as Hugging Face calls them.
pub(super) const ENDS: [&str; 2] = ["<|startoftext|>", "<|endoftext|>"];
/// Words, after cleaning. Python's pattern ignores case, so `ſ` is an `s`, too.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

static BUILT_IN: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(build().expect("the merges in this repository are sound")));

/// The tokenizer, for texts that are clean already.
pub(super) fn built_in() -> Arc<Tokenizer> {
    BUILT_IN.clone()
}

/// Whether a tokenizer has CLIP's tokens with CLIP's numbers.
pub(super) fn is_clip(other: &Tokenizer) -> bool {
    let [start, end] = ENDS.map(|token| other.token_to_id(token));
    // Reading the merges is for those that may be it.
    (start, end) == (Some(VOCAB as u32 - 2), Some(VOCAB as u32 - 1))
        && other.get_vocab_size(true) == VOCAB
        && other.get_vocab(true) == built_in().get_vocab(true)
}

/// Adds what Hugging Face's file has and clean texts do not need.
pub(super) fn add_rules(file: &mut Value, lower: bool) {
    let mut normalizers = json!([
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    ]);
    if let (true, Some(list)) = (lower, normalizers.as_array_mut()) {
        list.push(json!({"type": "Lowercase"}));
    }
    file["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
    let [start, end] = ENDS.map(|token| json!([token, if token == ENDS[0] { VOCAB - 2 } else { VOCAB - 1 }]));
    file["post_processor"] = json!({"type": "RobertaProcessing", "sep": end, "cls": start, "trim_offsets": false, "add_prefix_space": false});
}

/// The letters that stand for the 256 bytes, in the order of their tokens.
fn letters() -> impl Iterator<Item = char> + Clone {
    let plain = ('!'..='~').chain('¡'..='¬').chain('®'..='ÿ');
    plain.chain((0x100u32..0x100 + 256 - 188).filter_map(char::from_u32))
}

fn build() -> tokenizers::Result<Tokenizer> {
    let mut text = String::new();
    GzDecoder::new(embedded::CLIP_MERGES).read_to_string(&mut text)?;
    let merges: Vec<(String, String)> =
        text.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let tokens = letters().map(String::from).chain(letters().map(|letter| format!("{letter}</w>")));
    let tokens = tokens.chain(merges.iter().map(|(a, b)| format!("{a}{b}"))).chain(ENDS.map(str::to_owned));
    let vocab: Vocab = tokens.zip(0..).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(ENDS[1].to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![words.into(), bytes.into()])));
    tokenizer.with_decoder(Some(bytes));
    Ok(tokenizer)
}
