//! Sequence assembly on a GPU: `kernels/assemble.cu`.

use super::{Assemble, Gradients, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};
use crate::ops::embedding::cuda::{Table, scatter};

impl<T: ActType> Assemble for Cuda<T> {
    fn assemble_scratch(shape: &Shape) -> usize {
        column_sums_scratch_len(shape.batch, shape.width)
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
        Self::check_width("assemble", shape.width)?;
        let [batch, kept, width] = [shape.batch, shape.kept, shape.width].map(|size| size as i32);
        let (patches, ids, cls, pos) = (patches.address(), ids.address(), cls.address(), pos.address());
        let args = args![patches, ids, cls, pos, out.address(), batch, kept, width];
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
        let dout = dout.address();
        let patches = dpatches.as_ref().map(|dpatches| dpatches.address());
        if let Some(dpatches) = dpatches {
            let [batch, kept, wide] = [batch, kept, width].map(|size| size as i32);
            let args = args![dout, dpatches.address(), batch, kept, wide];
            self.launch_typed(
                "assemble",
                "assemble_copy",
                LaunchConfig::for_elements(dpatches.len(), T::PACK, 256),
                args,
            )?;
        }
        let first = Rows { address: dout, rows: batch, width, stride: (kept + 1) * width };
        column_sums(self, first, dcls, &scratch)?;
        let Some((dpos, accumulate)) = dpos else { return Ok(()) };
        let what = || DeviceError::Unsupported { what: "learned positions of patches without a gradient".to_owned() };
        let patches = patches.ok_or_else(what)?;
        let (cls, rest) = dpos.split_at(width);
        let table = Table { address: rest.address(), rows: rest.len() / width, width, accumulate };
        scatter(self, ids.address(), batch * kept, (patches, 0), table)?;
        column_sums(self, first, (cls, accumulate), &scratch)
    }
}
