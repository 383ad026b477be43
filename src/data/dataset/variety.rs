//! How much the captions of a data set differ: a contrastive loss can only learn from differences.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Dataset;

/// Samples that are looked at, evenly spread over the data set.
const PROBE_SAMPLES: u64 = 8192;

/// How much the captions of some samples differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Variety {
    /// Samples looked at that have a caption.
    pub samples: u64,
    /// Whether those are all samples of the data set.
    pub all: bool,
    /// Distinct captions; only the first of each sample counts.
    pub distinct: u64,
    /// Whether all of them are numbers.
    pub numbers: bool,
    /// The first of them.
    pub example: String,
    /// What most of them are, if not natural language, and an example.
    pub markup: Option<(&'static str, String)>,
    /// For each number of occurrences, how many samples have a caption that occurs that often.
    occurrences: HashMap<u64, u64>,
}

impl Variety {
    /// Looks at up to 8,192 samples, evenly spread over the data set.
    pub fn from_dataset(dataset: &Dataset) -> Self {
        let samples = dataset.spread(PROBE_SAMPLES);
        let all = samples.len() == dataset.len();
        let captions = samples.filter_map(|sample| dataset.caption(sample).ok()?.texts.into_iter().next());
        Self::of_captions(&captions.collect::<Vec<_>>(), all)
    }

    pub(crate) fn of_captions(captions: &[String], all: bool) -> Self {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for caption in captions {
            *counts.entry(caption).or_default() += 1;
        }
        let mut occurrences = HashMap::new();
        for &count in counts.values() {
            *occurrences.entry(count).or_default() += count;
        }
        Self {
            samples: captions.len() as u64,
            all,
            distinct: counts.len() as u64,
            numbers: !captions.is_empty() && captions.iter().all(|caption| caption.parse::<u64>().is_ok()),
            example: captions.first().cloned().unwrap_or_default(),
            markup: common_markup(captions),
            occurrences,
        }
    }

    /// The expected share of a batch's samples whose caption occurs again in the batch.
    pub fn repeated(&self, batch: usize) -> f64 {
        let others = (self.samples.max(2) - 1) as f64;
        let mut sorted: Vec<(u64, u64)> = self.occurrences.iter().map(|(&count, &samples)| (count, samples)).collect();
        sorted.sort_unstable();
        let expected = sorted.into_iter().map(|(count, samples)| {
            let none = (1.0 - (count - 1) as f64 / others).max(0.0).powf(batch.saturating_sub(1) as f64);
            samples as f64 * (1.0 - none)
        });
        expected.sum::<f64>() / self.samples.max(1) as f64
    }
}

/// What more than half of the captions are, and the first such caption.
fn common_markup(captions: &[String]) -> Option<(&'static str, String)> {
    let mut of_kind: HashMap<&str, (usize, &String)> = HashMap::new();
    for caption in captions {
        if let Some(what) = markup(caption) {
            of_kind.entry(what).or_insert((0, caption)).0 += 1;
        }
    }
    let found = of_kind.into_iter().find(|(_, (count, _))| count * 2 > captions.len());
    found.map(|(what, (_, example))| (what, example.clone()))
}

/// What a caption is that comes from the wrong member, or from a program that printed a value.
fn markup(caption: &str) -> Option<&'static str> {
    let is_within = |open: &str, close: char| caption.starts_with(open) && caption.ends_with(close);
    let is_one_word = !caption.contains(char::is_whitespace);
    if is_within("{\"", '}') || is_within("[\"", ']') {
        Some("JSON")
    } else if is_within("{'", '}') || is_within("['", ']') || is_within("b'", '\'') || is_within("b\"", '"') {
        Some("values as Python shows them")
    } else if is_one_word && ["http://", "https://", "s3://"].iter().any(|scheme| caption.starts_with(scheme)) {
        Some("addresses")
    } else if caption.starts_with('<') && caption.ends_with('>') && caption.contains("</") {
        Some("HTML or XML")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    fn of(captions: impl Iterator<Item = String>) -> Variety {
        Variety::of_captions(&captions.collect::<Vec<_>>(), true)
    }

    #[test]
    fn repeated_captions_and_numbers_are_found() {
        let alike = of((0..9).map(|_| "a photo".to_owned()));
        assert_eq!((alike.samples, alike.distinct, alike.example.as_str(), alike.numbers), (9, 1, "a photo", false));
        assert_eq!((alike.repeated(1), alike.repeated(2)), (0.0, 1.0));
        let own = of((0..9).map(|number| number.to_string()));
        assert_eq!((own.distinct, own.numbers, own.repeated(1000)), (9, true, 0.0));
        assert_eq!(of(std::iter::empty()).repeated(8), 0.0);
    }

    /// Compared with batches that are drawn.
    #[test]
    fn the_share_of_repeated_captions_is_that_of_batches() {
        // A hundred captions, the first of them twenty times as frequent as the last.
        let captions: Vec<String> = (0..100).flat_map(|c| vec![format!("caption {c}"); 1 + (99 - c) / 5]).collect();
        let variety = Variety::of_captions(&captions, true);
        for batch in [2, 8, 64] {
            let (mut repeated, trials) = (0, 2000);
            for trial in 0..trials {
                let mut random = Random::new(1, Purpose::Test, trial, batch as u64);
                let order = random.permutation(captions.len());
                let drawn: Vec<&String> = order[..batch].iter().map(|&at| &captions[at as usize]).collect();
                repeated +=
                    drawn.iter().filter(|caption| drawn.iter().filter(|other| other == caption).count() > 1).count();
            }
            let share = repeated as f64 / (trials as f64 * batch as f64);
            // Batches are drawn without replacement, which the estimate ignores.
            assert!((variety.repeated(batch) - share).abs() < 0.03, "{batch}: {} {share}", variety.repeated(batch));
        }
    }

    #[test]
    fn captions_that_are_not_language_are_named() {
        let of = |captions: [&str; 3]| Variety::of_captions(&captions.map(str::to_owned), true).markup;
        for (caption, what) in [
            ("{\"caption\": \"a dog\"}", "JSON"),
            ("[\"a dog\", \"a cat\"]", "JSON"),
            ("['a dog']", "values as Python shows them"),
            ("b'a dog'", "values as Python shows them"),
            ("https://example.org/1.jpg", "addresses"),
            ("<p>a <b>dog</b></p>", "HTML or XML"),
        ] {
            assert_eq!(of(["a cat", caption, caption]), Some((what, caption.to_owned())));
            assert_eq!(of(["a cat", "a dog", caption]), None);
        }
        for caption in ["https://example.org is the site", "[sold] a lamp", "b", "<3 this dog", "{}"] {
            assert_eq!(of([caption; 3]), None, "{caption}");
        }
    }
}
