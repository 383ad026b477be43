//! L2 normalisation on a GPU: `kernels/l2norm.cu`.

use super::L2Norm;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};

impl<T: ActType> L2Norm for Cuda<T> {
    fn l2norm_forward(
        &self,
        width: usize,
        x: View<'_, f32>,
        y: ViewMut<'_, f32>,
        norm: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let rows = norm.len();
        let args = args![x.address(), y.address(), norm.address(), rows as i32, width as i32];
        self.launch("l2norm", "l2norm_forward", LaunchConfig::blocks(rows.div_ceil(4), 128), args)
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
        let args = args![dy.address(), x.address(), norm.address(), dx.address(), rows as i32, width as i32];
        self.launch("l2norm", "l2norm_backward", LaunchConfig::blocks(rows.div_ceil(4), 128), args)
    }
}
