//! First tokens on a GPU: `kernels/first_tokens.cu`.

use super::{FirstTokens, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> FirstTokens for Cuda<T> {
    fn first_tokens_forward(&self, shape: &Shape, x: View<'_, T>, y: ViewMut<'_, T>) -> Result<(), DeviceError> {
        Self::check_width("first_tokens", shape.width)?;
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let args = args![x.address(), y.address(), batch, tokens, width];
        self.launch_typed(
            "first_tokens",
            "first_tokens_forward",
            LaunchConfig::for_elements(y.len(), T::PACK, 256),
            args,
        )
    }

    fn first_tokens_backward(&self, shape: &Shape, dy: View<'_, T>, dx: ViewMut<'_, T>) -> Result<(), DeviceError> {
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let args = args![dy.address(), dx.address(), batch, tokens, width];
        self.launch_typed(
            "first_tokens",
            "first_tokens_backward",
            LaunchConfig::for_elements(dx.len(), T::PACK, 256),
            args,
        )
    }
}
