//! Where the right answer comes in a list by similarity.

use rayon::prelude::*;

use crate::ops::simd::{dot, wide};

/// For each query (`[queries, width]`) how many candidates (`[candidates, width]`) that are not its own come before the
/// first of its own: 0 if its own comes first. `own(query, candidate)` tells which are its own.
///
/// Candidates come by similarity, equal ones in their order, as NumPy's `argmax` has them.
pub fn ranks(
    queries: &[f32],
    candidates: &[f32],
    width: usize,
    own: impl Fn(usize, usize) -> bool + Sync,
) -> Vec<usize> {
    let rank = |(query, row): (usize, &[f32])| {
        let similarity: Vec<f32> =
            wide(|| candidates.chunks_exact(width).map(|candidate| dot(row, candidate)).collect());
        let (mut first, mut best) = (usize::MAX, f32::NEG_INFINITY);
        for at in (0..similarity.len()).filter(|&at| own(query, at)) {
            if similarity[at] > best {
                (first, best) = (at, similarity[at]);
            }
        }
        // A NaN is not behind anything, so that a broken model ranks nothing first.
        let behind = |at: usize| similarity[at] < best || (similarity[at] == best && at > first);
        (0..similarity.len()).filter(|&at| !own(query, at) && !behind(at)).count()
    };
    queries.par_chunks_exact(width).enumerate().map(rank).collect()
}

/// The share of ranks below `k`.
pub fn within(ranks: &[usize], k: usize) -> f64 {
    ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_ahead() {
        let candidates = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        let found = ranks(&[1.0, 0.0, 0.0, 1.0, 0.6, 0.8], &candidates, 2, |query, candidate| candidate == query);
        assert_eq!(found, [0, 0, 0]);
        let found = ranks(&[1.0, 0.0], &candidates, 2, |_, candidate| candidate == 1);
        assert_eq!(found, [2]);
        // The better of two right answers counts, and a right answer is never in its own way.
        assert_eq!(ranks(&[0.0, 1.0], &candidates, 2, |_, candidate| candidate != 1), [1]);
        assert_eq!((within(&[0, 1, 4, 5], 1), within(&[0, 1, 4, 5], 5)), (0.25, 0.75));
    }

    /// `numpy.argmax([1, 1, 0, 1])` is 0.
    #[test]
    fn of_equal_candidates_the_first_comes_first() {
        let candidates = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let rank = |own: &[usize]| ranks(&[1.0, 0.0], &candidates, 2, |_, candidate| own.contains(&candidate))[0];
        assert_eq!([rank(&[0]), rank(&[1]), rank(&[3]), rank(&[2]), rank(&[1, 3]), rank(&[2, 3])], [0, 1, 2, 3, 1, 2]);
        // All alike: as often right as by chance.
        assert_eq!(ranks(&[0.0; 6], &[1.0; 6], 2, |query, candidate| candidate == query), [0, 1, 2]);
    }

    #[test]
    fn what_is_no_number_ranks_nothing_first() {
        let candidates = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        assert_eq!(ranks(&[f32::NAN, 0.0], &candidates, 2, |_, candidate| candidate == 0), [2]);
        let broken = [f32::NAN, 0.0, 0.5, 0.5];
        assert_eq!(ranks(&[1.0, 0.0], &broken, 2, |_, candidate| candidate == 0), [1]);
        assert_eq!(ranks(&[1.0, 0.0], &broken, 2, |_, candidate| candidate == 1), [1]);
    }
}
