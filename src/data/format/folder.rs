//! A folder of images, with captions next to them: the same names and rules as in an archive.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::members::{self, Entry};
use super::tar::{Content, Member};
use super::{Indexed, Naming};
use crate::data::error::{DataError, Result};
use crate::data::store::{BESIDE, Joined, Store, files_in};

/// Indexes the files in a folder and its subfolders.
///
/// # Errors
/// A folder or a file that cannot be read.
pub(super) fn open(folder: &Path) -> Result<(Store, Indexed)> {
    let files = files_in(folder).map_err(|source| failed(folder, source))?;
    let lengths: Vec<Result<_>> = files.par_iter().map(|name| with_length(folder.join(name))).collect();
    let mut joined = Joined::default();
    let mut list = Vec::with_capacity(files.len());
    for (name, file) in files.iter().zip(lengths) {
        list.push(member(name.as_os_str(), file?, &mut joined));
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

/// Indexes these images in a folder, each with what is next to it. Their keys are their names.
///
/// # Errors
/// An image that is not there.
pub(super) fn open_images(folder: &Path, names: &[OsString]) -> Result<(Store, Indexed)> {
    let files: Vec<Result<Vec<_>>> = names.par_iter().map(|name| image_and_others(folder, name)).collect();
    let mut joined = Joined::default();
    let (mut entries, mut extensions) = (Vec::with_capacity(names.len()), BTreeSet::new());
    for (name, files) in names.iter().zip(files) {
        let members: Vec<Member> = files?.into_iter().map(|(name, file)| member(&name, file, &mut joined)).collect();
        let samples = members::group(&members);
        extensions.extend(samples.extensions);
        let key = name.as_encoded_bytes().into();
        entries.extend(samples.entries.into_iter().next().map(|entry| Entry { key, ..entry }));
    }
    let extensions = extensions.into_iter().collect();
    let indexed = Indexed { entries, naming: Naming::Files, extensions, ..Indexed::default() };
    Ok((Store::Joined(joined), indexed))
}

/// A file, and how many bytes it has.
type WithLength = (PathBuf, u64);

/// The image, and the files of the same name that are a part of its sample.
fn image_and_others(folder: &Path, name: &OsStr) -> Result<Vec<(OsString, WithLength)>> {
    let mut files = vec![(name.to_owned(), with_length(folder.join(name))?)];
    let Some((stem, _)) = name.to_str().and_then(|name| name.split_once('.')) else { return Ok(files) };
    for ending in BESIDE {
        let name = OsString::from(format!("{stem}.{ending}"));
        let path = folder.join(&name);
        if path.is_file() {
            files.push((name, with_length(path)?));
        }
    }
    Ok(files)
}

fn with_length(path: PathBuf) -> Result<WithLength> {
    match std::fs::metadata(&path) {
        Ok(metadata) => Ok((path, metadata.len())),
        Err(source) => Err(failed(&path, source)),
    }
}

fn failed(path: &Path, source: std::io::Error) -> DataError {
    DataError::Read { path: path.to_owned(), source }
}

fn member(name: &OsStr, (path, len): WithLength, joined: &mut Joined) -> Member {
    let content = joined.add_file(path, len).map_or(Content::Unread("too large"), Content::Data);
    Member { name: name.as_encoded_bytes().to_vec(), content }
}
