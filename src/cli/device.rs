//! Choosing the device: the one place where the program becomes one for a certain device.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::device::Cpu;
use crate::ops::AllOps;

/// Where to compute, and on how many threads.
#[derive(Args)]
pub struct DeviceArgs {
    /// Device to compute on; `auto` is the best there is
    #[arg(long = "device", id = "device", value_enum, default_value_t)]
    kind: Kind,
    /// Threads to compute with; 0: one per core. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Kind {
    #[default]
    Auto,
    Cpu,
}

/// Something to do on whichever device was chosen.
pub trait Job: Send {
    type Output: Send;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Self::Output>;
}

impl DeviceArgs {
    /// Runs `job` on the chosen device.
    pub fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.context("cannot start the threads to compute with")?;
        match self.kind {
            Kind::Auto | Kind::Cpu => pool.install(|| job.run(Arc::new(Cpu))),
        }
    }
}
