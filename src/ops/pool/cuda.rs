//! Pooling on a GPU: `kernels/pool.cu`.

use super::{Place, Pool, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{Activation, Cuda, Grid, View, ViewMut, args};

impl<T: Activation> Pool for Cuda<T> {
    fn pool_forward(
        &self,
        shape: &Shape,
        place: Place<'_, Self>,
        x: View<'_, T>,
        y: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        Self::check_width("pool", shape.width)?;
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let (x, grid, y) = (x.address(), Grid::over(y.len(), T::PACK, 128), y.address());
        match index(&place) {
            None => self.launch_typed("pool", "pool_mean_forward", grid, args![x, y, batch, tokens, width]),
            Some(index) => {
                let grid = Grid { threads: [256, 1, 1], ..grid };
                self.launch_typed("pool", "pool_token_forward", grid, args![x, index, y, batch, tokens, width])
            }
        }
    }

    fn pool_backward(
        &self,
        shape: &Shape,
        place: Place<'_, Self>,
        dy: View<'_, f32>,
        dx: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let [batch, tokens, width] = [shape.batch, shape.tokens, shape.width].map(|size| size as i32);
        let (dy, grid, dx) = (dy.address(), Grid::over(dx.len(), T::PACK, 256), dx.address());
        match index(&place) {
            None => self.launch_typed("pool", "pool_mean_backward", grid, args![dy, dx, batch, tokens, width]),
            Some(index) => {
                self.launch_typed("pool", "pool_token_backward", grid, args![dy, index, dx, batch, tokens, width])
            }
        }
    }
}

/// The address of the index, 0 for the first token; `None` for the mean.
fn index<T: Activation>(place: &Place<'_, Cuda<T>>) -> Option<u64> {
    match place {
        Place::Mean => None,
        Place::First => Some(0),
        Place::At(index) => Some(index.address()),
    }
}
