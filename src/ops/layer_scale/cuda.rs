//! Layer scale on a GPU: `kernels/layer_scale.cu`.

use super::{BackwardOperands, LayerScale, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, add_partials, blocks, column_sums_scratch_len};

impl<T: ActType> LayerScale for Cuda<T> {
    fn layer_scale_scratch(shape: &Shape) -> usize {
        column_sums_scratch_len(shape.rows, shape.width)
    }

    fn layer_scale_forward(
        &self,
        shape: &Shape,
        x: View<'_, T>,
        gamma: View<'_, f32>,
        y: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { rows, width } = shape;
        Self::check_width("layer_scale", width)?;
        let config = LaunchConfig::for_elements(y.len(), T::PACK, 256);
        self.launch_typed("layer_scale", "layer_scale_forward", config, args![x, gamma, y, rows, width])
    }

    fn layer_scale_backward(&self, shape: &Shape, operands: BackwardOperands<'_, Self>) -> Result<(), DeviceError> {
        let BackwardOperands { dy, x, gamma, dx, dgamma, scratch } = operands;
        let &Shape { rows, width } = shape;
        let blocks = blocks(rows);
        let config = LaunchConfig::blocks_2d([width.div_ceil(32 * T::PACK), blocks], [32, 8]);
        let args = args![dy, x, gamma, dx, scratch, rows, width];
        self.launch_typed("layer_scale", "layer_scale_backward", config, args)?;
        add_partials(self, Rows { x: scratch.as_view(), rows: blocks, width, stride: width }, dgamma)
    }
}
