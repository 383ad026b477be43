//! The options that say how shards are fetched.

use std::time::Duration;

use super::{Options, TrainError};
use crate::data::{Access, CacheFolder};
use crate::units::parse_bytes;

/// The default of `--cache-size`.
const CACHE_SIZE: &str = "100GiB";

impl Options {
    /// How shards that are not on disk are fetched.
    ///
    /// # Errors
    /// A time or a size that is invalid, or a size without a folder.
    pub fn access(&self) -> Result<Access, TrainError> {
        let wrong = |option: &str, value: &dyn std::fmt::Display, rule: &str| {
            Err(TrainError::Settings { problem: format!("{option} = {value} is invalid: {rule}") })
        };
        let mut access = Access::default();
        if let Some(given) = self.io_timeout {
            match Duration::try_from_secs_f64(given) {
                // More is a typo.
                Ok(time) if (0.001..=86_400.0).contains(&given) => access.io_timeout = time,
                _ => return wrong("io_timeout", &given, "it must be between 0.001 and 86400 seconds"),
            }
        }
        let size = self.cache_size.as_deref();
        let bytes = match parse_bytes(size.unwrap_or(CACHE_SIZE)) {
            Ok(bytes) => bytes,
            Err(rule) => return wrong("cache_size", &size.unwrap_or_default(), &rule),
        };
        match (&self.cache, size) {
            (Some(folder), _) => access.cache = Some(CacheFolder { folder: folder.clone(), bytes }),
            (None, Some(size)) => return wrong("cache_size", &size, "it applies to cache, and there is none"),
            (None, None) => {}
        }
        Ok(access)
    }
}
