use super::*;

const OPEN_CLIP: Texts = Texts::OpenClip { strip_sep: false };

fn clip() -> Tokenizer {
    Tokenizer::clip(&TokenizerOptions { texts: OPEN_CLIP, ..TokenizerOptions::default() }).unwrap()
}

fn row(tokenizer: &Tokenizer, text: &str, context: usize) -> Vec<i32> {
    let mut out = vec![-1; context];
    tokenizer.encode(text, &mut out).unwrap();
    out
}

/// Recorded by `tools/peers/clip_tokens.py --fixture`, which compares thousands of texts.
#[test]
fn tokens_are_those_of_open_clip() {
    let file = include_str!("../../../../tests/fixtures/tokens/clip.json");
    let recorded: Vec<(String, Vec<i32>)> = serde_json::from_str(file).unwrap();
    assert!(recorded.len() > 100);
    let built_in = clip();
    let again = Tokenizer::from_bytes(built_in.to_json().unwrap().as_bytes(), "tokenizer.json").unwrap();
    for (text, mut expected) in recorded {
        expected.resize(77, 0);
        assert_eq!(row(&built_in, &text, 77), expected, "{text:?}");
        assert_eq!(row(&again, &text, 77), expected, "{text:?}");
    }
}

#[test]
fn the_end_token_is_kept_where_a_text_is_cut() {
    let clip = clip();
    assert_eq!(row(&clip, "a photo of a cat", 8), [49_406, 320, 1125, 539, 320, 2368, 49_407, 0]);
    assert_eq!(row(&clip, "a photo of a cat", 7), [49_406, 320, 1125, 539, 320, 2368, 49_407]);
    assert_eq!(row(&clip, "a photo of a cat", 4), [49_406, 320, 1125, 49_407]);
    assert_eq!(row(&clip, "a photo of a cat", 1), [49_407]);
    assert_eq!(row(&clip, " &nbsp; ", 3), [49_406, 49_407, 0]);
    let flip = Tokenizer::open(Path::new("clip"), &TokenizerOptions::default()).unwrap();
    assert_eq!(row(&flip, "a photo of a cat", 4), [320, 1125, 539, 320]);
    assert_eq!(clip.unknown_words("a cat").unwrap(), (4, vec![]));
}

#[test]
fn a_run_keeps_its_choices() {
    let choices = [(Some(false), None, OPEN_CLIP), (None, Some(false), OPEN_CLIP), (None, None, Texts::Flip)];
    for (lower_case, special_tokens, texts) in choices {
        let pad_token = Some("<|endoftext|>".to_owned());
        let options = TokenizerOptions { lower_case, special_tokens, texts, pad_token };
        let json = Tokenizer::clip(&options).unwrap().to_json().unwrap();
        let again = Tokenizer::from_bytes(json.as_bytes(), "tokenizer.json").unwrap();
        assert_eq!(again.to_json().unwrap(), json);
        assert_eq!(
            (again.pad(), again.adds_special_tokens()),
            (49_407, special_tokens.is_none() && texts == OPEN_CLIP)
        );
        assert_eq!(again.lowers(), lower_case.is_none());
    }
}

/// The same file without flipk's key: whether it is cleaned depends on whose model it is for.
#[test]
fn a_file_of_hugging_face_is_cleaned_for_models_of_open_clip() {
    let mut file: Value = serde_json::from_str(&clip().to_json().unwrap()).unwrap();
    file["padding"] = Value::Null;
    let read = |texts| {
        let options = TokenizerOptions { texts, ..TokenizerOptions::default() };
        Tokenizer::read(file.to_string().as_bytes(), "tokenizer.json", &options).unwrap()
    };
    let (text, expected) = ("a &amp; b", row(&clip(), "a & b", 6));
    assert_eq!(row(&read(OPEN_CLIP), text, 6), expected);
    assert_eq!(read(OPEN_CLIP).pad(), 0);
    let other = read(Texts::HuggingFace);
    assert_eq!((row(&other, "A & b", 6)[..5].to_vec(), other.pad()), (expected[..5].to_vec(), 49_407));
    assert_ne!(row(&other, text, 6), expected);
    assert_eq!(row(&read(Texts::Flip), "a & b", 3), expected[1..4]);
}

/// OpenCLIP's `HFTokenizer`: cleaned, but lower-cased only by the tokenizer itself.
#[test]
fn bert_gets_its_own_special_tokens() {
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncafe\n&\n";
    let read = |texts| {
        Tokenizer::read(vocab, "vocab.txt", &TokenizerOptions { texts, ..TokenizerOptions::default() }).unwrap()
    };
    let bert = read(OPEN_CLIP);
    assert_eq!(row(&bert, "A cafÃ© &amp;", 6), [2, 4, 5, 6, 3, 0]);
    assert_eq!(row(&bert, "a a a a", 4), [2, 4, 4, 3]);
    let stripped = read(Texts::OpenClip { strip_sep: true });
    assert_eq!(row(&stripped, "a a a a", 4), [2, 4, 4, 0]);
    let again = Tokenizer::from_bytes(stripped.to_json().unwrap().as_bytes(), "file").unwrap();
    assert_eq!(row(&again, "A cafÃ©", 5), [2, 4, 5, 0, 0]);
    assert_eq!(row(&read(Texts::Flip), "A &", 3), [4, 6, 0]);
}

proptest::proptest! {
    #[test]
    fn any_text_has_tokens(parts in proptest::collection::vec(proptest::prelude::any::<Vec<u8>>(), 0..4)) {
        // Bytes read as Latin-1 are mojibake, mostly.
        let text: String = parts.iter().flatten().map(|&byte| char::from(byte)).collect();
        let bytes: Vec<u8> = parts.concat();
        for text in [&*text, &*String::from_utf8_lossy(&bytes), &format!("&#{text};&{text}")] {
            let row = row(&clip(), text, 16);
            assert!(row[0] == 49_406 && row.contains(&49_407), "{row:?}");
        }
    }
}
