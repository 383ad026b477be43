//! The results of `cargo bench --bench ops`, and the comparison of two of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Ceilings;
use crate::autograd::Work;

/// One op in one direction at one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRow {
    /// `attention b16 0.5 forward`
    pub name: String,
    /// `8x99x2304`
    pub shape: String,
    /// Median over the repetitions.
    pub seconds: f64,
    /// Rate of the bytes that must be read or written at least once.
    pub gigabytes_per_second: f64,
    /// Rate of matrix products.
    pub teraflops: f64,
    /// What sets the limit: `compute` or `memory`.
    pub bound: String,
    /// The minimum time that the ceilings allow, over the time taken.
    pub of_limit: f64,
}

impl BenchRow {
    /// A row from the `work` of a call and the `seconds` it took.
    pub fn new(name: String, shape: String, work: Work, seconds: f64, ceilings: &Ceilings) -> Self {
        let (limit, bound) = ceilings.limit(work);
        Self {
            name,
            shape,
            seconds,
            gigabytes_per_second: work.bytes as f64 / seconds / 1e9,
            teraflops: work.flops as f64 / seconds / 1e12,
            bound: bound.to_owned(),
            of_limit: limit / seconds,
        }
    }
}

/// One run of the op benches, as it is saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Benches {
    /// As the device describes itself.
    pub device: String,
    /// Samples in a batch, by model.
    pub batch: BTreeMap<String, usize>,
    /// The repository's commit, with `-dirty` if files were changed; `None` outside a repository.
    pub commit: Option<String>,
    /// `2026-01-31`, UTC
    pub date: String,
    /// Whether the inputs were in the caches.
    pub inputs: String,
    /// What the limits are computed from.
    pub ceilings: Ceilings,
    /// In the order in which they were measured.
    pub rows: Vec<BenchRow>,
    /// What was not run, and why.
    pub left_out: Vec<(String, String)>,
}

/// The comparison of two runs, over the rows that have the same name and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Rows with a counterpart.
    pub compared: usize,
    /// Geometric mean of the time before over the time after.
    pub times_faster: f64,
    /// Rows that take longer by more than [`Verdict::THRESHOLD`], and by what share; the worst first.
    pub slower: Vec<(String, f64)>,
}

impl Verdict {
    /// Smaller differences count as noise.
    pub const THRESHOLD: f64 = 0.05;
}

impl Benches {
    /// Why `before` is not comparable, if it is not.
    pub fn incomparable(&self, before: &Self) -> Option<String> {
        if self.device != before.device {
            return Some(format!("one was measured on `{}`, the other on `{}`", before.device, self.device));
        }
        let batch = |of: &Self| serde_json::json!(of.batch).to_string();
        (self.batch != before.batch).then(|| format!("their batches differ: {} and {}", batch(before), batch(self)))
    }

    /// The row with the name and shape of `row`.
    pub fn find(&self, row: &BenchRow) -> Option<&BenchRow> {
        self.rows.iter().find(|found| found.name == row.name && found.shape == row.shape)
    }

    /// `None` if no row has a counterpart.
    pub fn verdict(&self, before: &Self) -> Option<Verdict> {
        let pairs: Vec<(&BenchRow, f64)> =
            self.rows.iter().filter_map(|row| Some((row, row.seconds / before.find(row)?.seconds))).collect();
        if pairs.is_empty() {
            return None;
        }
        let logarithms: f64 = pairs.iter().map(|(_, factor)| factor.ln()).sum();
        let mut slower: Vec<(String, f64)> = (pairs.iter())
            .filter(|(_, factor)| *factor > 1.0 + Verdict::THRESHOLD)
            .map(|(row, factor)| (format!("{} {}", row.name, row.shape), factor - 1.0))
            .collect();
        slower.sort_by(|a, b| b.1.total_cmp(&a.1));
        Some(Verdict { compared: pairs.len(), times_faster: (-logarithms / pairs.len() as f64).exp(), slower })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(times: &[(&str, &str, f64)]) -> Benches {
        let work = Work { flops: 0, bytes: 1000 };
        let row = |&(name, shape, seconds): &(&str, &str, f64)| {
            BenchRow::new(name.to_owned(), shape.to_owned(), work, seconds, &Ceilings::ESTIMATED)
        };
        Benches {
            device: "test".to_owned(),
            batch: BTreeMap::from([("b16".to_owned(), 8)]),
            commit: None,
            date: "2026-01-31".to_owned(),
            inputs: "warm".to_owned(),
            ceilings: Ceilings::ESTIMATED,
            rows: times.iter().map(row).collect(),
            left_out: vec![],
        }
    }

    #[test]
    fn only_rows_of_the_same_name_and_shape_count() {
        let before = sample(&[("a", "8", 1.0), ("b", "8", 1.0), ("c", "8", 1.0), ("d", "8", 1.0), ("gone", "8", 9.0)]);
        let after = sample(&[("new", "8", 9.0), ("a", "8", 1.25), ("b", "8", 0.25), ("c", "9", 9.0), ("d", "8", 1.04)]);
        let verdict = after.verdict(&before).unwrap();
        assert_eq!((verdict.compared, verdict.slower), (3, vec![("a 8".to_owned(), 0.25)]));
        assert!((verdict.times_faster - (1.25f64 * 0.25 * 1.04).powf(-1.0 / 3.0)).abs() < 1e-12);
        assert_eq!(sample(&[]).verdict(&before), None);
    }

    #[test]
    fn the_slowest_comes_first() {
        let before = sample(&[("a", "8", 1.0), ("b", "8", 1.0)]);
        let verdict = sample(&[("a", "8", 1.5), ("b", "8", 2.0)]).verdict(&before).unwrap();
        assert_eq!(verdict.slower, [("b 8".to_owned(), 1.0), ("a 8".to_owned(), 0.5)]);
    }

    #[test]
    fn other_devices_and_batches_are_refused() {
        let (here, mut there) = (sample(&[]), sample(&[]));
        assert_eq!(here.incomparable(&there), None);
        there.batch.insert("b16".to_owned(), 4);
        assert!(here.incomparable(&there).unwrap().contains(r#"{"b16":4} and {"b16":8}"#));
        there.device = "other".to_owned();
        assert!(here.incomparable(&there).unwrap().contains("on `other`, the other on `test`"));
    }
}
