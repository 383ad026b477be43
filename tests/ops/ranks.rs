//! Several ranks, as threads of one process: the same bits as one process that computes all micro-batches.

use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::device::Cpu;
use flipk::group::{Alone, Group, Threads};
use flipk::model::{Flip, Loss};
use flipk::optim::{AdamWConfig, Moments};
use flipk::train::{Keep, StepOutcome, StepSize, Trainer};

use crate::micro_batches::{BATCH, batch, config};

/// What a run leaves.
#[derive(Debug, PartialEq)]
struct Left {
    outcomes: Vec<StepOutcome>,
    weights: Vec<f32>,
    moments: Moments,
}

const STEPS: u64 = 3;

/// Trains as one rank; what is left is on rank 0. Weights are compared on every rank.
fn rank(group: Arc<dyn Group>, loss: Loss, size: StepSize) -> (Vec<f32>, Option<Left>) {
    let flip = Flip::with_loss(&config(), loss, true);
    let values = flip.layout().initial_values(1);
    // A norm that clips: it is that of the whole gradient.
    let adamw = AdamWConfig { clip_norm: 0.5, ..AdamWConfig::default() };
    let (own, of) = (group.rank(), group.size());
    let mut trainer = Trainer::in_group(Arc::new(Cpu::default()), flip, &values, adamw, size, group).unwrap();
    let step = |step| trainer.step(&batch(size.kept, step).part(own, of), 1e-3).unwrap();
    let outcomes = (0..STEPS).map(step).collect();
    let left = trainer.download().unwrap().map(|(weights, moments)| Left { outcomes, weights, moments });
    (trainer.params().download_values(&Cpu::default()).unwrap(), left)
}

/// What `ranks` ranks leave, `local` of them on each machine.
fn run(ranks: usize, local: usize, loss: Loss, size: StepSize) -> Left {
    let start = |group: Threads| std::thread::spawn(move || rank(Arc::new(group), loss, size));
    let ranks: Vec<_> = Threads::on_machines(ranks, local).into_iter().map(start).collect();
    let mut ranks: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
    let (first, left) = ranks.remove(0);
    let left = left.unwrap();
    assert!(first == left.weights, "a checkpoint has the weights of rank 0");
    assert!(ranks.iter().all(|(weights, left)| *weights == first && left.is_none()), "ranks differ");
    left
}

#[test]
fn any_number_of_ranks_leaves_the_same_bits() {
    for loss in [Loss::Infonce, Loss::Sigmoid] {
        let whole = StepSize::whole(BATCH, 12, Recompute::None);
        for (micro_batches, numbers) in [(8, [1, 2, 4, 8]), (12, [3, 6, 12, 3])] {
            for keep in [Keep::All, Keep::One] {
                let size = StepSize { micro_batches, keep, ..whole };
                let expected = run(numbers[0], numbers[0], loss, size);
                assert_eq!(expected.outcomes.len(), STEPS as usize);
                for &ranks in &numbers[1..] {
                    // On one machine, or on several with two ranks each.
                    let local = if keep == Keep::One && ranks % 2 == 0 { 2 } else { ranks };
                    assert!(
                        run(ranks, local, loss, size) == expected,
                        "{loss:?}, {micro_batches} on {ranks} ranks, {local} a machine, {keep:?}"
                    );
                }
            }
        }
        // A group of one is no group.
        let size = StepSize { micro_batches: 8, ..whole };
        assert!(rank(Arc::new(Alone), loss, size).1.unwrap() == run(4, 4, loss, size));
    }
}

#[test]
fn a_rank_holds_the_moments_of_its_slice_alone() {
    let flip = Flip::with_loss(&config(), Loss::Infonce, true);
    let len = flip.layout().arena_len();
    let slices = flipk::optim::Slices::new(len, 4);
    let held: Vec<usize> = (0..4).map(|rank| slices.own_len(rank)).collect();
    assert_eq!(held.iter().sum::<usize>(), len);
    let buckets = slices.buckets().len();
    assert!(held.iter().all(|held| *held <= len / 4 + buckets * (1 << 14)), "{held:?}");
}

#[test]
fn ranks_that_do_not_divide_the_micro_batches_are_refused() {
    let size = StepSize { micro_batches: 4, ..StepSize::whole(BATCH, 12, Recompute::None) };
    let group: Arc<dyn Group> = Arc::new(Threads::group(3).remove(0));
    let flip = Flip::with_loss(&config(), Loss::Infonce, true);
    let values = flip.layout().initial_values(1);
    let made = Trainer::in_group(Arc::new(Cpu::default()), flip, &values, AdamWConfig::default(), size, group);
    assert!(made.err().unwrap().to_string().contains("4 micro-batches on 3 ranks"));
}
