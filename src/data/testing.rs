//! Archives and images for the tests of this module. Archives are written by the `tar` crate, not by a writer of our
//! own: it could share a mistake with the reader.

#[cfg(feature = "parquet")]
pub(crate) mod parquet;
#[cfg(feature = "remote")]
pub(crate) mod server;

use std::io::Cursor;

use ::image::{ImageFormat, RgbImage};
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use super::format::front::Front;
use super::format::{Common, Shard};
use super::store::Location;
use crate::random::{Purpose, Random};

/// Adds members to an archive that has no end mark.
pub(crate) fn add_to(archive: &mut Vec<u8>, add: impl FnOnce(&mut Builder<Vec<u8>>)) {
    const END_MARK: usize = 1024;
    let mut builder = Builder::new(std::mem::take(archive));
    add(&mut builder);
    *archive = builder.into_inner().unwrap();
    archive.truncate(archive.len() - END_MARK);
}

/// The header of a member of `size` bytes, without a name and a checksum.
pub(crate) fn member(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size as u64);
    header
}

/// Adds a file.
pub(crate) fn append(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    add_to(archive, |builder| builder.append_data(&mut member(EntryType::Regular, data.len()), name, data).unwrap());
}

/// Adds a hard or symbolic link.
pub(crate) fn append_link(archive: &mut Vec<u8>, kind: EntryType, name: &str, target: &str) {
    add_to(archive, |builder| builder.append_link(&mut member(kind, 0), name, target).unwrap());
}

/// Adds the end mark.
pub(crate) fn finish(archive: &mut Vec<u8>) {
    *archive = Builder::new(std::mem::take(archive)).into_inner().unwrap();
}

/// A tar archive in a temporary file that lives as long as this.
pub(crate) struct Archive {
    bytes: Vec<u8>,
    cut: usize,
    file: NamedTempFile,
}

impl Default for Archive {
    fn default() -> Self {
        Self { bytes: Vec::new(), cut: 0, file: NamedTempFile::with_suffix(".tar").unwrap() }
    }
}

impl Archive {
    pub(crate) fn add(&mut self, name: &str, data: &[u8]) -> &mut Self {
        append(&mut self.bytes, name, data);
        self
    }

    /// Removes the end mark, and the last `bytes` of the members.
    pub(crate) fn cut(&mut self, bytes: usize) {
        self.cut = bytes;
    }

    /// Writes the archive and gives its path.
    pub(crate) fn file(&self) -> String {
        let mut bytes = self.bytes.clone();
        match self.cut {
            0 => finish(&mut bytes),
            cut => bytes.truncate(bytes.len() - cut),
        }
        std::fs::write(self.file.path(), &bytes).unwrap();
        self.file.path().display().to_string()
    }
}

/// Noise with broad patches of colour, so that there is detail at every scale.
pub(crate) fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
    let mut random = Random::new(seed, Purpose::Test, 0, 0);
    let base: Vec<u32> = (0..64 * 3).map(|_| random.below(192)).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let patch = (y * 8 / height * 8 + x * 8 / width) as usize;
        ::image::Rgb([0, 1, 2].map(|c| (base[patch * 3 + c] + random.below(64)) as u8))
    })
}

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn png(width: u32, height: u32, seed: u64) -> Vec<u8> {
    encode(&noise(width, height, seed), ImageFormat::Png)
}

pub(crate) fn jpeg(width: u32, height: u32, seed: u64) -> Vec<u8> {
    encode(&noise(width, height, seed), ImageFormat::Jpeg)
}

/// A shard of a pack, with its index in front, and the bytes of the index alone.
pub(crate) fn indexed(samples: u8) -> (Vec<u8>, Vec<u8>) {
    let mut archive = Archive::default();
    for number in 0..samples {
        let image = png(60, 50, number.into());
        archive.add(&format!("{number}.png"), &image).add(&format!("{number}.txt"), b"a name");
    }
    let path = archive.file();
    let bytes = std::fs::read(&path).unwrap();
    let (shard, report) = Shard::open(0, &Location::File(path.into()), &Common::default()).unwrap();
    let front = Front { entries: shard.samples, extensions: report.extensions }.write(bytes.len() as u64);
    let size = u64::from_str_radix(std::str::from_utf8(&front[124..135]).unwrap(), 8).unwrap() as usize;
    let index = front[512..512 + size].to_vec();
    ([front, bytes].concat(), index)
}

/// Raw pixels, as in a pack.
pub(crate) fn raw(width: u32, height: u32) -> Vec<u8> {
    super::sample::image::raw::encode(&noise(width, height, 1))
}
