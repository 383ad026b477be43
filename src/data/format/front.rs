//! The index in front of a packed shard, so that no headers are read to open it.
//!
//! It is the data of the first member, `__index__`; WebDataset's readers skip members with such names.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `\x8AflipkI\n`; the first byte and the line end show a transfer as text |
//! | 4 | the version, 1 |
//! | 4 | CRC-32C of what follows |
//! | 8 | length of the archive |
//! | 4, ... | the extensions of all members between commas, after their length |
//! | 4 | the number of samples |
//! | 1, 4, ... | of each sample: bits for its parts (image, txt, json, cls, tokens), and its key after its length |
//! | 8, 8 | then of each of these parts: its first byte in the archive and its length |
//!
//! Numbers are little-endian. If the file has another length, or the index is damaged or of a later version, the
//! headers are read as in any archive. A program that rewrites the archive moves the members. Most drop the mark in
//! the padding of the first header; for those that keep it, the header of the last part must be where the index says.

#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU64;

use super::members::{Entry, MAX_MEMBER, MAX_TOKENS, PARTS};
use super::notes::NoteKind;
use super::tar::{self, BLOCK, Header};
use crate::data::store::{ReadAt, Span, fill_from};

const NAME: &[u8] = b"__index__";
const MARK: &[u8] = b"flipk index\0";
const MAGIC: &[u8] = b"\x8AflipkI\n";
const VERSION: u32 = 1;
/// Bytes up to the end of the checksum.
const HEAD: usize = 16;
/// Bytes of all extensions, at most.
const MAX_EXTENSIONS: usize = 4096;

/// Why an index is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unused {
    #[error("its index is of version {0}, which this version of flipk does not read")]
    Version(u32),
    #[error("its index is of a file of {stated} bytes, and this one has {len}")]
    Length { stated: u64, len: u64 },
    #[error("its index is damaged ({0})")]
    Damage(&'static str),
}

impl Unused {
    /// The note about it.
    pub(super) fn note(&self) -> (NoteKind, String) {
        let kind = if matches!(self, Self::Damage(_)) { NoteKind::Index } else { NoteKind::OtherIndex };
        (kind, format!("{self}, so its headers are read instead"))
    }
}

/// The samples of a shard, and the extensions of its members in alphabetical order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) entries: Vec<Entry>,
    pub(crate) extensions: Vec<String>,
}

impl Front {
    /// Bytes of the index.
    fn len(&self) -> usize {
        let parts = |entry: &Entry| entry.parts().iter().flatten().count();
        let samples = self.entries.iter().map(|entry| len_of(entry.key.len(), parts(entry)));
        HEAD + 16 + self.extensions.join(",").len() + samples.sum::<usize>()
    }

    /// The first member of an archive, with its header. Byte ranges are counted from its end, and `rest` bytes follow
    /// it.
    pub(crate) fn write(&self, rest: u64) -> Vec<u8> {
        let len = self.len();
        let end = BLOCK as u64 + tar::padded(len as u64);
        let mut bytes = tar::header(NAME, b'0', len as u64, MARK).to_vec();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(end + rest).to_le_bytes());
        put(&mut bytes, self.extensions.join(",").as_bytes());
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            let parts = entry.parts();
            bytes.push((0..PARTS).filter(|&bit| parts[bit].is_some()).map(|bit| 1 << bit).sum());
            put(&mut bytes, &entry.key);
            for Span { start, len } in parts.into_iter().flatten() {
                bytes.extend_from_slice(&(start.get() + end).to_le_bytes());
                bytes.extend_from_slice(&len.to_le_bytes());
            }
        }
        let checksum = crc32c::crc32c(&bytes[BLOCK + HEAD..]);
        bytes[BLOCK + 12..BLOCK + HEAD].copy_from_slice(&checksum.to_le_bytes());
        bytes.resize(end as usize, 0);
        bytes
    }
}

/// Bytes of a sample in the index.
pub(crate) fn len_of(key: usize, parts: usize) -> usize {
    5 + key + 16 * parts
}

/// The index in front of an archive, or why it cannot be used; `None` if there is none.
///
/// # Errors
/// An archive that cannot be read.
pub(super) fn read<R: ReadAt + ?Sized>(archive: &R) -> io::Result<Option<Result<Front, Unused>>> {
    let mut block = [0; BLOCK];
    let block = fill_from(archive, &mut block, 0)?;
    let Some(header) = Header::parse(block).ok().filter(|header| header.name == NAME && block.ends_with(MARK)) else {
        return Ok(None);
    };
    let room = archive.len() - BLOCK as u64;
    if header.size > MAX_MEMBER {
        return Ok(Some(Err(Unused::Damage("it is too long"))));
    }
    // Its length tells how much is missing.
    let mut bytes = vec![0; header.size.min(room) as usize];
    archive.read_at(&mut bytes, BLOCK as u64)?;
    let front = parse(&bytes, archive.len());
    Ok(Some(match front {
        Ok(front) if !has_last(archive, &front)? => Err(Unused::Damage("the members are elsewhere")),
        front => front,
    }))
}

/// Whether the header of the last part is where it should be.
fn has_last<R: ReadAt + ?Sized>(archive: &R, front: &Front) -> io::Result<bool> {
    let parts = front.entries.iter().flat_map(Entry::parts).flatten();
    let Some(Span { start, len }) = parts.max_by_key(|part| part.start) else { return Ok(false) };
    let Some(at) = start.get().checked_sub(BLOCK as u64) else { return Ok(false) };
    let mut block = [0; BLOCK];
    let header = Header::parse(fill_from(archive, &mut block, at)?);
    Ok(header.is_ok_and(|header| header.size == len))
}

/// The index in the bytes of the first member of an archive of `len` bytes.
///
/// # Errors
/// Why it cannot be used.
pub(crate) fn parse(bytes: &[u8], len: u64) -> Result<Front, Unused> {
    let cut = || Unused::Damage("it is cut");
    let mut at = Cursor(bytes);
    if at.take(MAGIC.len()).ok_or_else(cut)? != MAGIC {
        return Err(Unused::Damage("it does not begin as an index"));
    }
    match at.u32().ok_or_else(cut)? {
        VERSION => {}
        later => return Err(Unused::Version(later)),
    }
    let checksum = at.u32().ok_or_else(cut)?;
    let stated = Cursor(at.0).u64().ok_or_else(cut)?;
    if crc32c::crc32c(at.0) != checksum {
        // The checksum of a cut index is wrong too.
        let is_cut = bytes.len() as u64 + BLOCK as u64 == len && stated > len;
        return Err(if is_cut { Unused::Length { stated, len } } else { Unused::Damage("its checksum is wrong") });
    }
    if stated != len {
        return Err(Unused::Length { stated, len });
    }
    at.take(8);
    let front = at.front(len)?;
    if at.0.is_empty() { Ok(front) } else { Err(Unused::Damage("it is too long")) }
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
    bytes.extend_from_slice(part);
}

/// What is not parsed yet.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn front(&mut self, len: u64) -> Result<Front, Unused> {
        let cut = || Unused::Damage("it is cut");
        let extensions = self.text().filter(|text| text.len() <= MAX_EXTENSIONS).ok_or_else(cut)?;
        let extensions = extensions.split(|&byte| byte == b',');
        let extensions = extensions.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let samples = self.u32().ok_or_else(cut)?;
        if u64::from(samples) > len / BLOCK as u64 {
            return Err(Unused::Damage("it has more samples than the archive has room for"));
        }
        let mut entries = Vec::with_capacity((samples as usize).min(self.0.len() / 5));
        for _ in 0..samples {
            let has = self.take(1).ok_or_else(cut)?[0];
            let mut entry = Entry { key: self.text().ok_or_else(cut)?.into(), ..Entry::default() };
            if has == 0 || has >> PARTS != 0 {
                return Err(Unused::Damage("a sample has no parts, or one of an unknown kind"));
            }
            for (_, part) in entry.parts_mut().into_iter().enumerate().filter(|(bit, _)| has >> bit & 1 == 1) {
                let (start, bytes) = self.u64().zip(self.u64()).ok_or_else(cut)?;
                let start = NonZeroU64::new(start).ok_or(Unused::Damage("a part begins with the archive"))?;
                if bytes > MAX_MEMBER || start.get().checked_add(bytes).is_none_or(|end| end > len) {
                    return Err(Unused::Damage("a part reaches beyond the archive"));
                }
                *part = Some(Span { start, len: bytes });
            }
            entry.tokens = entry.tokens.filter(|part| part.len <= MAX_TOKENS);
            entries.push(entry);
        }
        match entries.is_empty() {
            true => Err(Unused::Damage("it has no samples")),
            false => Ok(Front { entries, extensions }),
        }
    }
}
