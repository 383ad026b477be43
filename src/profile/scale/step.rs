//! The events of a step: what the ranks compute, and what they exchange meanwhile.

use std::ops::Range;

use serde::Serialize;

use super::traffic::{OUTCOME_BYTES, masters_bytes, norm_bytes};
use super::{Call, Plan, Size, levels};
use crate::optim::Slices;

/// Share of the next forward pass that can hide the gathering of weights. It is less than 1 because each layer needs
/// its weights before it starts; 0.8 is an estimate.
const FORWARD_THAT_HIDES: f64 = 0.8;
/// Share of a step's work that comes before its last exchange: jitter in it delays all ranks. An estimate.
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

/// The events of a step, in the order of `train/pass`, but with the gathering of weights that begins the next step at
/// the end of this one.
pub(super) fn events(plan: &Plan<'_>, ranks: usize) -> Clock {
    let (mut clock, times) = (Clock::default(), &plan.times);
    let slices = Slices::new(plan.flip.layout().arena_len(), ranks);
    let two_levels = levels(plan, ranks).0.len() > 1;
    let gather = |bytes: f64, size| match two_levels {
        _ if bytes == 0.0 => 0.0,
        true => plan.network.two_level(bytes, size, ranks),
        false => plan.network.one_level(Call::Gather, bytes, size, ranks),
    };
    let few = |bytes: f64| gather(bytes, Size::Small);
    let embeddings = gather(embedding_bytes(plan, ranks), Size::Large);
    let loss = times.loss_over(times.batch * ranks, plan.flip.config.embed_dim);
    clock.compute("vision forward", times.forward[0]);
    clock.start("images' embeddings", embeddings);
    clock.compute("text forward", times.forward[1]);
    clock.exchange("texts' embeddings", embeddings);
    clock.compute("loss forward", loss[0]);
    let lse = if needs_lse(plan) { 2.0 * lse_bytes(plan, ranks) } else { 0.0 };
    clock.exchange("log-sum-exps and counts", few(lse + (OUTCOME_BYTES * ranks) as f64));
    clock.compute("loss backward", loss[1]);
    backward(plan, &mut clock, &slices);
    clock.exchange("norm", few(norm_bytes(plan, ranks * slices.norm_blocks()) as f64));
    clock.compute("update", times.update / ranks as f64);
    let each = if plan.bf16_copy { 2.0 } else { 4.0 };
    let in_f32 = masters_bytes(plan, &slices).into_iter().map(|bytes| (ranks * bytes) as f64);
    let buckets = slices.buckets().iter().zip(in_f32);
    let weights: Vec<f64> =
        buckets.map(|(bucket, in_f32)| gather(each * bucket.len() as f64 + in_f32, Size::Large)).collect();
    let (first, all) = (weights.first().copied().unwrap_or(0.0), weights.iter().sum::<f64>());
    // On a GPU, the next forward pass starts with the first bucket; its ops are in the order of the arena.
    let hidden = if plan.gpus { FORWARD_THAT_HIDES * (times.forward[0] + times.forward[1]) } else { 0.0 };
    clock.exchange("weights", first.max(all - hidden));
    clock.compute("slower during the weights", (all - first).max(0.0).min(hidden) * plan.network.steal);
    clock
}

/// The backward pass, during which each bucket is exchanged once its layers are done.
fn backward(plan: &Plan<'_>, clock: &mut Clock, slices: &Slices) {
    let (times, network, ranks) = (&plan.times, &plan.network, slices.ranks());
    let levels = levels(plan, ranks);
    let exchange = |len: usize| {
        let bytes = 4.0 * len as f64;
        let moved = match levels.0.len() {
            1 => network.one_level(Call::Exchange, bytes, Size::Large, ranks),
            _ => network.two_level(bytes, Size::Large, ranks),
        };
        // On a GPU, the sums of a level read a row from each peer and write one. Through the host, parts are copied,
        // and sums are made of what arrives while it is in the caches.
        let (mut passes, mut part) = (if plan.gpus { 0.0 } else { 4.0 }, 1.0);
        for level in levels.0.iter().filter(|_| plan.gpus) {
            let row = part / level.peers.len() as f64;
            passes += part + row;
            part = row;
        }
        if ranks > 1 { moved + passes * bytes / times.memory_rate } else { 0.0 }
    };
    let mut buckets = slices.buckets().iter().rev().map(Range::len).peekable();
    let (mut ready, mut started, mut slower) = (0, 0, 0.0);
    for (index, layer) in times.backward.iter().enumerate() {
        clock.compute(&format!("{} backward", layer.name), layer.seconds + std::mem::take(&mut slower));
        ready += layer.elements;
        let is_last = index + 1 == times.backward.len();
        while let Some(len) = buckets.next_if(|len| is_last || started + len <= ready) {
            let seconds = exchange(len);
            clock.start("gradients", seconds);
            (started, slower) = (started + len, slower + if is_last { 0.0 } else { seconds * network.steal });
        }
    }
    clock.wait();
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
