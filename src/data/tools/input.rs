//! Shards that are opened in order, a few at a time, and what is in them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use crate::data::dataset::{Held, Reader, common, sources, uncached};
use crate::data::error::Result;
use crate::data::format::{Common, Report, Shard};
use crate::data::sample::CaptionKeys;
use crate::data::sample::image::Decoding;
use crate::data::store::{Location, files_in};

/// A list of shards, of which none is open yet.
pub struct Input {
    pub(super) locations: Vec<Location>,
    /// How samples are read, for the fingerprint.
    options: String,
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
        let locations = sources(specs, &keys.access)?.into_iter().flat_map(|source| source.shards).collect();
        let common = common(&keys);
        let options = format!("{}\n{decoding:?}\n", serde_json::to_string(&keys).unwrap_or_default());
        Ok(Self { locations, options, reader: Arc::new(uncached(keys, decoding)), common })
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.locations.len()
    }

    /// Over how samples are read, and the names and lengths of all shards: another list, or changed shards, give
    /// another one. Of a folder of images, over the names of its files.
    pub(super) fn fingerprint(&self) -> u32 {
        let name = |sum: u32, name: &OsStr| crc32c::crc32c_append(sum, name.as_encoded_bytes());
        let names = |files: Vec<PathBuf>| files.iter().fold(0, |sum, file| name(sum, file.as_os_str()));
        self.locations.iter().fold(crc32c::crc32c(self.options.as_bytes()), |sum, location| {
            let content = match location {
                Location::File(path) => std::fs::metadata(path).map_or(0, |data| data.len()),
                Location::Folder(path) => files_in(path).map_or(0, |files| names(files).into()),
                Location::Images(_, files) => files.iter().fold(0, |sum, file| name(sum, file)).into(),
                _ => 0,
            };
            crc32c::crc32c_append(sum, format!("{location}\n{content}\n").as_bytes())
        })
    }

    /// Opens shard `number`.
    pub(super) fn open(&self, number: u32) -> Result<(Arc<Shard>, Report)> {
        let (shard, report) = Shard::open(number, &self.locations[number as usize], &self.common)?;
        Ok((Arc::new(shard), report))
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
