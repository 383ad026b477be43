//! A list of shards, each of which is opened when its turn comes: for data sets too large to be indexed before
//! training.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use super::cache::Cache;
use super::counts::{CacheWriter, Counts};
use super::view::{Held, Reader, View};
use super::{Dataset, OpenShard, common, filter, left_out, source_ends, with_filter};
use crate::data::error::{DataError, Result};
use crate::data::format::{Common, Report, Shard, note_lines};
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;
use crate::data::store::{Location, NEVER, Source};
use crate::data::text::count;

/// Shards that are looked at before training.
const PROBE_SHARDS: usize = 8;

/// Shards that are not indexed yet. A sample is identified by the number of its shard in the list and its number in the
/// shard (`ShardList::id`).
pub struct ShardList {
    locations: Vec<Location>,
    /// Where each source ends in them.
    sources: Vec<usize>,
    /// Samples in each shard, where that is known beforehand.
    counts: Counts,
    /// Where the counts of others are written, and which are.
    cache: OnceLock<CacheWriter>,
    written: Vec<AtomicBool>,
    looked_at: Dataset,
    /// Over the samples of some shards, which are the same however the list is cut into sources.
    fingerprint: u32,
    reader: Arc<Reader>,
    common: Common,
    /// How many shards were opened so far. Numbers their files, so that those in use at the same time have different
    /// places in the table of open files.
    opened: AtomicU32,
    warnings: Vec<String>,
}

impl std::fmt::Debug for ShardList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardList of {} shards", self.locations.len())
    }
}

/// Shards that were opened together.
#[derive(Default)]
pub(crate) struct Opened {
    /// Their numbers, and `None` for those that cannot be used.
    pub(crate) shards: Vec<(u32, Option<Arc<Shard>>)>,
    /// An estimate of the samples that are lost to damage, or with shards that cannot be used.
    pub(crate) lost: u64,
    /// Warnings about damage.
    pub(crate) warnings: Vec<String>,
}

impl Opened {
    /// The number of samples in each shard.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().map(|(_, shard)| shard.as_ref().map_or(0, |shard| shard.samples.len() as u64))
    }
}

impl ShardList {
    /// Looks at a few shards of `sources`, whose sizes are `counts`.
    ///
    /// # Errors
    /// As [`Dataset::open`], for the shards that are looked at.
    pub(super) fn of(
        sources: &[Source],
        locations: Vec<Location>,
        mut counts: Counts,
        specs: &[impl AsRef<str>],
        keys: CaptionKeys,
    ) -> Result<Self> {
        keys.check()?;
        let (mut parts, mut is_spread) = probe(sources, 0);
        let mut warnings = left_out(specs);
        warnings.append(&mut counts.warnings);
        let (mut opened, mut unusable) = (Dataset::open_each(&parts, &keys), BTreeMap::new());
        // Shards that lie at equal distances may be bad for the same reason; their neighbours need not be.
        for shift in 1..=2 {
            if opened.len() < locations.len() && !opened.is_empty() && opened.iter().all(is_unusable) {
                unusable.extend(opened.iter().filter_map(|shard| Some((shard.as_ref().err()?.to_string(), true))));
                (parts, is_spread) = probe(sources, shift);
                opened = Dataset::open_each(&parts, &keys);
            }
        }
        let all = opened.len() == locations.len();
        let lengths: Vec<_> = opened.iter().map(|shard| Some(shard.as_ref().ok()?.0.samples.len() as u32)).collect();
        leave_out_unusable(sources, &mut parts, &mut is_spread, &mut opened, &mut unusable);
        warnings.extend(unusable.iter().map(|(error, &identifies)| not_used(error, identifies)));
        let of_all = |error| match error {
            DataError::Shards { failed, list, may_pass, .. } => {
                DataError::Shards { failed, total: locations.len(), list, may_pass }
            }
            other => other,
        };
        let looked_at = Dataset::of_opened(&parts, super::all(opened).map_err(of_all)?, &[] as &[&str], keys.clone())?;
        if all && counts.total.is_none() {
            counts.each = lengths;
            counts.total = Some(looked_at.len() as u64);
        }
        warnings.extend(looked_at.warnings.iter().cloned());
        if !all {
            let (few, shards) = (looked_at.shards.len(), locations.len());
            warnings.push(format!("captions and shards were checked in {few} of the {shards} shards"));
        }
        let common = common(&keys);
        let reader = Arc::new(uncached(keys, Decoding::default()));
        Ok(Self {
            written: counts.each.iter().map(|count| AtomicBool::new(count.is_some())).collect(),
            locations,
            sources: source_ends(sources),
            counts,
            cache: OnceLock::new(),
            fingerprint: looked_at.fingerprint_of(|shard| is_spread[shard as usize]),
            looked_at,
            reader,
            common,
            opened: AtomicU32::new(0),
            warnings,
        })
    }

    /// Sets how images are decoded.
    pub(super) fn with_decoding(self, decoding: Decoding) -> Self {
        let reader = Arc::new(uncached(self.reader.keys.clone(), decoding));
        Self { looked_at: self.looked_at.with_decoding(decoding), reader, ..self }
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.locations.len()
    }

    /// The number of samples, if it is known before all shards were read.
    pub fn samples(&self) -> Option<u64> {
        self.counts.total
    }

    /// The number of shards in each source.
    pub(super) fn source_shards(&self) -> Vec<u64> {
        self.of_sources().map(|shards| shards.len() as u64).collect()
    }

    /// The number of samples in each source, if it is known.
    pub(super) fn source_samples(&self) -> Vec<Option<u64>> {
        self.of_sources()
            .map(|shards| self.counts.each[shards].iter().map(|count| count.map(u64::from)).sum())
            .collect()
    }

    /// The shards of each source.
    fn of_sources(&self) -> impl Iterator<Item = Range<usize>> {
        self.sources.iter().scan(0, |first, &end| Some(std::mem::replace(first, end)..end))
    }

    /// What is known about it before training.
    pub(super) fn describe(&self) -> String {
        let shards = count(self.locations.len() as u64, "shard");
        let from: Vec<&str> = self.counts.from.iter().copied().collect();
        match self.counts.total {
            Some(samples) if from.is_empty() => format!("{samples} pairs in {shards}, shard by shard"),
            Some(samples) => format!("{samples} pairs (by {}) in {shards}, shard by shard", from.join(" and ")),
            None => format!("{shards} with an unknown number of pairs, shard by shard"),
        }
    }

    /// Where to write the numbers of samples that are not known yet; only the first call counts.
    pub(super) fn write_counts(&self, path: PathBuf) {
        self.cache.get_or_init(|| CacheWriter::new(path, self.reader.keys.filter.clone()));
    }

    /// The few shards that were looked at beforehand.
    pub fn looked_at(&self) -> &Dataset {
        &self.looked_at
    }

    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Over the names of all shards without their folders, and the samples of a few of them.
    pub(super) fn fingerprint(&self) -> u32 {
        let sum = with_filter(self.fingerprint, &self.reader.keys);
        self.locations.iter().fold(sum, |sum, location| {
            let path = location.to_string();
            let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
            crc32c::crc32c_append(crc32c::crc32c_append(sum, name.as_bytes()), b"\n")
        })
    }

    pub(crate) fn location(&self, shard: u32) -> &Location {
        &self.locations[shard as usize]
    }

    /// Identifies sample `number` of shard `shard`, whatever is in other shards.
    pub(crate) fn id(shard: u32, number: u32) -> u64 {
        u64::from(shard) << 32 | u64::from(number)
    }

    /// Shard, and number in the shard.
    pub(crate) fn place(id: u64) -> (u32, u32) {
        ((id >> 32) as u32, id as u32)
    }

    /// A sample of a shard that was opened.
    pub(crate) fn held(&self, shard: &Arc<Shard>, place: (u32, u32)) -> Held {
        Held { shard: shard.clone(), place, reader: self.reader.clone() }
    }

    /// `look` at each sample; `None` where its shard can no longer be read. Opens the shards again, one at a time.
    pub(super) fn each<T>(&self, ids: &[u64], mut look: impl FnMut(View<'_>) -> T) -> Vec<Option<T>> {
        let mut sorted: Vec<usize> = (0..ids.len()).collect();
        sorted.sort_unstable_by_key(|&at| ids[at]);
        let mut seen: Vec<Option<T>> = ids.iter().map(|_| None).collect();
        let mut open: Option<(u32, Option<Arc<Shard>>)> = None;
        for at in sorted {
            let place = Self::place(ids[at]);
            if open.as_ref().is_none_or(|(number, _)| *number != place.0) {
                open = Some((place.0, self.open(place.0, &NEVER).ok().map(|(shard, _)| Arc::new(shard))));
            }
            let shard = open.as_ref().and_then(|(_, shard)| shard.as_ref());
            let shard = shard.filter(|shard| (place.1 as usize) < shard.samples.len());
            seen[at] = shard.map(|shard| look(self.held(shard, place).view()));
        }
        seen
    }

    fn open(&self, shard: u32, stop: &AtomicBool) -> Result<(Shard, Report)> {
        let file = self.opened.fetch_add(1, Ordering::Relaxed);
        let filter = self.reader.keys.filter.as_ref();
        let (shard, report, _) = filter::open(file, self.location(shard), &self.common, filter, stop)?;
        Ok((shard, report))
    }

    /// Opens shards on up to `threads` threads. Those that are not archives or have no samples count as damage: all
    /// their samples are lost. `None` if `stop` was set meanwhile.
    ///
    /// # Errors
    /// A shard that is missing or cannot be read.
    pub(crate) fn open_all(&self, numbers: &[u32], threads: usize, stop: &AtomicBool) -> Result<Option<Opened>> {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Result<(Shard, Report)>>>> = numbers.iter().map(|_| Mutex::default()).collect();
        let work = || {
            while let Some((&number, result)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                numbers.get(at).zip(results.get(at)).filter(|_| !stop.load(Ordering::Relaxed))
            } {
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.open(number, stop));
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads.min(numbers.len()) {
                // A thread that cannot be started leaves its work to the others.
                drop(thread::Builder::new().name("open".to_owned()).spawn_scoped(scope, work));
            }
            work();
        });
        let (mut opened, mut notes, mut unusable) = (Opened::default(), Vec::new(), Vec::new());
        for (&number, result) in numbers.iter().zip(results) {
            match result.into_inner().unwrap_or_else(PoisonError::into_inner) {
                None => return Ok(None),
                Some(Ok((shard, report))) => {
                    opened.lost += shard.lost;
                    notes.extend(report.notes);
                    opened.shards.push((number, Some(Arc::new(shard))));
                }
                Some(Err(error)) if error.is_of_shard() => {
                    opened.warnings.push(format!("warning: skipped a shard: {error}"));
                    unusable.push(number);
                    opened.shards.push((number, None));
                }
                Some(Err(_)) if stop.load(Ordering::Relaxed) => return Ok(None),
                Some(Err(error)) => return Err(error),
            }
        }
        // Of those that were looked at: what is lost does not depend on which shards are opened together.
        let mean = (self.looked_at.len() / self.looked_at.shards.len().max(1)).max(1) as u64;
        opened.lost +=
            unusable.iter().map(|&number| self.counts.each[number as usize].map_or(mean, u64::from)).sum::<u64>();
        opened.warnings.extend(note_lines(notes.into_iter()));
        opened.warnings.extend(self.write(&opened));
        Ok(Some(opened))
    }

    /// Writes the counts that are not written yet. Returns a warning if that fails.
    fn write(&self, opened: &Opened) -> Option<String> {
        let cache = self.cache.get()?;
        let usable = opened.shards.iter().filter_map(|(number, shard)| Some((*number, shard.as_ref()?.samples.len())));
        let new = usable.filter(|(number, _)| !self.written[*number as usize].swap(true, Ordering::Relaxed));
        let new: Vec<_> = new.map(|(number, samples)| (samples as u32, self.location(number))).collect();
        cache.add(&new)
    }
}

/// Without a cache: such data sets do not fit.
pub(crate) fn uncached(keys: CaptionKeys, decoding: Decoding) -> Reader {
    Reader { keys, decoding, cache: Arc::new(Cache::new(0)), samples: usize::MAX }
}

/// Some numbers below `shards`, evenly spread, from `shift` on.
fn spread(shards: usize, shift: usize) -> Vec<usize> {
    let count = shards.min(PROBE_SHARDS);
    let mut numbers: Vec<usize> = (0..count).map(|at| (at * shards / count + shift) % shards).collect();
    numbers.sort_unstable();
    numbers
}

fn is_unusable<T>(opened: &Result<T>) -> bool {
    opened.as_ref().is_err_and(DataError::is_of_shard)
}

/// The part of each source that is looked at: shards that are spread over the list, and the first of each source unless
/// there are many. Also says for each of these shards whether it is one of the former.
fn probe(sources: &[Source], shift: usize) -> (Vec<Source>, Vec<bool>) {
    let spread = spread(sources.iter().map(|source| source.shards.len()).sum(), shift);
    let (mut parts, mut is_spread, mut first) = (Vec::new(), Vec::new(), 0);
    for source in sources {
        let mut shards = Vec::new();
        for (at, shard) in source.shards.iter().enumerate() {
            let identifies = spread.binary_search(&(first + at)).is_ok();
            if identifies || at == 0 && sources.len() <= PROBE_SHARDS {
                shards.push(shard.clone());
                is_spread.push(identifies);
            }
        }
        first += source.shards.len();
        if !shards.is_empty() {
            parts.push(Source { spec: source.spec.clone(), shards });
        }
    }
    (parts, is_spread)
}

/// The warning about a shard that cannot be used; `identifies`: whether it is one of those that identify the data.
fn not_used(error: &str, identifies: bool) -> String {
    let resumed = if identifies { ", and the run can only be resumed while it stays as it is" } else { "" };
    format!("warning: {error}; it counts as a shard of broken samples{resumed}")
}

/// Moves shards that cannot be used to `unusable`, by error, as they are skipped later. Keeps them if a source has no
/// others, or several were looked at and none can be used.
fn leave_out_unusable(
    sources: &[Source],
    parts: &mut Vec<Source>,
    is_spread: &mut Vec<bool>,
    opened: &mut Vec<Result<OpenShard>>,
    unusable: &mut BTreeMap<String, bool>,
) {
    let is_only = |part: &Source| sources.iter().any(|source| source.spec == part.spec && source.shards.len() == 1);
    let any_usable = opened.iter().any(Result::is_ok);
    let mut results = std::mem::take(opened).into_iter();
    let mut spread = std::mem::take(is_spread).into_iter();
    for part in parts.iter_mut() {
        let of_part: Vec<_> = results.by_ref().take(part.shards.len()).collect();
        let has_others = of_part.iter().any(Result::is_ok) || any_usable && of_part.len() == 1 && !is_only(part);
        let shards = std::mem::take(&mut part.shards);
        for ((shard, result), identifies) in shards.into_iter().zip(of_part).zip(spread.by_ref()) {
            match result {
                Err(error) if has_others && error.is_of_shard() => {
                    unusable.entry(error.to_string()).or_insert(identifies);
                }
                result => {
                    part.shards.push(shard);
                    is_spread.push(identifies);
                    opened.push(result);
                }
            }
        }
    }
    parts.retain(|part| !part.shards.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::{Order, TrainingData};
    use crate::data::testing::{Archive, png};

    /// Shards of the same names with one sample each, of this key.
    fn shards(key: &str, count: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..count {
            let mut archive = Archive::default();
            archive.add(&format!("{key}.png"), &png(2, 2, 1)).add(&format!("{key}.txt"), b"a name");
            std::fs::copy(archive.file(), folder.path().join(format!("{number:03}.tar"))).unwrap();
        }
        folder
    }

    fn open(specs: &[String]) -> TrainingData {
        let (keys, decoding) = (CaptionKeys::default(), Decoding::default());
        TrainingData::open(specs, keys, decoding, Order::Shards, None).unwrap()
    }

    fn whole(folder: &tempfile::TempDir) -> Vec<String> {
        vec![folder.path().display().to_string()]
    }

    #[test]
    fn the_fingerprint_is_that_of_the_data_wherever_it_is() {
        let (here, there, other, more) = (shards("1", 40), shards("1", 40), shards("2", 40), shards("1", 41));
        let of = |specs: &[String]| open(specs).fingerprint();
        let expected = of(&whole(&here));
        assert_eq!(of(&whole(&there)), expected);
        let parts: Vec<String> = ["{000..017}", "{018..038}", "039"]
            .iter()
            .map(|part| here.path().join(format!("{part}.tar")).display().to_string())
            .collect();
        assert_eq!(of(&parts), expected, "the same list in three sources");
        assert!(of(&whole(&other)) != expected && of(&whole(&more)) != expected && of(&parts[..2]) != expected);
    }

    /// A source of three shards among 2,000 may lie between eight that are spread evenly.
    #[test]
    fn every_source_is_looked_at() {
        let source = |spec: &str, count: usize| {
            let path = |number| Location::File(PathBuf::from(format!("{spec}{number}")));
            Source { spec: spec.to_owned(), shards: (0..count).map(path).collect() }
        };
        let (parts, is_spread) = probe(&[source("a", 900), source("b", 3), source("c", 1097)], 0);
        assert_eq!(parts.iter().map(|part| part.shards.len()).collect::<Vec<_>>(), [4, 1, 5]);
        assert_eq!(is_spread.iter().filter(|identifies| **identifies).count(), 8);
        let many: Vec<Source> = (0..3000).map(|_| source("a", 1)).collect();
        assert_eq!(probe(&many, 0).0.len(), 8);
    }

    #[test]
    fn a_shard_that_cannot_be_used_is_a_warning_if_there_are_others() {
        for count in [3, 12] {
            let folder = shards("7", count);
            std::fs::write(folder.path().join("000.tar"), b"<html>404</html>").unwrap();
            let data = open(&whole(&folder));
            let warnings = data.warnings().join("\n");
            assert!(
                warnings.contains("000.tar is not a tar archive")
                    && warnings.contains("counts as a shard of broken samples"),
                "{warnings}"
            );
            let TrainingData::Listed(list) = &data else { unreachable!("it was opened by shard") };
            let looked_at = count.min(PROBE_SHARDS) - 1;
            assert_eq!((list.shards(), list.looked_at().len()), (count, looked_at));
            assert_eq!(list.samples(), (count == 3).then_some(2));
            // Of two sources, one has no other.
            let other = shards("7", 5);
            let specs = [folder.path().join("000.tar"), other.path().to_owned()].map(|path| path.display().to_string());
            let (keys, decoding) = (CaptionKeys::default(), Decoding::default());
            let error = TrainingData::open(&specs, keys, decoding, Order::Shards, None).unwrap_err().to_string();
            assert!(error.contains("000.tar is not a tar archive"), "{error}");
        }
        // Every tenth shard, and so all that are looked at first.
        let folder = shards("7", 80);
        for shard in (0..80).step_by(10) {
            std::fs::write(folder.path().join(format!("{shard:03}.tar")), b"<html>404</html>").unwrap();
        }
        let TrainingData::Listed(list) = open(&whole(&folder)) else { unreachable!("it was opened by shard") };
        let named = list.warnings().iter().filter(|warning| warning.contains("is not a tar archive")).count();
        assert_eq!((list.looked_at().len(), named), (PROBE_SHARDS, PROBE_SHARDS));
        // Of ten sources, one shard each is looked at.
        let folders: Vec<_> = (0..10).map(|_| shards("7", 4)).collect();
        std::fs::write(folders[0].path().join("000.tar"), b"<html>404</html>").unwrap();
        let specs: Vec<String> = folders.iter().map(|folder| folder.path().display().to_string()).collect();
        let data = open(&specs);
        assert!(data.warnings().join("\n").contains("000.tar is not a tar archive"), "{:?}", data.warnings());
    }

    #[test]
    fn samples_are_named_by_their_shard_and_key() {
        let folder = shards("7", 12);
        let data = open(&whole(&folder));
        let TrainingData::Listed(list) = &data else { unreachable!("it was opened by shard") };
        assert_eq!((list.shards(), list.samples(), list.looked_at().len()), (12, None, 8));
        std::fs::remove_file(folder.path().join("004.tar")).unwrap();
        let names = data.names(&[ShardList::id(9, 0), ShardList::id(4, 0), ShardList::id(9, 0)]);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let nine = format!("{}:7", path("009.tar"));
        assert_eq!(names, [nine.clone(), format!("{}: sample 0", path("004.tar")), nine]);
    }
}
