//! The simulator against sums by hand, and its bytes against those that the trainer moves.

mod many_ranks;
#[cfg(feature = "emulator")]
mod sharded;

use std::sync::{Arc, Mutex};

use super::network::tests::ideal;
use super::times::tests::two_layers;
use super::*;
use crate::autograd::Recompute;
use crate::data::Batch;
use crate::device::Cpu;
use crate::group::{Exchange, Group, GroupError, Place, Threads, block_of};
use crate::model::{Loss, ModelConfig, Preset, TowerConfig};
use crate::optim::{AdamWConfig, Slices};
use crate::train::{Trainer, master_bytes};

const KEPT: usize = 2;

/// A small model; `vocab` sets the size of its arena.
fn small(vocab: usize, loss: Loss) -> Flip {
    let tower = TowerConfig::new(1, 64, 2);
    let sizes = ModelConfig { image_size: 16, context: 4, vocab, embed_dim: 16, ..Preset::Tiny.config() };
    Flip::with_loss(&ModelConfig { vision: tower, text: tower, ..sizes }, loss, true)
}

fn plan(flip: &Flip, network: Network) -> Plan<'_> {
    let times = two_layers();
    Plan {
        flip,
        size: StepSize::whole(times.batch, KEPT, Recompute::None),
        times,
        network,
        gpus: true,
        bf16_copy: true,
    }
}

/// The plan of ranks that are CPUs.
fn plan_on_cpus(flip: &Flip, rows: usize, ranks_per_node: usize) -> Plan<'_> {
    let mut plan = plan(flip, Network { ranks_per_node, ..ideal() });
    (plan.gpus, plan.bf16_copy) = (false, false);
    (plan.times.batch, plan.size.batch) = (rows, rows);
    plan
}

/// The rows of a rank.
fn batch(flip: &Flip, rows: usize, rank: usize) -> Batch {
    let pixels = KEPT * flip.config.patch_len();
    Batch {
        images: (0..rows * pixels).map(|at| (at * 7 + rank) as u8).collect(),
        tokens: (0..rows * 4).map(|at| (1 + at + 5 * rank) as i32 % 60).collect(),
        ids_keep: (0..rows).flat_map(|_| [0, 3]).collect(),
        ..Batch::default()
    }
}

/// A group that notes the bytes that its rank sends in each call.
#[derive(Debug)]
struct Counting {
    group: Threads,
    sent: Arc<Mutex<Vec<u64>>>,
}

impl Counting {
    fn note(&self, words: usize) {
        self.sent.lock().unwrap().push(4 * words as u64);
    }
}

impl Group for Counting {
    fn place(&self) -> Place {
        self.group.place()
    }
    fn describe(&self) -> String {
        self.group.describe()
    }
    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        self.note(block_of(self.rank(), block, all.len()).len() * (self.size() - 1));
        self.group.all_gather(all, block)
    }
    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        self.note(own.len());
        self.group.gather(own, all, block, len)
    }
    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        self.note(parts.len() - to[self.rank()]);
        self.group.start_all_to_all(parts, to, from)
    }
    fn broadcast(&self, words: &mut [u32]) -> Result<(), GroupError> {
        self.note(words.len());
        self.group.broadcast(words)
    }
    fn abort(&self, code: u8) {
        self.group.abort(code);
    }
}

/// What rank 0 of a trainer sends in a step, call by call, and its bytes of activations.
fn trained(ranks: usize, rows: usize, vocab: usize, loss: Loss) -> (Vec<u64>, usize) {
    let run = move |group: Threads| {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let group: Arc<dyn Group> = Arc::new(Counting { group, sent: sent.clone() });
        let flip = small(vocab, loss);
        let batch = batch(&flip, rows, group.rank());
        let values = flip.layout().initial_values(1);
        let size = StepSize { micro_batches: ranks, ..StepSize::whole(ranks * rows, KEPT, Recompute::None) };
        let device = Arc::new(Cpu::default());
        let adamw = AdamWConfig::default();
        let mut trainer = Trainer::in_group(device, flip, &values, adamw, size, group).unwrap();
        // The first call follows what the trainer exchanges before its first step.
        let before = sent.lock().unwrap().len();
        trainer.step(&batch, 1e-3).unwrap();
        let calls = sent.lock().unwrap()[before..].to_vec();
        (calls, trainer.activation_bytes(), trainer)
    };
    let group = Threads::on_machines(ranks, 2);
    let ranks: Vec<_> = group.into_iter().map(|group| std::thread::spawn(move || run(group))).collect();
    let mut found: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let (calls, activations, _) = found.remove(0);
    (calls, activations)
}

/// The trainer moves exactly the bytes of the formulas, and holds what is predicted; the larger arena has several
/// buckets.
#[test]
fn the_trainer_moves_the_bytes_that_are_simulated() {
    for (ranks, vocab, loss) in
        [(2, 100, Loss::Infonce), (4, 100, Loss::Infonce), (4, 100, Loss::Sigmoid), (2, 10_000, Loss::Infonce)]
    {
        let rows = 6;
        let flip = small(vocab, loss);
        let simulated = simulate(&plan_on_cpus(&flip, rows, 2), ranks);
        let (calls, activations) = trained(ranks, rows, vocab, loss);
        let of_loss = if loss == Loss::Infonce { 3 } else { 1 };
        let buckets = Slices::new(flip.layout().arena_len(), ranks).buckets().len();
        let levels = if ranks > 2 { 2 } else { 1 };
        assert_eq!(calls.len(), 2 + of_loss + levels * buckets + 1 + buckets, "{calls:?}");
        let mut calls = calls.into_iter();
        let mut next = |count: usize| calls.by_ref().take(count).sum::<u64>();
        let expected = [
            ("embeddings", next(2)),
            ("log-sum-exps and counts", next(of_loss)),
            ("gradients", next(levels * buckets)),
            ("gradient norm", next(1)),
            ("weights in f32", next(buckets)),
        ];
        let found: Vec<_> = simulated.sent.iter().map(|sent| (sent.kind, sent.bytes)).collect();
        assert_eq!(found, expected, "{ranks} ranks, {loss:?}");
        // Of two nodes of two: half of all goes to the other rank of the node, and half of its half to the other node.
        let between = simulated.sent_bytes().1;
        assert_eq!(between > 0, ranks > 2);
        let (gradients, slices) = (&simulated.sent[2], Slices::new(flip.layout().arena_len(), ranks));
        assert_eq!(gradients.between_nodes, if ranks > 2 { 4 * slices.own_len(2) as u64 } else { 0 });
        let held = |what| simulated.memory.iter().find(|held| held.what == what).map_or(0, |held| held.bytes);
        let inputs = rows * (KEPT * flip.config.patch_len() + 4 * (4 + KEPT));
        assert_eq!(held("activations") - inputs + held("gathered embeddings"), activations);
        assert_eq!(held("weights"), 4 * flip.layout().arena_len());
    }
}

/// A rank sends each other rank of its node the slices of a rank of each node, and then sums to the other nodes.
#[test]
fn slices_of_others_are_sent_in_two_levels() {
    let flip = small(10_000, Loss::Infonce);
    for ranks in [2, 6, 16, 200] {
        let slices = Slices::new(flip.layout().arena_len(), ranks);
        let steps = simulate(&plan(&flip, Network { ranks_per_node: 2, ..ideal() }), ranks);
        let sent = steps.sent.iter().find(|sent| sent.kind == "gradients").unwrap();
        let to =
            |ranks: &mut dyn Iterator<Item = usize>| 4 * ranks.map(|rank| slices.own_len(rank) as u64).sum::<u64>();
        let (within, between) = (to(&mut (1..ranks).step_by(2)), to(&mut (2..ranks).step_by(2)));
        assert_eq!((sent.bytes, sent.between_nodes), (within + between, between));
        let buffers = steps.memory.iter().find(|held| held.what == "exchange buffers").unwrap();
        let between = if ranks > 2 { ranks / 2 } else { 0 };
        let masters = ranks * master_bytes(flip.layout(), &slices).into_iter().max().unwrap();
        // Of two levels, the sums of the first are kept, too.
        assert_eq!(buffers.bytes, 4 * slices.largest() * (ranks + 2 * between) + masters);
    }
    // Nodes of three ranks are no subtrees, so all ranks exchange at once.
    let steps = simulate(&plan(&flip, Network { ranks_per_node: 3, ..ideal() }), 6);
    let slices = Slices::new(flip.layout().arena_len(), 6);
    assert_eq!(steps.sent[2].bytes, 4 * (1..6).map(|rank| slices.own_len(rank) as u64).sum::<u64>());
}

/// One layer, and so no overlap with the backward pass: by hand.
#[test]
fn a_step_is_the_sum_of_its_parts() {
    let flip = small(100, Loss::Infonce);
    let arena = flip.layout().arena_len() as f64;
    let network = Network { within: 1e4, latency: vec![Ring { base: 0.5, within: 0.0, between: 0.0 }], ..ideal() };
    let mut plan = plan(&flip, network);
    let layer = Layer { name: "text/block_00".to_owned(), seconds: 8.0, elements: flip.layout().arena_len() };
    plan.times.backward = vec![layer];
    let [two, alone] = [2, 1].map(|ranks| simulate(&plan, ranks));
    assert_eq!((alone.exposed_seconds, alone.efficiency), (0.0, 1.0));
    assert_eq!(alone.step_seconds, 3.0 + 1.0 + 0.25 + 0.5 + 8.0 + 1.0);
    // Each call takes half a second, and half of its bytes pass at 10,000 a second.
    let seconds = |bytes: f64| 0.5 + bytes / 2.0 / 1e4;
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    // Images' embeddings pass while the texts are embedded; gradients pass after the only layer.
    let embeddings = seconds(4.0 * 20.0 * 16.0);
    let lse = seconds(2.0 * 4.0 * 20.0 + 2.0 * 12.0);
    let slices = Slices::new(arena as usize, 2);
    let buckets: f64 = slices.buckets().iter().map(|bucket| seconds(4.0 * bucket.len() as f64)).sum();
    let sums = 1.5 * 4.0 * arena / plan.times.memory_rate;
    let norm = seconds(4.0 * 2.0 * slices.norm_blocks() as f64);
    let exposed = embeddings + lse + buckets + sums + norm;
    // The first weights are waited for, with their parameters in f32; 0.8 of the 4 s of the next forward pass hide the
    // others.
    let buckets = slices.buckets().iter().zip(master_bytes(flip.layout(), &slices));
    let weights: Vec<f64> =
        buckets.map(|(bucket, in_f32)| seconds(2.0 * bucket.len() as f64 + 2.0 * in_f32 as f64)).collect();
    let weights = weights[0].max(weights.iter().sum::<f64>() - 0.8 * 4.0);
    close(two.exposed_seconds, exposed + weights);
    // The update is halved.
    close(two.step_seconds, 13.75 - 0.5 + two.exposed_seconds);
    assert_eq!(two.samples_per_second, 20.0 / two.step_seconds);
    assert_eq!(two.samples_per_second_and_rank, 10.0 / two.step_seconds);
}

/// Without any cost of exchanges, ranks gain, since each updates its slice alone; they wait for the slowest if there is
/// jitter.
#[test]
fn an_ideal_network_costs_nothing() {
    let flip = small(100, Loss::Infonce);
    let found: Vec<_> = [1, 2, 8, 64].map(|ranks| simulate(&plan(&flip, ideal()), ranks)).into();
    assert!(found.windows(2).all(|pair| pair[0].efficiency < pair[1].efficiency));
    assert!(found[0].efficiency == 1.0 && found.iter().all(|step| step.exposed_seconds == 0.0));
    let step = 13.75 - 1.0 + 1.0 / 64.0;
    assert!((found[3].step_seconds - step).abs() < 1e-9);
    let jitter = simulate(&plan(&flip, Network { jitter: 0.1, ..ideal() }), 64);
    let waiting = 0.9 * 0.1 * (2.0 * f64::ln(64.0)).sqrt() * 12.75;
    assert!((jitter.step_seconds - step - waiting).abs() < 1e-9 && jitter.efficiency < 1.0);
}

/// A bucket of gradients passes while the layers below are computed, and slows them down by what it steals.
#[test]
fn gradients_pass_beside_the_backward_pass() {
    let flip = small(10_000, Loss::Infonce);
    let mut plan = plan(&flip, Network { ranks_per_node: 2, within: 100e6, steal: 0.5, ..ideal() });
    // The first layer completes the last bucket.
    let slices = Slices::new(flip.layout().arena_len(), 2);
    let len = slices.buckets().last().unwrap().len();
    plan.times.backward[0].elements = len;
    plan.times.backward[1].elements = slices.arena_len() - len;
    let step = simulate(&plan, 2);
    let spans: Vec<_> = step.spans.iter().filter(|span| span.what == "gradients").collect();
    assert_eq!(spans.len(), slices.buckets().len());
    let seconds = 4.0 * len as f64 * (0.5 / 100e6 + 1.5 / plan.times.memory_rate);
    assert!((spans[0].end - spans[0].start - seconds).abs() < 1e-9);
    let backward = step.spans.iter().find(|span| span.what == "vision/block_00 backward").unwrap();
    assert!((backward.end - backward.start - 6.0 - 0.5 * seconds).abs() < 1e-9);
    assert_eq!(spans[0].start, backward.start);
}

/// The numbers of a real network: more ranks never expose less time, and slower cards cost more.
#[test]
fn more_ranks_and_slower_cards_cost_more() {
    let flip = Flip::new(&Preset::B16.config(), true);
    let network = Network::built_in("h100-ib400").unwrap();
    let text = std::fs::read_to_string("benches/results/gpu-h200.json").unwrap();
    let source = Source::parse(&text).unwrap();
    let index = source.steps().iter().position(|step| *step == ("b16", 0.5, 1024)).unwrap();
    let measured = source.measured(index, &flip, 98).unwrap();
    let times = StepTimes::new(&measured, flip.layout(), 256);
    let size = StepSize::whole(256, 98, Recompute::None);
    let plan = Plan { flip: &flip, size, times, network, gpus: true, bf16_copy: true };
    let ranks = [2, 4, 8, 16, 64, 256, 1024];
    let steps = ranks.map(|ranks| simulate(&plan, ranks));
    assert!(steps.windows(2).all(|pair| pair[0].exposed_seconds <= pair[1].exposed_seconds));
    assert!(steps[2..].windows(2).all(|pair| pair[0].efficiency > pair[1].efficiency));
    let slower = Network { between: 12.5e9, ..plan.network.clone() };
    let slow = simulate(&Plan { network: slower, ..plan.clone() }, 256);
    assert!(slow.efficiency < steps[5].efficiency - 0.02);
    // Moments are divided, what is gathered grows.
    let held = |step: &Simulated, what| step.memory.iter().find(|held| held.what == what).unwrap().bytes;
    let moments = 8 * Slices::new(flip.layout().arena_len(), 256).own_len(0);
    assert_eq!(held(&steps[5], "moments"), moments);
    // Two of the batch in f32, and as much for their halves in f16.
    let gathered = held(&steps[5], "gathered embeddings") as f64 / (2 * 2 * 4 * 256 * 256 * 512) as f64;
    // Without CUDA, memory is planned as on a CPU, which needs no halves.
    let expected = if cfg!(feature = "cuda") { 1.0..1.2 } else { 0.5..0.6 };
    assert!(expected.contains(&gathered), "{gathered}");
    let (all, between) = steps[5].sent_bytes();
    assert!(between < all / 2);
}

/// The table in docs/performance.md.
#[test]
fn the_goals_for_many_gpus_are_met() {
    let text = std::fs::read_to_string("benches/results/gpu-h200.json").unwrap();
    let source = Source::parse(&text).unwrap();
    for (preset, name, kept, measured, ranks, batch, goal) in [
        (Preset::B16, "b16", 98, (0.5, 1024), 8, 1024, 0.97),
        (Preset::B16, "b16", 98, (0.5, 1024), 256, 256, 0.93),
        (Preset::B16, "b16", 49, (0.75, 1024), 8, 1024, 0.97),
        (Preset::B16, "b16", 49, (0.75, 1024), 256, 256, 0.90),
        (Preset::L16, "l16", 98, (0.5, 768), 8, 768, 0.97),
        (Preset::L16, "l16", 98, (0.5, 768), 256, 256, 0.96),
    ] {
        let flip = Flip::new(&preset.config(), true);
        let index = source.steps().iter().position(|step| *step == (name, measured.0, measured.1)).unwrap();
        let times = StepTimes::new(&source.measured(index, &flip, kept).unwrap(), flip.layout(), batch);
        let (size, network) = (StepSize::whole(batch, kept, Recompute::None), Network::built_in("h100-ib400").unwrap());
        let plan = Plan { flip: &flip, size, times, network, gpus: true, bf16_copy: true };
        let found = simulate(&plan, ranks).efficiency;
        assert!(found >= goal, "{name} at {} on {ranks}: {found}", measured.0);
    }
}

/// Estimated from `l16`, which has about a third of its work; an estimate of a model from itself changes
/// nothing.
#[test]
fn a_model_is_estimated_from_another_one() {
    let source = Source::parse(&std::fs::read_to_string("benches/results/gpu-h200.json").unwrap()).unwrap();
    let index = source.steps().iter().position(|step| *step == ("l16", 0.5, 768)).unwrap();
    let [l16, h14] = [Preset::L16, Preset::H14].map(|preset| Flip::new(&preset.config(), true));
    let alone = |measured: &Measured, flip: &Flip, batch| StepTimes::new(measured, flip.layout(), batch).alone();
    let measured = source.measured(index, &l16, 98).unwrap();
    let same = source.estimated(index, (&l16, 98), ("l16", &l16, 98)).unwrap();
    assert!((alone(&same, &l16, 768) / alone(&measured, &l16, 768) - 1.0).abs() < 1e-9);
    let estimated = source.estimated(index, (&l16, 98), ("h14", &h14, 128)).unwrap();
    assert!(estimated.estimated && estimated.model == "h14" && estimated.layers.contains("from l16"));
    let more = alone(&estimated, &h14, 768) / alone(&measured, &l16, 768);
    assert!((2.5..4.5).contains(&more), "{more}");
    for (ranks, goal) in [(8, 0.97), (256, 0.98)] {
        let times = StepTimes::new(&estimated, h14.layout(), 256);
        let (size, network) = (StepSize::whole(256, 128, Recompute::None), Network::built_in("h100-ib400").unwrap());
        let plan = Plan { flip: &h14, size, times, network, gpus: true, bf16_copy: true };
        let found = simulate(&plan, ranks).efficiency;
        assert!(found >= goal, "h14 on {ranks}: {found}");
    }
}

#[test]
fn each_span_has_its_bar() {
    let flip = small(100, Loss::Infonce);
    let plan = plan(&flip, Network { within: 1e9, ..ideal() });
    let steps = [2, 4].map(|ranks| simulate(&plan, ranks));
    let text = svg(&steps, "small & more");
    let spans: usize = steps.iter().map(|step| step.spans.len()).sum();
    assert_eq!(text.matches("<rect").count(), 1 + spans);
    assert!(text.contains("4 ranks") && text.contains("&amp;"));
}
