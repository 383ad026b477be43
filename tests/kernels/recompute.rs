//! Activations that are computed again, by the kernels. The emulator watches that none is read between its two lives.

use std::sync::Arc;

use flipk::autograd::Recompute;
use flipk::data::kept_patches;
use flipk::device::Cuda;
use flipk::device::cuda::{ActType, Emulated, EmulatorOptions};
use flipk::golden::Tolerances;
use flipk::model::{Flip, ModelConfig, Preset, TowerConfig};
use flipk::optim::AdamWConfig;
use flipk::profile::step_bytes;
use flipk::train::{StepOutcome, Trainer};
use half::bf16;

use crate::common::with_choices_of_open_clip;
use crate::harness::gpu;
use crate::recording::batch;

const MODES: [Recompute; 3] = [Recompute::None, Recompute::Cheap, Recompute::Blocks];

const BATCH: usize = 6;
const RATIO: f64 = 0.5;

pub fn config() -> ModelConfig {
    let tower = TowerConfig::new(3, 64, 2);
    ModelConfig {
        image_size: 32,
        patch_size: 8,
        vision: tower,
        text: TowerConfig { layers: 2, ..tower },
        context: 6,
        vocab: 40,
        embed_dim: 16,
        ..Preset::Tiny.config()
    }
}

fn trainer<T: ActType>(device: Arc<Cuda<T>>, config: &ModelConfig, mode: Recompute) -> Trainer<Cuda<T>> {
    let flip = Flip::new(config, true);
    let values = flip.layout().initial_values(2);
    let kept = kept_patches(config.patches(), RATIO);
    Trainer::new(device, flip, &values, AdamWConfig::default(), BATCH, kept, mode).unwrap()
}

/// Outcomes and gradients of some steps, of which all but the first are recorded calls.
fn train<T: ActType>(config: &ModelConfig, mode: Recompute) -> Vec<(StepOutcome, Vec<f32>)> {
    let (device, _) = gpu::<T>(EmulatorOptions::default());
    let mut trainer = trainer(device.clone(), config, mode);
    let mut step = |step| {
        let batch = batch(config, BATCH, kept_patches(config.patches(), RATIO), step);
        let outcome = trainer.step(&batch, 1e-3).unwrap_or_else(|error| panic!("{error}"));
        (outcome, trainer.params().download_grads(&device).unwrap())
    };
    (0..3).map(&mut step).collect()
}

#[test]
fn every_mode_gives_the_same_bits_in_f32() {
    for config in [config(), with_choices_of_open_clip(config())] {
        let [none, cheap, blocks] = MODES.map(|mode| train::<f32>(&config, mode));
        assert!(none[2].0.loss != none[0].0.loss, "the steps do something");
        assert!(none == cheap);
        assert!(none == blocks);
    }
}

/// In bf16 the GELU comes from the product's f32 sums forwards, and again from its rounded input, but for `blocks`,
/// which runs the product once more. So `cheap` has other roundings in the gradients of the second product of an MLP.
#[test]
fn blocks_gives_the_same_bits_in_bf16_and_cheap_nearly() {
    let [none, blocks] =
        [Recompute::None, Recompute::Blocks].map(|mode| train::<bf16>(&with_choices_of_open_clip(config()), mode));
    assert!(none == blocks);
    let [none, cheap, blocks] = MODES.map(|mode| train::<bf16>(&config(), mode));
    assert!(none == blocks);
    assert_eq!(none[0].0.loss, cheap[0].0.loss, "the forward pass is the same");
    let norm = |grads: &mut dyn Iterator<Item = f32>| grads.map(|grad| f64::from(grad).powi(2)).sum::<f64>().sqrt();
    let (exact, found) = (&none[0].1, &cheap[0].1);
    let off = norm(&mut exact.iter().zip(found).map(|(exact, found)| exact - found)) / norm(&mut exact.iter().copied());
    assert!(off > 0.0 && off < Tolerances::BF16.gradients, "the gradients are off by {off:e}");
}

#[test]
fn a_step_takes_the_bytes_that_were_planned() {
    for mode in MODES {
        let driver = Arc::new(Emulated::new(EmulatorOptions::default()));
        let device = Arc::new(Cuda::<bf16>::new(driver.clone()).unwrap());
        let trainer = trainer(device, &config(), mode);
        assert_eq!(driver.allocated(), step_bytes(&config(), RATIO, BATCH, mode), "{mode:?}");
        drop(trainer);
        assert_eq!(driver.allocated(), 0);
    }
}
