use std::sync::Arc;

use flipk::autograd::{Init, Layout, Parameters, Tape};
use flipk::device::Cpu;
use flipk::ops::pairwise::{IMAGE_CORRECT, LOSS, TEXT_CORRECT};

use crate::harness::{TOLERANCE, error, unit_rows};

/// Loss and both counts from the whole matrix of logits.
fn reference(images: &[f64], texts: &[f64], batch: usize, width: usize, logit_scale: f64) -> (f64, usize, usize) {
    let scale = logit_scale.clamp(0.0, 100f64.ln()).exp();
    let logit = |i: usize, j: usize| -> f64 {
        scale * (0..width).map(|k| images[i * width + k] * texts[j * width + k]).sum::<f64>()
    };
    let lse = |logits: Vec<f64>| {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln(), max)
    };
    let (mut loss, mut rows, mut columns) = (0.0, 0, 0);
    for i in 0..batch {
        let (row, most_row) = lse((0..batch).map(|j| logit(i, j)).collect());
        let (column, most_column) = lse((0..batch).map(|j| logit(j, i)).collect());
        loss += row + column - 2.0 * logit(i, i);
        rows += usize::from(logit(i, i) >= most_row);
        columns += usize::from(logit(i, i) >= most_column);
    }
    (loss / (2 * batch) as f64, rows, columns)
}

fn check(batch: usize, width: usize, logit_scale: f32) {
    let mut layout = Layout::default();
    let id = layout.add("logit_scale", &[1], Init::Constant(logit_scale), true);
    let layout = Arc::new(layout);
    let mut tape = Tape::<Cpu>::new(layout.clone());
    let (images, texts) = (tape.input_var(&[batch, width]), tape.input_var(&[batch, width]));
    let outcome = tape.contrastive(images, texts, id);
    let mut program = tape.train(Arc::new(Cpu::default())).unwrap();
    let mut parameters = Parameters::new(&Cpu::default(), layout.clone(), &layout.initial_values(0)).unwrap();
    let operands = [0, 1].map(|item| unit_rows(batch, width, item));
    program.write(images.slot(), &operands[0]).unwrap();
    program.write(texts.slot(), &operands[1]).unwrap();
    program.forward(&parameters).unwrap();
    program.backward(&mut parameters).unwrap();

    let mut exact = operands.map(|values| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>());
    let raw = f64::from(logit_scale);
    let (loss, rows, columns) = reference(&exact[0], &exact[1], batch, width, raw);
    let found = program.read(outcome).unwrap();
    assert!((f64::from(found[LOSS]) - loss).abs() < 1e-5 * loss.abs().max(1.0), "{} {loss}", found[LOSS]);
    assert_eq!((found[IMAGE_CORRECT] as usize, found[TEXT_CORRECT] as usize), (rows, columns));

    const STEP: f64 = 1e-5;
    for (operand, var) in [images, texts].into_iter().enumerate() {
        let grad = program.read(program.input_grad(var).unwrap()).unwrap();
        let (mut checked, mut expected) = (vec![], vec![]);
        for place in (0..grad.len()).step_by(grad.len().div_ceil(20)) {
            let mut at = |delta: f64| {
                exact[operand][place] += delta;
                let loss = reference(&exact[0], &exact[1], batch, width, raw).0;
                exact[operand][place] -= delta;
                loss
            };
            checked.push(grad[place]);
            expected.push((at(STEP) - at(-STEP)) / (2.0 * STEP));
        }
        let error = error(&checked, &expected);
        assert!(error < TOLERANCE, "operand {operand}: {error:e}");
    }
    let at = |delta: f64| reference(&exact[0], &exact[1], batch, width, raw + delta).0;
    let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
    let found = f64::from(parameters.download_grads(&Cpu::default()).unwrap()[0]);
    // Σ G ∘ L sums terms of both signs up to the temperature.
    assert!((found - expected).abs() < 1e-5 * raw.exp().clamp(1.0, 100.0), "{found} {expected}");
}

#[test]
fn one_pair_one_tile_and_odd_tiles() {
    check(1, 8, 1.0);
    check(7, 5, 2.0);
    check(128, 16, 2.659_26);
    check(131, 12, 3.0);
    check(260, 3, 1.0);
}

#[test]
fn a_temperature_outside_its_limits_is_held_and_gets_no_gradient() {
    check(9, 6, 5.0);
    check(9, 6, -0.5);
}
