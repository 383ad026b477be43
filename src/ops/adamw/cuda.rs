//! AdamW on a GPU: `kernels/adamw.cu`.

use super::{AdamW, DECAY_BLOCK, Hyper, NORM_BLOCK, Update};
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args, kernels};
use crate::device::{Device, DeviceError};

const _: () = assert!(kernels::adamw::NORM_BLOCK == NORM_BLOCK);

impl<T: ActType> AdamW for Cuda<T> {
    const PARTIAL: usize = 1;

    fn adamw_squares(&self, grads: View<'_, f32>, partials: ViewMut<'_, f32>) -> Result<(), DeviceError> {
        let (count, len) = (grads.len().div_ceil(NORM_BLOCK), Arg::size(grads.len()));
        if count == 0 {
            return Ok(());
        }
        debug_assert!(partials.len() >= count);
        self.launch("adamw", "adamw_squares", LaunchConfig::blocks(count, 256), args![grads, partials, len])
    }

    fn adamw_scale(
        &self,
        _: &Hyper,
        partials: View<'_, f32>,
        order: Option<View<'_, i32>>,
        head: ViewMut<'_, f32>,
        numbers: View<'_, f32>,
    ) -> Result<(), DeviceError> {
        let count = order.as_ref().map_or(partials.len(), View::len);
        let args = args![partials, order, head, count, numbers];
        self.launch("adamw", "adamw_scale", LaunchConfig::blocks(1, 256), args)
    }

    fn adamw_update(&self, _: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError> {
        let Update { values, shadow, grads, m, v, decay, head, numbers } = update;
        let len = values.len();
        debug_assert!(len.is_multiple_of(DECAY_BLOCK) && (shadow.is_some() == Self::SHADOW_WEIGHTS));
        if len == 0 {
            return Ok(());
        }
        let args = args![values, shadow, grads, m, v, decay, head, Arg::size(len), numbers];
        self.launch("adamw", "adamw_update", LaunchConfig::for_elements(len, 4, 256), args)
    }
}
