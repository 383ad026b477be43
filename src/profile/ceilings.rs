//! What the device can do at most, measured on itself: a large copy (on a CPU a large sum) and large matrix products.
//!
//! Products have two rates. The fastest single product is a limit that nothing exceeds, so all limits are computed from
//! it. The mean over seconds of products back to back is what the device sustains: less on a card that its power
//! limits.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::autograd::{Init, Layout, Parameters, Tape, Work};
use crate::device::{Buffer, DeviceError, Float, ProbeSizes, h100};
use crate::ops::AllOps;
use crate::ops::linear::Weights;
use crate::random::{Purpose, Random};

/// The two ceilings that bind everything.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Rate of a copy, or on a CPU of a sum in place; read and written bytes both count.
    pub bytes_per_second: f64,
    /// Rate of the fastest of many matrix products on random data.
    pub flops_per_second: f64,
    /// Rate of matrix products back to back for five seconds; `None` if it was not measured.
    #[serde(default)]
    pub sustained_flops_per_second: Option<f64>,
    /// Taken from a data sheet, not measured.
    pub assumed: bool,
}

impl Ceilings {
    /// An H100's, for estimates in emulation.
    pub const ESTIMATED: Self = Self {
        bytes_per_second: h100::BANDWIDTH,
        flops_per_second: h100::GEMM,
        sustained_flops_per_second: None,
        assumed: true,
    };

    /// The least seconds for `work`, and what binds it.
    pub fn limit(&self, work: Work) -> (f64, &'static str) {
        let (compute, memory) = (work.flops as f64 / self.flops_per_second, work.bytes as f64 / self.bytes_per_second);
        if compute > memory { (compute, "compute") } else { (memory, "memory") }
    }
}

/// Time for each ceiling. Both rates are the best of it, since the machine may be shared, and slow for a moment.
const FULL: Duration = Duration::from_secs(5);
/// The same, if no sustained rate is needed.
const SHORT: Duration = Duration::from_secs(1);

/// Measures the ceilings, or takes those that were measured on this device before, unless `again` is set.
///
/// # Errors
/// If the device fails.
pub fn measure_ceilings<D: AllOps>(device: &Arc<D>, again: bool) -> Result<Ceilings, DeviceError> {
    ceilings(device, again, FULL)
}

/// FLOP/s of the fastest product: from earlier measurements, or else measured for a second.
///
/// # Errors
/// If the device fails.
pub fn product_ceiling<D: AllOps>(device: &Arc<D>) -> Result<f64, DeviceError> {
    Ok(ceilings(device, false, SHORT)?.flops_per_second)
}

fn ceilings<D: AllOps>(device: &Arc<D>, again: bool, time: Duration) -> Result<Ceilings, DeviceError> {
    let Some(sizes) = device.probe_sizes() else { return Ok(Ceilings::ESTIMATED) };
    let file = cache(&sizes.name);
    let cached = file.as_ref().filter(|_| !again).and_then(|file| std::fs::read(file).ok());
    let cached: Option<Ceilings> = cached.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(cached) = cached.filter(|cached| time < FULL || cached.sustained_flops_per_second.is_some()) {
        return Ok(cached);
    }
    let (memory, product) = (memory(device, &sizes, time)?, product(device, sizes.product_side, time)?);
    let mut ceilings = Ceilings {
        bytes_per_second: memory.best,
        flops_per_second: product.best,
        sustained_flops_per_second: (time >= FULL).then_some(product.mean),
        assumed: false,
    };
    if let Some(cached) = cached {
        ceilings.bytes_per_second = ceilings.bytes_per_second.max(cached.bytes_per_second);
        ceilings.flops_per_second = ceilings.flops_per_second.max(cached.flops_per_second);
    }
    if let (Some(file), Ok(text)) = (file, serde_json::to_vec(&ceilings)) {
        // Without the cache, the next run measures again.
        let _ = file.parent().map(std::fs::create_dir_all).map(|_| std::fs::write(&file, text));
    }
    Ok(ceilings)
}

/// Where measured ceilings are kept: `$XDG_CACHE_HOME/flipk` or `~/.cache/flipk`. Builds that are not fully optimised
/// keep none: theirs would be taken for the machine's.
fn cache(device: &str) -> Option<PathBuf> {
    if env!("FLIPK_OPT_LEVEL") != "3" {
        return None;
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let name: String = device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(folder.join("flipk").join(format!("ceilings-{name}.json")))
}

/// Work per second: of the fastest call, and of all calls together.
struct Rates {
    best: f64,
    mean: f64,
}

/// Calls `body`, which does `work`, back to back for `time`, after some calls to warm up.
fn rates<D: AllOps>(
    device: &D,
    work: f64,
    time: Duration,
    mut body: impl FnMut() -> Result<(), DeviceError>,
) -> Result<Rates, DeviceError> {
    const WARM_UP: usize = 3;
    /// Calls that may be in a GPU's queue.
    const QUEUE: usize = 32;
    let begun = Instant::now();
    for _ in 0..WARM_UP {
        body()?;
        // Without vector instructions a call may take seconds.
        if begun.elapsed() > time {
            break;
        }
    }
    let (mut best, mut total, mut calls) = (f64::INFINITY, 0.0, 0);
    let mut events = VecDeque::from([device.record_event()?]);
    let begun = Instant::now();
    loop {
        let more = calls == 0 || begun.elapsed() < time;
        if more {
            body()?;
            events.push_back(device.record_event()?);
            calls += 1;
        }
        if !more || events.len() > QUEUE {
            let Some(start) = events.pop_front() else { break };
            let Some(end) = events.front() else { break };
            let seconds = device.seconds(&start, end)?;
            (best, total) = (seconds.min(best), total + seconds);
        }
    }
    Ok(Rates { best: work / best, mean: work * f64::from(calls) / total })
}

/// Bytes per second.
fn memory<D: AllOps>(device: &Arc<D>, sizes: &ProbeSizes, time: Duration) -> Result<Rates, DeviceError> {
    let len = sizes.copy_bytes / size_of::<D::Act>();
    let buffer = || Buffer::<D, D::Act>::new(&**device, len, "measuring a copy");
    let (mut from, mut to) = (buffer()?, buffer()?);
    // On a CPU, pages that were never written share their memory.
    device.copy(from.view_mut(), to.view())?;
    let add = sizes.reads_before_writing;
    let moved = (if add { 3.0 } else { 2.0 }) * to.bytes() as f64;
    rates(&**device, moved, time, || match add {
        true => device.add_into(to.view_mut(), from.view()),
        false => device.copy(to.view_mut(), from.view()),
    })
}

/// FLOP/s.
fn product<D: AllOps>(device: &Arc<D>, size: usize, time: Duration) -> Result<Rates, DeviceError> {
    let mut layout = Layout::default();
    let weight = layout.add("w", &[size, size], Init::Normal { std: 1.0 }, false);
    let layout = Arc::new(layout);
    let params = Parameters::new(&**device, layout.clone(), &layout.initial_values(0))?;
    let mut tape = Tape::<D>::new(layout);
    let x = tape.input_var::<D::Act>(&[size, size]);
    tape.retain(x.slot());
    tape.linear(x, Weights { weight, bias: None }, None);
    let mut program = tape.inference(device.clone())?;
    let mut random = Random::new(0, Purpose::Test, 0, 0);
    let values: Vec<D::Act> = (0..size * size).map(|_| D::Act::from_f32(random.normal())).collect();
    program.write(x.slot(), &values)?;
    rates(&**device, 2.0 * (size as f64).powi(3), time, || program.forward(&params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;

    #[test]
    fn the_fastest_call_is_at_least_as_fast_as_the_mean() {
        let mut calls = 0u64;
        let rates = rates(&Cpu::default(), 1.0, Duration::from_millis(60), || {
            // Every fourth call is fast.
            std::thread::sleep(Duration::from_millis(if calls % 4 == 3 { 1 } else { 4 }));
            calls += 1;
            Ok(())
        });
        let Rates { best, mean } = rates.unwrap();
        assert!(best > 1.2 * mean && mean > 0.0 && calls > 4, "{best} {mean} {calls}");
    }

    #[test]
    fn a_slow_call_is_made_once() {
        let (mut calls, slow) = (0, Duration::from_millis(30));
        let found = rates(&Cpu::default(), 1.0, Duration::from_millis(1), || {
            calls += 1;
            std::thread::sleep(slow);
            Ok(())
        });
        let Rates { best, mean } = found.unwrap();
        assert!(calls == 2 && best == mean && best <= 1.0 / slow.as_secs_f64(), "{calls} {best} {mean}");
    }

    #[test]
    fn ceilings_of_earlier_versions_are_read() {
        let old = r#"{"bytes_per_second": 1.0, "flops_per_second": 2.0, "assumed": false}"#;
        assert_eq!(serde_json::from_str::<Ceilings>(old).unwrap().sustained_flops_per_second, None);
    }
}
