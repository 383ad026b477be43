//! The contrastive loss on a GPU: `kernels/contrastive.cu`, whose head tells the launches and their scratch.

use super::{Contrastive, Gradients, Inputs, Lse, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::logits::{SHARED, STEP, TILE};
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::add_partials;

/// Two blocks for each of an H100's 132 processors.
const BLOCKS: usize = 264;

/// How a batch is cut: tiles, and shares of them for each block. A function of the batch alone.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Cut {
    batch: usize,
    width: usize,
    tiles: usize,
    /// Tiles of a block of the forward pass: down, and across.
    pub forward: [usize; 2],
    /// Column tiles of a block of the backward pass.
    pub across: usize,
}

impl Cut {
    pub fn of(shape: &Shape) -> Self {
        let tiles = shape.batch.div_ceil(TILE);
        // Across so many shares, and down as many as there are blocks left; of these that with the smallest blocks.
        let cuts = (1..=tiles.min(16)).map(|shares| [tiles.div_ceil(BLOCKS / shares), tiles.div_ceil(shares)]);
        let forward = cuts.min_by_key(|[down, across]| (down * across, down.abs_diff(*across))).unwrap_or([1, 1]);
        let across = tiles.div_ceil((BLOCKS / tiles.max(1)).clamp(1, tiles.max(1)));
        Self { batch: shape.batch, width: shape.width, tiles, forward, across }
    }

    /// Shares of the tiles of rows, and of those of columns, in the forward pass.
    pub fn shares(&self) -> [usize; 2] {
        self.forward.map(|each| self.tiles.div_ceil(each))
    }

    /// Shares of the column tiles in the backward pass.
    fn splits(&self) -> usize {
        self.tiles.div_ceil(self.across)
    }

    /// Blocks of the backward pass.
    pub fn blocks(&self) -> usize {
        self.tiles * self.splits()
    }

    /// Blocks of `STEP` elements in a row of halves.
    pub fn row(&self) -> usize {
        self.width.div_ceil(STEP)
    }

    /// f32 elements of the halves of both towers' rows.
    fn halves(&self) -> usize {
        2 * self.tiles * TILE * self.row() * STEP
    }

    /// f32 elements of scratch for the sums of `kinds` scalars per block.
    fn sums(&self, kinds: usize) -> usize {
        (kinds * self.blocks()).next_multiple_of(64)
    }

    /// f32 elements of scratch for both directions, with `kinds` scalars whose gradients are sums over all logits.
    pub fn scratch(&self, kinds: usize) -> usize {
        let [rows, columns] = self.shares();
        let forward = (2 * (rows + columns) + 1) * self.batch;
        let parts = if self.splits() > 1 { self.splits() * self.batch * self.width } else { 0 };
        self.halves() + forward.max(self.sums(kinds) + parts)
    }

    /// Splits images and texts; the addresses of their halves and of the rest of the scratch.
    pub fn split<T: ActType>(
        &self,
        device: &Cuda<T>,
        [images, texts]: [u64; 2],
        scratch: u64,
    ) -> Result<[u64; 3], DeviceError> {
        let bytes = 2 * self.halves() as u64;
        let config = LaunchConfig::blocks(2 * self.tiles * self.row(), 256);
        for (from, to) in [(images, scratch), (texts, scratch + bytes)] {
            device.launch("split", "split_halves", config, args![from, to, self.batch as i32, self.width as i32])?;
        }
        Ok([scratch, scratch + bytes, scratch + 2 * bytes])
    }

    pub fn forward_config(&self) -> LaunchConfig {
        let [rows, columns] = self.shares();
        LaunchConfig { blocks: [columns as u32, rows as u32, 1], threads: [256, 1, 1], shared: 0 }.with_shared(SHARED)
    }

    /// Runs `launch(grid, to)` so that its parts, which it writes to `to`, add up to `d`. `sums`: what follows the halves.
    pub fn gradient<T: ActType>(
        &self,
        device: &Cuda<T>,
        d: ViewMut<'_, f32>,
        sums: u64,
        kinds: usize,
        launch: impl FnOnce(LaunchConfig, u64) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let blocks = [self.tiles as u32, self.splits() as u32, 1];
        let config = LaunchConfig { blocks, threads: [256, 1, 1], shared: 0 }.with_shared(SHARED);
        if self.splits() == 1 {
            return launch(config, d.address());
        }
        let parts = sums + 4 * self.sums(kinds) as u64;
        launch(config, parts)?;
        let len = self.batch * self.width;
        add_partials(device, parts, (self.splits(), len, len), (d, false))
    }
}

impl<T: ActType> Contrastive for Cuda<T> {
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
        let [batch, row, down, across] =
            [shape.batch, cut.row(), cut.forward[0], cut.forward[1]].map(|size| size as i32);
        let towers = [inputs.images.address(), inputs.texts.address()];
        let [images, texts, parts] = cut.split(self, towers, scratch.address())?;
        let args = args![images, texts, inputs.logit_scale.address(), parts, batch, batch, row, 0i32, down, across];
        self.launch("contrastive", "contrastive_lse_f32", cut.forward_config(), args)?;
        let weight = 1.0 / (2 * shape.batch) as f32;
        let (rows, columns) = (lse.rows.address(), lse.columns.address());
        let [row_shares, column_shares] = cut.shares().map(|shares| shares as i32);
        let args = args![parts, rows, columns, outcome.address(), batch, row_shares, column_shares, weight];
        self.launch("contrastive", "contrastive_outcome_f32", LaunchConfig::blocks(1, 1024), args)
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
        let [batch, width, row, across] = [shape.batch, shape.width, cut.row(), cut.across].map(|size| size as i32);
        let scale = inputs.logit_scale.address();
        let towers = [inputs.images.address(), inputs.texts.address()];
        let [images, texts, sums] = cut.split(self, towers, scratch.address())?;
        let (rows, columns) = (lse.rows.address(), lse.columns.address());
        let weight = 1.0 / (2 * shape.batch) as f32;
        let Gradients { dimages, dtexts, dlogit_scale: (dlogit_scale, accumulate) } = gradients;
        let sides = [(images, texts, rows, columns, sums, dimages), (texts, images, columns, rows, 0, dtexts)];
        for (a, b, lse_a, lse_b, sums_to, d) in sides {
            cut.gradient(self, d, sums, 1, |config, to| {
                let args =
                    args![a, b, scale, lse_a, lse_b, to, sums_to, batch, batch, width, row, 0i32, across, weight];
                self.launch("contrastive", "contrastive_gradient_f32", config, args)
            })?;
        }
        let blocks = cut.blocks() as i32;
        let args = args![sums, scale, dlogit_scale.address(), blocks, i32::from(accumulate)];
        self.launch("contrastive", "contrastive_dlogit_scale_f32", LaunchConfig::blocks(1, 256), args)
    }
}
