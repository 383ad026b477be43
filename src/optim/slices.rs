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
    /// Elements of the first bucket of a large arena, at least (12.5 MB).
    const FIRST: usize = 12_500_000 / size_of::<f32>();

    /// The slices of an arena of length `len` for as many ranks.
    ///
    /// The backward pass ends with the start of the arena, so nothing hides the exchange of the first bucket, and the
    /// next forward pass begins with its weights, so it is small. Later ones grow, to 25 MB on fewer than 16 ranks and
    /// to 50 MB from 16 on, since each exchange has a latency that rises with the number of ranks. A small arena has
    /// five or six buckets.
    pub fn new(len: usize, ranks: usize) -> Self {
        let largest = Self::FIRST * if ranks < 16 { 2 } else { 4 };
        Self::in_buckets(len, ranks, [Self::FIRST.min(len / 16), largest.min(len / 4)])
    }

    /// As [`Self::new`], with `first` elements in the first bucket and twice as many in each later one, but at most
    /// `largest`, all rounded up to whole blocks for each rank. The last one has what is left. A single rank has a
    /// single bucket.
    pub fn in_buckets(len: usize, ranks: usize, [first, largest]: [usize; 2]) -> Self {
        // Whole blocks for each rank.
        let rounded = |elements: usize| elements.div_ceil(ranks * NORM_BLOCK).max(1).saturating_mul(ranks * NORM_BLOCK);
        let (mut buckets, mut start, mut elements) = (Vec::new(), 0, if ranks == 1 { len } else { first });
        while start < len {
            let end = start.saturating_add(rounded(elements)).min(len);
            buckets.push(start..end);
            (start, elements) = (end, elements.saturating_mul(2).min(largest.max(elements)));
        }
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
            // An empty slice may lie within a block of another rank.
            let own = self.own(rank).into_iter().filter(|range| !range.is_empty());
            let blocks = own.flat_map(|range| range.start / NORM_BLOCK..range.end.div_ceil(NORM_BLOCK));
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
            (99 * NORM_BLOCK, 5, 1 << 40),
        ] {
            let slices = Slices::in_buckets(len, ranks, [elements, 4 * elements]);
            let mut covered: Vec<_> =
                (0..ranks).flat_map(|rank| slices.own(rank)).filter(|own| !own.is_empty()).collect();
            covered.sort_by_key(|range| range.start);
            assert_eq!(covered.first().map(|range| range.start), Some(0));
            assert_eq!(covered.last().map(|range| range.end), Some(len));
            assert!(covered.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(covered.iter().all(|range| range.start % NORM_BLOCK == 0));
            let lens: Vec<usize> = slices.buckets().iter().map(Range::len).collect();
            let (last, whole) = lens.split_last().unwrap();
            assert!(whole.windows(2).all(|pair| pair[0] <= pair[1]) && whole.iter().all(|len| *len >= elements));
            assert!(*last <= (4 * elements).next_multiple_of(ranks * NORM_BLOCK), "{lens:?}");
            assert!((0..ranks).all(|rank| slices.own_len(rank) <= slices.own_len(0)));
            // Each block of the norm has a place of its own, within its rank's.
            let identity = || (0..len.div_ceil(NORM_BLOCK) as i32).collect();
            let mut order = slices.norm_order().unwrap_or_else(identity);
            for (block, place) in order.iter().enumerate() {
                let own = slices.own(*place as usize / slices.norm_blocks());
                assert!(own.iter().any(|own| own.contains(&(block * NORM_BLOCK))), "{block} of {len} by {ranks}");
            }
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

    /// In megabytes; the last one is what is left.
    #[test]
    fn buckets_grow_with_the_number_of_ranks() {
        let sizes = |ranks| -> Vec<usize> {
            let slices = Slices::new(141_000_000, ranks);
            slices.buckets().iter().map(|bucket| bucket.len() * 4 / 1_000_000).collect()
        };
        assert_eq!((sizes(2)[..4].to_vec(), sizes(2).len()), (vec![12, 25, 25, 25], 24));
        assert_eq!(sizes(16)[..4], [12, 25, 50, 50]);
        assert_eq!(sizes(256)[..4], [16, 33, 50, 50]);
    }
}
