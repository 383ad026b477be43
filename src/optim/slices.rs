//! What each of several ranks updates.

use std::ops::Range;

use crate::group::block_of;
use crate::ops::adamw::NORM_BLOCK;

/// The parts of the arena that each rank updates. The arena is cut into buckets, each of which is exchanged as soon
/// as the backward pass has its gradients; of each bucket, ranks have equal slices, of which the last ones may be
/// shorter, or empty. All cuts are at multiples of [`NORM_BLOCK`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slices {
    len: usize,
    ranks: usize,
    buckets: Vec<Range<usize>>,
}

impl Slices {
    /// Elements of a bucket, at least (25 MB): enough to use the bandwidth of a network.
    const BUCKET: usize = 25_000_000 / size_of::<f32>();

    /// The slices of an arena of length `len` for as many ranks. A small arena has about four buckets.
    pub fn new(len: usize, ranks: usize) -> Self {
        Self::in_buckets(len, ranks, Self::BUCKET.min(len / 4))
    }

    /// As [`Self::new`], with buckets of at least `elements` elements. A single rank has a single bucket.
    pub fn in_buckets(len: usize, ranks: usize, elements: usize) -> Self {
        let blocks = len.div_ceil(NORM_BLOCK);
        let each = match ranks {
            1 => blocks.max(1),
            _ => ranks * elements.div_ceil(ranks * NORM_BLOCK).max(1),
        };
        // The backward pass ends with the start of the arena, so nothing hides the exchange of the first bucket: it
        // is the shorter one.
        let ends = (0..blocks.div_ceil(each)).rev().map(|later| (blocks - later * each) * NORM_BLOCK);
        let mut start = 0;
        let buckets = ends.map(|end| std::mem::replace(&mut start, end)..end.min(len)).collect();
        Self { len, ranks, buckets }
    }

    /// The arena's length.
    pub fn arena_len(&self) -> usize {
        self.len
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// The buckets, in the order of the arena.
    pub fn buckets(&self) -> &[Range<usize>] {
        &self.buckets
    }

    /// Elements of a whole slice of a bucket.
    pub fn each(&self, bucket: usize) -> usize {
        self.buckets[bucket].len().div_ceil(self.ranks).next_multiple_of(NORM_BLOCK)
    }

    /// Elements of the largest slice of any bucket.
    pub fn largest(&self) -> usize {
        (0..self.buckets.len()).map(|bucket| self.each(bucket)).max().unwrap_or(0)
    }

    /// The slice of a bucket that `rank` updates.
    pub fn of(&self, bucket: usize, rank: usize) -> Range<usize> {
        let Range { start, end } = self.buckets[bucket];
        let slice = block_of(rank, self.each(bucket), end - start);
        start + slice.start..start + slice.end
    }

    /// The slices of all buckets that `rank` updates.
    pub fn own(&self, rank: usize) -> Vec<Range<usize>> {
        (0..self.buckets.len()).map(|bucket| self.of(bucket, rank)).collect()
    }

    /// Elements that `rank` updates.
    pub fn own_len(&self, rank: usize) -> usize {
        self.own(rank).iter().map(Range::len).sum()
    }

    /// Blocks of the norm that rank 0 computes; other ranks compute as many or fewer.
    pub fn norm_blocks(&self) -> usize {
        self.own(0).iter().map(|range| range.len().div_ceil(NORM_BLOCK)).sum()
    }

    /// Where the sum of each block of the norm is, in the order of the arena, if the blocks of rank `r` begin at
    /// `r * norm_blocks`; `None` if that is the order of the arena.
    pub(super) fn norm_order(&self) -> Option<Vec<i32>> {
        let mut order = vec![0i32; self.len.div_ceil(NORM_BLOCK)];
        for rank in 0..self.ranks {
            let own = self.own(rank);
            let blocks = own.into_iter().flat_map(|range| range.start / NORM_BLOCK..range.end.div_ceil(NORM_BLOCK));
            for (place, block) in (rank * self.norm_blocks()..).zip(blocks) {
                order[block] = i32::try_from(place).unwrap_or(i32::MAX);
            }
        }
        let is_arena = order.iter().zip(0..).all(|(place, block)| *place == block);
        (!is_arena).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_the_arena_once() {
        for (len, ranks, elements) in [
            (64, 1, 1),
            (64, 3, 1),
            (5 * NORM_BLOCK + 128, 2, 1),
            (100 * NORM_BLOCK, 4, 9 * NORM_BLOCK),
            (99 * NORM_BLOCK - 64, 3, 20 * NORM_BLOCK),
            (99 * NORM_BLOCK, 5, usize::MAX / 8),
        ] {
            let slices = Slices::in_buckets(len, ranks, elements);
            let mut covered: Vec<_> =
                (0..ranks).flat_map(|rank| slices.own(rank)).filter(|own| !own.is_empty()).collect();
            covered.sort_by_key(|range| range.start);
            assert_eq!(covered.first().map(|range| range.start), Some(0));
            assert_eq!(covered.last().map(|range| range.end), Some(len));
            assert!(covered.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(covered.iter().all(|range| range.start % NORM_BLOCK == 0));
            let lens: Vec<usize> = slices.buckets().iter().map(Range::len).collect();
            assert!(lens[1..].iter().all(|len| *len >= lens[0] || *len >= elements.min(usize::MAX / 16)), "{lens:?}");
            assert!((0..ranks).all(|rank| slices.own_len(rank) <= slices.own_len(0)));
            // Each block of the norm has a place of its own, within its rank's.
            let identity = || (0..len.div_ceil(NORM_BLOCK) as i32).collect();
            let mut order = slices.norm_order().unwrap_or_else(identity);
            assert!(order.iter().all(|place| (*place as usize) < ranks * slices.norm_blocks()));
            order.sort_unstable();
            order.dedup();
            assert_eq!(order.len(), len.div_ceil(NORM_BLOCK));
        }
    }

    #[test]
    fn one_rank_has_one_bucket_in_the_order_of_the_arena() {
        let slices = Slices::new(1 << 26, 1);
        assert_eq!((slices.buckets().len(), slices.of(0, 0), slices.norm_order()), (1, 0..1 << 26, None));
        assert!(Slices::new(1 << 26, 4).buckets().len() > 8);
    }
}
