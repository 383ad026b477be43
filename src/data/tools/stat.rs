//! What is in a data set: sizes, formats, captions, duplicates, and how fast the loader reads it.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::Input;
use crate::data::broken::{Broken, Kind, confined};
use crate::data::dataset::{Held, View};
use crate::data::error::Result;
use crate::data::format::is_damage;
use crate::data::loader::{Item, LoaderConfig, Preparer, Skipped};
use crate::data::sample::Tokenizer;
use crate::data::sample::image::kind;

/// Shards that are opened, spread over the list, unless all samples are looked at.
const SHARDS: usize = 64;
/// Samples whose loading is timed, and the time for them.
const TIMED: usize = 256;
const TIME: Duration = Duration::from_secs(1);

/// How often each value occurs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Distribution {
    fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
        self.total += 1;
    }

    /// How many values there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The smallest value that `share` of all do not exceed; 0 without values.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((share * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        found.or_else(|| self.counts.last_key_value()).map_or(0, |(value, _)| *value)
    }

    /// How many values are in `from..to`.
    pub fn between(&self, from: u64, to: u64) -> u64 {
        self.counts.range(from..to).map(|(_, count)| count).sum()
    }

    /// Values above `limit`, as a share of all.
    pub fn share_above(&self, limit: u64) -> f64 {
        self.between(limit.saturating_add(1), u64::MAX) as f64 / self.total.max(1) as f64
    }
}

/// Minimum, quantiles and maximum.
impl Serialize for Distribution {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let shares = [("min", 0.0), ("p10", 0.1), ("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];
        serializer.collect_map(shares.map(|(name, share)| (name, self.quantile(share))))
    }
}

/// How fast samples are decoded, cropped, masked and tokenised on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Samples per second on one thread.
    pub one_thread: f64,
    /// On all.
    pub all_threads: f64,
    /// How many those are.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Shards in the list.
    pub shards: u64,
    /// Shards that were opened.
    pub opened_shards: u64,
    /// Shards that cannot be used, of those that were looked at.
    pub unusable_shards: u64,
    /// Samples in all shards; an estimate unless all were looked at.
    pub samples: u64,
    /// Samples that were looked at.
    pub looked_at: u64,
    /// Broken ones among them, by kind.
    pub broken: Skipped,
    /// Image formats.
    pub formats: BTreeMap<String, u64>,
    /// Pixels.
    pub width: Distribution,
    /// Pixels.
    pub height: Distribution,
    /// Pixels of the shorter side.
    pub short_side: Distribution,
    /// Bytes of an encoded image.
    pub image_bytes: Distribution,
    /// Characters of a caption.
    pub characters: Distribution,
    /// Tokens of a caption, if there is a tokenizer.
    pub tokens: Option<Distribution>,
    /// Share of captions with more tokens than the context.
    pub cut: Option<f64>,
    /// Images that are equal to an earlier one, byte by byte.
    pub duplicate_images: u64,
    /// Captions that are equal to an earlier one.
    pub duplicate_captions: u64,
    /// How fast they are loaded; `None` if none of them can be.
    pub speed: Option<Speed>,
    /// Whether it was stopped before the end.
    pub stopped: bool,
}

/// What is known of one sample.
struct Look {
    kind: String,
    size: (u32, u32),
    bytes: u64,
    image: u64,
    /// Characters, hash and tokens of each caption.
    captions: Vec<(u64, u64, u64)>,
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Look {
    fn at(view: View<'_>, tokenizer: Option<&Tokenizer>) -> std::result::Result<Self, Broken> {
        let image = view.image()?;
        let pixels = view.decoded()?;
        let refused = |why: crate::data::DataError| Broken { kind: Kind::MissingCaption, detail: why.to_string() };
        let caption = |text: &String| {
            let tokens = tokenizer.map(|tokenizer| tokenizer.unknown_words(text)).transpose().map_err(refused)?;
            Ok((text.chars().count() as u64, hash(text), tokens.map_or(0, |(tokens, _)| tokens as u64)))
        };
        Ok(Self {
            kind: kind(&image),
            size: pixels.dimensions(),
            bytes: image.len() as u64,
            image: hash(&image[..]),
            captions: view.caption()?.texts.iter().map(caption).collect::<std::result::Result<_, Broken>>()?,
        })
    }
}

/// Looks at about `max` samples that are spread over `input`, or at all of them without `max`. `config` says how they
/// would be loaded. `progress` is called with the number of shards that are done, of how many; `warn` with a warning
/// for each shard that cannot be used or is damaged.
///
/// With all samples, memory for duplicates grows by about 30 bytes for each.
///
/// # Errors
/// A `config` out of range.
pub fn stat(
    input: &Input,
    tokenizer: Option<&Tokenizer>,
    config: &LoaderConfig,
    max: Option<u64>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(u64, u64),
    warn: &mut dyn FnMut(String),
) -> Result<Statistics> {
    config.validate()?;
    let opened = max.map_or(input.shards(), |_| input.shards().min(SHARDS));
    let each = max.map_or(u64::MAX, |max| max.div_ceil(opened.max(1) as u64));
    let mut found = Statistics {
        shards: input.shards() as u64,
        tokens: tokenizer.map(|_| Distribution::default()),
        ..Statistics::default()
    };
    let (mut images, mut captions, mut timed) = (HashSet::new(), HashSet::new(), Vec::new());
    for at in 0..opened {
        if stop.load(Ordering::Relaxed) {
            found.stopped = true;
            break;
        }
        let number = at * input.shards() / opened;
        progress(at as u64, opened as u64);
        let (shard, report) = match input.open(number as u32) {
            Ok(opened) => opened,
            Err(error) => {
                warn(format!("warning: skipped a shard: {error}"));
                found.unusable_shards += 1;
                continue;
            }
        };
        let damage = report.notes.into_iter().filter(|(kind, _)| is_damage(*kind));
        damage.for_each(|(_, text)| warn(format!("warning: {text}")));
        let of = shard.samples.len() as u64;
        found.samples += of;
        found.opened_shards += 1;
        let count = of.min(each);
        let samples: Vec<u32> =
            (0..count).map(|n| (u128::from(n) * u128::from(of) / u128::from(count)) as u32).collect();
        let held = |&sample: &u32| input.held(&shard, (number as u32, sample));
        let looked: Vec<_> =
            samples.par_iter().map(|sample| confined(|| Look::at(held(sample).view(), tokenizer))).collect();
        let take = TIMED.div_ceil(opened);
        let good = samples.iter().zip(&looked).filter(|(_, look)| look.is_ok());
        timed.extend(good.map(|(sample, _)| held(sample)).take(take).take(TIMED.saturating_sub(timed.len())));
        for look in looked {
            found.add(look, &mut images, &mut captions);
        }
    }
    let looked_at = found.opened_shards + found.unusable_shards;
    found.samples = (u128::from(found.samples) * u128::from(found.shards) / u128::from(looked_at.max(1))) as u64;
    found.cut = found.tokens.as_ref().map(|tokens| tokens.share_above(config.context as u64));
    found.speed = speed(&timed, tokenizer, config);
    Ok(found)
}

impl Statistics {
    fn add(&mut self, look: std::result::Result<Look, Broken>, images: &mut HashSet<u64>, captions: &mut HashSet<u64>) {
        self.looked_at += 1;
        let look = match look {
            Ok(look) => look,
            Err(why) => return *self.broken.entry(why.kind).or_default() += 1,
        };
        *self.formats.entry(look.kind).or_default() += 1;
        let (width, height) = (u64::from(look.size.0), u64::from(look.size.1));
        self.width.add(width);
        self.height.add(height);
        self.short_side.add(width.min(height));
        self.image_bytes.add(look.bytes);
        self.duplicate_images += u64::from(!images.insert(look.image));
        for (characters, hash, tokens) in look.captions {
            self.characters.add(characters);
            self.duplicate_captions += u64::from(!captions.insert(hash));
            if let Some(all) = &mut self.tokens {
                all.add(tokens);
            }
        }
    }
}

/// Loads the samples as training does, again and again, for about a second on one thread and on all.
fn speed(samples: &[Held], tokenizer: Option<&Tokenizer>, config: &LoaderConfig) -> Option<Speed> {
    if samples.is_empty() {
        return None;
    }
    let run = |epochs: std::ops::RangeFrom<u64>| {
        let (mut preparer, mut item) = (Preparer::new(tokenizer.cloned(), config.clone()), Item::default());
        let (begun, mut done) = (Instant::now(), 0_u64);
        for (epoch, (number, held)) in epochs.flat_map(|epoch| samples.iter().enumerate().map(move |s| (epoch, s))) {
            if begun.elapsed() >= TIME {
                break;
            }
            // All of them were decoded before; one that no longer can be counts as nothing.
            let loaded = confined(|| preparer.prepare(held.view(), epoch, number as u64, &mut item));
            done += u64::from(loaded.is_ok());
        }
        done as f64 / begun.elapsed().as_secs_f64()
    };
    let threads = rayon::current_num_threads();
    let one_thread = run(0..);
    let all_threads = rayon::broadcast(|context| run(context.index() as u64..)).into_iter().sum();
    Some(Speed { one_thread, all_threads, threads })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sample::CaptionKeys;
    use crate::data::sample::image::Decoding;
    use crate::data::testing::{Archive, jpeg, png};

    #[test]
    fn quantiles_are_values_that_occur() {
        let mut values = Distribution::default();
        assert_eq!((values.quantile(0.5), values.share_above(3)), (0, 0.0));
        (1..=10).for_each(|value| values.add(value * value));
        assert_eq!([0.0, 0.1, 0.11, 0.5, 0.9, 1.0].map(|share| values.quantile(share)), [1, 1, 4, 25, 81, 100]);
        assert_eq!((values.between(4, 25), values.share_above(25), values.total()), (3, 0.5, 10));
    }

    #[test]
    fn sizes_formats_captions_and_duplicates_are_counted() {
        let mut archive = Archive::default();
        for (key, image, text) in
            [("1", png(40, 30, 1), "a cat"), ("2", jpeg(64, 48, 2), "a dog and a cat"), ("3", png(40, 30, 1), "a cat")]
        {
            archive.add(&format!("{key}.png"), &image).add(&format!("{key}.txt"), text.as_bytes());
        }
        archive.add("4.png", b"no image").add("4.txt", b"a cat");
        let input = Input::find(&[archive.file()], CaptionKeys::default(), Decoding::default()).unwrap();
        let tokenizer = Tokenizer::from_bytes(b"[PAD]\n[UNK]\na\ncat\ndog\nand\n", "vocab.txt").unwrap();
        let config = LoaderConfig { image_size: 16, patch_size: 4, context: 2, ..LoaderConfig::default() };
        let go = AtomicBool::new(false);
        let found = stat(&input, Some(&tokenizer), &config, None, &go, &mut |_, _| {}, &mut |_| {}).unwrap();
        assert_eq!((found.samples, found.looked_at, &found.broken), (4, 4, &Skipped::from([(Kind::BadImage, 1)])));
        assert_eq!((found.duplicate_images, found.duplicate_captions), (1, 1));
        assert_eq!(found.formats.values().sum::<u64>(), 3);
        assert_eq!((found.formats["PNG"], found.width.quantile(1.0), found.short_side.quantile(0.0)), (2, 64, 30));
        assert_eq!((found.characters.quantile(1.0), found.tokens.as_ref().unwrap().quantile(1.0)), (15, 5));
        assert_eq!(found.cut, Some(1.0 / 3.0));
        let speed = found.speed.unwrap();
        assert!(speed.one_thread > 0.0 && speed.all_threads > 0.0);
        let few = stat(&input, None, &config, Some(2), &go, &mut |_, _| {}, &mut |_| {}).unwrap();
        assert_eq!((few.looked_at, few.samples, few.cut), (2, 4, None));
        let whole = std::fs::read(archive.file()).unwrap();
        let mut cut = tempfile::NamedTempFile::with_suffix(".tar").unwrap();
        std::io::Write::write_all(&mut cut, &whole[..whole.len() - 1024]).unwrap();
        let input =
            Input::find(&[cut.path().display().to_string()], CaptionKeys::default(), Decoding::default()).unwrap();
        let mut said = Vec::new();
        stat(&input, None, &config, None, &go, &mut |_, _| {}, &mut |line| said.push(line)).unwrap();
        assert!(matches!(&said[..], [line] if line.contains("it has no end mark")), "{said:?}");
        let wrong = LoaderConfig { mask_ratio: 1.0, ..config };
        assert!(stat(&input, None, &wrong, None, &go, &mut |_, _| {}, &mut |_| {}).is_err());
    }
}
