//! TFRecord files of `tf.train.Example`, which FLIP's authors trained from.
//!
//! A record is its length (u64, little-endian), the masked CRC-32C of the length, the data, and the masked CRC-32C of
//! the data ([TensorFlow's `record_writer.h`][1]). Both checksums are checked. After a damaged length, reading
//! continues at the next record whose checksums hold.
//!
//! [1]: https://github.com/tensorflow/tensorflow/blob/v2.16.1/tensorflow/core/lib/io/record_writer.h

mod example;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;

use self::example::{Example, example, fields};
use super::damage::{Inflation, samples_lost};
use super::members::{Entry, SLOTS, Slot};
use super::notes::NoteKind;
use super::{Indexed, Naming};
use crate::data::broken::{Broken, Kind};
use crate::data::store::{ReadAt, Span, fill_from};

/// Bytes of a record before and after its data.
const HEADER: u64 = 12;
const FOOTER: u64 = 4;
/// Records are read as a whole, so huge ones would take all memory.
const MAX_RECORD: u64 = 1 << 30;
/// Bytes read at once while searching for a record.
const SEARCH_STEP: usize = 1 << 20;

/// The masked CRC-32C of TensorFlow's `crc32c.h`.
pub(crate) fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Whether a file begins with the length of a record and its checksum.
pub(super) fn is_start(head: &[u8]) -> bool {
    length(head).is_some()
}

/// The length in a record's header, if its checksum is right.
fn length(header: &[u8]) -> Option<u64> {
    let (length, rest) = header.split_first_chunk::<8>()?;
    (masked_crc(length).to_le_bytes() == rest.get(..4)?).then(|| u64::from_le_bytes(*length))
}

/// Indexes a file of records. `wants_fields`: whether [`Indexed::fields`] is filled.
///
/// # Errors
/// If it cannot be read.
pub(super) fn index<R: ReadAt + ?Sized>(
    file: &R,
    inflation: Option<&Inflation>,
    wants_fields: bool,
) -> io::Result<Indexed> {
    let indexed = Indexed { naming: Naming::Features, ..Indexed::default() };
    let features = BTreeSet::new();
    let mut reader = Reader { file, data: Vec::new(), indexed, features, wants_fields };
    let mut at = 0;
    let mut gone = 0;
    while at < file.len() {
        let mut header = [0; HEADER as usize];
        let found = fill_from(file, &mut header, at)?;
        let end = |length| (at + HEADER + FOOTER).checked_add(length).filter(|end| *end <= file.len());
        let next = match length(found).map(|length| (length, end(length))) {
            Some((length, Some(end))) if length > MAX_RECORD => {
                reader.push(Err(broken(at, &format!("it has {length} bytes; more than {MAX_RECORD} are not read"))));
                end
            }
            Some((length, Some(_))) => reader.record(at, length)?,
            Some((_, None)) => reader.push_cut(at),
            None if found.len() < HEADER as usize => reader.push_cut(at),
            None => {
                let next = reader.search(at + 1)?;
                gone += next - at;
                let text =
                    format!("{} bytes from byte {at} on are lost (the checksum of a length is wrong)", next - at);
                reader.indexed.notes.push((NoteKind::Lost, text));
                next
            }
        };
        at = next;
    }
    let Reader { mut indexed, features, .. } = reader;
    indexed.extensions = features.into_iter().collect();
    let size = (file.len() - gone) as f64 / indexed.entries.len().max(1) as f64;
    let mut lost = (gone as f64 / size.max(1.0)).ceil() as u64;
    if let Some(Inflation { problem, is_trailing: true, .. }) = inflation {
        let text = format!("bytes after the end of the compressed data are not read ({problem})");
        indexed.notes.push((NoteKind::Trailing, text));
    } else if let Some(Inflation { problem, left, .. }) = inflation {
        let about = (indexed.entries.len() as f64 * left / (1.0 - left).max(1e-3)).round() as u64;
        let text = format!("the rest of the file is lost ({problem}){}", samples_lost(about));
        indexed.notes.push((NoteKind::Lost, text));
        lost += about;
    }
    indexed.lost = lost;
    Ok(indexed)
}

fn broken(at: u64, detail: &str) -> Broken {
    Broken { kind: Kind::TruncatedMember, detail: format!("the record at byte {at}: {detail}") }
}

struct Reader<'a, R: ReadAt + ?Sized> {
    file: &'a R,
    /// The data of the current record and its checksum.
    data: Vec<u8>,
    indexed: Indexed,
    features: BTreeSet<String>,
    wants_fields: bool,
}

impl<R: ReadAt + ?Sized> Reader<'_, R> {
    /// Reads the record at `at`, whose data has `length` bytes and which is within the file. Returns where the next one
    /// is.
    fn record(&mut self, at: u64, length: u64) -> io::Result<u64> {
        let is_whole = self.load(at, length)?;
        let data = &self.data[..length as usize];
        let read = match is_whole {
            true => example(data).ok_or_else(|| broken(at, "it is not a tf.train.Example")),
            false => Err(broken(at, "its checksum is wrong")),
        };
        let fields = || self.wants_fields.then(|| fields(data)).flatten();
        let read = read.map(|read| (read.into_entry(at + HEADER, &mut self.features), fields()));
        self.push(read);
        Ok(at + HEADER + length + FOOTER)
    }

    /// Adds the last record, which is cut. Returns the end of the file.
    fn push_cut(&mut self, at: u64) -> u64 {
        self.push(Err(broken(at, "the file ends before the record does")));
        self.file.len()
    }

    /// Reads the data of a record, and returns whether its checksum is right.
    fn load(&mut self, at: u64, length: u64) -> io::Result<bool> {
        self.data.resize((length + FOOTER) as usize, 0);
        self.file.read_at(&mut self.data, at + HEADER)?;
        let (data, stated) = self.data.split_at(length as usize);
        Ok(masked_crc(data).to_le_bytes() == stated)
    }

    /// Adds a sample and its fields; one without a key is called by its number.
    fn push(&mut self, read: Result<(Entry, Option<String>), Broken>) {
        let number = self.indexed.entries.len();
        let flawed = |flaw| (Entry { flaw: Some(Box::new(flaw)), ..Entry::default() }, None);
        let (mut entry, fields) = read.unwrap_or_else(flawed);
        if entry.key.is_empty() {
            entry.key = format!("{number:06}").into_bytes().into();
        }
        self.indexed.entries.push(entry);
        self.indexed.fields.push(fields);
    }

    /// The first whole record from `at` on, or the end of the file.
    fn search(&mut self, mut at: u64) -> io::Result<u64> {
        let mut buffer = vec![0; SEARCH_STEP];
        while at + HEADER + FOOTER <= self.file.len() {
            let found = fill_from(self.file, &mut buffer, at)?;
            let headers = found.windows(HEADER as usize);
            let starts: Vec<(u64, u64)> = headers
                .enumerate()
                .filter_map(|(offset, header)| Some((at + offset as u64, length(header)?)))
                .filter(|(start, length)| *length <= MAX_RECORD && start + HEADER + length + FOOTER <= self.file.len())
                .collect();
            let step = (found.len() as u64 + 1 - HEADER).max(1);
            for (start, length) in starts {
                if self.load(start, length)? {
                    return Ok(start);
                }
            }
            at += step;
        }
        Ok(self.file.len())
    }
}

impl Example<'_> {
    /// A sample whose parts are ranges of the file; `base` is where the record's data begins.
    fn into_entry(self, base: u64, features: &mut BTreeSet<String>) -> Entry {
        let mut entry = Entry::default();
        let mut ranks = [u8::MAX; SLOTS];
        for (name, values) in &self.bytes {
            let name = String::from_utf8_lossy(name);
            if !features.contains(&*name) {
                features.insert(name.clone().into_owned());
            }
            let Some(value) = values.first() else { continue };
            let place = |value: &Range<usize>| {
                NonZeroU64::new(base + value.start as u64).map(|start| Span { start, len: value.len() as u64 })
            };
            if let Some((slot, rank)) = slot_of(&name) {
                if rank < ranks[slot as usize] {
                    ranks[slot as usize] = rank;
                    *entry.part_mut(slot) = place(value);
                    if slot == Slot::Txt {
                        entry.more_txt = values[1..].iter().filter_map(place).collect();
                    }
                }
            } else if matches!(&*name, "key" | "__key__" | "image/filename") {
                entry.key = self.data[value.clone()].into();
            }
        }
        entry
    }
}

/// The part of a sample that a feature holds, and its rank among those that hold the same: first by FLIP's names, which
/// are extensions of files, then by TensorFlow's.
fn slot_of(feature: &str) -> Option<(Slot, u8)> {
    let name = feature.to_ascii_lowercase();
    if let Some(found) = Slot::of(name.as_bytes()) {
        return Some(found);
    }
    match &*name {
        "image/encoded" | "image" | "image_bytes" | "image_raw" => Some((Slot::Image, 100)),
        "caption" | "text" | "image/caption" => Some((Slot::Txt, 100)),
        _ => None,
    }
}
