//! Both losses over all pairs: infonce and sigmoid, on unit rows as the model makes them.

use std::sync::Arc;

use flipk::autograd::{Init, Layout, Parameters, Tape};
use flipk::device::Cpu;
use flipk::device::cuda::EmulatorOptions;
use flipk::ops::AllOps;
use half::bf16;

use crate::common::loss_in_parts;
use crate::harness::{assert_lean, error, gpu, normals, real};

#[derive(Clone, Copy, Debug)]
enum Loss {
    Infonce,
    Sigmoid,
}

/// `[batch, width]`, each row of length 1.
fn unit_rows(batch: usize, width: usize, item: u64) -> Vec<f32> {
    let mut rows = normals(batch * width, item);
    for row in rows.chunks_exact_mut(width) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x /= norm);
    }
    rows
}

/// The outcome, and the gradients of images, texts and scalars, in one part or in several.
fn run<D: AllOps>(
    device: Arc<D>,
    loss: Loss,
    sizes @ [batch, width, parts]: [usize; 3],
    logit_scale: f32,
) -> [Vec<f32>; 4] {
    let mut layout = Layout::default();
    let scale = layout.add("logit_scale", &[1], Init::Constant(logit_scale), true);
    let bias = layout.add("logit_bias", &[1], Init::Constant(-3.0), true);
    let layout = Arc::new(layout);
    let operands = [0, 1].map(|item| unit_rows(batch, width, item));
    if parts > 1 {
        let scalars = (scale, matches!(loss, Loss::Sigmoid).then_some(bias));
        return loss_in_parts(&*device, &layout, scalars, operands.each_ref().map(|rows| &rows[..]), sizes);
    }
    let mut tape = Tape::<D>::new(layout.clone());
    let (images, texts) = (tape.input_var(&[batch, width]), tape.input_var(&[batch, width]));
    let outcome = match loss {
        Loss::Infonce => tape.contrastive(images, texts, scale),
        Loss::Sigmoid => tape.sigmoid(images, texts, scale, bias),
    };
    let mut program = tape.train(device.clone()).unwrap();
    let mut params = Parameters::new(&*device, layout.clone(), &layout.initial_values(0)).unwrap();
    for (rows, var) in operands.iter().zip([images, texts]) {
        program.write(var.slot(), rows).unwrap();
    }
    program.forward(&params).unwrap_or_else(|error| panic!("{error}"));
    program.backward(&mut params).unwrap_or_else(|error| panic!("{error}"));
    let read = |slot| program.read(slot).unwrap();
    let grads = params.download_grads(&*device).unwrap();
    let scalars = match loss {
        Loss::Infonce => vec![grads[layout.get(scale).offset]],
        Loss::Sigmoid => vec![grads[layout.get(scale).offset], grads[layout.get(bias).offset]],
    };
    let gradient = |var| read(program.input_grad(var).unwrap());
    [read(outcome), gradient(images), gradient(texts), scalars]
}

/// What only makes sense for one type is an `f32` tape: the losses compute in f32 whatever the activations are.
fn check(loss: Loss, batch: usize, width: usize, logit_scale: f32) {
    check_in(&[None, Some(1), Some(2)], loss, [batch, width, 1], logit_scale);
}

/// In some orders of blocks and warps.
fn check_in(
    orders: &[Option<u64>],
    loss: Loss,
    sizes @ [batch, width, parts]: [usize; 3],
    logit_scale: f32,
) -> Vec<[Vec<f32>; 4]> {
    let expected = run(Arc::new(Cpu::default()), loss, sizes, logit_scale);
    let mut all = Vec::new();
    for &order in orders {
        // The cards with the least have 99 KiB, and these kernels have no smaller form.
        let options = EmulatorOptions { count: true, order, shared: Some(99 * 1024) };
        let (device, counts) = gpu::<bf16>(options);
        let found = run(device, loss, sizes, logit_scale);
        let name = format!("{loss:?}, {batch} x {width} in {parts}");
        assert_eq!(found[0][1..], expected[0][1..], "{name}: correct pairs");
        // f32 sums of terms of either sign up to the temperature.
        let temperature = f64::from(logit_scale.exp().clamp(1.0, 100.0));
        for (part, (found, expected)) in found.iter().zip(&expected).enumerate().filter(|(part, _)| *part < 3) {
            let error = error(&found[..], &expected[..]);
            assert!(error < 3e-6 * temperature.max(4.0), "{name}: part {part} is off by {error:e}");
        }
        for (found, expected) in found[3].iter().zip(&expected[3]) {
            assert!(f64::from(found - expected).abs() < 2e-5 * temperature, "{name}: {found}, not {expected}");
        }
        if width.is_multiple_of(8) && batch / parts >= 128 {
            let mut counts = counts();
            counts.retain(|kernel, _| ["halves", "lse", "rows", "gradient"].iter().any(|part| kernel.contains(part)));
            assert!(real() || counts.len() == 3);
            assert_lean(&counts);
        }
        all.push(found);
    }
    all
}

#[test]
fn infonce() {
    for (batch, width) in [(1, 8), (7, 5), (64, 96), (128, 3), (131, 100), (256, 64)] {
        check(Loss::Infonce, batch, width, 2.659_26);
    }
    check(Loss::Infonce, 9, 6, 5.0);
}

/// Blocks with tiles above and in front of others, both ways.
#[test]
fn infonce_of_many_tiles() {
    check_in(&[Some(3)], Loss::Infonce, [3460, 8, 1], 2.659_26);
}

#[test]
fn sigmoid() {
    for (batch, width) in [(1, 8), (7, 5), (64, 96), (131, 100), (256, 64)] {
        check(Loss::Sigmoid, batch, width, std::f32::consts::LN_10);
    }
    check(Loss::Sigmoid, 9, 6, -0.5);
}

/// Parts of less than a tile, of tiles, and between tiles, of which the last reaches beyond the tiles of the batch; in
/// several orders of blocks and warps, with the same bits.
#[test]
fn parts_of_a_batch() {
    for loss in [Loss::Infonce, Loss::Sigmoid] {
        for sizes in [[6, 5, 2], [24, 8, 3], [256, 64, 2], [528, 20, 4]] {
            let found = check_in(&[None, Some(1)], loss, sizes, 2.659_26);
            assert!(found.iter().all(|each| *each == found[0]), "{loss:?}, {sizes:?}");
        }
        check_in(&[Some(4)], loss, [9, 6, 3], 5.0);
    }
}
