//! A step in micro-batches by the kernels. The emulator reports reads of what was not written, and delivers uploads of
//! inputs as late as a GPU may.

use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::device::cuda::{ActType, Emulated, EmulatorOptions};
use flipk::device::{Cpu, Cuda};
use flipk::golden::Tolerances;
use flipk::model::{Flip, Loss};
use flipk::ops::AllOps;
use flipk::optim::AdamWConfig;
use flipk::profile::bytes_of_size;
use flipk::train::{Keep, StepOutcome, StepSize, Trainer};
use half::bf16;

use crate::harness::gpu;
use crate::recompute::config;
use crate::recording::batch;

const SIZE: StepSize =
    StepSize { batch: 12, kept: 8, recompute: Recompute::None, micro_batches: 1, ranks: 1, keep: Keep::One };

/// Outcomes and gradients of some steps, which are submitted before the ones before are computed.
fn train<D: AllOps>(device: &Arc<D>, loss: Loss, size: StepSize) -> (Vec<StepOutcome>, Vec<f32>) {
    let flip = Flip::with_loss(&config(), loss, true);
    let values = flip.layout().initial_values(2);
    let adamw = AdamWConfig { clip_norm: 0.5, ..AdamWConfig::default() };
    let mut trainer = Trainer::of_size(device.clone(), flip, &values, adamw, size).unwrap();
    let submit = |step| {
        let batch = batch(&config(), size.batch, size.kept, step);
        trainer.submit(&batch, 1e-3).unwrap_or_else(|error| panic!("{error}"))
    };
    let mut outcomes: Vec<_> = (0..3).filter_map(submit).collect();
    outcomes.extend(trainer.drain().unwrap());
    (outcomes, trainer.params().download_grads(&**device).unwrap())
}

fn emulated<T: ActType>(loss: Loss, size: StepSize) -> (Vec<StepOutcome>, Vec<f32>) {
    train(&gpu::<T>(EmulatorOptions::default()).0, loss, size)
}

fn assert_close(found: &(Vec<StepOutcome>, Vec<f32>), expected: &(Vec<StepOutcome>, Vec<f32>), tolerances: Tolerances) {
    for (found, expected) in found.0.iter().zip(&expected.0) {
        let off = found.loss / expected.loss - 1.0;
        assert!(off.abs() < tolerances.training_losses, "the loss is off by {off:e}");
    }
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut found.1.iter().zip(&expected.1).map(|(found, expected)| found - expected));
    let off = difference / norm(&mut expected.1.iter().copied());
    assert!(off < 3.0 * tolerances.gradients, "the last gradient is off by {off:e}");
}

#[test]
fn kernels_train_as_the_cpu_does_and_as_one_pass() {
    for loss in [Loss::Infonce, Loss::Sigmoid] {
        for micro_batches in [2, 3] {
            let size = StepSize { micro_batches, ..SIZE };
            let [found, again] = [0; 2].map(|_| emulated::<f32>(loss, size));
            assert!(found == again, "the same bits each time");
            assert_close(&found, &train(&Arc::new(Cpu::default()), loss, size), Tolerances::F32);
            assert_close(&found, &emulated::<f32>(loss, SIZE), Tolerances::F32);
        }
    }
}

#[test]
fn bf16_gives_the_same_bits_whatever_is_kept() {
    let size = StepSize { micro_batches: 3, ..SIZE };
    let [one, all, blocks] =
        [(Keep::One, Recompute::None), (Keep::All, Recompute::None), (Keep::One, Recompute::Blocks)]
            .map(|(keep, recompute)| emulated::<bf16>(Loss::Infonce, StepSize { keep, recompute, ..size }));
    assert!(one == all && one == blocks);
    assert!(one.0[2].loss != one.0[0].loss, "the steps do something");
    assert_close(&one, &emulated::<bf16>(Loss::Infonce, SIZE), Tolerances::BF16);
}

#[test]
fn a_step_takes_the_bytes_that_were_planned() {
    for keep in [Keep::One, Keep::All] {
        for micro_batches in [1, 2, 6] {
            let size = StepSize { micro_batches, keep, ..SIZE };
            let driver = Arc::new(Emulated::new(EmulatorOptions::default()));
            let device = Arc::new(Cuda::<bf16>::new(driver.clone()).unwrap());
            let flip = Flip::new(&config(), true);
            let values = flip.layout().initial_values(2);
            let trainer = Trainer::of_size(device, flip, &values, AdamWConfig::default(), size).unwrap();
            assert_eq!(driver.allocated(), bytes_of_size(&config(), size), "{size:?}");
            drop(trainer);
            assert_eq!(driver.allocated(), 0);
        }
    }
}
