//! Shards that are opened in order, a few at a time, and what is in them.

use std::ffi::OsString;
use std::fs::Metadata;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;

use crate::data::dataset::{Held, Passed, Reader, check_filter, common, open_filtered, sources, uncached};
use crate::data::error::Result;
use crate::data::format::{Common, Report, Shard};
use crate::data::sample::image::Decoding;
use crate::data::sample::{CaptionKeys, Filter};
use crate::data::store::{Access, Location, NEVER, files_in, left_out, version};
use crate::log;

/// Servers that are asked at the same time: a question is answered in much less than a core's time.
const QUESTIONS: usize = 32;

/// A list of shards, of which none is open yet.
pub struct Input {
    pub(super) locations: Vec<Location>,
    /// How samples are read, for the fingerprint.
    options: String,
    filter: Option<Filter>,
    /// What passed it in the shards that were opened.
    passed: Mutex<Passed>,
    reader: Arc<Reader>,
    common: Common,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input of {} shards", self.locations.len())
    }
}

impl Input {
    /// Finds the shards of `specs` (see [`Source::parse`](crate::data::Source::parse)).
    ///
    /// # Errors
    /// A source without shards, shards that do not exist, or a list of caption keys that is not valid.
    pub fn find<S: AsRef<str>>(specs: &[S], keys: CaptionKeys, decoding: Decoding) -> Result<Self> {
        keys.check()?;
        log::lines(left_out(specs));
        let locations = sources(specs, &keys.access)?.into_iter().flat_map(|source| source.shards).collect();
        let common = common(&keys);
        let options = format!("{}\n{decoding:?}\n", serde_json::to_string(&keys).unwrap_or_default());
        let (filter, passed) = (keys.filter.clone(), Mutex::default());
        Ok(Self { locations, options, filter, passed, reader: Arc::new(uncached(keys, decoding)), common })
    }

    /// Also reads the headers of packs that begin with an index, to compare the two.
    pub fn with_headers(mut self) -> Self {
        self.common.wants_headers = true;
        self
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.locations.len()
    }

    /// Over how samples are read, and over the names and versions of all shards: another list, or changed shards, give
    /// another one. A version is a length and a time of change, of each file of a folder of images; at an address, what
    /// the server says. The images that a table names are not looked at.
    ///
    /// # Errors
    /// A server that does not answer.
    pub(super) fn fingerprint(&self) -> Result<u32> {
        let each = || self.locations.par_iter().map(|location| content(location, &self.common.access));
        let questions = self.locations.iter().filter(|location| matches!(location, Location::Remote(_))).count();
        let asking = rayon::ThreadPoolBuilder::new().num_threads(questions.min(QUESTIONS)).build();
        let contents: Vec<Result<String>> = match asking {
            Ok(asking) if questions > 0 => asking.install(|| each().collect()),
            _ => each().collect(),
        };
        let options = crc32c::crc32c(self.options.as_bytes());
        self.locations.iter().zip(contents).try_fold(options, |sum, (location, content)| {
            Ok(crc32c::crc32c_append(sum, format!("{location}\n{}\n", content?).as_bytes()))
        })
    }

    /// Opens shard `number`; its samples are those that pass the filter.
    pub(super) fn open(&self, number: u32) -> Result<(Arc<Shard>, Report)> {
        let (location, filter) = (&self.locations[number as usize], self.filter.as_ref());
        let (shard, report, passed) = open_filtered(number, location, &self.common, filter, &NEVER)?;
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).add(&passed);
        Ok((Arc::new(shard), report))
    }

    /// How many samples passed the filter in the shards that were opened; nothing if there is no filter.
    ///
    /// # Errors
    /// A field that no sample has, or if none passed.
    pub fn filtered(&self) -> Result<Option<String>> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let filter = self.filter.as_ref().filter(|_| passed.has_looked());
        let of = || [("the data", 1)].into_iter();
        filter.map(|filter| check_filter(filter, of(), std::slice::from_ref(&passed))).transpose()
    }

    /// Opens the shards `numbers`, one per thread at a time.
    pub(super) fn open_all(&self, numbers: std::ops::Range<usize>) -> Vec<Result<(Arc<Shard>, Report)>> {
        numbers.into_par_iter().map(|number| self.open(number as u32)).collect()
    }

    /// A sample of a shard that was opened; `place`: the shard, and the number in the shard.
    pub(super) fn held(&self, shard: &Arc<Shard>, place: (u32, u32)) -> Held {
        Held::new(shard.clone(), place, self.reader.clone())
    }

    /// Shards that are open at the same time: enough for all threads.
    pub(super) fn group() -> usize {
        rayon::current_num_threads()
    }
}

/// What a shard is now; nothing if only its command or name is known, or it is missing.
fn content(location: &Location, access: &Access) -> Result<String> {
    Ok(match location {
        Location::File(path) => changed(path),
        Location::Folder(path) => {
            let files = files_in(path).unwrap_or_default();
            let all: Vec<String> =
                files.par_iter().map(|name| format!("{} {}", name.display(), changed(&path.join(name)))).collect();
            all.join("\n")
        }
        Location::Images(folder, names) => {
            let files = |name: &OsString| {
                let stem = name.to_str().and_then(|name| name.split_once('.')).map_or("", |(stem, _)| stem);
                let beside = ["txt", "json", "cls"].map(|ending| folder.join(format!("{stem}.{ending}")));
                let each = [folder.join(name)].into_iter().chain(beside).map(|path| changed(&path));
                format!("{} {}", name.display(), each.collect::<Vec<_>>().join(" "))
            };
            names.par_iter().map(files).collect::<Vec<_>>().join("\n")
        }
        Location::Remote(_) => version(location, access)?,
        Location::Pipe(_) | Location::Embedded(_) => String::new(),
    })
}

/// Length and time of change of a file.
fn changed(path: &Path) -> String {
    let time = |data: &Metadata| data.modified().ok()?.duration_since(UNIX_EPOCH).ok().map(|time| time.as_nanos());
    std::fs::metadata(path).map_or_else(|_| String::new(), |data| format!("{} {:?}", data.len(), time(&data)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use super::*;

    fn fingerprint(spec: &str) -> u32 {
        let input = Input::find(&[spec], CaptionKeys::default(), Decoding::default()).unwrap();
        input.fingerprint().unwrap()
    }

    #[test]
    fn files_that_are_edited_without_a_change_of_length_have_another_fingerprint() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.png");
        fs::write(&image, "one").unwrap();
        for spec in [folder.path(), &image].map(|path| path.display().to_string()) {
            let before = fingerprint(&spec);
            assert_eq!(fingerprint(&spec), before);
            // Later than any clock's tick.
            let later = SystemTime::now() + std::time::Duration::from_secs(9);
            fs::write(&image, "two").unwrap();
            fs::File::options().write(true).open(&image).unwrap().set_modified(later).unwrap();
            assert_ne!(fingerprint(&spec), before, "{spec}");
            fs::File::options().write(true).open(&image).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
    }

    #[cfg(feature = "remote")]
    #[test]
    fn another_object_at_an_address_has_another_fingerprint() {
        use crate::data::testing::server::{Mood, Server};
        let server = Server::new(|_| Mood::Honest);
        let spec = server.address("{0..39}.tar");
        let put = |number: usize, text: &str| server.put(&format!("{number}.tar"), text.as_bytes().to_vec());
        (0..40).for_each(|number| drop(put(number, "one")));
        let before = fingerprint(&spec);
        assert_eq!(fingerprint(&spec), before);
        put(39, "two");
        assert_ne!(fingerprint(&spec), before);
        assert_eq!(server.count("GET", ".tar"), 0);
    }
}
