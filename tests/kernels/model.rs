//! Whole models: embeddings, loss and every gradient of a FLIP in emulation against the CPU, at sizes with other
//! kernels.

use std::sync::Arc;

use flipk::autograd::{Parameters, Tape};
use flipk::data::cut_patches;
use flipk::device::Cpu;
use flipk::device::cuda::{ActType, EmulatorOptions};
use flipk::golden::Tolerances;
use flipk::model::{Flip, ModelConfig, Preset, TowerConfig};
use flipk::ops::AllOps;
use flipk::random::{Purpose, Random};
use half::bf16;

use crate::harness::gpu;

struct Found {
    images: Vec<f32>,
    texts: Vec<f32>,
    loss: f32,
    grads: Vec<(String, Vec<f32>)>,
}

fn run<D: AllOps>(device: &Arc<D>, config: &ModelConfig, batch: usize, kept: usize) -> Found {
    let flip = Flip::new(config, true);
    let layout = flip.layout().clone();
    // Weights that bf16 holds exactly: what differs is what is computed.
    let values: Vec<f32> = layout.initial_values(3).iter().map(|value| bf16::from_f32(*value).to_f32()).collect();
    let mut params = Parameters::new(&**device, layout.clone(), &values).unwrap();
    let mut tape = Tape::<D>::new(layout.clone());
    let embedded = flip.record(&mut tape, batch, kept);
    let mut program = tape.train(device.clone()).unwrap();
    let mut random = Random::new(1, Purpose::Test, 0, 0);
    let pixels = config.image_size.pow(2) * 3;
    let images: Vec<u8> = (0..batch * pixels).map(|_| random.below(256) as u8).collect();
    let tokens: Vec<i32> = (0..batch * config.context).map(|_| random.below(config.vocab as u32) as i32).collect();
    let ids: Vec<u32> = (0..batch)
        .flat_map(|_| random.permutation(config.patches()).into_iter().take(kept).collect::<Vec<_>>())
        .collect();
    let visible = images.chunks_exact(pixels).zip(ids.chunks_exact(kept));
    let visible = visible.flat_map(|(image, ids)| cut_patches(image, config.image_size, config.patch_size, ids));
    program.write(embedded.inputs.images, &visible.collect::<Vec<_>>()).unwrap();
    program.write(embedded.inputs.tokens, &tokens).unwrap();
    program.write(embedded.inputs.ids_keep, &ids).unwrap();
    program.forward(&params).unwrap_or_else(|error| panic!("{error}"));
    program.backward(&mut params).unwrap_or_else(|error| panic!("{error}"));
    let grads = params.download_grads(&**device).unwrap();
    Found {
        images: program.read(embedded.images.slot()).unwrap(),
        texts: program.read(embedded.texts.slot()).unwrap(),
        loss: program.read(embedded.outcome).unwrap()[0],
        grads: layout.specs().iter().map(|spec| (spec.name.clone(), grads[spec.range()].to_vec())).collect(),
    }
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

fn compare<T: ActType>(name: &str, config: &ModelConfig, batch: usize, kept: usize, expected: &Found) {
    let (device, _) = gpu::<T>(EmulatorOptions::default());
    let (found, tolerances) = (run(&device, config, batch, kept), Tolerances::for_device(&*device));
    for (found, expected) in [(&found.images, &expected.images), (&found.texts, &expected.texts)] {
        let off = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert!(off <= tolerances.embeddings, "{name}: an embedding is off by {off:e}");
    }
    let off = f64::from((found.loss - expected.loss).abs() / expected.loss);
    assert!(off <= tolerances.loss, "{name}: the loss is off by {off:e}");
    let largest = expected.grads.iter().map(|(_, grad)| norm(grad.iter().copied())).fold(0.0, f64::max);
    for ((parameter, found), (_, expected)) in found.grads.iter().zip(&expected.grads) {
        // The third of a packed bias that belongs to the keys has no gradient in exact arithmetic.
        let size = norm(expected.iter().copied()).max(1e-2 * largest);
        let off = norm(found.iter().zip(expected).map(|(a, b)| a - b)) / size;
        assert!(off <= tolerances.gradients, "{name}, {}: the gradient of {parameter} is off by {off:e}", T::SUFFIX);
    }
}

fn check(name: &str, config: &ModelConfig, batch: usize, kept: usize) {
    let expected = run(&Arc::new(Cpu::default()), config, batch, kept);
    compare::<f32>(name, config, batch, kept, &expected);
    compare::<bf16>(name, config, batch, kept, &expected);
}

fn config(image_size: usize, patch_size: usize, vision: [usize; 3], text: [usize; 3]) -> ModelConfig {
    let tower = |[layers, width, heads]: [usize; 3]| TowerConfig::new(layers, width, heads);
    let (vision, text) = (tower(vision), tower(text));
    ModelConfig { image_size, patch_size, vision, text, context: 9, vocab: 50, embed_dim: 24, ..Preset::Tiny.config() }
}

#[test]
fn models_of_other_sizes() {
    check("patch 14, head dim 80", &config(56, 14, [2, 160, 2], [1, 64, 1]), 6, 8);
    check("odd head dims", &config(24, 8, [1, 48, 2], [2, 40, 5]), 5, 9);
    let giant = config(24, 8, [1, 176, 2], [1, 104, 1]);
    let odd = |tower: TowerConfig, mlp_width| TowerConfig { mlp_width: Some(mlp_width), ..tower };
    let giant = ModelConfig { vision: odd(giant.vision, 767), text: odd(giant.text, 453), ..giant };
    check("head dims 88 and 104, odd MLPs", &giant, 5, 9);
    check("deep", &config(32, 16, [4, 64, 1], [1, 32, 1]), 9, 2);
}
