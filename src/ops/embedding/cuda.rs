//! Token embedding on a GPU: `kernels/embedding.cu`.

use super::{Embedding, Gradients, Shape};
use crate::device::DeviceError;
use crate::device::cuda::kernels::embedding::{DIGIT_BITS, DIGITS, PIECE, SEGMENT};
use crate::device::cuda::{ActType, Cuda, LaunchConfig, View, ViewMut, args};
use crate::ops::bias::cuda::{Rows, column_sums, column_sums_scratch_len};

/// A table's gradient.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Table {
    /// Its address.
    pub address: u64,
    /// Rows of the table.
    pub rows: usize,
    /// Columns of the table.
    pub width: usize,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

/// Lengths of the lists that the launches of `embedding_sum` take: the places, then the partial rows of the launch
/// before.
fn list_lens(places: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(places), |len| (*len > PIECE).then(|| 2 * len.div_ceil(PIECE)))
}

/// f32 elements of scratch for [`scatter`].
pub(in crate::ops) fn scatter_scratch_len(places: usize, width: usize) -> usize {
    // Two lists of entries, of two numbers each, which the sort uses in turns; counts and totals of digits.
    let sort = 4 * places + DIGITS * (places.div_ceil(SEGMENT) + 1);
    sort + list_lens(places).skip(1).map(|len| len * (2 + width)).sum::<usize>()
}

/// `table[v] (+)= Σ rows[i]` over the places `i` with `indices[i] = v`, in a fixed order; `indices: [places]`, 32 bits
/// each; `rows: [places, width]`; `scratch`: [`scatter_scratch_len`] elements.
///
/// # Errors
/// If a launch fails.
pub(in crate::ops) fn scatter<T: ActType>(
    device: &Cuda<T>,
    indices: u64,
    places: usize,
    rows: u64,
    table: Table,
    scratch: &ViewMut<'_, f32>,
) -> Result<(), DeviceError> {
    let Table { address: to, rows: vocab, width, accumulate } = table;
    let mut free = scratch.address();
    let mut take = |elements: usize| {
        free += 4 * elements as u64;
        free - 4 * elements as u64
    };
    let lists = [take(2 * places), take(2 * places)];
    let segments = places.div_ceil(SEGMENT);
    let (counts, totals) = (take(DIGITS * segments), take(DIGITS));
    let bits = (usize::BITS - vocab.saturating_sub(1).leading_zeros()) as usize;
    let mut list = 0u64;
    for digit in 0..bits.div_ceil(DIGIT_BITS).max(1) {
        let (sorted, shift) = (lists[digit % 2], digit * DIGIT_BITS);
        let blocks = LaunchConfig::blocks(segments, 256);
        device.launch("embedding", "embedding_count", blocks, args![indices, list, counts, places, shift])?;
        let scan = LaunchConfig::blocks(DIGITS / 8, 256);
        device.launch("embedding", "embedding_scan", scan, args![counts, totals, segments])?;
        let args = args![indices, list, counts, totals, sorted, places, shift];
        device.launch("embedding", "embedding_sort", blocks, args)?;
        list = sorted;
    }
    if !accumulate {
        let config = LaunchConfig::blocks(vocab.div_ceil(256), 256);
        device.launch("embedding", "embedding_clear", config, args![list, to, places, width, vocab])?;
    }
    let (mut rows, mut kernel, mut pack) = (rows, format!("embedding_sum_{}", T::SUFFIX), T::PACK);
    for len in list_lens(places) {
        let pieces = len.div_ceil(PIECE);
        let (next, partials) = if pieces > 1 { (take(4 * pieces), take(2 * pieces * width)) } else { (0, 0) };
        let groups = 256 / (width / pack).next_multiple_of(32).min(256);
        let config = LaunchConfig::blocks(pieces.div_ceil(groups), 256);
        device.launch("embedding", &kernel, config, args![list, rows, to, next, partials, len, width, accumulate])?;
        // Partial rows are f32.
        (list, rows, kernel, pack) = (next, partials, "embedding_sum_f32".to_owned(), 4);
    }
    Ok(())
}

impl<T: ActType> Embedding for Cuda<T> {
    fn embedding_scratch(shape: &Shape) -> usize {
        let &Shape { batch, context, width, .. } = shape;
        scatter_scratch_len(batch * context, width).max(column_sums_scratch_len(batch, context * width))
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
        scatter(self, tokens.address(), batch * context, dout.address(), table, &scratch)?;
        let samples = Rows { x: dout, rows: batch, width: context * width, stride: context * width };
        column_sums(self, samples, dpos, &scratch)
    }
}
