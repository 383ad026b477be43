//! What a file that is not a tokenizer is: many files of a model look like one.

use serde_json::Value;

use crate::data::format::{sniff, tar};
use crate::data::text::shorten;

/// Where the right file comes from.
const WANTED: &str = "the tokenizer.json (`save_pretrained` of Transformers' fast tokenizers writes it)";

/// Parts of a tokenizer.json whose kind the library does not know: it only says that no variant fits.
const UNTAGGED: [(&str, &str, &str); 3] = [
    ("ModelUntagged", "model", "BPE, WordPiece, WordLevel and Unigram are known"),
    ("NormalizerUntagged", "normalizer", "it may be newer than flipk, or damaged"),
    ("PreTokenizerUntagged", "pre_tokenizer", "it may be newer than flipk, or damaged"),
];

/// Says what the library's message about a tokenizer.json means, if that is known.
pub(super) fn of_message(message: &str, text: &str) -> Option<String> {
    let (_, part, known) = UNTAGGED.iter().find(|(kind, ..)| message.contains(&format!(" {kind} ")))?;
    let file: Value = serde_json::from_str(text).ok()?;
    let kind = file[part]["type"].as_str().map(|kind| format!(" of the type {:?}", shorten(kind))).unwrap_or_default();
    Some(format!("as tokenizer.json: its `{part}`{kind} cannot be read; {known}"))
}

/// Says what a file is that is empty or not text.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<String> {
    let what = if bytes.iter().all(u8::is_ascii_whitespace) {
        return Some("it is empty".to_owned());
    } else if bytes.starts_with(b"\x1F\x8B") {
        "compressed with gzip, as CLIP's own bpe_simple_vocab_16e6.txt.gz is".to_owned()
    } else if bytes.starts_with(b"\n") && bytes[..bytes.len().min(256)].contains(&0x15) {
        // A Protobuf message that begins with a piece, whose score is a float.
        "a SentencePiece model".to_owned()
    } else if tar::is_start(bytes) {
        "a tar archive; shards are for --data".to_owned()
    } else {
        sniff(bytes).filter(|found| found.sure)?.what
    };
    Some(format!("it is {what}. Give {WANTED}, or the vocab.txt of a BERT model"))
}

/// Says what a text is that does not parse as a tokenizer, if it is of a known kind.
pub(super) fn of_text(text: &str) -> Option<String> {
    let head = &text.as_bytes()[..text.len().min(4096)];
    let markup = sniff(head).map(|found| found.what).filter(|what| what.contains("a server's error"));
    let what = match serde_json::from_str(text) {
        Ok(Value::Object(fields)) if fields.contains_key("model") => return None,
        Ok(Value::Object(fields)) if !fields.is_empty() && fields.values().all(Value::is_u64) => {
            "a vocab.json, which has the tokens of a tokenizer but not its rules"
        }
        Ok(Value::Object(fields)) if fields.keys().any(|key| key.contains("token")) => {
            "a file of settings such as tokenizer_config.json, without tokens"
        }
        Ok(Value::Object(_)) => "JSON, but it has no `model`",
        Ok(Value::Array(_)) => "a list in JSON",
        Ok(_) => return None,
        Err(_) if text.trim_start().starts_with('{') => return None,
        Err(_) if text.starts_with("#version") => {
            "a merges.txt, which has the merges of a tokenizer but not its tokens"
        }
        Err(_) if is_table(text) => "a table of tokens and numbers",
        // A vocabulary may begin with `<s>`.
        Err(_) if markup.is_some() => markup.as_deref().unwrap_or_default(),
        Err(_) => return None,
    };
    Some(format!("it is {what}. Give {WANTED}, or the vocab.txt of a BERT model (a token per line)"))
}

/// Whether each of the first lines is a token and a number.
fn is_table(text: &str) -> bool {
    let is_row = |line: &str| line.rsplit_once(['\t', ' ', ',']).is_some_and(|(_, last)| last.parse::<f64>().is_ok());
    text.lines().take(8).all(is_row)
}

#[cfg(test)]
mod tests {
    use crate::data::sample::Tokenizer;
    use crate::data::testing::append;

    #[test]
    fn other_files_of_a_model_are_named() {
        let tar = {
            let mut bytes = Vec::new();
            append(&mut bytes, "1.jpg", b"image");
            bytes
        };
        for (bytes, words) in [
            (&b""[..], "it is empty"),
            (b"\n\n \n", "it is empty"),
            (b"\x1F\x8B\x08\0rest", "compressed with gzip"),
            (b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02", "a SentencePiece model"),
            (&tar, "a tar archive"),
            (b"PK\x03\x04", "a zip archive"),
            (br#"{"[PAD]": 0, "[UNK]": 1, "a": 2}"#, "a vocab.json"),
            (br#"{"tokenizer_class": "BertTokenizer", "do_lower_case": true}"#, "a file of settings"),
            (b"{}", "it has no `model`"),
            (br#"["[PAD]", "[UNK]"]"#, "a list in JSON"),
            (b"<!DOCTYPE html><html><title>404</title></html>", "an HTML page (`404`)"),
            (br#"{"model": {"type": "Foo", "vocab": {}}}"#, "its `model` of the type \"Foo\" cannot be read; BPE"),
            (b"#version: 0.2\ni n\nt h\n", "a merges.txt"),
            (b"<unk>\t0\n<s>\t0\n\xE2\x96\x81a\t-2.3\n", "a table of tokens and numbers"),
            (br#"{"model": {"type": "BPE", "vocab": {"a""#, "as tokenizer.json: EOF"),
        ] {
            let error = Tokenizer::from_bytes(bytes, "file").unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        let missing = Tokenizer::from_file(std::path::Path::new("bert-base-uncased")).unwrap_err().to_string();
        assert!(missing.contains("bert-base-uncased") && missing.contains("not fetched by name"), "{missing}");
    }

    const WORDS: &str = r#""normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "added_tokens": [], "truncation": null, "version": "1.0""#;

    fn words(vocab: &str, padding: &str) -> Result<Tokenizer, String> {
        let model = format!(r#"{{"type": "WordLevel", "unk_token": "[UNK]", "vocab": {vocab}}}"#);
        let json = format!(r#"{{{WORDS}, "padding": {padding}, "model": {model}}}"#);
        Tokenizer::from_bytes(json.as_bytes(), "file").map_err(|error| error.to_string())
    }

    /// They would be rows that the model's table does not have.
    #[test]
    fn numbers_beyond_the_table_are_refused() {
        let padding = |id: u32| {
            format!(
                r#"{{"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": {id},
                "pad_type_id": 0, "pad_token": "[PAD]"}}"#
            )
        };
        let vocab = r#"{"[UNK]": 0, "[PAD]": 1, "a": 2}"#;
        assert_eq!(words(vocab, &padding(1)).unwrap().pad(), 1);
        let error = words(vocab, &padding(5000)).unwrap_err();
        assert!(error.contains("padding token has the number 5000"), "{error}");
        let error = words(r#"{"[UNK]": 0, "[PAD]": 1, "a": 4000000000}"#, "null").unwrap_err();
        assert!(error.contains("\"a\" has the number 4000000000"), "{error}");
    }

    #[test]
    fn a_unigram_model_knows_what_is_unknown() {
        let read = |unk: &str| {
            let vocab = r#"[["[PAD]", 0.0], ["[UNK]", 0.0], ["red", -1.0]]"#;
            let model = format!(r#"{{"type": "Unigram", "unk_id": {unk}, "vocab": {vocab}, "byte_fallback": false}}"#);
            let json = format!(r#"{{{WORDS}, "padding": null, "model": {model}}}"#);
            Tokenizer::from_bytes(json.as_bytes(), "file").unwrap()
        };
        assert!(read("1").describe().contains("unknown words become [UNK] (1)"), "{}", read("1").describe());
        assert!(read("null").describe().contains("no token for unknown words"));
    }
}
