//! Writes one shard: a tar archive under a temporary name, which gets its own name when it is whole.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use crate::data::format::Entry;
use crate::data::format::front::{self, Front};
use crate::data::format::tar::{BLOCK, NAME, header};
use crate::data::store::Span;

/// The end of the names of shards that are not whole.
pub(super) const PARTIAL: &str = ".part";

/// A shard that is being written. Its index comes first and is known last, so its members are collected in an unnamed
/// file; nothing is left of a shard that is dropped before [`Self::finish`].
pub(super) struct Archive {
    members: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    /// The keys that there are, and the number that the next sample of the same name gets.
    keys: HashMap<Vec<u8>, u64>,
    /// Samples, with byte ranges of `members`.
    entries: Vec<Entry>,
    extensions: BTreeSet<String>,
    /// Bytes of the entries in the index.
    index: usize,
    /// Bytes of `members`, and their CRC-32C.
    written: u64,
    crc: u32,
}

/// A shard that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

impl Archive {
    pub(super) fn create(folder: &Path, name: &str) -> io::Result<Self> {
        Ok(Self {
            members: BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(folder)?),
            partial: folder.join(format!("{name}{PARTIAL}")),
            path: folder.join(name),
            keys: HashMap::new(),
            entries: Vec::new(),
            extensions: BTreeSet::new(),
            index: 0,
            written: 0,
            crc: 0,
        })
    }

    /// Adds a sample. A key that the shard has already gets a number.
    pub(super) fn add(&mut self, key: &[u8], members: &[(&str, Vec<u8>)]) -> io::Result<()> {
        let key = self.new_key(plain(key, self.samples()));
        let mut entry = Entry { key: key.as_slice().into(), ..Entry::default() };
        for (extension, data) in members {
            let start = self.member(&[&key[..], b".", extension.as_bytes()].concat(), b'0', data)?;
            let span = NonZeroU64::new(start).map(|start| Span { start, len: data.len() as u64 });
            if let Some(part) = entry.part_of(extension.as_bytes()) {
                *part = span;
            }
            if !self.extensions.contains(*extension) {
                self.extensions.insert((*extension).to_owned());
            }
        }
        self.index += front::len_of(key.len(), members.len());
        self.entries.push(entry);
        Ok(())
    }

    pub(super) fn samples(&self) -> u64 {
        self.entries.len() as u64
    }

    /// `key`, or the first of `key-2`, `key-3`, ... that the shard does not have.
    fn new_key(&mut self, key: Vec<u8>) -> Vec<u8> {
        let Some(mut number) = self.keys.get(&key).copied() else {
            self.keys.insert(key.clone(), 2);
            return key;
        };
        let new = loop {
            let numbered = [&key[..], format!("-{number}").as_bytes()].concat();
            number += 1;
            if !self.keys.contains_key(&numbered) {
                break numbered;
            }
        };
        self.keys.insert(key, number);
        self.keys.insert(new.clone(), 2);
        new
    }

    /// Bytes that the shard will have at most with this sample.
    pub(super) fn bytes_with(&self, key: &[u8], members: &[(&str, Vec<u8>)]) -> u64 {
        // A number may be added to the key.
        let name = key.len() + 32;
        let long_name = if name > NAME { BLOCK + name.next_multiple_of(BLOCK) } else { 0 };
        let more = members.iter().map(|(_, data)| BLOCK + data.len().next_multiple_of(BLOCK) + long_name);
        let index = self.index + front::len_of(name, members.len());
        // Its header, its padding, and the end mark.
        self.written + (more.sum::<usize>() + index + 4 * BLOCK) as u64
    }

    /// Returns where its data begins.
    fn member(&mut self, name: &[u8], kind: u8, data: &[u8]) -> io::Result<u64> {
        if name.len() > NAME {
            // GNU's way: a member before it that holds the name.
            self.member(b"././@LongLink", b'L', &[name, b"\0"].concat())?;
        }
        self.write(&header(name, kind, data.len() as u64, &[]))?;
        let start = self.written;
        self.write(data)?;
        self.write(&[0; BLOCK][..data.len().next_multiple_of(BLOCK) - data.len()])?;
        Ok(start)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.members.write_all(bytes)
    }

    /// Adds the end mark, writes the index and the members under a temporary name, and gives the file its name after a
    /// sync.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.write(&[0; 2 * BLOCK])?;
        let Self { members, partial, path, entries, extensions, written, crc, .. } = self;
        let samples = entries.len() as u64;
        let front = Front { entries, extensions: extensions.into_iter().collect() }.write(written);
        let whole = || {
            let mut members = members.into_inner().map_err(io::IntoInnerError::into_error)?;
            members.rewind()?;
            let mut file = File::create(&partial)?;
            file.write_all(&front)?;
            io::copy(&mut members, &mut file)?;
            file.sync_all()?;
            fs::rename(&partial, &path)
        };
        // It may not be there.
        whole().inspect_err(|_| drop(fs::remove_file(&partial)))?;
        let crc32c = crc32c::crc32c_combine(crc32c::crc32c(&front), crc, written as usize);
        Ok(Written { samples, bytes: front.len() as u64 + written, crc32c })
    }
}

/// The key without what would change its meaning in an archive: dots in the last part of the path end a key, a leading
/// slash or `..` points out of the folder that an archive is unpacked into, a zero byte ends a name, and readers leave
/// out members such as `__key__`.
fn plain(key: &[u8], number: u64) -> Vec<u8> {
    let parts = key.split(|&byte| byte == b'/').filter(|part| !matches!(*part, b"" | b"." | b".."));
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    match parts.last_mut() {
        None => return format!("{number:09}").into_bytes(),
        Some(last) => {
            last.iter_mut().filter(|byte| **byte == b'.').for_each(|byte| *byte = b'_');
            if last.starts_with(b"__") && last.ends_with(b"__") {
                last.push(b'-');
            }
        }
    }
    let mut key = parts.join(&b'/');
    key.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'_');
    key
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::data::format::{Common, Shard};
    use crate::data::store::Location;

    #[test]
    fn another_program_reads_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(folder.path(), "0.tar").unwrap();
        let long = "x".repeat(150);
        for key in ["a", "d/a.b", "a", &long, "/../abs", "", "\0hash", "a-2", "a", "__a__", ".._"] {
            archive.add(key.as_bytes(), &[("jpg", vec![7; 700]), ("txt", key.as_bytes().to_vec())]).unwrap();
        }
        assert!(!folder.path().join("0.tar").exists());
        let written = archive.finish().unwrap();
        let bytes = fs::read(folder.path().join("0.tar")).unwrap();
        assert_eq!(written, Written { samples: 11, bytes: bytes.len() as u64, crc32c: crc32c::crc32c(&bytes) });
        let mut read = tar::Archive::new(&bytes[..]);
        let mut names = Vec::new();
        for entry in read.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            assert!(!name.ends_with("jpg") || data == [7; 700]);
            names.push(name);
        }
        let keys = ["a", "d/a_b", "a-2", &long, "abs", "000000005", "_hash", "a-2-2", "a-3", "__a__-", "___-"];
        let expected = keys.iter().flat_map(|key| [format!("{key}.jpg"), format!("{key}.txt")]);
        assert_eq!(names, ["__index__".to_owned()].into_iter().chain(expected).collect::<Vec<_>>());
    }

    #[test]
    fn the_index_is_that_of_the_headers() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(folder.path(), "0.tar").unwrap();
        for number in 0..30 {
            let key = "x".repeat(4 * number);
            let members = [("jpg", vec![7; 100 * number]), ("txt", vec![b'a'; number]), ("tokens", vec![1; 20])];
            let most = archive.bytes_with(key.as_bytes(), &members);
            archive.add(key.as_bytes(), &members).unwrap();
            assert!(archive.written < most);
        }
        let most = archive.bytes_with(b"", &[]);
        let written = archive.finish().unwrap();
        assert!(written.bytes <= most && most < written.bytes + 2048, "{} {most}", written.bytes);
        let path = folder.path().join("0.tar");
        let open = || {
            let location = Location::File(path.clone());
            let (shard, report) = Shard::open(0, &location, &Common::default()).unwrap();
            (shard.samples, report.extensions, report.notes.len())
        };
        let (samples, extensions, notes) = open();
        // With a wrong checksum, the headers are read.
        let mut bytes = fs::read(&path).unwrap();
        bytes[BLOCK + 12] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(open(), (samples, extensions, notes + 1));
    }

    /// In quadratic time, this would not end.
    #[test]
    fn one_key_may_be_repeated_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(folder.path(), "0.tar").unwrap();
        (0..200_000).for_each(|_| archive.add(b"a", &[]).unwrap());
        assert!(archive.keys.contains_key(&b"a-200000"[..]));
    }

    #[test]
    fn what_is_not_finished_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(folder.path(), "0.tar").unwrap();
        archive.add(b"a", &[("txt", b"words".to_vec())]).unwrap();
        drop(archive);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
