//! Packs with stored tokens give the batches of packs without.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::data::dataset::{Dataset, Order, Survey, TrainingData};
use crate::data::loader::{Batch, Loader, LoaderConfig, Position};
use crate::data::sample::image::Decoding;
use crate::data::sample::{CaptionKeys, CaptionLines, CaptionVariation, Texts, Tokenizer, TokenizerOptions};
use crate::data::testing::{Archive as Made, png};
use crate::data::tools::{Filter, Tokens};

/// Samples with one caption, several, fields, and tags.
fn shard() -> Made {
    let mut archive = Made::default();
    for number in 0..12 {
        let (txt, json) = match number % 4 {
            0 => ("a red square", r#"{"alt": "square, red"}"#),
            1 => ("a photo of a cat\na cat that sits on a red square in the sun", r#"{"alt": ["one", "two cats"]}"#),
            2 => ("caf\u{e9} and a cat", r#"{"tags": ["red", "a cat"], "alt": "a dog"}"#),
            _ => ("A CAT", "{}"),
        };
        archive.add(&format!("{number}.png"), &png(20, 20, number)).add(&format!("{number}.txt"), txt.as_bytes());
        archive.add(&format!("{number}.json"), json.as_bytes());
    }
    archive
}

fn pack(shard: &str, keys: &CaptionKeys, tokenizer: Option<&Tokenizer>, out: &Path) {
    let input = Input::find(&[shard], keys.clone(), Decoding::default()).unwrap();
    let (form, filter, limit) = (Form::Raw, Filter::Area, ShardLimit::Samples(5));
    let tokens = tokenizer.cloned().and_then(Tokens::from_tokenizer);
    let pack = Pack { size: 16, form, filter, jpeg_scaling: false, limit, shuffle: None, max_bad: 0.0, tokens };
    pack.run(&input, out, &AtomicBool::new(false), &mut |_, _| {}, &mut |_| {}).unwrap();
}

fn batches(folder: &Path, keys: &CaptionKeys, tokenizer: &Tokenizer, context: usize) -> Vec<Batch> {
    let spec = folder.display().to_string();
    let data = TrainingData::open(&[spec], keys.clone(), Decoding::default(), Order::Global, None).unwrap();
    let captions = CaptionVariation::default();
    let config =
        LoaderConfig { batch: 8, image_size: 16, patch_size: 4, context, captions, max_bad: 0.0, ..Default::default() };
    let mut loader = Loader::new(data, tokenizer.clone(), config, Position::default()).unwrap();
    (0..6).map(|_| Batch { waited: Duration::ZERO, ..loader.next_batch().unwrap() }).collect()
}

fn survey(folder: &Path, tokenizer: &Tokenizer) -> String {
    let dataset = Dataset::open(&[folder.display().to_string()], CaptionKeys::default()).unwrap();
    Survey::run(&dataset, tokenizer, 8).unwrap().describe()
}

#[test]
fn stored_tokens_change_no_batch() {
    let shard = shard();
    let folder = tempfile::tempdir().unwrap();
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nred\ncat\nsquare\n##s\n";
    let of_model = TokenizerOptions { texts: Texts::OpenClip { strip_sep: false }, ..TokenizerOptions::default() };
    let tokenizers = [
        Tokenizer::embedded(&TokenizerOptions::default()).unwrap(),
        Tokenizer::clip(&of_model).unwrap(),
        Tokenizer::from_bytes(vocab, "vocab.txt").unwrap(),
    ];
    let keyed = |key: &str| CaptionKeys { caption_key: Some(key.to_owned()), ..CaptionKeys::default() };
    let joined = CaptionKeys { caption_lines: CaptionLines::Join, ..CaptionKeys::default() };
    for (number, tokenizer) in tokenizers.iter().enumerate() {
        let (plain, stored) = (folder.path().join(format!("plain-{number}")), folder.path().join(number.to_string()));
        pack(&shard.file(), &CaptionKeys::default(), None, &plain);
        pack(&shard.file(), &CaptionKeys::default(), Some(tokenizer), &stored);
        assert!(survey(&stored, tokenizer).ends_with("; their tokens are stored"));
        assert!(survey(&plain, tokenizer).ends_with("samples with tags (.json)"));
        let other = &tokenizers[(number + 1) % tokenizers.len()];
        assert!(survey(&stored, other).ends_with("are another tokenizer's, and are not used"));
        // Captions that are stored, and others.
        for keys in [&CaptionKeys::default(), &keyed("txt:0.5,alt:0.5"), &joined] {
            for (context, tokenizer) in [(3, tokenizer), (16, tokenizer), (16, other)] {
                let expected = batches(&plain, keys, tokenizer, context);
                assert_eq!(batches(&stored, keys, tokenizer, context), expected);
            }
        }
    }
}

/// Each of them is stored, so whichever is drawn.
#[test]
fn all_captions_of_several_fields_are_stored() {
    let shard = shard();
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::embedded(&TokenizerOptions::default()).unwrap();
    let keys = CaptionKeys { caption_key: Some("txt:0.5,alt:0.5".to_owned()), ..CaptionKeys::default() };
    pack(&shard.file(), &keys, Some(&tokenizer), &folder.path().join("out"));
    let dataset = Dataset::open(&[folder.path().join("out").display().to_string()], keys).unwrap();
    for sample in 0..dataset.len() as u64 {
        let view = dataset.view(sample);
        let member = view.with_tokens(<[u8]>::to_vec).unwrap().unwrap();
        for text in view.caption().unwrap().texts {
            assert!(tokenizer.encode_stored(&member, &text, &mut [0; 8]), "{text}");
        }
    }
}
