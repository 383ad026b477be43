//! Casts on a GPU: `kernels/cast.cu`.

use super::Cast;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> Cast for Cuda<T> {
    fn cast_forward(&self, x: View<'_, f32>, y: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let config = LaunchConfig::for_elements(y.len(), 1, 256);
        self.launch_typed("cast", "cast_forward", config, args![x, y, Arg::size(x.len())])
    }

    fn cast_backward(&self, dy: View<'_, T>, dx: ViewMut<'_, f32>) -> Result<(), DeviceError> {
        let config = LaunchConfig::for_elements(dy.len(), 1, 256);
        self.launch_typed("cast", "cast_backward", config, args![dy, dx, Arg::size(dy.len())])
    }
}
