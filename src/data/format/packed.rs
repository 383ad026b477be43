//! Compressed files: unpacked to disk, up to the damage if there is any.

use std::io::BufReader;
use std::path::Path;

use super::damage::Inflation;
use crate::data::error::{DataError, Result};
use crate::data::store::{Gunzip, ReadAt, Reading, Spool, Spooled, Unzstd};

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// By the first bytes of a file.
    pub(super) fn detect(head: &[u8]) -> Option<Self> {
        match head {
            [0x1F, 0x8B, ..] => Some(Self::Gzip),
            // A frame of data, or one that is skipped.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Begins a sentence about what is in the file.
    pub(super) fn inside(self) -> &'static str {
        match self {
            Self::Gzip => "it is gzipped, and inside it is",
            Self::Zstd => "it is compressed with zstd, and inside it is",
        }
    }
}

/// Unpacks a file. If it is damaged, unpacks up to the damage, and returns what is wrong.
///
/// # Errors
/// Those of the temporary file.
pub(super) fn unpack(
    packing: Packing,
    file: &(impl ReadAt + ?Sized),
    path: &Path,
    spool: &Spool,
) -> Result<(Spooled, Option<Inflation>)> {
    let len = file.len();
    let packed = BufReader::with_capacity(1 << 16, Reading::new(file));
    let used = |packed: &mut BufReader<Reading<'_, _>>| packed.get_ref().at - packed.buffer().len() as u64;
    let failed = |source| DataError::Spool { shard: path.to_owned(), folder: spool.folder().to_owned(), source };
    let (spooled, problem, is_trailing, used) = match packing {
        Packing::Gzip => {
            let mut packed = Gunzip::new(packed);
            let (spooled, problem) = spool.unpack(&mut packed).map_err(failed)?;
            (spooled, problem, packed.is_trailing(), packed.get_mut().map(used))
        }
        Packing::Zstd => {
            let mut packed = Unzstd::new(packed).map_err(failed)?;
            let (spooled, problem) = spool.unpack(&mut packed).map_err(failed)?;
            (spooled, problem, packed.is_trailing(), packed.get_mut().map(used))
        }
    };
    let inflation = problem.map(|problem| {
        let left = len.saturating_sub(used.unwrap_or(len)) as f64 / len.max(1) as f64;
        Inflation { problem: format!("{}: {problem}", packing.name()), is_trailing, left }
    });
    Ok((spooled, inflation))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use crate::data::format::{Common, Shard};
    use crate::data::store::Location;
    use crate::data::testing::{append, finish};

    /// The number of samples in a file, of those lost, and the notes about it.
    fn open(bytes: &[u8]) -> (usize, u64, String) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let (shard, report) = Shard::open(0, &Location::File(file.path().to_owned()), &Common::default()).unwrap();
        let notes: Vec<&str> = report.notes.iter().map(|(_, note)| note.as_str()).collect();
        (shard.samples.len(), shard.lost, notes.join("\n"))
    }

    #[test]
    fn zstd_archives_are_read_up_to_their_damage() {
        let mut archive = Vec::new();
        for number in 0..20 {
            append(&mut archive, &format!("{number}.jpg"), &crate::data::testing::png(16, 16, number));
            append(&mut archive, &format!("{number}.txt"), b"words");
        }
        finish(&mut archive);
        let packed = zstd::encode_all(&archive[..], 3).unwrap();
        assert_eq!(open(&packed), (20, 0, String::new()));
        // Frames one after the other, and one that is to be skipped, as parallel compressors write them.
        let (first, second) = archive.split_at(7000);
        let pack = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        let skipped = [0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
        assert_eq!(open(&[&skipped[..], &pack(first), &skipped, &pack(second)].concat()), (20, 0, String::new()));
        let (samples, lost, notes) = open(&[&packed[..], b"and more"].concat());
        assert!((samples, lost) == (20, 0) && notes.contains("bytes after the end of the archive"), "{notes}");
        // Nothing of a block that is cut can be unpacked.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&packed[..packed.len() / 2]).unwrap();
        let cut = Shard::open(0, &Location::File(file.path().to_owned()), &Common::default()).err().unwrap();
        let words = "can be unpacked (zstd: incomplete frame): it was cut, or is damaged; fetch it again";
        assert!(cut.to_string().ends_with(words) && cut.is_of_shard(), "{cut}");
        // A frame is unpacked as a whole, so damage is tried between small ones.
        let mut parts: Vec<u8> = archive.chunks(2000).flat_map(pack).collect();
        let half = parts.len() / 2;
        let (samples, lost, notes) = open(&parts[..half]);
        assert!((5..15).contains(&samples) && lost <= 1, "{samples} {lost} {notes}");
        assert!(notes.contains("the number of samples is unknown"), "{notes}");
        parts[half..half + 100].fill(0xFF);
        let (samples, lost, notes) = open(&parts);
        assert!((5..15).contains(&samples) && (5..15).contains(&lost), "{samples} {lost} {notes}");
        assert!(notes.contains("the rest of the archive is lost (zstd: "), "{notes}");
    }
}
