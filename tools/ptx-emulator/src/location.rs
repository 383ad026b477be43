//! Locations in the CUDA source.

use std::sync::Arc;

/// A location in the CUDA source, from `.loc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// File name.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column.
    pub column: u32,
    /// The call that the code was inlined at.
    pub inlined_at: Option<Arc<Location>>,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match &self.inlined_at {
            Some(at) => write!(f, " (inlined at {at})"),
            None => Ok(()),
        }
    }
}
