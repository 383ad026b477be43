//! Shards that are not on disk: from what a user writes to a list of them, and from one of them to its bytes.

use std::io;
#[cfg(feature = "remote")]
use std::io::Read;
use std::path::PathBuf;
#[cfg(feature = "remote")]
use std::sync::Once;

use super::access::{Access, Fetching};
#[cfg(feature = "remote")]
use super::access::{CacheFolder, NEVER};
use super::braces::expand_braces;
#[cfg(feature = "remote")]
use super::local::Held;
use super::location::problem;
use super::pipe;
#[cfg(feature = "remote")]
use super::remote::{self, Address, Cache, Version};
#[cfg(feature = "remote")]
use super::shards::by_kind;
use super::{Location, Spool, Store};
use crate::data::error::{DataError, Result};
#[cfg(feature = "remote")]
use crate::data::text::list_some;

/// The shards of a source that is an address or a command; `None` if it is neither.
pub(super) fn locations(spec: &str, access: &Access) -> Option<Result<Vec<Location>>> {
    if let Some(command) = spec.strip_prefix("pipe:") {
        if command.trim().is_empty() {
            return Some(Err(problem(spec, "the command is missing: pipe:aws s3 cp s3://bucket/a.tar -")));
        }
        let commands = expand_braces(command).map_err(|why| problem(spec, why));
        return Some(commands.map(|commands| commands.into_iter().map(Location::Pipe).collect()));
    }
    remote_locations(spec, access)
}

#[cfg(not(feature = "remote"))]
fn remote_locations(_: &str, _: &Access) -> Option<Result<Vec<Location>>> {
    None
}

#[cfg(feature = "remote")]
fn remote_locations(spec: &str, access: &Access) -> Option<Result<Vec<Location>>> {
    let all = |address: &str| -> Result<Vec<Location>> {
        let of = Address::parse(address).ok_or_else(|| problem(spec, "it is not an address"))?;
        if !of.has_bucket() {
            return Err(problem(spec, "the name after :// is missing"));
        }
        // A `*` in the query of a signed address is not a pattern.
        if !of.has_lists() && of.path().contains('*') {
            return Err(problem(spec, "web servers give no list of files; name the shards, such as {000..127}.tar"));
        }
        let is_pattern = of.has_lists() && address.contains(['*', '?', '[']);
        if !of.is_folder() && !is_pattern {
            return Ok(vec![Location::Remote(address.to_owned())]);
        }
        if !of.has_lists() {
            return Err(problem(spec, "web servers give no list of a folder; name the shards, such as {000..127}.tar"));
        }
        let keys = remote::list(of, Fetching { access, stop: &NEVER })
            .map_err(|source| DataError::Read { path: PathBuf::from(address), source })?;
        let found = if is_pattern { matching(spec, of.key(), &keys)? } else { by_kind(&keys) };
        if found.is_empty() {
            let names = list_some(keys.iter().map(|key| key.rsplit('/').next().unwrap_or(key).to_owned()));
            let there = if keys.is_empty() { "the folder is empty".to_owned() } else { format!("it holds {names}") };
            return Err(problem(spec, format!("no shards in `{address}`; {there}")));
        }
        Ok(found.into_iter().map(|key| Location::Remote(of.with_key(key))).collect())
    };
    Address::parse(spec)?;
    // Checked once here, and not once per shard.
    if let Some(Err(error)) = access.cache.as_ref().map(check) {
        return Some(Err(error));
    }
    Some(expand_braces(spec).map_err(|why| problem(spec, why)).and_then(|addresses| {
        let each: Vec<Vec<Location>> = addresses.iter().map(|address| all(address)).collect::<Result<_>>()?;
        Ok(each.concat())
    }))
}

/// Whether a cache can be used. Its folder is made if it does not exist.
#[cfg(feature = "remote")]
fn check(cache: &CacheFolder) -> Result<()> {
    let opened = Cache::open(cache).map(drop);
    opened.map_err(|source| DataError::Cache { folder: cache.folder.clone(), source })
}

/// The keys that match a pattern, as a local one matches paths, in alphabetical order.
#[cfg(feature = "remote")]
fn matching<'a>(spec: &str, pattern: &str, keys: &'a [String]) -> Result<Vec<&'a str>> {
    let pattern = glob::Pattern::new(pattern).map_err(|source| DataError::Pattern { spec: spec.to_owned(), source })?;
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let mut found: Vec<&str> =
        keys.iter().map(String::as_str).filter(|key| pattern.matches_with(key, options)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The bytes of a shard that is not on disk, fetched whole.
///
/// # Errors
/// [`DataError::Read`], also where there is no room.
pub(crate) fn fetch(location: &Location, spool: &Spool, with: Fetching<'_>) -> Result<Store> {
    let fetched = match location {
        Location::Pipe(command) => spool.start().map_err(|error| no_room(spool, &error)).and_then(|mut spooled| {
            pipe::run(command, &mut spooled, with)?;
            Ok(Store::Spooled(spooled))
        }),
        Location::Remote(address) => remote_bytes(address, spool, with),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    fetched.map_err(|source| DataError::Read { path: PathBuf::from(location.to_string()), source })
}

/// What a server says about the version of a shard: its length and tag; nothing if it says neither.
///
/// # Errors
/// [`DataError::Read`].
pub(crate) fn version(location: &Location, access: &Access) -> Result<String> {
    #[cfg(feature = "remote")]
    if let Location::Remote(address) = location
        && let Some(of) = Address::parse(address)
    {
        let read = |source| DataError::Read { path: PathBuf::from(address), source };
        let version = remote::describe(of, Fetching { access, stop: &NEVER }).map_err(read)?;
        return Ok(version.map_or_else(String::new, |version| format!("{:?} {:?}", version.len, version.tag)));
    }
    let _ = (location, access);
    Ok(String::new())
}

fn no_room(spool: &Spool, error: &io::Error) -> io::Error {
    let folder = spool.folder().display();
    io::Error::new(
        error.kind(),
        format!("cannot make a temporary file in {folder} (set TMPDIR to another folder): {error}"),
    )
}

#[cfg(not(feature = "remote"))]
fn remote_bytes(_: &str, _: &Spool, _: Fetching<'_>) -> io::Result<Store> {
    let problem = "this build reads no addresses; build flipk with the feature `remote`";
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

#[cfg(feature = "remote")]
fn remote_bytes(address: &str, spool: &Spool, with: Fetching<'_>) -> io::Result<Store> {
    let of = Address::parse(address).ok_or(io::ErrorKind::InvalidInput)?;
    if let Some(folder) = &with.access.cache {
        let version = remote::describe(of, with)?;
        // Without tag and length, a later version could be taken for this one.
        if let Some(version) = version.filter(|version| version.tag.is_some() && version.len.is_some()) {
            return cached(of, version, folder, spool, with);
        }
        static WARNED: Once = Once::new();
        WARNED.call_once(|| {
            tracing::warn!(
                "{address} is not cached, nor are others like it: the server does not say which version it sends (by an \
                 ETag or Last-Modified), or how long it is"
            );
        });
    }
    fresh(of, None, spool, with)
}

#[cfg(feature = "remote")]
fn fresh(of: Address<'_>, known: Option<Version>, spool: &Spool, with: Fetching<'_>) -> io::Result<Store> {
    let mut spooled = spool.start().map_err(|error| no_room(spool, &error))?;
    remote::fetch(of, known, &mut spooled, with)?;
    Ok(Store::Spooled(spooled))
}

#[cfg(feature = "remote")]
fn cached(
    of: Address<'_>,
    version: Version,
    folder: &CacheFolder,
    spool: &Spool,
    with: Fetching<'_>,
) -> io::Result<Store> {
    let failed = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot use the cache {}: {error}", folder.folder.display()))
    };
    let cache = Cache::open(folder).map_err(failed)?;
    let keep = || {
        let Some(mut part) = cache.room(version.len.unwrap_or(0)).map_err(failed)? else { return Ok(None) };
        let (len, version) = remote::fetch(of, Some(version.clone()), &mut part, with)?;
        Ok(Some((cache.finish(&part, of.address(), &version, len).map_err(failed)?, len)))
    };
    let found = cache.find(of.address(), &version).map_err(failed)?;
    if found.is_some() {
        tracing::debug!(address = of.address(), "found in the cache");
    }
    let (file, len) = match found.map_or_else(keep, |found| Ok(Some(found))) {
        Ok(Some(found)) => found,
        Ok(None) => return fresh(of, Some(version), spool, with),
        // The part that was written is removed, so there may be room for later shards.
        Err(error) if is_full(&error) => {
            static WARNED: Once = Once::new();
            WARNED.call_once(|| tracing::warn!("{error}; shards for which there is no room are not cached"));
            return fresh(of, Some(version), spool, with);
        }
        Err(error) => return Err(error),
    };
    match Held::new(file, len) {
        Ok(held) => Ok(Store::Held(held)),
        // Too many are open.
        Err(file) => {
            let mut file = file.take(len);
            std::io::Seek::rewind(file.get_mut())?;
            let (spooled, problem) = spool.unpack(file)?;
            problem.map_or(Ok(Store::Spooled(spooled)), Err)
        }
    }
}

/// Whether a disk, a quota or a limit of files' sizes leaves no room.
#[cfg(feature = "remote")]
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A small file in the folder of a shard, or `None` if there is none, or folders have no files there.
///
/// # Errors
/// A server that does not answer.
pub(crate) fn beside(folder: &str, name: &str, access: &Access) -> io::Result<Option<Vec<u8>>> {
    #[cfg(feature = "remote")]
    if let Some(of) = Address::parse(&format!("{folder}{name}")) {
        return remote::small(of, Fetching { access, stop: &NEVER });
    }
    let _ = (folder, name, access);
    Ok(None)
}

/// The names in a folder, if it can be listed.
pub(crate) fn names_in(folder: &str, access: &Access) -> Option<Vec<String>> {
    #[cfg(feature = "remote")]
    if let Some(of) = Address::parse(folder).filter(|of| of.has_lists()) {
        let keys = remote::list(of, Fetching { access, stop: &NEVER }).ok()?;
        return Some(keys.iter().map(|key| key.rsplit('/').next().unwrap_or(key).to_owned()).collect());
    }
    let _ = (folder, access);
    None
}
