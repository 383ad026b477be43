//! `flipk verify`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;

use super::device::{DeviceArgs, Job};
use super::put;
use super::table::table;
use crate::golden::{Check, Tolerances, verify};
use crate::ops::AllOps;
use crate::train::Precision;

/// Compare a device with a golden state: another implementation's embeddings, loss, gradients and training losses
///
/// The sizes come from the file's header. The exit code is 0 only if every quantity is within its tolerance. On a GPU
/// and in emulation, the kernels are checked in f32; `--precision bf16` checks those that training uses, with wider
/// tolerances.
#[derive(Args)]
pub(super) struct Verify {
    /// Golden state (safetensors)
    file: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Job for &Verify {
    type Output = Vec<Check>;
    fn run<D: AllOps>(self, device: Arc<D>) -> Result<Vec<Check>> {
        let tolerances = Tolerances::for_device(&*device);
        Ok(verify(&self.file, device, tolerances)?)
    }
}

impl Verify {
    pub(super) fn run(self) -> Result<ExitCode> {
        let checks = self.device.run_in(None, Precision::F32, &self)?;
        let verdict = |check: &Check| if check.holds() { "ok" } else { "FAILED" };
        let row = |check: &Check| {
            let (error, tolerance) = (format!("{:.1e}", check.error), format!("{:.0e}", check.tolerance));
            [check.quantity.clone(), error, tolerance, verdict(check).to_owned()]
        };
        let rows: Vec<_> = checks.iter().map(row).collect();
        put(format_args!("{}", table(["quantity", "error", "tolerance", "verdict"], &rows)))?;
        let failed = checks.iter().filter(|check| !check.holds()).count();
        put(format_args!("\n{} of {} quantities hold\n", checks.len() - failed, checks.len()))?;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
