//! AdamW on a GPU: `kernels/adamw.cu`.

use bytemuck::{Pod, Zeroable};

use super::{AdamW, DECAY_BLOCK, Update};
use crate::device::cuda::{Activation, Cuda, Grid, args};
use crate::device::{Device, DeviceError};

/// Floats before the partial sums in [`Update::norm`]: the norm and the scale, padded to 16 bytes.
const HEAD: usize = 4;

/// Blocks that sum squares: a function of the length alone, so that sums have one order.
fn blocks(len: usize) -> usize {
    len.div_ceil(256 * 16).clamp(1, 1056)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Hyper {
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    decay: f32,
    correct1: f32,
    correct2: f32,
}

impl<T: Activation> AdamW for Cuda<T> {
    fn norm_len(arena_len: usize) -> usize {
        HEAD + blocks(arena_len)
    }

    fn adamw(&self, hyper: &super::Hyper, update: Update<'_, Self>) -> Result<(), DeviceError> {
        let Update { values, shadow, grads, m, v, decay, norm } = update;
        let len = values.len();
        debug_assert!(len.is_multiple_of(DECAY_BLOCK) && (shadow.is_some() == Self::SHADOW_WEIGHTS));
        let (count, head) = (blocks(len), norm.address());
        let partials = head + 4 * HEAD as u64;
        self.launch("adamw", "adamw_squares", Grid::line(count, 256), args![grads.address(), partials, len])?;
        let clip = hyper.clip_norm;
        self.launch("adamw", "adamw_scale", Grid::line(1, 256), args![partials, head, count as i32, clip])?;
        let (correct1, correct2) = hyper.corrections();
        let &super::Hyper { lr, beta1, beta2, eps, weight_decay: decay_by, .. } = hyper;
        let numbers = Hyper { lr, beta1, beta2, eps, decay: decay_by, correct1, correct2 };
        let shadow = shadow.map_or(0, |shadow| shadow.address());
        let (grads, m, v, decay) = (grads.address(), m.address(), v.address(), decay.address());
        let args = args![values.address(), shadow, grads, m, v, decay, head, len, numbers];
        self.launch("adamw", "adamw_update", Grid::over(len, 4, 256), args)
    }
}
