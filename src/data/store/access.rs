//! How bytes that are not on disk are fetched.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How shards that are not on disk are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// An attempt ends when no byte has come for this long.
    pub io_timeout: Duration,
    /// Where fetched shards are kept.
    pub cache: Option<CacheFolder>,
}

/// A folder that keeps fetched shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFolder {
    /// Made if there is none; several processes may share it.
    pub folder: PathBuf,
    /// Its largest size in bytes.
    pub bytes: u64,
}

impl Default for Access {
    fn default() -> Self {
        Self { io_timeout: Duration::from_secs(60), cache: None }
    }
}

/// For what is never stopped.
pub(crate) static NEVER: AtomicBool = AtomicBool::new(false);

/// What a fetch needs besides the address.
#[derive(Clone, Copy)]
pub(crate) struct Fetching<'a> {
    pub(crate) access: &'a Access,
    /// Ends the fetch with an error when it is set.
    pub(crate) stop: &'a AtomicBool,
}

impl Fetching<'_> {
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// `60 s`, or `0.5 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
