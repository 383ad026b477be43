//! Archives and images for the tests of this module.

use std::io::Cursor;

use ::image::{ImageFormat, RgbImage};
use tempfile::NamedTempFile;

use crate::data::format::tar;
use crate::random::{Purpose, Random};

/// A tar archive in a temporary file that lives as long as this.
pub struct Archive {
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
    pub fn add(&mut self, name: &str, data: &[u8]) -> &mut Self {
        tar::append(&mut self.bytes, name, data);
        self
    }

    /// Removes the end mark, and the last `bytes` of the members.
    pub fn cut(&mut self, bytes: usize) {
        self.cut = bytes;
    }

    /// Writes the archive and gives its path.
    pub fn file(&self) -> String {
        let mut bytes = self.bytes.clone();
        match self.cut {
            0 => tar::finish(&mut bytes),
            cut => bytes.truncate(bytes.len() - cut),
        }
        std::fs::write(self.file.path(), &bytes).unwrap();
        self.file.path().display().to_string()
    }
}

/// Noise with broad patches of colour, so that there is detail at every scale.
pub fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
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

pub fn png(width: u32, height: u32, seed: u64) -> Vec<u8> {
    encode(&noise(width, height, seed), ImageFormat::Png)
}

pub fn jpeg(width: u32, height: u32, seed: u64) -> Vec<u8> {
    encode(&noise(width, height, seed), ImageFormat::Jpeg)
}
