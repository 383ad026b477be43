//! The files in a folder and its subfolders.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Extensions of images; the first one is preferred if a sample has several (the first four as in OpenCLIP). The format
/// of an image is detected from its content.
pub(crate) const IMAGES: [&str; 12] =
    ["jpg", "png", "jpeg", "webp", "jpe", "jfif", "gif", "bmp", "tif", "tiff", "avif", "rgb"];

/// Folders inside each other that are followed; a link to a folder above would never end.
const MAX_DEPTH: usize = 64;

/// All files in a folder and its subfolders, by path within the folder, in the order of the paths. Links are followed;
/// a folder that is reached twice is taken once.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(folder, &mut |path| {
        files.push(path.to_owned());
        false
    })?;
    files.sort_unstable();
    Ok(files)
}

/// Whether a file is an image by its name.
pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    extension.is_some_and(|extension| IMAGES.contains(&&*extension))
}

/// Whether there is an image in a folder or its subfolders.
pub(super) fn has_images(folder: &Path) -> bool {
    walk(folder, &mut |path| is_image(path)).unwrap_or(false)
}

/// The first table (CSV, TSV) in a folder.
pub(crate) fn table_in(folder: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_table = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        matches!(extension.as_deref(), Some("csv" | "tsv")) && path.is_file()
    };
    paths.filter(is_table).min()
}

/// Calls `found` with the files below `folder`, until it returns true. Returns whether it did.
fn walk(folder: &Path, found: &mut dyn FnMut(&Path) -> bool) -> io::Result<bool> {
    let mut seen = HashSet::new();
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((inner, depth)) = folders.pop() {
        let path = folder.join(&inner);
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if depth > MAX_DEPTH || !seen.insert(path.canonicalize().map_err(failed)?) {
            continue;
        }
        let entries = std::fs::read_dir(&path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        for entry in entries.map_err(failed)? {
            let name = inner.join(entry.file_name());
            let (is_folder, is_file) = match entry.file_type() {
                Ok(kind) if !kind.is_symlink() => (kind.is_dir(), kind.is_file()),
                // A link to nowhere is neither.
                _ => (folder.join(&name).is_dir(), folder.join(&name).is_file()),
            };
            if is_folder {
                folders.push((name, depth + 1));
            } else if is_file && found(&name) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_subfolders_are_found_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in [("b/2.JPG", "x"), ("a/c/1.txt", "x"), ("a/1.png", "x"), ("z.md", "x")] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("..", folder.path().join("b/loop")).unwrap();
            std::os::unix::fs::symlink("nowhere", folder.path().join("b/gone")).unwrap();
        }
        let names: Vec<String> =
            files_in(folder.path()).unwrap().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(names, ["a/1.png", "a/c/1.txt", "b/2.JPG", "z.md"]);
        assert!(has_images(folder.path()) && !has_images(&folder.path().join("a/c")));
        assert!(files_in(&folder.path().join("none")).is_err());
    }
}
