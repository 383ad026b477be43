//! Transfers that run while a rank computes.

use super::GroupError;

/// A transfer that has been started. Ranks start and complete them in the same order.
pub trait Exchange: Send {
    /// Whether it is complete. Some libraries only move data while they are called, so call this often.
    ///
    /// # Errors
    /// If the library fails.
    fn poll(&mut self) -> Result<bool, GroupError>;

    /// Waits for it, and returns what was received.
    ///
    /// # Errors
    /// If the library fails.
    fn wait(self: Box<Self>) -> Result<Vec<u32>, GroupError>;
}

/// A transfer that was complete when it was started: some groups wait for it then.
pub(super) struct Received(pub(super) Vec<u32>);

impl Exchange for Received {
    fn poll(&mut self) -> Result<bool, GroupError> {
        Ok(true)
    }

    fn wait(self: Box<Self>) -> Result<Vec<u32>, GroupError> {
        Ok(self.0)
    }
}

/// What a rank has for all ranks, as one message: the number of words for each, and the words.
pub(super) fn message(parts: &[u32], to: &[usize]) -> Vec<u32> {
    to.iter().map(|words| *words as u32).chain(parts.iter().copied()).collect()
}

/// The part of a [`message`] that is for one of `size` ranks.
pub(super) fn part_for(message: &[u32], rank: usize, size: usize) -> &[u32] {
    let (to, parts) = message.split_at(size);
    let start: usize = to[..rank].iter().map(|words| *words as usize).sum();
    &parts[start..start + to[rank] as usize]
}
