//! Measures the network by timing the group's calls.

use std::time::Instant;

use super::network::{Network, Ring};
use crate::group::{Group, GroupError};

/// Bytes of all ranks together in a call; the last are as many as a bucket's.
const SIZES: [usize; 7] = [1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24, 1 << 25];
/// Calls of each size that count; the first, which may set up connections and touch new memory, does not.
const REPEATS: usize = 5;

/// A call's bytes and seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Bytes that each rank receives from others.
    pub bytes: f64,
    /// The median over some calls of the slowest rank's time.
    pub seconds: f64,
}

/// Times all-gathers and exchanges of several sizes on all ranks of `group`, of which there are several.
///
/// # Errors
/// If the group fails.
pub fn time_calls(group: &dyn Group) -> Result<Vec<Timing>, GroupError> {
    let ranks = group.size();
    let mut timings = Vec::new();
    for words in SIZES.map(|bytes| bytes / ranks.max(1) / 4 + 1) {
        let (mut all, counts) = (vec![1u32; ranks * words], vec![words; ranks]);
        let bytes = (4 * words * ranks.saturating_sub(1)) as f64;
        let seconds = slowest(group, || group.all_gather(&mut all, words))?;
        timings.push(Timing { bytes, seconds });
        let mut parts = all.clone();
        let seconds = slowest(group, || {
            // What was received is sent the next time: memory that is in use already.
            parts = group.start_all_to_all(std::mem::take(&mut parts), &counts, &counts)?.wait()?;
            Ok(())
        })?;
        timings.push(Timing { bytes, seconds });
    }
    Ok(timings)
}

/// The median time of a call on the slowest rank.
fn slowest(group: &dyn Group, mut call: impl FnMut() -> Result<(), GroupError>) -> Result<f64, GroupError> {
    call()?;
    let mut found = Vec::new();
    for _ in 0..REPEATS {
        // Ranks start together.
        group.all(0u32)?;
        let start = Instant::now();
        call()?;
        let own = start.elapsed().as_secs_f64();
        found.push(group.all(own)?.into_iter().fold(0.0, f64::max));
    }
    found.sort_by(f64::total_cmp);
    Ok(found[REPEATS / 2])
}

/// Latency in seconds, and bytes per second. The rate comes from the largest calls and the latency from the smallest;
/// both are medians, so that outliers do not count.
pub fn fit(timings: &[Timing]) -> (f64, f64) {
    let sizes = || timings.iter().map(|timing| timing.bytes);
    let (least, most) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
    let of = |from: f64, to: f64, value: &dyn Fn(&Timing) -> f64| {
        let mut values: Vec<f64> =
            timings.iter().filter(|timing| (from..=to).contains(&timing.bytes)).map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        values.get(middle).map_or(0.0, |upper| (upper + values[(values.len() - 1) / 2]) / 2.0)
    };
    // Sizes within a factor of four of the largest, and of 128 of the smallest. Each pass comes closer by their ratio.
    let (mut latency, mut seconds_a_byte) = (0.0, 0.0);
    for _ in 0..20 {
        seconds_a_byte = of(most / 4.0, most, &|call| (call.seconds - latency).max(call.seconds / 100.0) / call.bytes);
        latency = of(least, 128.0 * least, &|call| (call.seconds - call.bytes * seconds_a_byte).max(0.0));
    }
    (latency, 1.0 / seconds_a_byte)
}

/// The network that fits `timings` of `group`. On several nodes, the calls do not show the rate within a node; it is
/// assumed to be that of all that a rank receives.
pub fn network_of(group: &dyn Group, timings: &[Timing]) -> Network {
    let (ranks, local) = (group.size(), group.place().local_size.max(1));
    let (latency, rate) = fit(timings);
    let elsewhere = ranks.saturating_sub(local) as f64 / ranks.saturating_sub(1).max(1) as f64;
    Network {
        name: format!("measured on {ranks} ranks, {local} a node ({})", group.describe()),
        ranks_per_node: local,
        within: rate,
        between: if elsewhere > 0.0 { rate * elsewhere } else { rate },
        latency: vec![Ring { base: latency, within: 0.0, between: 0.0 }],
        small: None,
        tree: None,
        efficiency: Vec::new(),
        // They show only while a model is trained.
        jitter: 0.0,
        steal: 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Threads;
    use crate::profile::scale::{Call, Size};

    #[test]
    fn a_fit_finds_latency_and_rate() {
        let exact = [1e3, 1e5, 1e7].map(|bytes| Timing { bytes, seconds: 2e-5 + bytes / 3e9 });
        let (latency, rate) = fit(&exact);
        assert!((latency / 2e-5 - 1.0).abs() < 1e-9 && (rate / 3e9 - 1.0).abs() < 1e-9, "{latency}, {rate}");
        // Calls that took three times as long are few.
        let noise = [1.0, 1.0, 3.0, 1.0, 1.0, 3.0];
        let sizes = [1e3, 1e4, 1e5, 1e7, 2e7, 4e7];
        let noisy = std::array::from_fn::<_, 6, _>(|at| Timing {
            bytes: sizes[at],
            seconds: noise[at] * (2e-5 + sizes[at] / 3e9),
        });
        let (latency, rate) = fit(&noisy);
        assert!((latency / 2e-5 - 1.0).abs() < 0.01 && (rate / 3e9 - 1.0).abs() < 0.01, "{latency}, {rate}");
        assert_eq!(fit(&[Timing { bytes: 2.0, seconds: 4.0 }]).1, 0.5, "a single size has no latency of its own");
    }

    #[test]
    fn a_group_is_timed_and_its_network_predicts_the_times() {
        let run = |group: Threads| {
            let timings = time_calls(&group).unwrap();
            (network_of(&group, &timings), timings, group)
        };
        let ranks: Vec<_> = Threads::group(3).into_iter().map(|group| std::thread::spawn(move || run(group))).collect();
        let ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        let (network, timings, _) = &ranks[0];
        assert_eq!(Network::parse(&serde_json::to_string(network).unwrap()).unwrap(), *network);
        assert_eq!((network.ranks_per_node, timings.len()), (3, 2 * SIZES.len()));
        let (latency, rate) = fit(timings);
        let Timing { bytes, .. } = timings[8];
        let predicted = network.one_level(Call::Gather, bytes / 2.0 * 3.0, Size::Large, 3);
        assert!((predicted - latency - bytes / rate).abs() < 1e-9 * predicted, "{predicted}");
        assert!(ranks.iter().all(|rank| rank.1 == *timings), "all ranks know the slowest");
    }
}
