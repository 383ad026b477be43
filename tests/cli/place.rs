//! A scratch folder with shards, vocabularies and runs.

use std::path::{Path, PathBuf};

use flipk::data::tar;

use crate::harness::{Ran, SMALL, flipk};
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

    /// An archive of samples: the number of the image, and the members beside it by extension.
    pub fn shard<T: AsRef<[u8]>>(&self, name: &str, samples: &[(u8, &[(&str, T)])]) -> String {
        let mut archive = Vec::new();
        for (number, (image, members)) in samples.iter().enumerate() {
            tar::append(&mut archive, &format!("{number:03}.png"), &png(*image));
            for (extension, content) in *members {
                tar::append(&mut archive, &format!("{number:03}.{extension}"), content.as_ref());
            }
        }
        tar::finish(&mut archive);
        self.file(name, archive)
    }

    /// Trains into the folder `run`, with the flags of [`small_args`].
    pub fn train(&self, run: &str, flags: &[&str]) -> Ran {
        flipk(&small_args(&self.path(run), flags))
    }
}

/// `train` with those of the [`SMALL`] flags that `flags` do not set. Nothing is held out unless `flags` say so.
pub fn small_args(out: &Path, flags: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let is_set = |small: &str| flags.iter().any(|flag| name(flag) == name(small));
    let small = SMALL.iter().filter(|small| !small.starts_with("--eval-data") && !is_set(small));
    let out = format!("--out={}", out.display());
    ["train", &out].iter().chain(small).chain(flags).map(|arg| (*arg).to_owned()).collect()
}
