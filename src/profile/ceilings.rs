//! What the device can do at most, measured on itself: a large copy (on a CPU a large sum) and a large matrix product.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::autograd::{Init, Layout, Parameters, Tape, Work};
use crate::device::{DeviceError, Float, ProbeSizes, h100};
use crate::ops::AllOps;
use crate::ops::linear::Weights;
use crate::random::{Purpose, Random};

/// The two ceilings that bind everything.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Of a copy, or on a CPU of a sum in place; read and written bytes both counted.
    pub bytes_per_second: f64,
    /// Of a matrix product on random data.
    pub flops_per_second: f64,
    /// Taken from a data sheet, not measured.
    pub assumed: bool,
}

impl Ceilings {
    /// An H100's, for estimates in emulation.
    pub const ESTIMATED: Self = Self { bytes_per_second: h100::BANDWIDTH, flops_per_second: h100::GEMM, assumed: true };

    /// The least seconds for `work`, and what binds it.
    pub fn limit(&self, work: Work) -> (f64, &'static str) {
        let (compute, memory) = (work.flops as f64 / self.flops_per_second, work.bytes as f64 / self.bytes_per_second);
        if compute > memory { (compute, "compute") } else { (memory, "memory") }
    }
}

/// Measures both ceilings, or takes those that were measured on this device before.
///
/// # Errors
/// If the device fails.
pub fn measure_ceilings<D: AllOps>(device: &Arc<D>, again: bool) -> Result<Ceilings, DeviceError> {
    let Some(sizes) = device.probe_sizes() else { return Ok(Ceilings::ESTIMATED) };
    let file = cache(&sizes.name);
    let cached = file.as_ref().filter(|_| !again).and_then(|file| std::fs::read(file).ok());
    if let Some(ceilings) = cached.and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(ceilings);
    }
    let ceilings = Ceilings {
        bytes_per_second: memory(device, &sizes)?,
        flops_per_second: product(device, sizes.product_side)?,
        assumed: false,
    };
    if let (Some(file), Ok(text)) = (file, serde_json::to_vec(&ceilings)) {
        // A cache that cannot be written costs a second the next time.
        let _ = file.parent().map(std::fs::create_dir_all).map(|_| std::fs::write(&file, text));
    }
    Ok(ceilings)
}

/// Where measured ceilings are kept: `$XDG_CACHE_HOME/flipk` or `~/.cache/flipk`.
fn cache(device: &str) -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    let name: String = device.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Some(folder.join("flipk").join(format!("ceilings-{name}.json")))
}

/// The least seconds of some calls of `body`, after some to warm up: a ceiling is what can be reached at all. A device
/// that is slow is asked less often.
fn time<D: AllOps>(device: &D, mut body: impl FnMut() -> Result<(), DeviceError>) -> Result<f64, DeviceError> {
    const WARM_UP: usize = 3;
    const RUNS: usize = 7;
    // A call takes seconds on a processor without vector instructions; one is enough there.
    const PATIENCE: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let mut times = Vec::new();
    for run in 0..WARM_UP + RUNS {
        let start = device.record_event()?;
        body()?;
        let end = device.record_event()?;
        let is_slow = begun.elapsed() > PATIENCE;
        if run >= WARM_UP || is_slow {
            times.push(device.seconds(&start, &end)?);
        }
        if is_slow {
            break;
        }
    }
    Ok(times.into_iter().fold(f64::INFINITY, f64::min))
}

fn memory<D: AllOps>(device: &Arc<D>, sizes: &ProbeSizes) -> Result<f64, DeviceError> {
    let len = sizes.copy_bytes / size_of::<D::Act>();
    let bytes = len * size_of::<D::Act>();
    let (from, to) = (device.allocate(bytes, "measuring a copy")?, device.allocate(bytes, "measuring a copy")?);
    // SAFETY: two blocks of this length; each call's views are gone before the next is made.
    let run = |(to, from), add| unsafe {
        let (to, from) = (D::view_mut(to, 0, len), D::view(from, 0, len));
        if add { device.add_into(to, from) } else { device.copy(to, from) }
    };
    // Pages that nobody wrote share their memory.
    run((&from, &to), false)?;
    let add = sizes.reads_before_writing;
    let seconds = time(&**device, || run((&to, &from), add))?;
    Ok((if add { 3.0 } else { 2.0 }) * bytes as f64 / seconds)
}

fn product<D: AllOps>(device: &Arc<D>, size: usize) -> Result<f64, DeviceError> {
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
    let seconds = time(&**device, || program.forward(&params))?;
    Ok(2.0 * (size as f64).powi(3) / seconds)
}
