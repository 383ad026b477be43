//! Where the steps of the towers' program are cut: between the parts, ranks wait for weights and start exchanges. If
//! the step is not captured as a whole, a device replays each part as a graph.

use std::ops::Range;

use crate::autograd::{Layout, Program};
use crate::device::Device;

pub(super) struct Cuts {
    /// Parts of the forward pass. One begins with the text tower.
    pub(super) forward: Vec<Range<usize>>,
    /// Parts of the backward pass. Each bucket's gradients are complete at the end of one.
    pub(super) backward: Vec<Range<usize>>,
    /// For each op, the last bucket of which it, or an op before it, reads weights.
    pub(super) reads: Vec<Option<usize>>,
    /// For each bucket, the number of steps after which its gradients are complete, if a rank's last micro-batch is
    /// computed by the program.
    pub(super) complete_after: Vec<usize>,
}

impl Cuts {
    /// Cuts for the exchange of `buckets`, of which there are none without an exchange.
    pub(super) fn new<D: Device>(
        program: &Program<D>,
        text_tower: usize,
        layout: &Layout,
        buckets: &[Range<usize>],
    ) -> Self {
        let (ops, steps) = (program.op_count(), program.steps().len());
        let reads = reads(program, layout, buckets);
        let complete_after = complete_after(program, layout, buckets);
        let waits = |op: &usize| *op == text_tower || reads[*op] != reads[op - 1];
        let forward = parts(0..ops, (1..ops).filter(waits));
        let backward = parts(ops..steps, complete_after.iter().rev().copied());
        Self { forward, backward, reads, complete_after }
    }
}

/// `whole`, cut at these places, which are in order; those outside are ignored.
fn parts(whole: Range<usize>, cuts: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut start = whole.start;
    let ends = cuts.filter(|cut| *cut < whole.end).chain([whole.end]);
    let parts = ends.map(|end| {
        let part = start..end;
        start = start.max(end);
        part
    });
    parts.filter(|part| !part.is_empty()).collect()
}

fn reads<D: Device>(program: &Program<D>, layout: &Layout, buckets: &[Range<usize>]) -> Vec<Option<usize>> {
    let bucket = |id| {
        let end = layout.get(id).range().end;
        buckets.iter().position(|bucket| end <= bucket.end)
    };
    let mut last = None;
    let last = |op| {
        last = last.max(program.params_of(op).filter_map(bucket).max());
        last
    };
    (0..program.op_count()).map(last).collect()
}

fn complete_after<D: Device>(program: &Program<D>, layout: &Layout, buckets: &[Range<usize>]) -> Vec<usize> {
    let mut steps = vec![0; buckets.len()];
    let specs = layout.specs().iter().enumerate();
    for (id, range) in specs.map(|(index, spec)| (layout.id(index), spec.range())) {
        for (bucket, steps) in buckets.iter().zip(&mut steps) {
            if range.start < bucket.end && bucket.start < range.end {
                *steps = program.complete_after(id).max(*steps);
            }
        }
    }
    // Buckets are exchanged in the order of their numbers, from the last one.
    for bucket in (1..steps.len()).rev() {
        steps[bucket - 1] = steps[bucket - 1].max(steps[bucket]);
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_whole() {
        let whole = 3..9;
        assert_eq!(parts(whole.clone(), [0, 3, 5, 5, 8, 9, 12].into_iter()), [3..5, 5..8, 8..9]);
        assert_eq!(parts(whole.clone(), [].into_iter()), [whole]);
    }
}
