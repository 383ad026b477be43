//! Choosing a GPU, real or emulated, and listing those of this machine.

use std::sync::Arc;

use anyhow::Result;
use cudarc::driver::{DriverError, result};

use super::choice::Kind;
use crate::device::DeviceError;
use crate::device::cuda::{Driver, Gpu, kernels};

/// The driver of the GPU with this number, or of the emulator; `None` for the CPU.
pub(super) fn driver(kind: Kind, ordinal: usize) -> Result<Option<Arc<dyn Driver>>> {
    Ok(match kind {
        Kind::Cpu => None,
        #[cfg(feature = "emulator")]
        Kind::Emulator => {
            let options = crate::device::cuda::EmulatorOptions { count: true, ..Default::default() };
            Some(Arc::new(crate::device::cuda::Emulated::new(options)))
        }
        Kind::Cuda => Some(Arc::new(Gpu::new(visible(ordinal)?)?)),
        Kind::Auto if !Gpu::has_driver() => None,
        Kind::Auto => match best_gpu(ordinal) {
            Ok(gpu) => Some(Arc::new(gpu)),
            Err(error) => {
                tracing::info!("computing on the CPU: {error}");
                None
            }
        },
    })
}

/// The number of GPUs that the driver shows this process, at least 1.
pub(super) fn count() -> std::result::Result<usize, DeviceError> {
    let none = |problem| DeviceError::NoGpu { problem };
    if !Gpu::has_driver() {
        return Err(none("there is no NVIDIA driver (libcuda)".to_owned()));
    }
    let count = || {
        result::init()?;
        result::device::get_count()
    };
    match count() {
        Ok(count @ 1..) => Ok(count as usize),
        Ok(_) => Err(none("the driver finds no device".to_owned())),
        Err(error) => Err(none(DriverError::to_string(&error))),
    }
}

/// The GPU of a rank: launchers may show each rank its own alone.
fn visible(ordinal: usize) -> std::result::Result<usize, DeviceError> {
    if ordinal == 0 {
        return Ok(0);
    }
    match count()? {
        1 => Ok(0),
        count if ordinal < count => Ok(ordinal),
        count => Err(DeviceError::NoGpu {
            problem: format!("this machine has {count} GPUs, and this is rank {ordinal} on it, counted from 0"),
        }),
    }
}

/// The GPU with this number, if there are kernels for it.
fn best_gpu(ordinal: usize) -> std::result::Result<Gpu, DeviceError> {
    if kernels::KERNELS.is_empty() {
        return Err(DeviceError::NoKernels);
    }
    Gpu::new(visible(ordinal)?)
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
