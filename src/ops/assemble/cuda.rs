//! Sequence assembly on a GPU: `kernels/assemble.cu`.

use super::{Assemble, Gradients, Shape};
use crate::autograd::GradMut;
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};
use crate::ops::embedding::cuda::{Table, scatter, scatter_scratch_len};

impl<T: ActType> Assemble for Cuda<T> {
    fn assemble_scratch(shape: &Shape, learned: bool) -> usize {
        let &Shape { batch, kept, width } = shape;
        let positions = if learned { scatter_scratch_len(batch * kept, width) } else { 0 };
        column_sums_scratch_len(batch, width).max(positions)
    }

    fn assemble_forward(
        &self,
        shape: &Shape,
        patches: View<'_, T>,
        ids: View<'_, u32>,
        cls: View<'_, f32>,
        pos: View<'_, f32>,
        out: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, kept, width } = shape;
        Self::check_width("assemble", width)?;
        let args = args![patches, ids, cls, pos, out, batch, kept, width];
        self.launch_typed("assemble", "assemble_forward", LaunchConfig::for_elements(out.len(), T::PACK, 256), args)
    }

    fn assemble_backward(
        &self,
        shape: &Shape,
        dout: View<'_, T>,
        ids: View<'_, u32>,
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, kept, width } = shape;
        let Gradients { dpatches, dcls, dpos, scratch } = gradients;
        if let Some(dpatches) = &dpatches {
            let config = LaunchConfig::for_elements(dpatches.len(), T::PACK, 256);
            self.launch_typed("assemble", "assemble_copy", config, args![dout, dpatches, batch, kept, width])?;
        }
        let first = Rows { x: dout, rows: batch, width, stride: (kept + 1) * width };
        column_sums(self, first, dcls, &scratch)?;
        let Some(GradMut { view: dpos, accumulate }) = dpos else { return Ok(()) };
        let Some(dpatches) = dpatches else {
            let what = "learned positions of patches without a gradient".to_owned();
            return Err(DeviceError::Unsupported { what });
        };
        let (cls, rest) = dpos.split_at(width);
        let table = Table { address: rest.address(), rows: rest.len() / width, width, accumulate };
        scatter(self, ids.address(), batch * kept, dpatches.address(), table, &scratch)?;
        column_sums(self, first, GradMut { view: cls, accumulate }, &scratch)
    }
}
