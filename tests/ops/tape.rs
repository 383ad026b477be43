//! What the tape itself does: tensors used twice, parameters used twice, threads.

use std::sync::Arc;

use flipk::autograd::{Activation, Parameters, Tape};
use flipk::device::Cpu;
use flipk::model::{Flip, ModelConfig, Preset};
use flipk::ops::layernorm::Norm;
use flipk::ops::linear::Weights;

use crate::harness::Case;

fn product(x: &[f64], weight: &[f64], width: usize) -> Vec<f64> {
    let row = |x: &[f64], output: usize| -> f64 { x.iter().zip(&weight[output * width..]).map(|(x, w)| x * w).sum() };
    x.chunks_exact(width).flat_map(|x| (0..width).map(|output| row(x, output)).collect::<Vec<_>>()).collect()
}

/// `x` feeds two branches, and one weight serves both: gradients of `x` and of the weight are sums of two.
#[test]
fn gradients_of_what_is_used_twice_are_summed() {
    let (rows, width) = (6, 5);
    let dense = |weight| Weights { weight, bias: None };
    Case { inputs: &[&[rows, width]], params: &[&[width, width], &[width], &[width]] }.check(
        |tape, x, p| {
            let once = tape.linear(x[0], dense(p[0]), None);
            let twice = tape.linear(once, dense(p[0]), None);
            // The sum of both branches is the stream; its gradient, in one buffer, belongs to `once` and to `twice`.
            tape.residual_layernorm(once, Some(twice), Norm { gamma: p[1], beta: p[2], eps: 1e-5 }).1
        },
        |operands| {
            let once = product(&operands[0], &operands[1], width);
            let twice = product(&once, &operands[1], width);
            let sum: Vec<f64> = once.iter().zip(&twice).map(|(a, b)| a + b).collect();
            let rows = sum.chunks_exact(width);
            rows.flat_map(|row| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let normal = move |x: &f64| (x - mean) / (variance + f64::from(1e-5f32)).sqrt();
                let scaled = row.iter().map(normal).zip(operands[2].iter().zip(&operands[3]));
                scaled.map(|(x, (gamma, beta))| x * gamma + beta).collect::<Vec<_>>()
            })
            .collect()
        },
    );
}

/// An op that changes its result's gradient in place (here the GELU's) must not spoil a buffer that another still
/// reads.
#[test]
fn a_shared_gradient_is_copied_before_it_is_changed() {
    let (rows, width) = (4, 3);
    let dense = |weight| Weights { weight, bias: None };
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    Case { inputs: &[&[rows, width], &[rows, width]], params: &[&[width, width], &[width], &[width]] }.check(
        |tape, x, p| {
            let plain = tape.linear(x[0], dense(p[0]), None);
            let bent = tape.linear(x[1], dense(p[0]), Some(Activation::GeluTanh));
            tape.residual_layernorm(plain, Some(bent), Norm { gamma: p[1], beta: p[2], eps: 1e-5 }).1
        },
        |operands| {
            let plain = product(&operands[0], &operands[2], width);
            let bent = product(&operands[1], &operands[2], width).into_iter().map(gelu);
            let sum: Vec<f64> = plain.iter().zip(bent).map(|(a, b)| a + b).collect();
            let rows = sum.chunks_exact(width);
            rows.flat_map(|row| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                let normal = move |x: &f64| (x - mean) / (variance + f64::from(1e-5f32)).sqrt();
                let scaled = row.iter().map(normal).zip(operands[3].iter().zip(&operands[4]));
                scaled.map(|(x, (gamma, beta))| x * gamma + beta).collect::<Vec<_>>()
            })
            .collect()
        },
    );
}

/// Loss bits and gradient bits of one step of a small model on `threads` threads.
fn step(threads: usize) -> (Vec<f32>, Vec<f32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let config = ModelConfig { image_size: 40, ..Preset::Tiny.config() };
        let (batch, kept) = (37, 13);
        let flip = Flip::new(&config, true);
        let mut tape = Tape::new(flip.layout().clone());
        let embedded = flip.record(&mut tape, batch, kept);
        let mut program = tape.train(Arc::new(Cpu::default())).unwrap();
        let mut params =
            Parameters::new(&Cpu::default(), flip.layout().clone(), &flip.layout().initial_values(1)).unwrap();
        let bytes: Vec<u8> = (0..batch * kept * config.patch_len()).map(|i| (i * 31 % 251) as u8).collect();
        let ids: Vec<u32> = (0..batch * kept).map(|i| (i * 7 % 25) as u32).collect();
        let tokens: Vec<i32> = (0..batch * config.context).map(|i| (i * 13 % 97) as i32).collect();
        program.write(embedded.inputs.images, &bytes).unwrap();
        program.write(embedded.inputs.ids_keep, &ids).unwrap();
        program.write(embedded.inputs.tokens, &tokens).unwrap();
        program.forward(&params).unwrap();
        program.backward(&mut params).unwrap();
        (program.read(embedded.outcome).unwrap(), params.download_grads(&Cpu::default()).unwrap())
    })
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let one = step(1);
    assert!(one.1.iter().any(|grad| *grad != 0.0));
    assert!(one == step(3), "three threads give other bits than one");
}
