//! The events of a step: what the ranks compute, and what they exchange meanwhile.

use serde::Serialize;

use super::traffic::{OUTCOME_BYTES, norm_bytes};
use super::{Call, Plan, Size};
use crate::ops::adamw::NORM_BLOCK;
use crate::optim::Slices;
use crate::train::exchange_piece;

/// Gradients that are exchanged at once, at least, in bytes.
pub(super) const BUCKET: usize = 25_000_000;
/// The share of the next forward pass under which weights can be gathered: the last layers must not wait for theirs.
const FORWARD_THAT_HIDES: f64 = 0.8;
/// The share of the jitter's work that ranks wait for: what comes after the last exchange is not waited for.
const WAITED: f64 = 0.9;

/// Where something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The device computes.
    Compute,
    /// Ranks exchange.
    Communication,
}

/// Something that happens for a while.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// Where.
    pub lane: Lane,
    /// For a reader.
    pub what: String,
    /// Seconds from the start of the step.
    pub start: f64,
    /// Seconds from the start of the step.
    pub end: f64,
}

/// A rank's two lanes. Exchanges follow each other, and so do computations.
#[derive(Default)]
pub(super) struct Clock {
    now: f64,
    /// When the last exchange ends.
    link: f64,
    exposed: f64,
    spans: Vec<Span>,
}

impl Clock {
    pub(super) fn now(&self) -> f64 {
        self.now
    }

    pub(super) fn exposed(&self) -> f64 {
        self.exposed
    }

    pub(super) fn into_spans(self) -> Vec<Span> {
        self.spans
    }

    fn span(&mut self, lane: Lane, what: &str, start: f64, end: f64) {
        if end > start {
            self.spans.push(Span { lane, what: what.to_owned(), start, end });
        }
    }

    fn compute(&mut self, what: &str, seconds: f64) {
        self.span(Lane::Compute, what, self.now, self.now + seconds);
        self.now += seconds;
    }

    /// Starts an exchange of what has been computed so far.
    fn start(&mut self, what: &str, seconds: f64) {
        let start = self.link.max(self.now);
        self.span(Lane::Communication, what, start, start + seconds);
        self.link = start + seconds;
    }

    /// Waits for all exchanges.
    fn wait(&mut self) {
        self.exposed += (self.link - self.now).max(0.0);
        self.now = self.now.max(self.link);
    }

    fn exchange(&mut self, what: &str, seconds: f64) {
        self.start(what, seconds);
        self.wait();
    }
}

/// Seconds that the average rank waits for the slowest: the expected maximum of as many normal variables is about
/// `σ √(2 ln ranks)`.
pub(super) fn waiting(plan: &Plan<'_>, ranks: usize) -> f64 {
    let spread = plan.network.jitter * (2.0 * (ranks as f64).ln()).sqrt();
    WAITED * spread * (plan.times.alone() - plan.times.update)
}

/// Bytes of the embeddings of all images.
fn embedding_bytes(plan: &Plan<'_>, ranks: usize) -> f64 {
    (4 * plan.times.batch * ranks * plan.flip.config.embed_dim) as f64
}

/// Bytes of the log-sum-exps of one side, for all pairs.
fn lse_bytes(plan: &Plan<'_>, ranks: usize) -> f64 {
    (4 * plan.times.batch * ranks) as f64
}

fn needs_lse(plan: &Plan<'_>) -> bool {
    plan.flip.loss_scalars().1.is_none()
}

/// What the trainer does (`train/pass`): one thing after the other.
pub(super) fn as_it_is(plan: &Plan<'_>, ranks: usize) -> Clock {
    let (mut clock, times, network) = (Clock::default(), &plan.times, &plan.network);
    let call = |call, bytes: f64, size| network.one_level(call, bytes, size, ranks);
    let gather = |bytes: f64| call(Call::Gather, bytes, Size::Large);
    let few = |bytes: f64| call(Call::Gather, bytes, Size::Small);
    let loss = times.loss_over(times.batch * ranks, plan.flip.config.embed_dim);
    clock.compute("vision forward", times.forward[0]);
    clock.compute("text forward", times.forward[1]);
    clock.exchange("images' embeddings", gather(embedding_bytes(plan, ranks)));
    clock.exchange("texts' embeddings", gather(embedding_bytes(plan, ranks)));
    clock.compute("loss forward", loss[0]);
    let lse = if needs_lse(plan) { 2.0 * few(lse_bytes(plan, ranks)) } else { 0.0 };
    clock.exchange("log-sum-exps and counts", lse + few((OUTCOME_BYTES * ranks) as f64));
    clock.compute("loss backward", loss[1]);
    for layer in &times.backward {
        clock.compute(&format!("{} backward", layer.name), layer.seconds);
    }
    let arena = plan.flip.layout().arena_len();
    if ranks > 1 {
        let slices = Slices::new(arena, ranks);
        let piece = exchange_piece(slices, ranks, plan.gpus);
        let calls = slices.each().div_ceil(piece);
        let each = call(Call::Exchange, (4 * piece * ranks) as f64, Size::Large);
        clock.exchange("gradients", calls as f64 * each);
        let passes = match plan.gpus {
            // Additions read two numbers and write one; the sum is copied.
            true => slices.each() * (3 * (ranks - 1) + 2),
            // Parts are copied together, and what arrives is read.
            false => 3 * calls * piece * ranks,
        };
        clock.compute("sum of gradients", 4.0 * passes as f64 / times.memory_rate);
        clock.exchange("norm", few(norm_bytes(plan, arena.div_ceil(NORM_BLOCK)) as f64));
    }
    clock.compute("update", times.update / ranks as f64);
    clock.exchange("weights", gather(4.0 * arena as f64));
    if plan.bf16_copy {
        clock.exchange("weights in bf16", gather(2.0 * arena as f64));
    }
    clock
}

/// What is planned: exchanges run under the computation, which they slow down, within nodes and then between them.
pub(super) fn overlapped(plan: &Plan<'_>, ranks: usize) -> Clock {
    let (mut clock, times, network) = (Clock::default(), &plan.times, &plan.network);
    let move_bytes = |bytes: f64| network.two_level(bytes, Size::Large, ranks);
    let loss = times.loss_over(times.batch * ranks, plan.flip.config.embed_dim);
    clock.compute("vision forward", times.forward[0]);
    clock.start("images' embeddings", move_bytes(embedding_bytes(plan, ranks)));
    clock.compute("text forward", times.forward[1]);
    clock.exchange("texts' embeddings", move_bytes(embedding_bytes(plan, ranks)));
    clock.compute("loss forward", loss[0]);
    let lse = if needs_lse(plan) { 2.0 * lse_bytes(plan, ranks) } else { 0.0 };
    let few = network.two_level(lse + (OUTCOME_BYTES * ranks) as f64, Size::Small, ranks);
    clock.exchange("log-sum-exps and counts", few);
    clock.compute("loss backward", loss[1]);
    let (mut ready, mut slower) = (0, 0.0);
    for (index, layer) in times.backward.iter().enumerate() {
        clock.compute(&format!("{} backward", layer.name), layer.seconds + std::mem::take(&mut slower));
        ready += 4 * layer.elements;
        if ready >= BUCKET || index + 1 == times.backward.len() {
            let seconds = move_bytes(ready as f64);
            clock.start("gradients", seconds);
            (ready, slower) = (0, seconds * network.steal);
        }
    }
    clock.wait();
    clock.compute("update", times.update / ranks as f64);
    let weights = if plan.bf16_copy { 2.0 } else { 4.0 } * plan.flip.layout().arena_len() as f64;
    let (all, first) = (move_bytes(weights), move_bytes(weights.min(BUCKET as f64)));
    let hidden = FORWARD_THAT_HIDES * (times.forward[0] + times.forward[1]);
    clock.exchange("weights", first.max(all - hidden));
    // The rest runs under the next forward pass.
    clock.compute("slower beside the weights", (all - first).max(0.0).min(hidden) * network.steal);
    clock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_run_beside_the_computation_until_it_waits() {
        let mut clock = Clock::default();
        clock.compute("a", 2.0);
        clock.start("of a", 3.0);
        clock.compute("b", 1.0);
        // The link is busy until 5.
        clock.start("of b", 1.0);
        assert_eq!((clock.now(), clock.exposed()), (3.0, 0.0));
        clock.wait();
        assert_eq!((clock.now(), clock.exposed()), (6.0, 3.0));
        clock.exchange("c", 0.5);
        assert_eq!((clock.now(), clock.exposed()), (6.5, 3.5));
        let ends: Vec<f64> = clock.into_spans().iter().map(|span| span.end).collect();
        assert_eq!(ends, [2.0, 5.0, 3.0, 6.0, 6.5]);
    }
}
