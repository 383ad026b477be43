//! Choosing the device: the only place that decides which device types the generic code is compiled for.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::choice::{Gpus, Kind};
use crate::device::{Cpu, DeviceError};
use crate::group::Group;
#[cfg(feature = "cuda")]
use crate::group::Nccl;
use crate::log;
use crate::ops::AllOps;
use crate::profile::product_ceiling;
use crate::train::Precision;

/// The device, the precision and the number of threads.
#[derive(Args)]
pub(super) struct DeviceArgs {
    /// Device to compute on; `auto` is a GPU if there is one, `emulator` runs the GPU's kernels on the CPU and checks
    /// them
    #[arg(long = "device", id = "device", value_enum, default_value_t)]
    kind: Kind,
    /// Precision of activations and matrix products on a GPU; on a CPU, what the operands of the linear layers are
    /// rounded to. `auto` is what a resumed run used before; else f32 on a CPU and for `flipk verify`, and bf16 on a
    /// GPU. On a CPU, products in bf16 instead of f32 are four to five times as fast with AMX, twice as fast on AMD's
    /// Zen 4 and 5, and half as fast on an Intel with AVX-512 BF16 but no AMX; other CPUs do not support bf16. The
    /// speed is measured once and printed at the start
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Threads to compute with; 0: one per core. Results do not depend on the number
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// The ranks of which this process is one.
    #[arg(skip)]
    group: Option<Arc<dyn Group>>,
}

/// Work to run on the chosen device.
pub(super) trait Job: Send {
    type Output: Send;

    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output>;
}

impl DeviceArgs {
    /// The precision that the user asked for, if any.
    pub(super) fn precision(&self) -> Option<Precision> {
        Some(self.precision).filter(|precision| *precision != Precision::Auto)
    }

    /// The number of GPUs that `--gpus` asks for.
    ///
    /// # Errors
    /// If this machine has fewer.
    pub(super) fn gpus(&self, asked: Gpus) -> Result<usize> {
        #[cfg(feature = "emulator")]
        if let Kind::Emulator = self.kind {
            return Ok(if let Gpus::Number(number) = asked { number } else { 1 });
        }
        #[cfg(not(feature = "cuda"))]
        bail!("--gpus: this build has no GPU support; build flipk with the feature `cuda`");
        #[cfg(feature = "cuda")]
        let there = super::gpu::count()?;
        #[cfg(feature = "cuda")]
        match asked {
            Gpus::Number(number) if number > there => bail!("--gpus {number}: this machine has only {there}"),
            Gpus::Number(number) => Ok(number),
            Gpus::All => Ok(there),
        }
    }

    /// Requires a GPU, real or emulated: `auto` becomes `cuda`.
    ///
    /// # Errors
    /// If the user asked for the CPU.
    pub(super) fn need_gpu(&mut self) -> Result<()> {
        match self.kind {
            Kind::Cpu => bail!("--gpus contradicts --device cpu: leave out one of them, or give --ranks"),
            #[cfg(feature = "cuda")]
            Kind::Auto => self.kind = Kind::Cuda,
            _ => {}
        }
        Ok(())
    }

    /// Divides this machine's cores and GPUs among the ranks of `group` on it. With `FLIPK_NCCL_ALONE=1`, a single
    /// rank's GPU is connected to itself, to test NCCL's calls.
    pub(super) fn share(&mut self, group: &Arc<dyn Group>) {
        if group.size() > 1 || std::env::var_os("FLIPK_NCCL_ALONE").is_some_and(|value| value == "1") {
            self.group = Some(group.clone());
            if self.threads == 0 && group.size() > 1 {
                self.threads = group.cores();
            }
        }
    }

    /// The number of this process among the ranks on this machine.
    #[cfg(feature = "cuda")]
    fn local_rank(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.place().local_rank)
    }

    /// Checks that all ranks compute on the same kind of device.
    fn agree(&self, on_gpu: bool) -> Result<()> {
        let Some(group) = &self.group else { return Ok(()) };
        let on_gpus = group.waiting(|| group.all(u32::from(on_gpu)))?;
        if let Some(other) = on_gpus.iter().position(|other| *other != on_gpus[0]) {
            let name = |on_gpu: u32| if on_gpu == 1 { "a GPU" } else { "the CPU" };
            let [first, second] = [on_gpus[0], on_gpus[other]].map(name);
            bail!(
                "rank 0 computes on {first}, and rank {other} on {second}: start as many ranks as there are GPUs, or \
                 choose with --device"
            );
        }
        Ok(())
    }

    /// What connects the GPUs of several ranks; an emulated one's data pass through the host.
    #[cfg(feature = "cuda")]
    fn connect(&self, emulated: bool) -> Result<Option<Arc<Nccl>>> {
        let Some(group) = self.group.as_ref().filter(|_| !emulated) else { return Ok(None) };
        let nccl = group.waiting(|| Nccl::join(&**group))?;
        if group.is_root() {
            let ranks = if group.size() == 1 { "rank is" } else { "ranks are" };
            log::line(&format!("the GPUs of {} {ranks} connected by {}", group.size(), nccl.describe()));
        }
        Ok(Some(Arc::new(nccl)))
    }

    /// Runs `job` on the chosen device, on a GPU in bf16 unless the user asked for another precision.
    pub(super) fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        self.run_in(None, Precision::Bf16, job)
    }

    /// Runs `job` on the chosen device in the precision that the user asked for, else the `earlier` one of a resumed
    /// run, else `gpu` on a GPU and f32 on a CPU.
    pub(super) fn run_in<J: Job>(&self, earlier: Option<Precision>, gpu: Precision, job: J) -> Result<J::Output> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.context("cannot start the threads to compute with")?;
        let asked = self.precision().or(earlier).unwrap_or_default();
        pool.install(|| {
            #[cfg(feature = "cuda")]
            let driver = super::gpu::driver(self.kind, self.local_rank())?;
            #[cfg(not(feature = "cuda"))]
            let driver = None::<std::convert::Infallible>;
            self.agree(driver.is_some())?;
            #[cfg(feature = "cuda")]
            if let Some(driver) = driver {
                use crate::device::Cuda;
                let nccl = self.connect(driver.estimates())?;
                return match if asked == Precision::Auto { gpu } else { asked } {
                    Precision::F32 => job.run(Arc::new(Cuda::<f32>::new(driver)?.connected(nccl))),
                    Precision::Bf16 | Precision::Auto => {
                        job.run(Arc::new(Cuda::<half::bf16>::new(driver)?.connected(nccl)))
                    }
                };
            }
            #[cfg(not(feature = "cuda"))]
            let _ = gpu;
            if asked != Precision::Bf16 {
                return job.run(Arc::new(Cpu::default()));
            }
            let cpu = Arc::new(Cpu::bf16()?);
            if self.group.as_ref().is_none_or(|group| group.is_root()) {
                log::line(&speed_of_bf16(&cpu)?);
            }
            job.run(cpu)
        })
    }
}

/// Measures matrix products in bf16 and f32, and says what `--precision bf16` gains on this CPU.
fn speed_of_bf16(cpu: &Arc<Cpu>) -> std::result::Result<String, DeviceError> {
    let bf16 = product_ceiling(cpu)?;
    let f32 = product_ceiling(&Arc::new(Cpu::default()))?;
    Ok(comparison(bf16, f32))
}

/// `bf16` and `f32`: FLOP/s.
fn comparison(bf16: f64, f32: f64) -> String {
    let rates = format!("matrix products reach {:.0} GFLOP/s in bf16 and {:.0} in f32 here", bf16 / 1e9, f32 / 1e9);
    match bf16 < f32 {
        true => format!("warning: {rates}: --precision f32 is faster on this processor, and more accurate"),
        false => format!("{rates}: bf16 is {:.1} times as fast; other ops take the same time in both", bf16 / f32),
    }
}

#[cfg(test)]
mod tests {
    use super::comparison;

    #[test]
    fn slower_bf16_is_a_warning() {
        let slower = comparison(160e9, 250e9);
        assert!(
            slower
                .starts_with("warning: matrix products reach 160 GFLOP/s in bf16 and 250 in f32 here: --precision f32")
        );
        let faster = comparison(1000e9, 250e9);
        assert!(
            faster.starts_with(
                "matrix products reach 1000 GFLOP/s in bf16 and 250 in f32 here: bf16 is 4.0 times as fast"
            )
        );
    }
}
