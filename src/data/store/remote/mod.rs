//! Shards on web servers and in object stores, fetched whole when they are opened.
//!
//! | file | what it does |
//! |---|---|
//! | `address` | parses `s3://bucket/key` and similar addresses |
//! | `place` | one object at its server: what it is, and ranges of it |
//! | `fetch` | an object in ranges, each with its own attempts |
//! | `cache` | a folder that keeps what was fetched |
//! | `cloud` | clients of object stores: credentials, lists |
//! | `profile` | the files of AWS's command line |
//! | `failure` | why a request failed, in a line |
//!
//! Each thread that opens a shard runs its own fetch and writes what arrives; a thread of the network alone drives the
//! connections, so that neither disk nor decoding keeps them waiting.

mod address;
mod cache;
mod cloud;
mod failure;
mod fetch;
mod place;
mod profile;

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle};

pub(super) use self::address::Address;
pub(super) use self::cache::Cache;
#[cfg(test)]
pub(crate) use self::fetch::{ATTEMPTS, RANGE};
pub(super) use self::fetch::{describe, fetch, list, small};
pub(super) use self::place::Version;

/// What drives the connections of the process.
fn network() -> io::Result<&'static Handle> {
    static NETWORK: OnceLock<Result<Handle, String>> = OnceLock::new();
    let start = || -> io::Result<Handle> {
        // An error only means that there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let drive = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("network".to_owned()).spawn(drive)?;
        Ok(handle)
    };
    let started = NETWORK.get_or_init(|| start().map_err(|error| format!("cannot start the network: {error}")));
    started.as_ref().map_err(|problem| io::Error::other(problem.clone()))
}
