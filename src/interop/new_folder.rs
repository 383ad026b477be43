//! A folder that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::InteropError;

/// A folder in the making, under a temporary name beside its own; removed if it is dropped before [`Self::finish`].
pub struct NewFolder {
    path: PathBuf,
    making: PathBuf,
    done: bool,
}

impl NewFolder {
    /// Begins the folder `path`.
    ///
    /// # Errors
    /// If there is something at `path` already, other than an empty folder, or if it cannot be written beside.
    pub fn create(path: &Path) -> Result<Self, InteropError> {
        let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        if path.exists() && !is_empty {
            let problem = "already exists: choose another --out, or remove it".to_owned();
            return Err(InteropError::File { path: path.to_owned(), problem });
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let making = path.with_file_name(name);
        fs::create_dir_all(&making).map_err(|source| InteropError::Open { path: making.clone(), source })?;
        Ok(Self { path: path.to_owned(), making, done: false })
    }

    /// The folder's own name, which it has when it is finished, as an absolute path.
    pub fn path(&self) -> PathBuf {
        std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    /// Creates a folder in it.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn subfolder(&self, name: &str) -> Result<(), InteropError> {
        fs::create_dir(self.file(name)).map_err(|why| self.failed(name, why))
    }

    /// Where `name` is written until the folder is finished.
    pub fn file(&self, name: &str) -> PathBuf {
        self.making.join(name)
    }

    /// Writes a text file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), InteropError> {
        let written = File::create(self.file(name)).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|why| self.failed(name, why))
    }

    /// The error of a file that cannot be written.
    pub fn failed(&self, name: &str, source: io::Error) -> InteropError {
        InteropError::Open { path: self.path.join(name), source }
    }

    /// Syncs all files and gives the folder its name.
    ///
    /// # Errors
    /// If that fails.
    pub fn finish(mut self) -> Result<PathBuf, InteropError> {
        self.sync().map_err(|source| InteropError::Open { path: self.path.clone(), source })?;
        self.done = true;
        Ok(self.path.clone())
    }

    fn sync(&self) -> io::Result<()> {
        sync_all(&self.making)?;
        // An empty folder may be in the way.
        if self.path.is_dir() {
            fs::remove_dir(&self.path)?;
        }
        fs::rename(&self.making, &self.path)
    }
}

/// Syncs all files in `folder` and in its subfolders.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => sync_all(&path)?,
            false => File::open(path)?.sync_all()?,
        }
    }
    File::open(folder)?.sync_all()
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays only takes up space.
            let _ = fs::remove_dir_all(&self.making);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new");
        let folder = NewFolder::create(&path).unwrap();
        folder.write("a.txt", "a").unwrap();
        assert!(!path.exists());
        drop(folder);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);

        fs::create_dir(&path).unwrap();
        let folder = NewFolder::create(&path).unwrap();
        folder.write("a.txt", "a").unwrap();
        assert_eq!(folder.finish().unwrap(), path);
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), "a");
        let error = NewFolder::create(&path).err().unwrap().to_string();
        assert!(error.ends_with("already exists: choose another --out, or remove it"), "{error}");
    }
}
