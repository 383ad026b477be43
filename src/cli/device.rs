//! Choosing the device: the one place where the program becomes one for a certain device.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use half::bf16;

use crate::device::cuda::{Driver, Emulated, EmulatorOptions, Gpu, kernels};
use crate::device::{Cpu, Cuda, DeviceError};
use crate::ops::AllOps;

/// Where to compute, with which numbers, and on how many threads.
#[derive(Args)]
pub struct DeviceArgs {
    /// Device to compute on; `auto` is the best there is, `emulator` runs the GPU's kernels on the CPU and checks them
    #[arg(long = "device", id = "device", value_enum, default_value_t)]
    kind: Kind,
    /// Numbers of a GPU's activations and products, and of what a CPU multiplies (bf16 needs AVX-512 BF16 and takes about half the
    /// time) [default: f32 on a CPU and for `flipk verify`, otherwise bf16]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Bf16,
    F32,
}

/// Something to do on whichever device was chosen.
pub trait Job: Send {
    type Output: Send;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output>;
}

impl DeviceArgs {
    /// Runs `job` on the chosen device, on a GPU in bf16 unless the user said otherwise.
    pub fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        self.run_in(Precision::Bf16, job)
    }

    /// Runs `job` on the chosen device, on a GPU in `precision` unless the user said otherwise.
    pub fn run_in<J: Job>(&self, precision: Precision, job: J) -> Result<J::Output> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.context("cannot start the threads to compute with")?;
        pool.install(|| match self.driver()? {
            None if self.precision == Some(Precision::Bf16) => job.run(Arc::new(Cpu::bf16()?)),
            None => job.run(Arc::new(Cpu::default())),
            Some(driver) => match self.precision.unwrap_or(precision) {
                Precision::Bf16 => job.run(Arc::new(Cuda::<bf16>::new(driver)?)),
                Precision::F32 => job.run(Arc::new(Cuda::<f32>::new(driver)?)),
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

/// The first GPU, if there are kernels for it.
fn best_gpu() -> std::result::Result<Gpu, DeviceError> {
    if kernels::KERNELS.is_empty() {
        return Err(DeviceError::NoKernels);
    }
    Gpu::new(0)
}
