//! Ranks of right answers among candidates sorted by similarity.

use rayon::prelude::*;

use crate::simd::dots;

/// For each query (`[queries, width]`), how many wrong candidates (`[candidates, width]`) are ahead of the first right
/// one: 0 if a right one is first. `own(query, candidate)` says which candidates are right.
///
/// Candidates with equal similarity are sorted by index, as in NumPy's `argmax`.
pub(super) fn ranks(
    queries: &[f32],
    candidates: &[f32],
    width: usize,
    own: impl Fn(usize, usize) -> bool + Sync,
) -> Vec<usize> {
    let rank = |(query, row): (usize, &[f32])| {
        let similarity = dots(row, candidates);
        let (mut first, mut best) = (usize::MAX, f32::NEG_INFINITY);
        for at in (0..similarity.len()).filter(|&at| own(query, at)) {
            if similarity[at] > best {
                (first, best) = (at, similarity[at]);
            }
        }
        // A NaN counts as ahead, so that a broken model gets no answer right.
        let behind = |at: usize| similarity[at] < best || (similarity[at] == best && at > first);
        (0..similarity.len()).filter(|&at| !own(query, at) && !behind(at)).count()
    };
    queries.par_chunks_exact(width).enumerate().map(rank).collect()
}

/// The share of ranks below `k`.
pub(super) fn within(ranks: &[usize], k: usize) -> f64 {
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
        // The better of two right answers counts, and the other one is not ahead of it.
        assert_eq!(ranks(&[0.0, 1.0], &candidates, 2, |_, candidate| candidate != 1), [1]);
        assert_eq!((within(&[0, 1, 4, 5], 1), within(&[0, 1, 4, 5], 5)), (0.25, 0.75));
    }

    /// `numpy.argmax([1, 1, 0, 1])` is 0.
    #[test]
    fn of_equal_candidates_the_first_is_ahead() {
        let candidates = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0];
        let rank = |own: &[usize]| ranks(&[1.0, 0.0], &candidates, 2, |_, candidate| own.contains(&candidate))[0];
        assert_eq!([rank(&[0]), rank(&[1]), rank(&[3]), rank(&[2]), rank(&[1, 3]), rank(&[2, 3])], [0, 1, 2, 3, 1, 2]);
        // All equal: right as often as by chance.
        assert_eq!(ranks(&[0.0; 6], &[1.0; 6], 2, |query, candidate| candidate == query), [0, 1, 2]);
    }

    #[test]
    fn with_nan_no_answer_is_right() {
        let candidates = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8];
        assert_eq!(ranks(&[f32::NAN, 0.0], &candidates, 2, |_, candidate| candidate == 0), [2]);
        let broken = [f32::NAN, 0.0, 0.5, 0.5];
        assert_eq!(ranks(&[1.0, 0.0], &broken, 2, |_, candidate| candidate == 0), [1]);
        assert_eq!(ranks(&[1.0, 0.0], &broken, 2, |_, candidate| candidate == 1), [1]);
    }
}
