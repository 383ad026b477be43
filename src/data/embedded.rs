//! The data set inside the program, for a first run with nothing at hand: emoji in three styles, with their names and
//! tags. `embedded/README.md` says where they come from.

/// Name after `embedded:` and the gzipped tar.
pub(super) const SHARDS: &[(&str, &[u8])] = &[
    ("noto", include_bytes!("embedded/emoji-noto.tar.gz")),
    ("twemoji", include_bytes!("embedded/emoji-twemoji.tar.gz")),
    ("fluent", include_bytes!("embedded/emoji-fluent.tar.gz")),
];

/// A WordPiece `tokenizer.json`, trained on the captions of [`SHARDS`].
pub(super) const TOKENIZER: &[u8] = include_bytes!("embedded/tokenizer.json");

/// The embedded shards as a user writes them.
pub(super) fn names() -> String {
    super::notes::some(SHARDS.iter().map(|(name, _)| format!("embedded:{name}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::data::{CaptionKeys, Dataset, EvalBatches, Tokenizer, TokenizerOptions};

    #[test]
    fn every_embedded_sample_is_whole_and_every_name_has_tokens() {
        let tokenizer = Tokenizer::embedded(&TokenizerOptions::default()).unwrap();
        let unknown = 1;
        let mut tokens = [0; 32];
        for name in ["noto", "twemoji", "fluent"] {
            let dataset = Arc::new(Dataset::open(&[format!("embedded:{name}")], CaptionKeys::default()).unwrap());
            let mut batches = EvalBatches::new(dataset.clone(), 256, 32, 0.0).unwrap();
            let samples: usize = batches.by_ref().map(|batch| batch.unwrap().samples.len()).sum();
            assert!(batches.skipped().is_empty() && samples == dataset.len() && samples > 1800, "{name}: {samples}");
            for sample in 0..samples as u64 {
                let caption = dataset.caption(sample).unwrap();
                for text in caption.texts.iter().chain(&caption.tags) {
                    tokenizer.encode(text, &mut tokens).unwrap();
                    assert!(tokens[0] != tokenizer.pad() && !tokens.contains(&unknown), "{text:?}: {tokens:?}");
                }
            }
        }
        assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
    }
}
