//! Choosing the device: the one place where the program becomes one for a certain device.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use half::bf16;

use crate::device::cuda::{Driver, Emulated, EmulatorOptions, Gpu, kernels};
use crate::device::{Cpu, Cuda, DeviceError};
use crate::ops::AllOps;
use crate::profile::measure_ceilings;
use crate::train::Precision;

/// Where to compute, with which numbers, and on how many threads.
#[derive(Args)]
pub struct DeviceArgs {
    /// Device to compute on; `auto` is the best there is, `emulator` runs the GPU's kernels on the CPU and checks them
    #[arg(long = "device", id = "device", value_enum, default_value_t)]
    kind: Kind,
    /// Numbers of a GPU's activations and products, and what a CPU rounds the operands of products to. `auto` is what a run that is
    /// resumed had; else f32 on a CPU and for `flipk verify`, and bf16 on a GPU. What a CPU's products in bf16 are beside those in
    /// f32 depends on its kind: about eight times as fast with AMX, twice on AMD's Zen 4 and 5, half on an Intel with AVX-512 BF16
    /// but no AMX; others cannot. It is measured once and told at the start
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Threads to compute with; 0: one per core. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Kind {
    #[default]
    Auto,
    Cpu,
    Cuda,
    Emulator,
}

/// Something to do on whichever device was chosen.
pub trait Job: Send {
    type Output: Send;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output>;
}

impl DeviceArgs {
    /// What the user asked for, if anything.
    pub fn precision(&self) -> Option<Precision> {
        Some(self.precision).filter(|precision| *precision != Precision::Auto)
    }

    /// Runs `job` on the chosen device, on a GPU in bf16 unless the user said otherwise.
    pub fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        self.run_in(None, Precision::Bf16, job)
    }

    /// Runs `job` on the chosen device with what the user asked for; else with the numbers that a run `had`; else on a GPU in
    /// `gpu` and on a CPU in f32.
    pub fn run_in<J: Job>(&self, had: Option<Precision>, gpu: Precision, job: J) -> Result<J::Output> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.context("cannot start the threads to compute with")?;
        let asked = self.precision().or(had).unwrap_or_default();
        pool.install(|| match self.driver()? {
            None if asked == Precision::Bf16 => {
                let cpu = Arc::new(Cpu::bf16()?);
                eprintln!("{}", gain(&cpu)?);
                job.run(cpu)
            }
            None => job.run(Arc::new(Cpu::default())),
            Some(driver) => match if asked == Precision::Auto { gpu } else { asked } {
                Precision::F32 => job.run(Arc::new(Cuda::<f32>::new(driver)?)),
                Precision::Bf16 | Precision::Auto => job.run(Arc::new(Cuda::<bf16>::new(driver)?)),
            },
        })
    }

    /// The GPU to drive, if it is not the CPU.
    fn driver(&self) -> Result<Option<Arc<dyn Driver>>> {
        Ok(match self.kind {
            Kind::Cpu => None,
            Kind::Emulator => Some(Arc::new(Emulated::new(EmulatorOptions { count: true, order: None }))),
            Kind::Cuda => Some(Arc::new(Gpu::new(0)?)),
            Kind::Auto if !Gpu::has_driver() => None,
            Kind::Auto => match best_gpu() {
                Ok(gpu) => Some(Arc::new(gpu)),
                Err(error) => {
                    eprintln!("computing on the CPU: {error}");
                    None
                }
            },
        })
    }
}

/// How fast a CPU multiplies in bf16, beside f32.
fn gain(cpu: &Arc<Cpu>) -> std::result::Result<String, DeviceError> {
    let rounded = measure_ceilings(cpu, false)?.flops_per_second;
    let plain = measure_ceilings(&Arc::new(Cpu::default()), false)?.flops_per_second;
    Ok(told(rounded, plain))
}

fn told(rounded: f64, plain: f64) -> String {
    let (factor, rounded, plain) = (rounded / plain, rounded / 1e9, plain / 1e9);
    let rates = format!("products reach {rounded:.0} GFLOP/s in bf16 here, {plain:.0} in f32");
    match factor < 1.0 {
        true => format!("warning: {rates}: --precision f32 is faster on this processor and rounds nothing"),
        false => format!("{rates}: {factor:.1} times as fast; what is not a product takes as long as before"),
    }
}

/// The first GPU, if there are kernels for it.
fn best_gpu() -> std::result::Result<Gpu, DeviceError> {
    if kernels::KERNELS.is_empty() {
        return Err(DeviceError::NoKernels);
    }
    Gpu::new(0)
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn a_loss_is_a_warning() {
        assert!(
            told(160e9, 250e9)
                .starts_with("warning: products reach 160 GFLOP/s in bf16 here, 250 in f32: --precision f32")
        );
        assert!(
            told(1000e9, 250e9).starts_with("products reach 1000 GFLOP/s in bf16 here, 250 in f32: 4.0 times as fast")
        );
    }
}
