//! What a loader makes.

use std::time::Duration;

use bytes::BytesMut;

use super::order::Position;
use super::prepare::{Item, Origin};

/// One training batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// RGB of the visible patches, in the order of `ids_keep`: `[batch, kept, patch, patch, 3]`. The rows of a stream
    /// follow one another.
    pub images: BytesMut,
    /// `[batch, context]`.
    pub tokens: Vec<i32>,
    /// Visible patches in ascending order, `[batch, kept]`.
    pub ids_keep: Vec<u32>,
    /// Numbers that identify the samples in the data set, `[batch]`.
    pub samples: Vec<u64>,
    /// What they were made from, `[batch]`.
    pub origins: Vec<Origin>,
    /// The position after this batch.
    pub next: Position,
    /// How long [`Loader::next_batch`](super::Loader::next_batch) waited for this batch.
    pub waited: Duration,
}

/// The elements of one of `parts` equal parts.
pub(crate) fn part_of<T>(all: &[T], part: usize, parts: usize) -> &[T] {
    let each = all.len() / parts;
    &all[part * each..(part + 1) * each]
}

impl Batch {
    /// Adds a sample, whose pixels are in `row`, the next row of this batch. The item gets the origin of an earlier
    /// batch in exchange, whose memory it can use.
    pub(super) fn push(&mut self, sample: u64, row: BytesMut, item: &mut Item) {
        debug_assert!(self.images.is_empty() || self.images.as_ptr_range().end == row.as_ptr(), "rows are in order");
        self.images.unsplit(row);
        self.tokens.extend_from_slice(&item.tokens);
        self.ids_keep.extend_from_slice(&item.ids_keep);
        match self.origins.get_mut(self.samples.len()) {
            Some(origin) => std::mem::swap(origin, &mut item.origin),
            None => self.origins.push(std::mem::take(&mut item.origin)),
        }
        self.samples.push(sample);
    }

    /// The inputs of one of `parts` equal parts of the batch, such as those of a rank; `parts` divides the batch.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn part(&self, part: usize, parts: usize) -> Self {
        Self {
            images: part_of(&self.images, part, parts).into(),
            tokens: part_of(&self.tokens, part, parts).to_vec(),
            ids_keep: part_of(&self.ids_keep, part, parts).to_vec(),
            ..Self::default()
        }
    }
}
