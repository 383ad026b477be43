//! Losses over all pairs on the CPU: at most `TILE x TILE` logits per thread are ever in memory.
//!
//! Each direction makes two passes, one by images and one by texts; the second is the first with the towers swapped.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::{Gradients, IMAGE_CORRECT, Inputs, LOSS, Lse, MAX_LOGIT_SCALE, PairLoss, Pairwise, Shape, TEXT_CORRECT};
use crate::device::gemm::{GemmOptions, Operands, Strides, gemm};
use crate::device::{Cpu, DeviceError};
use crate::simd::{max, wide};

/// Rows and columns of a tile.
pub const TILE: usize = 128;

thread_local! {
    /// One tile of logits, kept by each thread.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One row of a tile of logits in the forward pass.
#[derive(Clone, Copy)]
pub struct RowTile {
    /// Whether rows are images; in the other pass they are texts.
    pub by_image: bool,
    /// The row within its block.
    pub row: usize,
    /// Where the row's own pair is among the logits, if this tile has it.
    pub pair: Option<usize>,
    /// The largest logit of the row before this tile.
    pub max_before: f32,
    /// The largest logit of the row, this tile included.
    pub row_max: f32,
    /// `logit_bias`, or 0.
    pub bias: f32,
}

/// One row of a tile of logits in the backward pass.
#[derive(Clone, Copy)]
pub struct GradTile<'a> {
    /// Where the row's own pair is among the logits, if this tile has it.
    pub pair: Option<usize>,
    /// The log-sum-exp of the row, if the loss needs it.
    pub row_lse: f32,
    /// The log-sum-exps of the columns, if the loss needs them.
    pub column_lse: &'a [f32],
    /// What each term of the loss weighs: 1 over their number.
    pub weight: f32,
    /// `logit_bias`, or 0.
    pub bias: f32,
}

impl Pairwise for Cpu {
    fn pairwise_scratch(_: &Shape, _: bool) -> usize {
        0
    }

    fn pairwise_forward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<&mut [f32]>>,
        outcome: &mut [f32],
        _: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Inputs { images, texts, logit_scale, logit_bias } = inputs;
        let scalars = (temperature(logit_scale[0]), logit_bias.map_or(0.0, |bias| bias[0]));
        let (rows, columns) = lse.map(|lse| (lse.rows, lse.columns)).unzip();
        let (by_image, image_correct) = forward_pass::<L>(true, images, texts, shape, scalars, rows);
        let (by_text, text_correct) = forward_pass::<L>(false, texts, images, shape, scalars, columns);
        outcome[LOSS] = ((by_image + by_text) / L::terms(shape.columns) as f64) as f32;
        outcome[IMAGE_CORRECT] = image_correct as f32;
        outcome[TEXT_CORRECT] = text_correct as f32;
        Ok(())
    }

    fn pairwise_backward<L: PairLoss>(
        &self,
        shape: &Shape,
        inputs: Inputs<'_, Self>,
        lse: Option<Lse<&[f32]>>,
        gradients: Gradients<'_, Self>,
        _: &mut [f32],
    ) -> Result<(), DeviceError> {
        let Inputs { images, texts, logit_scale, logit_bias } = inputs;
        let scalars = (temperature(logit_scale[0]), logit_bias.map_or(0.0, |bias| bias[0]));
        let swapped = lse.map(|Lse { rows, columns }| Lse { rows: columns, columns: rows });
        let pass = |a, b, lse, da| gradient_pass::<L>(a, b, shape, scalars, lse, da);
        let [along_scale, along_bias] = pass(images, texts, lse, gradients.dimages);
        pass(texts, images, swapped, gradients.dtexts);
        // No gradient where the clip holds the temperature.
        if (0.0..=MAX_LOGIT_SCALE).contains(&logit_scale[0]) {
            gradients.dlogit_scale.sum_into()[0] += along_scale as f32;
        } else {
            gradients.dlogit_scale.sum_into();
        }
        if let Some(dlogit_bias) = gradients.dlogit_bias {
            dlogit_bias.sum_into()[0] += along_bias as f32;
        }
        Ok(())
    }
}

/// `τ = exp(clip(logit_scale, 0, ln 100))`.
fn temperature(logit_scale: f32) -> f32 {
    libm::expf(logit_scale.clamp(0.0, MAX_LOGIT_SCALE))
}

/// The share of the part's rows of `τ a bᵀ` in the sum of all terms, and how many of them have their largest logit at
/// their pair.
fn forward_pass<L: PairLoss>(
    by_image: bool,
    a: &[f32],
    b: &[f32],
    shape: &Shape,
    (scale, bias): (f32, f32),
    lse: Option<&mut [f32]>,
) -> (f64, usize) {
    let width = shape.width;
    let of_block = |block: usize, a: &[f32], lse: &mut [f32]| {
        let (mut row_max, mut own) = ([f32::NEG_INFINITY; TILE], [f32::NEG_INFINITY; TILE]);
        let (mut sums, rows) = (L::ZERO, a.len() / width);
        for_tiles(a, b, width, scale, |first, logits| {
            let columns = logits.len() / rows;
            for (row, logits) in logits.chunks_exact(columns).enumerate() {
                let pair = pair(shape.first + block * TILE + row, first, columns);
                if let Some(pair) = pair {
                    own[row] = logits[pair];
                }
                let max_before = row_max[row];
                wide(
                    #[inline(always)]
                    || {
                        row_max[row] = max(logits).max(max_before);
                        let tile = RowTile { by_image, row, pair, max_before, row_max: row_max[row], bias };
                        L::add(&mut sums, tile, logits);
                    },
                );
            }
        });
        let (row_max, own) = (&row_max[..rows], &own[..rows]);
        let correct = own.iter().zip(row_max).filter(|(own, max)| own >= max).count();
        (L::finish(&sums, row_max, own, lse), correct)
    };
    let blocks = own(a, shape).par_chunks(TILE * width).enumerate();
    let parts: Vec<(f64, usize)> = match lse {
        Some(lse) => blocks.zip(lse.par_chunks_mut(TILE)).map(|((block, a), lse)| of_block(block, a, lse)).collect(),
        None => blocks.map(|(block, a)| of_block(block, a, &mut [])).collect(),
    };
    parts.into_iter().fold((0.0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
}

/// `da = τ G b`, where `G` is the gradient of the logits with the part's rows of `a` as rows; returns `Σ G ∘ L` and
/// `Σ G`.
fn gradient_pass<L: PairLoss>(
    a: &[f32],
    b: &[f32],
    shape: &Shape,
    (scale, bias): (f32, f32),
    lse: Option<Lse<&[f32]>>,
    da: &mut [f32],
) -> [f64; 2] {
    let (width, weight) = (shape.width, 1.0 / L::terms(shape.columns) as f32);
    let add = |a: [f64; 2], b: [f64; 2]| [a[0] + b[0], a[1] + b[1]];
    let blocks = da.par_chunks_mut(TILE * width).zip(own(a, shape).par_chunks(TILE * width)).enumerate();
    let parts: Vec<[f64; 2]> = blocks
        .map(|(block, (da, a))| {
            let (mut sums, rows) = ([0.0; 2], a.len() / width);
            for_tiles(a, b, width, scale, |first, logits| {
                let columns = logits.len() / rows;
                for (index, logits) in logits.chunks_exact_mut(columns).enumerate() {
                    let row = shape.first + block * TILE + index;
                    let row_lse = lse.map_or(0.0, |lse| lse.rows[row]);
                    let column_lse = lse.map_or(&[][..], |lse| &lse.columns[first..first + columns]);
                    let tile = GradTile { pair: pair(row, first, columns), row_lse, column_lse, weight, bias };
                    sums = add(sums, L::gradient(tile, logits));
                }
                let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
                let options = GemmOptions { operands: Operands::F32, scale, accumulate: first > 0, parallel: false };
                let b = &b[first * width..(first + columns) * width];
                gemm((rows, width, columns), (&mut *da, wide_rows), (logits, square), (b, wide_rows), options);
            });
            sums
        })
        .collect();
    parts.into_iter().fold([0.0; 2], add)
}

/// The part's rows.
fn own<'a>(a: &'a [f32], shape: &Shape) -> &'a [f32] {
    let Range { start, end } = shape.own();
    &a[start * shape.width..end * shape.width]
}

/// Calls `body(first column, logits)` for each tile `τ a bᵀ`; `a` is one block of rows, `b` is cut into tiles.
fn for_tiles(a: &[f32], b: &[f32], width: usize, scale: f32, mut body: impl FnMut(usize, &mut [f32])) {
    LOGITS.with_borrow_mut(|logits| {
        logits.resize(TILE * TILE, 0.0);
        for (tile, b) in b.chunks(TILE * width).enumerate() {
            let (rows, columns) = (a.len() / width, b.len() / width);
            let logits = &mut logits[..rows * columns];
            let (wide_rows, square) = (Strides::row_major(width), Strides::row_major(columns));
            let options = GemmOptions { operands: Operands::F32, scale, accumulate: false, parallel: false };
            gemm((rows, columns, width), (logits, square), (a, wide_rows), (b, wide_rows.transposed()), options);
            body(tile * TILE, logits);
        }
    });
}

/// Where the pair of a row is among the `columns` from `first` on, if it is one of them.
fn pair(row: usize, first: usize, columns: usize) -> Option<usize> {
    row.checked_sub(first).filter(|column| *column < columns)
}
