//! Token embedding on a GPU: `kernels/embedding.cu`.

use super::{Embedding, Gradients, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::embedding::{ROWS, SEGMENT};
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};

/// Dynamic shared memory that is used for more groups than one.
const SHARED: usize = 48 * 1024;

/// A table's gradient.
#[derive(Clone, Copy)]
pub struct Table {
    pub address: u64,
    pub rows: usize,
    pub width: usize,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

/// `table[v] (+)= Σ rows[i]` over the places `i` with `indices[i] = v`, in a fixed order; `indices: [places]`, 32 bits each;
/// `rows: [places, width]`; `merged`: sums over rows that `embedding_merge` made, and to which its indices refer, or 0.
pub fn scatter<T: ActType>(
    device: &Cuda<T>,
    indices: u64,
    places: usize,
    (rows, merged): (u64, u64),
    table: Table,
) -> Result<(), DeviceError> {
    let Table { address, rows: count, width, accumulate } = table;
    let sums = ROWS * width * 4;
    let groups = (256 / (width / T::PACK)).min(SHARED / sums).max(1);
    let config = LaunchConfig::blocks(count.div_ceil(ROWS), 256).with_shared(groups * sums);
    let args = args![indices, rows, merged, address, places, width, count, groups, accumulate];
    device.launch_typed("embedding", "embedding_backward", config, args)
}

impl<T: ActType> Embedding for Cuda<T> {
    fn embedding_scratch(shape: &Shape) -> usize {
        let &Shape { batch, context, width, .. } = shape;
        // Sums of equal tokens, and the tokens that are left.
        (batch * context * (width + 1)).max(column_sums_scratch_len(batch, context * width))
    }

    fn embedding_forward(
        &self,
        shape: &Shape,
        tokens: View<'_, i32>,
        table: View<'_, T>,
        pos: View<'_, f32>,
        out: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, context, width, .. } = shape;
        Self::check_width("embedding", width)?;
        let args = args![tokens, table, pos, out, batch * context, context, width];
        self.launch_typed("embedding", "embedding_forward", LaunchConfig::for_elements(out.len(), T::PACK, 256), args)
    }

    fn embedding_backward(
        &self,
        shape: &Shape,
        tokens: View<'_, i32>,
        dout: View<'_, T>,
        gradients: Gradients<'_, Self>,
    ) -> Result<(), DeviceError> {
        let &Shape { batch, context, width, vocab } = shape;
        let Gradients { dtable, dpos, scratch } = gradients;
        let table = Table { address: dtable.view.address(), rows: vocab, width, accumulate: dtable.accumulate };
        let (places, sums) = (batch * context, scratch.address());
        let rest = sums + 4 * (places * width) as u64;
        let args = args![tokens, dout, rest, sums, places, width];
        self.launch_typed("embedding", "embedding_merge", LaunchConfig::blocks(places.div_ceil(SEGMENT), 256), args)?;
        scatter(self, rest, places, (dout.address(), sums), table)?;
        let samples = Rows { x: dout, rows: batch, width: context * width, stride: context * width };
        column_sums(self, samples, dpos, &scratch)
    }
}
