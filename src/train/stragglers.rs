//! The rank that computes longest, for which all others wait.

use crate::group::{Group, GroupError};

/// Steps over which ranks are compared.
const STEPS: u64 = 50;

/// A rank is slow if it computes more than this many times as long as the median.
const FACTOR: f64 = 1.2;
/// The least difference to the median that counts, in seconds per step.
const SECONDS: f64 = 5e-3;

/// The slowest rank and the median, of the times that ranks computed or waited for data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    /// The rank with the longest time.
    pub(super) slowest: usize,
    /// Its time.
    pub(super) longest: f64,
    /// The median; of an even number of ranks, the lower of the two middle times.
    pub(super) median: f64,
}

impl Spread {
    /// `times`: of each rank. `None` if there is only one.
    pub(super) fn of(times: &[f64]) -> Option<Self> {
        let mut ranks: Vec<usize> = (0..times.len()).collect();
        ranks.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
        let slowest = *ranks.last().filter(|_| times.len() > 1)?;
        Some(Self { slowest, longest: times[slowest], median: times[ranks[(ranks.len() - 1) / 2]] })
    }
}

/// Warns about ranks that compute longer than others.
pub(super) struct Stragglers {
    /// On rank 0, what a user may call each rank.
    names: Vec<String>,
    /// Whether the first steps are over, in which kernels are loaded and connections are made.
    is_warm: bool,
    /// Steps since ranks were last compared.
    steps: u64,
    /// Seconds that each rank computed in them.
    busy: Vec<f64>,
}

impl Stragglers {
    /// All ranks must call this.
    ///
    /// # Errors
    /// If the group fails.
    pub(super) fn new(group: &dyn Group) -> Result<Self, GroupError> {
        Ok(Self { names: group.names()?, is_warm: false, steps: 0, busy: vec![0.0; group.size()] })
    }

    /// Takes note of `steps` steps, and of the seconds that each rank computed in them. On rank 0, returns a warning if
    /// a rank is slow.
    pub(super) fn end(&mut self, steps: u64, busy: &[f64]) -> Option<String> {
        if !std::mem::replace(&mut self.is_warm, true) {
            return None;
        }
        self.steps += steps;
        self.busy.iter_mut().zip(busy).for_each(|(sum, busy)| *sum += busy);
        if self.steps < STEPS {
            return None;
        }
        let steps = std::mem::take(&mut self.steps);
        let mut per_step = std::mem::replace(&mut self.busy, vec![0.0; busy.len()]);
        per_step.iter_mut().for_each(|seconds| *seconds /= steps as f64);
        let Spread { slowest, longest, median } = Spread::of(&per_step)?;
        let is_slow = |seconds: &&f64| **seconds > (FACTOR * median).max(median + SECONDS);
        let more = match per_step.iter().filter(is_slow).count() {
            0 => return None,
            1 => String::new(),
            slow => format!(", and {} more are slow", slow - 1),
        };
        Some(format!(
            "warning: {} computes {:.1} times as long as the median of {} ranks over {steps} steps: {:.0} instead of \
             {:.0} ms a step{more}; all ranks wait for the slowest: look on its machine for other programs, fewer \
             cores or lower clocks",
            self.names.get(slowest)?,
            longest / median,
            per_step.len(),
            1e3 * longest,
            1e3 * median,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stragglers(ranks: usize) -> Stragglers {
        let names = (0..ranks).map(|rank| format!("rank {rank} (node{}, process 4711)", rank / 4)).collect();
        Stragglers { names, is_warm: true, steps: 0, busy: vec![0.0; ranks] }
    }

    #[test]
    fn the_slowest_rank_is_compared_with_the_median() {
        let spread = |times: &[f64]| Spread::of(times).map(|found| (found.slowest, found.longest, found.median));
        assert_eq!(spread(&[1.0]), None);
        assert_eq!(spread(&[3.0, 1.0]), Some((0, 3.0, 1.0)));
        assert_eq!(spread(&[2.0, 4.0, 3.0]), Some((1, 4.0, 3.0)));
        assert_eq!(spread(&[2.0, 4.0, 5.0, 3.0]), Some((2, 5.0, 3.0)));
    }

    #[test]
    fn a_slow_rank_is_named_once_in_fifty_steps() {
        let mut times = [1.0; 8];
        times[5] = 1.4;
        let mut stragglers = stragglers(8);
        // Ten steps each.
        let said: Vec<_> = (0..10).map(|_| stragglers.end(10, &times)).collect();
        assert_eq!(said.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, false, false, true].repeat(2));
        assert_eq!(
            said[4].as_deref().unwrap(),
            "warning: rank 5 (node1, process 4711) computes 1.4 times as long as the median of 8 ranks over 50 steps: \
             140 instead of 100 ms a step; all ranks wait for the slowest: look on its machine for other programs, \
             fewer cores or lower clocks"
        );
        assert_eq!(said[9], said[4]);
    }

    #[test]
    fn all_slow_ranks_are_counted() {
        let times = [10.0, 10.0, 13.0, 10.0, 14.0, 12.0, 12.5, 10.0, 10.0];
        let said = stragglers(9).end(100, &times).unwrap();
        assert!(said.starts_with("warning: rank 4 (node1, process 4711) computes 1.4 times"), "{said}");
        assert!(said.contains("over 100 steps: 140 instead of 100 ms a step, and 2 more are slow; all"), "{said}");
    }

    #[test]
    fn what_is_short_or_brief_or_at_the_start_is_not_a_warning() {
        // A fifth longer, and no more.
        assert_eq!(stragglers(3).end(50, &[5.0, 6.0, 5.0]), None);
        // Twice as long, but by 4 ms.
        assert_eq!(stragglers(3).end(50, &[0.2, 0.4, 0.2]), None);
        // Long in five steps of fifty.
        let mut brief = stragglers(2);
        assert_eq!(brief.end(5, &[0.5, 1.0]).or_else(|| brief.end(45, &[4.5, 4.5])), None);
        let mut cold = Stragglers { is_warm: false, ..stragglers(2) };
        assert_eq!(cold.end(50, &[1.0, 60.0]), None);
        assert_eq!(cold.end(50, &[1.0, 1.0]), None);
        assert_eq!(stragglers(1).end(50, &[9.0]), None);
    }

    #[test]
    fn ranks_are_named_by_machine_and_process() {
        let stragglers = Stragglers::new(&crate::group::Alone).unwrap();
        let named = format!(", process {})", std::process::id());
        assert!(stragglers.names[0].starts_with("rank 0 (") && stragglers.names[0].ends_with(&named));
    }
}
