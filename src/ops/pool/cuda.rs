//! Pooling on a GPU: `kernels/pool.cu`.

use super::{Pool, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> Pool for Cuda<T> {
    fn pool_forward(&self, shape: &Shape, x: View<'_, T>, y: ViewMut<'_, f32>) -> Result<(), DeviceError> {
        Self::check_width("pool", shape.width)?;
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let config = LaunchConfig::for_elements(y.len(), T::PACK, 128);
        self.launch_typed("pool", "pool_forward", config, args![x.address(), y.address(), batch, tokens, width])
    }

    fn pool_backward(&self, shape: &Shape, dy: View<'_, f32>, dx: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let config = LaunchConfig::for_elements(dx.len(), T::PACK, 256);
        self.launch_typed("pool", "pool_backward", config, args![dy.address(), dx.address(), batch, tokens, width])
    }
}
