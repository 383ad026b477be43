//! From what a user writes to a list of shards: files, folders, patterns, and the embedded data set. Addresses and
//! commands are in `elsewhere`.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use super::access::Access;
use super::braces::expand_braces;
use super::elsewhere;
use super::embedded;
use super::folder::{has_images, table_in};
use super::image_files::with_images;
use super::location::{Location, problem};
use super::shards::{SHARDS, folders_with_shards, shards_in};
use crate::data::error::{DataError, Result};
use crate::data::text::list_some;

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
        entries(spec).into_iter().map(|part| Self::parse_with(part, access)).collect()
    }

    /// Checks that the files among the same sources exist; no server is asked, and no command is run.
    ///
    /// # Errors
    /// As [`Self::parse`], of the first source that is neither an address nor a command.
    pub(crate) fn check_files(spec: &str) -> Result<()> {
        let is_elsewhere = |part: &str| part.starts_with("pipe:") || part.contains("://");
        entries(spec).into_iter().filter(|part| !is_elsewhere(part)).try_for_each(|part| Self::parse(part).map(drop))
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
                None => return Err(problem(spec, format!("there are only {}", embedded_names()))),
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

/// The entries of a spec, one or several that are joined with `::`. A command may contain `::`, and so may a path.
fn entries(spec: &str) -> Vec<&str> {
    match spec.starts_with("pipe:") || Path::new(spec).exists() {
        true => vec![spec],
        false => parts(spec),
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
