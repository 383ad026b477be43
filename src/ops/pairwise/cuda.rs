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

/// How the tiles of the logits of a part are divided among blocks: a function of its rows and columns alone.
#[derive(Clone, Copy)]
struct Cut {
    shape: Shape,
    /// Tiles of rows and of columns.
    tiles: [usize; 2],
    /// Tiles of a block of the forward pass: down, and across.
    forward: [usize; 2],
    /// Column tiles of a block of the backward pass.
    across: usize,
}

impl Cut {
    fn of(shape: &Shape) -> Self {
        let tiles = [shape.rows, shape.columns].map(|rows| rows.div_ceil(TILE));
        let [down, across] = tiles;
        // A part of few rows is cut into more shares than a whole batch.
        let most = across.min((BLOCKS / down.max(1)).max(16));
        // For each number of shares across, as many down as blocks are left; the cut with the smallest blocks is taken.
        let cuts = (1..=most).map(|shares| [down.div_ceil((BLOCKS / shares).max(1)), across.div_ceil(shares)]);
        let forward = cuts.min_by_key(|[down, across]| (down * across, down.abs_diff(*across))).unwrap_or([1, 1]);
        let across = across.div_ceil((BLOCKS / down.max(1)).clamp(1, across.max(1)));
        Self { shape: *shape, tiles, forward, across }
    }

    /// Shares of the tiles of rows, and of those of columns, in the forward pass.
    fn shares(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.tiles[axis].div_ceil(self.forward[axis]))
    }

    /// Shares of the column tiles in the backward pass.
    fn splits(&self) -> usize {
        self.tiles[1].div_ceil(self.across)
    }

    /// Blocks of the backward pass.
    fn blocks(&self) -> usize {
        self.tiles[0] * self.splits()
    }

    /// Blocks of `STEP` elements in a row of halves.
    fn row(&self) -> usize {
        self.shape.width.div_ceil(STEP)
    }

    /// Tiles of halves of one tower. A tile of rows that begins inside a tile of the batch may reach beyond its last
    /// one.
    fn tiles_of_halves(&self) -> usize {
        self.tiles[1] + usize::from(!self.shape.first.is_multiple_of(TILE))
    }

    /// f32 elements of the halves of both towers' rows.
    fn halves(&self) -> usize {
        2 * self.tiles_of_halves() * TILE * self.row() * STEP
    }

    /// f32 elements of scratch for the sums of `kinds` scalars per block.
    fn sums(&self, kinds: usize) -> usize {
        (kinds * self.blocks()).next_multiple_of(64)
    }

    /// f32 elements of scratch for both directions, with `kinds` scalars whose gradients are sums over all logits.
    fn scratch(&self, kinds: usize) -> usize {
        let ([down, across], Shape { rows, columns, width, .. }) = (self.shares(), self.shape);
        let forward = (2 * across + 1) * rows + 2 * down * columns;
        let parts = if self.splits() > 1 { self.splits() * rows * width } else { 0 };
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
        let config = LaunchConfig::blocks(2 * self.tiles_of_halves() * self.row(), 256);
        for (from, to) in [(inputs.images, &images), (inputs.texts, &texts)] {
            device.launch("split", "split_halves", config, args![from, to, self.shape.columns, self.shape.width])?;
        }
        Ok(Split { images, texts, rest })
    }

    /// The part's own rows of halves.
    fn own<'a>(&self, halves: &'a ViewMut<'_, f32>) -> View<'a, f32> {
        halves.as_view().split_at(self.shape.first * self.row() * STEP).1
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
        let config = LaunchConfig::blocks_2d([self.tiles[0], self.splits()], [256, 1]).with_shared(SHARED);
        if self.splits() == 1 {
            return launch(config, Arg::from(&d));
        }
        launch(config, Arg::from(&parts))?;
        let len = self.shape.rows * self.shape.width;
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
        let (cut, &Shape { rows, first, columns, .. }) = (Cut::of(shape), shape);
        let Split { images, texts, rest: parts } = cut.split(self, &inputs, scratch)?;
        let bias = inputs.logit_bias.as_ref().map(Arg::from);
        let lse = lse.map(|lse| [Arg::from(&lse.rows), Arg::from(&lse.columns)]);
        let ([down, across], [row_shares, column_shares]) = (cut.forward, cut.shares());
        let weight = weight::<L>(columns);
        let tiles = |a: View<'_, f32>, b: &ViewMut<'_, f32>| {
            let before = args![a, b, inputs.logit_scale];
            let after = args![parts, rows, columns, cut.row(), first, down, across];
            let args = [before, bias.as_slice(), after].concat();
            self.launch(L::NAME, L::FORWARD_KERNEL, cut.forward_config(), &args)
        };
        let block = LaunchConfig::blocks(1, 1024);
        if shape.is_whole() {
            // One pass over the square has both sides.
            tiles(images.as_view(), &texts)?;
            let after = args![outcome, rows, row_shares, column_shares, weight];
            let args = [args![parts], lse.as_ref().map_or(&[][..], |lse| &lse[..]), after].concat();
            return self.launch(L::NAME, &format!("{}_outcome_f32", L::NAME), block, &args);
        }
        for (side, (a, b)) in [(&images, &texts), (&texts, &images)].into_iter().enumerate() {
            tiles(cut.own(a), b)?;
            let after = args![outcome, rows, column_shares, side, weight];
            let args = [args![parts], lse.as_ref().map_or(&[][..], |lse| &lse[side..=side]), after].concat();
            self.launch(L::NAME, &format!("{}_side_outcome_f32", L::NAME), block, &args)?;
        }
        Ok(())
    }

    fn pairwise_backward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<View<'_, f32>>>,
        gradients: Gradients<'_, Self>,
        scratch: ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let (cut, &Shape { rows, first, columns, width }) = (Cut::of(shape), shape);
        let Gradients { dimages, dtexts, dlogit_scale, dlogit_bias } = gradients;
        let Split { images, texts, rest } = cut.split(self, &inputs, scratch)?;
        let (sums, parts) = rest.split_at(cut.sums(scalars(inputs.logit_bias.is_some())));
        let bias = inputs.logit_bias.as_ref().map(Arg::from);
        // The part's rows of one side, and all of the other.
        let lse = lse.map(|Lse { rows, columns }| {
            let sides = [(rows, columns), (columns, rows)];
            sides.map(|(own, all)| [Arg::from(&own.split_at(first).1), Arg::from(&all)])
        });
        // Only the images' side sums the scalars' gradients.
        let sides = [(&images, &texts, Some(sums.as_view()), dimages), (&texts, &images, None, dtexts)];
        for (side, (a, b, sums, d)) in sides.into_iter().enumerate() {
            cut.gradient(self, d, parts.as_view(), |config, to| {
                let before = args![cut.own(a), b, inputs.logit_scale];
                let lse = lse.as_ref().map_or(&[][..], |lse| &lse[side][..]);
                let weight = weight::<L>(columns);
                let after = args![to, sums, rows, columns, width, cut.row(), first, cut.across, weight];
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
