//! The trainer of rank 0 among 256 ranks, of which the others are simulated.

use std::sync::{Arc, Mutex};

use super::{KEPT, batch, plan_on_cpus, simulate, small};
use crate::autograd::Recompute;
use crate::device::Cpu;
use crate::group::{Exchange, Group, GroupError, Place, block_of};
use crate::model::Loss;
use crate::ops::pairwise::OUTCOME_LEN;
use crate::optim::{AdamWConfig, Slices};
use crate::train::{StepSize, Trainer};

const RANKS: usize = 256;
const LOCAL: usize = 8;
const ROWS: usize = 2;

/// A call, and the words that rank 0 passes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    name: &'static str,
    words: usize,
    /// Those that go to other ranks.
    sent: usize,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// Rank 0. The others are assumed to send what it sends; their slices of the weights never change.
#[derive(Debug, Default)]
struct First {
    calls: Calls,
}

impl First {
    fn note(&self, name: &'static str, words: usize, sent: usize) {
        self.calls.lock().unwrap().push(Call { name, words, sent });
    }

    /// Notes an all-gather of `len` words.
    fn note_all_gather(&self, block: usize, len: usize) {
        let own = block_of(0, block, len).len();
        assert!(own > 0 && len <= RANKS * block, "blocks of {block} of {len} words");
        self.note("all-gather", own, own * (RANKS - 1));
    }
}

impl Group for First {
    fn place(&self) -> Place {
        Place { rank: 0, size: RANKS, local_rank: 0, local_size: LOCAL }
    }

    fn describe(&self) -> String {
        "a simulation".to_owned()
    }

    fn all_gather(&self, all: &mut [u32], block: usize) -> Result<(), GroupError> {
        self.note_all_gather(block, all.len());
        // Ranks tell each other their places before the first step.
        if block == 2 {
            let places = (0..RANKS).flat_map(|rank| [(rank % LOCAL) as u32, LOCAL as u32]);
            assert_eq!(all[..block], [0, LOCAL as u32]);
            all.iter_mut().zip(places).for_each(|(word, place)| *word = place);
        }
        Ok(())
    }

    fn gather(&self, own: &[u32], all: &mut [u32], block: usize, len: usize) -> Result<(), GroupError> {
        assert!(own.len() == block_of(0, block, len).len() && all.len() == len && len <= RANKS * block);
        self.note("gather", own.len(), 0);
        all[..own.len()].copy_from_slice(own);
        Ok(())
    }

    fn start_all_to_all(&self, parts: Vec<u32>, to: &[usize], from: &[usize]) -> Result<Box<dyn Exchange>, GroupError> {
        assert!(to.len() == RANKS && from.len() == RANKS && to.iter().sum::<usize>() == parts.len());
        assert!(from.iter().all(|from| *from == 0 || *from == to[0]), "each sends what rank 0 adds up: {from:?}");
        self.note("all-to-all", parts.len(), parts.len() - to[0]);
        let peers = from.iter().filter(|from| **from > 0).count();
        Ok(Box::new(Started { words: parts[..to[0]].repeat(peers), calls: self.calls.clone() }))
    }

    fn start_all_gather(&self, own: Vec<u32>, block: usize, len: usize) -> Result<Box<dyn Exchange>, GroupError> {
        assert_eq!(own.len(), block_of(0, block, len).len());
        self.note_all_gather(block, len);
        let words = own.iter().copied().cycle().take(len).collect();
        Ok(Box::new(Started { words, calls: self.calls.clone() }))
    }

    fn broadcast(&self, _: &mut [u32]) -> Result<(), GroupError> {
        Err(GroupError::Call { call: "broadcast", problem: "no step needs it".to_owned() })
    }
}

/// An exchange that is complete when it is waited for.
struct Started {
    words: Vec<u32>,
    calls: Calls,
}

impl Exchange for Started {
    fn poll(&mut self) -> Result<bool, GroupError> {
        Ok(false)
    }

    fn wait(self: Box<Self>) -> Result<Vec<u32>, GroupError> {
        self.calls.lock().unwrap().push(Call { name: "wait", words: self.words.len(), sent: 0 });
        Ok(self.words)
    }
}

/// The calls of a step of a model with a token table of many buckets are those that follow from the sizes, and move
/// the bytes that `flipk profile --ranks` predicts.
#[test]
fn the_first_of_256_ranks_makes_the_calls_that_are_simulated() {
    let flip = small(300_000, Loss::Infonce);
    let (batch, width, arena) = (batch(&flip, ROWS, 0), flip.config.embed_dim, flip.layout().arena_len());
    let simulated = simulate(&plan_on_cpus(&flip, ROWS, LOCAL), RANKS);
    let slices = Slices::new(arena, RANKS);
    let buckets = slices.buckets().len();
    assert!(buckets > 2, "{buckets}");
    let values = flip.layout().initial_values(1);
    let size = StepSize { micro_batches: RANKS, ..StepSize::whole(RANKS * ROWS, KEPT, Recompute::None) };
    let group = Arc::new(First::default());
    let taken = || std::mem::take(&mut *group.calls.lock().unwrap());
    let device = Arc::new(Cpu::default());
    let mut trainer = Trainer::in_group(device, flip, &values, AdamWConfig::default(), size, group.clone()).unwrap();
    assert_eq!(taken().len(), 1, "the places");
    let steps = [(); 2].map(|()| {
        let outcome = trainer.step(&batch, 1e-3).unwrap();
        // All pairs of the batch are compared: each image has the same text on every rank.
        assert!(outcome.loss > f64::ln(RANKS as f64) && outcome.grad_norm.is_finite(), "{outcome:?}");
        taken()
    });
    assert_eq!(steps[0], steps[1]);

    let started: Vec<Call> = steps[0].iter().copied().filter(|call| call.name != "wait").collect();
    let found: Vec<_> = started.iter().map(|call| (call.name, call.words)).collect();
    let mut expected =
        [ROWS * width, ROWS * width, ROWS, ROWS, OUTCOME_LEN].map(|words| ("all-gather", words)).to_vec();
    // Within the machine everything is sent, and between machines the slices of each one's first rank.
    for (bucket, range) in slices.buckets().iter().enumerate().rev() {
        assert!(slices.each(bucket) * RANKS >= range.len(), "slices cover the bucket");
        let between = (0..RANKS).step_by(LOCAL).map(|rank| slices.of(bucket, rank).len()).sum();
        expected.extend([("all-to-all", range.len()), ("all-to-all", between)]);
    }
    expected.push(("all-gather", 2 * slices.norm_blocks()));
    expected.extend((0..buckets).map(|bucket| ("all-gather", slices.of(bucket, 0).len())));
    assert_eq!(found, expected);
    assert_eq!(slices.buckets().iter().map(std::ops::Range::len).sum::<usize>(), arena);

    let mut calls = started.into_iter();
    let mut bytes = |count: usize| calls.by_ref().take(count).map(|call| 4 * call.sent as u64).sum::<u64>();
    let moved = [2, 3, 2 * buckets, 1, buckets].map(&mut bytes);
    assert_eq!(simulated.sent.iter().map(|sent| sent.bytes).collect::<Vec<_>>(), moved);

    // A checkpoint gets what this rank holds: moments of its slice, and the weights of it.
    let whole = trainer.download().unwrap().unwrap();
    assert_eq!(whole.0.len(), arena);
    let held: usize = taken().iter().map(|call| if call.name == "gather" { call.words } else { 0 }).sum();
    assert_eq!(held, 3 * slices.own_len(0));
    assert!(slices.own_len(0) <= arena / RANKS + buckets * crate::ops::adamw::NORM_BLOCK);
    let moments = simulated.memory.iter().find(|held| held.what == "moments").unwrap();
    assert_eq!(moments.bytes, 2 * 4 * slices.own_len(0));
}
