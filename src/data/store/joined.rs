//! Text in memory and whole files on disk as one range of addresses: what a table or a folder of images consists of.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use super::local::{changed, read_unchanged};
use super::{ReadAt, Span};
#[cfg(feature = "parquet")]
use super::{Spooled, Store};

/// Addresses below this are text, the others are files.
const FILES: u64 = 1 << 48;

/// Texts and files that were joined, in the order in which they were added.
pub(crate) struct Joined {
    text: Vec<u8>,
    /// Takes the place of `text`.
    #[cfg(feature = "parquet")]
    unpacked: Option<Spooled>,
    files: Vec<Joint>,
    end: u64,
}

struct Joint {
    path: Box<Path>,
    start: u64,
    len: u64,
}

impl Default for Joined {
    fn default() -> Self {
        // No span starts at 0.
        Self {
            text: vec![0],
            #[cfg(feature = "parquet")]
            unpacked: None,
            files: Vec::new(),
            end: FILES,
        }
    }
}

impl Joined {
    pub(crate) fn add_text(&mut self, text: &[u8]) -> Option<Span> {
        let start = NonZeroU64::new(self.text.len() as u64)?;
        self.text.extend_from_slice(text);
        Some(Span { start, len: text.len() as u64 })
    }

    /// Adds a file of `len` bytes. It is opened when it is read.
    pub(crate) fn add_file(&mut self, path: PathBuf, len: u64) -> Option<Span> {
        let start = self.end;
        self.end = start.checked_add(len)?;
        self.files.push(Joint { path: path.into(), start, len });
        Some(Span { start: NonZeroU64::new(start)?, len })
    }

    /// The files with parts that were unpacked, whose spans stay valid; the latter alone if there are no files.
    #[cfg(feature = "parquet")]
    pub(crate) fn with_unpacked(self, unpacked: Spooled) -> Store {
        match self.files.is_empty() {
            true => Store::Spooled(unpacked),
            false => Store::Joined(Self { unpacked: Some(unpacked), ..self }),
        }
    }
}

impl ReadAt for Joined {
    fn len(&self) -> u64 {
        self.end
    }

    /// Reads within one text or one file.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        if into.is_empty() {
            return Ok(());
        }
        #[cfg(feature = "parquet")]
        if let Some(unpacked) = self.unpacked.as_ref().filter(|_| at < FILES) {
            return unpacked.read_at(into, at);
        }
        if at < FILES {
            return self.text[..].read_at(into, at);
        }
        let file = self.files.partition_point(|file| file.start <= at);
        let Joint { path, start, len } =
            file.checked_sub(1).map(|file| &self.files[file]).ok_or(io::ErrorKind::UnexpectedEof)?;
        let read = File::open(path).and_then(|file| match changed(&file, *len) {
            Some(error) => Err(error),
            None => read_unchanged(&file, *len, into, at - start),
        });
        read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_files_read_as_they_were_added() {
        let folder = tempfile::tempdir().unwrap();
        let mut joined = Joined::default();
        let mut parts = Vec::new();
        for (number, words) in ["one", "", "three", "4"].iter().enumerate() {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, format!("file {words}")).unwrap();
            parts.push((joined.add_text(words.as_bytes()).unwrap(), words.to_string()));
            parts.push((joined.add_file(path, 5 + words.len() as u64).unwrap(), format!("file {words}")));
        }
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        parts.push((joined.add_file(folder.path().join("empty"), 0).unwrap(), String::new()));
        let read = |span: Span| {
            let mut bytes = vec![0; span.len as usize];
            joined.read_at(&mut bytes, span.start.get()).map(|()| String::from_utf8(bytes).unwrap())
        };
        for (span, expected) in &parts {
            assert_eq!(read(*span).unwrap(), *expected);
        }
        // A file that has changed is named.
        for now in ["file", "a longer file"] {
            std::fs::write(folder.path().join("2"), now).unwrap();
            let error = read(parts[5].0).unwrap_err().to_string();
            let words = format!("/2: it had 10 bytes when it was opened and has {} now", now.len());
            assert!(error.contains(&words), "{error}");
        }
        std::fs::remove_file(folder.path().join("2")).unwrap();
        assert_eq!(read(parts[5].0).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
