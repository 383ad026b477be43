//! The rows of a matrix that are nearest to queries.

use rayon::prelude::*;

use crate::simd::{dot, dots, wide};

/// A row that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match<T> {
    /// Its cosine to the query, in `[-1, 1]`.
    pub score: f32,
    /// What it belongs to.
    pub of: T,
}

/// For each query the best of any number of rows, which are added a few at a time.
///
/// Equal rows keep their order. Rows without a direction (zeros, NaN, infinity) are never found, but counted.
#[derive(Clone, Debug)]
pub struct Best<T> {
    /// Unit vectors, `[queries, width]`.
    queries: Vec<f32>,
    width: usize,
    top: usize,
    /// Best first.
    found: Vec<Vec<Match<T>>>,
    without_direction: u64,
}

impl<T: Send> Best<T> {
    /// Keeps the best `top` rows for each query, `[queries, width]`.
    pub fn new(mut queries: Vec<f32>, width: usize, top: usize) -> Self {
        for query in queries.chunks_exact_mut(width) {
            let length = dot(query, query).sqrt();
            query.iter_mut().for_each(|value| *value /= length);
        }
        let found = queries.chunks_exact(width).map(|_| Vec::new()).collect();
        Self { queries, width, top, found, without_direction: 0 }
    }

    /// Rows so far that have no direction.
    pub fn without_direction(&self) -> u64 {
        self.without_direction
    }

    /// The first query without a direction, which finds nothing.
    pub fn bad_query(&self) -> Option<usize> {
        self.queries.chunks_exact(self.width).position(|query| !query.iter().all(|value| value.is_finite()))
    }

    /// Adds rows, `[rows, width]`, of any length; `of(row)` is called for those that are among the best so far.
    pub fn add(&mut self, rows: &[f32], of: impl Fn(usize) -> T + Sync) {
        let (width, top) = (self.width, self.top);
        let mut lengths = vec![0.0; rows.len() / width];
        wide(
            #[inline(always)]
            || {
                for (length, row) in lengths.iter_mut().zip(rows.chunks_exact(width)) {
                    *length = dot(row, row).sqrt();
                }
            },
        );
        let without = lengths.iter().filter(|length| !(length.is_finite() && **length > 0.0)).count();
        self.without_direction += without as u64;
        self.queries.par_chunks_exact(width).zip(&mut self.found).for_each(|(query, found)| {
            let products = dots(query, rows);
            for (row, (product, length)) in products.iter().zip(&lengths).enumerate() {
                let score = product / length;
                let is_full = found.len() == top;
                // Those of infinite length have a score of 0 or none.
                if !score.is_finite()
                    || length.is_infinite()
                    || is_full && found.last().is_none_or(|last| score <= last.score)
                {
                    continue;
                }
                let at = found.partition_point(|other| other.score >= score);
                if is_full {
                    found.pop();
                }
                found.insert(at, Match { score, of: of(row) });
            }
        });
    }

    /// For each query its best rows, best first.
    pub fn finish(self) -> Vec<Vec<Match<T>>> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, Random};

    #[test]
    fn the_best_rows_are_those_of_a_full_sort() {
        let mut random = Random::new(7, Purpose::Init, 0, 0);
        let mut values = |count: usize| -> Vec<f32> { (0..count).map(|_| random.range(-0.5, 0.5)).collect() };
        let (width, queries, mut rows) = (5, values(3 * 5), values(101 * 5));
        // Equal rows, one without a direction, and one that is longer than the others.
        rows.copy_within(0..5, 50);
        rows[20..25].fill(0.0);
        rows[30..35].iter_mut().for_each(|value| *value *= 1e3);
        let mut best = Best::new(queries.clone(), width, 7);
        for rows_of in [0..1, 1..51, 51..101] {
            best.add(&rows[rows_of.start * 5..rows_of.end * 5], |row| rows_of.start + row);
        }
        assert_eq!((best.without_direction(), best.bad_query()), (1, None));
        best.add(&[f32::NAN, 0.0, 0.0, 0.0, 0.0, 1e30, 1e30, 0.0, 0.0, 0.0], |row| row);
        assert_eq!(best.without_direction(), 3);
        let found = best.finish();
        for (query, found) in queries.chunks(width).zip(found) {
            let cosine = |row: &[f32]| {
                let sum = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                sum(query, row) / (sum(query, query) * sum(row, row)).sqrt()
            };
            let mut all: Vec<(usize, f64)> = rows.chunks(width).map(cosine).enumerate().collect();
            all.retain(|(_, score)| !score.is_nan());
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (found, (row, score)) in found.iter().zip(&all) {
                assert!(found.of == *row && (f64::from(found.score) - score).abs() < 1e-5, "{found:?} {row} {score}");
            }
            assert_eq!(found.len(), 7);
        }
        assert_eq!(Best::<()>::new(vec![1.0, 0.0, f32::NAN, 0.0, 0.0, 0.0], 2, 3).bad_query(), Some(1));
        assert_eq!(Best::<()>::new(vec![1.0, 0.0], 2, 3).finish(), [vec![]]);
    }
}
