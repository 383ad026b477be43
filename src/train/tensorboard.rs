//! TensorBoard event files: a `TFRecord` stream of `tensorflow.Event` messages.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.h` (length, masked CRC-32C, data, masked CRC-32C),
//! `tensorflow/core/util/event.proto`, `tensorflow/core/framework/summary.proto`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::TrainError;
use crate::data::masked_crc;

/// An open event file.
pub(super) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// A new file in `folder` for a run that is at `step`; TensorBoard hides later points of earlier files.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn create(folder: &Path, step: u64) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|why| TrainError::io("create", folder, why))?;
        // A run that is resumed within a second must not overwrite its own events.
        let seconds = now() as u64;
        let name = |attempt: u32| folder.join(format!("events.out.tfevents.{seconds:010}.flipk.{attempt}"));
        let path = (0..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0));
        let file = File::create(&path).map_err(|why| TrainError::io("create", &path, why))?;
        let mut this = Self { path, file };
        this.record(&event(0, |out| bytes(out, 3, b"brain.Event:2")))?;
        // session_log { status: START }
        this.record(&event(step, |out| bytes(out, 7, &[0x08, 1])))?;
        Ok(this)
    }

    /// Appends scalars.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn write<'a>(
        &mut self,
        step: u64,
        scalars: impl Iterator<Item = (&'a str, f64)>,
    ) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut scalar = Vec::new();
            bytes(&mut scalar, 1, tag.as_bytes());
            scalar.push(2 << 3 | 5);
            scalar.extend_from_slice(&(value as f32).to_le_bytes());
            bytes(&mut summary, 1, &scalar);
        }
        self.record(&event(step, |out| bytes(out, 5, &summary)))
    }

    fn record(&mut self, data: &[u8]) -> Result<(), TrainError> {
        let mut record = (data.len() as u64).to_le_bytes().to_vec();
        record.extend_from_slice(&masked_crc(&record).to_le_bytes());
        record.extend_from_slice(data);
        record.extend_from_slice(&masked_crc(data).to_le_bytes());
        self.file.write_all(&record).map_err(|why| TrainError::io("write", &self.path, why))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event { wall_time, step, .. }`
fn event(step: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&now().to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    rest(&mut out);
    out
}

/// A length-delimited field.
fn bytes(out: &mut Vec<u8>, field: u8, content: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the records and checks each frame.
    fn records(file: &[u8]) -> Vec<&[u8]> {
        let (mut rest, mut records) = (file, Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc(data).to_le_bytes());
            records.push(data);
            rest = &rest[16 + length..];
        }
        records
    }

    #[test]
    fn a_scalar_is_an_event_as_tensorflow_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 300).unwrap();
        events.write(300, [("train/loss", 1.5)].into_iter()).unwrap();
        let second = EventFile::create(folder.path(), 300).unwrap();
        assert_ne!(events.path, second.path);
        let file = fs::read(&events.path).unwrap();
        let records = records(&file);
        // Past the field of the wall time (9 bytes); 300 is the varint ac 02.
        assert_eq!(records[0][9..], *b"\x10\0\x1a\x0dbrain.Event:2");
        assert_eq!(records[1][9..], *b"\x10\xac\x02\x3a\x02\x08\x01");
        assert_eq!(records[2][9..], *b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\0\0\xc0\x3f");
    }

    /// The check value of CRC-32C (RFC 3720, appendix B.4), masked.
    #[test]
    fn the_checksum_is_masked() {
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
