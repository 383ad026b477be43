//! All samples of all shards, by number.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::image::RgbImage;
use rayon::prelude::*;

use super::{
    Broken, Caption, CaptionKeys, Error, Kind, Result, Source, embedded,
    image::{self, ExifOrientation},
    shard::{Entry, Shard, image_members},
    source::some,
};

/// Samples that are looked at before training to see whether there are images and captions at all.
const FIRST: usize = 32;
/// Default budget of the cache of decoded images, in bytes.
pub const CACHE_BYTES: usize = 512 << 20;

/// An indexed data set. Samples are numbered from 0, in the order of the sources, shards and members.
pub struct Dataset {
    shards: Arc<Vec<Shard>>,
    keys: CaptionKeys,
    /// Shard and number within it, of each sample.
    samples: Vec<(u32, u32)>,
    orientation: ExifOrientation,
    cache: Arc<Cache>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset of {} samples in {} shards", self.len(), self.shards.len())
    }
}

/// The distinct captions of a data set, for zero-shot classification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// In order of first appearance.
    pub names: Vec<String>,
    /// The class of each sample, `[dataset.len()]`; none where the sample has no readable caption.
    pub of_sample: Vec<Option<u32>>,
}

impl Dataset {
    /// Maps and indexes every shard that `specs` stand for (see [`Source::parse`]), on all cores.
    ///
    /// # Errors
    /// A source without shards, a shard that is missing, unreadable, no archive or empty, and a source in whose first
    /// samples there is no image or no caption at all.
    pub fn open<S: AsRef<str>>(specs: &[S], keys: CaptionKeys) -> Result<Self> {
        let sources: Vec<Source> = specs.iter().map(|spec| Source::parse(spec.as_ref())).collect::<Result<_>>()?;
        if sources.is_empty() {
            return Err(Error::NoSources { embedded: embedded::names() });
        }
        let locations: Vec<_> = sources.iter().flat_map(|source| &source.shards).collect();
        // Collected before the errors are looked at, so that the first error is the same one at every run.
        let opened: Vec<Result<Shard>> = locations.par_iter().map(|location| Shard::open(location)).collect();
        let shards: Vec<Shard> = opened.into_iter().collect::<Result<_>>()?;
        let mut first = 0;
        for source in &sources {
            check_first_samples(&shards[first], &keys)?;
            first += source.shards.len();
        }
        let numbers =
            |(shard, of): (usize, &Shard)| (0..of.samples.len()).map(move |sample| (shard as u32, sample as u32));
        let samples = shards.iter().enumerate().flat_map(numbers).collect();
        let cache = Arc::new(Cache::new(CACHE_BYTES));
        Ok(Self { shards: Arc::new(shards), keys, samples, orientation: ExifOrientation::default(), cache })
    }

    /// Sets the budget of the cache of decoded images; 0 turns it off. Results do not depend on it.
    pub fn with_cache(self, bytes: usize) -> Self {
        Self { cache: Arc::new(Cache::new(bytes)), ..self }
    }

    /// Sets whether photos are turned as their EXIF data says; images that were decoded before are decoded again.
    pub fn with_orientation(self, orientation: ExifOrientation) -> Self {
        let cache = Arc::new(Cache::new(self.cache.budget));
        Self { orientation, cache, ..self }
    }

    /// The samples for which `keep(number)` holds, renumbered; shares the archives and the cache.
    ///
    /// # Errors
    /// [`Error::NoSamples`] if none is kept.
    pub fn filtered(&self, keep: impl Fn(u64) -> bool) -> Result<Self> {
        let kept = (0..self.samples.len()).filter(|&number| keep(number as u64));
        let samples: Vec<_> = kept.map(|number| self.samples[number]).collect();
        if samples.is_empty() {
            return Err(Error::NoSamples { of: self.len() });
        }
        let (shards, keys, cache) = (self.shards.clone(), self.keys.clone(), self.cache.clone());
        Ok(Self { shards, keys, samples, orientation: self.orientation, cache })
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// The shard a sample is in: its path, or `embedded:NAME`.
    pub fn shard(&self, sample: u64) -> &str {
        &self.entry(sample).0.name
    }

    /// The sample's key: its members' common path in the archive.
    pub fn key(&self, sample: u64) -> Cow<'_, str> {
        Cow::Borrowed(&self.entry(sample).1.key)
    }

    /// `shard:key`, for messages.
    pub fn name(&self, sample: u64) -> String {
        format!("{}:{}", self.shard(sample), self.key(sample))
    }

    /// The encoded image, as it stands in the archive.
    pub fn image(&self, sample: u64) -> std::result::Result<Cow<'_, [u8]>, Broken> {
        let (shard, entry) = self.whole(sample)?;
        shard
            .bytes(&entry.image)
            .map(Cow::Borrowed)
            .ok_or_else(|| Broken { kind: Kind::MissingImage, detail: format!("looked for {}", image_members()) })
    }

    /// The bytes of the `.cls` member, if there is one: the number of a class, as evaluation archives have it.
    pub fn cls(&self, sample: u64) -> std::result::Result<Option<Cow<'_, [u8]>>, Broken> {
        let (shard, entry) = self.whole(sample)?;
        Ok(shard.bytes(&entry.cls).map(Cow::Borrowed))
    }

    /// Name and tags.
    pub fn caption(&self, sample: u64) -> std::result::Result<Caption, Broken> {
        let (shard, entry) = self.whole(sample)?;
        self.keys.read(shard.bytes(&entry.txt), shard.bytes(&entry.json))
    }

    /// The image in RGB, from the cache if it was decoded before.
    pub fn decoded(&self, sample: u64) -> std::result::Result<Arc<RgbImage>, Broken> {
        let place = self.samples[sample as usize];
        if let Some(image) = self.cache.get(place) {
            return Ok(image);
        }
        let decoded = image::decode(&self.image(sample)?, self.orientation);
        let image = Arc::new(decoded.map_err(|detail| Broken { kind: Kind::BadImage, detail })?);
        self.cache.put(place, &image, self.len());
        Ok(image)
    }

    /// Distinct names, whatever the tags.
    pub fn classes(&self) -> Classes {
        let captions: Vec<_> = (0..self.len() as u64).into_par_iter().map(|sample| self.caption(sample)).collect();
        let mut numbers = HashMap::new();
        let mut names = Vec::new();
        let mut class = |name: String| {
            *numbers.entry(name).or_insert_with_key(|name| {
                names.push(name.clone());
                names.len() as u32 - 1
            })
        };
        let of_sample = captions.into_iter().map(|caption| Some(class(caption.ok()?.name))).collect();
        Classes { names, of_sample }
    }

    /// A checksum over every sample's key and the sizes of its members: a checkpoint's position means the same
    /// samples only in a data set with the same fingerprint.
    pub fn fingerprint(&self) -> u32 {
        self.samples.iter().fold(0, |sum, &(shard, sample)| {
            let entry = &self.shards[shard as usize].samples[sample as usize];
            let size = |range: &Option<std::ops::Range<usize>>| range.as_ref().map_or(u64::MAX, |r| r.len() as u64);
            let sizes = [&entry.image, &entry.txt, &entry.json].map(size);
            crc32c::crc32c_append(crc32c::crc32c_append(sum, entry.key.as_bytes()), bytemuck::cast_slice(&sizes))
        })
    }

    pub(super) fn shard_number(&self, sample: u64) -> usize {
        self.samples[sample as usize].0 as usize
    }

    /// How many samples of each shard are in the data set.
    pub(super) fn shard_lengths(&self) -> impl Iterator<Item = u64> {
        let mut lengths = vec![0; self.shards.len()];
        for &(shard, _) in &self.samples {
            lengths[shard as usize] += 1;
        }
        lengths.into_iter()
    }

    fn entry(&self, sample: u64) -> (&Shard, &Entry) {
        let (shard, entry) = self.samples[sample as usize];
        let shard = &self.shards[shard as usize];
        (shard, &shard.samples[entry as usize])
    }

    fn whole(&self, sample: u64) -> std::result::Result<(&Shard, &Entry), Broken> {
        let (shard, entry) = self.entry(sample);
        match &entry.cut {
            Some(detail) => Err(Broken { kind: Kind::TruncatedMember, detail: detail.to_string() }),
            None => Ok((shard, entry)),
        }
    }
}

/// Whole-source mistakes (a wrong caption key, archives of something else) are told at once.
fn check_first_samples(shard: &Shard, keys: &CaptionKeys) -> Result<()> {
    let whole: Vec<&Entry> = shard.samples.iter().filter(|entry| entry.cut.is_none()).take(FIRST).collect();
    if whole.is_empty() {
        return Ok(());
    }
    let extensions = || some(shard.extensions.iter().map(|extension| format!(".{extension}")));
    let (name, samples) = (shard.name.clone(), whole.len());
    if whole.iter().all(|entry| entry.image.is_none()) {
        return Err(Error::NoImages { shard: name, samples, looked_for: image_members(), found: extensions() });
    }
    let missing = |entry: &&Entry| {
        let caption = keys.read(shard.bytes(&entry.txt), shard.bytes(&entry.json));
        caption.is_err_and(|broken| broken.kind == Kind::MissingCaption)
    };
    if whole.iter().all(missing) {
        let fields: BTreeSet<String> =
            whole.iter().filter_map(|entry| shard.bytes(&entry.json)).flat_map(fields).collect();
        let found = match fields.is_empty() {
            true => extensions(),
            false => format!("{}; JSON fields {}", extensions(), some(fields.into_iter())),
        };
        return Err(Error::NoCaptions { shard: name, samples, looked_for: keys.looked_for(), found });
    }
    Ok(())
}

fn fields(json: &[u8]) -> Vec<String> {
    let object: Option<serde_json::Map<_, _>> = serde_json::from_slice(json).ok();
    object.into_iter().flatten().map(|(field, _)| field).collect()
}

/// Decoded images of a data set that is small enough to be kept whole.
struct Cache {
    budget: usize,
    used: AtomicUsize,
    images: Mutex<HashMap<(u32, u32), Arc<RgbImage>>>,
}

impl Cache {
    fn new(budget: usize) -> Self {
        Self { budget, used: AtomicUsize::new(0), images: Mutex::default() }
    }

    fn get(&self, sample: (u32, u32)) -> Option<Arc<RgbImage>> {
        if self.used.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.images.lock().unwrap_or_else(PoisonError::into_inner).get(&sample).cloned()
    }

    /// Keeps the image if the whole data set would fit, were all its images like this one: of a larger data set a
    /// cache would hold a part that is hardly ever asked for.
    fn put(&self, sample: (u32, u32), image: &Arc<RgbImage>, samples: usize) {
        let size = image.as_raw().len();
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        let used = self.used.load(Ordering::Relaxed);
        if size.saturating_mul(samples) <= self.budget && used + size <= self.budget {
            // Two threads may have decoded the same image.
            if images.insert(sample, image.clone()).is_none() {
                self.used.store(used + size, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(dataset.caption(1).unwrap(), Caption { name: "dog".into(), tags: vec!["pet".into()] });
        assert_eq!(dataset.image(2).unwrap(), png(4, 4, 3));
        assert_eq!(dataset.name(3), format!("{}:x/2", b.file()));
        let classes = dataset.classes();
        assert_eq!(classes.names, ["cat", "dog"]);
        assert_eq!(classes.of_sample, [Some(0), Some(1), Some(0), None]);

        let cats = dataset.filtered(|sample| classes.of_sample[sample as usize] == Some(0)).unwrap();
        assert_eq!((0..2).map(|sample| cats.key(sample)).collect::<Vec<_>>(), ["1", "x/1"]);
        assert_ne!(cats.fingerprint(), dataset.fingerprint());
        let again = Dataset::open(&[a.file(), b.file()], CaptionKeys::default()).unwrap();
        assert_eq!(again.fingerprint(), dataset.fingerprint());
        assert!(matches!(dataset.filtered(|_| false), Err(Error::NoSamples { of: 4 })));
    }

    #[test]
    fn photos_are_turned_when_asked() {
        let photo = include_bytes!("../../tests/fixtures/images/jpeg-turned-6.jpg");
        let mut archive = Archive::default();
        archive.add("1.jpg", photo).add("1.txt", b"a photo");
        let stored = Dataset::open(&[archive.file()], CaptionKeys::default()).unwrap();
        assert_eq!(stored.decoded(0).unwrap().dimensions(), (32, 24));
        let upright = stored.with_orientation(ExifOrientation::Apply);
        assert_eq!(upright.decoded(0).unwrap().dimensions(), (24, 32));
        assert_eq!(upright.filtered(|_| true).unwrap().decoded(0).unwrap().dimensions(), (24, 32));
    }

    #[test]
    fn mistakes_of_a_whole_source_are_told_at_once() {
        let error = |archive: &Archive, key: Option<&str>| {
            let keys = CaptionKeys { caption_key: key.map(str::to_owned), ..CaptionKeys::default() };
            Dataset::open(&[archive.file()], keys).unwrap_err().to_string()
        };
        let mut archive = Archive::default();
        archive.add("1.png", &png(4, 4, 0)).add("1.json", br#"{"alt": "a cat", "url": "x"}"#).add("1.cls", b"3");
        let message = error(&archive, None);
        assert!(message.contains("`caption`") && message.contains("JSON fields alt, url"), "{message}");
        assert!(error(&archive, Some("txt")).contains("found .cls, .json, .png"));
        let mut archive = Archive::default();
        archive.add("1.svg", b"<svg").add("1.txt", b"a cat");
        let message = error(&archive, None);
        assert!(message.contains("no images") && message.contains(".svg, .txt"), "{message}");
        let none: [&str; 0] = [];
        assert!(matches!(Dataset::open(&none, CaptionKeys::default()), Err(Error::NoSources { .. })));
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
            assert_eq!(dataset.cache.images.lock().unwrap().len(), kept);
        }
    }
}
