//! How many samples each shard has, as far as that is known before the shards are opened.
//!
//! | file | from | what it has |
//! |---|---|---|
//! | `sizes.json` | WebDataset, OpenCLIP | the samples of each shard in its folder |
//! | `NAME_stats.json` | img2dataset | the samples of shard `NAME.tar` (`successes`) |
//! | the footer of a Parquet file | its writer | the rows of that shard |
//! | `__len__` | WebDataset, OpenCLIP | the samples of all shards in its folder |
//! | the index cache | flipk | a line for each shard that was opened before: samples, tab, path |
//!
//! With a filter, only the index cache is read: a line of it then has the filter too, after another tab.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use serde::Deserialize;

#[cfg(feature = "parquet")]
use crate::data::format::parquet_rows;
use crate::data::sample::Filter;
use crate::data::store::{Access, Location, beside, by_kind, names_in, parquet_stem, shards_in};

/// Where shards and the files next to them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Folder<'a> {
    Disk(&'a Path),
    /// An address up to its last slash.
    Remote(&'a str),
}

impl<'a> Folder<'a> {
    /// The folder of a shard, and its name there.
    fn of(location: &'a Location) -> Option<(Self, &'a str)> {
        match location {
            Location::File(path) => Some((Self::Disk(path.parent()?), path.file_name()?.to_str()?)),
            // What follows a question mark is valid for this file alone.
            Location::Remote(address) if !address.contains('?') => {
                let (folder, name) = address.split_at(address.rfind('/')? + 1);
                Some((Self::Remote(folder), name))
            }
            _ => None,
        }
    }

    /// The path of a file in it.
    fn join(self, name: &str) -> PathBuf {
        match self {
            Self::Disk(folder) => folder.join(name),
            Self::Remote(folder) => format!("{folder}{name}").into(),
        }
    }

    fn read(self, name: &str, access: &Access) -> io::Result<Vec<u8>> {
        match self {
            Self::Disk(folder) => std::fs::read(folder.join(name)),
            Self::Remote(folder) => beside(folder, name, access)?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// The number of shards in it, if it can be listed.
    fn shards(self, access: &Access) -> Option<usize> {
        match self {
            Self::Disk(folder) => Some(shards_in(folder).ok()?.len()),
            Self::Remote(folder) => Some(by_kind(&names_in(folder, access)?).len()),
        }
    }
}

/// The shards that have a folder, by folder, in the order of the list.
fn by_folder(locations: &[Location]) -> Vec<(Folder<'_>, Vec<(usize, &str)>)> {
    let (mut folders, mut places) = (Vec::new(), HashMap::new());
    for (number, location) in locations.iter().enumerate() {
        if let Some((folder, name)) = Folder::of(location) {
            let place = *places.entry(folder).or_insert_with(|| {
                folders.push((folder, Vec::new()));
                folders.len() - 1
            });
            folders[place].1.push((number, name));
        }
    }
    folders
}

/// What is known about the sizes of shards.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) each: Vec<Option<u32>>,
    pub(super) total: Option<u64>,
    /// Which kinds of files say so.
    pub(super) from: BTreeSet<&'static str>,
    /// Files that cannot be used.
    pub(super) warnings: Vec<String>,
}

impl Counts {
    /// Looks for files next to the shards, and then in the index cache; for the samples that pass `filter`.
    pub(super) fn find(locations: &[Location], cache: Option<&Path>, access: &Access, filter: Option<&Filter>) -> Self {
        let mut this = Self { each: vec![None; locations.len()], total: Some(0), ..Self::default() };
        let folders = if filter.is_none() { by_folder(locations) } else { Vec::new() };
        let mut totals: HashMap<Folder<'_>, u64> = HashMap::new();
        // Where the first folder elsewhere says nothing, the total is unknown, and the others are not asked: there may
        // be as many of them as shards.
        let mut is_asked = true;
        for &(folder, ref shards) in &folders {
            let is_elsewhere = matches!(folder, Folder::Remote(_));
            if is_elsewhere && !is_asked {
                continue;
            }
            let has_sizes = this.read_sizes(folder, shards, access);
            // One file per shard, which would be one request per shard elsewhere.
            if let Folder::Disk(folder) = folder {
                #[cfg(feature = "parquet")]
                this.read_footers(folder, shards);
                this.read_stats(folder, shards);
            }
            let total = this.whole_folder(folder, shards.len(), access);
            is_asked &= has_sizes || total.is_some() || !is_elsewhere;
            totals.extend(total.map(|total| (folder, total)));
        }
        if let Some(cache) = cache.filter(|_| this.each.contains(&None)) {
            this.read_cache(cache, locations, filter);
        }
        for (folder, shards) in &folders {
            let known = shards.iter().map(|(number, _)| this.each[*number].map(u64::from)).sum::<Option<u64>>();
            let known = known.or_else(|| {
                let total = totals.get(folder).copied();
                this.from.extend(total.map(|_| "__len__"));
                total
            });
            this.total = this.total.zip(known).and_then(|(sum, known)| sum.checked_add(known));
        }
        let in_folders: usize = folders.iter().map(|(_, shards)| shards.len()).sum();
        if in_folders < locations.len() {
            this.total = None;
        }
        if filter.is_some() {
            this.total = this.each.iter().map(|count| count.map(u64::from)).sum();
        }
        this
    }

    /// Returns whether there is a `sizes.json`.
    fn read_sizes(&mut self, folder: Folder<'_>, shards: &[(usize, &str)], access: &Access) -> bool {
        let Some(sizes) = self.read::<HashMap<String, u64>>(folder, "sizes.json", access) else { return false };
        for &(number, name) in shards {
            if let Some(&count) = sizes.get(name) {
                self.each[number] = u32::try_from(count).ok();
                self.from.insert("sizes.json");
            }
        }
        true
    }

    #[cfg(feature = "parquet")]
    fn read_footers(&mut self, folder: &Path, shards: &[(usize, &str)]) {
        let unknown =
            shards.par_iter().filter(|(number, name)| self.each[*number].is_none() && parquet_stem(name).is_some());
        let read =
            |(number, name): &(usize, &str)| Some((*number, u32::try_from(parquet_rows(&folder.join(name))?).ok()?));
        for (number, count) in unknown.filter_map(read).collect::<Vec<_>>() {
            self.each[number] = Some(count);
            self.from.insert("footers of Parquet files");
        }
    }

    fn read_stats(&mut self, folder: &Path, shards: &[(usize, &str)]) {
        #[derive(Deserialize)]
        struct Stats {
            successes: u32,
        }
        let path = |name: &str| folder.join(format!("{}_stats.json", name.split('.').next().unwrap_or(name)));
        // A row of img2dataset's Parquet files need not be a success.
        let is_unknown = |(number, name): &&(usize, &str)| self.each[*number].is_none() && parquet_stem(name).is_none();
        let unknown: Vec<_> = shards.iter().filter(is_unknown).collect();
        // Where the first has none, none is looked for: there may be very many.
        if !unknown.first().is_some_and(|(_, name)| path(name).exists()) {
            return;
        }
        let read = |(number, name): &&(usize, &str)| -> Option<(usize, u32)> {
            let bytes = std::fs::read(path(name)).ok()?;
            Some((*number, serde_json::from_slice::<Stats>(&bytes).ok()?.successes))
        };
        for (number, count) in unknown.par_iter().filter_map(read).collect::<Vec<_>>() {
            self.each[number] = Some(count);
            self.from.insert("_stats.json");
        }
    }

    /// The number in `__len__`, if all shards of the folder are in the list.
    fn whole_folder(&mut self, folder: Folder<'_>, listed: usize, access: &Access) -> Option<u64> {
        let total = self.read(folder, "__len__", access)?;
        (folder.shards(access)? <= listed).then_some(total)
    }

    /// The content of a file, if there is one.
    fn read<T: for<'de> Deserialize<'de>>(&mut self, folder: Folder<'_>, name: &str, access: &Access) -> Option<T> {
        let read = match folder.read(name, access) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            read => read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)),
        };
        let unused = |error: &io::Error| format!("warning: {} is not used: {error}", folder.join(name).display());
        read.inspect_err(|error| self.warnings.push(unused(error))).ok()
    }

    fn read_cache(&mut self, path: &Path, locations: &[Location], filter: Option<&Filter>) {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.warnings.push(format!("warning: {} is not used: {error}", path.display())),
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        };
        // The last line may be cut, and such a path is in no list.
        let lines = text.lines().filter_map(|line| line.split_once('\t'));
        let known: HashMap<&str, u32> = lines.filter_map(|(count, path)| Some((path, count.parse().ok()?))).collect();
        for (number, location) in locations.iter().enumerate().filter(|_| !known.is_empty()) {
            if self.each[number].is_none()
                && let Some(&count) = known.get(&*cached_as(location, filter))
            {
                self.each[number] = Some(count);
                self.from.insert("the index cache");
            }
        }
    }
}

/// What stands behind the count of a shard in the index cache.
fn cached_as(location: &Location, filter: Option<&Filter>) -> String {
    let filter = filter.map(|filter| format!("\t{:?}", filter.to_string()));
    format!("{location}{}", filter.unwrap_or_default())
}

/// Writes the index cache.
#[derive(Debug)]
pub(super) struct CacheWriter {
    path: PathBuf,
    filter: Option<Filter>,
    /// Whether a write failed; it is reported once.
    failed: AtomicBool,
}

impl CacheWriter {
    pub(super) fn new(path: PathBuf, filter: Option<Filter>) -> Self {
        Self { path, filter, failed: AtomicBool::new(false) }
    }

    /// Adds lines. Returns a warning if that fails for the first time.
    pub(super) fn add(&self, found: &[(u32, &Location)]) -> Option<String> {
        let error = self.append(found).err().filter(|_| !self.failed.swap(true, Ordering::Relaxed))?;
        Some(format!("warning: cannot write {}: {error}; training continues without it", self.path.display()))
    }

    fn append(&self, found: &[(u32, &Location)]) -> io::Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        let mut lines = if ends_in_line(&mut file)? { String::new() } else { "\n".to_owned() };
        for (count, location) in found {
            let path = cached_as(location, self.filter.as_ref());
            // Such a name would read as two lines.
            if !path.contains(['\n', '\r']) {
                lines += &format!("{count}\t{path}\n");
            }
        }
        // At once, since another run may write too.
        file.write_all(lines.as_bytes())
    }
}

/// Whether the last line of a file is whole: a killed process may have left a part of one.
fn ends_in_line(file: &mut File) -> io::Result<bool> {
    use std::io::{Read, Seek, SeekFrom};
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locations(folder: &Path, count: u32) -> Vec<Location> {
        (0..count).map(|number| Location::File(folder.join(format!("{number:05}.tar")))).collect()
    }

    #[test]
    fn sizes_stats_and_len_are_read_as_their_programs_write_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let shards = locations(path, 3);
        let find = || Counts::find(&shards, None, &Access::default(), None);
        assert_eq!(find(), Counts { each: vec![None; 3], ..Counts::default() });
        // img2dataset's file, shortened.
        let stats =
            r#"{"count": 10, "successes": 7, "failed_to_download": 3, "duration": 1.5, "status_dict": {"success": 7}}"#;
        for number in 0..3 {
            std::fs::write(path.join(format!("{number:05}_stats.json")), stats).unwrap();
        }
        let from = |words: &[&'static str]| words.iter().copied().collect::<BTreeSet<_>>();
        let found = find();
        assert_eq!((found.each, found.total, found.from), (vec![Some(7); 3], Some(21), from(&["_stats.json"])));
        // Counts of sizes.json come first, and it need not have all.
        std::fs::write(path.join("sizes.json"), r#"{"00001.tar": 100, "00009.tar": 5}"#).unwrap();
        let found = find();
        assert_eq!((found.each, found.total), (vec![Some(7), Some(100), Some(7)], Some(114)));
        std::fs::remove_file(path.join("00000_stats.json")).unwrap();
        assert_eq!(find().total, None);
        // __len__ stands for all shards of the folder.
        std::fs::write(path.join("__len__"), "30\n").unwrap();
        let found = find();
        assert_eq!((found.total, found.from), (Some(30), from(&["sizes.json", "__len__"])));
        (0..4).for_each(|number| std::fs::write(path.join(format!("{number:05}.tar")), "").unwrap());
        assert_eq!(find().total, None, "there is a fourth shard");
        std::fs::rename(path.join("00003.tar"), path.join("00003.tar.gz")).unwrap();
        assert_eq!(find().total, None, "and it is compressed");
        std::fs::write(path.join("sizes.json"), "{").unwrap();
        let found = find();
        assert!(found.warnings[0].contains("sizes.json is not used") && found.warnings.len() == 1, "{found:?}");
        assert_eq!(Counts::find(&[Location::Embedded("noto")], None, &Access::default(), None).total, None);
    }

    #[test]
    fn the_cache_survives_a_kill_and_other_data() {
        let folder = tempfile::tempdir().unwrap();
        let (shards, path) = (locations(folder.path(), 4), folder.path().join("cache/shards.tsv"));
        let writer = CacheWriter::new(path.clone(), None);
        let find = |shards: &[Location]| Counts::find(shards, Some(&path), &Access::default(), None);
        let found = |writer: &CacheWriter, numbers: &[usize]| {
            let lines: Vec<_> = numbers.iter().map(|&number| (10 + number as u32, &shards[number])).collect();
            assert_eq!(writer.add(&lines), None);
        };
        found(&writer, &[0, 2]);
        assert_eq!(find(&shards).each, [Some(10), None, Some(12), None]);
        // Cut in the middle of a line.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        assert_eq!(find(&shards).each, [Some(10), None, None, None]);
        found(&CacheWriter::new(path.clone(), None), &[1, 2, 3]);
        let counts = find(&shards);
        assert_eq!((counts.each, counts.total), (vec![Some(10), Some(11), Some(12), Some(13)], Some(46)));
        assert_eq!(find(&locations(Path::new("elsewhere"), 4)).total, None);
        // Counts of other samples, and those of whole shards, are not those of a filter.
        let [filter, other] = ["a > 1", "a > 2"].map(|text| text.parse::<Filter>().ok());
        std::fs::write(folder.path().join("sizes.json"), r#"{"00000.tar": 100}"#).unwrap();
        let filtered =
            |filter: &Option<Filter>| Counts::find(&shards, Some(&path), &Access::default(), filter.as_ref());
        assert_eq!((filtered(&filter).each, filtered(&filter).total), (vec![None; 4], None));
        found(&CacheWriter::new(path.clone(), filter.clone()), &[0, 1, 2, 3]);
        assert_eq!((filtered(&filter).total, filtered(&other).total), (Some(46), None));
        assert_eq!(find(&shards).each[0], Some(100));
        let blocked = CacheWriter::new(shards[0].to_string().into(), None);
        std::fs::create_dir(folder.path().join("00000.tar")).unwrap();
        let [first, second] = [0, 1].map(|_| blocked.add(&[(1, &shards[1])]));
        assert!(first.unwrap().contains("cannot write") && second.is_none());
    }
}
