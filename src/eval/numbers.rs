//! Numbers for distinct things.

use std::collections::HashMap;
use std::hash::Hash;

/// Numbers distinct keys from 0, in order of first appearance.
pub(super) struct Numbers<K>(HashMap<K, usize>);

impl<K: Hash + Eq> Numbers<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// The number of `key`, and whether it is new.
    pub(super) fn of(&mut self, key: K) -> (usize, bool) {
        let next = self.0.len();
        let number = *self.0.entry(key).or_insert(next);
        (number, number == next)
    }
}
