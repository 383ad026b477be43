//! Losses over all pairs on a GPU: `kernels/contrastive.cu` and `kernels/sigmoid.cu`, whose headers document the
//! launches and their scratch.

use super::{Gradients, Inputs, Lse, PairLoss, Pairwise, Shape};
use crate::autograd::GradMut;
use crate::device::DeviceError;
use crate::device::cuda::kernels::logits::{SHARED, STEP, TILE};
use crate::device::cuda::{ActType, Arg, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, add_partials};

/// Two blocks for each of an H100's 132 SMs.
const BLOCKS: usize = 264;

/// How the tiles of a batch are divided among blocks: a function of the batch alone.
#[derive(Clone, Copy)]
struct Cut {
    batch: usize,
    width: usize,
    tiles: usize,
    /// Tiles of a block of the forward pass: down, and across.
    forward: [usize; 2],
    /// Column tiles of a block of the backward pass.
    across: usize,
}

impl Cut {
    fn of(shape: &Shape) -> Self {
        let tiles = shape.batch.div_ceil(TILE);
        // Across so many shares, and down as many as there are blocks left; of these that with the smallest blocks.
        let cuts = (1..=tiles.min(16)).map(|shares| [tiles.div_ceil(BLOCKS / shares), tiles.div_ceil(shares)]);
        let forward = cuts.min_by_key(|[down, across]| (down * across, down.abs_diff(*across))).unwrap_or([1, 1]);
        let across = tiles.div_ceil((BLOCKS / tiles.max(1)).clamp(1, tiles.max(1)));
        Self { batch: shape.batch, width: shape.width, tiles, forward, across }
    }

    /// Shares of the tiles of rows, and of those of columns, in the forward pass.
    fn shares(&self) -> [usize; 2] {
        self.forward.map(|each| self.tiles.div_ceil(each))
    }

    /// Shares of the column tiles in the backward pass.
    fn splits(&self) -> usize {
        self.tiles.div_ceil(self.across)
    }

    /// Blocks of the backward pass.
    fn blocks(&self) -> usize {
        self.tiles * self.splits()
    }

    /// Blocks of `STEP` elements in a row of halves.
    fn row(&self) -> usize {
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
    fn scratch(&self, kinds: usize) -> usize {
        let [rows, columns] = self.shares();
        let forward = (2 * (rows + columns) + 1) * self.batch;
        let parts = if self.splits() > 1 { self.splits() * self.batch * self.width } else { 0 };
        self.halves() + forward.max(self.sums(kinds) + parts)
    }

    /// Splits the rows of both towers into two f16 each, in scratch.
    fn split<'a, T: ActType>(
        &self,
        device: &Cuda<T>,
        inputs: &Inputs<'_, Cuda<T>>,
        scratch: ViewMut<'a, f32>,
    ) -> Result<Split<'a>, DeviceError> {
        let (images, rest) = scratch.split_at(self.halves() / 2);
        let (texts, rest) = rest.split_at(self.halves() / 2);
        let config = LaunchConfig::blocks(2 * self.tiles * self.row(), 256);
        for (from, to) in [(inputs.images, &images), (inputs.texts, &texts)] {
            device.launch("split", "split_halves", config, args![from, to, self.batch, self.width])?;
        }
        Ok(Split { images, texts, rest })
    }

    fn forward_config(&self) -> LaunchConfig {
        let [rows, columns] = self.shares();
        LaunchConfig::blocks_2d([columns, rows], [256, 1]).with_shared(SHARED)
    }

    /// Runs `launch(config, to)` so that what it writes to `to` adds up to `d`: shares in `parts` if there are several,
    /// else `d` itself.
    fn gradient<T: ActType>(
        &self,
        device: &Cuda<T>,
        d: ViewMut<'_, f32>,
        parts: View<'_, f32>,
        launch: impl FnOnce(LaunchConfig, Arg) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let config = LaunchConfig::blocks_2d([self.tiles, self.splits()], [256, 1]).with_shared(SHARED);
        if self.splits() == 1 {
            return launch(config, Arg::from(&d));
        }
        launch(config, Arg::from(&parts))?;
        let len = self.batch * self.width;
        let parts = Rows { x: parts, rows: self.splits(), width: len, stride: len };
        add_partials(device, parts, GradMut { view: d, accumulate: false })
    }
}

/// Both towers' rows as halves, and the rest of the scratch.
struct Split<'a> {
    images: ViewMut<'a, f32>,
    texts: ViewMut<'a, f32>,
    rest: ViewMut<'a, f32>,
}

/// The kernels take rows and columns of the logits and the column of the first row's pair, so that they could work on a
/// part. Here they work on all logits.
const OFFSET: usize = 0;

impl<T: ActType> Pairwise for Cuda<T> {
    fn pairwise_scratch(shape: &Shape, bias: bool) -> usize {
        Cut::of(shape).scratch(scalars(bias))
    }

    fn pairwise_forward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<ViewMut<'_, f32>>>,
        outcome: ViewMut<'_, f32>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let (cut, batch) = (Cut::of(shape), shape.batch);
        let Split { images, texts, rest: parts } = cut.split(self, &inputs, scratch)?;
        let bias = inputs.logit_bias.as_ref().map(Arg::from);
        let ([down, across], row) = (cut.forward, cut.row());
        let before = args![images, texts, inputs.logit_scale];
        let args = [before, bias.as_slice(), args![parts, batch, batch, row, OFFSET, down, across]].concat();
        self.launch(L::NAME, L::FORWARD_KERNEL, cut.forward_config(), &args)?;
        let lse = lse.map(|lse| [Arg::from(&lse.rows), Arg::from(&lse.columns)]);
        let [row_shares, column_shares] = cut.shares();
        let after = args![outcome, batch, row_shares, column_shares, weight::<L>(batch)];
        let args = [args![parts], lse.as_ref().map_or(&[][..], |lse| &lse[..]), after].concat();
        self.launch(L::NAME, &format!("{}_outcome_f32", L::NAME), LaunchConfig::blocks(1, 1024), &args)
    }

    fn pairwise_backward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<View<'_, f32>>>,
        gradients: Gradients<'_, Self>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let (cut, &Shape { batch, width }) = (Cut::of(shape), shape);
        let Gradients { dimages, dtexts, dlogit_scale, dlogit_bias } = gradients;
        let Split { images, texts, rest } = cut.split(self, &inputs, scratch)?;
        let (sums, parts) = rest.split_at(cut.sums(scalars(inputs.logit_bias.is_some())));
        let bias = inputs.logit_bias.as_ref().map(Arg::from);
        let lse = lse.map(|lse| [Arg::from(&lse.rows), Arg::from(&lse.columns)]);
        let swapped = lse.map(|[rows, columns]| [columns, rows]);
        // Only the images' side sums the scalars' gradients.
        let sides = [(&images, &texts, lse, Some(sums.as_view()), dimages), (&texts, &images, swapped, None, dtexts)];
        for (a, b, lse, sums, d) in sides {
            cut.gradient(self, d, parts.as_view(), |config, to| {
                let before = args![a, b, inputs.logit_scale];
                let lse = lse.as_ref().map_or(&[][..], |lse| &lse[..]);
                let weight = weight::<L>(batch);
                let after = args![to, sums, batch, batch, width, cut.row(), OFFSET, cut.across, weight];
                let args = [before, bias.as_slice(), lse, after].concat();
                self.launch(L::NAME, &format!("{}_gradient_f32", L::NAME), config, &args)
            })?;
        }
        let [dbias, add_bias] = match &dlogit_bias {
            Some(grad) => [Some(Arg::from(&grad.view)), Some(Arg::from(&grad.accumulate))],
            None => [None; 2],
        };
        let before = args![sums, inputs.logit_scale, dlogit_scale.view];
        let after = args![cut.blocks(), dlogit_scale.accumulate];
        let args = [before, dbias.as_slice(), after, add_bias.as_slice()].concat();
        self.launch(L::NAME, L::SCALARS_KERNEL, LaunchConfig::blocks(1, 256), &args)
    }
}

/// Scalars with gradients that are sums over all logits.
fn scalars(bias: bool) -> usize {
    1 + usize::from(bias)
}

fn weight<L: PairLoss>(batch: usize) -> f32 {
    1.0 / L::terms(batch) as f32
}
