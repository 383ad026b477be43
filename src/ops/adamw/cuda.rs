//! AdamW on a GPU: `kernels/adamw.cu`.

use super::{AdamW, DECAY_BLOCK, Hyper, Update};
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, args};
use crate::device::{Device, DeviceError};

/// Floats before the partial sums in [`Update::norm`]: the norm and the scale, padded to 16 bytes.
const HEAD: usize = 4;

/// Blocks that sum squares: a function of the length alone, so that sums have one order.
fn blocks(len: usize) -> usize {
    len.div_ceil(256 * 16).clamp(1, 1056)
}

impl<T: ActType> AdamW for Cuda<T> {
    fn norm_len(arena_len: usize) -> usize {
        HEAD + blocks(arena_len)
    }

    fn adamw(&self, _: &Hyper, update: Update<'_, Self>) -> Result<(), DeviceError> {
        let Update { values, shadow, grads, m, v, decay, norm, numbers } = update;
        let len = values.len();
        debug_assert!(len.is_multiple_of(DECAY_BLOCK) && (shadow.is_some() == Self::SHADOW_WEIGHTS));
        let (count, len_arg) = (blocks(len), Arg::size(len));
        let (head, partials) = norm.split_at(HEAD);
        self.launch("adamw", "adamw_squares", LaunchConfig::blocks(count, 256), args![grads, partials, len_arg])?;
        self.launch("adamw", "adamw_scale", LaunchConfig::blocks(1, 256), args![partials, head, count, numbers])?;
        let args = args![values, shadow, grads, m, v, decay, head, len_arg, numbers];
        self.launch("adamw", "adamw_update", LaunchConfig::for_elements(len, 4, 256), args)
    }
}
