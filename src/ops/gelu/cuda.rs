//! The GELU on a GPU, where no epilogue serves: `kernels/gelu.cu`.

use super::Gelu;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, args};

fn form(kind: Gelu) -> &'static str {
    match kind {
        Gelu::Tanh => "tanh",
        Gelu::Exact => "exact",
    }
}

/// `y = gelu(x)`, `len` elements each.
pub fn forward<T: ActType>(device: &Cuda<T>, kind: Gelu, x: u64, y: u64, len: usize) -> Result<(), DeviceError> {
    let kernel = format!("gelu_{}_forward", form(kind));
    device.launch_typed("gelu", &kernel, LaunchConfig::for_elements(len, T::PACK, 256), args![x, y, len])
}

/// In: the gradient of `gelu(x)`; out: that of `x`.
pub fn backward<T: ActType>(device: &Cuda<T>, kind: Gelu, x: u64, d: u64, len: usize) -> Result<(), DeviceError> {
    let kernel = format!("gelu_{}_backward", form(kind));
    device.launch_typed("gelu", &kernel, LaunchConfig::for_elements(len, T::PACK, 256), args![x, d, len])
}
