//! Image files that a user names one by one or by a pattern.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::folder::is_image;
use super::location::Location;

/// Extensions of the files of a sample next to its image.
pub(crate) const BESIDE: [&str; 3] = ["txt", "json", "cls"];

/// The same with image files as parts of their folders. Of other files that a pattern matched with them, those next to
/// an image, such as its caption, belong to it.
pub(super) fn with_images(found: Vec<Location>) -> Vec<Location> {
    let is_image = |location: &Location| matches!(location, Location::File(path) if is_image(path));
    let is_beside = |path: &Path| {
        path.extension().is_some_and(|ending| BESIDE.iter().any(|known| ending.eq_ignore_ascii_case(known)))
    };
    if !found.iter().any(is_image) {
        return found;
    }
    // Each other location, or a folder with the names of images that follow each other in the list.
    let mut parts: Vec<Result<(PathBuf, Vec<OsString>), Location>> = Vec::new();
    for location in found {
        match (&location, is_image(&location)) {
            (Location::File(path), true) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                let name = path.file_name().unwrap_or_default().to_owned();
                match parts.last_mut() {
                    Some(Ok((of, names))) if of == folder => names.push(name),
                    _ => parts.push(Ok((folder.to_owned(), vec![name]))),
                }
            }
            (Location::File(path), false) if is_beside(path) => {}
            _ => parts.push(Err(location)),
        }
    }
    let part = |part: Result<(PathBuf, Vec<OsString>), Location>| {
        part.map_or_else(|other| other, |(folder, names)| Location::Images(folder, names.into()))
    };
    parts.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::store::Source;

    #[test]
    fn image_files_are_parts_of_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["1.png", "1.txt", "2.JPG", "b/3.png", "c.tar", "d.json"] {
            std::fs::write(folder.path().join(name), b"x").unwrap();
        }
        let shards = |pattern: &str| Source::parse(&folder.path().join(pattern).display().to_string()).unwrap().shards;
        let images = |inner: &str, names: &[&str]| {
            let folder = folder.path().join(inner).components().collect();
            Location::Images(folder, names.iter().map(OsString::from).collect())
        };
        assert_eq!(shards("1.png"), [images("", &["1.png"])]);
        assert_eq!(shards("*.[pJ]*"), [images("", &["1.png", "2.JPG"])]);
        assert_eq!(shards("**/*.png"), [images("", &["1.png"]), images("b", &["3.png"])]);
        assert_eq!(shards("*"), [images("", &["1.png", "2.JPG"]), Location::File(folder.path().join("c.tar"))]);
        // Without an image, a list of files is what it was.
        assert_eq!(shards("d.json"), [Location::File(folder.path().join("d.json"))]);
        assert_eq!(Location::Images(PathBuf::new(), [OsString::from("a.png")].into()).to_string(), ".");
    }
}
