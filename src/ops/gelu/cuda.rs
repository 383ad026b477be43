//! GELU on a GPU, where no epilogue applies: `kernels/gelu.cu`.

use crate::autograd::Activation;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

fn form(kind: Activation) -> &'static str {
    match kind {
        Activation::GeluTanh => "tanh",
        Activation::GeluExact => "exact",
        Activation::QuickGelu => "quick",
    }
}

/// `y = gelu(x)`.
///
/// # Errors
/// If the launch fails.
pub fn forward<T: ActType>(
    device: &Cuda<T>,
    kind: Activation,
    x: View<'_, T>,
    y: &ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let config = LaunchConfig::for_elements(x.len(), T::PACK, 256);
    device.launch_typed("gelu", &format!("gelu_{}_forward", form(kind)), config, args![x, y, Arg::size(x.len())])
}

/// In: the gradient of `gelu(x)`; out: that of `x`.
///
/// # Errors
/// If the launch fails.
pub fn backward<T: ActType>(
    device: &Cuda<T>,
    kind: Activation,
    x: View<'_, T>,
    d: &ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let config = LaunchConfig::for_elements(x.len(), T::PACK, 256);
    device.launch_typed("gelu", &format!("gelu_{}_backward", form(kind)), config, args![x, d, Arg::size(x.len())])
}
