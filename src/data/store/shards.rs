//! The shards in a folder, by the endings of their names.

use std::path::{Path, PathBuf};

use super::folder::is_image;
use crate::data::text;

/// How the names of shards end, in upper or lower case, in the order in which a folder's shards are taken; and how
/// those of archives end that are not read: they are errors, and not silently ignored.
pub(super) const SHARDS: [&str; 8] =
    [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tfrecord", ".tfrecords", PARQUET];
const PARQUET: &str = ".parquet";
const UNREAD_SHARDS: [&str; 6] = [".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.lz4"];

/// Whether a file of this name is a shard of one of these kinds. macOS writes `._a.tar` next to `a.tar`.
fn is_shard(name: &str, ends: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    // TensorFlow numbers its files as in `train.tfrecord-00000-of-00100`.
    let is_numbered = |end: &str| end == ".tfrecord" && name.contains(".tfrecord-");
    !name.starts_with("._") && ends.iter().any(|end| name.ends_with(end) || is_numbered(end))
}

/// The name or path of a Parquet file without its ending; `None` if it has another one.
pub(crate) fn parquet_stem(name: &str) -> Option<&str> {
    let (stem, end) = name.split_at_checked(name.len().checked_sub(PARQUET.len())?)?;
    end.eq_ignore_ascii_case(PARQUET).then_some(stem)
}

/// Whether a Parquet file is img2dataset's table about the shard or the folder `STEM` next to it. `has` says whether
/// there is a shard of a name, `has_folder` whether there is a folder.
fn is_about(name: &str, has: impl Fn(&str) -> bool, has_folder: impl Fn(&str) -> bool) -> bool {
    let Some(stem) = parquet_stem(name) else { return false };
    let others = SHARDS.iter().filter(|end| **end != PARQUET);
    has_folder(stem) || others.into_iter().any(|end| has(&format!("{stem}{end}")))
}

/// The shards in a folder, by kind and name.
pub(crate) fn shards_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries: Vec<_> = std::fs::read_dir(folder)?.collect::<std::io::Result<_>>()?;
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.file_name()).collect();
    names.sort();
    let has = |name: &str| names.binary_search_by(|other| other.as_os_str().cmp(name.as_ref())).is_ok();
    let has_folder = |name: &str| has(name) && folder.join(name).is_dir();
    let of = |ends: &[&str]| -> Vec<PathBuf> {
        let is_one = |name: &str| is_shard(name, ends) && !is_about(name, has, has_folder);
        let of_kind = names.iter().filter(|name| is_one(&name.to_string_lossy()));
        of_kind.map(|name| folder.join(name)).filter(|path| !path.is_dir()).collect()
    };
    let kinds = SHARDS.iter().map(|end| of(&[*end]));
    Ok(kinds.chain([of(&UNREAD_SHARDS)]).flatten().collect())
}

/// The shards among the keys of a folder in an object store, by kind and name as those on disk.
pub(crate) fn by_kind(keys: &[String]) -> Vec<&str> {
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.sort_unstable();
    let has = |key: &str| keys.binary_search(&key).is_ok();
    let of = |ends: &[&str]| -> Vec<&str> {
        let is_one =
            |key: &str| is_shard(key.rsplit('/').next().unwrap_or(key), ends) && !is_about(key, has, |_| false);
        keys.iter().copied().filter(|key| is_one(key)).collect()
    };
    let kinds = SHARDS.iter().map(|end| of(&[*end]));
    kinds.chain([of(&UNREAD_SHARDS)]).flatten().collect()
}

/// How many of the first subfolders of a folder have shards, and how the names of these end, for a pattern.
pub(super) fn folders_with_shards(folder: &Path) -> Option<(usize, &'static str)> {
    const PROBE_FOLDERS: usize = 100;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = entries.filter(|path| path.is_dir()).take(PROBE_FOLDERS);
    let first = |path: PathBuf| shards_in(&path).ok()?.into_iter().next();
    let shards: Vec<PathBuf> = folders.filter_map(first).collect();
    let name = shards.first()?.to_string_lossy().to_ascii_lowercase();
    let end = SHARDS.iter().chain(&UNREAD_SHARDS).find(|end| name.ends_with(**end));
    // Those that TensorFlow has numbered.
    Some((shards.len(), end.map_or(".tfrecord*", |end| *end)))
}

/// A warning for each folder of shards in `specs` that has subfolders with shards, or images, which are not used.
pub(crate) fn left_out(specs: &[impl AsRef<str>]) -> Vec<String> {
    let specs = specs.iter().map(|spec| -> &str { spec.as_ref() });
    let folders: Vec<_> = specs.filter(|spec| Path::new(spec).is_dir()).collect();
    let counted = folders.iter().filter_map(|spec| Some((spec, folders_with_shards(Path::new(spec))?)));
    let in_subfolders = counted.map(|(spec, (count, end))| {
        let folder = spec.trim_end_matches('/');
        format!(
            "warning: shards in {count} of the subfolders of {spec} are not used; `{folder}/**/*{end}` takes them all"
        )
    });
    let loose = folders.iter().map(|spec| (spec, loose_images(Path::new(spec)))).filter(|(_, count)| *count > 0);
    let beside = loose.map(|(spec, count)| {
        let images = text::count(count, "image");
        format!("warning: {images} beside the shards in {spec} are not used; give a folder that has no shards")
    });
    in_subfolders.chain(beside).collect()
}

/// How many images are in a folder that has shards, and so is not taken as a folder of images.
fn loose_images(folder: &Path) -> u64 {
    if shards_in(folder).is_ok_and(|shards| shards.is_empty()) {
        return 0;
    }
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter(|file| is_image(&file.path())).count() as u64
}
