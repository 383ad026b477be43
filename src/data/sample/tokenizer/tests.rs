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
    for text in
        [format!("\u{FEFF}{VOCAB}"), VOCAB.replace('\n', "\r\n"), format!("\u{FEFF}{}", VOCAB.replace('\n', "\r\n"))]
    {
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
    assert_eq!(tokenizer.unknown_words("A Zebra, a CAFÉ").unwrap(), (5, vec!["Zebra".to_owned()]));
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
