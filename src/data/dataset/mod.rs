//! All samples of all shards, by number, and checks of them before training.
//!
//! | file | what it does |
//! |---|---|
//! | `cache` | decoded images of a small data set |
//! | `check` | whether a source has images and captions |
//! | `counts` | how many samples are in each shard, as files next to them say |
//! | `list` | shards that are opened when their turn comes |
//! | `survey` | how well the tokenizer fits the captions |
//! | `training` | which of the two a run trains on |
//! | `variety` | how much the captions differ |
//! | `view` | one sample |
//!
//! The order in which samples are visited belongs in `loader`.

mod cache;
mod check;
mod counts;
mod list;
mod survey;
mod training;
mod variety;
mod view;

use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::sync::Arc;

use ::image::RgbImage;
use rayon::prelude::*;

use self::cache::Cache;
pub use self::list::ShardList;
pub(crate) use self::list::{Opened, uncached};
pub use self::survey::Survey;
pub use self::training::{Order, TrainingData};
pub use self::variety::Variety;
pub(crate) use self::view::{Held, Reader, View};
use super::broken::Broken;
use super::error::{DataError, Result};
use super::format::{Common, Report, Shard, note_lines};
use super::sample::image::Decoding;
use super::sample::{Caption, CaptionKeys, Label};
use super::store::{Location, Source, Span, embedded_names, left_out};
use super::text::list_some;

/// Temporary files with more bytes than this are worth a note.
const NOTED_BYTES: u64 = 64 << 20;
/// Default size of the cache of decoded images, in bytes.
pub const CACHE_BYTES: usize = 512 << 20;

/// An indexed data set. Samples are numbered from 0, in the order of the sources, shards and members.
///
/// ```
/// use flipk::data::{CaptionKeys, Dataset};
///
/// let emoji = Dataset::open(&["embedded:noto"], CaptionKeys::default())?;
/// let cats = emoji.filtered(|sample| emoji.caption(sample).is_ok_and(|caption| caption.first() == "cat"))?;
/// assert_eq!(cats.len(), 1);
/// let image = cats.decoded(0)?;
/// println!("{}: {} x {} pixels", cats.name(0), image.width(), image.height());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Dataset {
    shards: Arc<Vec<Arc<Shard>>>,
    /// Shard, and number in the shard, of each sample.
    samples: Vec<(u32, u32)>,
    reader: Arc<Reader>,
    warnings: Arc<[String]>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset of {} samples in {} shards", self.len(), self.shards.len())
    }
}

/// A warning about shards that are in the list more than once, by whatever path.
fn twice(locations: &[&Location], reports: &[Report]) -> Option<String> {
    let mut first = HashMap::new();
    let mut again = Vec::new();
    for (location, file) in locations.iter().zip(reports).filter_map(|(of, report)| Some((of, report.file?))) {
        match first.entry(file) {
            hash_map::Entry::Vacant(place) => drop(place.insert(location)),
            hash_map::Entry::Occupied(held) => again.push((location, *held.get())),
        }
    }
    let (location, same) = again.first()?;
    let same = if location == same { "is listed again".to_owned() } else { format!("is the same file as {same}") };
    Some(format!(
        "warning: {} of the {} shards are in the list more than once ({location} {same}); their samples are visited \
         once for each",
        again.len(),
        locations.len(),
    ))
}

impl Dataset {
    /// Indexes every shard of `specs` (see [`Source::parse`]) on all cores. See [`Self::warnings`] for what is unusual.
    ///
    /// # Errors
    /// A source without shards; shards that are missing, unreadable, empty or not archives (all of them are named); a
    /// source in which no sample has both an image and a caption.
    pub fn open<S: AsRef<str>>(specs: &[S], keys: CaptionKeys) -> Result<Self> {
        Self::of(&sources(specs)?, specs, keys)
    }

    /// As [`Self::open`]; `specs` are what the user wrote, for warnings.
    fn of<S: AsRef<str>>(sources: &[Source], specs: &[S], keys: CaptionKeys) -> Result<Self> {
        let locations: Vec<&Location> = sources.iter().flat_map(|source| &source.shards).collect();
        let common = Common { image_key: keys.image_key.clone(), ..Common::default() };
        let open = |(number, location): (usize, &&Location)| Shard::open(number as u32, location, &common);
        // All are opened before an error is returned, so that every run reports the same errors.
        let opened: Vec<Result<(Shard, Report)>> = locations.par_iter().enumerate().map(open).collect();
        let (shards, reports) = all(opened)?;
        let mut first = 0;
        for source in sources {
            let of_source = first..first + source.shards.len();
            check::source(&source.spec, &shards[of_source.clone()], &reports[of_source.clone()], &keys)?;
            first = of_source.end;
        }
        let unpacked = reports.iter().map(|report| report.unpacked);
        let (count, bytes) = unpacked.filter(|&bytes| bytes > 0).fold((0, 0), |(n, sum), bytes| (n + 1, sum + bytes));
        let mut warnings = left_out(specs);
        warnings.extend(twice(&locations, &reports));
        warnings.extend(note_lines(reports.into_iter().flat_map(|report| report.notes)));
        if bytes > NOTED_BYTES {
            warnings.push(format!(
                "{count} compressed shards were unpacked to {:.1} GB of temporary files in {} (set TMPDIR for another folder)",
                bytes as f64 / 1e9,
                common.spool.folder().display()
            ));
        }
        let numbers =
            |(shard, of): (usize, &Shard)| (0..of.samples.len()).map(move |sample| (shard as u32, sample as u32));
        let samples: Vec<_> = shards.iter().enumerate().flat_map(numbers).collect();
        let (decoding, cache) = (Decoding::default(), Arc::new(Cache::new(CACHE_BYTES)));
        Ok(Self {
            reader: Arc::new(Reader { keys, decoding, cache, samples: samples.len() }),
            shards: Arc::new(shards.into_iter().map(Arc::new).collect()),
            samples,
            warnings: warnings.into(),
        })
    }

    /// Warnings about the shards (damage, members that are not used), one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Sets the size of the cache of decoded images, in bytes; 0 turns it off. Results do not depend on it.
    pub fn with_cache(self, bytes: usize) -> Self {
        let decoding = self.reader.decoding;
        self.with_reader(decoding, Arc::new(Cache::new(bytes)))
    }

    /// Sets how images are decoded. The cache starts empty.
    pub fn with_decoding(self, decoding: Decoding) -> Self {
        let cache = Arc::new(Cache::new(self.reader.cache.budget));
        self.with_reader(decoding, cache)
    }

    fn with_reader(self, decoding: Decoding, cache: Arc<Cache>) -> Self {
        let reader = Reader { keys: self.reader.keys.clone(), decoding, cache, samples: self.len() };
        Self { reader: Arc::new(reader), ..self }
    }

    /// The samples for which `keep(number)` is true, renumbered. Shares the archives and the cache.
    ///
    /// # Errors
    /// [`DataError::NoSamples`] if none is kept.
    pub fn filtered(&self, keep: impl Fn(u64) -> bool) -> Result<Self> {
        let kept = (0..self.samples.len()).filter(|&number| keep(number as u64));
        let samples: Vec<_> = kept.map(|number| self.samples[number]).collect();
        if samples.is_empty() {
            return Err(DataError::NoSamples { of: self.len() });
        }
        let Self { shards, reader, warnings, .. } = self;
        let kept = Self { shards: shards.clone(), samples, reader: reader.clone(), warnings: warnings.clone() };
        Ok(kept.with_reader(reader.decoding, reader.cache.clone()))
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether it has no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The shard that a sample is in: its path, or `embedded:NAME`.
    pub fn shard(&self, sample: u64) -> String {
        self.view(sample).shard()
    }

    /// The sample's key, for messages: bytes that are not UTF-8 become `\xE9`.
    pub fn key(&self, sample: u64) -> Cow<'_, str> {
        self.view(sample).key()
    }

    /// `shard:key`, for messages.
    pub fn name(&self, sample: u64) -> String {
        self.view(sample).name()
    }

    /// The encoded image, as it is in the archive.
    ///
    /// # Errors
    /// A sample that is broken or has no image.
    pub fn image(&self, sample: u64) -> Result<Cow<'_, [u8]>, Broken> {
        self.view(sample).image()
    }

    /// The bytes of the `.cls` member (a class number), if there is one.
    ///
    /// # Errors
    /// A sample that is broken.
    pub fn cls(&self, sample: u64) -> Result<Option<Cow<'_, [u8]>>, Broken> {
        self.view(sample).cls()
    }

    /// Captions and tags.
    ///
    /// # Errors
    /// A sample that is broken or has no caption.
    pub fn caption(&self, sample: u64) -> Result<Caption, Broken> {
        self.view(sample).caption()
    }

    /// The label of a sample: its class number or its captions, as [`CaptionKeys::class_numbers`] says.
    ///
    /// # Errors
    /// A sample that is broken or has no label.
    pub fn label(&self, sample: u64) -> Result<Label, Broken> {
        self.view(sample).label()
    }

    /// The image in RGB8, from the cache if it was decoded before.
    ///
    /// # Errors
    /// A sample that is broken, has no image or one that cannot be decoded.
    pub fn decoded(&self, sample: u64) -> Result<Arc<RgbImage>, Broken> {
        self.view(sample).decoded()
    }

    /// At most `max` samples, evenly spread over the data set.
    pub(crate) fn spread(&self, max: u64) -> impl IndexedParallelIterator<Item = u64> + use<> {
        let of = self.len() as u64;
        let count = of.min(max);
        (0..count as usize).into_par_iter().map(move |at| (at as u128 * u128::from(of) / u128::from(count)) as u64)
    }

    /// A checksum over all keys and sizes: a position of a run means the same samples only in a data set with the same
    /// fingerprint.
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint_of(|_| true)
    }

    /// The same for the samples of some shards.
    fn fingerprint_of(&self, is_used: impl Fn(u32) -> bool) -> u32 {
        let samples = self.samples.iter().filter(|(shard, _)| is_used(*shard));
        samples.fold(0, |sum, &(shard, sample)| {
            let entry = &self.shards[shard as usize].samples[sample as usize];
            let size = |span: Option<Span>| span.map_or(u64::MAX, |span| span.len);
            let sizes = [entry.image, entry.txt, entry.json].map(size);
            crc32c::crc32c_append(crc32c::crc32c_append(sum, &entry.key), bytemuck::cast_slice(&sizes))
        })
    }

    pub(crate) fn shard_number(&self, sample: u64) -> usize {
        self.samples[sample as usize].0 as usize
    }

    /// How many samples of the data set are in each shard.
    pub(crate) fn shard_lengths(&self) -> impl Iterator<Item = u64> {
        let mut lengths = vec![0; self.shards.len()];
        for &(shard, _) in &self.samples {
            lengths[shard as usize] += 1;
        }
        lengths.into_iter()
    }

    pub(crate) fn shard_location(&self, number: usize) -> &Location {
        &self.shards[number].location
    }

    /// An estimate of the samples that were lost to damage, in addition to those that have a number.
    pub(crate) fn lost(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lost).sum()
    }

    pub(crate) fn view(&self, sample: u64) -> View<'_> {
        let place = self.samples[sample as usize];
        let shard = &self.shards[place.0 as usize];
        View { shard, entry: &shard.samples[place.1 as usize], reader: &self.reader, place }
    }

    pub(crate) fn held(&self, sample: u64) -> Held {
        let place = self.samples[sample as usize];
        Held { shard: self.shards[place.0 as usize].clone(), place, reader: self.reader.clone() }
    }
}

/// The sources that `specs` name.
pub(crate) fn sources<S: AsRef<str>>(specs: &[S]) -> Result<Vec<Source>> {
    match specs {
        [] => Err(DataError::NoSources { embedded: embedded_names() }),
        specs => specs.iter().map(|spec| Source::parse(spec.as_ref())).collect(),
    }
}

/// All shards, or an error that names those that cannot be used.
fn all(opened: Vec<Result<(Shard, Report)>>) -> Result<(Vec<Shard>, Vec<Report>)> {
    let total = opened.len();
    let (mut shards, mut errors) = (Vec::with_capacity(total), Vec::new());
    for shard in opened {
        match shard {
            Ok(shard) => shards.push(shard),
            Err(error) => errors.push(error),
        }
    }
    match (errors.pop(), total) {
        (None, _) => Ok(shards.into_iter().unzip()),
        (Some(error), 1) => Err(error),
        (Some(last), _) => {
            errors.push(last);
            let failed = errors.len();
            let list = list_some(errors.iter().map(DataError::to_string));
            Err(DataError::Shards { failed, total, list })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::broken::Kind;
    use crate::data::sample::ClassNumbers;
    use crate::data::sample::image::ExifOrientation;
    use crate::data::testing::{Archive, png};

    #[test]
    fn samples_of_all_sources_are_numbered_in_order() {
        let (mut a, mut b) = (Archive::default(), Archive::default());
        a.add("1.png", &png(4, 4, 1)).add("1.txt", b"cat");
        a.add("2.png", &png(4, 4, 2)).add("2.json", br#"{"caption": "dog", "tags": ["pet"]}"#);
        b.add("x/1.png", &png(4, 4, 3)).add("x/1.txt", b"cat");
        b.add("x/2.png", &png(4, 4, 4)).add("x/2.txt", b"\xFF");
        let dataset = Dataset::open(&[a.file(), b.file()], CaptionKeys::default()).unwrap();
        assert_eq!(dataset.len(), 4);
        assert_eq!((0..4).map(|sample| dataset.key(sample)).collect::<Vec<_>>(), ["1", "2", "x/1", "x/2"]);
        let dog = Caption { texts: vec!["dog".into()], tags: vec!["pet".into()], tags_lost: None };
        assert_eq!(dataset.caption(1).unwrap(), dog);
        assert_eq!(dataset.image(2).unwrap(), png(4, 4, 3));
        assert_eq!(dataset.name(3), format!("{}:x/2", b.file()));

        let cats = dataset.filtered(|sample| dataset.caption(sample).is_ok_and(|c| c.first() == "cat")).unwrap();
        assert_eq!((0..2).map(|sample| cats.key(sample)).collect::<Vec<_>>(), ["1", "x/1"]);
        assert_ne!(cats.fingerprint(), dataset.fingerprint());
        let again = Dataset::open(&[a.file(), b.file()], CaptionKeys::default()).unwrap();
        assert_eq!(again.fingerprint(), dataset.fingerprint());
        assert!(matches!(dataset.filtered(|_| false), Err(DataError::NoSamples { of: 4 })));
    }

    #[test]
    fn photos_are_rotated_when_asked() {
        let photo = include_bytes!("../../../tests/fixtures/images/jpeg-turned-6.jpg");
        let mut archive = Archive::default();
        archive.add("1.jpg", photo).add("1.txt", b"a photo");
        let stored = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap();
        assert_eq!(stored.decoded(0).unwrap().dimensions(), (32, 24));
        let upright = stored.with_decoding(Decoding { orientation: ExifOrientation::Apply, ..Decoding::default() });
        assert_eq!(upright.decoded(0).unwrap().dimensions(), (24, 32));
        assert_eq!(upright.filtered(|_| true).unwrap().decoded(0).unwrap().dimensions(), (24, 32));
    }

    #[test]
    fn mistakes_of_a_whole_source_are_found_at_once() {
        let error = |archive: &Archive, key: Option<&str>| {
            let keys = CaptionKeys { caption_key: key.map(str::to_owned), ..CaptionKeys::default() };
            Dataset::open(&[archive.file()], keys).unwrap_err().to_string()
        };
        let mut archive = Archive::default();
        archive.add("1.png", &png(4, 4, 0)).add("1.json", br#"{"alt": "a cat", "url": "x"}"#).add("1.cls", b"3");
        let message = error(&archive, None);
        assert!(message.contains("`caption`") && message.contains("JSON fields alt, url"), "{message}");
        assert!(error(&archive, Some("txt")).contains("found .cls, .json, .png"));
        for (record, why) in [
            ("{\"caption\": 7}", "1: bad record: the field `caption` of the .json member is a number, not text"),
            ("{\"caption\": null}", "1: empty caption: the field `caption` of the .json member is null"),
            ("caption: a cat", "1: bad record: .json does not parse: line 1, byte 1:"),
        ] {
            let mut archive = Archive::default();
            archive.add("1.png", &png(4, 4, 0)).add("1.json", record.as_bytes());
            let message = error(&archive, None);
            assert!(message.contains(why), "{message}");
        }
        let mut archive = Archive::default();
        archive.add("1.svg", b"<svg").add("1.txt", b"a cat");
        let message = error(&archive, None);
        assert!(message.contains("no images") && message.contains(".svg, .txt"), "{message}");
        let none: [&str; 0] = [];
        assert!(matches!(Dataset::open(&none, CaptionKeys::default()), Err(DataError::NoSources { .. })));
    }

    #[test]
    fn the_class_number_is_read_if_it_is_asked_for() {
        let mut archive = Archive::default();
        for (name, txt, cls) in [
            ("0", Some("a cat"), Some(&b"3\n"[..])),
            ("1", None, Some(b"\xEF\xBB\xBF12\r\n")),
            ("2", Some("a dog"), None),
            ("3", None, Some(b"tench\n")),
            ("4", None, Some(b" \n")),
        ] {
            archive.add(&format!("{name}.png"), &png(4, 4, 1));
            txt.map(|txt| archive.add(&format!("{name}.txt"), txt.as_bytes()));
            cls.map(|cls| archive.add(&format!("{name}.cls"), cls));
        }
        let labels = |class_numbers| {
            let keys = CaptionKeys { class_numbers, ..CaptionKeys::default() };
            let dataset = Dataset::open(&[archive.file()], keys).unwrap();
            [0, 1, 2, 3, 4].map(|sample| dataset.label(sample).map_err(|broken| broken.kind))
        };
        let says = |text: &str| Ok(Label::Captions(vec![text.to_owned()]));
        let (cat, dog, tench) = (says("a cat"), says("a dog"), says("tench"));
        let number = |number| Ok(Label::Number(number));
        let (missing, empty) = (Err(Kind::MissingCaption), Err(Kind::EmptyCaption));
        let expected = [&cat, &missing, &dog, &missing, &missing];
        assert!(labels(ClassNumbers::Ignore).iter().eq(expected));
        let expected = [&number(3), &number(12), &dog, &tench, &empty];
        assert!(labels(ClassNumbers::Prefer).iter().eq(expected));
        let expected = [&cat, &number(12), &dog, &tench, &empty];
        assert!(labels(ClassNumbers::Accept).iter().eq(expected));
        let expected = [&number(3), &number(12), &missing, &tench, &empty];
        assert!(labels(ClassNumbers::Require).iter().eq(expected));
    }

    #[test]
    fn an_archive_of_images_and_class_numbers_can_be_opened_for_them() {
        let mut archive = Archive::default();
        archive.add("0.png", &png(4, 4, 1)).add("0.cls", b"3");
        let open =
            |class_numbers| Dataset::open(&[archive.file()], CaptionKeys { class_numbers, ..CaptionKeys::default() });
        assert!(open(ClassNumbers::Ignore).is_err());
        assert_eq!(open(ClassNumbers::Prefer).unwrap().label(0).unwrap(), Label::Number(3));
    }

    #[test]
    fn the_cache_holds_what_fits_whole() {
        let mut archive = Archive::default();
        for number in 0..10 {
            archive.add(&format!("{number}.png"), &png(8, 8, number)).add(&format!("{number}.txt"), b"x");
        }
        let size = 8 * 8 * 3;
        for (budget, kept) in [(0, 0), (9 * size, 0), (10 * size, 10)] {
            let dataset = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap().with_cache(budget);
            for sample in 0..10 {
                let [first, second] = [dataset.decoded(sample).unwrap(), dataset.decoded(sample).unwrap()];
                assert_eq!(first, second);
                assert_eq!(Arc::ptr_eq(&first, &second), kept > 0);
            }
            assert_eq!(dataset.reader.cache.images.lock().unwrap().len(), kept);
        }
    }
}
