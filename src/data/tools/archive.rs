//! Writes one shard: a tar archive under a temporary name, which gets its own name when it is whole.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes of a tar archive's blocks.
const BLOCK: usize = 512;
/// The end of the names of shards that are not whole.
pub(super) const PARTIAL: &str = ".part";

/// A shard that is being written. Dropped before [`Self::finish`], it is removed.
pub(super) struct Archive {
    out: Option<BufWriter<File>>,
    partial: PathBuf,
    path: PathBuf,
    /// The keys that there are, and the number that the next sample of the same name gets.
    keys: HashMap<Vec<u8>, u64>,
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

impl Archive {
    pub(super) fn create(folder: &Path, name: &str) -> io::Result<Self> {
        let partial = folder.join(format!("{name}{PARTIAL}"));
        let out = Some(BufWriter::with_capacity(1 << 20, File::create(&partial)?));
        let path = folder.join(name);
        Ok(Self { out, partial, path, keys: HashMap::new(), samples: 0, bytes: 0, crc: 0 })
    }

    /// Adds a sample. A key that the shard has already gets a number.
    pub(super) fn add(&mut self, key: &[u8], members: &[(&str, Vec<u8>)]) -> io::Result<()> {
        let key = self.new_key(plain(key, self.samples));
        for (extension, data) in members {
            self.member(&[&key[..], b".", extension.as_bytes()].concat(), b'0', data)?;
        }
        self.samples += 1;
        Ok(())
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

    /// Bytes that a sample will take.
    pub(super) fn size(members: &[(&str, Vec<u8>)]) -> u64 {
        members.iter().map(|(_, data)| (BLOCK + data.len().next_multiple_of(BLOCK)) as u64).sum()
    }

    fn member(&mut self, name: &[u8], kind: u8, data: &[u8]) -> io::Result<()> {
        const NAME: usize = 100;
        if name.len() > NAME {
            // GNU's way: a member before it that holds the name.
            self.member(b"././@LongLink", b'L', &[name, b"\0"].concat())?;
        }
        let mut header = [0; BLOCK];
        header[..name.len().min(NAME)].copy_from_slice(&name[..name.len().min(NAME)]);
        let mut field = |at: usize, text: String| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        for (at, value) in [(100, 0o644), (108, 0), (116, 0)] {
            field(at, format!("{value:07o}\0"));
        }
        field(124, format!("{:011o}\0", data.len()));
        field(136, format!("{:011o}\0", 0));
        field(257, "ustar  \0".to_owned());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.write(&header)?;
        self.write(data)?;
        self.write(&[0; BLOCK][..data.len().next_multiple_of(BLOCK) - data.len()])
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    }

    /// Writes the end mark and gives the file its name, after a sync.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        let out = self.out.take().map(|out| out.into_inner().map_err(io::IntoInnerError::into_error)).transpose()?;
        if let Some(file) = out {
            file.sync_all()?;
        }
        fs::rename(&self.partial, &self.path)
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            // Not flushed: what is left of it is of no use.
            drop(out.into_parts());
        }
        // After `finish` there is none.
        let _ = fs::remove_file(&self.partial);
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

    #[test]
    fn another_program_reads_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::create(folder.path(), "0.tar").unwrap();
        let long = "x".repeat(150);
        for key in ["a", "d/a.b", "a", &long, "/../abs", "", "\0hash", "a-2", "a", "__a__", ".._"] {
            archive.add(key.as_bytes(), &[("jpg", vec![7; 700]), ("txt", key.as_bytes().to_vec())]).unwrap();
        }
        assert!(!folder.path().join("0.tar").exists());
        archive.finish().unwrap();
        let bytes = fs::read(folder.path().join("0.tar")).unwrap();
        assert_eq!((bytes.len() as u64, crc32c::crc32c(&bytes)), (archive.bytes, archive.crc));
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
        let expected: Vec<String> = keys.iter().flat_map(|key| [format!("{key}.jpg"), format!("{key}.txt")]).collect();
        assert_eq!(names, expected);
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
