//! Choosing a GPU, real or emulated, and listing those of this machine.

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::{DriverError, result};

use super::device::Kind;
use crate::device::DeviceError;
use crate::device::cuda::{Driver, Gpu, kernels};

/// The driver of the GPU or emulator; `None` for the CPU.
pub(super) fn driver(kind: Kind) -> Result<Option<Arc<dyn Driver>>> {
    Ok(match kind {
        Kind::Cpu => None,
        #[cfg(feature = "emulator")]
        Kind::Emulator => {
            let options = crate::device::cuda::EmulatorOptions { count: true, ..Default::default() };
            Some(Arc::new(crate::device::cuda::Emulated::new(options)))
        }
        Kind::Cuda => Some(Arc::new(Gpu::new(0)?)),
        Kind::Auto if !Gpu::has_driver() => None,
        Kind::Auto => match best_gpu() {
            Ok(gpu) => Some(Arc::new(gpu)),
            Err(error) => {
                tracing::info!("computing on the CPU: {error}");
                None
            }
        },
    })
}

/// The first GPU, if there are kernels for it.
fn best_gpu() -> std::result::Result<Gpu, DeviceError> {
    if kernels::KERNELS.is_empty() {
        return Err(DeviceError::NoKernels);
    }
    Gpu::new(0)
}

/// The names of the NVIDIA GPUs that the driver finds.
pub(super) fn list() -> String {
    if !Gpu::has_driver() {
        return "none: no NVIDIA driver (libcuda) on this machine".to_owned();
    }
    let names = || -> Result<Vec<String>, DriverError> {
        result::init()?;
        (0..result::device::get_count()?).map(|n| result::device::get_name(result::device::get(n)?)).collect()
    };
    match names() {
        Ok(names) if !names.is_empty() => names.join(", "),
        Ok(_) => "none: the driver finds no device".to_owned(),
        Err(error) => format!("none: the NVIDIA driver reports {error}"),
    }
}

/// The kernels compiled into the program.
pub(super) fn compiled_kernels() -> String {
    if kernels::KERNELS.is_empty() {
        return "none compiled in; for GPUs run tools/cuda-compiler and build again".to_owned();
    }
    let names: Vec<&str> = kernels::KERNELS.iter().map(|(name, _)| *name).collect();
    format!("{} (nvcc {})", names.join(" "), kernels::NVCC)
}
