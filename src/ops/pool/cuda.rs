//! Pooling on a GPU: `kernels/pool.cu`.

use super::{Pool, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> Pool for Cuda<T> {
    fn pool_forward(
        &self,
        shape: &Shape,
        x: View<'_, T>,
        delta: Option<View<'_, T>>,
        y: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width, skip } = shape;
        Self::check_width("pool", width)?;
        let config = LaunchConfig::for_elements(y.len(), T::PACK, 128);
        match delta {
            None => self.launch_typed("pool", "pool_forward", config, args![x, y, batch, tokens, width, skip]),
            Some(delta) => {
                let args = args![x, delta, y, batch, tokens, width, skip];
                self.launch_typed("pool", "pool_residual_forward", config, args)
            }
        }
    }

    fn pool_backward(&self, shape: &Shape, dy: View<'_, f32>, dx: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width, skip } = shape;
        let config = LaunchConfig::for_elements(dx.len(), T::PACK, 256);
        self.launch_typed("pool", "pool_backward", config, args![dy, dx, batch, tokens, width, skip])
    }
}
