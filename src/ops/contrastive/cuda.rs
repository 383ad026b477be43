//! The contrastive loss on a GPU: `kernels/contrastive.cu`, whose head tells the launches and their scratch.

use super::{Contrastive, Gradients, Inputs, Lse, Shape};
use crate::device::DeviceError;
use crate::device::cuda::{Activation, Cuda, Grid, View, ViewMut, args};
use crate::ops::bias::cuda::add_partials;

/// Rows and columns of a tile of logits, as in `kernels/logits.cuh`.
const TILE: usize = 128;
/// Dynamic shared memory of the gradient kernels.
const GRADIENT_SHARED: usize = 98_304;

/// How a batch is cut: tiles of rows, and shares of the column tiles. A function of the batch alone.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Cut {
    pub tiles: usize,
    pub splits: usize,
    batch: usize,
    width: usize,
}

impl Cut {
    pub fn of(shape: &Shape) -> Self {
        // Two blocks for each of an H100's 132 processors.
        const BLOCKS: usize = 264;
        let tiles = shape.batch.div_ceil(TILE);
        Self { tiles, splits: (BLOCKS / tiles).clamp(1, tiles), batch: shape.batch, width: shape.width }
    }

    /// f32 elements of scratch of one pass over the rows.
    pub fn pass(&self) -> usize {
        (2 * self.splits + 1) * self.batch
    }

    /// f32 elements of scratch for the sums of `kinds` scalars per block.
    fn sums(&self, kinds: usize) -> usize {
        (kinds * self.tiles * self.splits).next_multiple_of(64)
    }

    /// f32 elements of scratch for both directions, with `kinds` scalars whose gradients are sums over all logits.
    pub fn scratch(&self, kinds: usize) -> usize {
        let parts = if self.splits > 1 { self.splits * self.batch * self.width } else { 0 };
        (2 * self.pass()).max(self.sums(kinds) + parts)
    }

    pub fn grid(&self) -> Grid {
        Grid { blocks: [self.tiles as u32, self.splits as u32, 1], threads: [256, 1, 1], shared: 0 }
    }

    /// Runs `launch(grid, to)` so that its parts, which it writes to `to`, add up to `d`.
    pub fn gradient<T: Activation>(
        &self,
        device: &Cuda<T>,
        d: ViewMut<'_, f32>,
        scratch: u64,
        kinds: usize,
        launch: impl FnOnce(Grid, u64) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let grid = self.grid().with_shared(GRADIENT_SHARED);
        if self.splits == 1 {
            return launch(grid, d.address());
        }
        let parts = scratch + 4 * self.sums(kinds) as u64;
        launch(grid, parts)?;
        let len = self.batch * self.width;
        add_partials(device, parts, (self.splits, len, len), (d, false))
    }
}

impl<T: Activation> Contrastive for Cuda<T> {
    fn contrastive_scratch(shape: &Shape) -> usize {
        Cut::of(shape).scratch(1)
    }

    fn contrastive_forward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<ViewMut<'_, f32>>,
        outcome: ViewMut<'_, f32>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let cut = Cut::of(shape);
        let [batch, width, splits] = [shape.batch, shape.width, cut.splits].map(|size| size as i32);
        let (images, texts, scale) = (inputs.images.address(), inputs.texts.address(), inputs.logit_scale.address());
        let parts = scratch.address();
        for (a, b, to) in [(images, texts, parts), (texts, images, parts + 4 * cut.pass() as u64)] {
            let args = args![a, b, scale, to, batch, batch, width, 0i32];
            self.launch("contrastive", "contrastive_lse_f32", cut.grid(), args)?;
        }
        let weight = 1.0 / (2 * shape.batch) as f32;
        let (rows, columns) = (lse.rows.address(), lse.columns.address());
        let args = args![parts, rows, columns, outcome.address(), batch, splits, weight];
        self.launch("contrastive", "contrastive_outcome_f32", Grid::line(1, 1024), args)
    }

    fn contrastive_backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Lse<View<'_, f32>>,
        gradients: Gradients<'_, Self>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let cut = Cut::of(shape);
        let [batch, width] = [shape.batch, shape.width].map(|size| size as i32);
        let (images, texts, scale) = (inputs.images.address(), inputs.texts.address(), inputs.logit_scale.address());
        let (rows, columns, sums) = (lse.rows.address(), lse.columns.address(), scratch.address());
        let weight = 1.0 / (2 * shape.batch) as f32;
        let Gradients { dimages, dtexts, dlogit_scale: (dlogit_scale, accumulate) } = gradients;
        let sides = [(images, texts, rows, columns, sums, dimages), (texts, images, columns, rows, 0, dtexts)];
        for (a, b, lse_a, lse_b, sums_to, d) in sides {
            cut.gradient(self, d, sums, 1, |grid, to| {
                let args = args![a, b, scale, lse_a, lse_b, to, sums_to, batch, batch, width, 0i32, weight];
                self.launch("contrastive", "contrastive_gradient_f32", grid, args)
            })?;
        }
        let blocks = (cut.tiles * cut.splits) as i32;
        let args = args![sums, scale, dlogit_scale.address(), blocks, i32::from(accumulate)];
        self.launch("contrastive", "contrastive_dlogit_scale_f32", Grid::line(1, 256), args)
    }
}
