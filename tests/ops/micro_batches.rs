//! A step in micro-batches against one pass over the batch.

use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::data::{Batch, kept_patches};
use flipk::device::Cpu;
use flipk::model::{Flip, Loss, ModelConfig, Preset};
use flipk::optim::AdamWConfig;
use flipk::random::{Purpose, Random};
use flipk::train::{Keep, MicroBatches, StepOutcome, StepSize, Trainer};

pub const BATCH: usize = 24;

pub fn config() -> ModelConfig {
    ModelConfig { image_size: 40, ..Preset::Tiny.config() }
}

pub fn batch(kept: usize, step: u64) -> Batch {
    let (config, mut random) = (config(), Random::new(5, Purpose::Test, step, 0));
    let visible = |random: &mut Random| random.permutation(config.patches()).into_iter().take(kept).collect::<Vec<_>>();
    Batch {
        images: (0..BATCH * kept * config.patch_len()).map(|_| random.below(256) as u8).collect(),
        tokens: (0..BATCH * config.context).map(|_| random.below(97) as i32).collect(),
        ids_keep: (0..BATCH).flat_map(|_| visible(&mut random)).collect(),
        samples: vec![0; BATCH],
        ..Batch::default()
    }
}

#[derive(PartialEq)]
struct Ran {
    outcome: StepOutcome,
    grads: Vec<f32>,
    embeddings: [Vec<f32>; 2],
}

fn trainer(loss: Loss, size: StepSize) -> Trainer<Cpu> {
    let flip = Flip::with_loss(&config(), loss, true);
    let values = flip.layout().initial_values(1);
    // A norm that clips: it is that of the whole gradient.
    let adamw = AdamWConfig { clip_norm: 0.5, ..AdamWConfig::default() };
    Trainer::of_size(Arc::new(Cpu::default()), flip, &values, adamw, size).unwrap()
}

/// Some steps, and the weights after them.
fn run(loss: Loss, size: StepSize) -> (Vec<Ran>, Vec<f32>) {
    let mut trainer = trainer(loss, size);
    let step = |step| {
        let outcome = trainer.step(&batch(size.kept, step), 1e-3).unwrap();
        let grads = trainer.params().download_grads(&Cpu::default()).unwrap();
        Ran { outcome, grads, embeddings: trainer.embeddings().unwrap() }
    };
    let ran = (0..2).map(step).collect();
    (ran, trainer.download().unwrap().unwrap().0)
}

/// The difference of all numbers together, relative to `expected`.
fn off(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(expected).map(|(found, expected)| found - expected))
        / norm(&mut expected.iter().copied())
}

/// In f32, sums in another order.
const TOLERANCE: f64 = 1e-5;

#[test]
fn the_gradient_is_that_of_the_whole_batch() {
    for (loss, ratio) in [Loss::Infonce, Loss::Sigmoid].into_iter().flat_map(|loss| [0.0, 0.5, 0.75].map(|r| (loss, r)))
    {
        let size = StepSize::whole(BATCH, kept_patches(config().patches(), ratio), Recompute::None);
        let (whole, _) = run(loss, size);
        for micro_batches in [2, 3, 4, 8, 24] {
            let (found, _) = run(loss, StepSize { micro_batches, ..size });
            let name = format!("{loss:?}, ratio {ratio}, {micro_batches} micro-batches");
            for (step, (found, whole)) in found.iter().zip(&whole).enumerate() {
                let (grads, loss) = (off(&found.grads, &whole.grads), found.outcome.loss / whole.outcome.loss - 1.0);
                // The second step's weights differ by what the first one's roundings made of AdamW's signs.
                let tolerance = if step == 0 { TOLERANCE } else { 30.0 * TOLERANCE };
                assert!(grads < tolerance && loss.abs() < tolerance, "{name}, step {step}: {grads:e}, {loss:e}");
                let norm = found.outcome.grad_norm / whole.outcome.grad_norm - 1.0;
                assert!(norm.abs() < tolerance, "{name}, step {step}: the norm is off by {norm:e}");
                for (found, whole) in found.embeddings.iter().zip(&whole.embeddings) {
                    assert!(off(found, whole) < tolerance, "{name}");
                }
            }
            assert_eq!(found[0].outcome.accuracy, whole[0].outcome.accuracy, "{name}");
        }
    }
}

/// Whatever is kept or recomputed, the bits are the same.
#[test]
fn what_is_kept_changes_no_bit() {
    for loss in [Loss::Infonce, Loss::Sigmoid] {
        let size = StepSize { micro_batches: 3, keep: Keep::One, ..StepSize::whole(BATCH, 12, Recompute::None) };
        let expected = run(loss, size);
        assert!(expected.0[0].outcome.loss != expected.0[1].outcome.loss, "the steps do something");
        for keep in [Keep::One, Keep::All, Keep::Auto] {
            for recompute in [Recompute::None, Recompute::Cheap, Recompute::Blocks] {
                let found = run(loss, StepSize { keep, recompute, ..size });
                assert!(found == expected, "{loss:?}, {keep:?}, {recompute:?}");
            }
        }
    }
}

/// There is room for all micro-batches of a small model.
#[test]
fn all_are_kept_if_they_fit() {
    let (flip, device) = (Flip::new(&config(), true), Arc::new(Cpu::default()));
    let runs_twice = |keep| {
        let size = StepSize { micro_batches: 3, keep, ..StepSize::whole(BATCH, 12, Recompute::None) };
        MicroBatches::new(device.clone(), &flip, size).unwrap().runs_forward_twice()
    };
    assert_eq!([Keep::One, Keep::All, Keep::Auto].map(runs_twice), [true, false, false]);
}

#[test]
fn one_micro_batch_needs_less_memory_than_all() {
    let size = StepSize { keep: Keep::One, ..StepSize::whole(BATCH, 12, Recompute::None) };
    let bytes = |size| trainer(Loss::Infonce, size).activation_bytes();
    let [whole, one, all] = [(1, Keep::One), (8, Keep::One), (8, Keep::All)]
        .map(|(micro_batches, keep)| bytes(StepSize { micro_batches, keep, ..size }));
    assert!(one * 5 < whole && all * 10 > whole * 9, "{one} and {all} of {whole}");
    let flops = |micro_batches| trainer(Loss::Infonce, StepSize { micro_batches, ..size }).step_flops();
    assert_eq!(flops(1), flops(8), "the model's work is the same");
}

#[test]
fn what_cannot_be_divided_is_an_error() {
    let flip = Flip::new(&config(), true);
    let values = flip.layout().initial_values(1);
    let size = StepSize { micro_batches: 5, ..StepSize::whole(BATCH, 12, Recompute::None) };
    let made = Trainer::of_size(Arc::new(Cpu::default()), flip, &values, AdamWConfig::default(), size);
    let error = made.err().unwrap().to_string();
    assert!(error.contains("a batch of 24 in 5 equal micro-batches"), "{error}");
}
