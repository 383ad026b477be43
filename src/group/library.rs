//! Libraries that are opened at run time.

use std::path::PathBuf;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Opens the first of `candidates` that is there. The error says why each failed.
pub(super) fn open_first(candidates: Vec<PathBuf>) -> Result<(Library, PathBuf), String> {
    let mut tried = Vec::new();
    for path in candidates {
        // SAFETY: loading a library runs its initialisers, as linking to it would.
        match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
            Ok(library) => return Ok((library, path)),
            Err(error) => tried.push(cause(&error)),
        }
    }
    Err(tried.join("; "))
}

/// What the dynamic loader reports; `libloading` hides it in the source of its error.
pub(super) fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
