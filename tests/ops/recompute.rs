//! What is computed again instead of kept: the same bits, in less memory.

use std::sync::Arc;

use flipk::autograd::{Activation, Init, Layout, Parameters, Recompute, Step, Tape};
use flipk::data::Batch;
use flipk::device::Cpu;
#[cfg(feature = "cuda")]
use flipk::device::Cuda;
use flipk::model::{Flip, ModelConfig, Preset};
#[cfg(feature = "cuda")]
use flipk::ops::AllOps;
use flipk::ops::layernorm::Norm;
use flipk::ops::linear::Weights;
use flipk::optim::AdamWConfig;
use flipk::train::Trainer;
#[cfg(feature = "cuda")]
use half::bf16;

use crate::common::with_choices_of_open_clip;
use crate::harness::normals;

const MODES: [Recompute; 3] = [Recompute::None, Recompute::Cheap, Recompute::Blocks];

const BATCH: usize = 21;
const KEPT: usize = 11;

fn tiny(mode: Recompute) -> (ModelConfig, Trainer<Cpu>) {
    trainer(ModelConfig { image_size: 40, ..Preset::Tiny.config() }, mode)
}

fn trainer(config: ModelConfig, mode: Recompute) -> (ModelConfig, Trainer<Cpu>) {
    let flip = Flip::new(&config, true);
    let values = flip.layout().initial_values(1);
    let trainer =
        Trainer::new(Arc::new(Cpu::default()), flip, &values, AdamWConfig::default(), BATCH, KEPT, mode).unwrap();
    (config, trainer)
}

fn batch(config: &ModelConfig, step: usize) -> Batch {
    Batch {
        images: (0..BATCH * KEPT * config.patch_len()).map(|i| ((i + step) * 31 % 251) as u8).collect(),
        ids_keep: (0..BATCH * KEPT).map(|i| ((i + step) * 7 % 25) as u32).collect(),
        tokens: (0..BATCH * config.context).map(|i| ((i + step) * 13 % 97) as i32).collect(),
        samples: vec![0; BATCH],
        ..Batch::default()
    }
}

#[test]
fn every_mode_trains_to_the_same_bits() {
    let flip = ModelConfig { image_size: 40, ..Preset::Tiny.config() };
    let clip = with_choices_of_open_clip(flip.clone());
    [flip, clip].into_iter().for_each(trains_to_the_same_bits);
}

fn trains_to_the_same_bits(config: ModelConfig) {
    let run = |mode| {
        let (config, mut trainer) = trainer(config.clone(), mode);
        let mut steps = Vec::new();
        for step in 0..4 {
            let outcome = trainer.step(&batch(&config, step), 1e-3).unwrap();
            steps.push((outcome, trainer.params().download_grads(&Cpu::default()).unwrap()));
        }
        (steps, trainer.download().unwrap(), trainer.step_flops())
    };
    let [none, cheap, blocks] = MODES.map(run);
    assert!(none.0[3].0.loss != none.0[0].0.loss && none.0[0].1.iter().any(|grad| *grad != 0.0));
    assert!(none == cheap);
    assert!(none == blocks);
}

/// Of each block its two normalisations, the products whose results the backward pass reads, and attention; the GELU
/// alone where its input is kept. Of the text's last block also the first tokens of what attention made.
#[test]
fn no_more_is_computed_again_than_is_read() {
    let again = |mode| {
        let (_, trainer) = tiny(mode);
        let program = trainer.program();
        let name = |step: &Step| match *step {
            Step::Recompute { op, cheap } => Some((program.op(op).0, cheap)),
            _ => None,
        };
        let made: Vec<_> = program.steps().iter().filter_map(name).collect();
        let count = |what| made.iter().filter(|made| **made == what).count();
        let known =
            [("layernorm", true), ("linear", true), ("linear", false), ("attention", false), ("select_token", false)];
        let counted = known.map(count);
        assert_eq!(counted.iter().sum::<usize>(), made.len(), "{made:?}");
        counted
    };
    // Four blocks see, one reads.
    assert_eq!(MODES.map(again), [[0; 5], [10, 5, 0, 0, 0], [10, 0, 10, 5, 1]]);
}

#[cfg(feature = "cuda")]
fn record<D: AllOps>(preset: Preset, batch: usize, mode: Recompute) -> Tape<D> {
    let flip = Flip::new(&preset.config(), true);
    let mut tape = Tape::new(flip.layout().clone());
    tape.recompute(mode);
    flip.record(&mut tape, batch, preset.config().patches() / 2);
    tape
}

#[cfg(feature = "cuda")]
#[test]
fn memory_falls_by_what_is_not_kept() {
    let bytes = |mode| record::<Cuda<bf16>>(Preset::B16, 64, mode).training_bytes();
    let [none, cheap, blocks] = MODES.map(bytes);
    // Widths of a token that a block keeps: 16 (of which the MLP has 8), 10, and 2.
    assert!(cheap * 10 < none * 7, "{cheap} of {none}");
    assert!(blocks * 5 < none, "{blocks} of {none}");
    let inference =
        |mode| record(Preset::Tiny, 8, mode).inference(Arc::new(Cpu::default())).unwrap().activation_bytes();
    let [none, cheap, blocks] = MODES.map(inference);
    assert!(none == cheap && none == blocks, "an inference tape has nothing to compute again");
}

/// Blocks of another make than the model's: nothing in the first is kept, so that one revival asks for the next, and
/// its result is read by two ops of the second.
#[test]
fn chains_of_dropped_results_are_made_again() {
    let (batch, tokens, width) = (3, 5, 8);
    let mut layout = Layout::default();
    let mut param = |shape: &[usize]| layout.add("p", shape, Init::Normal { std: 0.5 }, true);
    let mut dense = |outputs| Weights { weight: param(&[outputs, width]), bias: Some(param(&[outputs])) };
    let (first, second, third) = (dense(width), dense(3 * width), dense(width));
    let norm = Norm { gamma: param(&[width]), beta: param(&[width]), eps: 1e-5 };
    let layout = Arc::new(layout);
    let run = |mode| {
        let mut tape = Tape::<Cpu>::new(layout.clone());
        tape.recompute(mode);
        let x = tape.input_var(&[batch, tokens, width]);
        let attended = tape.block(|tape| {
            let bent = tape.linear(x, first, Some(Activation::GeluExact));
            let normal = tape.layernorm(bent, norm);
            let qkv = tape.linear(normal, second, None);
            tape.attention(qkv, 2, true)
        });
        let out = tape.block(|tape| {
            let bent = tape.linear(attended, third, Some(Activation::GeluTanh));
            tape.residual_layernorm(attended, Some(bent), norm).1
        });
        tape.retain(out.slot());
        let mut seed = None;
        let mut program = tape.train_from(Arc::new(Cpu::default()), |plan| seed = Some(plan.seed(out))).unwrap();
        let mut params = Parameters::new(&Cpu::default(), layout.clone(), &layout.initial_values(2)).unwrap();
        program.write(x.slot(), &normals(batch * tokens * width, 0)).unwrap();
        program.forward(&params).unwrap();
        program.write(seed.unwrap(), &normals(batch * tokens * width, 1)).unwrap();
        program.backward(&mut params).unwrap();
        let dx = program.read(program.input_grad(x).unwrap()).unwrap();
        let again = program.steps().iter().filter(|step| matches!(step, Step::Recompute { .. })).count();
        (again, program.read(out.slot()).unwrap(), dx, params.download_grads(&Cpu::default()).unwrap())
    };
    let [none, cheap, blocks] = MODES.map(run);
    assert!(none.2.iter().any(|grad| *grad != 0.0));
    assert!(none.0 < cheap.0 && cheap.0 < blocks.0, "{} {} {}", none.0, cheap.0, blocks.0);
    let results = |(_, out, dx, grads): (usize, Vec<f32>, Vec<f32>, Vec<f32>)| (out, dx, grads);
    let [none, cheap, blocks] = [none, cheap, blocks].map(results);
    assert!(none == cheap);
    assert!(none == blocks);
}
