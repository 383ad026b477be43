//! L2 normalisation on a GPU: `kernels/l2norm.cu`.

use super::L2Norm;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

/// A warp per row.
fn config(rows: usize) -> LaunchConfig {
    LaunchConfig::blocks(rows.div_ceil(4), 128)
}

impl<T: ActType> L2Norm for Cuda<T> {
    fn l2norm_forward(
        &self,
        width: usize,
        x: View<'_, f32>,
        y: ViewMut<'_, f32>,
        norm: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let rows = norm.len();
        self.launch("l2norm", "l2norm_forward", config(rows), args![x, y, norm, rows, width])
    }

    fn l2norm_backward(
        &self,
        width: usize,
        dy: View<'_, f32>,
        x: View<'_, f32>,
        norm: View<'_, f32>,
        dx: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let rows = norm.len();
        self.launch("l2norm", "l2norm_backward", config(rows), args![dy, x, norm, dx, rows, width])
    }
}
