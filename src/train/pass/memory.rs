//! How much memory a training step needs, and what fits.

use super::{GradientTree, Keep, RecordedTowers, StepSize, record_towers};
use crate::autograd::{Recompute, Tape};
use crate::device::DeviceError;
use crate::model::Flip;
use crate::ops::AllOps;
use crate::ops::pairwise::Parts;

/// Bytes that a step allocates besides weights, gradients and moments: activations, the inputs that are uploaded ahead,
/// and in micro-batches the embeddings of the whole batch and sums of gradients. Nothing is allocated here; the step is
/// only planned. [`Keep::Auto`] counts as [`Keep::One`].
pub fn step_bytes<D: AllOps>(flip: &Flip, size: StepSize) -> usize {
    let pixels = size.kept * flip.config.patch_len();
    let inputs = size.rows() * (pixels + size_of::<u32>() * (flip.config.context + size.kept));
    if size.micro_batches <= 1 {
        let mut tape = Tape::<D>::new(flip.layout().clone());
        tape.recompute(size.recompute);
        flip.record(&mut tape, size.batch, size.kept);
        return inputs + tape.training_bytes();
    }
    let RecordedTowers { tape, embeddings, .. } = record_towers::<D>(flip, size);
    let towers = tape.training_bytes_from(|plan| {
        embeddings.into_iter().for_each(|var| _ = plan.seed(var));
    });
    let programs = if size.keep == Keep::All { size.leaves() } else { 1 };
    let sizes = [size.micro_batches, size.rows(), flip.config.embed_dim];
    let loss = Parts::<D>::planned_bytes(sizes, flip.loss_scalars().1.is_some());
    let sums = GradientTree::<D>::depth(size.leaves()) * flip.layout().arena_len() * size_of::<f32>();
    programs * (inputs + towers) + loss + sums
}

/// The largest multiple of 8 for which `fits` holds; `None` if 8 does not fit. `fits` is true up to some number.
pub fn largest_batch(fits: impl Fn(usize) -> bool) -> Option<usize> {
    if !fits(8) {
        return None;
    }
    let (mut low, mut high) = (1, 2);
    while fits(8 * high) {
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(8 * middle) { low = middle } else { high = middle }
    }
    Some(8 * low)
}

/// What the driver may still allocate after the step's buffers, such as room for the kernels' code.
pub(super) const RESERVE: usize = 256 << 20;

/// Completes an out-of-memory error of a step: names the batch, and what would fit instead. `taken`: bytes that the
/// step has already allocated; `bytes`: as [`step_bytes`].
pub(super) fn advise(
    error: DeviceError,
    size: StepSize,
    taken: usize,
    bytes: impl Fn(StepSize) -> usize,
) -> DeviceError {
    let DeviceError::OutOfMemory { device, purpose, asked, free, held, .. } = error else { return error };
    let StepSize { batch, micro_batches, recompute, .. } = size;
    let advice = match free {
        None => "a smaller --batch needs less, and so do more --micro-batches".to_owned(),
        Some(free) => {
            let fits = |size| bytes(size).saturating_add(RESERVE) <= free + taken;
            let doubled = |count: &usize| count.checked_mul(2).filter(|count| batch.is_multiple_of(*count));
            let more = std::iter::successors(doubled(&micro_batches), doubled)
                .find(|&micro_batches| fits(StepSize { micro_batches, ..size }))
                .map(|count| format!("--micro-batches {count}"));
            match (micro_batches, more) {
                (1, more) => {
                    let one_pass =
                        what_fits(batch, recompute, |batch, mode| fits(StepSize::whole(batch, size.kept, mode)));
                    one_pass + &more.map_or_else(String::new, |more| format!("; the whole batch fits with {more}"))
                }
                (_, Some(more)) => format!("{more} fits"),
                _ if recompute != Recompute::Blocks && fits(StepSize { recompute: Recompute::Blocks, ..size }) => {
                    "--recompute blocks fits".to_owned()
                }
                _ => "a smaller --batch needs less".to_owned(),
            }
        }
    };
    let purpose = match micro_batches {
        1 => format!("{purpose} of a batch of {batch}"),
        count => format!("{purpose} of a batch of {batch} in {count} micro-batches"),
    };
    DeviceError::OutOfMemory { device, purpose, asked, free, held, advice: Some(advice) }
}

/// What to ask for instead of `batch`, which does not fit.
fn what_fits(batch: usize, recompute: Recompute, fits: impl Fn(usize, Recompute) -> bool) -> String {
    let largest = |recompute| {
        let fits = |smaller| smaller < batch && fits(smaller, recompute);
        largest_batch(fits).or_else(|| (1..8).rev().find(|&smaller| fits(smaller)))
    };
    let smaller = largest(recompute);
    // Recomputing all blocks needs the least memory.
    let blocks = match recompute {
        Recompute::Blocks => None,
        _ if fits(batch, Recompute::Blocks) => Some("--recompute blocks".to_owned()),
        _ => largest(Recompute::Blocks)
            .filter(|&with_blocks| Some(with_blocks) > smaller)
            .map(|with_blocks| format!("--recompute blocks with --batch {with_blocks}")),
    };
    match (smaller, blocks) {
        (Some(smaller), Some(blocks)) => format!("--batch {smaller} fits, and so does {blocks}"),
        (Some(smaller), None) => format!("--batch {smaller} fits"),
        (None, Some(blocks)) => format!("{blocks} fits"),
        (None, None) => "not even --batch 1 fits".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Cpu;
    use crate::model::Preset;

    #[test]
    fn the_error_says_what_fits() {
        let flip = Flip::new(&Preset::Tiny.config(), true);
        let bytes = |batch, recompute| step_bytes::<Cpu>(&flip, StepSize::whole(batch, 18, recompute));
        let of_size = |size: StepSize| match size.micro_batches {
            1 => bytes(size.batch, size.recompute),
            _ => usize::MAX,
        };
        let message = |batch, recompute, free| {
            let purpose = "activations".to_owned();
            let held = vec![("weights".to_owned(), 3 << 20), ("numbers".to_owned(), 40)];
            let asked = bytes(batch, recompute);
            let error = DeviceError::OutOfMemory { device: "cuda", purpose, asked, free, held, advice: None };
            advise(error, StepSize::whole(batch, 18, recompute), 0, of_size).to_string()
        };
        let free = |batch, recompute| Some(bytes(batch, recompute) + RESERVE);
        let [none, blocks] = [Recompute::None, Recompute::Blocks];
        let text = message(128, blocks, free(40, blocks));
        assert!(
            text.contains("MiB for activations of a batch of 128, ") && text.ends_with("; --batch 40 fits"),
            "{text}"
        );
        assert!(text.contains(" MiB are free (in use: weights 3.0 MiB)"), "{text}");
        let text = message(128, none, free(120, none));
        assert!(text.ends_with("; --batch 120 fits, and so does --recompute blocks"), "{text}");
        let text = message(1024, none, free(64, none));
        assert!(text.contains("; --batch 64 fits, and so does --recompute blocks with --batch "), "{text}");
        assert!(message(128, blocks, free(5, blocks)).ends_with("; --batch 5 fits"));
        assert!(message(128, none, Some(10)).ends_with("; not even --batch 1 fits"));
        // Less than a batch of 1 without recomputation.
        let text = message(128, none, free(1, none).map(|free| free - 1));
        assert!(text.contains("; --recompute blocks with --batch "), "{text}");
        assert!(message(128, none, None).ends_with("needs less, and so do more --micro-batches"));
    }
}
