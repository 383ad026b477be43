//! Checks some captions before training: how many tokens are unknown, and how many captions are truncated.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Dataset;
use crate::data::error::Result;
use crate::data::sample::{Caption, Tokenizer};
use crate::data::text::shorten;

/// Samples that are looked at.
const PROBE_SAMPLES: u64 = 1000;
/// Share of unknown tokens, or of truncated captions, above which there is a warning.
const MAX_SHARE: f64 = 0.1;
/// The longest context to suggest: the cost of attention grows with its square.
const MAX_CONTEXT: usize = 512;

/// How well the tokenizer and the context fit the captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Survey {
    /// Samples in the data set.
    of: u64,
    /// Samples looked at that have a caption.
    samples: u64,
    captions: u64,
    tokens: u64,
    unknown: u64,
    /// How often each unknown word occurs.
    unknown_words: BTreeMap<String, u64>,
    /// Captions without any token, and the first of them.
    empty: u64,
    first_empty: Option<String>,
    /// Captions longer than the context.
    cut: u64,
    context: usize,
    /// Tokens of each caption, sorted.
    lengths: Vec<usize>,
    /// Captions whose tokens are stored.
    stored: u64,
    /// Whether another tokenizer's tokens are stored.
    others: bool,
    tagged: u64,
    tags_lost: u64,
    /// The first sample whose tags could not be read, and why.
    first_tags_lost: Option<String>,
    /// Whether the tokenizer lower-cases, and whether captions have capitals.
    lowers: bool,
    capitals: bool,
}

impl Survey {
    /// Looks at up to 1,000 samples, evenly spread over the data set.
    ///
    /// # Errors
    /// If the tokenizer refuses a caption.
    pub fn run(dataset: &Dataset, tokenizer: &Tokenizer, context: usize) -> Result<Self> {
        let of = dataset.len() as u64;
        // Broken samples are reported when training visits them.
        let found: Vec<(u64, Caption, Vec<(usize, Vec<String>)>)> = dataset
            .spread(PROBE_SAMPLES)
            .filter_map(|sample| Some((sample, dataset.caption(sample).ok()?)))
            .map(|(sample, caption)| {
                let tokens = caption.texts.iter().map(|text| tokenizer.unknown_words(text)).collect::<Result<_>>()?;
                Ok((sample, caption, tokens))
            })
            .collect::<Result<_>>()?;
        let mut survey = Self { of, context, lowers: tokenizer.lowers(), ..Self::default() };
        for (sample, caption, tokens) in &found {
            survey.samples += 1;
            // A sample whose tokens cannot be read is broken, and reported when it is visited.
            let _ = dataset.view(*sample).with_tokens(|member| {
                survey.others |= tokenizer.has_stored(member) == Some(false);
                survey.stored += caption.texts.iter().filter(|text| tokenizer.stores(member, text)).count() as u64;
            });
            survey.tagged += u64::from(!caption.tags.is_empty());
            if let Some(why) = &caption.tags_lost {
                survey.tags_lost += 1;
                survey.first_tags_lost.get_or_insert_with(|| format!("{}: {why}", dataset.name(*sample)));
            }
            for (text, (tokens, unknown)) in caption.texts.iter().zip(tokens) {
                survey.captions += 1;
                survey.tokens += *tokens as u64;
                survey.lengths.push(*tokens);
                survey.cut += u64::from(*tokens > context);
                if *tokens == 0 {
                    survey.empty += 1;
                    survey
                        .first_empty
                        .get_or_insert_with(|| format!("{:?} of {}", shorten(text), dataset.name(*sample)));
                }
                survey.unknown += unknown.len() as u64;
                survey.capitals |= text.chars().any(char::is_uppercase);
                for word in unknown {
                    *survey.unknown_words.entry(word.clone()).or_default() += 1;
                }
            }
        }
        survey.lengths.sort_unstable();
        Ok(survey)
    }

    /// The result, in one line.
    pub fn describe(&self) -> String {
        let several = match self.captions > self.samples {
            true => " (one at each visit)",
            false => "",
        };
        let stored = match (self.stored, self.others) {
            (0, false) => String::new(),
            (0, true) => "; stored tokens are another tokenizer's, and are not used".to_owned(),
            (stored, false) if stored == self.captions => "; their tokens are stored".to_owned(),
            (stored, _) => format!("; the tokens of {stored} of them are stored"),
        };
        format!(
            "captions: {} in {} of {} samples{several}; {:.1} tokens on average, {} of them unknown; {} of captions cut to \
             {} tokens; {} samples with tags (.json){stored}",
            self.captions,
            self.samples,
            self.of,
            self.tokens as f64 / self.captions.max(1) as f64,
            percent(self.unknown, self.tokens),
            percent(self.cut, self.captions),
            self.context,
            self.tagged,
        )
    }

    /// What the user should check, if anything. `tags`: whether tags are used.
    pub fn warnings(&self, tags: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.unknown as f64 > MAX_SHARE * self.tokens as f64 {
            let mut words: Vec<(&String, &u64)> = self.unknown_words.iter().collect();
            words.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let words: Vec<String> = words.iter().take(3).map(|(word, _)| format!("{:?}", shorten(word))).collect();
            let advice = match self.capitals && !self.lowers {
                true => "if the vocabulary is uncased, use --lower-case yes",
                false => "is it the right vocabulary for this language?",
            };
            warnings.push(format!(
                "warning: {} of the captions' tokens are unknown to the tokenizer, such as {}; {advice}",
                percent(self.unknown, self.tokens),
                words.join(", "),
            ));
        }
        if let Some(first) = &self.first_empty {
            warnings.push(format!(
                "warning: {} of {} captions have no token at all, such as {first}: the tokenizer drops what it does not \
                 know, and such images are trained on padding alone; is it the right tokenizer for this language?",
                self.empty, self.captions
            ));
        }
        if self.cut as f64 > MAX_SHARE * self.captions as f64 {
            let enough = self.lengths.get(self.lengths.len() * 9 / 10).copied().unwrap_or_default();
            let advice = match enough <= MAX_CONTEXT {
                true => format!("with --context {enough}, nine of ten would fit"),
                false => format!("one in ten has {enough} or more; is it the right text? If so, shorten it"),
            };
            warnings.push(format!(
                "warning: {} of the captions are longer than the context of {} tokens and are cut; {advice}",
                percent(self.cut, self.captions),
                self.context,
            ));
        }
        if let (true, Some(first)) = (tags, &self.first_tags_lost) {
            warnings.push(format!(
                "warning: the tags of {} of {} samples cannot be read and are left out: {first}",
                self.tags_lost, self.samples
            ));
        }
        warnings
    }
}

fn percent(part: u64, of: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / of.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::CaptionKeys;
    use crate::data::testing::{Archive, png};

    const VOCAB: &[u8] = b"[PAD]\n[UNK]\na\nred\nsquare\ncircle\n";

    fn survey(records: &[&str], vocab: &[u8], context: usize) -> Survey {
        let mut archive = Archive::default();
        for (number, record) in records.iter().enumerate() {
            archive.add(&format!("{number}.png"), &png(4, 4, 1)).add(&format!("{number}.json"), record.as_bytes());
        }
        let dataset = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap();
        Survey::run(&dataset, &Tokenizer::from_bytes(vocab, "vocab.txt").unwrap(), context).unwrap()
    }

    fn record(caption: &str) -> String {
        format!(r#"{{"caption": "{caption}"}}"#)
    }

    #[test]
    fn shares_are_counted_over_all_captions() {
        let survey = survey(
            &[
                r#"{"caption": ["a red square", "a square"], "tags": ["red"]}"#,
                r#"{"caption": "a purple circle", "tags": "red, big"}"#,
                r#"{"caption": null}"#,
            ],
            VOCAB,
            2,
        );
        let said = survey.describe();
        for words in [
            "captions: 3 in 2 of 3 samples (one at each visit);",
            "2.7 tokens on average, 12.5 % of them unknown",
            "66.7 % of captions cut to 2 tokens",
            "1 samples with tags (.json)",
        ] {
            assert!(said.contains(words), "{words} in {said}");
        }
        let warnings = survey.warnings(true).join("\n");
        for words in
            ["12.5 % of the captions' tokens", "such as \"purple\"", "--context 3, nine of ten would fit", "not a list"]
        {
            assert!(warnings.contains(words), "{words} in {warnings}");
        }
        assert!(warnings.contains("the tags of 1 of 2 samples") && warnings.contains(":1: the field `tags` is text"));
        assert_eq!(survey.warnings(false).len(), 2);
        assert_eq!(survey.captions, 3);
    }

    #[test]
    fn a_tenth_is_no_warning_and_more_is() {
        let good = record("a red square");
        let mut records = vec![&*good; 9];
        let unknown = record("purple violet blue");
        records.push(&unknown);
        assert_eq!(survey(&records, VOCAB, 3).warnings(true), [] as [String; 0]);
        records.push(&unknown);
        assert_eq!(survey(&records, VOCAB, 3).warnings(true).len(), 1);
        let long = record("a red red square");
        let mut records = vec![&*good; 9];
        records.push(&long);
        assert_eq!(survey(&records, VOCAB, 3).warnings(true), [] as [String; 0]);
        records.push(&long);
        assert!(survey(&records, VOCAB, 3).warnings(true).concat().contains("--context 4, nine of ten would fit"));
    }

    #[test]
    fn no_context_is_suggested_for_whole_documents() {
        let warnings = survey(&[&record(&"red square ".repeat(5000))], VOCAB, 3).warnings(true).concat();
        assert!(warnings.contains("one in ten has 10000 or more") && !warnings.contains("--context"), "{warnings}");
    }

    #[test]
    fn unknown_words_with_capitals_give_the_advice_to_lower_case() {
        let cased = b"[PAD]\n[UNK]\nParis\na\n";
        let warnings = survey(&[&record("A PHOTO")], cased, 4).warnings(true).concat();
        assert!(warnings.contains("\"A\"") && warnings.contains("--lower-case yes"), "{warnings}");
        let warnings = survey(&[&record("zebra")], cased, 4).warnings(true).concat();
        assert!(warnings.contains("right vocabulary"), "{warnings}");
    }

    /// A BPE model without a token for what it does not know drops it.
    #[test]
    fn captions_without_any_token_are_reported() {
        let bpe = br#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": {"[PAD]": 0, "a": 1}, "merges": []}}"#;
        let warnings = |captions: &[&str]| {
            let records: Vec<String> = captions.iter().map(|caption| record(caption)).collect();
            survey(&records.iter().map(String::as_str).collect::<Vec<_>>(), bpe, 4).warnings(true).concat()
        };
        let found = warnings(&["a", "zzz", "\u{732b}"]);
        assert!(found.contains("2 of 3 captions have no token at all, such as \"zzz\""), "{found}");
        assert_eq!(warnings(&["a", "a zebra"]), "");
    }

    #[test]
    fn the_samples_looked_at_are_spread_over_the_data() {
        let (good, bad) = (record("a red square"), record("purple"));
        let records: Vec<&str> = (0..3000).map(|number| if number < 1500 { &*good } else { &*bad }).collect();
        let survey = survey(&records, VOCAB, 4);
        assert_eq!((survey.captions, survey.unknown), (1000, 500));
    }
}
