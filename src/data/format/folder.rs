//! A folder of images, with captions next to them: the same names and rules as in an archive.

use std::path::Path;

use rayon::prelude::*;

use super::members;
use super::tar::{Content, Member};
use super::{Indexed, Naming};
use crate::data::error::{DataError, Result};
use crate::data::store::{Joined, Store, files_in};

/// Indexes the files in a folder and its subfolders.
///
/// # Errors
/// A folder or a file that cannot be read.
pub(super) fn open(folder: &Path) -> Result<(Store, Indexed)> {
    let failed = |path: &Path, source| DataError::Read { path: path.to_owned(), source };
    let files = files_in(folder).map_err(|source| failed(folder, source))?;
    let with_length = |name: &std::path::PathBuf| {
        let path = folder.join(name);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok((path, metadata.len())),
            Err(source) => Err(failed(&path, source)),
        }
    };
    let lengths: Vec<Result<_>> = files.par_iter().map(with_length).collect();
    let mut joined = Joined::default();
    let mut list = Vec::with_capacity(files.len());
    for (name, file) in files.iter().zip(lengths) {
        let (path, len) = file?;
        let content = joined.add_file(path, len).map_or(Content::Unread("too large"), Content::Data);
        list.push(Member { name: name.as_os_str().as_encoded_bytes().to_vec(), content });
    }
    let samples = members::group(&list);
    let notes = samples.unused.notes("file");
    let indexed = Indexed {
        entries: samples.entries,
        naming: Naming::Files,
        extensions: samples.extensions,
        notes,
        ..Indexed::default()
    };
    Ok((Store::Joined(joined), indexed))
}
