//! Places in the CUDA source.

use std::sync::Arc;

/// A place in the CUDA source, from `.loc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
    /// The call that this code was inlined into.
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
