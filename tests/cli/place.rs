//! A scratch folder with shards, vocabularies and runs.

use std::path::PathBuf;

use crate::harness::{self, Ran};
use crate::pack;
use crate::robust::png;

pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    /// An archive of samples: the number of the image, and the other members by extension.
    pub fn shard<T: AsRef<[u8]>>(&self, name: &str, samples: &[(u8, &[(&str, T)])]) -> String {
        let mut archive = Vec::new();
        for (number, (image, members)) in samples.iter().enumerate() {
            pack::append(&mut archive, format!("{number:03}.png"), &png(*image));
            for (extension, content) in *members {
                pack::append(&mut archive, format!("{number:03}.{extension}"), content.as_ref());
            }
        }
        pack::finish(&mut archive);
        self.file(name, archive)
    }

    /// As [`harness::train`], into the folder `run`.
    pub fn train(&self, run: &str, flags: &[&str]) -> Ran {
        harness::train(&self.path(run), flags)
    }
}
