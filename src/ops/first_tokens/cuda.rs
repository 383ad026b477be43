//! First tokens on a GPU: `kernels/first_tokens.cu`.

use super::{FirstTokens, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> FirstTokens for Cuda<T> {
    fn first_tokens_forward(&self, shape: &Shape, x: View<'_, T>, y: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width } = shape;
        Self::check_width("first_tokens", width)?;
        let config = LaunchConfig::for_elements(y.len(), T::PACK, 256);
        self.launch_typed("first_tokens", "first_tokens_forward", config, args![x, y, batch, tokens, width])
    }

    fn first_tokens_backward(&self, shape: &Shape, dy: View<'_, T>, dx: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let &Shape { batch, tokens, width } = shape;
        let config = LaunchConfig::for_elements(dx.len(), T::PACK, 256);
        self.launch_typed("first_tokens", "first_tokens_backward", config, args![dy, dx, batch, tokens, width])
    }
}
