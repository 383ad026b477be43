//! From what a user writes to a list of shards: files, folders, patterns, and the embedded data set. Addresses and
//! commands are in `elsewhere`.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::access::Access;
use super::braces::expand_braces;
use super::elsewhere;
use super::embedded;
use super::folder::{has_images, table_in};
use super::image_files::with_images;
use crate::data::error::{DataError, Result};
use crate::data::text::list_some;

/// How the names of shards end, in upper or lower case, in the order in which a folder's shards are taken; and how
/// those of archives end that are not read: they are errors, and not silently ignored.
const SHARDS: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tfrecord", ".tfrecords", PARQUET];
const PARQUET: &str = ".parquet";
const UNREAD_SHARDS: [&str; 6] = [".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.lz4"];

/// Where one shard is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On disk.
    File(PathBuf),
    /// A folder of images, on disk.
    Folder(PathBuf),
    /// Some of the images in a folder, by name.
    Images(PathBuf, Arc<[OsString]>),
    /// At an address such as `s3://bucket/a.tar`, from which it is fetched when it is opened.
    Remote(String),
    /// The output of a command.
    Pipe(String),
    /// In the program, by the name after `embedded:`.
    Embedded(&'static str),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Images(path, _) if path.as_os_str().is_empty() => f.write_str("."),
            Self::File(path) | Self::Folder(path) | Self::Images(path, _) => path.display().fmt(f),
            Self::Remote(address) => f.write_str(address),
            Self::Pipe(command) => write!(f, "pipe:{command}"),
            Self::Embedded(name) => write!(f, "embedded:{name}"),
        }
    }
}

impl Location {
    /// Whether it is fetched when it is opened.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Remote(_) | Self::Pipe(_))
    }
}

/// One entry of the user's list of sources.
#[derive(Clone, Debug)]
pub struct Source {
    /// As the user wrote it.
    pub spec: String,
    /// The shards that it stands for, in order.
    pub shards: Vec<Location>,
}

impl Source {
    /// Reads one entry, or several that are joined with `::`, as OpenCLIP writes them.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(crate) fn parse_all(spec: &str, access: &Access) -> Result<Vec<Self>> {
        // A command may contain `::`.
        if spec.starts_with("pipe:") || Path::new(spec).exists() {
            Ok(vec![Self::parse_with(spec, access)?])
        } else {
            parts(spec).into_iter().map(|part| Self::parse_with(part, access)).collect()
        }
    }

    /// Reads one entry: `embedded:NAME`, or a path with `{000..127}`, `{a,b}`, `*`, `?` and `[..]`, or a folder, which
    /// stands for all archives in it, or else for the images in it and in its subfolders, or image files; an address
    /// (`s3://`, `gs://`, `az://`, `http://`, `https://`) of the same form, or `pipe:` and a command. Web servers give
    /// no lists, so they have no folders and no `*`.
    ///
    /// # Errors
    /// An unknown name, a pattern that matches nothing, a shard on disk that does not exist, or a bucket that cannot be
    /// listed.
    pub fn parse(spec: &str) -> Result<Self> {
        Self::parse_with(spec, &Access::default())
    }

    /// As [`Self::parse`]; `access` is for lists.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_with(spec: &str, access: &Access) -> Result<Self> {
        let shards = match spec.strip_prefix("embedded:") {
            Some(name) => match embedded::SHARDS.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => vec![Location::Embedded(known)],
                None => return Err(problem(spec, format!("known are {}", embedded_names()))),
            },
            None => match unread(spec).filter(|_| !Path::new(spec).exists()) {
                Some(why) => return Err(problem(spec, why)),
                None => match elsewhere::locations(spec, access).filter(|_| !Path::new(spec).exists()) {
                    Some(found) => found?,
                    None => locations(spec)?,
                },
            },
        };
        Ok(Self { spec: spec.to_owned(), shards })
    }
}

/// What stands between the `::` of a spec, but for those in brackets: `http://[::1]/a.tar` is an address.
fn parts(spec: &str) -> Vec<&str> {
    let (mut parts, mut start, mut in_brackets) = (Vec::new(), 0, false);
    for (at, byte) in spec.bytes().enumerate() {
        match byte {
            b'[' => in_brackets = spec[at..].contains(']'),
            b']' => in_brackets = false,
            b':' if !in_brackets && at >= start && spec[at..].starts_with("::") => {
                parts.push(&spec[start..at]);
                start = at + 2;
            }
            _ => {}
        }
    }
    parts.push(spec.get(start..).unwrap_or_default());
    parts
}

/// The embedded shards as a user writes them.
pub(crate) fn embedded_names() -> String {
    list_some(embedded::SHARDS.iter().map(|(name, _)| format!("embedded:{name}")))
}

/// Advice about a source that other programs read and flipk does not.
pub(crate) fn unread(spec: &str) -> Option<String> {
    if let Some(path) = spec.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Some(format!("give the path alone: `{path}`"));
    }
    if spec.starts_with("pipe:") {
        return None;
    }
    let (scheme, _) = spec.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    match scheme {
        "s3" | "gs" | "az" | "http" | "https" if cfg!(feature = "remote") => None,
        "s3" | "gs" | "az" | "http" | "https" => {
            Some(format!("this build reads no {scheme}:// addresses; build flipk with the feature `remote`"))
        }
        _ => is_scheme.then(|| {
            format!(
                "{scheme}:// addresses are not read, but s3://, gs://, az://, http://, https:// and pipe:COMMAND are; or \
                 download or mount the shards first"
            )
        }),
    }
}

pub(super) fn problem(spec: &str, problem: impl Into<String>) -> DataError {
    DataError::Spec { spec: spec.to_owned(), problem: problem.into() }
}

fn locations(spec: &str) -> Result<Vec<Location>> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    // A path that exists is not a pattern.
    let patterns = match Path::new(spec).exists() {
        true => vec![spec.to_owned()],
        false => expand_braces(spec).map_err(|why| problem(spec, why))?,
    };
    for pattern in patterns {
        let path = PathBuf::from(&pattern);
        if path.is_dir() {
            let shards = shards_in(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
            let deeper = if shards.is_empty() { folders_with_shards(&path) } else { None };
            if shards.is_empty() && deeper.is_none() && has_images(&path) {
                found.push(Location::Folder(path));
                continue;
            }
            if shards.is_empty() {
                let deeper = match deeper {
                    None => table_in(&path).map_or_else(String::new, |table| {
                        format!("; to use the table, name it instead of the folder: {}", table.display())
                    }),
                    Some((_, end)) => format!(
                        "; subfolders are not searched; `{}/**/*{end}` finds the shards in them",
                        pattern.trim_end_matches('/')
                    ),
                };
                let found_none = format!(
                    "no shards ({}) and no images there; {}{deeper}",
                    list_some(SHARDS.iter().map(|end| (*end).to_owned())),
                    listing(&path)
                );
                return Err(problem(spec, found_none));
            }
            found.extend(shards.into_iter().map(Location::File));
        } else if path.exists() {
            found.push(Location::File(path));
        } else if pattern.contains(['*', '?', '[']) {
            let shards = matches(spec, &pattern)?;
            if shards.is_empty() {
                let folder = path.parent().unwrap_or(Path::new(""));
                return Err(problem(spec, format!("nothing matches `{pattern}`; {}", listing(folder))));
            }
            found.extend(shards.into_iter().map(Location::File));
        } else {
            match std::fs::metadata(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound || path.is_symlink() => {
                    let source = match std::fs::read_link(&path) {
                        Ok(target) => {
                            let problem =
                                format!("it is a link to {}, which cannot be followed: {error}", target.display());
                            std::io::Error::other(problem)
                        }
                        Err(_) => error,
                    };
                    return Err(DataError::Read { path, source });
                }
                _ => missing.push(path),
            }
        }
    }
    if let Some(first) = missing.first() {
        return Err(DataError::MissingShards {
            spec: spec.to_owned(),
            missing: missing.len(),
            total: missing.len() + found.len(),
            first: list_some(missing.iter().map(|path| path.display().to_string())),
            there: listing(first.parent().unwrap_or(Path::new(""))) + hint(spec),
        });
    }
    Ok(with_images(found))
}

/// What a user may have meant by a source that does not exist.
pub(crate) fn hint(spec: &str) -> &'static str {
    let is_range = |inner: &str| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        inner.split_once('-').is_some_and(|(first, last)| digits(first) && digits(last))
    };
    let ranges = || spec.split('{').skip(1).filter_map(|rest| rest.split_once('}')).any(|(inner, _)| is_range(inner));
    if spec.starts_with(['~', '$']) {
        "; the shell replaces `~` and variables only outside of single quotes"
    } else if spec.starts_with(['\'', '"']) {
        "; the quotes are a part of the name here, leave them out"
    } else if ranges() {
        "; ranges are written with two dots: {000..127}"
    } else if spec.contains(',') {
        "; several sources are given one by one: --data a.tar b.tar"
    } else {
        ""
    }
}

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
fn folders_with_shards(folder: &Path) -> Option<(usize, &'static str)> {
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

/// A warning for each folder in `specs` that has subfolders with shards.
pub(crate) fn left_out(specs: &[impl AsRef<str>]) -> Vec<String> {
    let specs = specs.iter().map(|spec| -> &str { spec.as_ref() });
    let folders = specs.filter(|spec| Path::new(spec).is_dir());
    let counted = folders.filter_map(|spec| Some((spec, folders_with_shards(Path::new(spec))?)));
    let warnings = counted.map(|(spec, (count, end))| {
        let folder = spec.trim_end_matches('/');
        format!(
            "warning: shards in {count} of the subfolders of {spec} are not used; `{folder}/**/*{end}` takes them all"
        )
    });
    warnings.collect()
}

/// Files that match a glob, in alphabetical order.
fn matches(spec: &str, pattern: &str) -> Result<Vec<PathBuf>> {
    let paths = glob::glob(pattern).map_err(|source| DataError::Pattern { spec: spec.to_owned(), source })?;
    paths
        .map(|path| path.map_err(|error| DataError::Read { path: error.path().to_owned(), source: error.into() }))
        .filter(|path| !path.as_ref().is_ok_and(|path| path.is_dir()))
        .collect()
}

/// What a folder holds, for an error message.
fn listing(folder: &Path) -> String {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let name = folder.display();
    match std::fs::read_dir(folder) {
        Err(error) => format!("the folder {name} cannot be read: {error}"),
        Ok(entries) => {
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            match names.is_empty() {
                true => format!("the folder {name} is empty"),
                false => format!("the folder {name} holds {}", list_some(names.into_iter())),
            }
        }
    }
}
