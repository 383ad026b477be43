//! A folder that keeps fetched shards, which several processes may share.
//!
//! A file is the shard and, behind it, a JSON record of address, version, length and checksum, the record's length and
//! [`MARK`]. It is written to a `.part` file, synced and renamed, so that a kill leaves no wrong one. Its time of
//! change is that of its last use: when the folder is full, the files longest unused are removed. Those that are open
//! stay readable.
//!
//! `lock` is held while room is made, and while `.part` files are made and removed. A `.part` file is locked by the
//! process that writes it, so one that is not was left by a process that is gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::fetch::Sink;
use super::place::Version;
use crate::data::store::access::CacheFolder;
use crate::data::store::local::{read_exact_at, write_all_at};

const MARK: &[u8; 8] = b"flipk\0\0\x01";
/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
const SHARD: &str = "shard";
const PART: &str = "part";

/// What a shard is a copy of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    address: String,
    tag: Option<String>,
    len: u64,
    crc32c: u32,
}

/// A cache on disk.
pub(in crate::data::store) struct Cache<'a> {
    folder: &'a Path,
    bytes: u64,
}

/// A shard that is being written.
pub(in crate::data::store) struct Part {
    file: File,
    path: PathBuf,
}

impl<'a> Cache<'a> {
    /// Makes the folder, and removes what killed processes have left; only the first time in a process.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(in crate::data::store) fn open(of: &'a CacheFolder) -> io::Result<Self> {
        static OPENED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let this = Self { folder: &of.folder, bytes: of.bytes };
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if !opened.contains(&of.folder) {
            if this.folder.is_file() {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a file"));
            }
            fs::create_dir_all(this.folder)?;
            let _lock = this.lock()?;
            for (path, _, _) in this.files(PART)? {
                if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                    remove(&path)?;
                }
            }
            opened.push(of.folder.clone());
        }
        Ok(this)
    }

    fn lock(&self) -> io::Result<File> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join("lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// Path, length and last use of each file with an extension.
    fn files(&self, extension: &str) -> io::Result<Vec<(PathBuf, u64, SystemTime)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder)? {
            let path = entry?.path();
            // Another process may have removed it meanwhile.
            if path.extension().is_some_and(|found| found == extension)
                && let Ok(metadata) = fs::metadata(&path)
            {
                found.push((path, metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(found)
    }

    fn path(&self, address: &str, version: &Version) -> PathBuf {
        // FNV-1a; the record tells addresses with the same sum apart.
        let text = format!("{address}\n{:?}\n{:?}", version.tag, version.len);
        let sum = text
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        self.folder.join(format!("{sum:016x}.{SHARD}"))
    }

    /// An intact copy and its length; a damaged one is removed.
    ///
    /// # Errors
    /// A copy that cannot be removed.
    pub(in crate::data::store) fn find(&self, address: &str, version: &Version) -> io::Result<Option<(File, u64)>> {
        let path = self.path(address, version);
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { return Ok(None) };
        match intact(&file) {
            Ok(Some(record))
                if record.address == address && record.tag == version.tag && Some(record.len) == version.len =>
            {
                // It only decides which files are removed first.
                let _ = file.set_modified(SystemTime::now());
                Ok(Some((file, record.len)))
            }
            _ => remove(&path).map(|()| None),
        }
    }

    /// A file for a shard of `len` bytes, for which room is made; `None` if it is too large for the folder.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(in crate::data::store) fn room(&self, len: u64) -> io::Result<Option<Part>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        // Its record takes room too.
        let needed = len.saturating_add(4096);
        if needed > self.bytes {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let mut shards = self.files(SHARD)?;
        shards.sort_by_key(|(_, _, used)| *used);
        let parts = self.files(PART)?;
        let mut total: u64 = shards.iter().chain(&parts).map(|(_, len, _)| len).sum();
        for (path, len, _) in shards {
            if total + needed <= self.bytes {
                break;
            }
            remove(&path)?;
            total -= len;
        }
        if total + needed > self.bytes {
            return Ok(None);
        }
        let part = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{}-{number}.{PART}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => break Part { file, path },
                // Processes of different containers may have the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        part.file.lock()?;
        // Counts from now on.
        part.file.set_len(needed)?;
        Ok(Some(part))
    }

    /// Completes a shard of `len` bytes, which is a copy of `version`. Returns it.
    ///
    /// # Errors
    /// Those of the disk.
    pub(in crate::data::store) fn finish(
        &self,
        part: &Part,
        address: &str,
        version: &Version,
        len: u64,
    ) -> io::Result<File> {
        part.file.set_len(len)?;
        let record =
            Record { address: address.to_owned(), tag: version.tag.clone(), len, crc32c: sum(&part.file, len)? };
        let mut end = serde_json::to_vec(&record)?;
        let size = u32::try_from(end.len()).map_err(io::Error::other)?;
        end.extend_from_slice(&size.to_le_bytes());
        end.extend_from_slice(MARK);
        write_all_at(&part.file, &end, len)?;
        part.file.sync_all()?;
        let file = File::open(&part.path)?;
        fs::rename(&part.path, self.path(address, &Version { len: Some(len), ..version.clone() }))?;
        // The rename too, where folders can be synced.
        let _ = File::open(self.folder).and_then(|folder| folder.sync_all());
        Ok(file)
    }
}

impl Sink for Part {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        write_all_at(&self.file, bytes, at)
    }

    fn clear(&mut self) -> io::Result<()> {
        // All of it is written again, and `finish` sets the length.
        Ok(())
    }
}

impl Drop for Part {
    /// Removes it, unless it was renamed.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a file that another process may have removed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The checksum of the first bytes of a file.
fn sum(file: &File, len: u64) -> io::Result<u32> {
    let mut piece = vec![0; PIECE];
    let mut sum = 0;
    for at in (0..len).step_by(PIECE) {
        let now = &mut piece[..(len - at).min(PIECE as u64) as usize];
        read_exact_at(file, now, at)?;
        sum = crc32c::crc32c_append(sum, now);
    }
    Ok(sum)
}

/// The record of a file that is whole.
fn intact(file: &File) -> io::Result<Option<Record>> {
    let all = file.metadata()?.len();
    let mut end = [0; 12];
    let Some(at) = all.checked_sub(12) else { return Ok(None) };
    read_exact_at(file, &mut end, at)?;
    let size = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    let Some(start) = at.checked_sub(size).filter(|_| &end[4..] == MARK && size <= PIECE as u64) else {
        return Ok(None);
    };
    let mut record = vec![0; size as usize];
    read_exact_at(file, &mut record, start)?;
    let record = serde_json::from_slice::<Record>(&record).ok();
    let Some(record) = record.filter(|record| record.len == start) else { return Ok(None) };
    Ok((sum(file, record.len)? == record.crc32c).then_some(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_another_process_with_the_same_number_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let of = CacheFolder { folder: folder.path().to_owned(), bytes: 1 << 20 };
        let cache = Cache::open(&of).unwrap();
        let path = |number: u64| folder.path().join(format!("{}-{number}.{PART}", std::process::id()));
        // Other tests take numbers too.
        (0..1000).for_each(|number| fs::write(path(number), "theirs").unwrap());
        let part = cache.room(10).unwrap().unwrap();
        assert!((0..1000).all(|number| part.path != path(number) && fs::read(path(number)).unwrap() == b"theirs"));
    }
}
