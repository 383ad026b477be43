//! The memory of batches, which the workers write to: a row for each sample.

use bytes::BytesMut;

/// Hands out the rows of the batches to come, in order. Rows that are put together in that order are one buffer again,
/// without a copy. Each batch that has a row in flight takes the memory of a whole one.
pub(super) struct Rows {
    /// Bytes of a row and of a batch.
    row: usize,
    batch: usize,
    /// The rows of the newest batch that are not handed out yet.
    rest: BytesMut,
    /// Buffers of batches that were used.
    buffers: Vec<BytesMut>,
}

impl Rows {
    /// For batches of `count` rows of `row` bytes.
    pub(super) fn new(row: usize, count: usize) -> Self {
        Self { row, batch: row * count, rest: BytesMut::new(), buffers: Vec::new() }
    }

    /// The next row. What it contains is left from an earlier batch.
    pub(super) fn next(&mut self) -> BytesMut {
        if self.rest.is_empty() {
            self.rest = self.buffers.pop().unwrap_or_else(|| BytesMut::zeroed(self.batch));
        }
        self.rest.split_to(self.row)
    }

    /// Takes back the buffer of a batch.
    pub(super) fn recycle(&mut self, buffer: BytesMut) {
        if buffer.len() == self.batch {
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_one_buffer_that_is_used_again() {
        let mut rows = Rows::new(3, 4);
        let mut batch = |first: u8, last: Option<BytesMut>| {
            last.into_iter().for_each(|last| rows.recycle(last));
            let rows: Vec<_> = (first..first + 4)
                .map(|value| {
                    let mut row = rows.next();
                    row.fill(value);
                    row
                })
                .collect();
            let at = rows[0].as_ptr();
            let mut whole = BytesMut::new();
            rows.into_iter().for_each(|row| whole.unsplit(row));
            assert_eq!(&whole[..], (first..first + 4).flat_map(|value| [value; 3]).collect::<Vec<_>>());
            assert_eq!((whole.as_ptr(), whole.capacity()), (at, 12));
            whole
        };
        let first = batch(1, None);
        let second = batch(5, None);
        let at = first.as_ptr();
        let third = batch(9, Some(first));
        assert_eq!(third.as_ptr(), at);
        // One of another size is not used.
        assert_ne!(batch(2, Some(BytesMut::zeroed(5))).as_ptr(), second.as_ptr());
    }
}
