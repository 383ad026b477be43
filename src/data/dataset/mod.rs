//! All samples of all shards, by number, and checks of them before training.
//!
//! | file | what it does |
//! |---|---|
//! | `cache` | decoded images of a small data set |
//! | `check` | whether a source has images and captions |
//! | `counts` | how many samples are in each shard, as files next to them say |
//! | `filter` | which samples of a shard are used |
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
mod filter;
mod list;
mod survey;
#[cfg(test)]
mod tests;
mod training;
mod variety;
mod view;
#[cfg(test)]
mod where_tests;

use std::borrow::Cow;
use std::collections::{HashMap, hash_map};
use std::sync::Arc;

use ::image::RgbImage;
use rayon::prelude::*;

use self::cache::Cache;
pub(crate) use self::filter::{Passed, check as check_filter, open as open_filtered};
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
use super::store::{Access, Location, NEVER, Source, Span, embedded_names, left_out};
use super::text::{count, list_some};

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
    /// Where each source ends in `shards`.
    sources: Arc<[usize]>,
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
        "warning: {} of the {} shards {} in the list more than once ({location} {same}); {} samples are visited \
         once for each",
        again.len(),
        locations.len(),
        if again.len() == 1 { "is" } else { "are" },
        if again.len() == 1 { "its" } else { "their" },
    ))
}

impl Dataset {
    /// Indexes every shard of `specs` (see [`Source::parse`]) on all cores. See [`Self::warnings`] for what is unusual.
    ///
    /// # Errors
    /// A source without shards; shards that are missing, unreadable, empty or not archives (all of them are named); a
    /// source in which no sample has both an image and a caption.
    pub fn open<S: AsRef<str>>(specs: &[S], keys: CaptionKeys) -> Result<Self> {
        Self::of(&sources(specs, &keys.access)?, specs, keys)
    }

    /// As [`Self::open`]; `specs` are what the user wrote, for warnings.
    fn of<S: AsRef<str>>(sources: &[Source], specs: &[S], keys: CaptionKeys) -> Result<Self> {
        keys.check()?;
        Self::of_opened(sources, all(Self::open_each(sources, &keys))?, specs, keys)
    }

    /// Opens every shard. All are opened before an error is returned, so that every run reports the same errors.
    fn open_each(sources: &[Source], keys: &CaptionKeys) -> Vec<Result<OpenShard>> {
        let locations: Vec<&Location> = sources.iter().flat_map(|source| &source.shards).collect();
        let common = common(keys);
        let open = |(number, location): (usize, &&Location)| {
            filter::open(number as u32, location, &common, keys.filter.as_ref(), &NEVER)
        };
        locations.par_iter().enumerate().map(open).collect()
    }

    /// The data set of shards that are open.
    fn of_opened<S: AsRef<str>>(
        sources: &[Source],
        opened: Vec<OpenShard>,
        specs: &[S],
        keys: CaptionKeys,
    ) -> Result<Self> {
        let locations: Vec<&Location> = sources.iter().flat_map(|source| &source.shards).collect();
        let common = common(&keys);
        let (mut shards, mut reports, mut passed) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, report, of_shard) in opened {
            shards.push(shard);
            reports.push(report);
            passed.push(of_shard);
        }
        let ends = source_ends(sources);
        let names = sources.iter().zip(&ends).map(|(source, &end)| (&*source.spec, end));
        let passed = keys.filter.as_ref().map(|filter| filter::check(filter, names, &passed)).transpose()?;
        for (source, &end) in sources.iter().zip(&ends) {
            let of_source = end - source.shards.len()..end;
            check::source(&source.spec, &shards[of_source.clone()], &reports[of_source], &keys)?;
        }
        let unpacked = reports.iter().map(|report| report.unpacked);
        let unpacked = unpacked.filter(|&bytes| bytes > 0);
        let (unpacked_shards, bytes) = unpacked.fold((0_u64, 0), |(n, sum), bytes| (n + 1, sum + bytes));
        let fetched = reports.iter().map(|report| report.fetched).filter(|&bytes| bytes > 0);
        let (fetched, fetched_bytes) = fetched.fold((0_u64, 0), |(n, sum), bytes| (n + 1, sum + bytes));
        let mut warnings = left_out(specs);
        warnings.extend(passed);
        warnings.extend(twice(&locations, &reports));
        warnings.extend(note_lines(reports.into_iter().flat_map(|report| report.notes)));
        if bytes > NOTED_BYTES {
            warnings.push(format!(
                "unpacked {} (compressed, or Parquet) to {:.1} GB of temporary files in {} (set TMPDIR for another folder)",
                count(unpacked_shards, "shard"),
                bytes as f64 / 1e9,
                common.spool.folder().display()
            ));
        }
        if fetched_bytes > NOTED_BYTES {
            warnings.push(format!(
                "fetched {} of {:.1} GB before the first step; with --order shards, each is fetched when its turn comes, \
                 and --cache keeps them for the next time",
                count(fetched, "shard"),
                fetched_bytes as f64 / 1e9
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
            sources: ends.into(),
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
        let Self { shards, sources, reader, warnings, .. } = self;
        let (shards, sources, warnings) = (shards.clone(), sources.clone(), warnings.clone());
        let kept = Self { shards, samples, sources, reader: reader.clone(), warnings };
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
    /// fingerprint, and with the same filter.
    pub fn fingerprint(&self) -> u32 {
        with_filter(self.fingerprint_of(|_| true), &self.reader.keys)
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

    /// How many samples of the data set are in each source.
    pub(crate) fn source_lengths(&self) -> Vec<u64> {
        let end = |&shards: &usize| self.samples.partition_point(|(shard, _)| (*shard as usize) < shards) as u64;
        self.sources.iter().scan(0, |first, shards| Some(end(shards) - std::mem::replace(first, end(shards)))).collect()
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

/// What shards share that are read by `keys`.
pub(crate) fn common(keys: &CaptionKeys) -> Common {
    let (image_key, wants_fields, access) = (keys.image_key.clone(), keys.filter.is_some(), keys.access.clone());
    Common { image_key, wants_fields, access, ..Common::default() }
}

/// A fingerprint with that of the filter, if there is one.
fn with_filter(sum: u32, keys: &CaptionKeys) -> u32 {
    keys.filter.as_ref().map_or(sum, |filter| crc32c::crc32c_append(sum, filter.to_string().as_bytes()))
}

/// The sources that `specs` name.
pub(crate) fn sources<S: AsRef<str>>(specs: &[S], access: &Access) -> Result<Vec<Source>> {
    match specs {
        [] => Err(DataError::NoSources { embedded: embedded_names() }),
        specs => {
            let parsed = specs.iter().map(|spec| Source::parse_all(spec.as_ref(), access));
            Ok(parsed.collect::<Result<Vec<_>>>()?.concat())
        }
    }
}

/// Where each source ends in the list of all shards.
fn source_ends(sources: &[Source]) -> Vec<usize> {
    let shards = sources.iter().map(|source| source.shards.len());
    shards
        .scan(0, |end, shards| {
            *end += shards;
            Some(*end)
        })
        .collect()
}

/// A shard, what is noteworthy about it, and how many of its samples a filter kept.
type OpenShard = (Shard, Report, Passed);

/// All shards, or an error that names those that cannot be used.
fn all<T>(opened: Vec<Result<T>>) -> Result<Vec<T>> {
    let total = opened.len();
    let (mut shards, mut errors) = (Vec::with_capacity(total), Vec::new());
    for shard in opened {
        match shard {
            Ok(shard) => shards.push(shard),
            Err(error) => errors.push(error),
        }
    }
    match (errors.pop(), total) {
        (None, _) => Ok(shards),
        (Some(error), 1) => Err(error),
        (Some(last), _) => {
            errors.push(last);
            let (failed, may_pass) = (errors.len(), errors.iter().all(DataError::may_pass));
            let list = list_some(errors.iter().map(DataError::to_string));
            Err(DataError::Shards { failed, total, list, may_pass })
        }
    }
}
